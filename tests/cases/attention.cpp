// o = softmax(q k^T scale + mask) v, the score matrix written out
#include "tests/harness.h"
#include <algorithm>
#include <cmath>
#include "nn/functional.h"
#include "tests/test.h"

using namespace merv;
using namespace merv::test;
using nn::Layout;
using nn::Mask;

namespace {

struct Problem {
    int64_t S = 1, Nq = 1, Nk = 1, H = 1, Hkv = 1, D = 4;
    Mask mask = Mask::none;
    std::vector<int32_t> k_len = {};
    int64_t capacity = 0;                       // rows kept per sequence of keys, as in a cache; 0: Nk
    double spread = 1;                          // of q and k: scores spread by its square
};

// Where element d of head h of token n of sequence s stands in its tensor.
using Where = std::function<size_t(int64_t s, int64_t n, int64_t h, int64_t d)>;
struct Places { size_t q_input, k_input, v_input; Where q, k, v; };

// o in the order (s, n, h, d); or the log of the sum of exponentials in the order (s, h, n)
Numbers formula(const std::vector<Numbers>& in, const Problem& p, const Places& at, bool lse, Round q) {
    const int64_t H = p.H, D = p.D, unit = q.activations == DType::bf16 ? 2 : 1;       // of a sum of products: in bf16 pairs, the second first
    const Real scale = q(1 / q(std::sqrt(double(D))));
    Numbers o(size_t(p.S * p.Nq * H * D)), logs(size_t(p.S * H * p.Nq));
    for (int64_t s = 0; s < p.S; s++)
        for (int64_t h = 0; h < H; h++)
            for (int64_t i = 0; i < p.Nq; i++) {
                const int64_t keys = p.k_len.empty() ? p.Nk : p.k_len[size_t(s)], shared = h / (H / p.Hkv);
                const int64_t seen = p.mask == Mask::causal ? keys - p.Nq + i + 1 : keys;       // the last query sees every key
                Numbers score;
                double top = -INFINITY;                 // of no consequence for the result, so a constant for its gradient
                for (int64_t j = 0; j < seen; j++) {
                    Real dot;
                    for (int64_t d0 = 0; d0 < D; d0 += unit)
                        for (int64_t d = d0 + unit; d-- > d0;) dot = madd(in[at.q_input][at.q(s, i, h, d)], in[at.k_input][at.k(s, j, shared, d)], dot, q);
                    score.push_back(q(q.gradient_kept(dot) * scale));       // dS is a factor, in bf16 rounded
                    top = std::max(top, score.back().v);
                }
                if (score.empty()) {
                    logs[size_t((s * H + h) * p.Nq + i)] = -INFINITY;
                    continue;
                }
                // one block of 64 keys after the other, each summed from zero: sum of f(j) over the keys seen
                auto by_blocks = [&](int64_t unit, auto step) {
                    Real all;
                    for (int64_t j0 = 0; j0 < seen; j0 += 64) {
                        Real block;
                        for (int64_t u = j0; u < std::min(j0 + 64, seen); u += unit)
                            for (int64_t j = std::min(u + unit, seen); j-- > u;) block = step(block, j);
                        all = q(all + block);
                    }
                    return all;
                };
                Numbers e;                              // exponentials relative to some score
                auto exponentials = [&](double relative_to) {
                    e.clear();
                    for (const Real& v : score) e.push_back(q(exp(q(v - relative_to))));
                    return by_blocks(1, [&](const Real& block, int64_t j) { return q(block + e[size_t(j)]); });
                };
                auto output = [&](int64_t d) {
                    return by_blocks(unit, [&](const Real& block, int64_t j) { return madd(q.stored(e[size_t(j)]), in[at.v_input][at.v(s, j, shared, d)], block, q); }); };
                Real sum = exponentials(top);
                const Real log_sum = logs[size_t((s * H + h) * p.Nq + i)] = q(top + q(log(sum)));
                Numbers y;
                for (int64_t d = 0; d < D; d++) y.push_back(q(output(d) / sum));
                if (q.backward) {                       // which has o and the logarithm alone: exponentials that add up to 1
                    sum = exponentials(log_sum.v).with(1);
                    for (int64_t d = 0; d < D; d++) y[size_t(d)] = output(d).with(q.kept(y[size_t(d)]).v) / sum;
                }
                for (int64_t d = 0; d < D; d++) o[size_t(((s * p.Nq + i) * H + h) * D + d)] = y[size_t(d)];
            }
    return lse ? logs : o;
}

Tensor lengths(const Problem& p) { return p.k_len.empty() ? Tensor() : from_ints(p.k_len); }
std::string name(const Problem& p, const std::string& more = "") {
    return concat(p.S, " of ", p.Nq, "x", p.Nk, ", ", p.H, "/", p.Hkv, " heads of ", p.D, p.mask == Mask::causal ? ", causal" : "",
                  p.k_len.empty() ? "" : ", k_len",
                  p.capacity ? ", cache" : "", p.spread == 1 ? "" : concat(", spread ", p.spread), more);
}

// q, k, v in tensors of their own
Places apart(const Problem& p) {
    auto rows = [D = p.D](int64_t per_sequence, int64_t heads) {
        return [=](int64_t s, int64_t n, int64_t h, int64_t d) { return size_t(((s * per_sequence + n) * heads + h) * D + d); }; };
    const int64_t capacity = p.capacity ? p.capacity : p.Nk;
    return {0, 1, 2, rows(p.Nq, p.H), rows(capacity, p.Hkv), rows(capacity, p.Hkv)};
}
std::vector<Input> inputs_apart(const Problem& p) {
    const int64_t capacity = p.capacity ? p.capacity : p.Nk;
    return {input({p.S * p.Nq, p.H * p.D}, 0, p.spread), input({p.S * capacity, p.Hkv * p.D}, 0, p.spread), input({p.S * capacity, p.Hkv * p.D})};
}
Setting setting(const Problem& p) {
    const Layout keys{p.S, p.Nk, 1, p.capacity ? p.capacity : p.Nk, 0, 1};
    return {name(p), inputs_apart(p),
            [=](const Tensors& x) {
                return nn::attention({.q = x[0], .k = x[1], .v = x[2], .queries = Layout::contiguous(p.S, p.Nq), .keys = keys, .heads = p.H, .kv_heads = p.Hkv,
                                      .head_dim = p.D, .mask = p.mask, .k_len = lengths(p)});
            },
            [=](const std::vector<Numbers>& x, Round q) { return formula(x, p, apart(p), false, q); }, Setting::Gradient::checked, false, true, p.Nq != 1};
}
Setting lse_setting(const Problem& p) {
    return {name(p), inputs_apart(p),
            [=](const Tensors& x) {
                const Tensor o({p.S * p.Nq, p.H * p.D}, x[0].dtype()), lse({p.S, p.H, p.Nq});
                auto rows = [&](const Tensor& t, int64_t tokens, int64_t width) {
                    return kernels::Rows{.t = t, .outer_stride = tokens * width, .token_stride = width}; };
                kernels::attention({.o = rows(o, p.Nq, p.H * p.D), .lse = lse, .q = rows(x[0], p.Nq, p.H * p.D), .k = rows(x[1], p.Nk, p.Hkv * p.D),
                                    .v = rows(x[2], p.Nk, p.Hkv * p.D), .S = p.S, .Nq = p.Nq, .Nk = p.Nk, .H = p.H, .Hkv = p.Hkv, .D = p.D,
                                    .scale = 1 / std::sqrt(float(p.D)), .mask = p.mask, .k_len = lengths(p)});
                return lse.reshape({lse.numel(), 1});
            },
            [=](const std::vector<Numbers>& x, Round q) { return formula(x, p, apart(p), true, q); }, Setting::Gradient::none, true};
}

// q is the first rows of what is k and v: one address, and another tensor; k and v are the same columns
Setting first_rows(int64_t Nq, int64_t Nk, int64_t D) {
    const Problem p{.Nq = Nq, .Nk = Nk, .D = D};
    auto at = [=](int64_t, int64_t n, int64_t, int64_t d) { return size_t(n * D + d); };
    return {concat("first ", Nq, " of ", Nk, " are queries, head of ", D), {input({Nk, D})},
            [=](const Tensors& x) {
                return nn::attention({.q = nn::slice_rows(x[0], 0, Nq), .k = x[0], .v = x[0], .queries = Layout::contiguous(1, Nq), .keys = Layout::contiguous(1, Nk),
                                      .heads = 1, .kv_heads = 1, .head_dim = D});
            },
            [=](const std::vector<Numbers>& x, Round q) { return formula(x, p, {0, 0, 0, at, at, at}, false, q); }, Setting::Gradient::checked, false, true, Nq != 1};
}

// One packed projection (rows, spare | v | q | k | spare); sequences contiguous, or across frames
Setting packed(const Problem& p, int64_t groups = 0) {
    const int64_t frames = p.Nq, positions = groups ? p.S / groups : 0, spare = 3, H = p.H, D = p.D;
    const int64_t v_column = spare, q_column = v_column + p.Hkv * D, k_column = q_column + H * D, width = k_column + p.Hkv * D + spare;
    auto row = [=](int64_t s, int64_t n) { return groups ? (s / positions * frames + n) * positions + s % positions : s * frames + n; };
    auto column = [=](int64_t first) { return [=](int64_t s, int64_t n, int64_t h, int64_t d) { return size_t(row(s, n) * width + first + h * D + d); }; };
    const Places at{0, 0, 0, column(q_column), column(k_column), column(v_column)};
    const Layout layout = groups ? Layout::across_frames(groups, frames, positions) : Layout::contiguous(p.S, frames);
    return {name(p, groups ? ", packed, across frames" : ", packed"), {input({p.S * frames, width})},
            [=](const Tensors& x) {
                return nn::attention({.q = x[0], .k = x[0], .v = x[0], .q_column = q_column, .k_column = k_column, .v_column = v_column, .queries = layout,
                                      .keys = layout,
                                      .heads = H, .kv_heads = p.Hkv, .head_dim = D, .mask = p.mask, .k_len = lengths(p)});
            },
            [=](const std::vector<Numbers>& x, Round q) {
                const Numbers in_order = formula(x, p, at, false, q);
                Numbers o(in_order.size());
                for (int64_t s = 0; s < p.S; s++)
                    for (int64_t n = 0; n < frames; n++)
                        for (int64_t c = 0; c < H * D; c++) o[size_t(row(s, n) * H * D + c)] = in_order[size_t((s * frames + n) * H * D + c)];
                return o;
            }};
}

std::vector<Setting> settings(Mask mask) {
    std::vector<Setting> s;
    for (int64_t D : {4, 8, 12, 24, 64, 80, 128}) s.push_back(setting({.Nq = 7, .Nk = 13, .H = 2, .Hkv = 2, .D = D, .mask = mask}));
    const std::array<int64_t, 2> lengths[] = {{1, 1}, {1, 2}, {1, 64}, {1, 65}, {1, 131}, {3, 63}, {5, 64},
                                         {63, 63}, {64, 64}, {65, 65}, {65, 129}, {131, 131}, {31, 257}, {67, 70}};
    for (auto [Nq, Nk] : lengths) s.push_back(setting({.Nq = Nq, .Nk = Nk, .D = 16, .mask = mask}));
    s.push_back(setting({.Nq = 17, .Nk = 2053, .D = 8, .mask = mask}));
    s.push_back(setting({.S = 2, .Nq = 17, .Nk = 33, .H = 6, .Hkv = 2, .D = 12, .mask = mask}));            // grouped
    s.push_back(setting({.S = 3, .Nq = 5, .Nk = 67, .H = 5, .Hkv = 1, .D = 20, .mask = mask}));             // one key/value head for all
    s.push_back(setting({.S = 2, .Nq = 3, .Nk = 65, .H = 4, .Hkv = 2, .D = 28, .mask = mask, .capacity = 71}));
    s.push_back(setting({.S = 4, .Nq = 5, .Nk = 131, .H = 2, .Hkv = 1, .D = 16, .mask = mask, .k_len = {131, 64, 65, 7}}));
    s.push_back(setting({.S = 2, .Nq = 1, .Nk = 77, .H = 2, .Hkv = 2, .D = 64, .mask = mask, .k_len = {1, 76}, .capacity = 80}));
    s.push_back(packed({.S = 3, .Nq = 33, .Nk = 33, .H = 3, .Hkv = 3, .D = 8, .mask = mask}));
    s.push_back(packed({.S = 2, .Nq = 65, .Nk = 65, .H = 4, .Hkv = 2, .D = 12, .mask = mask}));
    s.push_back(packed({.S = 2 * 5, .Nq = 7, .Nk = 7, .H = 3, .Hkv = 3, .D = 8, .mask = mask}, 2));         // 2 groups of 7 frames with 5 positions
    s.push_back(packed({.S = 1 * 17, .Nq = 8, .Nk = 8, .H = 2, .Hkv = 1, .D = 16, .mask = mask}, 1));
    s.push_back(packed({.S = 3 * 1, .Nq = 67, .Nk = 67, .H = 1, .Hkv = 1, .D = 4, .mask = mask}, 3));
    return s;
}

}

TEST_CASE("attention") {
    check_op("attention", settings(Mask::none));
    check_op("attention causal", settings(Mask::causal));
}

TEST_CASE("attention: q, k, v of one storage") { check_op("attention shared", {first_rows(5, 13, 8), first_rows(13, 13, 12), first_rows(1, 67, 16)}); }

TEST_CASE("attention: a query that sees no key gives zeros") {
    std::vector<Setting> s{setting({.Nq = 9, .Nk = 4, .H = 2, .Hkv = 2, .D = 8, .mask = Mask::causal}),
                           setting({.Nq = 133, .Nk = 65, .D = 12, .mask = Mask::causal}),
                           setting({.S = 3, .Nq = 5, .Nk = 66, .H = 2, .Hkv = 1, .D = 16, .mask = Mask::causal, .k_len = {0, 3, 66}}),
                           setting({.S = 3, .Nq = 5, .Nk = 66, .H = 2, .Hkv = 1, .D = 16, .k_len = {66, 0, 1}}), setting({.S = 2, .Nq = 3, .Nk = 0, .D = 8})};
    check_op("attention unseen", s);
    const Tensor q = normal({70, 8}, "q"), k = normal({3, 8}, "k");
    const std::vector<float> o = to_floats(nn::attention({.q = q, .k = k, .v = k, .queries = Layout::contiguous(1, 70), .keys = Layout::contiguous(1, 3),
                                                          .heads = 1,
                                                          .kv_heads = 1, .head_dim = 8, .mask = Mask::causal}));
    for (size_t i = 0; i < o.size(); i++) EXPECT_EQ(o[i] == 0, i < 67 * 8);
}

TEST_CASE("attention: scores far apart") {
    std::vector<Setting> s;
    for (Mask mask : {Mask::none, Mask::causal})
        for (double spread : {4, 30, 1000}) {
            s.push_back(setting({.Nq = 33, .Nk = 131, .H = 2, .Hkv = 1, .D = 64, .mask = mask, .spread = spread}));
            s.push_back(setting({.Nq = 5, .Nk = 67, .D = 12, .mask = mask, .spread = spread}));
        }
    check_op("attention steep", s);
}

TEST_CASE("attention: log of the sum of exponentials") {
    std::vector<Setting> s;
    for (Mask mask : {Mask::none, Mask::causal}) {
        s.push_back(lse_setting({.S = 2, .Nq = 67, .Nk = 131, .H = 4, .Hkv = 2, .D = 12, .mask = mask}));
        s.push_back(lse_setting({.Nq = 7, .Nk = 64, .H = 1, .Hkv = 1, .D = 64, .mask = mask, .spread = 20}));
        s.push_back(lse_setting({.S = 3, .Nq = 5, .Nk = 66, .H = 2, .Hkv = 1, .D = 16, .mask = mask, .k_len = {0, 3, 66}}));
        s.push_back(lse_setting({.Nq = 1, .Nk = 1, .D = 4, .mask = mask}));
        s.push_back(lse_setting({.Nq = 9, .Nk = 4, .D = 4, .mask = mask}));
    }
    check_op("attention lse", s);
}

TEST_CASE("attention: what lies beyond k_len and between the sequences is not touched") {
    const int64_t S = 3, Nk = 131, capacity = 140, D = 12;
    const std::vector<int32_t> k_len{131, 65, 0};
    const Tensor q = normal({S * 5, D}, "q"), k = normal({S * capacity, D}, "k"), v = normal({S * capacity, D}, "v");
    auto run = [&] {
        return nn::attention({.q = q, .k = k, .v = v, .queries = Layout::contiguous(S, 5), .keys = {S, Nk, 1, capacity, 0, 1}, .heads = 1,
                              .kv_heads = 1, .head_dim = D,
                              .mask = Mask::causal, .k_len = from_ints(k_len)});
    };
    const Tensor before = run();
    for (int64_t s = 0; s < S; s++)
        for (const Tensor& t : {k, v}) std::fill(t.data<float>() + (s * capacity + k_len[size_t(s)]) * D, t.data<float>() + (s + 1) * capacity * D, NAN);
    EXPECT(same_bits(run(), before));
}

TEST_CASE("attention: writes its own columns of a wider output only") {
    const int64_t N = 67, H = 2, D = 12, width = 50, column = 9;
    const Tensor qkv = normal({N, 3 * H * D}, "qkv"), o({N, width});
    std::fill(o.data<float>(), o.data<float>() + o.numel(), -7.0f);
    auto rows = [&](const Tensor& t, int64_t offset) { return kernels::Rows{.t = t, .offset = offset, .token_stride = t.dim(-1)}; };
    kernels::attention({.o = rows(o, column), .q = rows(qkv, 0), .k = rows(qkv, H * D), .v = rows(qkv, 2 * H * D), .Nq = N,
                        .Nk = N, .H = H, .Hkv = H, .D = D, .scale = 1});
    for (int64_t n = 0; n < N; n++)
        for (int64_t c = 0; c < width; c++) EXPECT_EQ(o.data<float>()[n * width + c] != -7.0f, c >= column && c < column + H * D);
}

TEST_CASE("attention: wrong arguments are refused by name") {
    const Tensor q = normal({6, 16}, "q"), k = normal({10, 8}, "k");
    const nn::AttentionArgs good{.q = q, .k = k, .v = k, .queries = Layout::contiguous(2, 3), .keys = Layout::contiguous(2, 5), .heads = 4,
                                    .kv_heads = 2, .head_dim = 4};
    EXPECT_EQ(nn::attention(good).shape(), Shape({6, 16}));
    auto refused = [&](auto spoil) {
        nn::AttentionArgs a = good;
        spoil(a);
        EXPECT_THROWS_WITH_AS(nn::attention(a), doctest::Contains("attention: "), std::logic_error);
    };
    using A = nn::AttentionArgs&;
    refused([](A a) { a.head_dim = 6; });
    refused([](A a) { a.head_dim = 132; });
    refused([](A a) { a.head_dim = 0; });
    refused([](A a) { a.head_dim = -4; });
    refused([](A a) { a.kv_heads = 3; });
    refused([](A a) { a.kv_heads = 0; });
    refused([](A a) { a.queries = Layout::contiguous(2, 4); });                         // 8 rows of 6
    refused([](A a) { a.keys = Layout::contiguous(2, 6); });
    refused([](A a) { a.keys = Layout::contiguous(1, 10); });                           // another number of sequences
    refused([](A a) { a.q_column = 1; });
    refused([](A a) { a.v_column = 1; });
    refused([](A a) { a.k_column = -1; });
    refused([](A a) { a.k = normal({10, 8}, "k", 0, 1, DType::bf16); });
    refused([](A a) { a.k_len = from_ints(std::vector<int32_t>{5}); });
    refused([](A a) { a.k_len = from_ints(std::vector<int32_t>{5, 6}); });              // more than there are
    refused([](A a) { a.k_len = from_ints(std::vector<int32_t>{5, -1}); });
    refused([](A a) { a.k_len = normal({2}, "k_len"); });
}
