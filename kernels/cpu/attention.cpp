// Blocks of 64 queries and 64 keys in L1, widened to f32 as they are copied there. Forward: a task is one head of one sequence
// and 64 queries. Backward: a task is one key/value head of one sequence, so nothing is ever added by two threads. Bound by
// arithmetic (forward 4, backward 10 Nq Nk D, and an exponential per score) except for few queries, where copying k and v dominates.
#include "kernels/attention.h"
#include <algorithm>
#include <cmath>
#include <memory>
#include "kernels/cpu/simd.h"

namespace merv::kernels::cpu::MERV_ISA {
namespace {

constexpr int kBlock = 64, kGroup = 4, kMaxD = 128;     // queries and keys of a block; rows worked on at once
constexpr int kKeyVecs = kBlock / kLanes;

struct Block { alignas(64) float at[kBlock * kMaxD]; }; // [row][d], d padded with zeros; or transposed, [d][row]
struct Scores { alignas(64) float at[kBlock][kBlock]; };

// Rows row0 .. of head h into a block; rows that are not there are zero.
template <class X> void copy_rows(Block& to, const Rows& rows, const X* x, int64_t s, int64_t row0, int64_t count, int64_t h, int64_t D) {
    for (int64_t i = 0; i < kBlock; i++) {
        float* out = to.at + i * kMaxD;
        const X* from = i < count ? x + rows.at(s, row0 + i) + h * D : nullptr;
        for (int64_t d = 0; d < D; d++) out[d] = from ? float(from[d]) : 0.0f;
        for (int64_t d = D; d < (D + kLanes - 1) / kLanes * kLanes; d++) out[d] = 0.0f;
    }
}
void transpose(Block& to, const Block& from, int64_t D) {
    for (int64_t i = 0; i < kBlock; i++)
        for (int64_t d = 0; d < D; d++) to.at[d * kBlock + i] = from.at[i * kMaxD + d];
}

// out[i][j] = a[i] . b[j] for `rows` rows of a (rounded up to a group), b transposed; each sum runs over d from 0
void products(Scores& out, const Block& a, const Block& b, int64_t rows, int64_t D) {
    for (int64_t i = 0; i < rows; i += kGroup)
        for (int h = 0; h < kKeyVecs; h += 2) {         // two vectors of columns for four rows stay in registers
            Vec acc[kGroup][2] = {};
            for (int64_t d = 0; d < D; d++) {
                const Vec b0 = load(b.at + d * kBlock + h * kLanes), b1 = load(b.at + d * kBlock + (h + 1) * kLanes);
#pragma GCC unroll 4
                for (int g = 0; g < kGroup; g++) {
                    const Vec v = broadcast(a.at[(i + g) * kMaxD + d]);
                    acc[g][0] = madd(v, b0, acc[g][0]);
                    acc[g][1] = madd(v, b1, acc[g][1]);
                }
            }
            for (int g = 0; g < kGroup; g++)
                for (int v = 0; v < 2; v++) store(out.at[i + g] + (h + v) * kLanes, acc[g][v]);
        }
}

// to[i] = keep[i] to[i] + sum over j < n of w(i, j) rows[j], where w(i, j) = weights[i * i_step + j * j_step]. The block's sum
// runs from zero, which keeps long sequences accurate.
void add_weighted(float* to, int64_t rows, const float* keep, const float* weights, int64_t i_step, int64_t j_step, const Block& from, int64_t n, int64_t D) {
    for (int64_t i = 0; i < rows; i += kGroup)
        for (int64_t d = 0; d < D; d += kLanes) {
            Vec acc[kGroup] = {};
            const float* w = weights + i * i_step;
            for (int64_t j = 0; j < n; j++) {
                const Vec v = load(from.at + j * kMaxD + d);
#pragma GCC unroll 4
                for (int g = 0; g < kGroup; g++) acc[g] = madd(broadcast(w[g * i_step + j * j_step]), v, acc[g]);
            }
            for (int g = 0; g < kGroup; g++) {
                float* at = to + (i + g) * kMaxD + d;
                store(at, madd(load(at), broadcast(keep ? keep[i + g] : 1.0f), acc[g]));
            }
        }
}

// Scores of one query become probabilities relative to the new maximum; returns the factor for what was summed before.
float softmax_step(float* p, int64_t visible, float scale, float& max, float& sum) {
    for (int64_t k = 0; k < kBlock; k++) p[k] = k < visible ? p[k] * scale : -INFINITY;
    float top = max;
    for (int64_t k = 0; k < kBlock; k++) top = p[k] > top || p[k] != p[k] ? p[k] : top;
    if (top == -INFINITY) {                     // nothing seen yet
        std::fill(p, p + kBlock, 0.0f);
        return 1;
    }
    for (int64_t k = 0; k < kBlock; k++) p[k] = exp(p[k] - top);
    const float before = exp(max - top);
    Vec total{};
    for (int h = 0; h < kKeyVecs; h++) total += load(p + h * kLanes);
    sum = madd(sum, before, MERV_ISA::sum(total));
    max = top;
    return before;
}

int64_t keys_of(const AttentionFwd& a, int64_t s) { return a.k_len ? a.k_len.data<int32_t>()[s] : a.Nk; }
int64_t visible_to(const AttentionFwd& a, int64_t q, int64_t keys) { return a.mask == Mask::causal ? std::min(keys, keys - a.Nq + q + 1) : keys; }

struct ForwardScratch {
    Block q, k, kt, v, o;
    Scores p;
    float max[kBlock], sum[kBlock], before[kBlock];
};

template <class X> void forward(const AttentionFwd& a, int64_t s, int64_t h, int64_t q0, ForwardScratch& w) {
    const int64_t queries = std::min<int64_t>(kBlock, a.Nq - q0), h_kv = h / (a.H / a.Hkv), D = a.D, keys = keys_of(a, s);
    copy_rows(w.q, a.q, a.q.t.data<X>(), s, q0, queries, h, D);
    std::fill(w.o.at, w.o.at + kBlock * kMaxD, 0.0f);
    std::fill(w.max, w.max + kBlock, -INFINITY);
    std::fill(w.sum, w.sum + kBlock, 0.0f);
    const int64_t last = visible_to(a, q0 + queries - 1, keys);
    for (int64_t k0 = 0; k0 < last; k0 += kBlock) {
        const int64_t n = std::min<int64_t>(kBlock, last - k0);
        copy_rows(w.k, a.k, a.k.t.data<X>(), s, k0, n, h_kv, D);
        copy_rows(w.v, a.v, a.v.t.data<X>(), s, k0, n, h_kv, D);
        transpose(w.kt, w.k, D);
        products(w.p, w.q, w.kt, queries, D);
        for (int64_t i = 0; i < (queries + kGroup - 1) / kGroup * kGroup; i++) {
            const int64_t seen = i < queries ? std::clamp<int64_t>(visible_to(a, q0 + i, keys) - k0, 0, n) : 0;
            w.before[i] = softmax_step(w.p.at[i], seen, a.scale, w.max[i], w.sum[i]);
        }
        add_weighted(w.o.at, queries, w.before, w.p.at[0], kBlock, 1, w.v, n, D);
    }
    X* o = a.o.t.data<X>();
    float* lse = a.lse.data<float>();
    for (int64_t i = 0; i < queries; i++) {
        X* to = o + a.o.at(s, q0 + i) + h * D;
        const float inverse = w.sum[i] > 0 || w.sum[i] != w.sum[i] ? 1.0f / w.sum[i] : 0.0f;
        for (int64_t d = 0; d < D; d++) to[d] = X(w.o.at[i * kMaxD + d] * inverse);
        if (lse) lse[(s * a.H + h) * a.Nq + q0 + i] = w.max[i] + std::log(w.sum[i]);
    }
}

struct BackwardScratch {
    Block q, k, kt, vt, dout, o, dk, dv;
    Scores p, ds;
    std::vector<float> dq;                      // (heads of the group, queries in whole blocks, kMaxD): grows block by block of keys
    std::vector<float> delta;                   // (heads of the group, Nq): rowsum(do o)
};

template <class X> void backward(const AttentionBwd& b, int64_t s, int64_t h_kv, BackwardScratch& w) {
    const AttentionFwd& a = b.fwd;
    const int64_t group = a.H / a.Hkv, D = a.D, keys = keys_of(a, s), padded = (a.Nq + kBlock - 1) / kBlock * kBlock;
    const float* lse = a.lse.data<float>();
    w.dq.assign(size_t(group * padded * kMaxD), 0.0f);
    w.delta.assign(size_t(group * a.Nq), 0.0f);
    for (int64_t g = 0; g < group; g++)
        for (int64_t i = 0; i < a.Nq; i++) {
            const int64_t at = a.o.at(s, i) + (h_kv * group + g) * D;
            const X *o = a.o.t.data<X>() + at, *d = b.dout.t.data<X>() + (b.dout.at(s, i) + (h_kv * group + g) * D);
            float sum = 0;
            for (int64_t j = 0; j < D; j++) sum = madd(float(o[j]), float(d[j]), sum);
            w.delta[size_t(g * a.Nq + i)] = sum;
        }
    for (int64_t k0 = 0; k0 < a.Nk; k0 += kBlock) {
        const int64_t n = std::clamp<int64_t>(keys - k0, 0, kBlock);
        copy_rows(w.dk, a.v, a.v.t.data<X>(), s, k0, n, h_kv, D);          // v, on its way to vt
        transpose(w.vt, w.dk, D);
        copy_rows(w.k, a.k, a.k.t.data<X>(), s, k0, n, h_kv, D);
        transpose(w.kt, w.k, D);
        std::fill(w.dk.at, w.dk.at + kBlock * kMaxD, 0.0f);
        std::fill(w.dv.at, w.dv.at + kBlock * kMaxD, 0.0f);
        for (int64_t g = 0; g < group; g++)
            for (int64_t q0 = 0; q0 < a.Nq; q0 += kBlock) {
                const int64_t h = h_kv * group + g, queries = std::min<int64_t>(kBlock, a.Nq - q0);
                if (visible_to(a, q0 + queries - 1, keys) <= k0) continue;
                copy_rows(w.q, a.q, a.q.t.data<X>(), s, q0, queries, h, D);
                copy_rows(w.dout, b.dout, b.dout.t.data<X>(), s, q0, queries, h, D);
                products(w.p, w.q, w.kt, queries, D);
                products(w.ds, w.dout, w.vt, queries, D);                   // do v^T
                for (int64_t i = 0; i < kBlock; i++) {
                    const int64_t seen = i < queries ? std::clamp<int64_t>(visible_to(a, q0 + i, keys) - k0, 0, n) : 0;
                    const float l = i < queries ? lse[(s * a.H + h) * a.Nq + q0 + i] : 0.0f, delta = i < queries ? w.delta[size_t(g * a.Nq + q0 + i)] : 0.0f;
                    float *p = w.p.at[i], *ds = w.ds.at[i];
                    for (int64_t k = 0; k < seen; k++) p[k] = exp(p[k] * a.scale - l);
                    std::fill(p + seen, p + kBlock, 0.0f);
                    for (int64_t k = 0; k < seen; k++) ds[k] = p[k] * (ds[k] - delta) * a.scale;
                    std::fill(ds + seen, ds + kBlock, 0.0f);
                }
                add_weighted(w.dq.data() + (g * padded + q0) * kMaxD, queries, nullptr, w.ds.at[0], kBlock, 1, w.k, n, D);
                add_weighted(w.dk.at, n, nullptr, w.ds.at[0], 1, kBlock, w.q, queries, D);
                add_weighted(w.dv.at, n, nullptr, w.p.at[0], 1, kBlock, w.dout, queries, D);
            }
        for (int64_t j = 0; j < std::min<int64_t>(kBlock, a.Nk - k0); j++) {
            X *dk = b.dk.t.data<X>() + b.dk.at(s, k0 + j) + h_kv * D, *dv = b.dv.t.data<X>() + b.dv.at(s, k0 + j) + h_kv * D;
            for (int64_t d = 0; d < D; d++) dk[d] = X(w.dk.at[j * kMaxD + d]), dv[d] = X(w.dv.at[j * kMaxD + d]);
        }
    }
    for (int64_t g = 0; g < group; g++)
        for (int64_t i = 0; i < a.Nq; i++) {
            X* dq = b.dq.t.data<X>() + b.dq.at(s, i) + (h_kv * group + g) * D;
            for (int64_t d = 0; d < D; d++) dq[d] = X(w.dq[size_t((g * padded + i) * kMaxD + d)]);
        }
}

}

template <> void run(const AttentionFwd& a) {
    const int64_t blocks = (a.Nq + kBlock - 1) / kBlock;
    with_float_type(a.q.t.dtype(), [&]<class X>() {
#pragma omp parallel if (a.S * a.H * a.Nq * a.Nk * a.D > 1 << 16)
        {
            const auto scratch = std::make_unique<ForwardScratch>();
#pragma omp for schedule(dynamic, 1) collapse(3)
            for (int64_t s = 0; s < a.S; s++)
                for (int64_t h = 0; h < a.H; h++)
                    for (int64_t block = 0; block < blocks; block++) forward<X>(a, s, h, block * kBlock, *scratch);
        }
    });
}
template <> void run(const AttentionBwd& b) {
    const AttentionFwd& a = b.fwd;
    with_float_type(a.q.t.dtype(), [&]<class X>() {
#pragma omp parallel if (a.S * a.H * a.Nq * a.Nk * a.D > 1 << 16)
        {
            const auto scratch = std::make_unique<BackwardScratch>();
#pragma omp for schedule(dynamic, 1) collapse(2)
            for (int64_t s = 0; s < a.S; s++)
                for (int64_t h = 0; h < a.Hkv; h++) backward<X>(b, s, h, *scratch);
        }
    });
}

}
