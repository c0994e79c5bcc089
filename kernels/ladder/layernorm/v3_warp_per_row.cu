// LayerNorm, rung 3: a warp per row, four rows per block. The lanes' sums meet in five shuffles, from register to register: no
// shared memory, no barrier, and warps do not wait for each other.
#include "kernels/gpu.h"
#include "kernels/ladder/ladder.h"

namespace merv::kernels::MERV_GPU {
namespace {

__device__ float warp_sum(float v) {
    for (int x = 16; x; x /= 2) v += __shfl_xor_sync(~0u, v, x);
    return v;
}

__global__ void v3_warp_per_row(float* y, const float* x, const float* w, const float* b, int M, int C, float eps) {
    const int m = int(blockIdx.x * blockDim.y + threadIdx.y);
    if (m >= M) return;
    x += int64_t(m) * C, y += int64_t(m) * C;
    float sum = 0, squares = 0;
    for (int c = int(threadIdx.x); c < C; c += 32) sum += x[c];
    const float mean = warp_sum(sum) / float(C);
    for (int c = int(threadIdx.x); c < C; c += 32) {
        const float d = x[c] - mean;
        squares += d * d;
    }
    const float rstd = 1.0f / sqrtf(warp_sum(squares) / float(C) + eps);
    for (int c = int(threadIdx.x); c < C; c += 32) y[c] = (x[c] - mean) * rstd * w[c] + b[c];
}

}

template <> void run(const ladder::LayerNormRung<3>& a) {
    const int M = int(a.x.dim(0)), C = int(a.x.dim(1));
    launch(Work{"layernorm v3", 8.0 * M * C, 7.0 * M * C}, Grid{{blocks_of(M, 4)}, {32, 4}}, v3_warp_per_row, at<float>(a.y), at<float>(a.x), at<float>(a.w), at<float>(a.b), M, C, a.eps);
}

}
