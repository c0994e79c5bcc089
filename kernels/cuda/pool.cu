// Averages over channels-last grids and tokens, the encoders' weighted sum, and softmax of rows (kernels/pool.h has the formulas).
// Bound by memory: every element is read and written once; where bins overlap, the cells they share come from cache. A thread owns
// a pack of 16 bytes of channels.
//
// Why adaptive pooling's backward gathers: bins overlap, and a cell that adds up the bins it lies in needs no atomics.
#include "kernels/pool.h"
#include <algorithm>
#include "kernels/cuda/sum_rows.h"

namespace merv::kernels::MERV_GPU {
namespace {

constexpr int kThreads = 256;

// ---- adaptive pooling
struct Sizes { int B, T, Y, X, t, y, x, C; };   // the cells' grid and the bins'
struct Bin { int begin, end; };
MERV_DEVICE Bin bin(int i, int out, int in) { return {int(int64_t(i) * in / out), int((int64_t(i + 1) * in + out - 1) / out) + (BUG == 17)}; }
MERV_DEVICE Bin bins_of(int cell, int out, int in) {    // the bins that cover this cell: a range
    Bin r{int(int64_t(cell) * out / in), 0};
    while (r.begin > 0 && bin(r.begin - 1, out, in).end > cell) r.begin--;
    for (r.end = r.begin; r.end < out && bin(r.end, out, in).begin <= cell; r.end++) {}
    return r;
}
MERV_DEVICE int count(Bin b) { return b.end - b.begin; }

template <int n, class V> __global__ void __launch_bounds__(kThreads, 3) pool_kernel(V* to, const V* from, Sizes s) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x, packs = s.C / n, out = i / packs;
    if (out >= int64_t(s.B) * s.t * s.y * s.x) return;
    const int c = int(i % packs) * n, plane = int(out % (s.y * s.x));
    const int64_t bt = out / (s.y * s.x), b = bt / s.t;
    const Bin p = bin(int(bt % s.t), s.t, s.T), q = bin(plane / s.x, s.y, s.Y), r = bin(plane % s.x, s.x, s.X);
    float sum[n] = {};
    for (int f = p.begin; f < p.end; f++)
        for (int j = q.begin; j < q.end; j++)
            for (int k = r.begin; k < r.end; k++) {
                float v[n];
                load(v, from + (((b * s.T + f) * s.Y + j) * s.X + k) * s.C + c);
                for (int l = 0; l < n; l++) sum[l] += v[l];
            }
    for (int l = 0; l < n; l++) sum[l] /= float(count(p) * count(q) * count(r));
    store(to + out * s.C + c, sum);
}
template <int n, class V> __global__ void __launch_bounds__(kThreads, 3) pool_backward_kernel(V* to, const V* from, Sizes s) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x, packs = s.C / n, cell = i / packs;
    if (cell >= int64_t(s.B) * s.T * s.Y * s.X) return;
    const int c = int(i % packs) * n, plane = int(cell % (s.Y * s.X));
    const int64_t bt = cell / (s.Y * s.X), b = bt / s.T;
    const Bin p = bins_of(int(bt % s.T), s.t, s.T), q = bins_of(plane / s.X, s.y, s.Y), r = bins_of(plane % s.X, s.x, s.X);
    float sum[n] = {};
    for (int f = p.begin; f < p.end; f++)
        for (int j = q.begin; j < q.end; j++)
            for (int k = r.begin; k < r.end; k++) {
                const float share = 1.0f / float(count(bin(f, s.t, s.T)) * count(bin(j, s.y, s.Y)) * count(bin(k, s.x, s.X)));
                float v[n];
                load(v, from + (((b * s.t + f) * s.y + j) * s.x + k) * s.C + c);
                for (int l = 0; l < n; l++) sum[l] += share * v[l];
            }
    store(to + cell * s.C + c, sum);
}

// ---- token mean's gradient: dy / N in every row
template <int n, class V> __global__ void __launch_bounds__(kThreads) spread_kernel(V* dx, const V* dy, int64_t rows, int64_t N, int C) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x, packs = C / n, row = i / packs;
    if (row >= rows) return;
    const int c = int(i % packs) * n;
    float v[n];
    load(v, dy + row / N * C + c);
    for (int k = 0; k < n; k++) v[k] /= float(N);
    store(dx + row * C + c, v);
}

// ---- the weighted sum of E tensors; a block works in one sample, of `row` elements
constexpr int kMostMixed = 8;
constexpr int64_t kStretch = 4 * kThreads;      // packs of a block in backward
template <class V> struct Mixed { V* v[kMostMixed] = {}; };

template <int n, class V, class W> __global__ void __launch_bounds__(kThreads) mix_kernel(V* y, Mixed<const V> x, const W* weights, int E, int64_t row) {
    const int64_t i = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * n, b = blockIdx.y;
    if (i >= row) return;
    float sum[n] = {};
#pragma unroll
    for (int e = 0; e < kMostMixed; e++) {
        if (e >= E) break;
        const float w = float(weights[b * E + e]);
        float v[n];
        load(v, x.v[e] + b * row + i);
        for (int k = 0; k < n; k++) sum[k] += w * v[k];
    }
    store(y + b * row + i, sum);
}
// dots: (blocks of a sample, B, E), what sum_rows adds up
template <int n, class V, class W> __global__ void __launch_bounds__(kThreads)
mix_backward_kernel(Mixed<V> dx, float* dots, const V* dy, Mixed<const V> x, const W* weights, int E, int64_t row, int64_t B) {
    const int64_t b = blockIdx.y, begin = blockIdx.x * kStretch;
    float dot[kMostMixed] = {};
    for (int64_t p = begin + threadIdx.x; p < begin + kStretch && p * n < row; p += kThreads) {
        const int64_t i = b * row + p * n;
        float g[n];
        load(g, dy + i);
#pragma unroll
        for (int e = 0; e < kMostMixed; e++) {
            if (e >= E) break;
            float v[n];
            if (dots) {
                load(v, x.v[e] + i);
                for (int k = 0; k < n; k++) dot[e] += g[k] * v[k];
            }
            if (!dx.v[e]) continue;
            const float w = float(weights[b * E + e]);
            for (int k = 0; k < n; k++) v[k] = w * g[k];
            store(dx.v[e] + i, v);
        }
    }
    if (!dots) return;
#pragma unroll
    for (int e = 0; e < kMostMixed; e++) {
        if (e >= E) break;
        const float sum = row_reduce(dot[e], Sum());
        if (threadIdx.x == 0) dots[(blockIdx.x * B + b) * E + e] = sum;
    }
}

// ---- softmax of a row in the registers of its threads
constexpr int kKeep = 32, kMostThreads = 512;       // 1024 threads would have 64 registers, and spill
template <int n, class V> __global__ void __launch_bounds__(kMostThreads) softmax_kernel(V* y, const V* x, int64_t M, int C, float scale) {
    const int64_t m = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
    if (m >= M) return;
    float v[kKeep / n][n], top = -INFINITY, sum = 0;
    each_pack(v, C, [&](float (&p)[n], int c) {
        load(p, x + m * C + c);
        for (int k = 0; k < n; k++) p[k] *= scale, top = Max()(p[k], top);
    });
    top = row_reduce(top, Max());
    each_pack(v, C, [&](float (&p)[n], int) { for (int k = 0; k < n; k++) p[k] = expf(p[k] - top), sum += p[k]; });
    sum = row_reduce(sum, Sum());
    each_pack(v, C, [&](float (&p)[n], int c) {
        for (int k = 0; k < n; k++) p[k] /= sum;
        store(y + m * C + c, p);
    });
}
template <int n, class V> __global__ void __launch_bounds__(kMostThreads) softmax_backward_kernel(V* dx, const V* dy, const V* y, int64_t M, int C, float scale) {
    const int64_t m = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
    if (m >= M) return;
    float g[kKeep / 2 / n][n], dot = 0;         // y is read again, from cache: both rows would not fit
    each_pack(g, C, [&](float (&p)[n], int c) {
        float q[n];
        load(p, dy + m * C + c);
        load(q, y + m * C + c);
        for (int k = 0; k < n; k++) dot += q[k] * p[k];
    });
    dot = row_reduce(dot, Sum());
    each_pack(g, C, [&](float (&p)[n], int c) {
        float q[n];
        load(q, y + m * C + c);
        for (int k = 0; k < n; k++) p[k] = scale * q[k] * (p[k] - dot);
        store(dx + m * C + c, p);
    });
}

template <class V, class... More> int mixed_width(int64_t row, const std::vector<Tensor>& tensors, More*... more) {
    int n = vector_width(row, more...);
    for (const Tensor& t : tensors) n = std::min(n, vector_width(row, at<V>(t)));
    return n;
}
template <class V, class T> Mixed<T> mixed(const std::vector<Tensor>& tensors) {
    CHECK(tensors.size() <= size_t(kMostMixed), "mix: of up to ", kMostMixed, " tensors, not ", tensors.size());
    Mixed<T> m;
    for (size_t e = 0; e < tensors.size(); e++) m.v[e] = at<V>(tensors[e]);
    return m;
}
Sizes sizes(const Tensor& cells, const Tensor& bins) {
    auto dim = [](const Tensor& t, int i) { return int(t.dim(i)); };
    return {dim(cells, 0), dim(cells, 1), dim(cells, 2), dim(cells, 3), dim(bins, 1), dim(bins, 2), dim(bins, 3), dim(cells, 4)};
}

}

template <> void run(const AdaptivePool& a) {
    if (a.y.numel() == 0) return;
    with_float_type(a.x.dtype(), [&]<class V>() {
        V* y = at<V>(a.y);
        const V* x = at<V>(a.x);
        const int64_t C = a.x.dim(-1);
        with_width(vector_width(C, y, x), [&]<int n>() {
            launch(Work{"adaptive_pool", double(a.x.bytes() + a.y.bytes()), double(a.x.numel())}, pack_per_thread(a.y.rows(), C, n, kThreads), pool_kernel<n, V>, y, x, sizes(a.x, a.y));
        });
    });
}
template <> void run(const AdaptivePoolBwd& a) {
    if (a.dx.numel() == 0) return;
    with_float_type(a.dx.dtype(), [&]<class V>() {
        V* dx = at<V>(a.dx);
        const V* dy = at<V>(a.dy);
        const int64_t C = a.dx.dim(-1);
        with_width(vector_width(C, dx, dy), [&]<int n>() {
            launch(Work{"adaptive_pool backward", double(a.dx.bytes() + a.dy.bytes()), 2.0 * double(a.dx.numel())}, pack_per_thread(a.dx.rows(), C, n, kThreads), pool_backward_kernel<n, V>,
                   dx, dy, sizes(a.dx, a.dy));
        });
    });
}
template <> void run(const TokenMean& a) {
    const int64_t B = a.x.dim(0), N = a.x.dim(1), C = a.x.dim(2);
    with_float_type(a.x.dtype(), [&]<class V>() { sum_rows("token_mean", at<V>(a.y), at<V>(a.x), {N, N, 0, N, B * N}, B, C, float(N), false); });
}
template <> void run(const TokenMeanBwd& a) {
    const int64_t N = a.dx.dim(1), C = a.dx.dim(2), rows = a.dx.dim(0) * N;
    if (rows * C == 0) return;
    with_float_type(a.dx.dtype(), [&]<class V>() {
        V* dx = at<V>(a.dx);
        const V* dy = at<V>(a.dy);
        with_width(vector_width(C, dx, dy), [&]<int n>() {
            launch(Work{"token_mean backward", double(a.dx.bytes() + a.dy.bytes()), double(rows * C)}, pack_per_thread(rows, C, n, kThreads), spread_kernel<n, V>, dx, dy, rows, N, int(C));
        });
    });
}
template <> void run(const Mix& a) {
    const int64_t E = int64_t(a.x.size()), B = a.y.dim(0), row = a.y.numel() / std::max<int64_t>(B, 1);
    if (B * row == 0) return;
    with_float_type(a.y.dtype(), [&]<class V>() { with_float_type(a.weights.dtype(), [&]<class W>() {
        V* y = at<V>(a.y);
        with_width(mixed_width<V>(row, a.x, y), [&]<int n>() {
            launch(Work{"mix", double(E + 1) * double(a.y.bytes()), 2.0 * double(E * B * row)}, Grid{{blocks_of(row / n, kThreads), unsigned(B)}, {kThreads}},
                   mix_kernel<n, V, W>, y, mixed<V, const V>(a.x), at<W>(a.weights), int(E), row);
        });
    }); });
}
template <> void run(const MixBwd& a) {
    const int64_t E = int64_t(a.x.size()), B = a.dy.dim(0), row = a.dy.numel() / std::max<int64_t>(B, 1);
    if (B * row == 0) return;
    with_float_type(a.dy.dtype(), [&]<class V>() { with_float_type(a.weights.dtype(), [&]<class W>() {
        const V* dy = at<V>(a.dy);
        const int n_x = mixed_width<V>(row, a.x, dy), width = std::min(n_x, mixed_width<V>(row, a.dx, dy));
        with_width(width, [&]<int n>() {
            const int64_t blocks = blocks_of(row / n, kStretch);
            const Tensor scratch = a.dweights ? Tensor({blocks, B, E}) : Tensor();
            const double tensors = 1 + double(a.dweights ? E : 0) + double(std::count_if(a.dx.begin(), a.dx.end(), [](const Tensor& t) { return bool(t); }));
            launch(Work{"mix backward", tensors * double(a.dy.bytes()), 3.0 * double(E * B * row)}, Grid{{unsigned(blocks), unsigned(B)}, {kThreads}},
                   mix_backward_kernel<n, V, W>, mixed<V, V>(a.dx), at<float>(scratch), dy, mixed<V, const V>(a.x), at<W>(a.weights), int(E), row, B);
            if (a.dweights)
                with_float_type(a.dweights.dtype(), [&]<class D>() { sum_rows("mix backward", at<D>(a.dweights), at<float>(scratch), {blocks, blocks, 0, 0, blocks}, 1, B * E, 1, false); });
        });
    }); });
}
template <> void run(const SoftmaxRows& a) {
    const int64_t M = a.x.rows(), C = a.x.dim(-1);
    if (M == 0) return;
    CHECK(C <= kKeep * kMostThreads, "softmax_rows: rows of up to ", kKeep * kMostThreads, " elements, not ", C);
    with_float_type(a.x.dtype(), [&]<class V>() {
        V* y = at<V>(a.y);
        const V* x = at<V>(a.x);
        const dim3 block = row_block(C, kKeep);
        with_width(vector_width(C, y, x), [&]<int n>() {
            launch(Work{"softmax_rows", 2.0 * double(a.x.bytes()), 5.0 * double(M * C)}, Grid{{blocks_of(M, block.y)}, block}, softmax_kernel<n, V>, y, x, M, int(C), a.scale);
        });
    });
}
template <> void run(const SoftmaxRowsBwd& a) {
    const int64_t M = a.y.rows(), C = a.y.dim(-1);
    if (M == 0) return;
    CHECK(C <= kKeep / 2 * kMostThreads, "softmax_rows backward: rows of up to ", kKeep / 2 * kMostThreads, " elements, not ", C);
    with_float_type(a.y.dtype(), [&]<class V>() {
        V* dx = at<V>(a.dx);
        const V *dy = at<V>(a.dy), *y = at<V>(a.y);
        const dim3 block = row_block(C, kKeep / 2);
        with_width(vector_width(C, dx, dy, y), [&]<int n>() {
            launch(Work{"softmax_rows backward", 3.0 * double(a.y.bytes()), 5.0 * double(M * C)}, Grid{{blocks_of(M, block.y)}, block}, softmax_backward_kernel<n, V>,
                   dx, dy, y, M, int(C), a.scale);
        });
    });
}

}
