// What rungs 4 to 6 share: one step of a warp's 16 queries against a tile of 64 keys and values in shared memory, rows `row` elements apart.
#pragma once
#include "kernels/cuda/fragments.h"

namespace merv::kernels::MERV_GPU {
namespace {

struct WarpState {                              // of rows lane / 4 and lane / 4 + 8
    float out[8][4] = {}, top[2] = {-INFINITY, -INFINITY}, sum[2] = {};
};
// Scores leave their product in the registers from which the second product takes its factor: lane l has columns 2 (l % 4) .. + 1
// of each 8, in both.
template <int row> MERV_DEVICE void tensor_step(WarpState& w, const uint32_t (&q)[4][4], const bf16* keys, const bf16* values) {
    float s[8][4] = {};
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
        for (int d = 0; d < 4; d++) {
            uint32_t f[4];
            load_b<row>(f, keys, 16 * j, 16 * d);
            mma_pair(s[2 * j], s[2 * j + 1], q[d], f);
        }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float now = w.top[r];
#pragma unroll
        for (int j = 0; j < 8; j++) now = fmaxf(now, fmaxf(s[j][2 * r], s[j][2 * r + 1]));
        now = fmaxf(now, __shfl_xor_sync(~0u, now, 1));
        now = fmaxf(now, __shfl_xor_sync(~0u, now, 2));
        const float keep = expf((w.top[r] - now) * 0.125f);
        w.top[r] = now, w.sum[r] *= keep;
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int e = 2 * r; e < 2 * r + 2; e++) {
                w.sum[r] += s[j][e] = expf((s[j][e] - now) * 0.125f);
                w.out[j][e] *= keep;
            }
    }
#pragma unroll
    for (int j = 0; j < 4; j++) {
        uint32_t p[4];
        as_a(p, s[2 * j], s[2 * j + 1]);
#pragma unroll
        for (int d = 0; d < 4; d++) {
            uint32_t f[4];
            load_b<row, true>(f, values, 16 * d, 16 * j);
            mma_pair(w.out[2 * d], w.out[2 * d + 1], p, f);
        }
    }
}
MERV_DEVICE void load_queries(uint32_t (&f)[4][4], const bf16* q, int width) {     // straight from memory: once per block
    const int lane = int(threadIdx.x) % 32;
    q += lane / 4 * int64_t(width) + 2 * (lane % 4);
#pragma unroll
    for (int d = 0; d < 4; d++)
#pragma unroll
        for (int e = 0; e < 4; e++) f[d][e] = *reinterpret_cast<const uint32_t*>(q + e % 2 * 8 * int64_t(width) + 16 * d + e / 2 * 8);
}
MERV_DEVICE void store_output(bf16* o, int width, WarpState& w) {
    const int lane = int(threadIdx.x) % 32;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        w.sum[r] += __shfl_xor_sync(~0u, w.sum[r], 1);
        w.sum[r] += __shfl_xor_sync(~0u, w.sum[r], 2);
#pragma unroll
        for (int j = 0; j < 8; j++)
            *reinterpret_cast<uint32_t*>(o + (lane / 4 + 8 * r) * int64_t(width) + 8 * j + 2 * (lane % 4)) = pack_bf16(w.out[j][2 * r] / w.sum[r], w.out[j][2 * r + 1] / w.sum[r]);
    }
}

}
}
