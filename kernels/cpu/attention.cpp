// Blocks of 64 queries and 64 keys in L1. Scores, sums and statistics are f32; factors are *units* (gemm.h): f32, or pairs of
// bf16, for which probabilities and their gradients are rounded to bf16 once. Forward: a task is one head of one sequence and 64
// queries. Backward: a task is one key/value head of one sequence, so nothing is ever added by two threads. Bound by arithmetic
// (forward 4, backward 10 Nq Nk D, and an exponential per score) except for few queries, where copying k and v dominates.
#include "kernels/attention.h"
#include <algorithm>
#include <cmath>
#include <memory>
#include "kernels/cpu/gemm.h"

namespace merv::kernels::cpu::MERV_ISA {
namespace {

constexpr int kBlock = 64, kGroup = 4, kMaxD = 128;     // queries and keys of a block; rows worked on at once
constexpr int kKeyVecs = kBlock / kLanes;
constexpr int kWide = kLanes == 16 ? 4 : 2;             // vectors of d per row of the group: 16 or 8 sums in registers

// A block in units, three ways; what is not there is zero, d is padded to whole vectors.
struct Rowwise { alignas(64) float at[kBlock * kMaxD]; };       // [row][d]: a unit is of one row
struct Transposed { alignas(64) float at[kMaxD * kBlock]; };    // [d][row]: the same units
struct Paired { alignas(64) float at[kBlock * kMaxD]; };        // [row][d]: a unit is of one d, and in bf16 of two rows
struct Sums { alignas(64) float at[kBlock * kMaxD]; };          // [row][d] f32
struct Scores { alignas(64) float at[kBlock][kBlock]; };        // f32; or, rounded, units [row][column]

int64_t padded(int64_t D) { return (D + kLanes - 1) / kLanes * kLanes; }

// Rows row0 .. of head h
template <class X> void copy_rows(Rowwise& to, const Rows& rows, int64_t s, int64_t row0, int64_t count, int64_t h, int64_t D) {
    const X* x = rows.t.data<X>();
    for (int64_t i = 0; i < kBlock; i++) {
        float* out = to.at + i * kMaxD;
        std::fill(out, out + padded(units<X>(D)), 0.0f);
        if (i < count) std::memcpy(out, x + rows.at(s, row0 + i) + h * D, size_t(D) * sizeof(X));
    }
}
template <class X> void transpose(Transposed& to, const Rowwise& from, int64_t D) {
    for (int64_t i = 0; i < kBlock; i += kLanes)
        for (int64_t u = 0; u < units<X>(D); u += kLanes) {
            Vec r[kLanes];
            load_transposed(r, [&](int j) { return from.at + (i + j) * kMaxD + u; });
            for (int j = 0; j < kLanes; j++) store(to.at + (u + j) * kBlock + i, r[j]);
        }
}
template <class X> void pair(Paired& to, const Rowwise& from, int64_t D) {
    if constexpr (std::is_same_v<X, float>) {
        for (int64_t i = 0; i < kBlock; i++) std::copy_n(from.at + i * kMaxD, padded(D), to.at + i * kMaxD);
    } else {
        for (int64_t i = 0; i < kBlock; i += 2) {
            uint16_t low[kMaxD], high[kMaxD];
            uint32_t out[kMaxD];
            std::memcpy(low, from.at + i * kMaxD, sizeof low), std::memcpy(high, from.at + (i + 1) * kMaxD, sizeof high);
            for (int64_t d = 0; d < padded(D); d++) out[d] = d < D ? uint32_t(high[d]) << 16 | low[d] : 0;
            std::memcpy(to.at + i / 2 * kMaxD, out, size_t(padded(D)) * 4);
        }
    }
}
// f32 scores -> units along the columns, in place
template <class X> void round_rows(Scores& s, int64_t rows) {
    if constexpr (!std::is_same_v<X, float>)
        for (int64_t i = 0; i < rows; i++) {
            bf16 rounded[kBlock];
            for (int64_t k = 0; k < kBlock; k++) rounded[k] = bf16(s.at[i][k]);
            std::memcpy(s.at[i], rounded, sizeof rounded);
        }
}
void transpose(Scores& to, const Scores& from) {
    for (int i = 0; i < kBlock; i += kLanes)
        for (int k = 0; k < kBlock; k += kLanes) {
            Vec r[kLanes];
            load_transposed(r, [&](int j) { return from.at[i + j] + k; });
            for (int j = 0; j < kLanes; j++) store(to.at[k + j] + i, r[j]);
        }
}

// out[i][j] = a[i] . b[j] for `rows` rows of a (rounded up to a group); each sum runs over d from 0
template <class X> void products(Scores& out, const Rowwise& a, const Transposed& b, int64_t rows, int64_t D) {
    for (int64_t i = 0; i < rows; i += kGroup)
        for (int h = 0; h < kKeyVecs; h += 2) {         // two vectors of columns for four rows stay in registers
            Vec acc[kGroup][2] = {};
            for (int64_t u = 0; u < units<X>(D); u++) {
                const Vec b0 = load(b.at + u * kBlock + h * kLanes), b1 = load(b.at + u * kBlock + (h + 1) * kLanes);
                MERV_UNROLL for (int g = 0; g < kGroup; g++) {
                    const Vec v = broadcast(a.at[(i + g) * kMaxD + u]);
                    acc[g][0] = madd_units(X{}, v, b0, acc[g][0]);
                    acc[g][1] = madd_units(X{}, v, b1, acc[g][1]);
                }
            }
            MERV_UNROLL for (int g = 0; g < kGroup; g++)
                MERV_UNROLL for (int v = 0; v < 2; v++) store(out.at[i + g] + (h + v) * kLanes, acc[g][v]);
        }
}

template <class X, int V> void add_weighted_columns(float* to, const float* keep, const float (*weights)[kBlock], const float* from, int64_t n) {
    Vec acc[kGroup][V] = {};
    for (int64_t u = 0; u < n; u++) {
        Vec v[V];
        MERV_UNROLL for (int h = 0; h < V; h++) v[h] = load(from + u * kMaxD + h * kLanes);
        MERV_UNROLL for (int g = 0; g < kGroup; g++) {
            const Vec w = broadcast(weights[g][u]);
            MERV_UNROLL for (int h = 0; h < V; h++) acc[g][h] = madd_units(X{}, w, v[h], acc[g][h]);
        }
    }
    MERV_UNROLL for (int g = 0; g < kGroup; g++)
        MERV_UNROLL for (int h = 0; h < V; h++) {
            float* at = to + g * kMaxD + h * kLanes;
            store(at, madd(load(at), broadcast(keep ? keep[g] : 1.0f), acc[g][h]));
        }
}
// to[i] = keep[i] to[i] + sum over j < n of weights[i][j] from[j]. The block's sum runs from zero, which keeps long sequences
// accurate.
template <class X> void add_weighted(float* to, int64_t rows, const float* keep, const Scores& weights, const Paired& from, int64_t n, int64_t D) {
    for (int64_t i = 0; i < rows; i += kGroup) {
        int64_t d = 0;
        for (; d + kWide * kLanes <= padded(D); d += kWide * kLanes)
            add_weighted_columns<X, kWide>(to + i * kMaxD + d, keep ? keep + i : nullptr, weights.at + i, from.at + d, units<X>(n));
        for (; d < D; d += kLanes) add_weighted_columns<X, 1>(to + i * kMaxD + d, keep ? keep + i : nullptr, weights.at + i, from.at + d, units<X>(n));
    }
}

Vec larger(Vec a, Vec b) { return b > a || b != b ? b : a; }      // NaN wins

// Scores of one query become probabilities relative to the new maximum; returns the factor for what was summed before.
float softmax_step(float* p, int64_t visible, float scale, float& max, float& sum) {
    for (int64_t k = 0; k < kBlock; k++) p[k] = k < visible ? p[k] * scale : -INFINITY;
    Vec tops = broadcast(max);
    for (int h = 0; h < kKeyVecs; h++) tops = larger(tops, load(p + h * kLanes));
    float lanes[kLanes], top = max;
    store(lanes, tops);
    for (float v : lanes) top = v > top || v != v ? v : top;
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
    Rowwise q, rows;                            // rows: of k, then of v, on their way
    Transposed kt;
    Paired v;
    Sums o;
    Scores p;
    float max[kBlock], sum[kBlock], before[kBlock];
};

template <class X> void forward(const AttentionFwd& a, int64_t s, int64_t h, int64_t q0, ForwardScratch& w) {
    const int64_t queries = std::min<int64_t>(kBlock, a.Nq - q0), h_kv = h / (a.H / a.Hkv), D = a.D, keys = keys_of(a, s);
    copy_rows<X>(w.q, a.q, s, q0, queries, h, D);
    std::fill(w.o.at, w.o.at + kBlock * kMaxD, 0.0f);
    std::fill(w.max, w.max + kBlock, -INFINITY);
    std::fill(w.sum, w.sum + kBlock, 0.0f);
    const int64_t last = visible_to(a, q0 + queries - 1, keys);
    for (int64_t k0 = 0; k0 < last; k0 += kBlock) {
        const int64_t n = std::min<int64_t>(kBlock, last - k0);
        copy_rows<X>(w.rows, a.k, s, k0, n, h_kv, D);
        transpose<X>(w.kt, w.rows, D);
        copy_rows<X>(w.rows, a.v, s, k0, n, h_kv, D);
        pair<X>(w.v, w.rows, D);
        products<X>(w.p, w.q, w.kt, queries, D);
        for (int64_t i = 0; i < (queries + kGroup - 1) / kGroup * kGroup; i++) {
            const int64_t seen = i < queries ? std::clamp<int64_t>(visible_to(a, q0 + i, keys) - k0, 0, n) : 0;
            w.before[i] = softmax_step(w.p.at[i], seen, a.scale, w.max[i], w.sum[i]);
        }
        round_rows<X>(w.p, queries);
        add_weighted<X>(w.o.at, queries, w.before, w.p, w.v, n, D);
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
    Rowwise q, dout, rows;
    Transposed kt, vt;
    Paired k2, q2, dout2;
    Sums dk, dv;
    Scores p, ds, turned;
    std::vector<float> dq;                      // (heads of the group, queries in whole blocks, kMaxD): grows block by block of keys
    std::vector<float> delta;                   // (heads of the group, Nq): rowsum(do o)
};

template <class X> void backward(const AttentionBwd& b, int64_t s, int64_t h_kv, BackwardScratch& w) {
    const AttentionFwd& a = b.fwd;
    const int64_t group = a.H / a.Hkv, D = a.D, keys = keys_of(a, s), padded_rows = (a.Nq + kBlock - 1) / kBlock * kBlock;
    const float* lse = a.lse.data<float>();
    w.dq.assign(size_t(group * padded_rows * kMaxD), 0.0f);
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
        copy_rows<X>(w.rows, a.v, s, k0, n, h_kv, D);
        transpose<X>(w.vt, w.rows, D);
        copy_rows<X>(w.rows, a.k, s, k0, n, h_kv, D);
        transpose<X>(w.kt, w.rows, D);
        pair<X>(w.k2, w.rows, D);
        std::fill(w.dk.at, w.dk.at + kBlock * kMaxD, 0.0f);
        std::fill(w.dv.at, w.dv.at + kBlock * kMaxD, 0.0f);
        for (int64_t g = 0; g < group; g++)
            for (int64_t q0 = 0; q0 < a.Nq; q0 += kBlock) {
                const int64_t h = h_kv * group + g, queries = std::min<int64_t>(kBlock, a.Nq - q0);
                if (visible_to(a, q0 + queries - 1, keys) <= k0) continue;
                copy_rows<X>(w.q, a.q, s, q0, queries, h, D);
                copy_rows<X>(w.dout, b.dout, s, q0, queries, h, D);
                pair<X>(w.q2, w.q, D), pair<X>(w.dout2, w.dout, D);
                products<X>(w.p, w.q, w.kt, queries, D);
                products<X>(w.ds, w.dout, w.vt, queries, D);                // do v^T
                for (int64_t i = 0; i < kBlock; i++) {
                    const int64_t seen = i < queries ? std::clamp<int64_t>(visible_to(a, q0 + i, keys) - k0, 0, n) : 0;
                    const float l = i < queries ? lse[(s * a.H + h) * a.Nq + q0 + i] : 0.0f, delta = i < queries ? w.delta[size_t(g * a.Nq + q0 + i)] : 0.0f;
                    float *p = w.p.at[i], *ds = w.ds.at[i];
                    for (int64_t k = 0; k < seen; k++) p[k] = exp(p[k] * a.scale - l);
                    std::fill(p + seen, p + kBlock, 0.0f);
                    for (int64_t k = 0; k < seen; k++) ds[k] = p[k] * (ds[k] - delta) * a.scale;
                    std::fill(ds + seen, ds + kBlock, 0.0f);
                }
                transpose(w.turned, w.p);
                round_rows<X>(w.turned, n);
                add_weighted<X>(w.dv.at, n, nullptr, w.turned, w.dout2, queries, D);
                transpose(w.turned, w.ds);
                round_rows<X>(w.turned, n);
                add_weighted<X>(w.dk.at, n, nullptr, w.turned, w.q2, queries, D);
                round_rows<X>(w.ds, queries);
                add_weighted<X>(w.dq.data() + (g * padded_rows + q0) * kMaxD, queries, nullptr, w.ds, w.k2, n, D);
            }
        for (int64_t j = 0; j < std::min<int64_t>(kBlock, a.Nk - k0); j++) {
            X *dk = b.dk.t.data<X>() + b.dk.at(s, k0 + j) + h_kv * D, *dv = b.dv.t.data<X>() + b.dv.at(s, k0 + j) + h_kv * D;
            for (int64_t d = 0; d < D; d++) dk[d] = X(w.dk.at[j * kMaxD + d]), dv[d] = X(w.dv.at[j * kMaxD + d]);
        }
    }
    for (int64_t g = 0; g < group; g++)
        for (int64_t i = 0; i < a.Nq; i++) {
            X* dq = b.dq.t.data<X>() + b.dq.at(s, i) + (h_kv * group + g) * D;
            for (int64_t d = 0; d < D; d++) dq[d] = X(w.dq[size_t((g * padded_rows + i) * kMaxD + d)]);
        }
}

}

template <> void run(const AttentionFwd& a) {
    const int64_t blocks = (a.Nq + kBlock - 1) / kBlock;
    with_float_type(a.q.t.dtype(), [&]<class X>() {
#pragma omp parallel if (a.S * a.H * a.Nq * a.Nk * a.D > 1 << 16)
        {
            const FlushDenormals flush(std::is_same_v<X, bf16>);
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
            const FlushDenormals flush(std::is_same_v<X, bf16>);
            const auto scratch = std::make_unique<BackwardScratch>();
#pragma omp for schedule(dynamic, 1) collapse(2)
            for (int64_t s = 0; s < a.S; s++)
                for (int64_t h = 0; h < a.Hkv; h++) backward<X>(b, s, h, *scratch);
        }
    });
}

}
