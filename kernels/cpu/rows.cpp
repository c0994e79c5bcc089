// Bound by memory: each row is read and written once. Backward sums run in order of the rows, a block of columns per thread.
#include "kernels/rows.h"
#include <algorithm>
#include "kernels/cpu/simd.h"

namespace merv::kernels::cpu::MERV_ISA {
namespace {

constexpr int64_t kColumns = 64;                // of a gradient table, per task

}

template <> void run(const GatherRows& a) {
    const int64_t N = a.index.numel(), C = a.x.dim(-1);
    const int32_t* index = a.index.data<int32_t>();
    with_float_type(a.y.dtype(), [&]<class Y>() { with_float_type(a.x.dtype(), [&]<class X>() {
        const X* x = a.x.data<X>();
        Y* y = a.y.data<Y>();
#pragma omp parallel for if (N * C > 1 << 14)
        for (int64_t i = 0; i < N; i++)
            for (int64_t c = 0; c < C; c++) y[i * C + c] = Y(float(x[index[i] * C + c]));
    }); });
}
template <> void run(const GatherRowsBwd& a) {
    const int64_t N = a.index.numel(), C = a.dx.dim(-1);
    const int32_t* index = a.index.data<int32_t>();
    float* dx = a.dx.data<float>();
    with_float_type(a.dy.dtype(), [&]<class X>() {
        const X* dy = a.dy.data<X>();
#pragma omp parallel for if (N * C > 1 << 14)
        for (int64_t c0 = 0; c0 < C; c0 += kColumns)
            for (int64_t i = 0; i < N; i++)
                for (int64_t c = c0; c < std::min(C, c0 + kColumns); c++) dx[index[i] * C + c] += float(dy[i * C + c]);
    });
}

template <> void run(const ScatterRows& a) {
    const int64_t N = a.index.numel(), C = a.x.dim(-1);
    const int32_t* index = a.index.data<int32_t>();
    with_float_type(a.x.dtype(), [&]<class X>() {
        const X* x = a.x.data<X>();
        X* y = a.y.data<X>();
#pragma omp parallel for if (N * C > 1 << 14)
        for (int64_t i = 0; i < N; i++) std::copy_n(x + i * C, C, y + index[i] * C);
    });
}

template <> void run(const AddRows& a) {
    const int64_t R = a.x.rows(), C = a.x.dim(-1), T = a.table.rows();
    with_float_type(a.x.dtype(), [&]<class X>() { with_float_type(a.table.dtype(), [&]<class W>() {
        const X* x = a.x.data<X>();
        const W* table = a.table.data<W>();
        X* y = a.y.data<X>();
#pragma omp parallel for if (R * C > 1 << 14)
        for (int64_t r = 0; r < R; r++) {
            const W* add = table + r / a.inner % T * C;
            for (int64_t c = 0; c < C; c++) y[r * C + c] = X(float(x[r * C + c]) + float(add[c]));
        }
    }); });
}
template <> void run(const AddRowsBwd& a) {
    const int64_t R = a.dy.rows(), C = a.dy.dim(-1), T = a.dtable.rows();
    float* dtable = a.dtable.data<float>();
    with_float_type(a.dy.dtype(), [&]<class X>() {
        const X* dy = a.dy.data<X>();
#pragma omp parallel for if (R * C > 1 << 14)
        for (int64_t c0 = 0; c0 < C; c0 += kColumns)
            for (int64_t r = 0; r < R; r++) {
                float* add = dtable + r / a.inner % T * C;
                for (int64_t c = c0; c < std::min(C, c0 + kColumns); c++) add[c] += float(dy[r * C + c]);
            }
    });
}

template <> void run(const PrependTokens& a) {
    const int64_t S = a.x.dim(0), N = a.x.dim(1), C = a.x.dim(2), T = a.tokens.rows();
    with_float_type(a.x.dtype(), [&]<class X>() { with_float_type(a.tokens.dtype(), [&]<class W>() {
        const X* x = a.x.data<X>();
        const W* tokens = a.tokens.data<W>();
        X* y = a.y.data<X>();
#pragma omp parallel for if (S * N * C > 1 << 14)
        for (int64_t s = 0; s < S; s++) {
            X* to = y + s * (T + N) * C;
            for (int64_t i = 0; i < T * C; i++) to[i] = X(float(tokens[i]));
            std::copy_n(x + s * N * C, N * C, to + T * C);
        }
    }); });
}
template <> void run(const PrependTokensBwd& a) {
    const int64_t S = a.dy.dim(0), C = a.dy.dim(2), T = a.dtokens ? a.dtokens.rows() : a.dy.dim(1) - a.dx.dim(1), N = a.dy.dim(1) - T;
    float* dtokens = a.dtokens.data<float>();
    with_float_type(a.dy.dtype(), [&]<class X>() {
        const X* dy = a.dy.data<X>();
        X* dx = a.dx.data<X>();
        if (dtokens)
            for (int64_t s = 0; s < S; s++)
                for (int64_t i = 0; i < T * C; i++) dtokens[i] += float(dy[s * (T + N) * C + i]);
        if (!dx) return;
#pragma omp parallel for if (S * N * C > 1 << 14)
        for (int64_t s = 0; s < S; s++) std::copy_n(dy + (s * (T + N) + T) * C, N * C, dx + s * N * C);
    });
}

}
