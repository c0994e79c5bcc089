// Rotary position embedding (kernels/rope.h has the formula): x and y (.., N, H, D). A thread turns a pack of pairs, d.. and
// d + D/2.., so both halves are coalesced; the table's rows are shared by the heads and come from cache. Bound by memory: x is
// read and y written once. A decoder's step does q, k and v in one launch, since so few bytes cost less than a launch.
#include "kernels/rope.h"
#include "kernels/gpu.h"

namespace merv::kernels::MERV_GPU {
namespace {

constexpr int kThreads = 256;

// The pack d .. d + n - 1 of one head, at position `angle`
template <int n, class X> MERV_DEVICE void turn(X* y, const X* x, const float* cos, const float* sin, int64_t row, int64_t angle, int half, int d, float sign) {
    const int64_t at = row * 2 * half + d;
    angle = angle * half + d;
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
template <int n, class X> __global__ void __launch_bounds__(kThreads)
rope_kernel(X* y, const X* x, const float* cos, const float* sin, int64_t rows, int64_t N, int64_t H, int half, int64_t start, float sign) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x, row = i / (half / n);      // row: of D, a head's
    if (row < rows) turn<n>(y, x, cos, sin, row, start + row / H % N, half, int(i % (half / n)) * n, sign);
}
template <class X> struct Heads { X* to; const X* from; int64_t count; };      // count: in a token
template <int n, class X> __global__ void __launch_bounds__(kThreads)
append_kernel(Heads<X> q, Heads<X> k, Heads<X> v, const float* cos, const float* sin, int64_t N, int half, int64_t start) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x, all = q.count + k.count + v.count, row = i / (half / n), token = row / all;
    if (token >= N) return;
    const int d = int(i % (half / n)) * n;
    int64_t h = row % all;
    if (h < q.count) return turn<n>(q.to, q.from, cos, sin, token * q.count + h, start + token, half, d, 1);
    h -= q.count;
    if (h < k.count) return turn<n>(k.to, k.from, cos, sin, token * k.count + h, start + token, half, d, 1);
    const int64_t at = (token * v.count + h - k.count) * 2 * half + d;
    float low[n], high[n];
    load(low, v.from + at);
    load(high, v.from + at + half);
    store(v.to + at, low);
    store(v.to + at + half, high);
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

template <> void run(const RopeAppend& a) {
    const int64_t N = a.q.dim(0), D = a.q.dim(-1), half = D / 2;
    const float *cos = at<float>(a.cos), *sin = at<float>(a.sin);
    with_float_type(a.q.dtype(), [&]<class X>() {
        const Heads<X> q{at<X>(a.q_out), at<X>(a.q), a.q.dim(1)}, k{at<X>(a.k_out), at<X>(a.k), a.k.dim(1)}, v{at<X>(a.v_out), at<X>(a.v), a.v.dim(1)};
        const int64_t rows = N * (q.count + k.count + v.count);
        if (rows == 0) return;
        with_width(limit_width(limit_width(vector_width(half, q.to, q.from, k.to, k.from, v.to, v.from), half, cos), half, sin), [&]<int n>() {
            launch(Work{"rope, append", double(rows) * double(D) * 2 * sizeof(X), double(N * (q.count + k.count)) * double(D) * 3}, Grid{{blocks_of(rows * (half / n), kThreads)}, {kThreads}},
                   append_kernel<n, X>, q, k, v, cos, sin, N, int(half), a.start);
        });
    });
}

}
