// A task is one head of one sequence and 64 queries. Per block of 64 keys: k transposed and v padded into L1, scores for
// four queries at a time in registers, softmax in place, then their share of o. Bound by arithmetic (2 x Nq Nk D, and an
// exponential per score) except for few queries, where the packing of k and v dominates.
#include "kernels/attention.h"
#include <algorithm>
#include <cmath>
#include <vector>
#include "kernels/cpu/simd.h"

namespace merv::kernels::cpu::MERV_ISA {
namespace {

constexpr int kKeys = 64, kQueries = 64, kGroup = 4, kMaxD = 128;
constexpr int kKeyVecs = kKeys / kLanes;

struct Scratch {
    alignas(64) float k[kMaxD * kKeys];         // [d][key]
    alignas(64) float v[kKeys * kMaxD];         // [key][d], d padded with zeros to whole vectors
    alignas(64) float q[kQueries * kMaxD];      // [query][d]
    alignas(64) float o[kQueries * kMaxD];
    alignas(64) float p[kGroup][kKeys];
    float max[kQueries], sum[kQueries], before[kGroup];
};

// p[g][key] = q[g] . k[key], summed over d from 0
void scores(Scratch& s, int64_t q0, int64_t D) {
    for (int h = 0; h < kKeyVecs; h += 2) {     // two vectors of keys for four queries stay in registers
        Vec acc[kGroup][2] = {};
        for (int64_t d = 0; d < D; d++) {
            const Vec k0 = load(s.k + d * kKeys + h * kLanes), k1 = load(s.k + d * kKeys + (h + 1) * kLanes);
#pragma GCC unroll 4
            for (int g = 0; g < kGroup; g++) {
                const Vec q = broadcast(s.q[(q0 + g) * kMaxD + d]);
                acc[g][0] = madd(q, k0, acc[g][0]);
                acc[g][1] = madd(q, k1, acc[g][1]);
            }
        }
        for (int g = 0; g < kGroup; g++)
            for (int i = 0; i < 2; i++) store(s.p[g] + (h + i) * kLanes, acc[g][i]);
    }
}

// o[q0 + g] = before[g] o[q0 + g] + p[g] v: the block's sum runs from zero, which keeps long sequences accurate
void weighted_values(Scratch& s, int64_t q0, int64_t D, int64_t keys) {
    for (int64_t d = 0; d < D; d += kLanes) {
        Vec acc[kGroup] = {};
        for (int64_t k = 0; k < keys; k++) {
            const Vec v = load(s.v + k * kMaxD + d);
#pragma GCC unroll 4
            for (int g = 0; g < kGroup; g++) acc[g] = madd(broadcast(s.p[g][k]), v, acc[g]);
        }
        for (int g = 0; g < kGroup; g++) {
            float* o = s.o + (q0 + g) * kMaxD + d;
            store(o, madd(load(o), broadcast(s.before[g]), acc[g]));
        }
    }
}

// Scores of one query become probabilities relative to the new maximum; returns the factor for what was summed before.
float softmax_step(float* p, int64_t visible, float scale, float& max, float& sum) {
    for (int64_t k = 0; k < kKeys; k++) p[k] = k < visible ? p[k] * scale : -INFINITY;
    float top = max;
    for (int64_t k = 0; k < kKeys; k++) top = p[k] > top || p[k] != p[k] ? p[k] : top;
    if (top == -INFINITY) {                     // nothing seen yet
        std::fill(p, p + kKeys, 0.0f);
        return 1;
    }
    for (int64_t k = 0; k < kKeys; k++) p[k] = exp(p[k] - top);
    const float before = exp(max - top);
    Vec total{};
    for (int h = 0; h < kKeyVecs; h++) total += load(p + h * kLanes);
    sum = madd(sum, before, MERV_ISA::sum(total));
    max = top;
    return before;
}

void head(const AttentionFwd& a, int64_t s, int64_t h, int64_t q_begin, int64_t keys, Scratch& w) {
    const int64_t queries = std::min<int64_t>(kQueries, a.Nq - q_begin), h_kv = h / (a.H / a.Hkv), D = a.D;
    auto visible = [&](int64_t q) { return a.mask == Mask::causal ? std::min(keys, keys - a.Nq + q + 1) : keys; };
    const float *q = a.q.t.data<float>(), *k = a.k.t.data<float>(), *v = a.v.t.data<float>();

    std::fill(w.o, w.o + kQueries * kMaxD, 0.0f);
    std::fill(w.q, w.q + kQueries * kMaxD, 0.0f);
    std::fill(w.max, w.max + kQueries, -INFINITY);
    std::fill(w.sum, w.sum + kQueries, 0.0f);
    for (int64_t i = 0; i < queries; i++) std::copy_n(q + a.q.at(s, q_begin + i) + h * D, D, w.q + i * kMaxD);

    const int64_t last = visible(q_begin + queries - 1);
    for (int64_t k0 = 0; k0 < last; k0 += kKeys) {
        const int64_t n = std::min<int64_t>(kKeys, last - k0);
        for (int64_t j = 0; j < kKeys; j++) {
            if (j < n) {
                const float *from_k = k + a.k.at(s, k0 + j) + h_kv * D, *from_v = v + a.v.at(s, k0 + j) + h_kv * D;
                for (int64_t d = 0; d < D; d++) w.k[d * kKeys + j] = from_k[d];
                std::copy_n(from_v, D, w.v + j * kMaxD);
                std::fill(w.v + j * kMaxD + D, w.v + (j + 1) * kMaxD, 0.0f);
            } else {
                for (int64_t d = 0; d < D; d++) w.k[d * kKeys + j] = 0.0f;
            }
        }
        for (int64_t i = 0; i < queries; i += kGroup) {
            scores(w, i, D);
            for (int64_t g = 0; g < kGroup; g++) {
                const int64_t seen = i + g < queries ? std::clamp<int64_t>(visible(q_begin + i + g) - k0, 0, n) : 0;
                w.before[g] = softmax_step(w.p[g], seen, a.scale, w.max[i + g], w.sum[i + g]);
            }
            weighted_values(w, i, D, n);
        }
    }
    float *o = a.o.t.data<float>(), *lse = a.lse.data<float>();
    for (int64_t i = 0; i < queries; i++) {
        float* to = o + a.o.at(s, q_begin + i) + h * D;
        const float inverse = w.sum[i] > 0 || w.sum[i] != w.sum[i] ? 1.0f / w.sum[i] : 0.0f;
        for (int64_t d = 0; d < D; d++) to[d] = w.o[i * kMaxD + d] * inverse;
        if (lse) lse[(s * a.H + h) * a.Nq + q_begin + i] = w.max[i] + std::log(w.sum[i]);
    }
}

}

template <> void run(const AttentionFwd& a) {
    const int64_t tiles = (a.Nq + kQueries - 1) / kQueries;
    const int32_t* k_len = a.k_len.data<int32_t>();     // checks its dtype here: what throws inside a parallel region ends the program
#pragma omp parallel if (a.S * a.H * a.Nq * a.Nk * a.D > 1 << 16)
    {
        const auto scratch = std::make_unique<Scratch>();
#pragma omp for schedule(dynamic, 1) collapse(3)
        for (int64_t s = 0; s < a.S; s++)
            for (int64_t h = 0; h < a.H; h++)
                for (int64_t tile = 0; tile < tiles; tile++) head(a, s, h, tile * kQueries, k_len ? k_len[s] : a.Nk, *scratch);
    }
}

}
