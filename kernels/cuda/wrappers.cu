// kernels/wrappers.h. One block of 128 threads (two for release and acquire), so every warp does its own share.
#include "kernels/gpu.h"
#include "kernels/wrappers.h"

namespace merv::kernels::MERV_GPU {
namespace {

constexpr int kThreads = 128, kWords = int(kWrapperIn);

MERV_DEVICE float float_of(uint32_t bits) { return __uint_as_float(bits); }
MERV_DEVICE uint32_t bits_of(float f) { return __float_as_uint(f); }

// Whole numbers of at most 3 bits: their products and sums are exact in any order.
MERV_DEVICE uint32_t small_pair(uint32_t bits) { return pack_bf16(float(int(bits % 15) - 7), float(int(bits / 15 % 15) - 7)); }

__global__ void __launch_bounds__(kThreads) mma_kernel(uint32_t* out, const uint32_t* in) {
    const int t = int(threadIdx.x);
    uint32_t a[4], b[2];
    float d[4];
    for (int i = 0; i < 4; i++) a[i] = small_pair(in[t * 10 + i]), d[i] = float(int(in[t * 10 + 6 + i] % 1000));
    for (int i = 0; i < 2; i++) b[i] = small_pair(in[t * 10 + 4 + i]);
    mma_bf16(d, a, b);
    for (int i = 0; i < 4; i++) out[t * 4 + i] = bits_of(d[i]);
}

template <bool trans> __global__ void __launch_bounds__(kThreads) ldmatrix_kernel(uint32_t* out, const uint32_t* in) {
    __shared__ __align__(16) uint32_t tile[kThreads / 32][128];
    const int t = int(threadIdx.x), lane = t % 32;
    uint32_t* const mine = tile[t / 32];
    for (int i = lane; i < 128; i += 32) mine[i] = in[t / 32 * 128 + i];
    __syncthreads();
    uint32_t one[1], two[2], four[4];
    const void* const row = mine + lane * 4;    // 32 rows of 16 bytes
    if constexpr (trans) ldmatrix_x1_trans(one, row), ldmatrix_x2_trans(two, row), ldmatrix_x4_trans(four, row);
    else ldmatrix_x1(one, row), ldmatrix_x2(two, row), ldmatrix_x4(four, row);
    uint32_t* const to = out + t * 7;
    to[0] = one[0], to[1] = two[0], to[2] = two[1];
    for (int i = 0; i < 4; i++) to[3 + i] = four[i];
}

template <bool part> __global__ void __launch_bounds__(kThreads) cp_async_kernel(uint32_t* out, const uint32_t* in) {
    __shared__ __align__(16) uint32_t tile[kThreads * 4 + kThreads];
    const int t = int(threadIdx.x);
    cp_async<16>(tile + t * 4, in + t * 4, part ? int(in[t] % 17) : 16);
    cp_async_commit();
    cp_async<4>(tile + kThreads * 4 + t, in + kThreads * 4 + t, part ? int(in[t] / 17 % 5) : 4);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    for (int i = 0; i < 4; i++) out[t * 5 + i] = tile[(t ^ 1) * 4 + i];
    cp_async_wait<0>();
    __syncthreads();
    out[t * 5 + 4] = tile[kThreads * 4 + (t ^ 1)];
}

// Warps 0 and 1 make what warps 2 and 3 read, over barrier 1; and back, over barrier 2
__global__ void __launch_bounds__(kThreads) barrier_kernel(uint32_t* out, const uint32_t* in) {
    __shared__ uint32_t there[64], back[64];
    const int t = int(threadIdx.x), i = t % 64;
    if (t < 64) {
        there[i] = in[i] * 3u;
        named_barrier_arrive(1, kThreads);
        named_barrier_sync(2, kThreads);
        out[t] = back[63 - i];
    } else {
        named_barrier_sync(1, kThreads);
        back[i] = there[63 - i] ^ in[64 + i];
        named_barrier_arrive(2, kThreads);
        out[t] = there[i];
    }
}

// Block 0 publishes words in `out`, block 1 waits for the flag behind them
__global__ void __launch_bounds__(kThreads) release_kernel(uint32_t* out, const uint32_t* in) {
    const int t = int(threadIdx.x);
    uint32_t* const flag = out + 4 * kThreads;
    if (blockIdx.x == 0) {
        out[t] = in[t] + 1u;
        __syncthreads();
        if (t == 0) __threadfence(), store_release(flag, 1u);
    } else {
        if (t == 0) spin_until([&] { return load_acquire(flag) == 1u; });
        __syncthreads();
        out[kThreads + t] = out[kThreads - 1 - t] * 5u;
    }
}

__global__ void __launch_bounds__(kThreads) pack_kernel(uint32_t* out, const uint32_t* in) {
    for (int i = int(threadIdx.x); i < kWords / 2; i += kThreads) {
        const float low = float_of(in[2 * i]), high = float_of(in[2 * i + 1]);
        const uint32_t pair = pack_bf16(low, high);
        out[i] = low != low || high != high ? 0u : pair;        // the bits of a NaN are the machine's
        out[kWords / 2 + i] = bits_of(low_bf16(in[2 * i])) ^ bits_of(high_bf16(in[2 * i + 1]));
    }
}

MERV_DEVICE float tame(uint32_t bits) { return float(int(bits)) * 0x1p-24f; }

__global__ void __launch_bounds__(kThreads) reduce_kernel(uint32_t* out, const uint32_t* in) {
    for (int i = int(threadIdx.x), n = 0; n < kWords / kThreads; i += kThreads, n++) {
        out[2 * i % kWords] = bits_of(warp_reduce(tame(in[i]), Sum()));
        out[(2 * i + 1) % kWords] = bits_of(warp_reduce(tame(in[i]), Max()));
    }
}
__global__ void __launch_bounds__(kThreads) row_reduce_kernel(uint32_t* out, const uint32_t* in) {
    for (int i = int(threadIdx.x), n = 0; n < kWords / kThreads; i += kThreads, n++) out[i] = bits_of(row_reduce(tame(in[i]), Sum())) ^ bits_of(row_reduce(tame(in[i]), Max()));
}

template <int n, class T> MERV_DEVICE void move(T* to, const T* from, int pack) {
    float v[n];
    load(v, from + pack * n);
    for (float& x : v) x = x * 0.5f;
    store(to + pack * n, v);
}
__global__ void __launch_bounds__(kThreads) pack_move_kernel(uint32_t* out, const uint32_t* in) {
    const int t = int(threadIdx.x);
    float* const f = reinterpret_cast<float*>(out);
    bf16* const h = reinterpret_cast<bf16*>(out + 2048);
    const float* const ff = reinterpret_cast<const float*>(in);
    const bf16* const hh = reinterpret_cast<const bf16*>(in + 2048);
    move<1>(f, ff, t), move<2>(f + 256, ff + 256, t), move<4>(f + 1024, ff + 1024, t);
    move<1>(h, hh, t), move<2>(h + 256, hh + 256, t), move<4>(h + 1024, hh + 1024, t), move<8>(h + 2048, hh + 2048, t);
}

__global__ void __launch_bounds__(kThreads) shuffle_kernel(uint32_t* out, const uint32_t* in) {
    const int t = int(threadIdx.x);
    const uint32_t v = in[t];
    for (int x = 1; x < 32; x *= 2) out[t * 8 + __ffs(x) - 1] = bits_of(__shfl_xor_sync(~0u, tame(v), x));
    out[t * 8 + 5] = uint32_t(__shfl_sync(~0u, int(v), int(in[512 + t] % 32)));
    __syncwarp();
    out[t * 8 + 6] = bits_of(fmaf(tame(v), tame(in[512 + t]), tame(in[1024 + t])));
    out[t * 8 + 7] = bits_of(float(bf16(tame(v))));
}

__global__ void __launch_bounds__(kThreads) function_kernel(uint32_t* out, const uint32_t* in) {
    for (int i = int(threadIdx.x); i < kWords / 4; i += kThreads) {
        const float x = tame(in[i]) * 0.15f;    // within 20
        out[4 * i] = bits_of(expf(x)), out[4 * i + 1] = bits_of(tanhf(x)), out[4 * i + 2] = bits_of(erff(x)), out[4 * i + 3] = bits_of(logf(fabsf(x) + 1.5f));
    }
}

}

template <> void run(const WrapperProbe& p) {
    uint32_t* const out = reinterpret_cast<uint32_t*>(at<int32_t>(p.out));
    const uint32_t* const in = reinterpret_cast<const uint32_t*>(at<int32_t>(p.in));
    auto go = [&](void (*kernel)(uint32_t*, const uint32_t*), unsigned blocks = 1) { launch(Work{"wrapper"}, Grid{{blocks}, {unsigned(kThreads)}}, kernel, out, in); };
    switch (p.which) {
        case Wrapper::mma: return go(mma_kernel);
        case Wrapper::ldmatrix: return go(ldmatrix_kernel<false>);
        case Wrapper::ldmatrix_trans: return go(ldmatrix_kernel<true>);
        case Wrapper::cp_async: return go(cp_async_kernel<false>);
        case Wrapper::cp_async_part: return go(cp_async_kernel<true>);
        case Wrapper::named_barriers: return go(barrier_kernel);
        case Wrapper::release_acquire: return go(release_kernel, 2);
        case Wrapper::pack_bf16: return go(pack_kernel);
        case Wrapper::reductions: return go(reduce_kernel);
        case Wrapper::row_reductions: return go(row_reduce_kernel);
        case Wrapper::packs: return go(pack_move_kernel);
        case Wrapper::shuffles: return go(shuffle_kernel);
        case Wrapper::functions: return go(function_kernel);
    }
}

}
