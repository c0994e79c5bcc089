// Moving rows: gather, scatter, drop and prepend are exact; add_rows rounds once
#include "tests/harness.h"
#include "kernels/rows.h"
#include "nn/functional.h"
#include "tests/test.h"

using namespace merv;
using namespace merv::test;

namespace {

using Index = std::vector<int32_t>;

// row `from` of width C of x becomes row `to` of y
void move_row(Numbers& y, int64_t to, const Numbers& x, int64_t from, int64_t C) {
    for (int64_t c = 0; c < C; c++) y[size_t(to * C + c)] = x[size_t(from * C + c)];
}

Setting gather(int64_t V, int64_t C, Index index) {
    return {concat(index.size(), " of ", V, "x", C), {input({V, C})},
            [=](const Tensors& x) { return nn::gather_rows(x[0], from_ints(index)); },
            [=](const std::vector<Numbers>& x, Round) {
                Numbers y(index.size() * size_t(C));
                for (size_t i = 0; i < index.size(); i++) move_row(y, int64_t(i), x[0], index[i], C);
                return y;
            }};
}
Setting embed(int64_t V, int64_t C, Index index, DType dtype) {        // the formula of gather, of a parameter
    Setting s = gather(V, C, index);
    s.name += concat(" to ", name_of(dtype)), s.inputs = {parameter({V, C})};
    s.op = [=](const Tensors& x) { return nn::embedding(x[0], from_ints(index), dtype); };
    return s;
}
Setting slice(int64_t R, int64_t C, int64_t begin, int64_t end) {
    return {concat(begin, " to ", end, " of ", R, "x", C), {input({R, C})},
            [=](const Tensors& x) { return nn::slice_rows(x[0], begin, end); },
            [=](const std::vector<Numbers>& x, Round) { return Numbers(x[0].begin() + begin * C, x[0].begin() + end * C); }};
}
Setting scatter(int64_t V, int64_t C, Index a, Index b) {
    return {concat(a.size(), " and ", b.size(), " into ", V, "x", C), {input({int64_t(a.size()), C}), input({int64_t(b.size()), C})},
            [=](const Tensors& x) { return nn::scatter_rows(V, {{x[0], from_ints(a)}, {x[1], from_ints(b)}}); },
            [=](const std::vector<Numbers>& x, Round) {
                Numbers y(size_t(V * C));                       // rows nobody names are zero
                for (size_t i = 0; i < a.size(); i++) move_row(y, a[i], x[0], int64_t(i), C);
                for (size_t i = 0; i < b.size(); i++) move_row(y, b[i], x[1], int64_t(i), C);
                return y;
            }};
}
Setting drop(int64_t S, int64_t N, int64_t C, int64_t n) {
    return {concat(n, " of ", S, "x", N, "x", C), {input({S, N, C})},
            [=](const Tensors& x) { return nn::drop_tokens(x[0], n); },
            [=](const std::vector<Numbers>& x, Round) {
                Numbers y(size_t(S * (N - n) * C));
                for (int64_t s = 0; s < S; s++) for (int64_t i = n; i < N; i++) move_row(y, s * (N - n) + i - n, x[0], s * N + i, C);
                return y;
            }};
}
Setting prepend(int64_t S, int64_t N, int64_t C, int64_t T) {
    return {concat(T, " to ", S, "x", N, "x", C), {input({S, N, C}), parameter({1, T, C})},
            [](const Tensors& x) { return nn::prepend_tokens(x[0], x[1]); },
            [=](const std::vector<Numbers>& x, Round) {
                Numbers y(size_t(S * (T + N) * C));
                for (int64_t s = 0; s < S; s++) {
                    for (int64_t i = 0; i < T; i++) move_row(y, s * (T + N) + i, x[1], i, C);
                    for (int64_t i = 0; i < N; i++) move_row(y, s * (T + N) + T + i, x[0], s * N + i, C);
                }
                return y;
            }};
}
Setting add(int64_t groups, int64_t T, int64_t inner, int64_t C) {      // rows (group, t, inner): table row t is added
    return {concat(groups, "x", T, "x", inner, "x", C), {input({groups, T, inner, C}), parameter({T, C})},
            [=](const Tensors& x) { return nn::add_rows(x[0], x[1], inner); },
            [=](const std::vector<Numbers>& x, Round q) {
                Numbers y(x[0].size());
                size_t at = 0;
                for (int64_t g = 0; g < groups; g++)
                    for (int64_t t = 0; t < T; t++)
                        for (int64_t i = 0; i < inner; i++)
                            for (int64_t c = 0; c < C; c++, at++) y[at] = q(x[0][at] + x[1][size_t(t * C + c)]);
                return y;
            }};
}

Index counted(int32_t n, int32_t step) {        // 0, step, 2 step, ... modulo the prime n: a permutation
    Index index;
    for (int64_t i = 0; i < n; i++) index.push_back(int32_t(i * step % n));
    return index;
}

}

TEST_CASE("gather_rows") {
    check_op("gather_rows", {gather(1, 1, {0}), gather(7, 15, {6, 0, 3, 3, 6}), gather(13, 17, counted(13, 5)),
                             gather(509, 33, counted(509, 71)), gather(3, 64, {}),
                             gather(3, 130, {2, 2, 0, 2}), gather(2, 31, Index(300, 1))});
}
TEST_CASE("embedding") {
    std::vector<Setting> s;
    for (DType dtype : {DType::f32, DType::bf16})
        for (const Setting& e : {embed(1, 1, {0}, dtype), embed(7, 15, {6, 0, 3, 3, 6, 3}, dtype), embed(13, 17, counted(13, 5), dtype), embed(5, 130, {4, 4, 4, 1}, dtype),
                                 embed(3, 33, Index(300, 1), dtype), embed(3, 64, {}, dtype)})
            s.push_back(e);
    check_op("embedding", s);
}
TEST_CASE("slice_rows") { check_op("slice_rows", {slice(1, 1, 0, 1), slice(7, 15, 2, 5), slice(13, 17, 0, 13), slice(5, 33, 4, 5), slice(5, 3, 2, 2)}); }
TEST_CASE("scatter_rows") {
    check_op("scatter_rows", {scatter(2, 1, {1}, {}), scatter(7, 15, {6, 0}, {3}), scatter(13, 17, {12, 11, 10}, {0, 2, 1, 5}),
                              scatter(600, 33, counted(509, 71), {599, 555, 520})});
}
TEST_CASE("drop_tokens") { check_op("drop_tokens", {drop(1, 1, 1, 0), drop(3, 6, 17, 1), drop(2, 70, 33, 5), drop(4, 3, 15, 3), drop(1, 5, 31, 4)}); }
TEST_CASE("prepend_tokens") {
    check_op("prepend_tokens", {prepend(1, 1, 1, 1), prepend(3, 7, 17, 1), prepend(2, 64, 33, 5), prepend(5, 0, 15, 2), prepend(16, 31, 65, 1)});
}
TEST_CASE("add_rows") { check_op("add_rows", {add(1, 1, 1, 1), add(3, 7, 1, 17), add(2, 13, 5, 15), add(2, 16, 65, 31), add(1, 3, 2, 33), add(5, 1, 4, 64)}); }

TEST_CASE("add_rows: the table may end in mid-cycle, and the output may be the input") {
    const Tensor x = normal({7, 17}, "x"), table = normal({3, 17}, "table"), y(x.shape());
    y.copy_from(x);
    kernels::add_rows({.y = y, .x = y, .table = table, .inner = 2});
    EXPECT(same_bits(y, nn::add_rows(x, table, 2)));
    EXPECT(same_bits(nn::add_rows(x, table, 2).slice(6, 7), nn::add_rows(x.slice(6, 7), table.slice(0, 1))));       // row 6 is (6 / 2) % 3 = 0 again
}

TEST_CASE("rows: wrong arguments are refused by name") {
    const Tensor x = normal({4, 8}, "x"), cube = normal({2, 4, 8}, "cube"), half = normal({4, 8}, "x", 0, 1, DType::bf16), i = from_ints(Index{0, 3}), ints({4, 8}, DType::i32);
    auto refused = [&](const char* op, auto call) { EXPECT_THROWS_WITH_AS(call(), doctest::Contains(op), std::logic_error); };
    refused("gather_rows: ", [&] { nn::gather_rows(x, from_ints(Index{0, 4})); });
    refused("gather_rows: ", [&] { nn::gather_rows(x, from_ints(Index{-1})); });
    refused("gather_rows: ", [&] { nn::gather_rows(x, normal({2}, "i")); });
    refused("gather_rows: ", [&] { nn::gather_rows(cube, i); });
    refused("scatter_rows: ", [&] { nn::scatter_rows(3, {{x.slice(0, 2), i}}); });
    refused("scatter_rows: ", [&] { nn::scatter_rows(9, {{x, i}}); });
    refused("scatter_rows: ", [&] { nn::scatter_rows(9, {}); });
    refused("scatter_rows: ", [&] { nn::scatter_rows(9, {{ints.slice(0, 2), i}}); });
    refused("scatter_rows: ", [&] { nn::scatter_rows(9, {{x.slice(0, 2), i}, {normal({2, 7}, "y"), from_ints(Index{1, 2})}}); });
    refused("scatter_rows: ", [&] { nn::scatter_rows(9, {{x.slice(0, 2), from_ints(Index{5, 5})}}); });     // all different, says the header
    refused("drop_tokens: ", [&] { nn::drop_tokens(cube, 5); });
    refused("drop_tokens: ", [&] { nn::drop_tokens(cube, -1); });
    refused("drop_tokens: ", [&] { nn::drop_tokens(x, 1); });
    refused("scatter_rows: ", [&] { nn::scatter_rows(9, {{x.slice(0, 2), i}, {half.slice(0, 2), from_ints(Index{1, 2})}}); });
    refused("gather_rows: ", [&] { nn::gather_rows(ints, i); });
    refused("embedding: ", [&] { nn::embedding(x, from_ints(Index{0, 4}), DType::f32); });
    refused("embedding: ", [&] { nn::embedding(ints, i, DType::f32); });
    refused("embedding: ", [&] { nn::embedding(cube, i, DType::f32); });
    refused("embedding: ", [&] { nn::embedding(x, i, DType::i32); });
    refused("add_rows: ", [&] { nn::add_rows(x, normal({4, 7}, "t")); });
    refused("add_rows: ", [&] { nn::add_rows(x, Tensor({0, 8})); });
    refused("add_rows: ", [&] { nn::add_rows(x, x, 0); });
    refused("add_rows: ", [&] { nn::add_rows(ints, x); });
    refused("prepend_tokens: ", [&] { nn::prepend_tokens(cube, normal({1, 7}, "t")); });
    refused("prepend_tokens: ", [&] { nn::prepend_tokens(x, x); });
    refused("prepend_tokens: ", [&] { nn::prepend_tokens(Tensor({2, 4, 8}, DType::i32), x); });
}
