// LayerNorm, rung 4: each lane keeps its 32 elements of the row in registers, so the second and third pass read no memory. That
// wants loops whose bounds the compiler knows: an array that is indexed at run time would lie in memory after all.
#include "kernels/gpu.h"
#include "kernels/ladder/ladder.h"

namespace merv::kernels::MERV_GPU {
namespace {

constexpr int kKept = 1024 / 32;

__global__ void v4_registers(float* y, const float* x, const float* w, const float* b, int M, int C, float eps) {
    const int m = int(blockIdx.x * blockDim.y + threadIdx.y), lane = int(threadIdx.x);
    if (m >= M) return;
    x += int64_t(m) * C, y += int64_t(m) * C;
    float v[kKept], sum = 0, squares = 0;
#pragma unroll
    for (int i = 0; i < kKept; i++)
        if (32 * i + lane < C) sum += v[i] = x[32 * i + lane];
    const float mean = warp_reduce(sum, Sum()) / float(C);
#pragma unroll
    for (int i = 0; i < kKept; i++)
        if (32 * i + lane < C) {
            v[i] -= mean;
            squares += v[i] * v[i];
        }
    const float rstd = 1.0f / sqrtf(warp_reduce(squares, Sum()) / float(C) + eps);
#pragma unroll
    for (int i = 0; i < kKept; i++)
        if (const int c = 32 * i + lane; c < C) y[c] = v[i] * rstd * w[c] + b[c];
}

}

template <> void run(const ladder::LayerNormRung<4>& a) {
    const int M = int(a.x.dim(0)), C = int(a.x.dim(1));
    launch(Work{"layernorm v4", 8.0 * M * C, 7.0 * M * C}, Grid{{blocks_of(M, 4)}, {32, 4}}, v4_registers, at<float>(a.y), at<float>(a.x), at<float>(a.w), at<float>(a.b), M, C, a.eps);
}

}
