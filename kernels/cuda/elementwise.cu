// y = a + b and conversion between types. A thread moves 16 bytes per tensor. Bound by memory: every byte once.
#include "kernels/elementwise.h"
#include "kernels/gpu.h"

namespace merv::kernels::MERV_GPU {
namespace {

constexpr int kThreads = 256;
MERV_DEVICE int64_t thread_index() { return int64_t(blockIdx.x) * kThreads + threadIdx.x; }

template <int n, class T> __global__ void __launch_bounds__(kThreads) add_kernel(T* y, const T* a, const T* b, int64_t packs) {
    const int64_t i = thread_index() * n;
    if (i >= packs * n) return;
    float x[n], z[n];
    load(x, a + i);
    load(z, b + i);
    for (int k = 0; k < n; k++) x[k] += z[k];
    store(y + i, x);
}
template <int n, class Y, class X> __global__ void __launch_bounds__(kThreads) convert_kernel(Y* y, const X* x, int64_t packs) {
    const int64_t i = thread_index() * n;
    if (i >= packs * n) return;
    float v[n];
    load(v, x + i);
    store(y + i, v);
}

}

template <> void run(const Add& a) {
    const int64_t N = a.y.numel();
    if (N == 0) return;
    with_float_type(a.y.dtype(), [&]<class T>() {
        T* y = at<T>(a.y);
        const T *p = at<T>(a.a), *q = at<T>(a.b);
        with_width(vector_width(N, y, p, q), [&]<int n>() {
            launch(Work{"add", 3.0 * double(N) * sizeof(T), double(N)}, Grid{{blocks_of(N / n, kThreads)}, {kThreads}}, add_kernel<n, T>, y, p, q, N / n);
        });
    });
}

template <> void run(const Convert& a) {
    const int64_t N = a.y.numel();
    if (N == 0) return;
    with_float_type(a.y.dtype(), [&]<class Y>() {
        with_float_type(a.x.dtype(), [&]<class X>() {
            Y* y = at<Y>(a.y);
            const X* x = at<X>(a.x);
            with_width(vector_width(N, y, x), [&]<int n>() {
                launch(Work{"convert", double(N) * (sizeof(Y) + sizeof(X))}, Grid{{blocks_of(N / n, kThreads)}, {kThreads}}, convert_kernel<n, Y, X>, y, x, N / n);
            });
        });
    });
}

}
