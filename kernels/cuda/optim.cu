// AdamW over a flat shard (kernels/optim.h has the formula), n elements. Bound by memory: 16 bytes read and 12 written per element,
// besides param. Every operation is written as one that rounds to nearest and is never fused, so the bits are the CPU's.
#include "kernels/optim.h"
#include <cmath>
#include "kernels/gpu.h"

namespace merv::kernels::MERV_GPU {
namespace {

constexpr int kThreads = 256;
struct Factors { float keep, first, second, beta2, eps, step, root, grad_scale; };

template <int n, class P> __global__ void __launch_bounds__(kThreads) adamw_kernel(float* master, float* m, float* v, P* param, const float* grad, const float* clip, Factors f, int64_t packs) {
    const int64_t i = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * n;
    if (i > packs * n - (BUG == 20 ? 0 : 1)) return;
    const float grad_scale = clip ? __fmul_rn(f.grad_scale, *clip) : f.grad_scale;
    float p[n], mean[n], square[n], g[n];
    load(p, master + i);
    load(mean, m + i);
    load(square, v + i);
    load(g, grad + i);
    for (int k = 0; k < n; k++) {
        const float d = __fmul_rn(g[k], grad_scale);
        mean[k] = __fadd_rn(mean[k], __fmul_rn(f.first, __fsub_rn(d, mean[k])));
        square[k] = __fadd_rn(__fmul_rn(square[k], f.beta2), __fmul_rn(__fmul_rn(f.second, d), d));
        const float scale = __fadd_rn(__fdiv_rn(__fsqrt_rn(square[k]), f.root), f.eps);
        p[k] = __fsub_rn(__fmul_rn(p[k], f.keep), __fdiv_rn(__fmul_rn(f.step, mean[k]), scale));
    }
    store(m + i, mean);
    store(v + i, square);
    store(master + i, p);
    if (param) store(param + i, p);
}
// One warp, so that the sums are added in their order. 4096 gradients make one sum: 7 billion on 8 GPUs take about a millisecond.
__global__ void __launch_bounds__(32) clip_kernel(float* factor, const float* sums, int64_t count, double limit) {
    double squares = 0;
    for (int64_t i = 0; i < count; i += 32) {
        const float mine = i + threadIdx.x < count ? sums[i + threadIdx.x] : 0.0f;
        for (int k = 0; k < 32; k++) squares += double(__shfl_sync(~0u, mine, k));
    }
    if (threadIdx.x == 0) *factor = clip_scale(sqrt(squares), limit);
}

}

template <> void run(const AdamW& a) {
    const int64_t N = a.master.numel();
    if (N == 0) return;
    const Factors f{float(1 - a.lr * a.decay), float(1 - a.beta1), float(1 - a.beta2), float(a.beta2), float(a.eps), float(a.lr / (1 - std::pow(a.beta1, double(a.step)))),
                    float(std::sqrt(1 - std::pow(a.beta2, double(a.step)))), a.grad_scale};
    float *master = at<float>(a.master), *m = at<float>(a.m), *v = at<float>(a.v);
    const float* grad = at<float>(a.grad);
    with_float_type(a.param ? a.param.dtype() : DType::f32, [&]<class P>() {
        P* param = at<P>(a.param);
        with_width(vector_width(N, master, m, v, param, grad), [&]<int n>() {
            launch(Work{"adamw", double(N) * (28.0 + (param ? sizeof(P) : 0)), 15.0 * double(N)}, Grid{{blocks_of(N / n, kThreads)}, {kThreads}},
                   adamw_kernel<n, P>, master, m, v, param, grad, at<float>(a.clip), f, N / n);
        });
    });
}
template <> void run(const ClipFactor& a) {
    launch(Work{"clip factor", double(a.sums.bytes()) + 4, double(a.sums.numel())}, Grid{{1}, {32}}, clip_kernel, at<float>(a.factor), at<float>(a.sums), a.sums.numel(), a.limit);
}

}
