// LayerNorm, rung 5: four elements per access. A warp moves 512 bytes with one instruction: a quarter of the requests, and four times
// the bytes under way, which is what hides the latency of memory.
#include "kernels/gpu.h"
#include "kernels/ladder/ladder.h"

namespace merv::kernels::MERV_GPU {
namespace {

constexpr int kPacks = 1024 / 128;              // of four elements, per lane

__global__ void v5_wide(float* y, const float* x, const float* w, const float* b, int M, int C, float eps) {
    const int m = int(blockIdx.x * blockDim.y + threadIdx.y), first = 4 * int(threadIdx.x);
    if (m >= M) return;
    x += int64_t(m) * C, y += int64_t(m) * C;
    float v[kPacks][4], sum = 0, squares = 0;
#pragma unroll
    for (int i = 0; i < kPacks; i++)
        if (const int c = 128 * i + first; c < C) {
            load(v[i], x + c);                  // one access: see gpu.h
            for (int e = 0; e < 4; e++) sum += v[i][e];
        }
    const float mean = warp_reduce(sum, Sum()) / float(C);
#pragma unroll
    for (int i = 0; i < kPacks; i++)
        if (128 * i + first < C)
            for (int e = 0; e < 4; e++) {
                v[i][e] -= mean;
                squares += v[i][e] * v[i][e];
            }
    const float rstd = 1.0f / sqrtf(warp_reduce(squares, Sum()) / float(C) + eps);
#pragma unroll
    for (int i = 0; i < kPacks; i++)
        if (const int c = 128 * i + first; c < C) {
            float scale[4], shift[4];
            load(scale, w + c);
            load(shift, b + c);
            for (int e = 0; e < 4; e++) v[i][e] = v[i][e] * rstd * scale[e] + shift[e];
            store(y + c, v[i]);
        }
}

}

template <> void run(const ladder::LayerNormRung<5>& a) {
    const int M = int(a.x.dim(0)), C = int(a.x.dim(1));
    launch(Work{"layernorm v5", 8.0 * M * C, 7.0 * M * C}, Grid{{blocks_of(M, 4)}, {32, 4}}, v5_wide, at<float>(a.y), at<float>(a.x), at<float>(a.w), at<float>(a.b), M, C, a.eps);
}

}
