// Rotary position embedding (kernels/rope.h has the formula): x and y (.., N, H, D). A thread turns a pack of pairs, d.. and
// d + D/2.., so both halves are coalesced; the table's rows are shared by the heads and come from cache. Bound by memory: x is
// read and y written once.
#include "kernels/rope.h"
#include "kernels/gpu.h"

namespace merv::kernels::MERV_GPU {
namespace {

constexpr int kThreads = 256;

template <int n, class X> __global__ void __launch_bounds__(kThreads)
rope_kernel(X* y, const X* x, const float* cos, const float* sin, int64_t rows, int64_t N, int64_t H, int half, int64_t start, float sign) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x, row = i / (half / n);      // row: of D, a head's
    if (row >= rows) return;
    const int d = int(i % (half / n)) * n;
    const int64_t at = row * 2 * half + d, angle = (start + row / H % N) * half + d;
    float low[n], high[n], c[n], s[n];
    load(low, x + at);
    load(high, x + at + half);
    load(c, cos + angle);
    load(s, sin + angle);
    for (int k = 0; k < n; k++) {
        const float l = low[k], h = high[k], t = sign * s[k];
        low[k] = l * c[k] - h * t;
        high[k] = h * c[k] + l * t;
    }
    store(y + at, low);
    store(y + at + half, high);
}

}

template <> void run(const RopeFwd& a) {
    const int64_t H = a.x.dim(-2), D = a.x.dim(-1), N = a.x.dim(-3), half = D / 2;
    if (a.x.numel() == 0) return;
    const int64_t rows = a.x.numel() / D;
    const float *cos = at<float>(a.cos), *sin = at<float>(a.sin);
    with_float_type(a.x.dtype(), [&]<class X>() {
        X* y = at<X>(a.y);
        const X* x = at<X>(a.x);
        with_width(limit_width(limit_width(vector_width(half, y, x), half, cos), half, sin), [&]<int n>() {
            launch(Work{"rope", double(rows) * double(D) * 2 * sizeof(X), double(rows) * double(D) * 3}, Grid{{blocks_of(rows * (half / n), kThreads)}, {kThreads}},
                   rope_kernel<n, X>, y, x, cos, sin, rows, N, H, int(half), a.start, a.inverse ? -1.0f : 1.0f);
        });
    });
}

}
