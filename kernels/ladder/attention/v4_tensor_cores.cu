// Attention, rung 4: a warp has 16 queries, and both products run on the tensor cores, 16 x 8 x 16 multiply-adds per instruction.
// Fragments come from shared memory by ldmatrix, eight rows of 16 bytes at a time. Rows of 128 bytes all begin in bank 0, so the eight
// meet in the same four banks and take eight turns.
#include "kernels/gpu.h"
#include "kernels/ladder/attention/tensor_tile.h"
#include "kernels/ladder/ladder.h"

namespace merv::kernels::MERV_GPU {
namespace {

constexpr int D = 64, kTile = 64, kRow = 64;

__global__ void __launch_bounds__(128) v4_tensor_cores(bf16* o, const bf16* q, const bf16* k, const bf16* v, int N, int width) {
    __shared__ __align__(16) bf16 keys[kTile * kRow], values[kTile * kRow];
    const int h = int(blockIdx.y), first = int(blockIdx.x) * 64 + int(threadIdx.x) / 32 * 16;
    uint32_t query[4][4];
    load_queries(query, q + int64_t(first) * width + h * D, width);
    WarpState state;
    for (int j0 = 0; j0 < N; j0 += kTile) {
        __syncthreads();                        // the last tile has been read
        for (int e = int(threadIdx.x); e < kTile * D / 8; e += 128) {
            const int64_t from = int64_t(j0 + e / 8) * width + h * D + e % 8 * 8;
            const int to = e / 8 * kRow + e % 8 * 8;
            *reinterpret_cast<uint4*>(keys + to) = *reinterpret_cast<const uint4*>(k + from);
            *reinterpret_cast<uint4*>(values + to) = *reinterpret_cast<const uint4*>(v + from);
        }
        __syncthreads();
        tensor_step<kRow>(state, query, keys, values);
    }
    store_output(o + int64_t(first) * width + h * D, width, state);
}

}

template <> void run(const ladder::AttentionRung<4>& a) {
    const int64_t N = a.q.dim(0), width = a.q.dim(1);
    launch(Work{"attention v4", 8.0 * double(N * width), 4.0 * double(N * N * width)}, Grid{{unsigned(N / 64), unsigned(a.heads())}, {128}}, v4_tensor_cores, at<bf16>(a.o), at<bf16>(a.q), at<bf16>(a.k),
           at<bf16>(a.v), int(N), int(width));
}

}
