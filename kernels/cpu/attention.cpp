// Blocks of 64 queries and 64 keys in L1. Scores, sums and statistics are f32; factors are *units* (gemm.h): f32, or pairs of
// bf16, for which probabilities and their gradients are rounded to bf16 once. Forward: a task is one head of one sequence and up to
// 256 queries, which share the work of turning k and v into units. Backward: a task is one key/value head of one sequence, so nothing is ever added by two threads. Bound by arithmetic
// (forward 4, backward 10 Nq Nk D, and an exponential per score) except for few queries, where copying k and v dominates.
#include "kernels/attention.h"
#include <algorithm>
#include <cmath>
#include <memory>
#include "kernels/cpu/gemm.h"

namespace merv::kernels::cpu::MERV_ISA {
namespace {

constexpr int kBlock = 64, kGroup = 4, kMaxD = 128;     // queries and keys of a block; rows worked on at once
static_assert(kBlock % kLanes == 0 && kLanes % kGroup == 0);
constexpr int64_t kQueries = 4 * kBlock;                // of a forward task
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
        const int64_t n = units<X>(D);
        if (i < count && n % kLanes == 0) {
            const X* from = x + rows.at(s, row0 + i) + h * D;
            for (int64_t u = 0; u < n; u += kLanes) store(out + u, load_units<X>(from + u * per_unit<X>));
            continue;
        }
        std::fill(out, out + padded(n), 0.0f);
        if (i < count) std::memcpy(out, x + rows.at(s, row0 + i) + h * D, size_t(D) * sizeof(X));
    }
}
// What copy_rows will read: too short a run in each row for the hardware to see it coming.
template <class X> void fetch_rows(const Rows& rows, int64_t s, int64_t row0, int64_t count, int64_t h, int64_t D) {
    for (int64_t i = 0; i < count; i++) {
        const char* from = reinterpret_cast<const char*>(rows.t.data<X>() + rows.at(s, row0 + i) + h * D);
        for (int64_t b = 0; b < D * int64_t(sizeof(X)); b += 64) __builtin_prefetch(from + b, 0, 2);
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
inline Vec interleave(const float* low, const float* high) {     // kLanes bf16 of each
    typedef uint16_t Half __attribute__((vector_size(2 * kLanes)));
    typedef uint32_t Int __attribute__((vector_size(4 * kLanes)));
    Half l, h;
    std::memcpy(&l, low, sizeof l), std::memcpy(&h, high, sizeof h);
    return (Vec)(__builtin_convertvector(l, Int) | __builtin_convertvector(h, Int) << 16);
}
template <class X> void pair(Paired& to, const Rowwise& from, int64_t D) {
    if constexpr (std::is_same_v<X, float>) {
        for (int64_t i = 0; i < kBlock; i++) std::copy_n(from.at + i * kMaxD, padded(D), to.at + i * kMaxD);
    } else {
        for (int64_t i = 0; i < kBlock; i += 2)         // past D are zeros, or units of an earlier block: never stored
            for (int64_t d = 0; d < D; d += kLanes) store(to.at + i / 2 * kMaxD + d, interleave(from.at + i * kMaxD + d / 2, from.at + (i + 1) * kMaxD + d / 2));
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

template <class X, int V> void product_columns(float* out, const float* a, const float* b, int64_t D) {
    Vec acc[kGroup][V] = {};
    for (int64_t u = 0; u < units<X>(D); u++) {
        Vec v[V];
        MERV_UNROLL for (int h = 0; h < V; h++) v[h] = load(b + u * kBlock + h * kLanes);
        MERV_UNROLL for (int g = 0; g < kGroup; g++) {
            const Vec w = broadcast(a[g * kMaxD + u]);
            MERV_UNROLL for (int h = 0; h < V; h++) acc[g][h] = madd_units(X{}, w, v[h], acc[g][h]);
        }
    }
    MERV_UNROLL for (int g = 0; g < kGroup; g++) MERV_UNROLL for (int h = 0; h < V; h++) store(out + g * kBlock + h * kLanes, acc[g][h]);
}
// out[i][j] = a[i] . b[j] for `rows` rows of a (rounded up to a group) and `columns` of b; each sum runs over d from 0
template <class X> void products(Scores& out, const Rowwise& a, const Transposed& b, int64_t rows, int64_t columns, int64_t D) {
    for (int64_t i = 0; i < rows; i += kGroup) {
        int64_t j = 0;
        for (; j + kWide * kLanes <= (columns + kLanes - 1) / kLanes * kLanes; j += kWide * kLanes) product_columns<X, kWide>(out.at[i] + j, a.at + i * kMaxD, b.at + j, D);
        for (; j < columns; j += kLanes) product_columns<X, 1>(out.at[i] + j, a.at + i * kMaxD, b.at + j, D);
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

// Scores become probabilities relative to the new maxima. Row i sees the first seen(i) columns; before[i] is the factor for
// what was summed before. kLanes rows at a time, so that what is one number per row is done in lanes too.
template <class Seen> void softmax_step(Scores& s, int64_t rows, Seen seen, float scale, float* max, float* sum, float* before) {
    for (int64_t i = 0; i < rows; i += kLanes) {
        const int live = int(std::min<int64_t>(kLanes, (rows - i + kGroup - 1) / kGroup * kGroup));     // the rows add_weighted reads
        Vec tops[kLanes], totals[kLanes] = {};
        for (int g = 0; g < kLanes; g++) tops[g] = broadcast(-INFINITY);
        for (int g = 0; g < live; g++) {
            float* p = s.at[i + g];
            const int64_t n = i + g < rows ? seen(i + g) : 0;
            for (int64_t k = 0; k < n; k++) p[k] *= scale;
            std::fill(p + n, p + kBlock, -INFINITY);
            for (int h = 0; h < kKeyVecs; h++) tops[g] = larger(tops[g], load(p + h * kLanes));
        }
        MERV_ISA::transpose(tops);
        const Vec old = load(max + i);
        Vec top = old;
        for (int g = 0; g < kLanes; g++) top = larger(top, tops[g]);
        store(max + i, top);
        alignas(64) float at[kLanes];
        store(at, top == broadcast(-INFINITY) ? Vec{} : top);       // nothing seen yet: e^(-inf - 0), not e^(-inf + inf)
        for (int g = 0; g < live; g++) {
            float* p = s.at[i + g];
            for (int64_t k = 0; k < kBlock; k++) p[k] = exp(p[k] - at[g]);
            for (int h = 0; h < kKeyVecs; h++) totals[g] += load(p + h * kLanes);
        }
        MERV_ISA::transpose(totals);
        for (int half = kLanes / 2; half; half /= 2)                // in simd.h's order
            for (int g = 0; g < half; g++) totals[g] += totals[g + half];
        alignas(64) float factor[kLanes];
        store(factor, old);
        for (int g = 0; g < kLanes; g++) factor[g] = exp(factor[g] - at[g]);
        std::copy_n(factor, kLanes, before + i);
        store(sum + i, madd(load(sum + i), load(factor), totals[0]));
    }
}

int64_t keys_of(const AttentionFwd& a, int64_t s) { return a.k_len ? a.k_len.data<int32_t>()[s] : a.Nk; }
int64_t visible_to(const AttentionFwd& a, int64_t q, int64_t keys) { return a.mask == Mask::causal ? std::min(keys, keys - a.Nq + q + 1) : keys; }

struct ForwardScratch {
    Rowwise q[kQueries / kBlock], rows;         // rows: of k, then of v, on their way
    Transposed kt;
    Paired v;
    Sums o[kQueries / kBlock];
    Scores p;
    alignas(64) float max[kQueries], sum[kQueries], before[kBlock];
};

template <class X> void forward(const AttentionFwd& a, int64_t s, int64_t h, int64_t q0, int64_t queries, ForwardScratch& w) {
    const int64_t h_kv = h / (a.H / a.Hkv), D = a.D, keys = keys_of(a, s);
    for (int64_t i0 = 0; i0 < queries; i0 += kBlock) {
        copy_rows<X>(w.q[i0 / kBlock], a.q, s, q0 + i0, std::min<int64_t>(kBlock, queries - i0), h, D);
        std::fill_n(w.o[i0 / kBlock].at, kBlock * kMaxD, 0.0f);
    }
    std::fill_n(w.max, kQueries, -INFINITY);
    std::fill_n(w.sum, kQueries, 0.0f);
    const int64_t last = visible_to(a, q0 + queries - 1, keys);
    for (int64_t k0 = 0; k0 < last; k0 += kBlock) {
        const int64_t n = std::min<int64_t>(kBlock, last - k0);
        fetch_rows<X>(a.v, s, k0, n, h_kv, D);
        copy_rows<X>(w.rows, a.k, s, k0, n, h_kv, D);
        transpose<X>(w.kt, w.rows, D);
        fetch_rows<X>(a.k, s, k0 + n, std::min<int64_t>(kBlock, last - k0 - n), h_kv, D);
        copy_rows<X>(w.rows, a.v, s, k0, n, h_kv, D);
        pair<X>(w.v, w.rows, D);
        for (int64_t i0 = 0; i0 < queries; i0 += kBlock) {
            const int64_t rows = std::min<int64_t>(kBlock, queries - i0);
            if (visible_to(a, q0 + i0 + rows - 1, keys) <= k0) continue;
            products<X>(w.p, w.q[i0 / kBlock], w.kt, rows, n, D);
            softmax_step(w.p, rows, [&](int64_t i) { return std::clamp<int64_t>(visible_to(a, q0 + i0 + i, keys) - k0, 0, n); }, a.scale, w.max + i0, w.sum + i0, w.before);
            round_rows<X>(w.p, rows);
            add_weighted<X>(w.o[i0 / kBlock].at, rows, w.before, w.p, w.v, n, D);
        }
    }
    X* o = a.o.t.data<X>();
    float* lse = a.lse.data<float>();
    for (int64_t i = 0; i < queries; i++) {
        X* to = o + a.o.at(s, q0 + i) + h * D;
        const float *from = w.o[i / kBlock].at + i % kBlock * kMaxD, inverse = w.sum[i] > 0 || w.sum[i] != w.sum[i] ? 1.0f / w.sum[i] : 0.0f;
        for (int64_t d = 0; d < D; d++) to[d] = X(from[d] * inverse);
        if (lse) lse[(s * a.H + h) * a.Nq + q0 + i] = w.max[i] + std::log(w.sum[i]);
    }
}

// In the order of products(): a query of one key then has dS = 0 exactly. g++ 12 vectorises this sum wrongly for SSE2.
template <class X>
#ifndef __clang__
__attribute__((optimize("no-tree-vectorize")))
#endif
float dot(const X* a, const X* b, int64_t D) {
    float sum = 0;
    for (int64_t j = 0; j < D; j += per_unit<X>)
        for (int64_t k = j + per_unit<X> - 1; k >= j; k--) sum = madd(float(a[k]), float(b[k]), sum);
    return sum;
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
            w.delta[size_t(g * a.Nq + i)] = dot(o, d, D);
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
                products<X>(w.p, w.q, w.kt, queries, n, D);
                products<X>(w.ds, w.dout, w.vt, queries, n, D);                // do v^T
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
    const int64_t tasks = (a.Nq + kQueries - 1) / kQueries, groups = (a.Nq + kGroup - 1) / kGroup;
    const int64_t queries = tasks ? (groups + tasks - 1) / tasks * kGroup : 0;         // of each, evenly
    with_float_type(a.q.t.dtype(), [&]<class X>() {
#pragma omp parallel if (a.S * a.H * a.Nq * a.Nk * a.D > 1 << 16)
        {
            const FlushDenormals flush(std::is_same_v<X, bf16>);
            const auto scratch = std::make_unique<ForwardScratch>();
#pragma omp for schedule(dynamic, 1) collapse(3)
            for (int64_t s = 0; s < a.S; s++)
                for (int64_t h = 0; h < a.H; h++)
                    for (int64_t task = 0; task < tasks; task++)
                        if (task * queries < a.Nq) forward<X>(a, s, h, task * queries, std::min(queries, a.Nq - task * queries), *scratch);
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
