// Equalities the order of sums promises, in bits: a row's result depends neither on how many rows run with it, nor on where it
// stands, nor on the threads; prefill at once = in pieces = token by token. Gradients alike. Checked on every instruction set, and
// where instruction sets promise the same bits, among them.
#include "tests/harness.h"
#include <algorithm>
#include <array>
#include <bit>
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

// f() on every instruction set, named if something fails
void each_isa(const std::function<void()>& f) {
    on_every_isa([&](Isa i) {
        const std::string isa = isa_name(i);
        CAPTURE(isa);
        f();
    });
}

// Linear's order from first principles: chunks of 256 units, each a chain of multiply-adds from zero, fused but on portable. A
// unit is a number, or a pair of bf16 whose second is added first.
Tensor chained(const Tensor& x, const Tensor& w, DType result) {
    const int64_t M = x.dim(0), N = w.dim(0), K = x.dim(1), unit = x.dtype() == DType::bf16 && w.dtype() == DType::bf16 ? 2 : 1;
    const bool fused = kernels::cpu::isa() != Isa::portable;
    const std::vector<float> a = to_floats(x), b = to_floats(w);
    std::vector<float> y;
    for (int64_t m = 0; m < M; m++)
        for (int64_t n = 0; n < N; n++) {
            float sum = 0;
            for (int64_t k0 = 0; k0 < K; k0 += 256 * unit) {
                float chunk = 0;
                for (int64_t k = k0; k < std::min(k0 + 256 * unit, K); k += unit)
                    for (int64_t i = std::min(k + unit, K); i-- > k;) {
                        const float p = a[size_t(m * K + i)], q = b[size_t(n * K + i)];
                        chunk = fused ? std::fmaf(p, q, chunk) : p * q + chunk;
                    }
                sum = k0 ? sum + chunk : chunk;
            }
            y.push_back(sum);
        }
    return from_floats(y, {M, N}, result);
}

// Every row of x alone gives the bits it gives among all.
void expect_rows_alone(const std::string& op, const Tensor& x, const std::function<Tensor(const Tensor&)>& f) {
    const Tensor all = f(x);
    int differ = 0;
    for (int64_t i = 0; i < x.dim(0); i++) differ += !same_bits(f(x.slice(i, i + 1)), all.slice(i, i + 1));
    EXPECT_MESSAGE(differ == 0, op, ": ", differ, " rows of ", x);

    const Tensor dy = normal(all.shape(), "dy", 0, 1, all.dtype());
    auto slope = [&](int64_t begin, int64_t end) {
        return derive([&](const Tensors& t) { return f(t[0]); }, {x.slice(begin, end)}, dy.slice(begin, end), {true}).gradients[0]; };
    const Tensor slopes = slope(0, x.dim(0));
    for (int64_t i = 0; i < x.dim(0); i++) differ += !same_bits(slope(i, i + 1), slopes.slice(i, i + 1));
    EXPECT_MESSAGE(differ == 0, op, ": ", differ, " rows of the gradient of ", x);
}
bool same_values(const Tensor& a, const Tensor& b) {        // in bits, but one NaN is as good as another
    const std::vector<float> p = to_floats(a), q = to_floats(b);
    bool same = a.shape() == b.shape() && a.dtype() == b.dtype();
    for (size_t i = 0; same && i < p.size(); i++) same = std::bit_cast<uint32_t>(p[i]) == std::bit_cast<uint32_t>(q[i]) || (p[i] != p[i] && q[i] != q[i]);
    return same;
}

}

TEST_CASE("order: a linear is a fold over chunks of 256 units of multiply-adds") {
    each_isa([] {
        for (DType activations : kFloats)
            for (DType parameters : kFloats)
                for (auto [M, N, K] : std::vector<std::array<int64_t, 3>>{
                     {1, 1, 1}, {1, 33, 255}, {2, 31, 256}, {13, 17, 257}, {505, 15, 67}, {7, 65, 1031}, {16, 5, 513}, {1, 40, 4096}}) {
                    const Tensor x = normal({M, K}, "x", 0, 1, activations), w = normal({N, K}, "w", 0, 1, parameters);
                    EXPECT_MESSAGE(same_bits(nn::linear(x, w, {}), chained(x, w, activations)), M, "x", N, "x", K, " ", x, " ", w);
                }
    });
}

TEST_CASE("order: the gradients of a linear are such folds, over columns for x and over rows for w") {
    auto transposed = [](const Tensor& t) {
        const int64_t R = t.dim(0), C = t.dim(1);
        const std::vector<float> v = to_floats(t);
        std::vector<float> to;
        for (int64_t c = 0; c < C; c++) for (int64_t r = 0; r < R; r++) to.push_back(v[size_t(r * C + c)]);
        return from_floats(to, {C, R}, t.dtype());
    };
    each_isa([&] {
        for (DType activations : kFloats)
            for (DType parameters : kFloats)
                for (auto [M, N, K] : std::vector<std::array<int64_t, 3>>{{1, 1, 1}, {3, 257, 33}, {257, 13, 17}, {600, 5, 31}, {9, 1031, 7}}) {
                    const Tensor x = normal({M, K}, "x", 0, 1, activations), w = normal({N, K}, "w", 0, 1, parameters), dy = normal({M, N}, "dy", 0, 1, activations);
                    const Tensors got = derive([](const Tensors& t) { return nn::linear(t[0], t[1], {}); }, {x, w}, dy, {true, true}).gradients;
                    EXPECT_MESSAGE(same_bits(got[0], chained(dy, transposed(w), activations)), "dx of ", M, "x", N, "x", K, " ", x, " ", w);
                    EXPECT_MESSAGE(same_bits(got[1], chained(transposed(dy), transposed(x), DType::f32)), "dw of ", M, "x", N, "x", K, " ", x, " ", w);
                }
    });
}

TEST_CASE("order: a linear has the same bits on all instruction sets in bf16, on all with fused multiply-adds in f32") {
    for (DType dtype : kFloats)
        for (auto [M, N, K] : std::vector<std::array<int64_t, 3>>{{1, 65, 1031}, {7, 33, 67}, {16, 31, 601}, {300, 45, 77}, {600, 33, 13}}) {
            const Tensor x = normal({M, K}, "x", 0, 1, dtype), w = normal({N, K}, "w", 0, 1, dtype), b = normal({N}, "b", 0, 1, dtype), dy = normal({M, N}, "dy", 0, 1, dtype),
                         gate = normal({M, N}, "g", 0, 1, dtype);
            for (bool plain : {true, false}) {
                std::vector<Derived> results;
                std::vector<Isa> isas;
                on_every_isa([&](Isa isa) {
                    if (isa == Isa::portable && (dtype == DType::f32 || !plain)) return;       // an activation is fused f32 arithmetic
                    isas.push_back(isa);
                    results.push_back(derive([&](const Tensors& t) { return plain ? nn::linear(t[0], t[1], t[2]) : nn::linear(t[0], t[1], t[2], {.act = Act::gelu_tanh, .gate = t[3]}); },
                                             {x, w, b, gate}, dy, {true, true, true, !plain}));
                });
                for (size_t i = 1; i < results.size(); i++) {
                    EXPECT_MESSAGE(same_bits(results[i].y, results[0].y), "y of ", x, " ", w, ": ", isa_name(isas[i]), " and ", isa_name(isas[0]));
                    for (size_t j = 0; j < 4; j++)
                        if (results[0].gradients[j])
                            EXPECT_MESSAGE(same_bits(results[i].gradients[j], results[0].gradients[j]), "gradient ", j, " of ", x, " ", w, ": ", isa_name(isas[i]),
                                           " and ", isa_name(isas[0]));
                }
            }
        }
}

TEST_CASE("order: bf16 denormals, infinities, NaN and zeros give the same on all instruction sets") {
    const int64_t M = 64, N = 48, K = 37;
    std::vector<float> x = to_floats(normal({M, K}, "x")), w = to_floats(normal({N, K}, "w"));
    const float odd[] = {1e-40f, -1e-40f, 0.0f, -0.0f, INFINITY, -INFINITY, NAN, 1e37f, 1e-38f, 1e-20f};         // no product overflows: unfused, it would before it is added
    for (int64_t m = 0; m < M; m += 3) x[size_t(m * K + m * 5 % K)] = odd[m / 3 % 10], x[size_t(m * K + (m * 7 + 1) % K)] = odd[m % 4];
    for (int64_t n = 0; n < N; n += 4) w[size_t(n * K + n * 3 % K)] = odd[n / 4 % 10];
    std::fill_n(x.begin(), K, 1e-40f), std::fill_n(x.begin() + K, K, -0.0f), std::fill_n(w.begin(), K, 1e-39f);       // rows of nothing else
    const Tensor a = from_floats(x, {M, K}, DType::bf16), b = from_floats(w, {N, K}, DType::bf16), dy = normal({M, N}, "dy", 0, 1e-20, DType::bf16);
    for (int64_t rows : {1, 2, 7, 13, 64}) {
        std::vector<Derived> results;
        on_every_isa([&](Isa isa) {
            results.push_back(derive([](const Tensors& t) { return nn::linear(t[0], t[1], {}); }, {a.slice(0, rows), b}, dy.slice(0, rows), {true, true}));
            EXPECT_MESSAGE(same_values(results.back().y, results[0].y), "y of ", rows, " on ", isa_name(isa));
            for (int i : {0, 1}) EXPECT_MESSAGE(same_values(results.back().gradients[size_t(i)], results[0].gradients[size_t(i)]), i, " of ", rows, " on ", isa_name(isa));
        });
    }
}

TEST_CASE("order: a row of a linear and of its gradient is the same alone, among 8 and among 1000") {
    each_isa([] {
        for (DType activations : kFloats)
            for (DType parameters : kFloats) {
                const int64_t K = 601, N = 49;      // odd: most rows begin at an unaligned address
                const Tensor x = normal({1000, K}, "x", 0, 1, activations), w = normal({N, K}, "w", 0, 1, parameters), bias = normal({N}, "b", 0, 1, parameters),
                             gate = normal({1000, N}, "g", 0, 1, activations), residual = normal({1000, N}, "r", 0, 1, activations), dy = normal({1000, N}, "dy", 0, 1, activations);
                auto rows = [&](int64_t begin, int64_t end) {
                    return derive([&](const Tensors& t) { return nn::linear(t[0], w, bias, {.act = Act::silu, .gate = t[1], .scale = bias, .residual = t[2]}); },
                                  {x.slice(begin, end), gate.slice(begin, end), residual.slice(begin, end)}, dy.slice(begin, end), {true, true, true});
                };
                const Derived all = rows(0, 1000);
                int differ = 0;
                auto compare = [&](int64_t begin, int64_t end) {
                    const Derived some = rows(begin, end);
                    differ += !same_bits(some.y, all.y.slice(begin, end));
                    for (size_t i = 0; i < 3; i++) differ += !same_bits(some.gradients[i], all.gradients[i].slice(begin, end));
                };
                for (int64_t i : {0, 1, 2, 11, 12, 13, 333, 499, 500, 501, 504, 505, 667, 998, 999}) compare(i, i + 1);
                for (int64_t i : {0, 3, 497, 992}) compare(i, i + 8);
                for (int64_t n : {2, 5, 12, 13, 504, 505, 999}) compare(0, n);
                EXPECT_MESSAGE(differ == 0, differ, " differ, ", x, " ", w);
            }
    });
}

TEST_CASE("order: a column of a linear is the same whatever stands beside it") {
    each_isa([] {
        for (DType dtype : kFloats) {
            const Tensor x = normal({13, 600}, "x", 0, 1, dtype), w = normal({97, 600}, "w", 0, 1, dtype);
            const std::vector<float> all = to_floats(nn::linear(x, w, {}));
            for (auto [begin, end] : std::vector<std::array<int64_t, 2>>{{0, 1}, {31, 34}, {32, 97}, {5, 70}}) {
                const std::vector<float> some = to_floats(nn::linear(x, w.slice(begin, end), {}));
                int differ = 0;
                for (int64_t m = 0; m < 13; m++)
                    for (int64_t n = begin; n < end; n++) differ += some[size_t(m * (end - begin) + n - begin)] != all[size_t(m * 97 + n)];
                EXPECT_MESSAGE(differ == 0, begin, " to ", end, " of ", x);
            }
        }
    });
}

TEST_CASE("order: rows of the other ops and of their gradients are the same alone") {
    each_isa([] {
        for (DType t : kFloats) {
            const Tensor x = normal({37, 67}, "x", 0, 1, t), w = normal({67}, "w"), b = normal({67}, "b");
            expect_rows_alone("layernorm", x, [&](const Tensor& r) { return nn::layernorm(r, w, b, 1e-5f); });
            expect_rows_alone("rmsnorm", x, [&](const Tensor& r) { return nn::rmsnorm(r, w, 1e-5f); });
            expect_rows_alone("softmax_rows", x, [&](const Tensor& r) { return nn::softmax_rows(r); });
            expect_rows_alone("adaptive_pool", normal({5, 1, 7, 7, 33}, "x", 0, 1, t), [&](const Tensor& r) { return nn::adaptive_pool(r, 1, 3, 3); });
            expect_rows_alone("token_mean", normal({5, 257, 33}, "x", 0, 1, t), [&](const Tensor& r) { return nn::token_mean(r); });
            const Tensor heads = normal({37, 3, 24}, "h", 0, 1, t), cos = normal({50, 12}, "cos"), sin = normal({50, 12}, "sin"), turned = nn::rope(heads, cos, sin, 9);
            for (int64_t i = 0; i < 37; i++) EXPECT(same_bits(nn::rope(heads.slice(i, i + 1), cos, sin, 9 + i), turned.slice(i, i + 1)));
        }
    });
}

TEST_CASE("order: prefill at once = in pieces = token by token, and the gradient of its queries") {
    each_isa([] {
        for (DType t : kFloats)
            for (int64_t D : {12, 64}) {
                const int64_t N = 200, H = 4, Hkv = 2;
                const Tensor q = normal({N, H * D}, "q", 0, 1, t), k = normal({N, Hkv * D}, "k", 0, 1, t), v = normal({N, Hkv * D}, "v", 0, 1, t), dy = normal({N, H * D}, "dy", 0, 1, t);
                auto queries = [&](int64_t begin, int64_t end) {       // with the keys up to `end` in the cache
                    return derive([&](const Tensors& x) {
                        return nn::attention({.q = x[0], .k = k, .v = v, .queries = Layout::contiguous(1, end - begin), .keys = Layout::contiguous(1, end),
                                              .heads = H, .kv_heads = Hkv, .head_dim = D, .mask = Mask::causal});
                    }, {q.slice(begin, end)}, dy.slice(begin, end), {true});
                };
                const Derived whole = queries(0, N);
                for (int64_t piece : {1, 7, 63, 64, 65, 128}) {
                    int differ = 0, slopes = 0;
                    for (int64_t i = 0; i < N; i += piece) {
                        const int64_t end = std::min(i + piece, N);
                        const Derived some = queries(i, end);
                        differ += !same_bits(some.y, whole.y.slice(i, end)), slopes += !same_bits(some.gradients[0], whole.gradients[0].slice(i, end));
                    }
                    EXPECT_MESSAGE(differ == 0, q, ", head dimension ", D, ": ", differ, " pieces of ", piece);
                    EXPECT_MESSAGE(slopes == 0, q, ", head dimension ", D, ": gradients of ", slopes, " pieces of ", piece);
                }
            }
    });
}

TEST_CASE("order: a query is the same alone, among others, in a batch, and under k_len") {
    each_isa([] {
        for (DType t : kFloats) {
            const int64_t S = 3, Nq = 70, Nk = 133, H = 2, D = 24;
            const Tensor q = normal({S * Nq, H * D}, "q", 0, 1, t), k = normal({S * Nk, H * D}, "k", 0, 1, t), v = normal({S * Nk, H * D}, "v", 0, 1, t);
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
    });
}

TEST_CASE("order: the gradient of a sequence is the same alone and in a batch, whole or under k_len; heads are alone too") {
    each_isa([] {
        for (DType t : kFloats)
            for (Mask mask : {Mask::none, Mask::causal}) {
                const int64_t S = 3, Nq = 70, Nk = 133, H = 4, Hkv = 2, D = 12;
                const std::vector<int32_t> lengths{133, 65, 7};
                const Tensors x{normal({S * Nq, H * D}, "q", 0, 1, t), normal({S * Nk, Hkv * D}, "k", 0, 1, t), normal({S * Nk, Hkv * D}, "v", 0, 1, t)};
                const Tensor dy = normal({S * Nq, H * D}, "dy", 0, 1, t);
                auto attention = [&](const Tensors& in, int64_t sequences, int64_t keys, const Tensor& d, const Tensor& k_len) {
                    return derive([&](const Tensors& y) {
                        return nn::attention({.q = y[0], .k = y[1], .v = y[2], .queries = Layout::contiguous(sequences, Nq), .keys = Layout::contiguous(sequences, keys),
                                              .heads = H, .kv_heads = Hkv, .head_dim = D, .mask = mask, .k_len = k_len});
                    }, in, d, {true, true, true}).gradients;
                };
                for (bool cut : {false, true}) {
                    const Tensors all = attention(x, S, Nk, dy, cut ? from_ints(lengths) : Tensor());
                    for (int64_t s = 0; s < S; s++) {
                        const int64_t keys = cut ? lengths[size_t(s)] : Nk, k0 = s * Nk, q0 = s * Nq;
                        const Tensors alone = attention({x[0].slice(q0, q0 + Nq), x[1].slice(k0, k0 + keys), x[2].slice(k0, k0 + keys)}, 1, keys, dy.slice(q0, q0 + Nq), {});
                        EXPECT(same_bits(alone[0], all[0].slice(q0, q0 + Nq)));
                        for (size_t i : {1, 2}) {
                            EXPECT(same_bits(alone[i], all[i].slice(k0, k0 + keys)));
                            for (float v : to_floats(all[i].slice(k0 + keys, k0 + Nk))) EXPECT_EQ(v, 0.0f);
                        }
                    }
                }
            }
    });
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

TEST_CASE("order: no op and no gradient depends on the number of threads, nor on where its inputs stand") {
    struct Op { std::string name; Tensors inputs; std::function<Tensor(const Tensors&)> f; size_t fixed = 99; };       // inputs from `fixed` on take no gradient
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
        {"linear, all bf16", {normal({517, 301}, "wide", 0, 1, DType::bf16), half, normal({97}, "scale")},
         [](const Tensors& x) { return nn::linear(x[0], x[1], {}, {.act = Act::gelu_tanh, .scale = x[2]}); }},
        {"linear, one row", {normal({1, 4096}, "row"), normal({97, 4096}, "w")}, [](const Tensors& x) { return nn::linear(x[0], x[1], {}); }},
        {"layernorm", {wide, c, c}, [](const Tensors& x) { return nn::layernorm(x[0], x[1], x[2], 1e-5f); }},
        {"rmsnorm", {wide, c}, [](const Tensors& x) { return nn::rmsnorm(x[0], x[1], 1e-5f); }},
        {"softmax_rows", {wide}, [](const Tensors& x) { return nn::softmax_rows(x[0]); }},
        {"attention", {normal({516, 256}, "qkv")}, [=](const Tensors& x) { return attention(x, Mask::none); }},
        {"attention, causal", {normal({516, 256}, "qkv")}, [=](const Tensors& x) { return attention(x, Mask::causal); }},
        {"rope", {normal({67, 8, 64}, "x"), normal({80, 32}, "cos"), normal({80, 32}, "sin")}, [](const Tensors& x) { return nn::rope(x[0], x[1], x[2], 13); }, 1},
        {"gather_rows", {wide}, [](const Tensors& x) { return nn::gather_rows(x[0], ints(500, 3, 517)); }},
        {"scatter_rows", {wide}, [](const Tensors& x) { return nn::scatter_rows(600, {{x[0], ints(517, 7, 600)}}); }},
        {"drop_tokens", {tokens}, [](const Tensors& x) { return nn::drop_tokens(x[0], 5); }},
        {"prepend_tokens", {tokens, normal({5, 65}, "t")}, [](const Tensors& x) { return nn::prepend_tokens(x[0], x[1]); }},
        {"add_rows", {wide, c}, [](const Tensors& x) { return nn::add_rows(x[0], x[1].reshape({1, 301})); }},
        {"patchify, f32", {normal({4, 3, 96, 64}, "pixels")}, [](const Tensors& x) { return nn::patchify({x[0]}, 16, 2); }, 0},
        {"patchify, u8", {pixels}, [](const Tensors& x) { return nn::patchify({x[0], {0.5f, 0.4f, 0.3f}, {0.2f, 0.3f, 0.4f}}, 16); }, 0},
        {"adaptive_pool", {normal({2, 3, 14, 14, 33}, "grid")}, [](const Tensors& x) { return nn::adaptive_pool(x[0], 3, 8, 8); }},
        {"token_mean", {tokens}, [](const Tensors& x) { return nn::token_mean(x[0]); }},
        {"token_mean, wide", {normal({1, 300, 513}, "tokens")}, [](const Tensors& x) { return nn::token_mean(x[0]); }},
        {"mix", {tokens, normal({5, 131, 65}, "others"), normal({5, 2}, "weights")}, [](const Tensors& x) { return nn::mix({x[0], x[1]}, x[2]); }},
    };
    each_isa([&] {
        for (const Op& op : ops) {
            Tensors moved;
            std::vector<bool> wanted;
            for (const Tensor& t : op.inputs) moved.push_back(amid_nan(t)), wanted.push_back(wanted.size() < op.fixed);
            auto on = [&](int threads, const Tensors& x, bool amid) {
                const Threads n(threads);
                const Tensor y = op.f(x), dy = normal(y.shape(), "dy", 0, 1, y.dtype());
                return derive(op.f, x, amid ? amid_nan(dy) : dy, wanted);
            };
            const Derived one = on(1, op.inputs, false);
            auto compare = [&](const Derived& other, const char* what) {
                EXPECT_MESSAGE(same_bits(one.y, other.y), op.name, ": ", what);
                for (size_t i = 0; i < op.inputs.size(); i++)
                    if (wanted[i]) EXPECT_MESSAGE(same_bits(one.gradients[i], other.gradients[i]), op.name, ", gradient of input ", i, ": ", what);
            };
            compare(on(2, op.inputs, false), "1 and 2 threads");
            compare(on(5, op.inputs, false), "1 and 5 threads");
            compare(on(2, moved, true), "at another address");
        }
    });
}
