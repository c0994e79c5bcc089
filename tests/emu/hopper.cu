// Kernels of sm_90a: mbarriers, TMA, wgmma, clusters. Each right, and with single faults.
#include "kernels/gpu.h"
#include "tests/emu/programs.h"

namespace merv::test::MERV_GPU {
namespace {

using namespace kernels;

constexpr int kTile = 64 * 64;                  // elements of a tile whose rows of 64 fill 128 bytes
constexpr uint32_t kTileBytes = kTile * 2;

bf16 small(size_t i, int step) { return bf16(float(int(i * size_t(step) % 17) - 8)); }

TensorLayout tiles_of(uint64_t columns, uint64_t rows, uint32_t box_columns = 64, uint32_t box_rows = 64, int swizzle = 128) {
    return {2, {columns, rows, 1}, {0, columns * 2, 0}, {box_columns, box_rows, 1}, swizzle};
}

// ---- y = a b^T for one 64 x 64 tile over a long k: two stages filled by TMA, one warpgroup
enum class Product {
    right, no_fence, fence_by_three_warps, touched_after_fence, zeroed_between, read_in_flight, changed_in_flight, overwritten_in_flight, two_sites, different_n, three_warps, scale_differs,
    no_commit, n20, n264, no_wait, no_wait_for_load, wrong_parity, no_expect, wrong_bytes, no_init_fence, no_init_barrier, reused_early, wrong_barrier, same_place, exits_in_flight, stage_kept, no_swizzle_map, wrong_swizzle,
    base_offset, high_bits, crosses_atom, inside_pattern, overlapping, start_zero, start_unaligned, outside, far_stride
};
template <Product f> __global__ void product(float* y, TENSOR_MAP a, TENSOR_MAP b, int tiles) {
    using enum Product;
    __shared__ __align__(8) uint64_t full[2];
    DYN_SMEM(bytes);
    bf16* sa = reinterpret_cast<bf16*>(bytes);
    bf16* sb = sa + 2 * kTile;
    const int t = int(threadIdx.x), warp = t / 32;
    if (t == 0) {
        for (uint64_t& bar : full) mbarrier_init(&bar, 1);
        if (f != no_init_fence) fence_mbarrier_init();
    }
    if (f != no_init_barrier) __syncthreads();
    auto load = [&](int tile) {
        if (t != 0 || tile >= tiles) return;
        const int s = tile % 2;
        if (f == no_expect) mbarrier_arrive(&full[s]);
        else mbarrier_arrive_expect_tx(&full[s], 2 * kTileBytes - (f == wrong_bytes ? 64 : 0));
        tma_load_2d(sa + s * kTile, a, &full[f == wrong_barrier ? 1 - s : s], 64 * tile, 0);
        tma_load_2d(f == same_place ? sa + s * kTile : sb + s * kTile, b, &full[s], 64 * tile, 0);
    };
    load(0);
    load(1);
    float d[32] = {}, e[32] = {};
    for (int tile = 0; tile < tiles; tile++) {
        const int s = tile % 2;
        if (f != no_wait_for_load) mbarrier_wait(&full[s], unsigned(tile / 2 % 2) ^ (f == wrong_parity));
        if (f != no_fence && (f != fence_by_three_warps || warp != 3)) wgmma_fence();
        if (f == touched_after_fence) d[3] = 2 * d[3];
        if (f == three_warps && warp == 3) return;
        for (int k = 0; k < 64; k += 16) {
            const bf16 *at = sa + s * kTile + k + (f == crosses_atom && k == 48 ? 8 : 0), *bt = sb + s * kTile + k;
            uint64_t ma = matrix(at, 16, f == overlapping ? 0 : f == outside ? 131072 : 1024, f == wrong_swizzle ? 64 : 128), mb = matrix(bt, 16, 1024, 128);
            if (f == inside_pattern) ma = matrix(at + 64 * 4, 16, 1024, 128);
            if (f == base_offset) ma |= uint64_t(1) << 49;
            if (f == high_bits) ma |= uint64_t(1) << 14;
            if (f == start_zero) ma &= ~uint64_t(0x3fff);
            if (f == start_unaligned) ma = matrix(at + 4, 16, 1024, 128);
            if (f == far_stride) ma = matrix(at, 16, 1 << 18, 128);
            if (f == two_sites && warp == 1) {
                wgmma_bf16<64>(d, ma, mb);
                continue;
            }
            if constexpr (f == n20 || f == n264) {
                float wide[132] = {};
                wgmma_bf16<f == n20 ? 20 : 264>(reinterpret_cast<float (&)[f == n20 ? 10 : 132]>(wide), ma, mb);
            } else if constexpr (f == different_n) {
                if (warp == 2) wgmma_bf16<32>(reinterpret_cast<float (&)[16]>(d), ma, mb);
                else wgmma_bf16<64>(d, ma, mb);
            } else wgmma_bf16<64>(d, ma, mb, f == scale_differs && k == 16 ? t != 5 : true);
            if (f == zeroed_between && k == 16) {
                for (float& x : e) x = 0;
                wgmma_bf16<64>(e, ma, mb);
            }
        }
        if (f != no_commit) wgmma_commit();
        if (f == read_in_flight) y[t] = d[0];
        if (f == changed_in_flight) d[7] = 1;
        if (f == overwritten_in_flight && t == 0) sb[s * kTile] = bf16(1.0f);
        if (f == exits_in_flight && tile == tiles - 1) return;
        if (f == reused_early) __syncthreads(), load(tile + 2);
        if (f != no_wait) wgmma_wait<0>();
        if (f == reused_early) continue;
        if (f != stage_kept) __syncthreads();
        load(tile + 2);
    }
    for (int i = 0; i < 32; i++) y[(16 * warp + t % 32 / 4 + 8 * (i >> 1 & 1)) * 64 + 8 * (i >> 2) + 2 * (t % 4) + (i & 1)] = d[i];
}
template <Product f> bool run_product() {
    const int tiles = 5, K = 64 * tiles;
    Buffer<bf16> a(size_t(64 * K), [](size_t i) { return small(i, 7); }), b(size_t(64 * K), [](size_t i) { return small(i, 5); });
    Buffer<float> y(64 * 64);
    const TensorLayout boxes = tiles_of(uint64_t(K), 64, 64, 64, 128);
    launch(Work{"product"}, Grid{{1}, {128}, 4 * kTileBytes}, product<f>, y.get(), tensor_map(a.get(), boxes), tensor_map(b.get(), boxes), tiles);
    for (size_t m = 0; m < 64; m++)
        for (size_t n = 0; n < 64; n++) {
            float sum = 0;
            for (size_t k = 0; k < size_t(K); k++) sum += float(a[m * size_t(K) + k]) * float(b[n * size_t(K) + k]);
            if (y[m * 64 + n] != sum) return false;
        }
    return true;
}

// ---- other shapes and operands: A (64, 16) from registers or shared memory, either major, B (N, 16) either major, no swizzle; written by the threads
template <int N, bool from_registers, bool trans_a, bool trans_b> __global__ void shape(float* y, const bf16* a, const bf16* b) {
    __shared__ __align__(128) bf16 sa[64 * 16], sb[N * 16];
    const int t = int(threadIdx.x), warp = t / 32;
    // 8 x 8 blocks of 64 elements, the contiguous dimension innermost: first all along mn, then the next 8 k
    auto place = [](int mn, int k, int extent, bool trans) { return (k / 8 * (extent / 8) + mn / 8) * 64 + (trans ? k % 8 * 8 + mn % 8 : mn % 8 * 8 + k % 8); };
    for (int i = t; i < 64 * 16; i += 128) sa[place(i / 16, i % 16, 64, trans_a)] = a[i];
    for (int i = t; i < N * 16; i += 128) sb[place(i / 16, i % 16, N, trans_b)] = b[i];
    fence_proxy_async();
    __syncthreads();
    uint32_t ra[4];
    for (int r = 0; r < 4; r++) {
        const bf16* pair = a + (16 * warp + t % 32 / 4 + 8 * (r & 1)) * 16 + 8 * (r >> 1) + 2 * (t % 4);
        ra[r] = pack_bf16(float(pair[0]), float(pair[1]));
    }
    float d[N / 2];
    const uint64_t mb = matrix(sb, N * 16, 128, 0), ma = matrix(sa, 64 * 16, 128, 0);
    wgmma_fence();
    if constexpr (from_registers) wgmma_bf16<N, trans_b>(d, ra, mb, false);
    else wgmma_bf16<N, trans_a, trans_b>(d, ma, mb, false);
    wgmma_commit();
    wgmma_wait<0>();
    for (int i = 0; i < N / 2; i++) y[(16 * warp + t % 32 / 4 + 8 * (i >> 1 & 1)) * N + 8 * (i >> 2) + 2 * (t % 4) + (i & 1)] = d[i];
}
template <int N, bool from_registers, bool trans_a, bool trans_b> bool run_shape() {
    Buffer<bf16> a(64 * 16, [](size_t i) { return small(i, 7); }), b(N * 16, [](size_t i) { return small(i, 5); });
    Buffer<float> y(64 * N);
    launch(Work{"shape"}, Grid{{1}, {128}}, shape<N, from_registers, trans_a, trans_b>, y.get(), a.get(), b.get());
    for (size_t m = 0; m < 64; m++)
        for (size_t n = 0; n < N; n++) {
            float sum = 0;
            for (size_t k = 0; k < 16; k++) sum += float(a[m * 16 + k]) * float(b[n * 16 + k]);
            if (y[m * N + n] != sum) return false;
        }
    return true;
}
template <int... n> bool run_shapes(std::integer_sequence<int, n...>) {
    return ((run_shape<8 * n + 8, false, false, false>() && run_shape<8 * n + 8, true, false, false>() && run_shape<8 * n + 8, true, false, true>() && run_shape<8 * n + 8, false, true, true>()) && ...);
}

// ---- A in registers, changed before the wait
template <int bug> __global__ void fragments(float* y, const bf16* b) {
    __shared__ __align__(128) bf16 sb[64 * 16];
    const int t = int(threadIdx.x);
    for (int i = t; i < 64 * 16; i += 128) sb[i] = b[i];
    fence_proxy_async();
    __syncthreads();
    uint32_t ra[4] = {0x3f803f80, 0x3f803f80, 0x3f803f80, 0x3f803f80};     // ones
    float d[32];
    wgmma_fence();
    wgmma_bf16<64>(d, ra, matrix(sb, 1024, 128, 0), false);
    wgmma_commit();
    if (bug) ra[1] = 0;
    wgmma_wait<0>();
    y[t] = d[0] + (ra[1] != 0);
}
template <int bug> bool run_fragments() {
    Buffer<bf16> b(64 * 16, [](size_t) { return bf16(1.0f); });
    Buffer<float> y(128);
    launch(Work{"fragments"}, Grid{{1}, {128}}, fragments<bug>, y.get(), b.get());
    return y[5] == 17;
}

// ---- y = x + 1, tile by tile: TMA in, plain stores, TMA out
enum class Change {
    right, no_proxy_fence, fence_before_writes, late_write, fence_by_thread_0, fence_after_barrier, cp_async_unfenced, unfenced_load, no_barrier, no_store_wait, no_commit, read_after_read_wait, reused_before_read,
    exits_with_load, at_64, at_128, map_copy, source_written, loads_what_it_stored
};
template <Change f> __global__ void change(bf16* y, bf16* x, TENSOR_MAP to, TENSOR_MAP from, int tiles) {
    using enum Change;
    __shared__ __align__(8) uint64_t full;
    DYN_SMEM(bytes);
    bf16* tile = reinterpret_cast<bf16*>(bytes + (f == at_64 ? 64 : f == at_128 ? 128 : 0));
    const int t = int(threadIdx.x);
    if (t == 0) mbarrier_init(&full, 1), fence_mbarrier_init();
    if (f == unfenced_load) tile[t] = bf16(0.0f);
    __syncthreads();
    for (int i = 0; i < tiles; i++) {
        if (t == 0) {
            mbarrier_arrive_expect_tx(&full, kTileBytes);
            if (f == map_copy) {
                const TensorMap copy = from;
                tma_load_2d(tile, copy, &full, 0, 64 * i);
            } else tma_load_2d(tile, from, &full, 0, 64 * i);
            if (f == exits_with_load) return;
            if (f == source_written) x[64 * 64 * i + 5] = bf16(3.0f);
        }
        if (f == exits_with_load) return;
        mbarrier_wait(&full, unsigned(i % 2));
        if (f == fence_before_writes) fence_proxy_async();
        for (int k = t; k < kTile; k += 128) tile[k] = bf16(float(tile[k]) + 1);
        if (f == cp_async_unfenced) {
            fence_proxy_async();
            cp_async<16>(tile + 8 * t, x + 64 * 64 * i + 8 * t);
            cp_async_commit();
            cp_async_wait<0>();
        }
        if (f == right || f >= no_barrier || f == late_write || f == unfenced_load) fence_proxy_async();
        if (f == late_write && t == 3) tile[t] = bf16(1.0f);
        if (f != no_barrier) __syncthreads();
        if (f == fence_by_thread_0 && t == 0) fence_proxy_async();
        if (f == fence_after_barrier) fence_proxy_async();
        if (t == 0) {
            tma_store_2d(to, tile, 0, 64 * i);
            if (f != no_commit) bulk_commit();
            if (f == read_after_read_wait) bulk_wait_read<0>(), y[64 * 64 * i] = bf16(float(y[64 * 64 * i]));
            else if (f == reused_before_read) tile[0] = bf16(0.0f);
            if (f != no_store_wait && f != no_commit) bulk_wait<0>();
        }
        __syncthreads();
        if (f == loads_what_it_stored && t == 0) {
            x[64 * 64 * (i + 1 < tiles ? i + 1 : 0)] = bf16(2.0f);
        }
    }
}
template <Change f> bool run_change() {
    const size_t tiles = 3;
    Buffer<bf16> x(tiles * kTile, [](size_t i) { return small(i, 3); }), y(tiles * kTile);
    const TensorLayout boxes = tiles_of(64, 64 * tiles);
    launch(Work{"change"}, Grid{{1}, {128}, kTileBytes + 1024}, change<f>, y.get(), x.get(), tensor_map(y.get(), boxes), tensor_map(x.get(), boxes), int(tiles));
    for (size_t i = 0; i < y.size(); i++) if (float(y[i]) != float(x[i]) + 1) return false;
    return true;
}

// ---- boxes of two and three dimensions over the tensor's edges, swizzle or none: what lies outside is zero, and is not stored
template <int rank> __global__ void edges(bf16* seen, TENSOR_MAP to, TENSOR_MAP from, int x, int y, int z, int elements) {
    __shared__ __align__(8) uint64_t full;
    DYN_SMEM(bytes);
    bf16* tile = reinterpret_cast<bf16*>(bytes);
    if (threadIdx.x == 0) {
        mbarrier_init(&full, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect_tx(&full, uint32_t(elements) * 2);
        if (rank == 2) tma_load_2d(tile, from, &full, x, y);
        else tma_load_3d(tile, from, &full, x, y, z);
    }
    __syncthreads();
    mbarrier_wait(&full, 0);
    for (int i = int(threadIdx.x); i < elements; i += 32) seen[i] = tile[i];
    if (threadIdx.x == 0) {
        if (rank == 2) tma_store_2d(to, tile, x, y);
        else tma_store_3d(to, tile, x, y, z);
        bulk_commit();
        bulk_wait_read<0>();
    }
}
bool run_edges(int rank, int swizzle, int x, int y, int z) {
    const uint64_t size[3] = {37, 11, rank == 3 ? 5u : 1u}, pitch = 40;     // elements from row to row
    const uint32_t box[3] = {swizzle ? uint32_t(swizzle) / 2 : 24, 4, rank == 3 ? 3u : 1u};
    const TensorLayout boxes{rank, {size[0], size[1], size[2]}, {0, pitch * 2, pitch * 2 * 16}, {box[0], box[1], box[2]}, swizzle};
    const size_t all = pitch * 16 * size[2], elements = box[0] * box[1] * box[2];
    Buffer<bf16> from((all + 63) / 64 * 64, [](size_t i) { return bf16(float(i % 251)); }), to((all + 63) / 64 * 64, [](size_t) { return bf16(-1.0f); }), seen(elements);
    const Grid grid{{1}, {32}, elements * 2};
    if (rank == 2) launch(Work{"edges"}, grid, edges<2>, seen.get(), tensor_map(to.get(), boxes), tensor_map(from.get(), boxes), x, y, z, int(elements));
    else launch(Work{"edges"}, grid, edges<3>, seen.get(), tensor_map(to.get(), boxes), tensor_map(from.get(), boxes), x, y, z, int(elements));
    for (uint64_t k = 0; k < box[2]; k++)
        for (uint64_t j = 0; j < box[1]; j++)
            for (uint64_t i = 0; i < box[0]; i++) {
                const int64_t cx = x + int64_t(i), cy = y + int64_t(j), cz = z + int64_t(k);
                const bool inside = cx >= 0 && cy >= 0 && cz >= 0 && cx < int64_t(size[0]) && cy < int64_t(size[1]) && cz < int64_t(size[2]);
                const uint64_t row = k * box[1] + j;
                uint64_t unit = i / 8;           // of 16 bytes, exchanged within its 128 bytes
                const uint64_t line = (row * box[0] * 2 + unit * 16) / 128;
                unit ^= line % 8 & uint64_t(swizzle / 16 - (swizzle != 0));
                const size_t at = size_t((cz * 16 + cy) * int64_t(pitch) + cx);
                if (float(seen[row * box[0] + unit * 8 + i % 8]) != (inside ? float(from[at]) : 0.0f)) return false;
                if (inside && float(to[at]) != float(from[at])) return false;
            }
    size_t written = 0;
    for (size_t i = 0; i < to.size(); i++) written += float(to[i]) != -1;
    size_t should = 1;
    const int64_t corner[3] = {x, y, z};
    for (int d = 0; d < 3; d++) should *= size_t(std::max<int64_t>(0, std::min(corner[d] + int64_t(box[d]), int64_t(size[d])) - std::max<int64_t>(corner[d], 0)));
    return written == should;
}

// ---- bulk copies and sums without a tensor map
template <int bug> __global__ void bulk(float* sum, bf16* sum16, float* copy, const float* x) {
    __shared__ __align__(16) float s[64];
    __shared__ __align__(16) bf16 s16[64];
    __shared__ __align__(8) uint64_t full;
    const int t = int(threadIdx.x);
    if (t == 0) {
        mbarrier_init(&full, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect_tx(&full, 256);
        bulk_load(s, x + 64 * blockIdx.x + (bug == 1), 256, &full);
    }
    __syncthreads();
    mbarrier_wait(&full, 0);
    for (int i = t; i < 64; i += 32) s16[i] = bf16(s[i]);
    fence_proxy_async();
    __syncthreads();
    if (t == 0) {
        bulk_add(sum, s, bug == 2 ? 250 : 256);
        bulk_add(sum16, s16, 128);
        if (bug == 3) bulk_store(sum, s, 256);
        bulk_store(copy + 64 * blockIdx.x, s, 256);
        bulk_commit();
        bulk_wait_read<0>();
    }
}
template <int bug> bool run_bulk() {
    Buffer<float> x(256 + 4, [](size_t i) { return float(i % 9); }), sum(64, [](size_t) { return 0.0f; }), copy(256);
    Buffer<bf16> sum16(64, [](size_t) { return bf16(0.0f); });
    launch(Work{"bulk"}, Grid{{4}, {32}}, bulk<bug>, sum.get(), sum16.get(), copy.get(), x.get());
    for (size_t i = 0; i < 64; i++) {
        const float want = x[i] + x[i + 64] + x[i + 128] + x[i + 192];
        if (sum[i] != want || float(sum16[i]) != want || copy[i + 64] != x[i + 64]) return false;
    }
    return true;
}

// ---- mbarriers among threads only
enum class Ring { right, count_0, count_2_20, expect_2_20, at_4, local_memory, global_memory, twice, overwritten, invalidated, not_initialised, two_late, three_late, too_many, wrong_count, no_empty_wait, try_wait };
template <Ring f> __global__ void ring(int* y, uint64_t* global, int n) {
    using enum Ring;
    __shared__ __align__(8) uint64_t bars[5];
    __shared__ int slot[2];
    uint64_t local = 0, *full = bars, *empty = bars + 2;
    const int t = int(threadIdx.x);
    if (t == 0) {
        if (f == count_0) mbarrier_init(&bars[4], 0);
        if (f == count_2_20) mbarrier_init(&bars[4], 1 << 20);
        if (f == at_4) mbarrier_init(reinterpret_cast<uint64_t*>(reinterpret_cast<char*>(bars) + 36), 1);
        if (f == local_memory) mbarrier_init(&local, 1);
        if (f == global_memory) mbarrier_init(global, 1);
        for (int s = 0; s < 2; s++) {
            if (f != not_initialised) mbarrier_init(&full[s], f == wrong_count ? 2 : 1);
            mbarrier_init(&empty[s], 1);
        }
        if (f == twice) mbarrier_init(&full[0], 1);
        if (f == invalidated) mbarrier_inval(&full[1]);
        if (f == overwritten) full[0] = 0;
        if (f == expect_2_20) mbarrier_expect_tx(&full[0], 1 << 20);
    }
    __syncthreads();
    for (int i = 0; i < n; i++) {
        const int s = i % 2;
        const unsigned parity = unsigned(i / 2 % 2);
        if (t == 0) {
            if (f != no_empty_wait && f != two_late && f != three_late) mbarrier_wait(&empty[s], parity ^ 1);
            slot[s] = 10 * i;
            mbarrier_arrive(&full[s]);
            if (f == too_many && i == 1) mbarrier_expect_tx(&full[s], 16), mbarrier_arrive(&full[s]), mbarrier_arrive(&full[s]);
        } else if (t == 32) {
            if (f == two_late || f == three_late) {
                named_barrier_sync(3, 64);
                mbarrier_wait(&full[0], 0);
                break;
            }
            if (f == try_wait) while (!mbarrier_try_wait(&full[s], parity)) {}
            else mbarrier_wait(&full[s], parity);
            y[i] = slot[s];
            mbarrier_arrive(&empty[s]);
        }
    }
    if ((f == two_late || f == three_late) && t != 32) named_barrier_sync(3, 64);
}
template <Ring f> bool run_ring() {
    const int n = f == Ring::two_late ? 3 : f == Ring::three_late ? 5 : 7;
    Buffer<int> y(7);
    Buffer<uint64_t> global(1);
    launch(Work{"ring"}, Grid{{1}, {64}}, ring<f>, y.get(), global.get(), n);
    for (size_t i = 0; i < 7; i++) if (y[i] != int(10 * i)) return false;
    return true;
}

// ---- clusters: each block hands its neighbour a value in shared memory, and arrives at its mbarrier
enum class Cluster { right, no_barrier_before, no_wait, exits_early, bad_rank, arrives_twice, waits_without, no_init_fence };
template <Cluster f> __global__ void neighbours(int* y) {
    using enum Cluster;
    __shared__ int inbox[32];
    __shared__ __align__(8) uint64_t full;
    const int t = int(threadIdx.x);
    const unsigned next = (cluster_rank() + 1) % cluster_size();
    if (t == 0) {
        mbarrier_init(&full, 32);
        if (f != no_init_fence) fence_mbarrier_init();
    }
    if (f == waits_without) cluster_wait();
    if (f != no_barrier_before) cluster_arrive(), cluster_wait();
    if (f == arrives_twice) cluster_arrive();
    if (f == exits_early && cluster_rank() == 1) return;
    cluster_map(inbox, f == bad_rank ? next + 2 : next)[t] = int(100 * blockIdx.x) + t;
    mbarrier_arrive_remote(&full, next);
    if (f != no_wait) mbarrier_wait(&full, 0);
    y[32 * blockIdx.x + unsigned(t)] = inbox[31 - t];
    cluster_arrive();
    cluster_wait();
}
template <Cluster f> bool run_neighbours() {
    Buffer<int> y(4 * 32);
    launch(Work{"neighbours"}, Grid{{4}, {32}, 0, {2}}, neighbours<f>, y.get());
    for (size_t i = 0; i < y.size(); i++) if (y[i] != int(100 * (i / 32 ^ 1) + 31 - i % 32)) return false;
    return true;
}

// ---- one block loads a tile for its whole cluster; a second tile follows when all have read the first
template <int bug> __global__ void multicast(bf16* y, TENSOR_MAP from) {
    __shared__ __align__(8) uint64_t full, empty;
    DYN_SMEM(bytes);
    bf16* tile = reinterpret_cast<bf16*>(bytes);
    const int t = int(threadIdx.x);
    if (t == 0) mbarrier_init(&full, 1), mbarrier_init(&empty, cluster_size()), fence_mbarrier_init();
    cluster_arrive();
    cluster_wait();
    for (int i = 0; i < 2; i++) {
        if (t == 0) mbarrier_arrive_expect_tx(&full, kTileBytes);
        if (t == 0 && cluster_rank() == 0) {
            if (i && bug != 1) mbarrier_wait(&empty, 0);
            tma_load_2d_multicast(tile, from, &full, 0, 64 * i, bug == 2 ? 0b111 : 0b11);
        }
        mbarrier_wait(&full, unsigned(i));
        for (int k = t; k < kTile; k += 32) y[(blockIdx.x * 2 + unsigned(i)) * kTile + unsigned(k)] = tile[k];
        __syncthreads();
        if (t == 0) mbarrier_arrive_remote(&empty, 0);
    }
    cluster_arrive();
    cluster_wait();
}
template <int bug> bool run_multicast() {
    Buffer<bf16> x(2 * kTile, [](size_t i) { return small(i, 3); }), y(4 * kTile);
    launch(Work{"multicast"}, Grid{{2}, {32}, kTileBytes, {2}}, multicast<bug>, y.get(), tensor_map(x.get(), tiles_of(64, 128)));
    for (size_t i = 0; i < y.size(); i++) {
        const size_t e = i % (2 * kTile), row = e / 64, unit = e % 64 / 8 ^ row % 8;
        if (float(y[i]) != float(x[row * 64 + unit * 8 + i % 8])) return false;
    }
    return true;
}

// ---- setmaxnreg
template <int bug> __global__ void registers(int* y) {
    if (threadIdx.x < 128) {
        if (bug != 3 || threadIdx.x < 32) setmaxnreg_dec<bug == 1 ? 41 : 40>();
    } else setmaxnreg_inc<bug == 2 ? 512 : bug == 4 ? 240 : 232>();
    y[threadIdx.x] = 1;
}
template <int bug> bool run_registers() {
    Buffer<int> y(bug == 4 ? 512 : 384);
    launch(Work{"registers"}, Grid{{1}, {bug == 4 ? 512u : 384u}}, registers<bug>, y.get());
    return true;
}

// ---- single mistakes
__global__ void shifted_warpgroup(float* y, const bf16* b) {
    __shared__ __align__(128) bf16 s[64 * 16];
    for (int i = int(threadIdx.x); i < 64 * 16; i += int(blockDim.x)) s[i] = b[i];
    fence_proxy_async();
    __syncthreads();
    if (threadIdx.x < 32) return;
    float d[32];
    wgmma_fence();
    wgmma_bf16<64>(d, matrix(s, 1024, 128, 0), matrix(s, 1024, 128, 0), false);
    wgmma_commit();
    wgmma_wait<0>();
    y[threadIdx.x] = d[0];
}
__global__ void global_address(uint32_t* y) { y[0] = shared_address(y); }
__global__ void copy_to_global(float* y, const float* x) {
    cp_async<16>(y, x);
    cp_async_commit();
    cp_async_wait<0>();
}
__global__ void half_warps_at_barrier(int* y) {
    if (threadIdx.x % 32 < 16) named_barrier_sync(1, 32);
    __syncthreads();
    y[threadIdx.x] = 1;
}
__global__ void barrier_0_mixed(int* y) {
    if (threadIdx.x < 32) named_barrier_sync(0, 64);
    else __syncthreads();
    y[threadIdx.x] = 1;
}
struct Many { char bytes[36 << 10]; };
__global__ void many_arguments(Many, int*) {}
__global__ void much_static(float* y) {
    __shared__ float s[20000];
    s[threadIdx.x] = 1;
    __syncthreads();
    y[threadIdx.x] = s[blockDim.x - 1 - threadIdx.x];
}
__global__ void some_static(float* y) {
    __shared__ float s[12];
    s[threadIdx.x] = 1;
    __syncthreads();
    y[threadIdx.x] = s[blockDim.x - 1 - threadIdx.x];
}

template <class F> Program single(const char* name, const char* fast, const char* checked, F run) {
    return {name, fast, checked, [run] { run(); return true; }};
}

}

std::vector<Program> hopper_programs() {
    using enum Product;
    std::vector<Program> all = {
        {"wgmma", "", "", run_product<right>},
        {"wgmma without fence", "WGMMA", "WGMMA", run_product<no_fence>},
        {"wgmma, three of four warps fence", "WGMMA", "WGMMA", run_product<fence_by_three_warps>},
        {"wgmma, accumulator written after the fence", "", "WGMMA", run_product<touched_after_fence>},
        {"wgmma, second accumulator zeroed between two", "", "WGMMA", run_product<zeroed_between>},
        {"wgmma, accumulator read in flight", "", "WGMMA", run_product<read_in_flight>},
        {"wgmma, accumulator changed in flight", "WGMMA", "WGMMA", run_product<changed_in_flight>},
        {"wgmma, operand overwritten in flight", "", "RACE", run_product<overwritten_in_flight>},
        {"wgmma at two places of the program", "WGMMA", "WGMMA", run_product<two_sites>},
        {"wgmma, warps with different n", "WGMMA", "WGMMA", run_product<different_n>},
        {"wgmma by three of four warps", "WGMMA", "WGMMA", run_product<three_warps>},
        {"wgmma, scale-d differs", "WGMMA", "WGMMA", run_product<scale_differs>},
        {"wgmma, no commit", "WGMMA", "WGMMA", run_product<no_commit>},
        {"wgmma of n 20", "WGMMA", "WGMMA", run_product<n20>},
        {"wgmma of n 264", "WGMMA", "WGMMA", run_product<n264>},
        {"wgmma, no wait", "WGMMA", "WGMMA", run_product<no_wait>},
        {"wgmma, exit in flight", "WGMMA", "WGMMA", run_product<exits_in_flight>},
        {"wgmma, load not waited for", "ASYNC MBARRIER", "RACE", run_product<no_wait_for_load>},
        {"wgmma, wrong parity", "MBARRIER ASYNC DEADLOCK", "MBARRIER RACE DEADLOCK", run_product<wrong_parity>},
        {"load without expect_tx", "MBARRIER", "MBARRIER RACE", run_product<no_expect>},
        {"load, fewer bytes expected than come", "MBARRIER DEADLOCK", "MBARRIER DEADLOCK", run_product<wrong_bytes>},
        {"load, no fence behind mbarrier.init", "MBARRIER", "MBARRIER", run_product<no_init_fence>},
        {"load, no barrier behind mbarrier.init", "", "RACE MBARRIER", run_product<no_init_barrier>},
        {"load into a stage that wgmma reads", "", "RACE", run_product<reused_early>},
        {"load into a stage that other warps' wgmma reads", "", "RACE", run_product<stage_kept>},
        {"load with another stage's barrier", "MBARRIER DEADLOCK", "MBARRIER RACE", run_product<wrong_barrier>},
        {"two loads to one place", "", "RACE", run_product<same_place>},
        {"descriptor with a base offset", "WGMMA", "WGMMA", run_product<base_offset>},
        {"descriptor with unassigned bits", "WGMMA", "WGMMA", run_product<high_bits>},
        {"descriptor of a slice across two atoms", "WGMMA", "WGMMA", run_product<crosses_atom>},
        {"descriptor into the swizzle's pattern", "WGMMA", "WGMMA", run_product<inside_pattern>},
        {"descriptor with stride 0", "WGMMA", "WGMMA", run_product<overlapping>},
        {"descriptor without its base address", "ACCESS", "ACCESS", run_product<start_zero>},
        {"descriptor not 16-byte aligned", "ALIGN", "ALIGN", run_product<start_unaligned>},
        {"descriptor outside shared memory", "ACCESS", "ACCESS", run_product<outside>},
        {"descriptor with a stride of 2^18", "WGMMA", "WGMMA", run_product<far_stride>},
        {"wgmma of every n, majors, A in registers, static shared memory", "", "", [] { return run_shapes(std::make_integer_sequence<int, 32>()); }},
        {"wgmma, A in registers", "", "", run_fragments<0>},
        {"wgmma, A in registers changed in flight", "WGMMA", "WGMMA", run_fragments<1>},

        {"TMA in and out", "", "", run_change<Change::right>},
        {"no proxy fence before a store", "", "PROXY", run_change<Change::no_proxy_fence>},
        {"proxy fence before the writes", "", "PROXY", run_change<Change::fence_before_writes>},
        {"one write after the proxy fence", "", "PROXY", run_change<Change::late_write>},
        {"proxy fence by thread 0 for all", "", "PROXY", run_change<Change::fence_by_thread_0>},
        {"proxy fence after the barrier", "", "PROXY", run_change<Change::fence_after_barrier>},
        {"cp.async without a proxy fence before a store", "", "PROXY", run_change<Change::cp_async_unfenced>},
        {"load over plain stores without a proxy fence", "", "PROXY", run_change<Change::unfenced_load>},
        {"store without a barrier", "", "RACE", run_change<Change::no_barrier>},
        {"store not waited for", "ASYNC", "ASYNC RACE", run_change<Change::no_store_wait>},
        {"store never committed", "ASYNC", "ASYNC RACE", run_change<Change::no_commit>},
        {"result read after wait_group.read", "", "RACE", run_change<Change::read_after_read_wait>},
        {"store's source reused early", "", "RACE", run_change<Change::reused_before_read>},
        {"exit with a load under way", "ASYNC", "ASYNC", run_change<Change::exits_with_load>},
        {"load to a multiple of 64", "ALIGN", "ALIGN", run_change<Change::at_64>},
        {"swizzled load to a multiple of 128", "ALIGN", "ALIGN", run_change<Change::at_128>},
        {"tensor map copied to the stack", "ASYNC", "ASYNC", run_change<Change::map_copy>},
        {"source written while a load is under way", "", "RACE", run_change<Change::source_written>},
        {"load of what plain stores just wrote", "", "PROXY", run_change<Change::loads_what_it_stored>},
        {"boxes over the edges", "", "", [] {
             for (int swizzle : {0, 32, 64, 128})
                 for (int rank : {2, 3})
                     for (auto [x, y, z] : {std::array{0, 0, 0}, {8, 4, 2}, {-8, -1, -1}, {24, 9, 4}, {3, 10, 3}, {-64, 0, 0}, {40, 20, 9}})
                         if (!run_edges(rank, swizzle, x, y, rank == 3 ? z : 0)) return false;
             return true;
         }},
        {"bulk copies and sums", "", "", run_bulk<0>},
        {"bulk copy, misaligned", "ALIGN", "ALIGN", run_bulk<1>},
        {"bulk sum of 250 bytes", "ALIGN", "ALIGN", run_bulk<2>},
        {"bulk store to what others add to", "", "RACE", run_bulk<3>},

        {"mbarrier ring", "", "", run_ring<Ring::right>},
        {"mbarrier, try_wait", "", "", run_ring<Ring::try_wait>},
        {"mbarrier for 0 arrivals", "MBARRIER", "MBARRIER", run_ring<Ring::count_0>},
        {"mbarrier for 2^20 arrivals", "MBARRIER", "MBARRIER", run_ring<Ring::count_2_20>},
        {"mbarrier expects 2^20 bytes", "MBARRIER", "MBARRIER", run_ring<Ring::expect_2_20>},
        {"mbarrier at a multiple of 4", "ALIGN", "ALIGN", run_ring<Ring::at_4>},
        {"mbarrier in local memory", "MBARRIER", "MBARRIER", run_ring<Ring::local_memory>},
        {"mbarrier in global memory", "MBARRIER", "MBARRIER", run_ring<Ring::global_memory>},
        {"mbarrier initialised twice", "MBARRIER", "MBARRIER", run_ring<Ring::twice>},
        {"mbarrier overwritten", "MBARRIER", "MBARRIER", run_ring<Ring::overwritten>},
        {"mbarrier used after inval", "MBARRIER", "MBARRIER", run_ring<Ring::invalidated>},
        {"mbarrier not initialised", "MBARRIER", "MBARRIER", run_ring<Ring::not_initialised>},
        {"mbarrier waited for two phases late", "DEADLOCK", "MBARRIER", run_ring<Ring::two_late>},
        {"mbarrier waited for three phases late", "", "MBARRIER", run_ring<Ring::three_late>},
        {"mbarrier, more arrivals than its count", "MBARRIER", "MBARRIER", run_ring<Ring::too_many>},
        {"mbarrier, wrong count", "DEADLOCK", "DEADLOCK", run_ring<Ring::wrong_count>},
        {"mbarrier, slot written before it is empty", "DEADLOCK", "RACE MBARRIER", run_ring<Ring::no_empty_wait>},

        {"cluster", "", "", run_neighbours<Cluster::right>},
        {"cluster, no barrier before remote stores", "MBARRIER", "RACE MBARRIER", run_neighbours<Cluster::no_barrier_before>},
        {"cluster, remote stores not waited for", "", "RACE UNINIT", run_neighbours<Cluster::no_wait>},
        {"cluster, remote access to a block that has exited", "CLUSTER", "CLUSTER", run_neighbours<Cluster::exits_early>},
        {"cluster, no such block", "CLUSTER", "CLUSTER", run_neighbours<Cluster::bad_rank>},
        {"cluster, arrives twice", "CLUSTER", "CLUSTER", run_neighbours<Cluster::arrives_twice>},
        {"cluster, waits without arriving", "CLUSTER", "CLUSTER", run_neighbours<Cluster::waits_without>},
        {"cluster, no fence behind mbarrier.init", "MBARRIER", "MBARRIER", run_neighbours<Cluster::no_init_fence>},
        {"multicast", "", "", run_multicast<0>},
        {"multicast over what others read", "", "RACE", run_multicast<1>},
        {"multicast to a block that is not there", "CLUSTER", "CLUSTER", run_multicast<2>},

        {"setmaxnreg", "", "", run_registers<0>},
        {"setmaxnreg 41", "WGMMA", "WGMMA", run_registers<1>},
        {"setmaxnreg 512", "WGMMA", "WGMMA", run_registers<2>},
        {"setmaxnreg by one warp of four", "WGMMA", "WGMMA", run_registers<3>},
        {"setmaxnreg, more registers than there are", "WGMMA", "WGMMA", run_registers<4>},

        single("wgmma by warps 1 to 4", "WGMMA", "WGMMA", [] { Buffer<bf16> b(64 * 16, [](size_t) { return bf16(1.0f); }); Buffer<float> y(160); launch(Work{"shifted_warpgroup"}, Grid{{1}, {160}}, shifted_warpgroup, y.get(), b.get()); }),
        single("shared address of global memory", "ACCESS", "ACCESS", [] { Buffer<uint32_t> y(4); launch(Work{"global_address"}, Grid{{1}, {1}, 232448}, global_address, y.get()); }),
        single("cp.async to global memory", "ACCESS", "ACCESS", [] { Buffer<float> x(8, [](size_t) { return 1.0f; }), y(8); launch(Work{"copy_to_global"}, Grid{{1}, {1}}, copy_to_global, y.get(), x.get()); }),
        single("half a warp at a named barrier", "DEADLOCK BARRIER", "DEADLOCK BARRIER", [] { Buffer<int> y(64); launch(Work{"half_warps"}, Grid{{1}, {64}}, half_warps_at_barrier, y.get()); }),
        single("barrier 0 of 64 threads, and __syncthreads", "BARRIER", "BARRIER", [] { Buffer<int> y(64); launch(Work{"barrier_0_mixed"}, Grid{{1}, {64}}, barrier_0_mixed, y.get()); }),
        single("36 KiB of arguments", "LAUNCH", "LAUNCH", [] { launch(Work{"many_arguments"}, Grid{{1}, {32}}, many_arguments, Many{}, static_cast<int*>(nullptr)); }),
        single("80000 bytes of static shared memory", "LAUNCH", "LAUNCH", [] { Buffer<float> y(32); launch(Work{"much_static"}, Grid{{1}, {32}}, much_static, y.get()); }),
        single("static and 227 KiB of dynamic shared memory", "LAUNCH", "LAUNCH", [] { Buffer<float> y(12); launch(Work{"some_static"}, Grid{{1}, {12}, 232448}, some_static, y.get()); }),
        single("a grid of half clusters", "LAUNCH", "LAUNCH", [] { Buffer<int> y(96); launch(Work{"neighbours"}, Grid{{3}, {32}, 0, {2}}, neighbours<Cluster::right>, y.get()); }),
        single("a cluster of 16", "LAUNCH", "LAUNCH", [] { Buffer<int> y(512); launch(Work{"neighbours"}, Grid{{16}, {32}, 0, {16}}, neighbours<Cluster::right>, y.get()); }),
    };
    const struct { const char* name; TensorLayout layout; size_t offset; } refused[] = {
        {"a box of 320 rows", tiles_of(64, 512, 64, 320), 0},
        {"a box wider than its swizzle", tiles_of(128, 64, 128, 64), 0},
        {"a box narrower than its swizzle", tiles_of(64, 64, 32, 64), 0},
        {"a stride that is no multiple of 16", {2, {64, 32, 1}, {0, 132, 0}, {64, 8, 1}, 128}, 0},
        {"a stride of 2^40", {2, {64, 32, 1}, {0, uint64_t(1) << 40, 0}, {64, 8, 1}, 128}, 0},
        {"a tensor that is not 16-byte aligned", tiles_of(64, 32), 8},
        {"a swizzled tensor that is not 128-byte aligned", tiles_of(64, 32), 64},
        {"a box row that is no multiple of 16 bytes", tiles_of(64, 64, 20, 8, 0), 0},
        {"a box of 0 rows", tiles_of(64, 64, 64, 0), 0},
        {"a tensor of 0 rows", tiles_of(64, 0), 0},
        {"a swizzle of 48", tiles_of(64, 64, 24, 64, 48), 0},
        {"a tensor past its allocation", tiles_of(64, 65), 0},
        {"four dimensions", {4, {64, 64, 1}, {0, 128, 0}, {64, 8, 1}, 128}, 0},
    };
    for (const auto& r : refused)
        all.push_back(single(r.name, "LAUNCH", "LAUNCH", [r] {
            Buffer<char> x(64 * 64 * 2);
            (void)tensor_map(reinterpret_cast<bf16*>(x.get() + r.offset), r.layout);
        }));
    return all;
}

}
