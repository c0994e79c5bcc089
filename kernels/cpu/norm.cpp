// One row at a time, its passes in L1. Bound by memory: x is read once and y written once; backward reads x and dy, writes dx.
// Parameter gradients are folds over chunks of 64 rows, so they do not depend on the threads.
#include "kernels/norm.h"
#include <cmath>
#include "kernels/cpu/simd.h"

namespace merv::kernels::cpu::MERV_ISA {
namespace {

struct Stats { float mean, rstd; };

// Also leaves x - mean in `centred` (for rmsnorm, which has no mean, x itself).
template <bool Centre> Stats statistics(const float* x, float* centred, int64_t C, float eps) {
    const float mean = Centre ? row_sum(x, C, [](Vec v) { return v; }) / float(C) : 0.0f;
    for (int64_t i = 0; i < C; i++) centred[i] = Centre ? x[i] - mean : x[i];
    return {mean, 1.0f / std::sqrt(row_sum(centred, C, [](Vec v) { return v * v; }) / float(C) + eps)};
}

template <bool Centre, class X> void forward(const Tensor& y, const Tensor& x, const Tensor& weight, const Tensor& bias, float eps, const Tensor& residual, const Tensor& sum) {
    const int64_t M = x.rows(), C = x.dim(-1);
    const X *from = x.data<X>(), *more = residual.data<X>();
    X *to = y.data<X>(), *total = sum.data<X>();
    const std::vector<float> w = to_floats(weight), b = bias ? to_floats(bias) : std::vector<float>();
#pragma omp parallel if (M * C > 1 << 14)
    {
        std::vector<float> row = floats(C), centred = floats(C);
#pragma omp for
        for (int64_t m = 0; m < M; m++) {
            float* c = centred.data();
            const float* at = as_floats(from + m * C, row.data(), C);
            if (more) {
                for (int64_t i = 0; i < C; i++) row[size_t(i)] = float(total[m * C + i] = X(at[i] + float(more[m * C + i])));
                at = row.data();
            }
            const float rstd = statistics<Centre>(at, c, C, eps).rstd;
            X* out = to + m * C;
            if (Centre) for (int64_t i = 0; i < C; i++) out[i] = X(madd(c[i] * rstd, w[size_t(i)], b[size_t(i)]));
            else for (int64_t i = 0; i < C; i++) out[i] = X(c[i] * rstd * w[size_t(i)]);
        }
    }
}

template <bool Centre, class X> void backward(const Tensor& dx, const Tensor& dw, const Tensor& db, const Tensor& dy, const Tensor& x, const Tensor& weight, float eps, const Tensor& dsum) {
    constexpr int64_t kChunk = 64;
    const int64_t M = x.rows(), C = x.dim(-1), chunks = (M + kChunk - 1) / kChunk;
    const X *from = x.data<X>(), *grad = dy.data<X>(), *more = dsum.data<X>();
    X* to = dx.data<X>();
    const std::vector<float> w = to_floats(weight);
    std::vector<float> sums(dw || db ? size_t(chunks * 2 * C) : 0);        // per chunk: dw, then db
#pragma omp parallel if (M * C > 1 << 14)
    {
        std::vector<float> row = floats(C), xhat = floats(C), grow = floats(C), g = floats(C), gx = floats(C);
#pragma omp for
        for (int64_t chunk = 0; chunk < chunks; chunk++)
            for (int64_t m = chunk * kChunk; m < std::min(M, (chunk + 1) * kChunk); m++) {
                const float rstd = statistics<Centre>(as_floats(from + m * C, row.data(), C), xhat.data(), C, eps).rstd;
                const float* d = as_floats(grad + m * C, grow.data(), C);
                for (int64_t i = 0; i < C; i++) xhat[size_t(i)] *= rstd;
                if (!sums.empty()) {
                    float *w_sum = &sums[size_t(chunk * 2 * C)], *b_sum = w_sum + C;
                    for (int64_t i = 0; i < C; i++) w_sum[i] = madd(d[i], xhat[size_t(i)], w_sum[i]), b_sum[i] += d[i];
                }
                if (!to) continue;
                for (int64_t i = 0; i < C; i++) g[size_t(i)] = d[i] * w[size_t(i)], gx[size_t(i)] = g[size_t(i)] * xhat[size_t(i)];
                auto same = [](Vec v) { return v; };
                const float mean_g = Centre ? row_sum(g.data(), C, same) / float(C) : 0.0f, mean_gx = row_sum(gx.data(), C, same) / float(C);
                for (int64_t i = 0; i < C; i++) to[m * C + i] = X(rstd * (g[size_t(i)] - mean_g - xhat[size_t(i)] * mean_gx) + (more ? float(more[m * C + i]) : 0.0f));
            }
    }
    auto fold = [&](const Tensor& t, int64_t offset) {
        if (!t) return;
        float* out = t.data<float>();
        std::vector<float> total(size_t(C), 0.0f);
        for (int64_t chunk = 0; chunk < chunks; chunk++)
            for (int64_t i = 0; i < C; i++) total[size_t(i)] += sums[size_t(chunk * 2 * C + offset + i)];
        for (int64_t i = 0; i < C; i++) out[i] += total[size_t(i)];
    };
    fold(dw, 0), fold(db, C);
}

}

template <> void run(const LayerNormFwd& a) {
    with_float_type(a.x.dtype(), [&]<class X>() { forward<true, X>(a.y, a.x, a.w, a.b, a.eps, a.residual, a.sum); });
}
template <> void run(const LayerNormBwd& a) {
    with_float_type(a.x.dtype(), [&]<class X>() { backward<true, X>(a.dx, a.dw, a.db, a.dy, a.x, a.w, a.eps, a.dsum); });
}
template <> void run(const RmsNormFwd& a) {
    with_float_type(a.x.dtype(), [&]<class X>() { forward<false, X>(a.y, a.x, a.w, {}, a.eps, a.residual, a.sum); });
}
template <> void run(const RmsNormBwd& a) {
    with_float_type(a.x.dtype(), [&]<class X>() { backward<false, X>(a.dx, a.dw, {}, a.dy, a.x, a.w, a.eps, a.dsum); });
}

}
