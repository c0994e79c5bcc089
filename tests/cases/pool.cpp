// Averages: adaptive_pool, token_mean, mix, softmax_rows
#include "tests/harness.h"
#include <algorithm>
#include <cmath>
#include "kernels/pool.h"
#include "nn/functional.h"
#include "tests/test.h"

using namespace merv;
using namespace merv::test;

namespace {

using Grid = std::array<int64_t, 3>;            // t, y, x

Setting pool(int64_t B, Grid in, Grid out, int64_t C) {
    auto show = [](Grid g) { return concat(g[0], "x", g[1], "x", g[2]); };
    return {concat(B, " of ", show(in), "x", C, " to ", show(out)), {input({B, in[0], in[1], in[2], C})},
            [=](const Tensors& x) { return nn::adaptive_pool(x[0], out[0], out[1], out[2]); },
            [=](const std::vector<Numbers>& x, Round q) {
                auto from = [&](int axis, int64_t i) { return int64_t(std::floor(double(i) * double(in[axis]) / double(out[axis]))); };
                auto to = [&](int axis, int64_t i) { return int64_t(std::ceil(double(i + 1) * double(in[axis]) / double(out[axis]))); };
                Numbers y;
                for (int64_t b = 0; b < B; b++)
                    for (int64_t t = 0; t < out[0]; t++)
                        for (int64_t i = 0; i < out[1]; i++)
                            for (int64_t j = 0; j < out[2]; j++)
                                for (int64_t c = 0; c < C; c++) {
                                    Real sum;
                                    double count = 0;
                                    for (int64_t tt = from(0, t); tt < to(0, t); tt++)
                                        for (int64_t ii = from(1, i); ii < to(1, i); ii++)
                                            for (int64_t jj = from(2, j); jj < to(2, j); jj++, count++)
                                                sum = q(sum + x[0][size_t((((b * in[0] + tt) * in[1] + ii) * in[2] + jj) * C + c)]);
                                    y.push_back(q(sum / count));
                                }
                return y;
            }};
}

Setting mean(int64_t B, int64_t N, int64_t C, double offset = 0) {
    return {concat(B, "x", N, "x", C, offset == 0 ? "" : concat(", mean ", offset)), {input({B, N, C}, offset)},
            [](const Tensors& x) { return nn::token_mean(x[0]); },
            [=](const std::vector<Numbers>& x, Round q) {
                Numbers y;
                for (int64_t b = 0; b < B; b++)
                    for (int64_t c = 0; c < C; c++) {
                        Real sum;
                        for (int64_t n0 = 0; n0 < N; n0 += 256) {               // chunks as in a linear
                            Real chunk;
                            for (int64_t n = n0; n < std::min(n0 + 256, N); n++) chunk = q(chunk + x[0][size_t((b * N + n) * C + c)]);
                            sum = q(sum + chunk);
                        }
                        y.push_back(q(sum / double(N)));
                    }
                return y;
            }};
}

Setting mixed(int64_t E, int64_t B, int64_t N, int64_t C, bool f32_weights = false) {
    std::vector<Input> inputs(size_t(E), input({B, N, C}));
    inputs.push_back(f32_weights ? weights({B, E}) : input({B, E}));
    return {concat(E, " of ", B, "x", N, "x", C, f32_weights ? ", f32 weights" : ""), inputs,
            [=](const Tensors& x) { return nn::mix(Tensors(x.begin(), x.end() - 1), x.back()); },
            [=](const std::vector<Numbers>& x, Round q) {
                Numbers y;
                for (int64_t b = 0; b < B; b++)
                    for (int64_t i = 0; i < N * C; i++) {
                        Real sum;
                        for (int64_t e = 0; e < E; e++) sum = madd(x.back()[size_t(b * E + e)], x[size_t(e)][size_t(b * N * C + i)], sum, q);
                        y.push_back(sum);
                    }
                return y;
            }};
}

Setting softmax(int64_t M, int64_t C, float scale, double spread = 1, double offset = 0) {
    return {concat(M, "x", C, ", scale ", scale, ", spread ", spread, offset == 0 ? "" : concat(", mean ", offset)), {input({M, C}, offset, spread)},
            [=](const Tensors& x) { return nn::softmax_rows(x[0], scale); },
            [=](const std::vector<Numbers>& x, Round q) {
                Numbers y;
                for (int64_t m = 0; m < M; m++) {
                    auto score = [&](int64_t c) { return q(x[0][size_t(m * C + c)] * double(scale)); };
                    double top = score(0).v;                    // of no consequence for the result, so a constant for its gradient
                    for (int64_t c = 1; c < C; c++) top = std::max(top, score(c).v);
                    Numbers relative, e;
                    Real sum;
                    auto exponentials = [&] {
                        e.clear(), sum = 0;
                        for (const Real& v : relative) e.push_back(q(exp(v))), sum = q(sum + e.back());
                    };
                    for (int64_t c = 0; c < C; c++) relative.push_back(q(score(c) - top));
                    exponentials();
                    if (q.backward) {                           // which has y alone, in its type: exponentials that add up to 1
                        for (size_t c = 0; c < e.size(); c++) relative[c].v = std::log(q.kept(e[c].v / sum.v).v);
                        exponentials();
                        sum.v = 1;
                    }
                    for (const Real& v : e) y.push_back(q(v / sum));
                }
                return y;
            }};
}

}

TEST_CASE("adaptive_pool") {
    check_op("adaptive_pool", {pool(1, {1, 1, 1}, {1, 1, 1}, 1), pool(2, {1, 16, 16}, {1, 8, 8}, 15), pool(3, {1, 14, 14}, {1, 8, 8}, 17),
                               pool(2, {1, 7, 7}, {1, 8, 8}, 33),
                               pool(1, {1, 14, 14}, {1, 6, 6}, 31), pool(1, {16, 7, 5}, {8, 3, 4}, 17), pool(2, {5, 14, 7}, {3, 8, 8}, 5),
                               pool(1, {8, 14, 14}, {16, 8, 8}, 3),
                               pool(1, {1, 27, 13}, {1, 1, 1}, 65), pool(2, {3, 11, 2}, {2, 13, 3}, 16)});
}
TEST_CASE("token_mean") {
    check_op("token_mean", {mean(1, 1, 1), mean(3, 1, 17), mean(2, 255, 15), mean(2, 257, 33), mean(1, 1024, 16), mean(13, 7, 257), mean(1, 3137, 5, 3)});
}
TEST_CASE("mix") { check_op("mix", {mixed(1, 1, 1, 1), mixed(4, 1, 7, 17), mixed(3, 2, 64, 33), mixed(4, 3, 13, 15), mixed(2, 1, 65, 257),
                                         mixed(4, 3, 13, 15, true), mixed(3, 2, 1, 17, true), mixed(2, 1, 1, 4097)}); }
TEST_CASE("softmax_rows") {
    check_op("softmax_rows", {softmax(1, 1, 1), softmax(1, 4, 0.125f), softmax(13, 15, 1), softmax(7, 17, 0.7f, 4), softmax(31, 33, 1, 1, 300),
                              softmax(5, 257, 1, 30),
                              softmax(2, 31, -1), softmax(509, 5, 3, 100), softmax(3, 4099, 1)});
}
TEST_CASE("softmax_rows: the output may be the input") {
    const Tensor x = normal({13, 17}, "x"), y(x.shape());
    y.copy_from(x);
    kernels::softmax_rows({.y = y, .x = y, .scale = 0.5f});
    EXPECT(same_bits(y, nn::softmax_rows(x, 0.5f)));
}

TEST_CASE("pool: wrong arguments are refused by name") {
    const Tensor grid = normal({1, 2, 4, 4, 8}, "x"), tokens = normal({2, 3, 8}, "x"), ints({2, 3, 8}, DType::i32),
                 half = normal({2, 3, 8}, "x", 0, 1, DType::bf16), w = normal({2, 2}, "w");
    auto refused = [&](const char* op, auto call) { EXPECT_THROWS_WITH_AS(call(), doctest::Contains(op), std::logic_error); };
    refused("adaptive_pool: ", [&] { nn::adaptive_pool(tokens, 1, 1, 1); });
    refused("adaptive_pool: ", [&] { nn::adaptive_pool(grid, 0, 2, 2); });
    refused("adaptive_pool: ", [&] { nn::adaptive_pool(Tensor({1, 0, 4, 4, 8}), 1, 2, 2); });
    refused("adaptive_pool: ", [&] { nn::adaptive_pool(Tensor({1, 2, 4, 4, 8}, DType::i32), 1, 2, 2); });
    refused("token_mean: ", [&] { nn::token_mean(grid); });
    refused("token_mean: ", [&] { nn::token_mean(Tensor({2, 0, 8})); });
    refused("token_mean: ", [&] { nn::token_mean(ints); });
    refused("mix: ", [&] { nn::mix({tokens, tokens, tokens}, w); });
    refused("mix: ", [&] { nn::mix({tokens, normal({2, 4, 8}, "y")}, w); });
    refused("mix: ", [&] { nn::mix({tokens, half}, w); });
    refused("mix: ", [&] { nn::mix({half, tokens}, w); });
    refused("mix: ", [&] { nn::mix({}, w); });
    refused("mix: ", [&] { nn::mix({tokens, tokens}, normal({2, 2}, "w", 0, 1, DType::bf16)); });
    refused("softmax_rows: ", [&] { nn::softmax_rows(ints); });
    refused("softmax_rows: ", [&] { nn::softmax_rows(Tensor({2, 0})); });
}
