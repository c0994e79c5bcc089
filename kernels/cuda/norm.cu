// LayerNorm and RMSNorm of M rows of C (kernels/norm.h has the formulas), forward and backward. Bound by memory: forward reads x and
// writes y, backward reads x and dy and writes dx; a residual branch adds its own reads and writes, no pass. A row lies in the registers of its threads, a warp up to C = 1024 forward (512
// backward) and a block beyond, so the variance's second pass reads no memory.
//
// Why backward's blocks go through many rows: each keeps its sums for dw and db in registers and writes them once, as one row of a
// scratch tensor, which sum_rows then adds up. Which rows a block takes follows from M and C alone, so the bits do too.
#include "kernels/norm.h"
#include "kernels/cuda/sum_rows.h"

namespace merv::kernels::MERV_GPU {
namespace {

constexpr int kKeep = 32, kKeepBackward = 16;                   // elements of a row per thread: backward keeps four such rows
constexpr int kThreads = 512, kThreadsBackward = 512;
constexpr int64_t kGroups = 1056, kResident = 132 * 1024;       // rows under way in backward, and their threads

// Leaves x - mean in v (x itself for RMSNorm, which has no mean); gives rstd.
template <bool Centre, int k, int n> MERV_DEVICE float statistics(float (&v)[k][n], int C, float eps) {
    float sum = 0;
    if (Centre) {
        each_pack(v, C, [&](float (&p)[n], int) { for (int j = 0; j < n; j++) sum += p[j]; });
        const float mean = row_reduce(sum, Sum()) / float(C);
        each_pack(v, C, [&](float (&p)[n], int) { for (int j = 0; j < n; j++) p[j] -= mean; });
        sum = 0;
    }
    each_pack(v, C, [&](float (&p)[n], int) { for (int j = 0; j < n; j++) sum += p[j] * p[j]; });
    return 1.0f / sqrtf(row_reduce(sum, Sum()) / float(C) + eps);
}

template <int n, bool Centre, class X, class W> __global__ void __launch_bounds__(kThreads) forward_kernel(X* y, X* sum, const X* x, const X* residual, const W* w, const W* b, int64_t M, int C, float eps) {
    const int64_t m = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
    if (m >= M && BUG != 13) return;
    x += m * C, y += m * C;
    float v[kKeep / n][n];
    each_pack(v, C, [&](float (&p)[n], int c) { load(p, x + c); });
    if (residual)
        each_pack(v, C, [&](float (&p)[n], int c) {
            float r[n];
            load(r, residual + m * C + c);
            for (int j = 0; j < n; j++) p[j] = float(X(p[j] + r[j]));
            store(sum + m * C + c, p);
        });
    const float rstd = statistics<Centre>(v, C, eps);
    each_pack(v, C, [&](float (&p)[n], int c) {
        float scale[n], shift[n] = {};
        load(scale, w + c);
        if (Centre) load(shift, b + c);
        for (int j = 0; j < n; j++) p[j] = p[j] * rstd * scale[j] + shift[j];
        store(y + c, p);
    });
}

template <int n, bool Centre, class X, class W> __global__ void __launch_bounds__(kThreadsBackward)
backward_kernel(X* dx, float* dw, float* db, const X* dy, const X* x, const X* dsum, const W* w, int64_t M, int C, float eps, int64_t groups) {
    constexpr int k = kKeepBackward / n;
    const int64_t group = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
    if (group >= groups) return;
    float w_sum[k][n] = {}, b_sum[k][n] = {};
    for (int64_t m = group; m < M; m += groups) {
        float xhat[k][n], g[k][n];
        each_pack(xhat, C, [&](float (&p)[n], int c) { load(p, x + m * C + c); });
        each_pack(g, C, [&](float (&p)[n], int c) { load(p, dy + m * C + c); });
        const float rstd = statistics<Centre>(xhat, C, eps);
        float sum_g = 0, sum_gx = 0;
#pragma unroll
        for (int i = 0; i < k; i++) {
            const int c = (i * int(blockDim.x) + int(threadIdx.x)) * n;
            if (c >= C) continue;
            float scale[n];
            load(scale, w + c);
            for (int j = 0; j < n; j++) {
                xhat[i][j] *= rstd;
                w_sum[i][j] += g[i][j] * xhat[i][j];
                b_sum[i][j] += g[i][j];
                g[i][j] *= scale[j];
                sum_g += g[i][j];
                sum_gx += g[i][j] * xhat[i][j];
            }
        }
        if (!dx) continue;
        const float mean_g = Centre ? row_reduce(sum_g, Sum()) / float(C) : 0.0f, mean_gx = row_reduce(sum_gx, Sum()) / float(C);
#pragma unroll
        for (int i = 0; i < k; i++) {
            const int c = (i * int(blockDim.x) + int(threadIdx.x)) * n;
            if (c >= C) continue;
            for (int j = 0; j < n; j++) g[i][j] = rstd * (g[i][j] - mean_g - xhat[i][j] * mean_gx);
            if (dsum) {
                load(xhat[i], dsum + m * C + c);
                for (int j = 0; j < n; j++) g[i][j] += xhat[i][j];
            }
            store(dx + m * C + c, g[i]);
        }
    }
    if (dw) each_pack(w_sum, C, [&](float (&p)[n], int c) { store(dw + group * C + c, p); });
    if (db) each_pack(b_sum, C, [&](float (&p)[n], int c) { store(db + group * C + c, p); });
}

template <bool Centre> void forward(const char* name, const Tensor& y_, const Tensor& x_, const Tensor& w_, const Tensor& b_, float eps, const Tensor& residual_, const Tensor& sum_) {
    const int64_t M = x_.rows(), C = x_.dim(-1);
    if (M == 0) return;
    CHECK(C <= kKeep * kThreads, name, ": rows of up to ", kKeep * kThreads, " elements, not ", C);
    with_float_type(x_.dtype(), [&]<class X>() { with_float_type(w_.dtype(), [&]<class W>() {
        X *y = at<X>(y_), *sum = at<X>(sum_);
        const X *x = at<X>(x_), *residual = at<X>(residual_);
        const W *w = at<W>(w_), *b = at<W>(b_);
        const dim3 block = row_block(C, kKeep);
        with_width(limit_width(limit_width(vector_width(C, y, x, sum, residual), C, w), C, b), [&]<int n>() {
            launch(Work{name, double(M) * double(C) * (residual ? 4 : 2) * sizeof(X), double(M) * double(C) * (Centre ? 7 : 4)}, Grid{{blocks_of(M, block.y)}, block},
                   forward_kernel<n, Centre, X, W>, y, sum, x, residual, w, b, M, int(C), eps);
        });
    }); });
}
template <bool Centre> void backward(const char* name, const Tensor& dx_, const Tensor& dw_, const Tensor& db_, const Tensor& dy_, const Tensor& x_, const Tensor& w_, float eps, const Tensor& dsum_) {
    const int64_t M = x_.rows(), C = x_.dim(-1);
    if (M == 0) return;
    CHECK(C <= kKeepBackward * kThreadsBackward, name, ": rows of up to ", kKeepBackward * kThreadsBackward, " elements, not ", C);
    with_float_type(x_.dtype(), [&]<class X>() { with_float_type(w_.dtype(), [&]<class W>() {
        X* dx = at<X>(dx_);
        const X *dy = at<X>(dy_), *x = at<X>(x_), *dsum = at<X>(dsum_);
        const W* w = at<W>(w_);
        const dim3 block = row_block(C, kKeepBackward);
        const int64_t groups = std::min({M, kGroups, kResident / int64_t(block.x)});
        const Tensor w_rows = dw_ ? Tensor({groups, C}) : Tensor(), b_rows = db_ ? Tensor({groups, C}) : Tensor();
        float *dw = at<float>(w_rows), *db = at<float>(b_rows);
        with_width(limit_width(vector_width(C, dx, dy, x, dsum), C, w), [&]<int n>() {
            launch(Work{name, double(M) * double(C) * ((dx ? 3 : 2) + bool(dsum)) * sizeof(X), double(M) * double(C) * (Centre ? 17 : 12)}, Grid{{blocks_of(groups, block.y)}, block},
                   backward_kernel<n, Centre, X, W>, dx, dw, db, dy, x, dsum, w, M, int(C), eps, groups);
        });
        const RowSums all{groups, groups, 0, 0, groups};
        if (dw) sum_rows(name, at<float>(dw_), dw, all, 1, C, 1, true);
        if (db) sum_rows(name, at<float>(db_), db, all, 1, C, 1, true);
    }); });
}

}

template <> void run(const LayerNormFwd& a) { forward<true>("layernorm", a.y, a.x, a.w, a.b, a.eps, a.residual, a.sum); }
template <> void run(const LayerNormBwd& a) { backward<true>("layernorm backward", a.dx, a.dw, a.db, a.dy, a.x, a.w, a.eps, a.dsum); }
template <> void run(const RmsNormFwd& a) { forward<false>("rmsnorm", a.y, a.x, a.w, {}, a.eps, a.residual, a.sum); }
template <> void run(const RmsNormBwd& a) { backward<false>("rmsnorm backward", a.dx, a.dw, {}, a.dy, a.x, a.w, a.eps, a.dsum); }

}
