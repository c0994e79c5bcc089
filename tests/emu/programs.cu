#include "kernels/gpu.h"
#include "tests/emu/programs.h"

namespace merv::test::MERV_GPU {
namespace {

using kernels::Grid;
using kernels::launch;
using kernels::Work;

MERV_DEVICE float warp_sum(float v) {
    for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(~0u, v, o);
    return v;
}

// ---- a block sums n floats: bug 0 is right, each other leaves out or spoils one thing
template <int bug> __global__ void block_sum(float* y, const float* x, int n) {
    __shared__ float part[8];
    float v = 0;
    for (int i = int(threadIdx.x); i < n + (bug == 1); i += int(blockDim.x)) v += x[i];
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    if (bug != 2) __syncthreads();
    if (threadIdx.x == 0) {
        float sum = 0;
        for (int w = 0; w < int(blockDim.x) / 32 + (bug == 3); w++) sum += part[w];
        *y = sum;
    }
    if (bug == 4) {
        if (threadIdx.x < 32) __syncthreads();
        else __syncthreads();
    }
    if (bug == 5 && threadIdx.x != 7) __syncthreads();
    if (bug == 6 && threadIdx.x < 16) (void)warp_sum(v);
    if (bug == 7) part[n / 100] = v;
    if (bug == 8) part[threadIdx.x / 32] = v;
}
template <int bug> bool run_block_sum() {
    const int threads = bug == 3 ? 128 : 256;
    Buffer<float> x(1000, [](size_t i) { return float(i % 13); }), y(1);
    launch(Work{"block_sum"}, Grid{{1}, {unsigned(threads)}}, block_sum<bug>, y.get(), x.get(), 1000);
    float sum = 0;
    for (size_t i = 0; i < x.size(); i++) sum += x[i];
    return y[0] == sum;
}

// ---- dynamic shared memory, reversed
template <int bug> __global__ void reverse(int* y, const int* x) {
    DYN_SMEM(bytes);
    int* s = reinterpret_cast<int*>(bytes);
    const int i = int(threadIdx.x), n = int(blockDim.x);
    s[i + (bug == 1)] = x[i];
    if (bug != 2) __syncthreads();
    y[i] = s[n - 1 - i];
}
template <int bug> bool run_reverse() {
    Buffer<int> x(64, [](size_t i) { return int(i); }), y(64);
    launch(Work{"reverse"}, Grid{{1}, {64}, 256}, reverse<bug>, y.get(), x.get());
    for (size_t i = 0; i < 64; i++) if (y[i] != int(63 - i)) return false;
    return true;
}

// ---- a histogram: with and without atomics
template <bool atomic> __global__ void histogram(int* bins, const int* x) {
    const int b = x[blockIdx.x * blockDim.x + threadIdx.x];
    if (atomic) atomicAdd(&bins[b], 1);
    else bins[b]++;
}
template <bool atomic> bool run_histogram() {
    Buffer<int> x(256, [](size_t i) { return int(i * i % 7); }), bins(7, [](size_t) { return 0; });
    launch(Work{"histogram"}, Grid{{4}, {64}}, histogram<atomic>, bins.get(), x.get());
    int want[7] = {};
    for (size_t i = 0; i < x.size(); i++) want[x[i]]++;
    return std::equal(want, want + 7, bins.get());
}

// ---- warps exchange through shared memory: a shuffle orders no memory
template <int bug> __global__ void neighbours(int* y) {
    __shared__ int s[32];
    const int i = int(threadIdx.x);
    s[i] = i;
    if (bug == 0) __syncwarp();
    if (bug == 1) (void)__shfl_sync(~0u, i, 0);
    y[i] = s[(i + 1) % 32];
}
template <int bug> bool run_neighbours() {
    Buffer<int> y(32);
    launch(Work{"neighbours"}, Grid{{1}, {32}}, neighbours<bug>, y.get());
    for (size_t i = 0; i < 32; i++) if (y[i] != int((i + 1) % 32)) return false;
    return true;
}

// ---- the last block to finish adds up what the others left
template <int bug> __global__ void last_block_sums(float* y, float* parts, unsigned* done, const float* x) {
    __shared__ bool last;
    const float v = warp_sum(x[blockIdx.x * 32 + threadIdx.x]);
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = v;
        if (bug != 1) __threadfence();
        last = atomicAdd(done, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (!last) return;
    if (bug != 2) __threadfence();
    if (threadIdx.x == 0) {
        float sum = 0;
        for (unsigned b = 0; b < gridDim.x; b++) sum += parts[b];
        *y = sum;
    }
}
template <int bug> bool run_last_block() {
    Buffer<float> x(320, [](size_t i) { return float(i % 5); }), y(1), parts(10);
    Buffer<unsigned> done(1, [](size_t) { return 0u; });
    launch(Work{"last_block_sums"}, Grid{{10}, {32}}, last_block_sums<bug>, y.get(), parts.get(), done.get(), x.get());
    return y[0] == 640;
}

// ---- blocks take turns through a semaphore: block b waits for block b + 1 (so several must be resident)
template <int bug> __global__ void turns(uint32_t* turn, int* order, int* count) {
    if (threadIdx.x) return;
    const uint32_t mine = gridDim.x - 1 - blockIdx.x + (bug == 1 && blockIdx.x == 0);
    if (bug != 2) kernels::spin_until([&] { return kernels::load_acquire(turn) == mine; });
    order[(*count)++] = int(blockIdx.x);
    if (bug == 3) *turn = mine + 1;
    else kernels::store_release(turn, mine + 1);
}
template <int bug> bool run_turns() {
    Buffer<uint32_t> turn(1, [](size_t) { return 0u; });
    Buffer<int> order(6), count(1, [](size_t) { return 0; });
    launch(Work{"turns"}, Grid{{6}, {32}}, turns<bug>, turn.get(), order.get(), count.get());
    for (int i = 0; i < 6; i++) if (order[size_t(i)] != 5 - i) return false;
    return true;
}

// ---- tiles of x through shared memory with cp.async, two stages, more tiles than stages
template <int bug> __global__ void pipeline(float* y, const float* x, int tiles) {
    __shared__ __align__(16) float stage[2][128];
    const int i = int(threadIdx.x);             // 32 threads copy 4 floats each, and sum 4 that others copied
    auto load = [&](int t) {
        if (t < tiles) kernels::cp_async<16>(&stage[t % 2][4 * i] + (bug == 5 ? 1 : 0), x + 128 * t + 4 * i);
        kernels::cp_async_commit();
    };
    load(0);
    float sum = 0;
    for (int t = 0; t < tiles; t++) {
        load(t + 1);
        if (bug == 1) kernels::cp_async_wait<2>();
        else if (bug != 6 || t + 1 < tiles) kernels::cp_async_wait<1>();
        if (bug != 2) __syncthreads();
        for (int k = 0; k < 4; k++) sum += stage[t % 2][32 * k + i];
        if (bug != 3) __syncthreads();
    }
    y[i] = sum;
    if (bug == 4) load(0);
}
template <int bug> bool run_pipeline() {
    Buffer<float> x(128 * 5, [](size_t i) { return float(i % 11); }), y(32);
    launch(Work{"pipeline"}, Grid{{1}, {32}}, pipeline<bug>, y.get(), x.get(), 5);
    for (size_t i = 0; i < 32; i++) {
        float sum = 0;
        for (size_t k = i; k < x.size(); k += 32) sum += x[k];
        if (y[i] != sum) return false;
    }
    return true;
}

// ---- two warps as producer and consumer with named barriers
template <int bug> __global__ void hand_over(int* y) {
    __shared__ int s[32];
    const int i = int(threadIdx.x) % 32;
    for (int round = 0; round < 3; round++) {
        if (threadIdx.x < 32) {
            if (bug != 1 && round) kernels::named_barrier_sync(2, 64);
            s[i] = 100 * round + i;
            if (bug == 2) continue;
            kernels::named_barrier_arrive(1, bug == 3 ? 48 : bug == 4 ? 96 : 64);
        } else {
            if (bug != 2) kernels::named_barrier_sync(bug == 5 ? 16 : 1, 64);
            y[32 * round + i] = s[31 - i];
            if (bug != 1 && round < 2) kernels::named_barrier_arrive(2, 64);
        }
    }
}
template <int bug> bool run_hand_over() {
    Buffer<int> y(96);
    launch(Work{"hand_over"}, Grid{{1}, {64}}, hand_over<bug>, y.get());
    for (size_t i = 0; i < 96; i++) if (y[i] != int(100 * (i / 32) + 31 - i % 32)) return false;
    return true;
}

// ---- one 16 x 8 x 16 product on the tensor core, operands by ldmatrix
template <int bug> __global__ void product(float* c, const bf16* a, const bf16* b) {     // a (16, 16), b (8, 16), c (16, 8)
    __shared__ __align__(16) bf16 sa[16][24], sb[8][24];
    const int l = int(threadIdx.x);
    for (int i = l; i < 256; i += 32) sa[i / 16][i % 16] = a[i];
    for (int i = l; i < 128; i += 32) sb[i / 16][i % 16] = b[i];
    if (bug != 1) __syncthreads();
    uint32_t fa[4], fb[2];
    float d[4] = {};
    kernels::ldmatrix_x4(fa, &sa[l % 16][l / 16 * 8] + (bug == 2));
    kernels::ldmatrix_x2(fb, &sb[l % 8][l / 8 % 2 * 8]);
    if (bug == 3 && l == 5) return;
    kernels::mma_bf16(d, fa, fb);
    for (int i = 0; i < 4; i++) c[(l / 4 + 8 * (i / 2)) * 8 + 2 * (l % 4) + i % 2] = d[i];
}
template <int bug> bool run_product() {
    Buffer<bf16> a(256, [](size_t i) { return bf16(float(i * 7 % 17) - 8); }), b(128, [](size_t i) { return bf16(float(i * 5 % 13) - 6); });
    Buffer<float> c(128);
    launch(Work{"product"}, Grid{{1}, {bug == 4 ? 16u : 32u}}, product<bug>, c.get(), a.get(), b.get());
    for (size_t m = 0; m < 16; m++)
        for (size_t n = 0; n < 8; n++) {
            float sum = 0;
            for (size_t k = 0; k < 16; k++) sum += float(a[m * 16 + k]) * float(b[n * 16 + k]);
            if (c[m * 8 + n] != sum) return false;
        }
    return true;
}

// ---- single mistakes
__global__ void misaligned(float* y, const float* x) {
    const float4 v = *reinterpret_cast<const float4*>(x + 1);
    y[0] = v.x + v.w;
}
__global__ void local_overrun(float* y, const float* x, int n) {
    float v[4];
    for (int i = 0; i < n; i++) v[i] = x[i];
    y[0] = v[int(x[0])];
}
__global__ void host_memory(float* y, const float* x) { y[0] = x[0]; }
__global__ void odd_width(int* y) { y[threadIdx.x] = __shfl_sync(~0u, int(threadIdx.x), 0, 12); }
__global__ void outside_mask(int* y) {
    if (threadIdx.x < 16) y[threadIdx.x] = __shfl_sync(0xffffu, int(threadIdx.x), 20);
}
__global__ void not_in_mask(int* y) { y[threadIdx.x] = __shfl_sync(0xffffu, int(threadIdx.x), 0); }
__global__ void diverged_shuffles(int* y) {
    if (threadIdx.x < 16) y[threadIdx.x] = __shfl_sync(~0u, 1, 0);
    else y[threadIdx.x] = __shfl_sync(~0u, 2, 0);
}
__global__ void traps(int* y) { kernels::trap_unless(y == nullptr, "y must be null"); }
__global__ void neighbouring_bytes(uint8_t* y) { y[threadIdx.x] = uint8_t(threadIdx.x); }
__global__ void between_blocks(int* y) {
    if (blockIdx.x == 0) y[0] = 1;
    else y[1] = y[0];
}
__global__ void nothing(int*) {}

template <class F> Program single(const char* name, const char* fast, const char* checked, F run) {
    return {name, fast, checked, [run] { run(); return true; }};
}

}

std::vector<Program> programs() {
    std::vector<Program> all = {
        {"block_sum", "", "", run_block_sum<0>},
        {"block_sum, reads past the end", "ACCESS", "ACCESS", run_block_sum<1>},
        {"block_sum, no barrier", "", "RACE UNINIT", run_block_sum<2>},
        {"block_sum, reads a part nobody wrote", "", "UNINIT", run_block_sum<3>},
        {"block_sum, barriers on two lines", "BARRIER", "BARRIER", run_block_sum<4>},
        {"block_sum, a thread exits before the last barrier", "", "", run_block_sum<5>},
        {"block_sum, half a warp shuffles", "WARP", "WARP", run_block_sum<6>},
        {"block_sum, writes behind a shared array", "", "ALIGN", run_block_sum<7>},
        {"block_sum, writes what is being read", "", "RACE", run_block_sum<8>},
        {"reverse", "", "", run_reverse<0>},
        {"reverse, one past the end", "", "ACCESS", run_reverse<1>},
        {"reverse, no barrier", "", "RACE UNINIT", run_reverse<2>},
        {"histogram, atomic", "", "", run_histogram<true>},
        {"histogram, lost updates", "", "RACE", run_histogram<false>},
        {"neighbours", "", "", run_neighbours<0>},
        {"neighbours, a shuffle for a barrier", "", "RACE UNINIT", run_neighbours<1>},
        {"neighbours, no __syncwarp", "", "RACE UNINIT", run_neighbours<2>},
        {"last block", "", "", run_last_block<0>},
        {"last block, no fence before the counter", "", "RACE", run_last_block<1>},
        {"last block, no fence behind the counter", "", "RACE", run_last_block<2>},
        {"turns", "", "", run_turns<0>},
        {"turns, one waits for ever", "DEADLOCK", "DEADLOCK", run_turns<1>},
        {"turns, nobody waits", "", "RACE", run_turns<2>},
        {"turns, a plain store for a release", "", "RACE", run_turns<3>},
        {"pipeline", "", "", run_pipeline<0>},
        {"pipeline, waits for too little", "ASYNC", "RACE", run_pipeline<1>},
        {"pipeline, no barrier before reading", "", "RACE UNINIT", run_pipeline<2>},
        {"pipeline, no barrier before the stage is filled again", "", "RACE", run_pipeline<3>},
        {"pipeline, exits with a copy under way", "ASYNC", "ASYNC", run_pipeline<4>},
        {"pipeline, misaligned", "ALIGN", "ALIGN", run_pipeline<5>},
        {"hand over", "", "", run_hand_over<0>},
        {"hand over, no way back", "BARRIER", "BARRIER", run_hand_over<1>},
        {"hand over, no barrier", "BARRIER", "RACE UNINIT", run_hand_over<2>},
        {"hand over, 48 threads", "BARRIER", "BARRIER", run_hand_over<3>},
        {"hand over, counts differ", "BARRIER", "BARRIER", run_hand_over<4>},
        {"hand over, barrier 16", "BARRIER", "BARRIER", run_hand_over<5>},
        {"product", "", "", run_product<0>},
        {"product, no barrier", "", "RACE UNINIT", run_product<1>},
        {"product, misaligned rows", "ALIGN", "ALIGN", run_product<2>},
        {"product, a lane has exited", "WARP", "WARP", run_product<3>},
        {"product, half a warp", "WARP", "WARP", run_product<4>},
        single("misaligned float4", "", "ALIGN", [] { Buffer<float> x(8, [](size_t) { return 1.0f; }), y(1); launch(Work{"misaligned"}, Grid{{1}, {1}}, misaligned, y.get(), x.get()); }),
        single("local array overrun", "", "ALIGN", [] { Buffer<float> x(8, [](size_t) { return 1.0f; }), y(1); launch(Work{"local_overrun"}, Grid{{1}, {1}}, local_overrun, y.get(), x.get(), 6); }),
        single("host memory", "", "ACCESS", [] { const std::vector<float> x(1); Buffer<float> y(1); launch(Work{"host_memory"}, Grid{{1}, {1}}, host_memory, y.get(), x.data()); }),
        single("shuffle of width 12", "WARP", "WARP", [] { Buffer<int> y(32); launch(Work{"odd_width"}, Grid{{1}, {32}}, odd_width, y.get()); }),
        single("shuffle from outside the mask", "WARP", "WARP", [] { Buffer<int> y(32); launch(Work{"outside_mask"}, Grid{{1}, {32}}, outside_mask, y.get()); }),
        single("shuffle by a lane not in the mask", "WARP", "WARP", [] { Buffer<int> y(32); launch(Work{"not_in_mask"}, Grid{{1}, {32}}, not_in_mask, y.get()); }),
        single("shuffles on two lines", "WARP", "WARP", [] { Buffer<int> y(32); launch(Work{"diverged_shuffles"}, Grid{{1}, {32}}, diverged_shuffles, y.get()); }),
        single("trap", "TRAP", "TRAP", [] { Buffer<int> y(1); launch(Work{"traps"}, Grid{{1}, {1}}, traps, y.get()); }),
        single("neighbouring bytes", "", "", [] { Buffer<uint8_t> y(64); launch(Work{"neighbouring_bytes"}, Grid{{1}, {64}}, neighbouring_bytes, y.get()); }),
        single("between blocks", "", "RACE", [] { Buffer<int> y(2); launch(Work{"between_blocks"}, Grid{{2}, {1}}, between_blocks, y.get()); }),
    };
    const struct { const char* name; Grid grid; } refused[] = {
        {"1056 threads", {{1}, {1056}}}, {"128 threads in z", {{1}, {1, 1, 128}}}, {"70000 blocks in y", {{1, 70000}, {32}}}, {"an empty grid", {{0}, {32}}}, {"228 KiB of shared memory", {{1}, {32}, 228 << 10}},
    };
    for (const auto& r : refused) all.push_back(single(r.name, "LAUNCH", "LAUNCH", [g = r.grid] { launch(Work{"nothing"}, g, nothing, static_cast<int*>(nullptr)); }));
    return all;
}

}
