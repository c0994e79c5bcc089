// Attention, rung 2: a thread per query goes through the keys once. It keeps a maximum, a sum and an output; whenever the maximum
// grows, what was summed before shrinks by e^(old - new) (Milakov & Gimelshein 2018). No score ever reaches memory. But every thread
// reads every key and value for itself: all lanes the same address, one value per request.
#include "kernels/gpu.h"
#include "kernels/ladder/ladder.h"

namespace merv::kernels::MERV_GPU {
namespace {

constexpr int D = 64;

__global__ void v2_online(bf16* o, const bf16* q, const bf16* k, const bf16* v, int N, int width) {
    const int i = int(blockIdx.x * blockDim.x + threadIdx.x), h = int(blockIdx.y);
    float query[D], out[D] = {}, top = -INFINITY, sum = 0;
#pragma unroll
    for (int d = 0; d < D; d++) query[d] = float(q[int64_t(i) * width + h * D + d]);
    for (int j = 0; j < N; j++) {
        const bf16 *key = k + int64_t(j) * width + h * D, *value = v + int64_t(j) * width + h * D;
        float s = 0;
#pragma unroll
        for (int d = 0; d < D; d++) s += query[d] * float(key[d]);
        s *= 0.125f;
        const float now = fmaxf(top, s), keep = expf(top - now), p = expf(s - now);
        top = now, sum = sum * keep + p;
#pragma unroll
        for (int d = 0; d < D; d++) out[d] = out[d] * keep + p * float(value[d]);
    }
#pragma unroll
    for (int d = 0; d < D; d++) o[int64_t(i) * width + h * D + d] = bf16(out[d] / sum);
}

}

template <> void run(const ladder::AttentionRung<2>& a) {
    const int64_t N = a.q.dim(0), width = a.q.dim(1);
    launch(Work{"attention v2", 8.0 * double(N * width), 4.0 * double(N * N * width)}, Grid{{unsigned(N / 64), unsigned(a.heads())}, {64}}, v2_online, at<bf16>(a.o), at<bf16>(a.q), at<bf16>(a.k),
           at<bf16>(a.v), int(N), int(width));
}

}
