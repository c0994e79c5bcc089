// Attention, rung 1: the formula, one kernel per step. The scores of all pairs go to memory and come back twice: 12 bytes per pair,
// where q, k, v and o together have 8 N bytes per element of a head. A thread computes one number.
#include "kernels/gpu.h"
#include "kernels/ladder/ladder.h"

namespace merv::kernels::MERV_GPU {
namespace {

constexpr int D = 64;

__global__ void v1_scores(float* s, const bf16* q, const bf16* k, int N, int width) {
    const int j = int(blockIdx.x * blockDim.x + threadIdx.x), i = int(blockIdx.y), h = int(blockIdx.z);
    if (j >= N) return;
    float dot = 0;
    for (int d = 0; d < D; d++) dot += float(q[int64_t(i) * width + h * D + d]) * float(k[int64_t(j) * width + h * D + d]);
    s[(int64_t(h) * N + i) * N + j] = dot * 0.125f;
}
__global__ void v1_softmax(float* s, int N) {
    float* row = s + (int64_t(blockIdx.y) * N + blockIdx.x * blockDim.x + threadIdx.x) * N;
    if (int(blockIdx.x * blockDim.x + threadIdx.x) >= N) return;
    float top = -INFINITY, sum = 0;
    for (int j = 0; j < N; j++) top = fmaxf(top, row[j]);
    for (int j = 0; j < N; j++) sum += expf(row[j] - top);
    for (int j = 0; j < N; j++) row[j] = expf(row[j] - top) / sum;
}
__global__ void v1_output(bf16* o, const float* s, const bf16* v, int N, int width) {
    const int d = int(threadIdx.x), i = int(blockIdx.x), h = int(blockIdx.y);
    float sum = 0;
    for (int j = 0; j < N; j++) sum += s[(int64_t(h) * N + i) * N + j] * float(v[int64_t(j) * width + h * D + d]);
    o[int64_t(i) * width + h * D + d] = bf16(sum);
}

}

template <> void run(const ladder::AttentionRung<1>& a) {
    const int64_t n = a.q.dim(0), H = a.heads();
    const int N = int(n), width = int(a.q.dim(1));
    const Tensor s({H, n, n});
    const Work ideal{"attention v1", 8.0 * double(n * width), 4.0 * double(n * n * width)};
    launch(ideal, Grid{{blocks_of(n, 128), unsigned(n), unsigned(H)}, {128}}, v1_scores, at<float>(s), at<bf16>(a.q), at<bf16>(a.k), N, width);
    launch(Work{"attention v1, softmax"}, Grid{{blocks_of(n, 128), unsigned(H)}, {128}}, v1_softmax, at<float>(s), N);
    launch(Work{"attention v1, output"}, Grid{{unsigned(n), unsigned(H)}, {D}}, v1_output, at<bf16>(a.o), at<float>(s), at<bf16>(a.v), N, width);
}

}
