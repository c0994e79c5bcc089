// One row at a time, its three passes in L1. Bound by memory: one read of x, one write of y.
#include "kernels/norm.h"
#include <cmath>
#include "kernels/cpu/simd.h"

namespace merv::kernels::cpu::MERV_ISA {

template <> void run(const LayerNormFwd& a) {
    const int64_t M = a.x.rows(), C = a.x.dim(-1);
    const float* x = a.x.data<float>();
    float* y = a.y.data<float>();
    const std::vector<float> w = to_floats(a.w), b = to_floats(a.b);
#pragma omp parallel for if (M * C > 1 << 14)
    for (int64_t m = 0; m < M; m++) {
        const float* from = x + m * C;
        float* to = y + m * C;
        const float mean = row_sum(from, C, [](Vec v) { return v; }) / float(C);
        for (int64_t i = 0; i < C; i++) to[i] = from[i] - mean;
        const float rstd = 1.0f / std::sqrt(row_sum(to, C, [](Vec v) { return v * v; }) / float(C) + a.eps);
        for (int64_t i = 0; i < C; i++) to[i] = madd(to[i] * rstd, w[size_t(i)], b[size_t(i)]);
    }
}

template <> void run(const RmsNormFwd& a) {
    const int64_t M = a.x.rows(), C = a.x.dim(-1);
    const float* x = a.x.data<float>();
    float* y = a.y.data<float>();
    const std::vector<float> w = to_floats(a.w);
#pragma omp parallel for if (M * C > 1 << 14)
    for (int64_t m = 0; m < M; m++) {
        const float* from = x + m * C;
        const float rstd = 1.0f / std::sqrt(row_sum(from, C, [](Vec v) { return v * v; }) / float(C) + a.eps);
        for (int64_t i = 0; i < C; i++) y[m * C + i] = from[i] * rstd * w[size_t(i)];
    }
}

}
