// LayerNorm, rung 1: one thread per row, three passes over it. At each step the 32 threads of a warp read 32 addresses a row apart, so
// every access moves 32 sectors of 32 bytes for 4 useful ones each. (The caches soften that: the next steps find the rest of the
// sectors there, if 32 rows fit.)
#include "kernels/gpu.h"
#include "kernels/ladder/ladder.h"

namespace merv::kernels::MERV_GPU {
namespace {

__global__ void v1_thread_per_row(float* y, const float* x, const float* w, const float* b, int M, int C, float eps) {
    const int m = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (m >= M) return;
    float sum = 0, squares = 0;
    for (int c = 0; c < C; c++) sum += x[m * C + c];
    const float mean = sum / float(C);
    for (int c = 0; c < C; c++) {
        const float d = x[m * C + c] - mean;
        squares += d * d;
    }
    const float rstd = 1.0f / sqrtf(squares / float(C) + eps);
    for (int c = 0; c < C; c++) y[m * C + c] = (x[m * C + c] - mean) * rstd * w[c] + b[c];
}

}

template <> void run(const ladder::LayerNormRung<1>& a) {
    const int M = int(a.x.dim(0)), C = int(a.x.dim(1));
    launch(Work{"layernorm v1", 8.0 * M * C, 7.0 * M * C}, Grid{{blocks_of(M, 128)}, {128}}, v1_thread_per_row, at<float>(a.y), at<float>(a.x), at<float>(a.w), at<float>(a.b), M, C, a.eps);
}

}
