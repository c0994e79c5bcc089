// Equalities the order of sums promises, in bits: a row's result depends neither on how many rows run with it, nor on where it
// stands, nor on the threads; prefill at once = in pieces = token by token.
#include "tests/harness.h"
#include <algorithm>
#include <cmath>
#include <functional>
#include "nn/functional.h"
#include "tests/test.h"

using namespace merv;
using namespace merv::test;
using nn::Act;
using nn::Layout;
using nn::Mask;

namespace {

constexpr DType kFloats[] = {DType::f32, DType::bf16};

Tensor ints(int64_t n, int64_t step, int64_t modulus) {
    std::vector<int32_t> v;
    for (int64_t i = 0; i < n; i++) v.push_back(int32_t(i * step % modulus));
    return from_ints(v);
}

// Linear's order from first principles: chunks of 256, each a chain of fused multiply-adds from zero.
Tensor chained(const Tensor& x, const Tensor& w) {
    const int64_t M = x.dim(0), N = w.dim(0), K = x.dim(1);
    const std::vector<float> wide = to_floats(w);
    const Tensor y({M, N});
    for (int64_t m = 0; m < M; m++)
        for (int64_t n = 0; n < N; n++) {
            float sum = 0;
            for (int64_t k0 = 0; k0 < K; k0 += 256) {
                float chunk = 0;
                for (int64_t k = k0; k < std::min(k0 + 256, K); k++) {
                    const float a = x.data<float>()[m * K + k], b = wide[size_t(n * K + k)];
#ifdef __FMA__
                    chunk = std::fmaf(a, b, chunk);
#else
                    chunk = a * b + chunk;
#endif
                }
                sum = k0 ? sum + chunk : chunk;
            }
            y.data<float>()[m * N + n] = sum;
        }
    return y;
}

// Every row of x alone gives the bits it gives among all.
void expect_rows_alone(const char* op, const Tensor& x, const std::function<Tensor(const Tensor&)>& f) {
    const Tensor all = f(x);
    int differ = 0;
    for (int64_t i = 0; i < x.dim(0); i++) differ += !same_bits(f(x.slice(i, i + 1)), all.slice(i, i + 1));
    EXPECT_MESSAGE(differ == 0, op, ": ", differ, " rows of ", x);
}

}

TEST_CASE("order: a linear is a fold over chunks of 256 fused multiply-adds") {
    for (DType dtype : kFloats)
        for (auto [M, N, K] : std::vector<std::array<int64_t, 3>>{
             {1, 1, 1}, {1, 33, 255}, {2, 31, 256}, {13, 17, 257}, {505, 15, 67}, {7, 65, 1031}, {1, 40, 4096}}) {
            const Tensor x = normal({M, K}, "x"), w = normal({N, K}, "w", 0, 1, dtype);
            EXPECT_MESSAGE(same_bits(nn::linear(x, w, {}), chained(x, w)), M, "x", N, "x", K, " ", name_of(dtype));
        }
}

TEST_CASE("order: a row of a linear is the same alone, among 8 and among 1000") {
    for (DType dtype : kFloats) {
        const int64_t K = 601, N = 49;          // odd: most rows begin at an unaligned address
        const Tensor x = normal({1000, K}, "x"), w = normal({N, K}, "w", 0, 1, dtype), bias = normal({N}, "b", 0, 1, dtype),
                     gate = normal({1000, N}, "g"), residual = normal({1000, N}, "r");
        auto rows = [&](int64_t begin, int64_t end) {
            return nn::linear(x.slice(begin, end), w, bias,
                              {.act = Act::silu, .gate = gate.slice(begin, end), .scale = bias, .residual = residual.slice(begin, end)});
        };
        const Tensor all = rows(0, 1000);
        int differ = 0;
        for (int64_t i : {0, 1, 2, 11, 12, 13, 333, 499, 500, 501, 504, 505, 667, 998, 999}) differ += !same_bits(rows(i, i + 1), all.slice(i, i + 1));
        for (int64_t i : {0, 3, 497, 992}) differ += !same_bits(rows(i, i + 8), all.slice(i, i + 8));
        for (int64_t n : {2, 5, 12, 13, 504, 505, 999}) differ += !same_bits(rows(0, n), all.slice(0, n));
        EXPECT_MESSAGE(differ == 0, differ, " differ, ", name_of(dtype));
    }
}

TEST_CASE("order: a column of a linear is the same whatever stands beside it") {
    const Tensor x = normal({13, 600}, "x"), w = normal({97, 600}, "w"), all = nn::linear(x, w, {});
    for (auto [begin, end] : std::vector<std::array<int64_t, 2>>{{0, 1}, {31, 34}, {32, 97}, {5, 70}}) {
        const Tensor some = nn::linear(x, w.slice(begin, end), {});
        for (int64_t m = 0; m < 13; m++)
            for (int64_t n = begin; n < end; n++) EXPECT_EQ(some.data<float>()[m * (end - begin) + n - begin], all.data<float>()[m * 97 + n]);
    }
}

TEST_CASE("order: rows of the other ops are the same alone") {
    const Tensor x = normal({37, 67}, "x"), w = normal({67}, "w"), b = normal({67}, "b");
    expect_rows_alone("layernorm", x, [&](const Tensor& r) { return nn::layernorm(r, w, b, 1e-5f); });
    expect_rows_alone("rmsnorm", x, [&](const Tensor& r) { return nn::rmsnorm(r, w, 1e-5f); });
    expect_rows_alone("softmax_rows", x, [&](const Tensor& r) { return nn::softmax_rows(r); });
    expect_rows_alone("adaptive_pool", normal({5, 1, 7, 7, 33}, "x"), [&](const Tensor& r) { return nn::adaptive_pool(r, 1, 3, 3); });
    expect_rows_alone("token_mean", normal({5, 257, 33}, "x"), [&](const Tensor& r) { return nn::token_mean(r); });
    const Tensor heads = normal({37, 3, 24}, "h"), cos = normal({50, 12}, "cos"), sin = normal({50, 12}, "sin"), turned = nn::rope(heads, cos, sin, 9);
    for (int64_t i = 0; i < 37; i++) EXPECT(same_bits(nn::rope(heads.slice(i, i + 1), cos, sin, 9 + i), turned.slice(i, i + 1)));
}

TEST_CASE("order: prefill at once = in pieces = token by token") {
    for (int64_t D : {12, 64}) {
        const int64_t N = 200, H = 4, Hkv = 2;
        const Tensor q = normal({N, H * D}, "q"), k = normal({N, Hkv * D}, "k"), v = normal({N, Hkv * D}, "v");
        auto queries = [&](int64_t begin, int64_t end) {       // with the keys up to `end` in the cache
            return nn::attention({.q = q.slice(begin, end), .k = k, .v = v, .queries = Layout::contiguous(1, end - begin), .keys = Layout::contiguous(1, end),
                                  .heads = H,
                                  .kv_heads = Hkv, .head_dim = D, .mask = Mask::causal});
        };
        const Tensor whole = queries(0, N);
        for (int64_t piece : {1, 7, 63, 64, 65, 128}) {
            int differ = 0;
            for (int64_t i = 0; i < N; i += piece) differ += !same_bits(queries(i, std::min(i + piece, N)), whole.slice(i, std::min(i + piece, N)));
            EXPECT_MESSAGE(differ == 0, "head dimension ", D, ": ", differ, " pieces of ", piece);
        }
    }
}

TEST_CASE("order: a query is the same alone, among others, in a batch, and under k_len") {
    const int64_t S = 3, Nq = 70, Nk = 133, H = 2, D = 24;
    const Tensor q = normal({S * Nq, H * D}, "q"), k = normal({S * Nk, H * D}, "k"), v = normal({S * Nk, H * D}, "v");
    const nn::AttentionArgs batch{.q = q, .k = k, .v = v, .queries = Layout::contiguous(S, Nq), .keys = Layout::contiguous(S, Nk),
                                    .heads = H, .kv_heads = H, .head_dim = D};
    const Tensor all = nn::attention(batch);
    int differ = 0;
    for (int64_t i = 0; i < S * Nq; i++) {
        nn::AttentionArgs one = batch;
        const int64_t s = i / Nq;
        one.q = q.slice(i, i + 1), one.k = k.slice(s * Nk, (s + 1) * Nk), one.v = v.slice(s * Nk, (s + 1) * Nk);
        one.queries = Layout::contiguous(1, 1), one.keys = Layout::contiguous(1, Nk);
        differ += !same_bits(nn::attention(one), all.slice(i, i + 1));
    }
    EXPECT_EQ(differ, 0);

    nn::AttentionArgs masked = batch;
    masked.k_len = from_ints(std::vector<int32_t>{133, 65, 7});
    masked.mask = Mask::causal;
    const Tensor some = nn::attention(masked);
    for (int64_t s = 0; s < S; s++) {
        nn::AttentionArgs cut = batch;
        const int64_t keys = masked.k_len.data<int32_t>()[s];
        cut.q = q.slice(s * Nq, (s + 1) * Nq), cut.k = k.slice(s * Nk, s * Nk + keys), cut.v = v.slice(s * Nk, s * Nk + keys);
        cut.queries = Layout::contiguous(1, Nq), cut.keys = Layout::contiguous(1, keys), cut.mask = Mask::causal;
        EXPECT(same_bits(nn::attention(cut), some.slice(s * Nq, (s + 1) * Nq)));
    }
}

TEST_CASE("order: packed columns and sequences across frames give the bits of copies") {
    const int64_t frames = 8, positions = 5, H = 2, D = 12, C = H * D;
    const Tensor qkv = normal({frames * positions, 3 * C}, "qkv");
    auto layout = Layout::across_frames(1, frames, positions);
    const Tensor in_place = nn::attention({.q = qkv, .k = qkv, .v = qkv, .k_column = C, .v_column = 2 * C, .queries = layout, .keys = layout,
                                           .heads = H, .kv_heads = H, .head_dim = D});
    for (int64_t p = 0; p < positions; p++) {
        Tensor parts[3] = {Tensor({frames, C}), Tensor({frames, C}), Tensor({frames, C})};
        for (int64_t f = 0; f < frames; f++)
            for (int64_t i = 0; i < 3; i++) std::copy_n(qkv.data<float>() + (f * positions + p) * 3 * C + i * C, C, parts[i].data<float>() + f * C);
        layout = Layout::contiguous(1, frames);
        const Tensor copied = nn::attention({.q = parts[0], .k = parts[1], .v = parts[2], .queries = layout, .keys = layout,
                                           .heads = H, .kv_heads = H, .head_dim = D});
        for (int64_t f = 0; f < frames; f++) EXPECT(same_bits(copied.slice(f, f + 1), in_place.slice(f * positions + p, f * positions + p + 1)));
    }
}

TEST_CASE("order: no op depends on the number of threads, nor on where its inputs stand") {
    struct Op { const char* name; Tensors inputs; std::function<Tensor(const Tensors&)> f; };
    const Tensor wide = normal({517, 301}, "wide"), w = normal({97, 301}, "w"), half = normal({97, 301}, "w", 0, 1, DType::bf16),
                 c = normal({301}, "c"), tokens = normal({5, 131, 65}, "tokens");
    const Tensor pixels({4, 3, 96, 64}, DType::u8);
    for (int64_t i = 0; i < pixels.numel(); i++) pixels.data<uint8_t>()[i] = uint8_t(i * 37);
    auto attention = [](const Tensors& x, Mask mask) {
        return nn::attention({.q = x[0], .k = x[0], .v = x[0], .k_column = 128, .v_column = 192, .queries = Layout::contiguous(2, 258),
                              .keys = Layout::contiguous(2, 258), .heads = 4,
                              .kv_heads = 2, .head_dim = 32, .mask = mask});
    };
    const std::vector<Op> ops{       // each beyond the size from which it runs in parallel
        {"linear", {wide, w}, [](const Tensors& x) { return nn::linear(x[0], x[1], {}, {.act = Act::gelu}); }},
        {"linear, bf16", {wide, half}, [](const Tensors& x) { return nn::linear(x[0], x[1], {}, {.act = Act::silu}); }},
        {"linear, one row", {normal({1, 4096}, "row"), normal({97, 4096}, "w")}, [](const Tensors& x) { return nn::linear(x[0], x[1], {}); }},
        {"layernorm", {wide, c, c}, [](const Tensors& x) { return nn::layernorm(x[0], x[1], x[2], 1e-5f); }},
        {"rmsnorm", {wide, c}, [](const Tensors& x) { return nn::rmsnorm(x[0], x[1], 1e-5f); }},
        {"softmax_rows", {wide}, [](const Tensors& x) { return nn::softmax_rows(x[0]); }},
        {"attention", {normal({516, 256}, "qkv")}, [=](const Tensors& x) { return attention(x, Mask::none); }},
        {"attention, causal", {normal({516, 256}, "qkv")}, [=](const Tensors& x) { return attention(x, Mask::causal); }},
        {"rope", {normal({67, 8, 64}, "x"), normal({80, 32}, "cos"), normal({80, 32}, "sin")}, [](const Tensors& x) { return nn::rope(x[0], x[1], x[2], 13); }},
        {"gather_rows", {wide}, [](const Tensors& x) { return nn::gather_rows(x[0], ints(500, 3, 517)); }},
        {"scatter_rows", {wide}, [](const Tensors& x) { return nn::scatter_rows(600, {{x[0], ints(517, 7, 600)}}); }},
        {"drop_tokens", {tokens}, [](const Tensors& x) { return nn::drop_tokens(x[0], 5); }},
        {"prepend_tokens", {tokens, normal({5, 65}, "t")}, [](const Tensors& x) { return nn::prepend_tokens(x[0], x[1]); }},
        {"add_rows", {wide, c}, [](const Tensors& x) { return nn::add_rows(x[0], x[1].reshape({1, 301})); }},
        {"patchify, f32", {normal({4, 3, 96, 64}, "pixels")}, [](const Tensors& x) { return nn::patchify({x[0]}, 16, 2); }},
        {"patchify, u8", {pixels}, [](const Tensors& x) { return nn::patchify({x[0], {0.5f, 0.4f, 0.3f}, {0.2f, 0.3f, 0.4f}}, 16); }},
        {"adaptive_pool", {normal({2, 3, 14, 14, 33}, "grid")}, [](const Tensors& x) { return nn::adaptive_pool(x[0], 3, 8, 8); }},
        {"token_mean", {tokens}, [](const Tensors& x) { return nn::token_mean(x[0]); }},
        {"token_mean, wide", {normal({1, 300, 513}, "tokens")}, [](const Tensors& x) { return nn::token_mean(x[0]); }},
        {"mix", {tokens, normal({5, 131, 65}, "others"), normal({5, 2}, "weights")}, [](const Tensors& x) { return nn::mix({x[0], x[1]}, x[2]); }},
    };
    for (const Op& op : ops) {
        Tensor one, two, five, elsewhere;
        Tensors moved;
        for (const Tensor& t : op.inputs) moved.push_back(amid_nan(t));
        { const Threads n(1); one = op.f(op.inputs); }
        { const Threads n(2); two = op.f(op.inputs), elsewhere = op.f(moved); }
        { const Threads n(5); five = op.f(op.inputs); }
        EXPECT_MESSAGE(same_bits(one, two), op.name, ": 1 and 2 threads");
        EXPECT_MESSAGE(same_bits(one, five), op.name, ": 1 and 5 threads");
        EXPECT_MESSAGE(same_bits(one, elsewhere), op.name, ": at another address");
    }
}
