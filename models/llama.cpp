#include "models/llama.h"
#include <algorithm>
#include <cmath>
#include "core/cuda.h"

namespace merv {

LlamaLayer::LlamaLayer(const LlamaConfig& c)
    : input_norm(c.width, c.eps), post_norm(c.width, c.eps), q(c.width, int64_t(c.heads) * c.head_dim, c.qkv_bias), k(c.width, int64_t(c.kv_heads) * c.head_dim, c.qkv_bias),
      v(c.width, int64_t(c.kv_heads) * c.head_dim, c.qkv_bias), o(int64_t(c.heads) * c.head_dim, c.width, c.o_bias), gate(c.width, c.mlp, false),
      up(c.width, c.mlp, false), down(c.mlp, c.width, false), heads(c.heads), kv_heads(c.kv_heads), head_dim(c.head_dim) {}

Tensor LlamaLayer::operator()(const Tensor& x, const Tensor& cos, const Tensor& sin, const nn::Lengths& lengths, KvCache* cache, size_t layer) const {
    const int64_t M = x.dim(0), start = cache ? cache->length : 0, kv_width = int64_t(kv_heads) * head_dim;
    const Tensor n = input_norm(x, lengths);                                                            // (M, C)
    Tensor rq = q(n, {.lengths = lengths}).reshape({M, heads, head_dim}), rk = k(n, {.lengths = lengths}).reshape({M, kv_heads, head_dim}), rv = v(n, {.lengths = lengths});
    if (cache) {
        CHECK(lengths.size() <= 1, "llama: a cache holds one sequence, not ", lengths.size());
        rq = nn::rope_append(rq, rk, rv.reshape(rk.shape()), cos, sin, start, cache->k[layer], cache->v[layer]);
        rk = cache->k[layer], rv = cache->v[layer];
    } else {
        rq = nn::rope(rq, cos, sin, lengths), rk = nn::rope(rk, cos, sin, lengths).reshape({M, kv_width});
    }
    nn::AttentionArgs args{.q = rq.reshape({M, int64_t(heads) * head_dim}), .k = rk, .v = rv, .heads = heads, .kv_heads = kv_heads, .head_dim = head_dim, .mask = nn::Mask::causal};
    if (cache) args.queries = nn::Layout::contiguous(1, M), args.keys = nn::Layout::contiguous(1, start + M);
    else args.lengths = lengths;
    const Tensor h = o(nn::attention(args), {.residual = x, .lengths = lengths});                       // (M, C)
    const Tensor m = post_norm(h, lengths);                                                             // (M, C)
    return down(gate(m, {.act = nn::Act::silu, .gate = up(m, {.lengths = lengths}), .lengths = lengths}), {.residual = h, .lengths = lengths});       // (M, C)
}

Llama::Llama(const LlamaConfig& c) : config(c), embed_tokens(Tensor::declare({c.vocab, c.width})), layers(size_t(c.layers)), norm(c.width, c.eps) {
    for (LlamaLayer& l : layers) l = LlamaLayer(c);
    if (!c.tied) lm_head = nn::Linear(c.width, c.vocab, false);
}

KvCache Llama::cache(int64_t capacity) const {
    MemTag tag("kv cache");
    KvCache cache;
    for (size_t i = 0; i < layers.size(); i++) {
        cache.k.emplace_back(Shape{capacity, int64_t(config.kv_heads) * config.head_dim}, dtype);
        cache.v.emplace_back(Shape{capacity, int64_t(config.kv_heads) * config.head_dim}, dtype);
    }
    std::tie(cache.cos, cache.sin) = rope_tables(config, capacity);
    return cache;
}

Tensor Llama::embed(std::span<const int32_t> ids) const { return nn::embedding(embed_tokens, from_ints(ids), dtype); }

Tensor Llama::forward(const Tensor& embeds, KvCache& cache) const {
    CHECK(embeds.shape().rank() == 2 && embeds.dim(1) == config.width && cache.length + embeds.dim(0) <= cache.capacity(),
          "llama: input ", embeds, " at position ", cache.length, " of ", cache.capacity());
    Tensor x = embeds;                                                                                  // (N, C)
    const profile::Range range(embeds.dim(0) > 1 ? "prefill" : "decode");
    for (size_t i = 0; i < layers.size(); i++) { const profile::Range layer("unit"); x = layers[i](x, cache.cos, cache.sin, {}, &cache, i); }
    cache.length += embeds.dim(0);
    return x;
}

Tensor Llama::forward(const Tensor& embeds, const nn::Lengths& lengths) const {
    CHECK(embeds.shape().rank() == 2 && embeds.dim(1) == config.width && !lengths.empty(), "llama: input ", embeds, " as ", lengths.size(), " sequences");
    const auto [cos, sin] = rope_tables(config, *std::max_element(lengths.begin(), lengths.end()));
    Tensor x = embeds;
    for (const LlamaLayer& l : layers) x = nn::run_unit(x, [layer = &l, cos = cos, sin = sin, lengths](const Tensor& h) { return (*layer)(h, cos, sin, lengths); });
    return x;
}

Tensor Llama::loss(const Tensor& hidden, const nn::Lengths& lengths, std::span<const int32_t> labels, int64_t count, bool every_row) const {
    CHECK(int64_t(labels.size()) == hidden.dim(0), "llama: ", labels.size(), " labels for ", hidden);
    std::vector<int32_t> rows, wanted;
    int64_t end = 0;
    for (int64_t n : lengths) {
        end += n;
        for (int64_t i = end - n; i < end; i++) {
            const int32_t next = i + 1 < end ? labels[size_t(i + 1)] : nn::kIgnore;
            if (every_row || next != nn::kIgnore) rows.push_back(int32_t(i)), wanted.push_back(next);
        }
    }
    CHECK(end == hidden.dim(0), "llama: sequences of ", end, " rows in all for ", hidden);
    const Tensor asked = norm(nn::gather_rows(hidden, from_ints(rows)));                                // (labels, C)
    return nn::linear_cross_entropy(asked, lm_head ? lm_head.weight : embed_tokens, from_ints(wanted), count);
}

Tensor Llama::logits(const Tensor& hidden) const {
    const profile::Range range("logits");
    // never rounded to bf16: equal logits would make the choice of a token arbitrary
    return nn::linear(nn::convert(norm(hidden), DType::f32), lm_head ? lm_head.weight : embed_tokens, {});      // (N, V)
}

std::pair<Tensor, Tensor> rope_tables(const LlamaConfig& c, int64_t positions) {
    const int64_t half = c.head_dim / 2;
    const Tensor cos({positions, half}, DType::f32, Device::cpu), sin({positions, half}, DType::f32, Device::cpu);
    for (int64_t d = 0; d < half; d++) {
        // rounded to f32 where Hugging Face's modeling_rope_utils rounds, so that the angles are the same numbers
        float frequency = 1.0f / float(std::pow(c.theta, double(float(2 * d) / float(c.head_dim))));
        if (!c.rope_divisors.empty()) frequency /= c.rope_divisors[size_t(d)];
        if (c.rope_type == "linear") frequency /= float(c.rope_factor);
        if (c.rope_type == "llama3") {
            const double wavelength = 2 * 3.141592653589793 / frequency, old = c.original_max_positions;
            if (wavelength > old / c.low_freq_factor) frequency /= float(c.rope_factor);
            else if (wavelength >= old / c.high_freq_factor) {
                const float smooth = float((old / wavelength - c.low_freq_factor) / (c.high_freq_factor - c.low_freq_factor));
                frequency = (1 - smooth) * frequency / float(c.rope_factor) + smooth * frequency;
            }
        }
        for (int64_t p = 0; p < positions; p++) {
            const double angle = double(float(p) * frequency);
            cos.data<float>()[p * half + d] = float(std::cos(angle));
            sin.data<float>()[p * half + d] = float(std::sin(angle));
        }
    }
    return {cos.to(current_device()), sin.to(current_device())};
}

std::vector<int32_t> generate(const Llama& llm, KvCache& cache, Tensor logits, const GenerateOptions& o, const std::function<bool(int32_t)>& on_token) {
    const profile::Range range("generate");
    std::vector<int32_t> ids;
    RepeatedStep next([&](const Tensor& id) { return llm.logits(llm.forward(nn::embedding(llm.embed_tokens, id, llm.dtype), cache)); }, cache.length, cache.capacity());
    while (int64_t(ids.size()) < o.max_tokens) {
        const int32_t id = sample(to_floats(logits), o.sampling, ids.size());
        ids.push_back(id);
        if (on_token && !on_token(id)) break;
        if (std::find(o.stop.begin(), o.stop.end(), id) != o.stop.end() || cache.length == cache.capacity()) break;
        if (int64_t(ids.size()) < o.max_tokens) logits = next(id);
    }
    return ids;
}

}
