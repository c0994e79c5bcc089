// LayerNorm, rung 5: four elements per access. A warp moves 512 bytes with one instruction: a quarter of the requests, and four times
// the bytes under way, which is what hides the latency of memory.
#include "kernels/gpu.h"
#include "kernels/ladder/ladder.h"

namespace merv::kernels::MERV_GPU {
namespace {

constexpr int kPacks = 1024 / 128;              // of four elements, per lane

__global__ void v5_wide(float4* y, const float4* x, const float4* w, const float4* b, int M, int C, float eps) {
    const int m = int(blockIdx.x * blockDim.y + threadIdx.y), lane = int(threadIdx.x), packs = C / 4;
    if (m >= M) return;
    x += int64_t(m) * packs, y += int64_t(m) * packs;
    float4 v[kPacks];
    float sum = 0, squares = 0;
#pragma unroll
    for (int i = 0; i < kPacks; i++)
        if (32 * i + lane < packs) {
            v[i] = x[32 * i + lane];
            sum += v[i].x + v[i].y + (v[i].z + v[i].w);
        }
    const float mean = warp_reduce(sum, Sum()) / float(C);
#pragma unroll
    for (int i = 0; i < kPacks; i++)
        if (32 * i + lane < packs) {
            v[i] = {v[i].x - mean, v[i].y - mean, v[i].z - mean, v[i].w - mean};
            squares += v[i].x * v[i].x + v[i].y * v[i].y + (v[i].z * v[i].z + v[i].w * v[i].w);
        }
    const float rstd = 1.0f / sqrtf(warp_reduce(squares, Sum()) / float(C) + eps);
#pragma unroll
    for (int i = 0; i < kPacks; i++)
        if (const int c = 32 * i + lane; c < packs) {
            const float4 s = w[c], t = b[c];
            y[c] = {v[i].x * rstd * s.x + t.x, v[i].y * rstd * s.y + t.y, v[i].z * rstd * s.z + t.z, v[i].w * rstd * s.w + t.w};
        }
}

}

template <> void run(const ladder::LayerNormRung<5>& a) {
    const int M = int(a.x.dim(0)), C = int(a.x.dim(1));
    auto wide = [](const Tensor& t) { return reinterpret_cast<float4*>(at<float>(t)); };
    launch(Work{"layernorm v5", 8.0 * M * C, 7.0 * M * C}, Grid{{blocks_of(M, 4)}, {32, 4}}, v5_wide, wide(a.y), wide(a.x), wide(a.w), wide(a.b), M, C, a.eps);
}

}
