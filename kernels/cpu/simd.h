// Vectors of floats for the CPU kernels: as wide as the build's instruction set, with a fused multiply-add where it has one.
// Rounding is spelled out (madd fuses or not by build, never by the compiler's choice), so one build gives one result.
#pragma once
#include <bit>
#include <cstdint>
#include <cstring>
#include <cmath>
#include <vector>
#ifdef __x86_64__
#include <immintrin.h>
#endif
#include "core/dtype.h"

namespace merv::kernels::cpu::MERV_ISA {

#if defined(__AVX512F__)
inline constexpr int kLanes = 16;
#elif defined(__AVX__)
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif
typedef float Vec __attribute__((vector_size(4 * kLanes)));

inline Vec load(const float* p) {
    Vec v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
inline void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }
inline Vec broadcast(float f) { return f - Vec{}; }     // f - 0 is f for every f (0 + f is not: -0), so this is no arithmetic

inline float madd(float a, float b, float c) {          // a * b + c
#ifdef __FMA__
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}
inline Vec madd(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
    return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
    return _mm256_fmadd_ps(a, b, c);
#else
    return a * b + c;
#endif
}

inline float sum(Vec v) {                               // pairs that lie half a vector apart, then quarters, ...
    float lanes[kLanes];
    store(lanes, v);
    for (int half = kLanes / 2; half; half /= 2)
        for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
    return lanes[0];
}

// The first n floats at p, zeros behind.
inline Vec load_part(const float* p, int64_t n) {
    float lanes[kLanes] = {};
    std::memcpy(lanes, p, size_t(n) * 4);
    return load(lanes);
}

// sum over i of f(x[i..], lanes in use), in a fixed order: lane by lane, then across lanes.
template <class F> float row_sum(const float* x, int64_t n, F f) {
    Vec total{};
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) total += f(load(x + i));
    float t = sum(total);
    for (; i < n; i++) {
        Vec v{};
        v[0] = x[i];
        t += f(v)[0];
    }
    return t;
}

inline std::vector<float> floats(int64_t n) { return std::vector<float>(size_t(n)); }

// A row as f32: itself, or widened into `buffer`; and back, rounded. Statistics and sums are always f32.
inline const float* as_floats(const float* row, float*, int64_t) { return row; }
inline const float* as_floats(const bf16* row, float* buffer, int64_t n) {
    for (int64_t i = 0; i < n; i++) buffer[i] = float(row[i]);
    return buffer;
}

// ---- functions of one float, written so that loops over them vectorise; errors measured over their whole range ----
// A call is never left standing: one would keep its loop from vectorising.
#define MERV_INLINE [[gnu::always_inline]] inline

MERV_INLINE float select(bool c, float a, float b) { return c ? a : b; }

// e^x within 1.5 ulp: 2^n e^r with |r| <= ln 2 / 2. Below -87.3 the result is 0 rather than a denormal; NaN stays NaN.
MERV_INLINE float exp(float x) {
    const float clamped = select(x < -87.3f, -87.3f, select(x > 88.7228394f, 88.7228394f, x));
    const float shifted = madd(clamped, 1.44269504f, 12582912.0f);      // 1.5 * 2^23: the low bits now hold round(x / ln 2)
    const float n = shifted - 12582912.0f;
    const float r = madd(n, 2.12194440e-4f, madd(n, -0.693359375f, clamped));     // ln 2 in two parts, the first short: n times it is exact
    float p = 0.00139411084f;
    p = madd(p, r, 0.0083751264f);
    p = madd(p, r, 0.0416663529f);
    p = madd(p, r, 0.166664155f);
    p = madd(p, r, 0.5f);
    p = madd(p, r, 1.0f);
    p = madd(p, r, 1.0f);
    // 2^n in two factors, since 2^128 is no float
    const int32_t k = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(12582912.0f), half = k / 2;
    const float y = p * std::bit_cast<float>((half + 127) << 23) * std::bit_cast<float>((k - half + 127) << 23);
    return select(x < -87.3f, 0.0f, select(x > 88.7228394f, INFINITY, y));
}

// erf(x) within 2.5 ulp: an odd polynomial up to 1, 1 - e^(polynomial) up to 4, then 1. Coefficients: Chebyshev interpolation.
MERV_INLINE float erf(float x) {
    const float a = std::fabs(x), t = x * x;
    float p = 7.875875063e-5f;
    p = madd(p, t, -0.0008016864287f);
    p = madd(p, t, 0.005189087423f);
    p = madd(p, t, -0.02685421201f);
    p = madd(p, t, 0.1128359472f);
    p = madd(p, t, -0.3761262667f);
    p = madd(p, t, 1.128379166f);
    const float u = select(a > 4.0f, 4.0f, a) - 2.5f;
    float q = 1.637151415e-6f;                          // log(erfc(a)) around 2.5
    q = madd(q, u, -1.33150144e-5f);
    q = madd(q, u, 7.729137615e-5f);
    q = madd(q, u, -0.0004201225235f);
    q = madd(q, u, 0.002165303549f);
    q = madd(q, u, -0.01085854164f);
    q = madd(q, u, -0.9438937036f);
    q = madd(q, u, -5.352680674f);
    q = madd(q, u, -7.806815273f);
    return select(a < 1.0f, x * p, std::copysign(1.0f - exp(q), x));
}

MERV_INLINE float sigmoid(float x) { return 1.0f / (1.0f + exp(-x)); }
MERV_INLINE float tanh(float x) {                            // absolute error of 1 ulp of 1
    const float e = exp(-2.0f * std::fabs(x));
    return std::copysign((1.0f - e) / (1.0f + e), x);
}

}
