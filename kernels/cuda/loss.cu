// Cross-entropy of M rows of V logits (kernels/loss.h has the formula), a block per row. Bound by memory: forward reads x once, as
// each thread keeps a maximum and a sum that it scales anew when the maximum grows (Milakov & Gimelshein 2018); backward does
// so too and then reads x again, which for V of a vocabulary comes from L2, and writes dx. Rows may have any length.
#include "kernels/loss.h"
#include "kernels/gpu.h"

namespace merv::kernels::MERV_GPU {
namespace {

constexpr int kThreads = 512;

struct Row { float max, sum; };                 // sum of exp(x - max)
template <int n, class X> MERV_DEVICE Row row_of(const X* x, int64_t V) {
    float max = -INFINITY, sum = 0;
    for (int64_t v = threadIdx.x * n; v < V; v += blockDim.x * n) {
        float p[n];
        load(p, x + v);
        float top = max;
        for (int k = 0; k < n; k++) top = Max()(p[k], top);
        if (top == -INFINITY) continue;
        if (top != max) sum *= expf(max - top), max = top;
        for (int k = 0; k < n; k++) sum += expf(p[k] - max);
    }
    const float top = row_reduce(max, Max());
    return {top, row_reduce(sum * expf(max - top), Sum())};
}

template <int n, class X> __global__ void __launch_bounds__(kThreads) forward_kernel(float* loss, const X* x, const int32_t* labels, int64_t V) {
    const int64_t m = blockIdx.x;
    const int32_t label = labels[m];
    if (label == kIgnore) {
        if (threadIdx.x == 0) loss[m] = 0;
        return;
    }
    const Row r = row_of<n>(x + m * V, V);
    if (threadIdx.x == 0) loss[m] = logf(r.sum) + (r.max - float(x[m * V + label]));
}
template <int n, class X> __global__ void __launch_bounds__(kThreads) backward_kernel(X* dx, const X* x, const int32_t* labels, int64_t V, float scale) {
    const int64_t m = blockIdx.x;
    const int32_t label = labels[m];
    const Row r = label == kIgnore ? Row{0, 1} : row_of<n>(x + m * V, V);
    for (int64_t v = threadIdx.x * n; v < V; v += blockDim.x * n) {
        float p[n] = {};
        if (label != kIgnore) {
            load(p, x + m * V + v);
            for (int k = 0; k < n; k++) p[k] = (expf(p[k] - r.max) / r.sum - (v + k == label ? 1.0f : 0.0f)) * scale;
        }
        store(dx + m * V + v, p);
    }
}
unsigned threads_for(int64_t packs) {
    unsigned threads = 32;
    while (threads < kThreads && threads < packs) threads *= 2;
    return threads;
}

}

template <> void run(const CrossEntropyFwd& a) {
    const int64_t M = a.x.rows(), V = a.x.dim(-1);
    if (M == 0) return;
    with_float_type(a.x.dtype(), [&]<class X>() {
        const X* x = at<X>(a.x);
        with_width(BUG == 16 ? 4 : vector_width(V, x), [&]<int n>() {
            launch(Work{"cross_entropy", double(M) * (double(V) * sizeof(X) + 8), double(M) * double(V) * 3}, Grid{{unsigned(M)}, {threads_for(V / n)}},
                   forward_kernel<n, X>, at<float>(a.loss), x, at<int32_t>(a.labels), V);
        });
    });
}
template <> void run(const CrossEntropyBwd& a) {
    const int64_t M = a.x.rows(), V = a.x.dim(-1);
    if (M == 0) return;
    with_float_type(a.x.dtype(), [&]<class X>() {
        X* dx = at<X>(a.dx);
        const X* x = at<X>(a.x);
        with_width(vector_width(V, dx, x), [&]<int n>() {
            launch(Work{"cross_entropy backward", double(M) * double(V) * 2 * sizeof(X), double(M) * double(V) * 7}, Grid{{unsigned(M)}, {threads_for(V / n)}},
                   backward_kernel<n, X>, dx, x, at<int32_t>(a.labels), V, a.scale);
        });
    });
}

}
