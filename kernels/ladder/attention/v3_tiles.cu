// Attention, rung 3: the block's 64 threads fetch 64 keys and values together, 16 bytes at a time, into shared memory, and then all
// read them there, eight elements at a time. Each key and value is read from global memory once per 64 queries instead of once per query (Dao et al. 2022).
#include "kernels/gpu.h"
#include "kernels/ladder/ladder.h"

namespace merv::kernels::MERV_GPU {
namespace {

constexpr int D = 64, kTile = 64;

__global__ void v3_tiles(bf16* o, const bf16* q, const bf16* k, const bf16* v, int N, int width) {
    __shared__ __align__(16) bf16 keys[kTile * D], values[kTile * D];
    const int i = int(blockIdx.x * blockDim.x + threadIdx.x), h = int(blockIdx.y);
    float query[D], out[D] = {}, top = -INFINITY, sum = 0;
#pragma unroll
    for (int d = 0; d < D; d += 8) {
        float part[8];
        load(part, q + int64_t(i) * width + h * D + d);
        for (int e = 0; e < 8; e++) query[d + e] = part[e];
    }
    for (int j0 = 0; j0 < N; j0 += kTile) {
        __syncthreads();                        // the last tile has been read
        for (int e = int(threadIdx.x); e < kTile * D / 8; e += 64) {
            const int64_t from = int64_t(j0 + e / 8) * width + h * D + e % 8 * 8;
            *reinterpret_cast<uint4*>(keys + 8 * e) = *reinterpret_cast<const uint4*>(k + from);
            *reinterpret_cast<uint4*>(values + 8 * e) = *reinterpret_cast<const uint4*>(v + from);
        }
        __syncthreads();
        for (int j = 0; j < kTile; j++) {
            float s = 0, part[8];
#pragma unroll
            for (int d = 0; d < D; d += 8) {
                load(part, keys + j * D + d);
                for (int e = 0; e < 8; e++) s += query[d + e] * part[e];
            }
            s *= 0.125f;
            const float now = fmaxf(top, s), keep = expf(top - now), p = expf(s - now);
            top = now, sum = sum * keep + p;
#pragma unroll
            for (int d = 0; d < D; d += 8) {
                load(part, values + j * D + d);
                for (int e = 0; e < 8; e++) out[d + e] = out[d + e] * keep + p * part[e];
            }
        }
    }
#pragma unroll
    for (int d = 0; d < D; d += 8) {
        float part[8];
        for (int e = 0; e < 8; e++) part[e] = out[d + e] / sum;
        store(o + int64_t(i) * width + h * D + d, part);
    }
}

}

template <> void run(const ladder::AttentionRung<3>& a) {
    const int64_t N = a.q.dim(0), width = a.q.dim(1);
    launch(Work{"attention v3", 8.0 * double(N * width), 4.0 * double(N * N * width)}, Grid{{unsigned(N / 64), unsigned(a.heads())}, {64}}, v3_tiles, at<bf16>(a.o), at<bf16>(a.q), at<bf16>(a.k),
           at<bf16>(a.v), int(N), int(width));
}

}
