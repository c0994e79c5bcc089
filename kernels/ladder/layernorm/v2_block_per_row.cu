// LayerNorm, rung 2: a block of 128 threads per row. Neighbouring threads read neighbouring elements: a warp's access is four whole
// sectors. Sums meet in shared memory, in halves, with a barrier after each: seven barriers per sum, and most threads idle.
#include "kernels/gpu.h"
#include "kernels/ladder/ladder.h"

namespace merv::kernels::MERV_GPU {
namespace {

__device__ float block_sum(float v) {
    __shared__ float part[128];
    part[threadIdx.x] = v;
    __syncthreads();
    for (unsigned half = 64; half; half /= 2) {
        if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
        __syncthreads();
    }
    v = part[0];
    __syncthreads();                            // everybody has read it: the next sum may begin
    return v;
}

__global__ void v2_block_per_row(float* y, const float* x, const float* w, const float* b, int C, float eps) {
    x += int64_t(blockIdx.x) * C, y += int64_t(blockIdx.x) * C;
    float sum = 0, squares = 0;
    for (int c = int(threadIdx.x); c < C; c += 128) sum += x[c];
    const float mean = block_sum(sum) / float(C);
    for (int c = int(threadIdx.x); c < C; c += 128) {
        const float d = x[c] - mean;
        squares += d * d;
    }
    const float rstd = 1.0f / sqrtf(block_sum(squares) / float(C) + eps);
    for (int c = int(threadIdx.x); c < C; c += 128) y[c] = (x[c] - mean) * rstd * w[c] + b[c];
}

}

template <> void run(const ladder::LayerNormRung<2>& a) {
    const int M = int(a.x.dim(0)), C = int(a.x.dim(1));
    launch(Work{"layernorm v2", 8.0 * M * C, 7.0 * M * C}, Grid{{unsigned(M)}, {128}}, v2_block_per_row, at<float>(a.y), at<float>(a.x), at<float>(a.w), at<float>(a.b), C, a.eps);
}

}
