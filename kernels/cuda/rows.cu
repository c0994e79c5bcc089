// Moving whole rows: kernels/rows.h has the definitions. A thread moves one pack of 16 bytes. Bound by memory: every row is read
// and written once.
//
// Why the gradient of a gather has no atomics: the block of row i first looks whether an earlier row has the same index, and
// if one has, leaves the sum to that row's block, which goes through all later rows in order. The N blocks read up to N indices each,
// 4 N^2 bytes of L2: less than the rows themselves up to some 10^4 rows.
#include "kernels/rows.h"
#include "kernels/cuda/sum_rows.h"

namespace merv::kernels::MERV_GPU {
namespace {

constexpr int kThreads = 256;

struct Place { int64_t row; int column; };      // of a thread's pack, in rows of C
template <int n> MERV_DEVICE Place place(int C) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x, packs = C / n;
    return {i / packs, int(i % packs) * n};
}
template <int n, class Y, class X> MERV_DEVICE void copy(Y* y, const X* x) {
    float v[n];
    load(v, x);
    store(y, v);
}

template <int n, class Y, class X> __global__ void __launch_bounds__(kThreads) gather_kernel(Y* y, const X* x, const int32_t* index, int64_t N, int C) {
    const auto [i, c] = place<n>(C);
    if (i < N) copy<n>(y + i * C + c, x + int64_t(index[i]) * C + c);
}
template <int n, class X> __global__ void __launch_bounds__(kThreads) scatter_kernel(X* y, const X* x, const int32_t* index, int64_t N, int C) {
    const auto [i, c] = place<n>(C);
    if (i < N) copy<n>(y + int64_t(index[i]) * C + c, x + i * C + c);
}
template <int n, class X, class W> __global__ void __launch_bounds__(kThreads) add_rows_kernel(X* y, const X* x, const W* table, int64_t R, int64_t T, int64_t inner, int C) {
    const auto [r, c] = place<n>(C);
    if (r >= R) return;
    float v[n], add[n];
    load(v, x + r * C + c);
    load(add, table + r / inner % T * C + c);
    for (int k = 0; k < n; k++) v[k] += add[k];
    store(y + r * C + c, v);
}
template <int n, class X, class W> __global__ void __launch_bounds__(kThreads) prepend_kernel(X* y, const X* x, const W* tokens, int64_t S, int64_t N, int64_t T, int C) {
    const auto [r, c] = place<n>(C);
    const int64_t s = r / (T + N), i = r % (T + N);
    if (s >= S) return;
    if (i < T) copy<n>(y + r * C + c, tokens + i * C + c);
    else copy<n>(y + r * C + c, x + (s * N + i - T) * C + c);
}
template <int n, class X> __global__ void __launch_bounds__(kThreads) cut_kernel(X* dx, const X* dy, int64_t S, int64_t N, int64_t T, int C) {
    const auto [r, c] = place<n>(C);
    if (r < S * N) copy<n>(dx + r * C + c, dy + (r / N * (T + N) + T + r % N) * C + c);
}

template <int n, class X> __global__ void __launch_bounds__(kThreads) gather_backward_kernel(float* dx, const X* dy, const int32_t* index, int64_t N, int C) {
    __shared__ uint32_t hits[kThreads / 32];
    const int64_t i = blockIdx.x;
    const int32_t v = index[i];
    const int c = int(blockIdx.y * kThreads + threadIdx.x) * n, warp = int(threadIdx.x) / 32;
    float sum[n] = {};
    for (int64_t j0 = 0; j0 < N; j0 += kThreads) {
        const int64_t j = j0 + threadIdx.x;
        const uint32_t ballot = __ballot_sync(~0u, j < N && index[j] == v);
        if (BUG != 14) __syncthreads();         // the last hits have been read
        if (threadIdx.x % 32 == 0) hits[warp] = ballot;
        __syncthreads();
        for (int w = 0; w < kThreads / 32; w++)
            for (uint32_t left = hits[w]; left; left &= left - 1) {
                const int64_t row = j0 + w * 32 + __ffs(int(left)) - 1;
                if (row < i && BUG != 15) return;       // an earlier block's
                if (c >= C) continue;
                if (row == i) load(sum, dx + int64_t(v) * C + c);       // not before: an earlier block may be writing it
                float g[n];
                load(g, dy + row * C + c);
                for (int k = 0; k < n; k++) sum[k] += g[k];
            }
    }
    if (c < C) store(dx + int64_t(v) * C + c, sum);
}

}

template <> void run(const GatherRows& a) {
    const int64_t N = a.index.numel(), C = a.x.dim(-1);
    if (N * C == 0) return;
    with_float_type(a.y.dtype(), [&]<class Y>() { with_float_type(a.x.dtype(), [&]<class X>() {
        Y* y = at<Y>(a.y);
        const X* x = at<X>(a.x);
        with_width(vector_width(C, y, x), [&]<int n>() {
            launch(Work{"gather_rows", double(N) * (double(C) * (sizeof(Y) + sizeof(X)) + 4)}, pack_per_thread(N, C, n, kThreads), gather_kernel<n, Y, X>, y, x, at<int32_t>(a.index), N, int(C));
        });
    }); });
}
template <> void run(const GatherRowsBwd& a) {
    const int64_t N = a.index.numel(), C = a.dx.dim(-1);
    if (N * C == 0) return;
    with_float_type(a.dy.dtype(), [&]<class X>() {
        float* dx = at<float>(a.dx);
        const X* dy = at<X>(a.dy);
        with_width(vector_width(C, dx, dy), [&]<int n>() {
            launch(Work{"gather_rows backward", double(N) * (double(C) * (8 + sizeof(X)) + 4), double(N) * double(C)}, Grid{{unsigned(N), blocks_of(C, kThreads * n)}, {kThreads}},
                   gather_backward_kernel<n, X>, dx, dy, at<int32_t>(a.index), N, int(C));
        });
    });
}
template <> void run(const ScatterRows& a) {
    const int64_t N = a.index.numel(), C = a.x.dim(-1);
    if (N * C == 0) return;
    with_float_type(a.x.dtype(), [&]<class X>() {
        X* y = at<X>(a.y);
        const X* x = at<X>(a.x);
        with_width(vector_width(C, y, x), [&]<int n>() {
            launch(Work{"scatter_rows", double(N) * (double(C) * 2 * sizeof(X) + 4)}, pack_per_thread(N, C, n, kThreads), scatter_kernel<n, X>, y, x, at<int32_t>(a.index), N, int(C));
        });
    });
}
template <> void run(const AddRows& a) {
    const int64_t R = a.x.rows(), C = a.x.dim(-1), T = a.table.rows();
    if (R * C == 0) return;
    with_float_type(a.x.dtype(), [&]<class X>() { with_float_type(a.table.dtype(), [&]<class W>() {
        X* y = at<X>(a.y);
        const X* x = at<X>(a.x);
        const W* table = at<W>(a.table);
        with_width(limit_width(vector_width(C, y, x), C, table), [&]<int n>() {
            launch(Work{"add_rows", double(R) * double(C) * 2 * sizeof(X) + double(T) * double(C) * sizeof(W), double(R) * double(C)}, pack_per_thread(R, C, n, kThreads),
                   add_rows_kernel<n, X, W>, y, x, table, R, T, a.inner, int(C));
        });
    }); });
}
template <> void run(const AddRowsBwd& a) {
    const int64_t R = a.dy.rows(), C = a.dy.dim(-1), T = a.dtable.rows();
    if (R * C == 0) return;
    with_float_type(a.dy.dtype(), [&]<class X>() {
        const int64_t rounds = (R + T * a.inner - 1) / (T * a.inner);
        sum_rows("add_rows backward", at<float>(a.dtable), at<X>(a.dy), {rounds * a.inner, a.inner, T * a.inner, a.inner, R}, T, C, 1, true);
    });
}
template <> void run(const PrependTokens& a) {
    const int64_t S = a.x.dim(0), N = a.x.dim(1), C = a.x.dim(2), T = a.tokens.rows();
    if (S * (T + N) * C == 0) return;
    with_float_type(a.x.dtype(), [&]<class X>() { with_float_type(a.tokens.dtype(), [&]<class W>() {
        X* y = at<X>(a.y);
        const X* x = at<X>(a.x);
        const W* tokens = at<W>(a.tokens);
        with_width(limit_width(vector_width(C, y, x), C, tokens), [&]<int n>() {
            launch(Work{"prepend_tokens", double(S) * double(T + 2 * N) * double(C) * sizeof(X) + double(T) * double(C) * sizeof(W)}, pack_per_thread(S * (T + N), C, n, kThreads),
                   prepend_kernel<n, X, W>, y, x, tokens, S, N, T, int(C));
        });
    }); });
}
template <> void run(const PrependTokensBwd& a) {
    const int64_t S = a.dy.dim(0), C = a.dy.dim(2), T = a.dtokens ? a.dtokens.rows() : a.dy.dim(1) - a.dx.dim(1), N = a.dy.dim(1) - T;
    if (S * (T + N) * C == 0) return;
    with_float_type(a.dy.dtype(), [&]<class X>() {
        const X* dy = at<X>(a.dy);
        X* dx = at<X>(a.dx);
        if (a.dtokens) sum_rows("prepend_tokens backward", at<float>(a.dtokens), dy, {S, 1, T + N, 1, S * (T + N)}, T, C, 1, true);
        if (!dx || N == 0) return;
        with_width(vector_width(C, dx, dy), [&]<int n>() {
            launch(Work{"prepend_tokens backward", double(S) * double(N) * double(C) * 2 * sizeof(X)}, pack_per_thread(S * N, C, n, kThreads), cut_kernel<n, X>, dx, dy, S, N, T, int(C));
        });
    });
}

}
