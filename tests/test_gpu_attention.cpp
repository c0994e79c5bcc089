// GPU attention, emulated, on shapes that the op cases do not reach: every tile width, more keys than all stages hold, rows of
// packed projections, split keys; against the formula in double with the errors that bf16 and f32 arithmetic allow.
#include <cmath>
#include <functional>
#include "kernels/attention.h"
#include "kernels/device.h"
#include "kernels/emu/emulator.h"
#include "tests/harness.h"
#include "tests/test.h"

using namespace merv;
using namespace merv::test;
using kernels::Mask;

namespace {

struct Case {
    int64_t S = 1, Nq = 1, Nk = 1, H = 1, Hkv = 1, D = 8;
    Mask mask = Mask::none;
    std::vector<int32_t> k_len = {};
    DType dtype = DType::bf16;
    bool across = false;                        // the tokens of a sequence lie S rows apart
};
std::string name(const Case& c) {
    return concat(name_of(c.dtype), ", ", c.S, " of ", c.Nq, "x", c.Nk, ", ", c.H, "/", c.Hkv, " heads of ", c.D, c.mask == Mask::causal ? ", causal" : "", c.k_len.empty() ? "" : ", k_len", c.across ? ", across" : "");
}
using Values = std::vector<double>;
Values numbers(const Tensor& t) { const std::vector<float> v = to_floats(t); return {v.begin(), v.end()}; }

// Every result with the error it may have
struct Bounded { Values value, limit; };
struct Truth { Bounded o, dq, dk, dv; };

// q, do (S, Nq, H, D), k, v (S, Nk, Hkv, D) in this order. u: rounding of what is stored; f: of f32 arithmetic, one of the sum of all
// sizes, which exceeds the partial sums by more than their roundings wander.
Truth truth(const Case& c, const Values& q, const Values& k, const Values& v, const Values& dout) {
    const double u = c.dtype == DType::bf16 ? 0x1p-8 : 0, f = 0x1p-24;
    auto row = [&](int64_t s, int64_t n, int64_t h, int64_t N, int64_t heads) { return size_t(((s * N + n) * heads + h) * c.D); };
    auto zeros = [](size_t n) { return Bounded{Values(n), Values(n)}; };
    Truth t{zeros(q.size()), zeros(q.size()), zeros(k.size()), zeros(v.size())};
    const double scale = 1 / std::sqrt(double(c.D));
    for (int64_t s = 0; s < c.S; s++)
        for (int64_t h = 0; h < c.H; h++)
            for (int64_t i = 0; i < c.Nq; i++) {
                const int64_t keys = c.k_len.empty() ? c.Nk : c.k_len[size_t(s)], seen = c.mask == Mask::causal ? std::max<int64_t>(0, keys - c.Nq + i + 1) : keys, shared = h / (c.H / c.Hkv);
                const size_t at = row(s, i, h, c.Nq, c.H);
                auto key = [&](int64_t j) { return row(s, j, shared, c.Nk, c.Hkv); };
                Values p(size_t(seen), 0), wrong(size_t(seen), 0);      // probabilities and their relative errors
                double top = -INFINITY, sum = 0;
                for (int64_t j = 0; j < seen; j++) {
                    double size = 0;
                    for (int64_t d = 0; d < c.D; d++) {
                        const double x = q[at + size_t(d)] * k[key(j) + size_t(d)] * scale;
                        p[size_t(j)] += x, size += std::fabs(x);
                    }
                    wrong[size_t(j)] = f * (size + 1);
                    top = std::max(top, p[size_t(j)]);
                }
                for (double& x : p) sum += x = std::exp(x - top);
                for (double& x : p) x /= sum;
                double worst = 0, delta = 0, delta_limit = 0;
                for (double w : wrong) worst = std::max(worst, w);
                for (int64_t d = 0; d < c.D; d++) {
                    double o = 0, size = 0;
                    for (int64_t j = 0; j < seen; j++) o += p[size_t(j)] * v[key(j) + size_t(d)], size += std::fabs(p[size_t(j)] * v[key(j) + size_t(d)]);
                    t.o.value[at + size_t(d)] = o;
                    const double limit = t.o.limit[at + size_t(d)] = u * (size + std::fabs(o)) + (4 * worst + f) * size;
                    delta += o * dout[at + size_t(d)];
                    delta_limit += std::fabs(dout[at + size_t(d)]) * (limit + f * std::fabs(o));
                }
                for (int64_t j = 0; j < seen; j++) {
                    double dp = 0, dp_size = 0;
                    for (int64_t d = 0; d < c.D; d++) {
                        const double x = dout[at + size_t(d)] * v[key(j) + size_t(d)];
                        dp += x, dp_size += std::fabs(x);
                    }
                    const double pj = p[size_t(j)], p_error = pj * (u + 4 * worst + f), ds = pj * (dp - delta) * scale;
                    const double ds_error = u * std::fabs(ds) + scale * (pj * (delta_limit + f * dp_size) + (4 * worst + f) * pj * (std::fabs(dp) + std::fabs(delta)));
                    for (int64_t d = 0; d < c.D; d++) {
                        const size_t a = at + size_t(d), b = key(j) + size_t(d);
                        auto add = [&](Bounded& to, size_t i, double value, double limit) { to.value[i] += value, to.limit[i] += limit + f * std::fabs(value); };
                        add(t.dq, a, ds * k[b], ds_error * std::fabs(k[b]));
                        add(t.dk, b, ds * q[a], ds_error * std::fabs(q[a]));
                        add(t.dv, b, pj * dout[a], p_error * std::fabs(dout[a]));
                    }
                }
            }
    for (Bounded* b : {&t.dq, &t.dk, &t.dv})
        for (size_t i = 0; i < b->value.size(); i++) b->limit[i] += u * std::fabs(b->value[i]);
    return t;
}

// Tensors of a case, each in rows of its own width, the tokens of a sequence side by side or S rows apart.
struct Laid {
    Tensor t;
    int64_t N, width;
    bool across;
    int64_t S;
    kernels::Rows rows() const { return {.t = t, .outer_stride = across ? width : N * width, .token_stride = across ? S * width : width}; }
    size_t place(int64_t s, int64_t n) const { return size_t(across ? n * S + s : s * N + n) * size_t(width); }
};
Laid laid(const Case& c, int64_t N, int64_t heads) { return {Tensor({c.S * N, heads * c.D}, c.dtype), N, heads * c.D, c.across, c.S}; }
Laid laid(const Case& c, int64_t N, int64_t heads, const Values& v) {
    Laid l = laid(c, N, heads);
    std::vector<float> out(v.size());
    for (int64_t s = 0; s < c.S; s++)
        for (int64_t n = 0; n < N; n++)
            for (int64_t i = 0; i < l.width; i++) out[l.place(s, n) + size_t(i)] = float(v[size_t((s * N + n) * l.width + i)]);
    l.t = from_floats(out, l.t.shape(), c.dtype);
    return l;
}
void expect_near(const Laid& l, const Bounded& want, const std::string& what) {
    const Values got = numbers(l.t);
    int64_t wrong = 0;
    double closest = 0;
    for (int64_t s = 0; s < l.S; s++)
        for (int64_t n = 0; n < l.N; n++)
            for (int64_t i = 0; i < l.width; i++) {
                const double g = got[l.place(s, n) + size_t(i)];
                const size_t at = size_t((s * l.N + n) * l.width + i);
                const double error = std::fabs(g - want.value[at]);
                if (!(error <= want.limit[at]) && wrong++ < 3) FAIL_CHECK(what << ": sequence " << s << ", token " << n << ", element " << i << " is " << g << ", not " << want.value[at] << " +- " << want.limit[at]);
                if (want.limit[at] > 0) closest = std::max(closest, error / want.limit[at]);
            }
    EXPECT_MESSAGE(closest > 0.02, what, ": too loose: the worst error is ", closest, " of its limit");
}

struct Run {
    Laid o, dq, dk, dv;
    std::vector<Tensor> all() const { return {o.t, dq.t, dk.t, dv.t}; }
};
Run go(const Case& c, const Values& q_, const Values& k_, const Values& v_, const Values& dout_, bool gradients) {
    const OnDevice emulated(Device::emu);
    const Laid q = laid(c, c.Nq, c.H, q_), k = laid(c, c.Nk, c.Hkv, k_), v = laid(c, c.Nk, c.Hkv, v_), dout = laid(c, c.Nq, c.H, dout_);
    Run r{laid(c, c.Nq, c.H), laid(c, c.Nq, c.H), laid(c, c.Nk, c.Hkv), laid(c, c.Nk, c.Hkv)};
    kernels::AttentionFwd fwd{.o = r.o.rows(), .lse = gradients ? Tensor({c.S, c.H, c.Nq}) : Tensor(), .q = q.rows(), .k = k.rows(), .v = v.rows(), .S = c.S, .Nq = c.Nq, .Nk = c.Nk, .H = c.H,
                              .Hkv = c.Hkv, .D = c.D, .scale = float(1 / std::sqrt(double(c.D))), .mask = c.mask, .k_len = c.k_len.empty() ? Tensor() : from_ints(c.k_len).to(Device::emu)};
    kernels::attention(fwd);
    if (gradients) kernels::attention({.dq = r.dq.rows(), .dk = r.dk.rows(), .dv = r.dv.rows(), .dout = dout.rows(), .fwd = fwd});
    return r;
}
struct Drawn { Values q, k, v, dout; };
Drawn draw(const Case& c) {
    auto values = [&](const char* what, int64_t N, int64_t heads) { return numbers(normal({c.S * N, heads * c.D}, concat(what, name(c)), 0, 1, c.dtype)); };
    return {values("q", c.Nq, c.H), values("k", c.Nk, c.Hkv), values("v", c.Nk, c.Hkv), values("do", c.Nq, c.H)};
}
void check(const Case& c, bool gradients) {
    const Drawn x = draw(c);
    kernels::use_checks(true);
    const Truth want = truth(c, x.q, x.k, x.v, x.dout);
    const Run r = go(c, x.q, x.k, x.v, x.dout, gradients);
    expect_near(r.o, want.o, name(c));
    if (!gradients) return;
    expect_near(r.dq, want.dq, name(c) + ", dq");
    expect_near(r.dk, want.dk, name(c) + ", dk");
    expect_near(r.dv, want.dv, name(c) + ", dv");
}

const std::vector<Case> kTrained{
    {.Nq = 70, .Nk = 70, .H = 2, .Hkv = 1, .D = 8},                                         // one pass, padded from 8 to 16
    {.S = 2, .Nq = 50, .Nk = 50, .D = 64},
    {.S = 2, .Nq = 40, .Nk = 197, .D = 24, .k_len = {197, 31}},
    {.Nq = 20, .Nk = 261, .D = 64, .mask = Mask::causal},
    {.S = 6, .Nq = 8, .Nk = 8, .H = 3, .Hkv = 3, .D = 64, .across = true},                  // frames
    {.S = 3, .Nq = 16, .Nk = 16, .H = 4, .Hkv = 2, .D = 32, .mask = Mask::causal, .across = true},
    {.Nq = 65, .Nk = 280, .D = 40},                                                         // tiled: five steps of 64 keys, two stages
    {.S = 2, .Nq = 100, .Nk = 100, .H = 2, .Hkv = 1, .D = 72, .mask = Mask::causal},
    {.S = 3, .Nq = 33, .Nk = 90, .D = 96, .mask = Mask::causal, .k_len = {90, 20, 0}},      // the last sees nothing
    {.Nq = 80, .Nk = 80, .H = 2, .Hkv = 2, .D = 128, .mask = Mask::causal},
    {.Nq = 70, .Nk = 75, .H = 2, .Hkv = 1, .D = 128, .mask = Mask::causal, .dtype = DType::f32},
    {.Nq = 40, .Nk = 100, .D = 36},                                                         // bf16, but rows not in whole 16 bytes: plain
};

}

TEST_CASE("gpu: attention, forward and backward, on every path") {
    for (const Case& c : kTrained) check(c, true);
}

TEST_CASE("gpu: attention of one query, by stretches of the keys") {
    for (DType dtype : {DType::bf16, DType::f32}) {
        check({.Nk = 2, .D = 128, .dtype = dtype}, false);
        check({.S = 2, .Nk = 600, .H = 2, .Hkv = 2, .D = 128, .dtype = dtype}, false);
        check({.S = 3, .Nk = 300, .H = 6, .Hkv = 1, .D = 64, .mask = Mask::causal, .k_len = {300, 257, 3}, .dtype = dtype}, false);
        check({.Nk = 257, .H = 5, .Hkv = 1, .D = 80, .dtype = dtype}, false);
        check({.Nk = 70, .H = 2, .Hkv = 1, .D = 8, .dtype = dtype}, false);
    }
}

TEST_CASE("gpu: attention has the same bits in every schedule") {
    for (const Case& c : {kTrained[1], kTrained[5], kTrained[7], Case{.Nq = 40, .Nk = 70, .H = 2, .Hkv = 1, .D = 16, .dtype = DType::f32}}) {
        const Drawn x = draw(c);
        kernels::use_checks(false);
        std::vector<Tensor> first;
        for (unsigned seed = 0; seed < 50; seed++) {
            emu::set_schedule(seed == 0 ? emu::Order::fifo : seed == 1 ? emu::Order::lifo : emu::Order::seeded, seed);
            const std::vector<Tensor> all = go(c, x.q, x.k, x.v, x.dout, true).all();
            if (first.empty()) first = all;
            for (size_t i = 0; i < all.size(); i++) EXPECT_MESSAGE(same_bits(all[i].to(Device::cpu), first[i].to(Device::cpu)), name(c), ", result ", i, ", schedule ", seed);
        }
        emu::set_schedule(emu::Order::fifo);
    }
    kernels::use_checks(true);
}
