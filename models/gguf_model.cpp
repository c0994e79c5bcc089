#include "models/gguf_model.h"
#include <climits>
#include <cmath>
#include <cstring>
#include "core/json.h"

namespace merv {
namespace {

constexpr int kControl = 3, kUserDefined = 4, kUnused = 5;      // token types

std::string architecture(const Gguf& g) {
    const std::string name = g.text("general.architecture");
    if (name != "llama" && name != "qwen2") fail(Exit::bad_weights, g.path(), ": the architecture ", brief(name, 40), " is not supported; llama and qwen2 are");
    return name;
}

// An id that may be absent, or written as -1 in unsigned; -1: not said.
int id_of(const Gguf& g, const char* name, int64_t tokens) {
    const int64_t id = g.integer(concat("tokenizer.ggml.", name, "_token_id"), INT64_MIN, INT64_MAX, -1);
    return id >= 0 && id < tokens ? int(id) : -1;
}

ByteBpe byte_bpe(const Gguf& g, const std::vector<std::string_view>& tokens, const std::vector<int32_t>& types) {
    using Split = ByteBpe::Split;
    ByteBpe::Parts p;
    const std::string pre = g.text("tokenizer.ggml.pre");
    const bool llama3 = pre == "llama-bpe" || pre == "llama3" || pre == "llama-v3";
    if (llama3) p.steps = {{Split::llama3}}, p.ignore_merges = true;
    else if (pre == "qwen2") p.steps = {{Split::qwen2}}, p.nfc = true;
    else if (pre == "smollm") p.steps = {{Split::digits}, {Split::gpt2}};
    else if (pre == "gpt-2") p.steps = {{Split::gpt2}};
    else fail(Exit::bad_weights, g.path(), ": tokenizer.ggml.pre is ", brief(pre, 40), ", which is not supported; llama-bpe, qwen2, smollm and gpt-2 are");
    for (size_t i = 0; i < tokens.size(); i++) {
        p.tokens.emplace_back(types[i] == kUnused ? "" : tokens[i]);            // rows of the model that no text has
        if (types[i] == kControl || types[i] == kUserDefined) p.added.push_back({.id = int64_t(i), .text = p.tokens.back(), .special = types[i] == kControl});
    }
    for (const std::string_view m : g.texts("tokenizer.ggml.merges")) {
        const size_t space = m.find(' ');
        if (space == m.npos) fail(Exit::bad_weights, g.path(), ": tokenizer.ggml.merges holds '", brief(m, 60), "', which is not two tokens and a space");
        p.merges.emplace_back(m.substr(0, space), m.substr(space + 1));
    }
    if (p.merges.empty()) fail(Exit::bad_weights, g.path(), ": tokenizer.ggml.merges is missing");
    p.bos = id_of(g, "bos", int64_t(tokens.size())), p.eos = id_of(g, "eos", int64_t(tokens.size()));
    p.adds_bos = g.boolean("tokenizer.ggml.add_bos_token", llama3);
    return ByteBpe::build(std::move(p), g.path());
}

SentencePiece sentencepiece(const Gguf& g, const std::vector<std::string_view>& tokens, const std::vector<int32_t>& types) {
    const std::vector<float> scores = g.numbers("tokenizer.ggml.scores");
    if (scores.size() != tokens.size()) fail(Exit::bad_weights, g.path(), ": ", tokens.size(), " tokens, but ", scores.size(), " in tokenizer.ggml.scores");
    std::vector<SentencePiece::Entry> entries;
    for (size_t i = 0; i < tokens.size(); i++) entries.push_back({tokens[i], scores[i], types[i]});
    const auto count = int64_t(tokens.size());
    return SentencePiece::build(entries, g.boolean("tokenizer.ggml.add_space_prefix", true), id_of(g, "bos", count), id_of(g, "eos", count), g.path());
}

}

// The settings go through the reader of Hugging Face's config.json, which checks every size.
LlamaConfig gguf_config(const Gguf& g) {
    const std::string arch = architecture(g);
    auto key = [&](const char* name) { return arch + "." + name; };
    auto integer = [&](const char* name, std::optional<int64_t> fallback = {}) { return g.integer(key(name), 0, INT32_MAX, fallback); };
    const auto embedding = g.tensors().find("token_embd.weight");
    if (embedding == g.tensors().end() || embedding->second.shape.size() != 2) fail(Exit::bad_weights, g.path(), ": no table token_embd.weight");
    if (integer("expert_count", 0) > 0) fail(Exit::bad_weights, g.path(), ": a mixture of experts is not supported");
    const int64_t heads = integer("attention.head_count"), width = integer("embedding_length");
    Json c{{"model_type", arch}, {"vocab_size", embedding->second.shape[0]}, {"hidden_size", width}, {"num_hidden_layers", integer("block_count")},
           {"num_attention_heads", heads}, {"num_key_value_heads", integer("attention.head_count_kv", heads)}, {"intermediate_size", integer("feed_forward_length")},
           {"max_position_embeddings", integer("context_length")}, {"rms_norm_eps", g.number(key("attention.layer_norm_rms_epsilon"), 0, 1)},
           {"rope_theta", g.number(key("rope.freq_base"), 1, 1e12, 10000)}, {"tie_word_embeddings", g.tensors().count("output.weight") == 0},
           {"attention_bias", arch == "llama" && g.tensors().count("blk.0.attn_output.bias") != 0}};
    if (g.has(key("attention.key_length"))) c["head_dim"] = integer("attention.key_length");
    if (g.text(key("rope.scaling.type"), "none") != "none")
        c["rope_scaling"] = {{"type", g.text(key("rope.scaling.type"))}, {"factor", g.number(key("rope.scaling.factor"), 1, 1e6)}};
    const int64_t tokens = embedding->second.shape[0];
    for (const char* name : {"bos", "pad"}) if (const int id = id_of(g, name[0] == 'b' ? "bos" : "padding", tokens); id >= 0) c[concat(name, "_token_id")] = id;
    for (const char* name : {"eos", "eot"}) if (const int id = id_of(g, name, tokens); id >= 0) c["eos_token_id"].push_back(id);

    LlamaConfig config = parse_llama_config(c.dump(), g.path());
    if (const int64_t rotated = integer("rope.dimension_count", config.head_dim); rotated != config.head_dim)
        fail(Exit::bad_weights, g.path(), ": rope.dimension_count is ", rotated, " of ", config.head_dim, "; rotating part of a head is not supported");
    if (const int64_t values = integer("attention.value_length", config.head_dim); values != config.head_dim)
        fail(Exit::bad_weights, g.path(), ": attention.value_length is ", values, ", keys have ", config.head_dim, "; that is not supported");
    if (g.tensors().count("rope_freqs.weight")) {
        const Tensor divisors = g.tensor("rope_freqs.weight");
        if (divisors.dtype() != DType::f32 || divisors.shape() != Shape{config.head_dim / 2})
            fail(Exit::bad_weights, g.path(), ": rope_freqs.weight is ", divisors, "; f32(", config.head_dim / 2, ") is expected");
        config.rope_divisors = to_floats(divisors);
        for (float d : config.rope_divisors) if (!(d > 0 && std::isfinite(d))) fail(Exit::bad_weights, g.path(), ": rope_freqs.weight holds ", d);
    }
    return config;
}

Tokenizer gguf_tokenizer(const Gguf& g) {
    const std::string model = g.text("tokenizer.ggml.model");
    const std::vector<std::string_view> tokens = g.texts("tokenizer.ggml.tokens");
    if (tokens.empty() || tokens.size() > size_t(INT_MAX)) fail(Exit::bad_weights, g.path(), ": tokenizer.ggml.tokens is missing");
    std::vector<int32_t> types = g.integers("tokenizer.ggml.token_type");
    if (types.empty()) types.assign(tokens.size(), 1);
    if (types.size() != tokens.size()) fail(Exit::bad_weights, g.path(), ": ", tokens.size(), " tokens, but ", types.size(), " in tokenizer.ggml.token_type");
    if (model == "gpt2") return byte_bpe(g, tokens, types);
    if (model == "llama") return sentencepiece(g, tokens, types);
    fail(Exit::bad_weights, g.path(), ": tokenizer.ggml.model is ", brief(model, 40), ", which is not supported; llama and gpt2 are");
}

std::string gguf_name(const std::string& p) {
    constexpr std::pair<const char*, const char*> parts[] = {
        {"self_attn.q_proj", "attn_q"}, {"self_attn.k_proj", "attn_k"}, {"self_attn.v_proj", "attn_v"}, {"self_attn.o_proj", "attn_output"}, {"mlp.gate_proj", "ffn_gate"},
        {"mlp.up_proj", "ffn_up"}, {"mlp.down_proj", "ffn_down"}, {"input_layernorm", "attn_norm"}, {"post_attention_layernorm", "ffn_norm"}};
    if (p == "model.embed_tokens.weight") return "token_embd.weight";
    if (p == "model.norm.weight") return "output_norm.weight";
    if (p == "lm_head.weight") return "output.weight";
    const std::string layers = "model.layers.";
    const size_t number = layers.size(), part = p.find('.', number) + 1, last = p.rfind('.');
    CHECK(p.starts_with(layers) && last > part, "gguf_name: ", p);
    for (const auto& [ours, theirs] : parts)
        if (p.substr(part, last - part) == ours) return "blk." + p.substr(number, part - number) + theirs + p.substr(last);
    CHECK(false, "gguf_name: ", p);
    return "";
}

Tensor halves_from_pairs(const Tensor& x, int64_t heads) {
    const int64_t rows = x.dim(0), d = rows / heads;
    const size_t bytes = x.bytes() / size_t(rows);
    Tensor y(x.shape(), x.dtype());
    for (int64_t h = 0; h < heads; h++)
        for (int64_t i = 0; i < d; i++) std::memcpy(y.raw() + size_t(h * d + i % 2 * (d / 2) + i / 2) * bytes, x.raw() + size_t(h * d + i) * bytes, bytes);
    return y;
}
bool gguf_rotates_pairs(const Gguf& g) { return architecture(g) == "llama"; }

}
