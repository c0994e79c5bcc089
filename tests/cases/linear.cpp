// y = residual + scale * (act(x w^T + bias) * gate)
#include "tests/harness.h"
#include <cmath>
#include "nn/functional.h"
#include "tests/test.h"

using namespace merv;
using namespace merv::test;
using nn::Act;

namespace {

struct Extras { bool bias = false, gate = false, scale = false, residual = false; };

Real activate(Act act, const Real& x, Round q) {
    switch (act) {
        case Act::none: return x;
        case Act::gelu: return q(q(0.5 * x) * q(1 + q(erf(q(x * q(std::sqrt(0.5)))))));
        case Act::gelu_tanh: {
            const Real cube = q(x * q(x * x)), inner = q(q(std::sqrt(2 / M_PI)) * q(x + q(q(0.044715) * cube)));
            return q(q(0.5 * x) * q(1 + q(tanh(inner))));
        }
        case Act::quick_gelu: return q(x * q(1 / q(1 + q(exp(-q(q(1.702) * x))))));
        case Act::silu: return q(x * q(1 / q(1 + q(exp(-x)))));
    }
    return NAN;
}

// x (M, K), w (N, K), bias (N), gate (M, N), scale (N), residual (M, N)
Numbers formula(const std::vector<Numbers>& in, int64_t M, int64_t N, int64_t K, Act act, Round q) {
    const Numbers &x = in[0], &w = in[1], &bias = in[2], &gate = in[3], &scale = in[4], &residual = in[5];
    const int64_t unit = q.activations == DType::bf16 && q.parameters == DType::bf16 ? 2 : 1;
    Numbers y;
    for (int64_t m = 0; m < M; m++)
        for (int64_t n = 0; n < N; n++) {
            Real v;
            for (int64_t k0 = 0; k0 < K; k0 += 256 * unit) {    // the order of sums is part of the op
                Real chunk;
                for (int64_t k = k0; k < std::min(k0 + 256 * unit, K); k += unit)
                    for (int64_t i = std::min(k + unit, K); i-- > k;) chunk = madd(x[size_t(m * K + i)], w[size_t(n * K + i)], chunk, q);
                v = q(v + chunk);
            }
            v = q.gradient_kept(v);                             // dz
            if (!bias.empty()) v = q(v + bias[size_t(n)]);
            v = activate(act, q.kept(v), q);                    // z
            if (!gate.empty()) v = q(v * gate[size_t(m * N + n)]);
            if (!scale.empty()) v = q(v * scale[size_t(n)]);
            if (!residual.empty()) v = q(v + residual[size_t(m * N + n)]);
            y.push_back(v);
        }
    return y;
}

Setting setting(int64_t M, int64_t N, int64_t K, Extras e = {}, Act act = Act::none, double spread = 1) {
    constexpr const char* acts[] = {"", ", gelu", ", gelu_tanh", ", quick_gelu", ", silu"};
    const std::string name = concat(M, "x", N, "x", K, acts[int(act)], e.bias ? ", bias" : "", e.gate ? ", gate" : "", e.scale ? ", scale" : "",
                                    e.residual ? ", residual" : "", spread == 1 ? "" : concat(", spread ", spread));
    auto optional = [](bool on, Input in) { return on ? in : absent(); };
    return {name,
            {input({M, K}, 0, spread), parameter({N, K}, 0, 1 / std::sqrt(double(K))), optional(e.bias, parameter({N})), optional(e.gate, input({M, N})),
             optional(e.scale, parameter({N})), optional(e.residual, input({M, N}))},
            [=](const Tensors& x) { return nn::linear(x[0], x[1], x[2], {.act = act, .gate = x[3], .scale = x[4], .residual = x[5]}); },
            [=](const std::vector<Numbers>& x, Round q) { return formula(x, M, N, K, act, q); }};
}

}

TEST_CASE("linear: sums") {
    std::vector<Setting> s;
    const int64_t widths[] = {1, 15, 17, 31, 33, 65};
    int next = 0;
    for (int64_t M : {1, 2, 13, 505})           // 13: one above a register tile; 505: one above a block
        for (int64_t K : {1, 255, 256, 257, 600}) s.push_back(setting(M, widths[next++ % 6], K));
    s.push_back(setting(1009, 7, 20));          // three blocks
    s.push_back(setting(1, 1, 1));
    s.push_back(setting(6, 32, 1031));          // five chunks
    // gradients: dw sums over rows, dx over columns, in chunks too
    for (auto [M, N, K] : std::vector<std::array<int64_t, 3>>{{255, 5, 7}, {256, 1, 3}, {257, 17, 5}, {600, 33, 2}, {1031, 3, 1}, {3, 255, 9}, {1, 256, 5},
                                                              {2, 257, 15}, {17, 601, 3}, {9, 1031, 2}, {5, 7, 800}, {16, 15, 33}, {15, 16, 31}})
        s.push_back(setting(M, N, K));
    check_op("linear", s);
}

TEST_CASE("linear: bias, gate, scale, residual") {
    std::vector<Setting> s;
    for (int bits = 1; bits < 16; bits++) s.push_back(setting(13, 33, 67, {bits % 2 > 0, bits / 2 % 2 > 0, bits / 4 % 2 > 0, bits / 8 > 0}));
    s.push_back(setting(505, 17, 19, {true, true, true, true}));
    s.push_back(setting(63, 257, 3, {true, true, true, true}));         // sums of columns: chunks of 64 rows
    s.push_back(setting(65, 255, 1, {true, true, true, true}));
    s.push_back(setting(1, 31, 257, {true, true, true, true}));
    check_op("linear extras", s);
}

TEST_CASE("linear: activations") {
    for (Act act : {Act::gelu, Act::gelu_tanh, Act::quick_gelu, Act::silu}) {
        std::vector<Setting> s;
        for (double spread : {0.01, 1.0, 5.0, 40.0}) s.push_back(setting(61, 33, 3, {}, act, spread));     // the far tails too
        s.push_back(setting(2, 15, 67, {.bias = true}, act));
        s.push_back(setting(13, 33, 31, {true, true, true, true}, act));
        constexpr const char* names[] = {"", "linear gelu", "linear gelu_tanh", "linear quick_gelu", "linear silu"};
        check_op(names[int(act)], s);
    }
}

TEST_CASE("linear: the residual may be the output itself") {
    for (int64_t M : {1, 13, 505}) {
        const Tensor x = normal({M, 67}, "x"), w = normal({33, 67}, "w"), residual = normal({M, 33}, "residual"), y(residual.shape());
        y.copy_from(residual);
        kernels::linear({.y = y, .x = x, .w = w, .residual = y});
        EXPECT(same_bits(y, nn::linear(x, w, {}, {.residual = residual})));
    }
}

TEST_CASE("linear: leading dimensions are rows, and there may be none") {
    const Tensor x = normal({3, 5, 17}, "x"), w = normal({33, 17}, "w");
    EXPECT_EQ(nn::linear(x, w, {}).shape(), Shape({3, 5, 33}));
    EXPECT(same_bits(nn::linear(x, w, {}).reshape({15, 33}), nn::linear(x.reshape({15, 17}), w, {})));
    EXPECT_EQ(nn::linear(Tensor({0, 17}), w, {}).shape(), Shape({0, 33}));
}

TEST_CASE("linear: wrong arguments are refused by name") {
    const Tensor x = normal({2, 8}, "x"), w = normal({4, 8}, "w");
    auto refused = [&](auto call) { EXPECT_THROWS_WITH_AS(call(), doctest::Contains("linear: "), std::logic_error); };
    refused([&] { nn::linear(x, normal({4, 7}, "w"), {}); });
    refused([&] { nn::linear(x, normal({32}, "w"), {}); });
    refused([&] { nn::linear(Tensor({2, 8}, DType::i32), w, {}); });
    refused([&] { nn::linear(x, Tensor({4, 8}, DType::i32), {}); });
    refused([&] { nn::linear(x, w, normal({5}, "b")); });
    refused([&] { nn::linear(x, w, Tensor({4}, DType::i32)); });
    refused([&] { nn::linear(x, w, {}, {.gate = normal({4, 2}, "g")}); });
    refused([&] { nn::linear(x, w, {}, {.gate = normal({2, 4}, "g", 0, 1, DType::bf16)}); });
    refused([&] { nn::linear(x, w, {}, {.scale = normal({2}, "s")}); });
    refused([&] { nn::linear(x, w, {}, {.residual = normal({2, 5}, "r")}); });
    refused([&] { nn::linear(x, w, {}, {.residual = normal({2, 4}, "r", 0, 1, DType::bf16)}); });
    refused([&] { nn::linear(normal({2, 8}, "x", 0, 1, DType::bf16), w, {}, {.residual = normal({2, 4}, "r")}); });
    refused([&] { nn::linear(normal({2, 8}, "x", 0, 1, DType::bf16), w, {}, {.gate = normal({2, 4}, "g")}); });
}
