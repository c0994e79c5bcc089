// Sums of rows in a fixed order, for gradients of tables and for means: y[t] = sum over i < count of
//   x[t step + first + i / inner * outer + i % inner] / divisor     (rows beyond `rows` are left out)
// A block sums 32 packs of columns, 8 rows at a time. Where that gives too few blocks, stretches of rows are summed apart and
// their sums by a second launch. How they are cut follows from the shapes alone.
#pragma once
#include "kernels/gpu.h"

namespace merv::kernels::MERV_GPU {
namespace {

struct RowSums { int64_t count, inner, outer, step, rows, first = 0; };
constexpr int kSumLanes = 8;

template <int n, class Y, class X> __global__ void __launch_bounds__(256) sum_rows_kernel(Y* y, const X* x, RowSums s, int64_t C, int64_t stretch, int64_t T, float divisor, bool add) {
    __shared__ float part[kSumLanes][n][32];    // lanes' first elements together, ..: no bank conflicts
    const int64_t slices = (C + 32 * n - 1) / (32 * n), t = blockIdx.x / slices, c = (blockIdx.x % slices * 32 + threadIdx.x) * n;
    const int64_t begin = blockIdx.y * stretch, end = begin + stretch < s.count ? begin + stretch : s.count;
    float sum[n] = {};
    if (c < C)
        for (int64_t i = begin + threadIdx.y; i < end; i += kSumLanes) {
            const int64_t row = t * s.step + s.first + i / s.inner * s.outer + i % s.inner;
            if (row >= s.rows && BUG != 12) continue;
            float v[n];
            load(v, x + row * C + c);
            for (int k = 0; k < n; k++) sum[k] += v[k];
        }
    for (int k = 0; k < n; k++) part[threadIdx.y][k][threadIdx.x] = sum[k];
    if (BUG != 11) __syncthreads();
    if (threadIdx.y != 0 || c >= C) return;
    for (int lane = 1; lane < kSumLanes; lane++)
        for (int k = 0; k < n; k++) sum[k] += part[lane][k][threadIdx.x];
    Y* to = y + (blockIdx.y * T + t) * C + c;
    float old[n] = {};
    if (add) load(old, to);
    for (int k = 0; k < n; k++) sum[k] = old[k] + sum[k] / divisor;
    store(to, sum);
}

// y (T, C), added to or set
template <class Y, class X> void sum_rows(const char* name, Y* y, const X* x, const RowSums& s, int64_t T, int64_t C, float divisor, bool add) {
    if (T == 0 || C == 0) return;
    with_width(vector_width(C, y, x), [&]<int n>() {
        const int64_t blocks = int64_t(blocks_of(C, 32 * n)) * T;
        const int64_t parts = std::max<int64_t>(1, std::min((264 + blocks - 1) / blocks, s.count / 64)), stretch = std::max<int64_t>(1, (s.count + parts - 1) / parts);
        const Work work{name, double(T) * double(C) * (double(s.count) * sizeof(X) + (add ? 2 : 1) * sizeof(Y)), double(T) * double(C) * double(s.count)};
        const Grid grid{{unsigned(blocks), unsigned(parts)}, {32, kSumLanes}};
        if (parts == 1) return launch(work, grid, sum_rows_kernel<n, Y, X>, y, x, s, C, stretch, T, divisor, add);
        const Tensor scratch({parts, T, C});
        float* part = at<float>(scratch);
        launch(work, grid, sum_rows_kernel<n, float, X>, part, x, s, C, stretch, T, 1.0f, false);
        const int64_t all = T * C;
        with_width(vector_width(all, y, part), [&]<int m>() {
            launch(Work{name, double(all) * (4.0 * double(parts) + (add ? 2 : 1) * sizeof(Y)), double(all) * double(parts)}, Grid{{blocks_of(all, 32 * m)}, {32, kSumLanes}}, sum_rows_kernel<m, Y, float>, y, part, RowSums{parts, parts, 0, 0, parts}, all, parts, int64_t(1), divisor, add);
        });
    });
}

}
}
