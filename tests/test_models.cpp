// Models against outputs of the reference implementations (tests/golden/vectors: seeded random weights, small sizes).
#include "tests/vectors.h"
#include <fstream>
#include <sstream>
#include "models/load.h"

using namespace merv;
using namespace merv::test;

namespace {

constexpr double kRounding = 0x1p-19;           // f32 rounding of a few layers: 16 units in the last place (docs/fidelity.md)

nn::Pixels f32_pixels(const Tensor& x) { return {.values = x}; }

// The first n of N tokens of each sequence: (S, N, C) -> (S, n, C)
Tensor first_tokens(const Tensor& x, int64_t n) {
    Tensor y({x.dim(0), n, x.dim(2)});
    for (int64_t s = 0; s < x.dim(0); s++) y.slice(s, s + 1).copy_from(x.slice(s, s + 1).reshape({x.dim(1), x.dim(2)}).slice(0, n).reshape({1, n, x.dim(2)}));
    return y;
}

}

TEST_CASE("DINOv2 with registers equals timm") {
    const Vectors v("vit_reg4_dinov2_tiny_fbnames");
    Vit vit = dinov2_tiny(v);
    expect_close("positions 5x5 -> 3x3", resample_positions(vit.pos_embed, 0, 5, 3), v["test.pos_embed_3x3"], kRounding);
    const nn::Pixels x = f32_pixels(v["test.input"]);
    expect_close("penultimate, patches", vit.features(x), v["test.penultimate_patches"], kRounding);
    expect_close("penultimate, prefix", first_tokens(vit.tokens(x, 2), 5), v["test.penultimate_prefix"], kRounding);
    expect_close("all blocks and norm", vit.norm(vit.tokens(x, 3)), v["test.forward_features"], kRounding);
}

TEST_CASE("antialiased bicubic weights 37 -> 16 equal torch's") {       // the two rows printed in encoders.md 1
    Tensor table({37 * 37, 1});
    auto weight = [&](int out, int in) {        // a table that is 1 in column `in` of every row
        for (int64_t i = 0; i < 37 * 37; i++) table.data<float>()[i] = i % 37 == in ? 1.0f : 0.0f;
        return resample_positions(table, 0, 37, 16).data<float>()[out];
    };
    const float first[] = {0.38718644f, 0.44145072f, 0.20925620f, -0.00305648f, -0.03181709f, -0.00301979f};
    const float second[] = {-0.03114321f, 0.04860236f, 0.28733624f, 0.42768067f, 0.27206692f, 0.03752283f, -0.03158339f, -0.01048237f};
    for (int i = 0; i < 6; i++) EXPECT_LT(std::fabs(weight(0, i) - first[i]), 2e-7f);
    for (int i = 0; i < 8; i++) EXPECT_LT(std::fabs(weight(1, i) - second[i]), 2e-7f);
    EXPECT_EQ(weight(0, 6), 0.0f);
}

TEST_CASE("SigLIP equals timm") {
    const Vectors v("vit_siglip_tiny");
    Vit vit = siglip_tiny(v);
    const nn::Pixels x = f32_pixels(v["test.input"]);
    expect_close("penultimate", vit.features(x), v["test.penultimate"], kRounding);
    expect_close("all blocks and norm", vit.norm(vit.tokens(x, 3)), v["test.forward_features"], kRounding);
}

TEST_CASE("CLIP equals OpenAI's") {
    const Vectors v("clip_openai_visual_tiny");
    Vit vit = clip_tiny(v);
    const nn::Pixels x = f32_pixels(v["test.input"]);
    expect_close("after the first norm", vit.tokens(x, 0), v["test.hidden_states_0"], kRounding);
    expect_close("penultimate", vit.tokens(x, 2), v["test.hidden_states_-2"], kRounding);
    expect_close("penultimate, patches", vit.features(x), nn::drop_tokens(v["test.hidden_states_-2"], 1), kRounding);
}

TEST_CASE("LanguageBind equals the reference's: frames in groups of eight") {
    const Vectors v("languagebind_tiny");
    Vit vit = languagebind_tiny(v);
    const nn::Pixels x = f32_pixels(frames_first(v["input"]));
    expect_close("penultimate", vit.tokens(x, 2), v["hidden.penultimate"], kRounding);
    expect_close("last", vit.tokens(x, 3), v["hidden.last"], kRounding);

    SUBCASE("the second group is the same as a clip of its own") {
        const Tensor both = vit.tokens(x, 2), second = vit.tokens(f32_pixels(x.values.slice(8, 16)), 2);
        expect_same_bits(both.slice(8, 16), second);
    }
}

TEST_CASE("ViViT equals transformers") {
    const Vectors v("vivit_tiny");
    const Vivit vivit = vivit_tiny(v);
    const Tensor x = v["input"];                // (2, 8, 3, 48, 48)
    expect_close("last hidden state", vivit.tokens(f32_pixels(x.reshape({16, 3, 48, 48}))), v["last_hidden_state"], kRounding);
    const Tensor one = vivit.features(f32_pixels(x.reshape({16, 3, 48, 48}).slice(8, 16)));
    EXPECT(one.shape() == Shape{4, 9, 32});
    expect_close("features of the second clip", one, nn::drop_tokens(v["last_hidden_state"].slice(1, 2), 1), kRounding);
}

TEST_CASE("LLaMA with grouped heads and tied embeddings equals the reference") {
    const Vectors v("llama_gqa_tied_tiny_hfnames");
    const Llama llm = llama_tiny(v);
    const Tensor ids = v["test.input_ids"], want = v["test.logits"];
    for (int64_t b = 0; b < 2; b++) {
        KvCache cache = llm.cache(11);
        const Tensor logits = llm.logits(llm.forward(llm.embed(std::span(ids.data<int32_t>() + b * 11, 11)), cache));
        expect_close("logits", logits, want.slice(b, b + 1), kRounding);
    }
}

TEST_CASE("LLaMA-3, Qwen2 and LLaMA with biases and linear scaling equal transformers") {     // tests/golden/llm.py
    for (const char* name : {"llama3_tiny", "qwen2_tiny", "llama_linear_tiny"}) {
        const Vectors v(name);
        const LlamaConfig c = parse_llama_config(v.file->metadata().at("config"), name);
        Llama llm(c);
        v.bind_all(llm);
        EXPECT_EQ(nn::count_parameters(llm) + v["test.logits"].numel() + v["test.input_ids"].numel(), [&] {
            int64_t n = 0;
            for (const auto& [name, entry] : v.file->entries()) n += Shape(entry.shape).numel();
            return n;
        }());
        const Tensor ids = v["test.input_ids"];
        KvCache cache = llm.cache(ids.numel());
        NoGrad inference;
        expect_close(name, llm.logits(llm.forward(llm.embed(std::span(ids.data<int32_t>(), size_t(ids.numel()))), cache)), v["test.logits"], kRounding);
    }
    const LlamaConfig llama3 = parse_llama_config(Vectors("llama3_tiny").file->metadata().at("config"), "llama3_tiny");
    EXPECT_EQ(llama3.head_dim, 16);
    EXPECT(llama3.tied);
    EXPECT(llama3.eos == std::vector<int>{91, 93, 94});
}

TEST_CASE("rope frequencies: llama3 scaling") {     // Llama-3.2-1B, values computed with the reference's formula (encoders.md 5)
    LlamaConfig c;
    c.head_dim = 64, c.theta = 5e5, c.rope_type = "llama3", c.rope_factor = 32, c.low_freq_factor = 1, c.high_freq_factor = 4, c.original_max_positions = 8192;
    const auto [cos, sin] = rope_tables(c, 2);
    auto frequency = [&](int d) { return std::asin(double(sin.data<float>()[32 + d])); };
    const std::pair<int, double> want[] = {{14, 0.00321144611}, {15, 0.00129054801}, {16, 4.29556705e-4}, {17, 9.70828623e-5}, {18, 1.94616387e-5}, {31, 9.41830649e-8}};
    for (const auto& [d, f] : want) EXPECT_LT(std::fabs(frequency(d) / f - 1), 5e-7);
}

TEST_CASE("averaging projectors equal the reference's") {
    for (const AveragingProjector& c : kAveragingProjectors) {
        const Vectors v(c.file);
        const Tensor x = v["input"], want = v["output"];            // (2, 4, 36, 24), (2, t s s, 40)
        Projector p(c.mapping, c.frames, c.side, 24, 40);
        v.bind_all(p, "param.");
        for (int64_t b = 0; b < 2; b++) expect_close(c.file, p(p.pool(x.slice(b, b + 1).reshape({4, 36, 24}))), want.slice(b, b + 1), kRounding);
    }
}

TEST_CASE("cross-attention mixing equals the reference's, and dead parameters stay out of it") {
    const Vectors v("fusion_cross_attention_avg");
    Fusion fusion(24, 40);
    v.bind(fusion, [&](const std::string& name) { return fusion.uses(name) ? v["param." + name] : Tensor(); });     // the dead ones have no values at all
    const std::vector<Tensor> x = {v["input.0"], v["input.1"], v["input.2"]};
    const Tensor w = fusion.weights(x, Fusion::Formula::code);
    expect_close("weights", w, v["weights"], kRounding);
    expect_close("output", nn::mix(x, w), v["output"], kRounding);
    EXPECT_EQ(nn::count_parameters(fusion), 24 + 24 * 24 + 2 * 24 * 40 + 72 + 24 * 24 + 24);
    EXPECT_THROWS_WITH_AS(fusion.weights(x, Fusion::Formula::paper), doctest::Contains("needs a query as wide as the language model"), Error);
}

TEST_CASE("mixing with a query as wide as the model: one in_proj_weight, and the paper's equation 2") {
    const int64_t D = 8, L = 5, E = 3;
    auto filled = [](Shape s, double step) {
        Tensor t(s);
        for (int64_t i = 0; i < t.numel(); i++) t.data<float>()[i] = float(std::sin(step * double(i + 1)));
        return t;
    };
    Fusion fusion(D, D);
    fusion.query.bind(filled({1, D}, 0.7)), fusion.in_proj.bind(filled({3 * D, D}, 0.31)), fusion.in_bias.bind(filled({3 * D}, 1.1));
    std::vector<Tensor> x;
    for (int64_t e = 0; e < E; e++) x.push_back(filled({1, L, D}, 0.4 + 0.1 * double(e)));
    for (const auto formula : {Fusion::Formula::code, Fusion::Formula::paper}) {
        auto at = [](const Tensor& t, int64_t i) { return double(t.data<float>()[i]); };
        std::vector<double> q(size_t(D), 0), logits, want;      // the formulas of models/merv.h in double
        for (int64_t i = 0; i < D; i++) {
            if (formula == Fusion::Formula::paper) q[size_t(i)] = at(fusion.query, i);
            else {
                q[size_t(i)] = at(fusion.in_bias, i);
                for (int64_t j = 0; j < D; j++) q[size_t(i)] += at(fusion.in_proj, i * D + j) * at(fusion.query, j);
            }
        }
        for (const Tensor& t : x) {
            std::vector<double> mean(size_t(D), 0);
            for (int64_t l = 0; l < L; l++) for (int64_t j = 0; j < D; j++) mean[size_t(j)] += at(t, l * D + j) / double(L);
            double logit = 0;
            for (int64_t i = 0; i < D; i++) {
                double k = mean[size_t(i)];
                if (formula == Fusion::Formula::code) {
                    k = at(fusion.in_bias, D + i);
                    for (int64_t j = 0; j < D; j++) k += at(fusion.in_proj, (D + i) * D + j) * mean[size_t(j)];
                }
                logit += q[size_t(i)] * k;
            }
            logits.push_back(std::exp(logit / std::sqrt(double(D))));
        }
        const double sum = logits[0] + logits[1] + logits[2];
        const Tensor w = fusion.weights(x, formula);
        for (int64_t e = 0; e < E; e++) EXPECT_LT(std::fabs(at(w, e) - logits[size_t(e)] / sum), 3e-7);
    }
}

TEST_CASE("stories260K writes its story, token by token") {
    LoadedModel loaded = load_model(golden("stories260k"), {.dtype = DType::f32});
    const Merv& m = loaded.merv;
    KvCache cache = m.llm.cache(512);
    const int32_t bos = m.tokenizer.bos();
    NoGrad inference;
    const Tensor logits = m.llm.logits(m.llm.forward(m.llm.embed(std::span(&bos, 1)), cache));
    const std::vector<int32_t> ids = generate(m.llm, cache, logits, {.max_tokens = 200, .sampling = {}, .stop = {}});
    std::string want;
    if (const std::string path = shared("data/golden/stories260K.greedy200.txt"); !path.empty()) {
        std::ifstream in(path);
        std::stringstream s;
        s << in.rdbuf();
        want = s.str();
        while (want.ends_with("\n")) want.pop_back();
        const std::string text = m.tokenizer.decode(ids);
        EXPECT_EQ(text.substr(0, want.size()), want);
        EXPECT_GE(ids.size(), 199);
    }
}

TEST_CASE("LLaMA: the whole prefill, in pieces, and token by token give equal bits") {
    LoadedModel loaded = load_model(golden("stories260k"), {.dtype = DType::f32});
    const Llama& llm = loaded.merv.llm;
    std::vector<int32_t> ids;
    for (int i = 0; i < 150; i++) ids.push_back((i * 37 + 5) % 512);
    const Tensor x = llm.embed(ids);
    KvCache whole = llm.cache(150);
    const Tensor want = llm.forward(x, whole);
    for (const int64_t piece : {1, 7, 64, 149}) {
        KvCache cache = llm.cache(150);
        for (int64_t i = 0; i < 150; i += piece) {
            const int64_t end = std::min<int64_t>(i + piece, 150);
            expect_same_bits(llm.forward(x.slice(i, end), cache), want.slice(i, end));
        }
        for (size_t l = 0; l < llm.layers.size(); l++) expect_same_bits(cache.k[l], whole.k[l]), expect_same_bits(cache.v[l], whole.v[l]);
    }
}

TEST_CASE("LLaMA: whole sequences without a cache have the bits of the cached ones, one behind the other or padded on the right") {
    LoadedModel loaded = load_model(golden("stories260k"));
    const Llama& llm = loaded.merv.llm;
    const nn::Lengths lengths = {150, 67, 67, 1};
    const int64_t N = 150, B = 4;
    std::vector<int32_t> ids;
    for (int i = 0; i < B * N; i++) ids.push_back((i * 37 + i / 150 + 5) % 512);
    const Tensor x = llm.embed(ids), padded = llm.forward(x, nn::Lengths(size_t(B), N));
    std::vector<int32_t> rows;
    for (int64_t b = 0; b < B; b++) for (int64_t i = 0; i < lengths[size_t(b)]; i++) rows.push_back(int32_t(b * N + i));
    const Tensor packed = llm.forward(nn::gather_rows(x, from_ints(rows)), lengths);
    int64_t first = 0;
    for (int64_t b = 0; b < B; b++) {
        KvCache cache = llm.cache(N);
        const int64_t n = lengths[size_t(b)];
        const Tensor alone = llm.forward(x.slice(b * N, b * N + n), cache);
        expect_same_bits(padded.slice(b * N, b * N + n), alone);
        expect_same_bits(packed.slice(first, first + n), alone);
        first += n;
    }
}

TEST_CASE("ViT: a batch of eight frames equals each frame alone") {
    const Vectors v("vit_siglip_tiny");
    Vit vit = siglip_tiny(v);
    const Tensor two = v["test.input"];         // (2, 3, 16, 16)
    const std::vector<int32_t> index = {0, 1, 1, 0, 1, 0, 0, 1};
    const Tensor batch = vit.features(f32_pixels(select_frames(two, index)));
    for (int64_t i = 0; i < 8; i++) expect_same_bits(batch.slice(i, i + 1), vit.features(f32_pixels(two.slice(index[size_t(i)], index[size_t(i)] + 1))));
}
