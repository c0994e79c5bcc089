// y = x w^T on Hopper's tensor cores: x (M, K), w (N, K), y (M, N), all bf16, sums in f32. Blocks of 128 x 128 outputs, K in steps of 64.
//
// One producer thread loads tiles of x and w by TMA into a ring of four stages. Two consumer warpgroups multiply them with wgmma 64 x 128 x 16,
// each its 64 rows, and keep one group of wgmma under way while they issue the next. `full` mbarriers count the bytes of a stage, `empty` ones
// the warps that have read it. Rows of y, and of K, beyond the edge are zeros that TMA fills in, and are not stored.
//
// Bound by the tensor cores for M, N from some hundred on: a stage is 32 KB for 2 MFLOP, 64 FLOP per byte of L2 traffic.
//
// The producer is a whole warpgroup for one thread's work: setmaxnreg moves registers between warpgroups only, and the consumers need them.
#include "kernels/linear_sm90.h"
#include "kernels/gpu.h"

#ifndef BUG                                     // one of the faults that tests/emu/linear_sm90.cu chooses
#define BUG 0
#endif

namespace merv::kernels::MERV_GPU {
namespace {

constexpr int kRows = 128, kColumns = 128, kDepth = 64, kStages = 4;
constexpr int kX = kRows * kDepth, kW = kColumns * kDepth;              // elements of a stage
constexpr uint32_t kStageBytes = (kX + kW) * sizeof(bf16);
constexpr int kY = 64 * 64;                                             // elements of a box of y
constexpr size_t kShared = kStages * kStageBytes + kRows * kColumns * sizeof(bf16);
constexpr int kSwizzle = 128, kGroup = 8 * 128;                         // bytes of 8 rows of a tile

__global__ void __launch_bounds__(384, 1) product(TENSOR_MAP y_map, TENSOR_MAP x_map, TENSOR_MAP w_map, int K) {
    __shared__ __align__(8) uint64_t full[kStages], empty[kStages];
    DYN_SMEM(bytes);
    bf16* const sx = reinterpret_cast<bf16*>(bytes);
    bf16* const sw = sx + kStages * kX;
    bf16* const sy = sw + kStages * kW;
    const int t = int(threadIdx.x) % 128, warp = t / 32, lane = t % 32, consumer = int(threadIdx.x) / 128 - 1;
    const int row0 = int(blockIdx.y) * kRows, column0 = int(blockIdx.x) * kColumns, steps = (K + kDepth - 1) / kDepth;
    if (threadIdx.x == 0) {
        trap_unless(shared_address(bytes) % 1024 == 0, "dynamic shared memory is not 1024-byte aligned");
        for (int s = 0; s < kStages; s++) {
            mbarrier_init(&full[s], 1);
            mbarrier_init(&empty[s], BUG == 11 ? 9 : 8);                // the consumers' warps
        }
        if (BUG != 1) fence_mbarrier_init();
    }
    if (BUG != 16) __syncthreads();

    if (consumer < 0) {
        setmaxnreg_dec<40>();
        if (t != 0) return;
        for (int i = 0; i < steps; i++) {
            const int s = i % kStages;
            if (BUG != 3) mbarrier_wait(&empty[s], unsigned(i / kStages % 2) ^ (BUG == 20 ? 0 : 1));    // the first round passes
            if (BUG == 5) mbarrier_arrive(&full[s]);
            else mbarrier_arrive_expect_tx(&full[s], kStageBytes - (BUG == 4 ? 64 : 0));
            tma_load_2d(sx + s * kX, x_map, &full[s], i * kDepth, row0);
            tma_load_2d(sw + s * kW, w_map, &full[s], i * kDepth, column0);
        }
        return;
    }

    setmaxnreg_inc<232>();
    float d[kColumns / 2];
    auto release = [&](int s) {
        if (lane == 0 && (BUG != 15 || warp % 2 == 0)) mbarrier_arrive(&empty[s]);
        if (BUG == 15 && lane == 0 && warp % 2 == 0) mbarrier_arrive(&empty[s]);
    };
    for (int i = 0; i < steps; i++) {
        const int s = i % kStages;
        mbarrier_wait(&full[s], unsigned(i / kStages % 2) ^ (BUG == 2 ? 1 : 0));
        const bf16 *x = sx + s * kX + consumer * 64 * kDepth, *w = sw + s * kW;
        if (BUG != 7) wgmma_fence();
#pragma unroll
        for (int k = 0; k < kDepth; k += 16)    // swizzled rows: 16 k further is 32 bytes further
            wgmma_bf16<kColumns>(d, matrix(x + k, 16, BUG == 10 ? kGroup / 2 : kGroup, BUG == 6 ? 64 : kSwizzle), matrix(w + k, 16, kGroup, kSwizzle), i > 0 || k > 0 || BUG == 19);
        if (BUG != 17) wgmma_commit();
        if (BUG == 21 && lane == 3) d[5] = 0;
        wgmma_wait<1>();                        // all but the newest group: the stage before is free
        if (BUG == 8) release(s);
        else if (i > 0) release((i - 1) % kStages);
    }
    if (BUG != 9) wgmma_wait<0>();

    // Two boxes of 64 columns per consumer, swizzled like TMA does: eight rows of a fragment lie in different banks.
    bf16* const mine = sy + consumer * 2 * kY;
#pragma unroll
    for (int p = 0; p < kColumns / 4; p++) {    // pairs of neighbouring columns
        const int row = 16 * warp + lane / 4 + 8 * (p % 2), column = 8 * (p / 2) + 2 * (lane % 4);
        const int unit = column % 64 / 8 ^ (BUG == 18 ? 0 : row % 8);
        *reinterpret_cast<uint32_t*>(mine + column / 64 * kY + row * 64 + unit * 8 + column % 8) = pack_bf16(d[2 * p], d[2 * p + 1]);
    }
    if (BUG != 12) fence_proxy_async();
    if (BUG != 13) named_barrier_sync(1 + consumer, 128);
    if (t == 0) {
        for (int half = 0; half < 2; half++) tma_store_2d(y_map, mine + half * kY, column0 + 64 * half, row0 + 64 * consumer);
        bulk_commit();
        if (BUG != 14) bulk_wait_read<0>();     // shared memory is this block's until it has been read
    }
}

}

void linear_sm90(bf16* y, const bf16* x, const bf16* w, int64_t M, int64_t N, int64_t K) {
    auto map = [](const bf16* p, int64_t rows, int64_t columns, uint32_t box_rows) {
        return tensor_map(p, {2, {uint64_t(columns), uint64_t(rows), 1}, {0, uint64_t(columns) * sizeof(bf16), 0}, {64, box_rows, 1}, kSwizzle});
    };
    const Grid g{{blocks_of(N, kColumns), blocks_of(M, kRows)}, {384}, kShared};
    launch(Work{"linear_sm90", 2.0 * double(M * N + M * K + N * K), 2.0 * double(M) * double(N) * double(K)}, g, product, map(y, M, N, 64), map(x, M, K, kRows), map(w, N, K, kColumns), int(K));
}
template <> void run(const LinearSm90& a) { linear_sm90(at<bf16>(a.y), at<bf16>(a.x), at<bf16>(a.w), a.x.rows(), a.w.dim(0), a.w.dim(1)); }

}
