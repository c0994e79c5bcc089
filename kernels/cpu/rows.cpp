// Bound by memory: each row is read and written once.
#include "kernels/rows.h"
#include <algorithm>

namespace merv::kernels::cpu::MERV_ISA {

template <> void run(const GatherRows& a) {
    const int64_t N = a.index.numel(), C = a.x.dim(-1);
    const int32_t* index = a.index.data<int32_t>();
    float* y = a.y.data<float>();
    with_float_type(a.x.dtype(), [&]<class T>() {
        const T* x = a.x.data<T>();
#pragma omp parallel for if (N * C > 1 << 14)
        for (int64_t i = 0; i < N; i++)
            for (int64_t c = 0; c < C; c++) y[i * C + c] = float(x[index[i] * C + c]);
    });
}

template <> void run(const ScatterRows& a) {
    const int64_t N = a.index.numel(), C = a.x.dim(-1);
    const int32_t* index = a.index.data<int32_t>();
    const float* x = a.x.data<float>();
    float* y = a.y.data<float>();
#pragma omp parallel for if (N * C > 1 << 14)
    for (int64_t i = 0; i < N; i++) std::copy_n(x + i * C, C, y + index[i] * C);
}

template <> void run(const AddRows& a) {
    const int64_t R = a.x.rows(), C = a.x.dim(-1), T = a.table.rows();
    const float* x = a.x.data<float>();
    float* y = a.y.data<float>();
    with_float_type(a.table.dtype(), [&]<class W>() {
        const W* table = a.table.data<W>();
#pragma omp parallel for if (R * C > 1 << 14)
        for (int64_t r = 0; r < R; r++) {
            const W* add = table + r / a.inner % T * C;
            for (int64_t c = 0; c < C; c++) y[r * C + c] = x[r * C + c] + float(add[c]);
        }
    });
}

template <> void run(const PrependTokens& a) {
    const int64_t S = a.x.dim(0), N = a.x.dim(1), C = a.x.dim(2), T = a.tokens.rows();
    const float* x = a.x.data<float>();
    float* y = a.y.data<float>();
    with_float_type(a.tokens.dtype(), [&]<class W>() {
        const W* tokens = a.tokens.data<W>();
#pragma omp parallel for if (S * N * C > 1 << 14)
        for (int64_t s = 0; s < S; s++) {
            float* to = y + s * (T + N) * C;
            for (int64_t i = 0; i < T * C; i++) to[i] = float(tokens[i]);
            std::copy_n(x + s * N * C, N * C, to + T * C);
        }
    });
}

}
