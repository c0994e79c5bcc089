// GPU kernels, emulated, where the op cases do not reach.
// The tensor-core product: rows of whole 16 bytes, which the op cases' odd shapes are not, more steps along k than stages, ragged edges.
#include <cmath>
#include <functional>
#include "kernels/device.h"
#include "kernels/emu/emulator.h"
#include "kernels/linear.h"
#include "kernels/reduce.h"
#include "nn/functional.h"
#include "tests/harness.h"
#include "tests/test.h"

using namespace merv;
using namespace merv::test;

namespace {

// Every element's sum in double, and of the products' sizes: f32 sums of K terms err by at most K ulps of half that, and a
// result kept in bf16 by half an ulp more.
struct Sums { std::vector<double> value, size; };
template <class F> Sums sums(int64_t M, int64_t N, int64_t K, F product) {
    Sums s{std::vector<double>(size_t(M * N)), std::vector<double>(size_t(M * N))};
    for (int64_t m = 0; m < M; m++)
        for (int64_t n = 0; n < N; n++)
            for (int64_t k = 0; k < K; k++) {
                const double p = product(m, n, k);
                s.value[size_t(m * N + n)] += p, s.size[size_t(m * N + n)] += std::fabs(p);
            }
    return s;
}
void expect_near(const Tensor& t, const Sums& want, int64_t K) {
    const std::vector<float> got = to_floats(t);
    REQUIRE_EQ(got.size(), want.value.size());
    for (size_t i = 0; i < got.size(); i++) {
        const double limit = double(K) * 0x1p-24 * want.size[i] + (t.dtype() == DType::bf16 ? 0x1p-8 * std::fabs(want.value[i]) : 0);
        if (!(std::fabs(got[i] - want.value[i]) <= limit)) FAIL_CHECK("element " << i << " of " << t.describe() << " is " << got[i] << ", not " << want.value[i]);
    }
    EXPECT(true);
}

}

TEST_CASE("gpu: products on tensor cores, forward and backward") {
    constexpr int64_t M = 136, N = 152, K = 168;        // two blocks of 128 each way, six steps of 32 along k, three stages
    const std::vector<float> x = to_floats(normal({M, K}, "x", 0, 1, DType::bf16)), w = to_floats(normal({N, K}, "w", 0, 1, DType::bf16)), dz = to_floats(normal({M, N}, "dz", 0, 1, DType::bf16));
    kernels::use_checks(true);
    const OnDevice emulated(Device::emu);
    const Tensor tx = from_floats(x, {M, K}, DType::bf16), tw = from_floats(w, {N, K}, DType::bf16), tdz = from_floats(dz, {M, N}, DType::bf16);
    const Tensor y({M, N}, DType::bf16), dx({M, K}, DType::bf16), dw = from_floats(std::vector<float>(size_t(N * K), 0.0f), {N, K});
    kernels::linear({.y = y, .x = tx, .w = tw});
    expect_near(y, sums(M, N, K, [&](int64_t m, int64_t n, int64_t k) { return double(x[size_t(m * K + k)]) * w[size_t(n * K + k)]; }), K);
    kernels::linear({.dx = dx, .dz = tdz, .w = tw});
    expect_near(dx, sums(M, K, N, [&](int64_t m, int64_t k, int64_t n) { return double(dz[size_t(m * N + n)]) * w[size_t(n * K + k)]; }), N);
    kernels::linear({.dw = dw, .dz = tdz, .x = tx});
    expect_near(dw, sums(N, K, M, [&](int64_t n, int64_t k, int64_t m) { return double(dz[size_t(m * N + n)]) * x[size_t(m * K + k)]; }), M);
}

TEST_CASE("gpu: products of few rows read the matrix once") {
    for (auto [tx, tw] : {std::pair{DType::bf16, DType::bf16}, std::pair{DType::f32, DType::bf16}, std::pair{DType::f32, DType::f32}, std::pair{DType::bf16, DType::f32}})
        for (int64_t M : {1, 2, 3, 4}) {
            constexpr int64_t N = 18, K = 520;          // more than two blocks' columns, and two steps and a piece of a warp
            const std::vector<float> x = to_floats(normal({M, K}, "x", 0, 1, tx)), w = to_floats(normal({N, K}, "w", 0, 1, tw));
            kernels::use_checks(true);
            const OnDevice emulated(Device::emu);
            const Tensor y({M, N}, tx), residual = from_floats(std::vector<float>(size_t(M * N), 1.0f), {M, N}, tx);
            kernels::linear({.y = y, .x = from_floats(x, {M, K}, tx), .w = from_floats(w, {N, K}, tw), .residual = residual});
            Sums want = sums(M, N, K, [&](int64_t m, int64_t n, int64_t k) { return double(x[size_t(m * K + k)]) * w[size_t(n * K + k)]; });
            for (double& v : want.value) v += 1;
            for (double& v : want.size) v += 1;
            expect_near(y, want, K);
        }
}

// kernels/reduce.h defines the order of every addition, so the result is the same bits anywhere.
TEST_CASE("gpu: sums of a flat buffer have the bits of their definition") {
    kernels::use_checks(true);
    for (DType dtype : {DType::f32, DType::bf16})
        for (int64_t n : {1, 15, 17, 4095, 4096, 4097, 9001})
            for (bool squares : {false, true}) {
                const std::vector<float> x = to_floats(normal({n}, "x", 0.3, 1, dtype));
                std::vector<float> want;
                for (int64_t c = 0; c < n; c += kernels::kSumChunk) {
                    double running[16] = {};
                    for (int64_t i = c; i < std::min(n, c + kernels::kSumChunk); i++) {
                        const double v = x[size_t(i)];
                        running[(i - c) % 16] += squares ? v * v : v;
                    }
                    for (int half = 8; half; half /= 2)
                        for (int j = 0; j < half; j++) running[j] += running[j + half];
                    want.push_back(float(running[0]));
                }
                const OnDevice emulated(Device::emu);
                const std::vector<float> got = to_floats(kernels::chunk_sums(from_floats(x, {n}, dtype), squares));
                EXPECT_MESSAGE(got == want, n, " of ", name_of(dtype), squares ? ", squares" : "");
            }
}

// Blocks and warps in 50 orders, asynchronous copies at any time they may happen: gradients are the same bits (attention: test_gpu_attention.cpp).
TEST_CASE("gpu: every backward has the same bits in every schedule") {
    struct Op { const char* name; std::vector<Tensor> inputs; std::function<Tensor(const Tensors&)> call; };
    auto f32 = [](Shape s, const char* what) { return normal(s, what); };
    auto half = [](Shape s, const char* what) { return normal(s, what, 0, 1, DType::bf16); };
    std::vector<int32_t> index, labels;
    for (int i = 0; i < 70; i++) index.push_back(i * 5 % 9), labels.push_back(i % 4 ? i % 13 : -100);
    const Tensor picks = from_ints(index), wanted = from_ints(labels), cos = normal({6, 4}, "cos"), sin = normal({6, 4}, "sin");
    const std::vector<Op> ops{
        {"linear, tensor cores", {half({136, 64}, "x"), half({72, 64}, "w"), f32({72}, "b")}, [](const Tensors& x) { return nn::linear(x[0], x[1], x[2], {.act = nn::Act::gelu}); }},
        {"linear, plain", {f32({70, 20}, "x"), f32({30, 20}, "w"), f32({30}, "b"), f32({70, 30}, "gate"), f32({30}, "scale")},
         [](const Tensors& x) { return nn::linear(x[0], x[1], x[2], {.act = nn::Act::silu, .gate = x[3], .scale = x[4]}); }},
        {"layernorm", {f32({70, 40}, "x"), f32({40}, "w"), f32({40}, "b")}, [](const Tensors& x) { return nn::layernorm(x[0], x[1], x[2], 1e-5f); }},
        {"rmsnorm", {half({9, 1200}, "x"), f32({1200}, "w")}, [](const Tensors& x) { return nn::rmsnorm(x[0], x[1], 1e-5f); }},
        {"rope", {f32({6, 3, 8}, "x")}, [=](const Tensors& x) { return nn::rope(x[0], cos.to(x[0].device()), sin.to(x[0].device()), 0); }},
        {"gather_rows", {f32({9, 24}, "x")}, [=](const Tensors& x) { return nn::gather_rows(x[0], picks); }},
        {"add_rows", {f32({70, 24}, "x"), f32({7, 24}, "table")}, [](const Tensors& x) { return nn::add_rows(x[0], x[1], 1); }},
        {"prepend_tokens", {f32({5, 6, 24}, "x"), f32({2, 24}, "tokens")}, [](const Tensors& x) { return nn::prepend_tokens(x[0], x[1]); }},
        {"adaptive_pool", {f32({1, 4, 5, 5, 8}, "x")}, [](const Tensors& x) { return nn::adaptive_pool(x[0], 3, 3, 3); }},
        {"token_mean", {f32({2, 130, 24}, "x")}, [](const Tensors& x) { return nn::token_mean(x[0]); }},
        {"mix", {f32({2, 5, 24}, "a"), f32({2, 5, 24}, "b"), f32({2, 2}, "weights")}, [](const Tensors& x) { return nn::mix({x[0], x[1]}, x[2]); }},
        {"softmax_rows", {f32({7, 70}, "x")}, [](const Tensors& x) { return nn::softmax_rows(x[0], 0.5f); }},
        {"linear_cross_entropy", {f32({70, 16}, "x"), f32({13, 16}, "w")}, [=](const Tensors& x) { return nn::linear_cross_entropy(x[0], x[1], wanted); }},
    };
    kernels::use_checks(false);
    const OnDevice emulated(Device::emu);
    for (const Op& op : ops) {
        Tensors x, first;
        for (const Tensor& t : op.inputs) x.push_back(t.to(Device::emu));
        emu::set_schedule(emu::Order::fifo);
        const Tensor y = op.call(x), dy = normal(y.shape(), "dy", 0, 1, y.dtype()).to(Device::emu);
        for (unsigned seed = 0; seed < 50; seed++) {
            emu::set_schedule(seed == 0 ? emu::Order::fifo : seed == 1 ? emu::Order::lifo : emu::Order::seeded, seed);
            const Derived d = derive(op.call, x, dy, std::vector<bool>(x.size(), true));
            Tensors all{d.y.to(Device::cpu)};
            for (const Tensor& g : d.gradients) all.push_back(g.to(Device::cpu));
            if (first.empty()) first = all;
            for (size_t i = 0; i < all.size(); i++) EXPECT_MESSAGE(same_bits(all[i], first[i]), std::string(op.name), ": result ", i, " in schedule ", seed);
        }
    }
    emu::set_schedule(emu::Order::fifo);
    kernels::use_checks(true);
}
