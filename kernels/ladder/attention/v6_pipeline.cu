// Attention, rung 6: two stages. While the warps work on one tile, cp.async brings the next one, past the registers, into the other
// stage; one barrier per tile says both that this tile is there and that the other stage is free.
#include "kernels/gpu.h"
#include "kernels/ladder/attention/tensor_tile.h"
#include "kernels/ladder/ladder.h"

namespace merv::kernels::MERV_GPU {
namespace {

constexpr int D = 64, kTile = 64, kRow = 72;

__global__ void __launch_bounds__(128) v6_pipeline(bf16* o, const bf16* q, const bf16* k, const bf16* v, int N, int width) {
    __shared__ __align__(16) bf16 keys[2][kTile * kRow], values[2][kTile * kRow];
    const int h = int(blockIdx.y), first = int(blockIdx.x) * 64 + int(threadIdx.x) / 32 * 16, tiles = N / kTile;
    auto fetch = [&](int t) {
        for (int e = int(threadIdx.x); e < kTile * D / 8; e += 128) {
            const int64_t from = int64_t(t * kTile + e / 8) * width + h * D + e % 8 * 8;
            const int to = e / 8 * kRow + e % 8 * 8;
            cp_async<16>(keys[t % 2] + to, k + from);
            cp_async<16>(values[t % 2] + to, v + from);
        }
        cp_async_commit();
    };
    fetch(0);
    uint32_t query[4][4];
    load_queries(query, q + int64_t(first) * width + h * D, width);
    WarpState state;
    for (int t = 0; t < tiles; t++) {
        cp_async_wait<0>();
        __syncthreads();
        if (t + 1 < tiles) fetch(t + 1);
        tensor_step<kRow>(state, query, keys[t % 2], values[t % 2]);
    }
    store_output(o + int64_t(first) * width + h * D, width, state);
}

}

template <> void run(const ladder::AttentionRung<6>& a) {
    const int64_t N = a.q.dim(0), width = a.q.dim(1);
    launch(Work{"attention v6", 8.0 * double(N * width), 4.0 * double(N * N * width)}, Grid{{unsigned(N / 64), unsigned(a.heads())}, {128}}, v6_pipeline, at<bf16>(a.o), at<bf16>(a.q), at<bf16>(a.k),
           at<bf16>(a.v), int(N), int(width));
}

}
