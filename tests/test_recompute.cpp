// What the tape keeps: the same gradients with every choice of recomputation, and memory by formula.
#include "tests/harness.h"
#include "models/llama.h"
#include "models/vit.h"
#include "nn/unit.h"
#include "tests/test.h"

using namespace merv;
using namespace merv::test;
using nn::Recompute;

namespace {

constexpr Recompute kChoices[] = {Recompute::none, Recompute::norms_and_gates, Recompute::full};

template <class M> void fill(M& module, DType dtype = DType::f32) {
    nn::for_each_parameter(module, [&](const std::string& name, Tensor& t) {
        t.bind(normal(t.shape(), name, 0, 0.1, dtype));
        t.set_needs_grad();
    });
}
template <class M> std::vector<Tensor> take_gradients(M& module) {
    std::vector<Tensor> all;
    nn::for_each_parameter(module, [&](const std::string&, Tensor& t) {
        all.push_back(t.grad());
        if (t.needs_grad()) t.set_needs_grad();
    });
    return all;
}

// The most bytes booked under `tag`, which must be new, while f runs.
template <class F> int64_t peak_of(const char* tag, F f) {
    EXPECT_EQ(memory_by_tag()[tag], 0);
    {
        const MemTag scope(tag);
        f();
    }
    EXPECT_EQ(memory_by_tag()[tag], 0);         // nothing is left behind
    return int64_t(peak_memory_by_tag()[tag]);
}

}

TEST_CASE("recompute: what a unit of any op keeps does not change a bit of its gradients") {
    VitBlock vit(VitConfig{.width = 48, .heads = 3, .mlp = 100, .layer_scale = true, .temporal_frames = 2});
    VitBlock frozen = vit;                      // gamma and norms frozen
    LlamaConfig c;
    c.width = 48, c.heads = 4, c.kv_heads = 2, c.head_dim = 12, c.mlp = 100, c.layers = 1, c.vocab = 7;
    LlamaLayer llama(c);
    const auto [cos, sin] = rope_tables(c, 20);
    auto compare = [&](auto& module, DType dtype, const auto& f) {
        std::vector<Tensor> first;
        for (Recompute r : kChoices) {
            Tensor x = normal({4, 20, 48}, "x", 0, 1, dtype);
            x.set_needs_grad();
            {
                const nn::RecomputeScope scope(r);
                const Tensor y = nn::run_unit(nn::run_unit(x, f), f);
                Tape::current().backward(y, normal(y.shape(), "dy", 0, 1, dtype));
            }
            std::vector<Tensor> all = take_gradients(module);
            all.push_back(x.grad());
            if (r == Recompute::none) first = all;
            else for (size_t i = 0; i < all.size(); i++) EXPECT_MESSAGE((all[i] ? same_bits(all[i], first[i]) : !first[i]), name_of(dtype), ", choice ", int(r), ", gradient ", i);
        }
    };
    for (const DType dtype : {DType::f32, DType::bf16}) {
        for (nn::Act act : {nn::Act::gelu, nn::Act::gelu_tanh, nn::Act::quick_gelu}) {
            fill(vit, dtype);
            vit.act = act;
            compare(vit, dtype, [&](const Tensor& h) { return vit(h); });
        }
        fill(frozen, dtype);
        for (Tensor* t : {&frozen.gamma1, &frozen.gamma2, &frozen.norm1.weight, &frozen.norm1.bias, &frozen.norm2.weight, &frozen.norm2.bias, &frozen.fc2.weight}) t->set_needs_grad(false);
        compare(frozen, dtype, [&](const Tensor& h) { return frozen(h); });
        fill(llama, dtype);
        compare(llama, dtype, [&, cos = cos, sin = sin](const Tensor& h) { return llama(h.reshape({80, 48}), cos, sin, {20, 11, 20, 20, 9}).reshape(h.shape()); });
    }
}

TEST_CASE("recompute: a frozen unit is not recorded, a throwing one leaves the tape as it was") {
    Tape::current().clear();
    Tensor w = normal({8, 8}, "w"), x = normal({4, 8}, "x");
    auto f = [&](const Tensor& h) { return nn::linear(h, w, {}); };
    for (Recompute r : kChoices) {
        const nn::RecomputeScope scope(r);
        EXPECT_FALSE(nn::run_unit(x, f).needs_grad());
        EXPECT_EQ(Tape::current().size(), 0);
        w.set_needs_grad();
        EXPECT(nn::run_unit(x, f).needs_grad());        // a parameter inside wants one, though x does not
        w.set_needs_grad(false);
        Tape::current().clear();
    }
    const nn::RecomputeScope scope(Recompute::full);
    x.set_needs_grad();
    bool fails = false;
    const Tensor y = nn::run_unit(x, [&](const Tensor& h) {
        if (fails) throw std::runtime_error("again");
        return f(h);
    });
    fails = true;
    Tape* const outer = &Tape::current();
    EXPECT_THROWS_WITH_AS(Tape::current().backward(y, y), doctest::Contains("again"), std::runtime_error);
    EXPECT_EQ(&Tape::current(), outer);
    EXPECT(recording());
    EXPECT_EQ(Tape::current().size(), 0);
    x.set_needs_grad();
    const Tensor z = nn::run_unit(x, f);
    Tape::current().backward(z, z);
    EXPECT(x.grad());
}

TEST_CASE("recompute: a dropped output that somebody still reads is an error, not garbage") {
    Tape::current().clear();
    nn::LayerNorm norm(8, 1e-5);
    nn::Linear linear(8, 8);
    fill(norm), fill(linear);
    const Tensor x = normal({4, 8}, "x");
    Tensor leaked;
    const nn::RecomputeScope scope(Recompute::norms_and_gates);
    nn::run_unit(x, [&](const Tensor& h) { return linear(leaked = norm(h)); });
    EXPECT_THROWS_WITH_AS(leaked.data<float>(), doctest::Contains("dropped"), std::logic_error);
    Tape::current().clear();
}

TEST_CASE("memory: two ViT blocks and two LLaMA layers keep what the formulas say") {
    const int64_t B = 3, N = 40, M = B * N, C = 48, I = 200, H = 4;
    // tags are literals; per choice: the tape holds `kept` per unit, and running backward through one holds all of it
    const char* tags[2][3] = {{"vit none", "vit norms", "vit full"}, {"llama none", "llama norms", "llama full"}};
    auto run = [&](const char* tag, Recompute r, auto& module, const auto& f) {
        const int64_t bytes = peak_of(tag, [&] {
            Tensor x = normal({B, N, C}, "x");
            const nn::RecomputeScope scope(r);
            const Tensor y = f(std::move(x));
            Tape::current().backward(y, y);
        });
        take_gradients(module);
        return bytes / 4;
    };
    {
        VitConfig c{.width = int(C), .depth = 2, .heads = int(H), .mlp = int(I)};
        Vit vit;
        vit.blocks = {VitBlock(c), VitBlock(c)};
        fill(vit);
        const int64_t all = M * (8 * C + 2 * I + H);            // x, norm, qkv, heads' output, x, norm, z, act(z); log-sums
        const int64_t kept[] = {all, all - M * (2 * C + I), M * C};
        for (size_t r = 0; r < 3; r++) {
            const int64_t peak = run(tags[0][r], kChoices[r], vit, [&](Tensor x) {
                for (const VitBlock& b : vit.blocks) x = nn::run_unit(x, [&b](const Tensor& h) { return b(h); });
                return x;
            });
            const int64_t want = kept[r] + all + M * (C + I);   // y; and fc2's backward makes d act(z)
            std::printf("  ViT block     %-8s kept %6.1f KiB, peak of two %6.1f KiB\n", tags[0][r] + 4, double(kept[r]) / 256, double(peak) / 256);
            EXPECT_EQ(peak, want);
        }
    }
    {
        LlamaConfig c;
        c.width = int(C), c.heads = int(H), c.kv_heads = 2, c.head_dim = int(C / H), c.mlp = int(I), c.layers = 2, c.vocab = 7;
        Llama llm(c);
        fill(llm);
        const int64_t KV = C / 2, tables = N * C / H;
        const int64_t all = M * (6 * C + 2 * KV + 3 * I + H);   // x, norm, q, k, v, heads' output, h, norm, z, up, silu(z) up
        const int64_t kept[] = {all, all - M * (2 * C + I), M * C};
        for (size_t r = 0; r < 3; r++) {
            const int64_t peak = run(tags[1][r], kChoices[r], llm, [&](const Tensor& x) { return llm.forward(x.reshape({M, C}), nn::Lengths(size_t(B), N)); });
            const int64_t want = tables + kept[r] + all + M * (2 * C + I);      // y; the gate's backward has dz in dy's place, dgate and dx
            std::printf("  LLaMA layer   %-8s kept %6.1f KiB, peak of two %6.1f KiB\n", tags[1][r] + 6, double(kept[r]) / 256, double(peak) / 256);
            EXPECT_EQ(peak, want);
        }
    }
}

TEST_CASE("memory: attention's grows linearly with the length, forward and backward") {
    const char* tags[] = {"attention 1k", "attention 4k"};
    int64_t bytes[2];
    for (int i = 0; i < 2; i++)
        bytes[i] = peak_of(tags[i], [&] {
            const int64_t N = i ? 4096 : 1024, H = 2, D = 8;
            Tensor qkv = normal({N, 3 * H * D}, "qkv");
            qkv.set_needs_grad();
            const Tensor o = nn::attention({.q = qkv, .k = qkv, .v = qkv, .k_column = H * D, .v_column = 2 * H * D, .queries = nn::Layout::contiguous(1, N),
                                            .keys = nn::Layout::contiguous(1, N), .heads = H, .kv_heads = H, .head_dim = D, .mask = nn::Mask::causal});
            Tape::current().backward(o, o);
            EXPECT_EQ(int64_t(peak_memory_by_tag()[tags[i]]), 4 * N * (3 * H * D + H * D + H + 3 * H * D));       // qkv, o, log-sums, dqkv
        });
    EXPECT_EQ(bytes[1], 4 * bytes[0]);
    std::printf("  attention: %lld bytes at 1024 tokens, %lld at 4096\n", static_cast<long long>(bytes[0]), static_cast<long long>(bytes[1]));
}

TEST_CASE("memory: the fused loss never holds more logits than a chunk") {
    const int64_t M = 1100, K = 8, V = 300;
    Tensor x = normal({M, K}, "x"), w = normal({V, K}, "w");
    std::vector<int32_t> labels;
    for (int64_t m = 0; m < M; m++) labels.push_back(int32_t(m * 7 % V));
    const Tensor l = from_ints(labels);
    const char* tags[] = {"fused 512", "fused 1024"};
    for (int i = 0; i < 2; i++) {
        const int64_t chunk = i ? 1024 : 512;
        const int64_t peak = peak_of(tags[i], [&] {
            x.set_needs_grad(), w.set_needs_grad();
            Tape::current().backward(nn::linear_cross_entropy(x, w, l, 0, chunk));
            x.set_needs_grad(), w.set_needs_grad();     // gives the gradients back
        });
        EXPECT_EQ(peak, 4 * (chunk * V + M * K + 2));   // logits, dx, the loss and its gradient
    }
}

TEST_CASE("tape: a tensor that is a weight here and a summand there gets both gradients, its fellow summand only its own") {
    const Tensor x = normal({4, 4}, "x"), dy = normal({4, 4}, "dy");
    Tensors sums;
    for (const bool weight_first : {true, false}) {
        Tensor w = normal({4, 4}, "w"), c = normal({4, 4}, "c");
        w.set_needs_grad(), c.set_needs_grad();
        Tensor a, b;
        if (weight_first) b = nn::linear(x, w, {}), a = nn::add(w, c);
        else a = nn::add(w, c), b = nn::linear(x, w, {});
        Tape::current().backward(nn::add(a, b), dy);
        EXPECT(same_bits(c.grad(), dy));
        sums.push_back(w.grad());
    }
    EXPECT(same_bits(sums[0], sums[1]));
}
