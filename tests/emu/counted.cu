// Every expected value is derived in a comment from the kernel and the hardware's rules: 32 lanes to a warp, sectors of 32 bytes,
// 32 banks of 4 bytes, 64- and 128-bit shared accesses in 2 and 4 phases.
#ifdef MERV_EMU_COUNTED
#include "tests/emu/counted.h"
#include "kernels/emu/machine.h"
#include "kernels/gpu.h"
#include "tests/emu/programs.h"

namespace merv::test::MERV_GPU {
namespace {

using emu::Counted;
using emu::Counters;
using kernels::Grid;
using kernels::load;
using kernels::store;

std::vector<Known> all;
void expect(const char* what, double counted, double expected) { all.push_back({what, counted, expected}); }
template <class... P, class... A> Counters run(Grid g, void (*kernel)(P...), A... arguments) {
    emu::Count counted;
    kernels::launch(kernels::Work{"known", 0, 1000}, g, kernel, arguments...);
    return counted.launches.at(0);
}
double per_request(const emu::Traffic& t) { return double(t.sectors) / double(t.requests); }
Buffer<float> ones(size_t n) { return Buffer<float>(n, [](size_t) { return 1.0f; }); }

constexpr int N = 4096;

// ---- global memory
__global__ void copy_stride(float* y, const float* x, int stride, int offset) {
    const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    y[i] = x[i * stride + offset];
}
template <int n, class T> __global__ void copy_vector(T* y, const T* x, float a) {
    const int64_t i = int64_t(blockIdx.x * blockDim.x + threadIdx.x) * n;
    float v[n];
    load(v, x + i);
    for (int k = 0; k < n; k++) v[k] = v[k] * a + float(k);
    store(y + i, v);
}
__global__ void broadcast(float* y, const float* x) { y[blockIdx.x * blockDim.x + threadIdx.x] = x[blockIdx.x]; }
__global__ void tile_16x16(float* y, const float* x, int pitch) { y[threadIdx.y * 16 + threadIdx.x] = x[int(threadIdx.y) * pitch + int(threadIdx.x)]; }
__global__ void read_twice(float* y, const float* x, int n) {
    float sum = 0;
    for (int k = 0; k < 2; k++)
        for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) sum += x[i];
    y[threadIdx.x] = sum;
}
void global_memory() {
    const Buffer<float> x = ones(N * 36), y(N * 36);
    const Grid grid{{N / 128}, {128}};
    Counters c = run(grid, copy_stride, y.get(), x.get(), 1, 0);
    expect("copy: sectors per load (32 x 4 bytes / 32)", per_request(c[Counted::global_load]), 4);
    expect("copy: sectors per store", per_request(c[Counted::global_store]), 4);
    expect("copy: loads (a warp's 32 elements each)", double(c[Counted::global_load].requests), N / 32);
    expect("copy: unique bytes read", double(c.unique_read), N * 4);
    expect("copy: unique bytes written", double(c.unique_written), N * 4);
    expect("copy: unique sectors, read and written", double(c.unique_sectors), 2 * N * 4 / 32);
    expect("copy: sectors unique within blocks: no block shares any", double(c.block_sectors), 2 * N * 4 / 32);
    expect("copy: lanes active in each basic block", double(c.basic_block_lanes) / double(c.basic_blocks), 32);
    c = run(grid, copy_stride, y.get(), x.get(), 2, 0);
    expect("stride 2: 256 bytes spanned", per_request(c[Counted::global_load]), 8);
    expect("stride 2: half of each sector used", double(c[Counted::global_load].ideal_sectors) / double(c[Counted::global_load].sectors), 0.5);
    c = run(grid, copy_stride, y.get(), x.get(), 32, 0);
    expect("stride 32: a sector per lane", per_request(c[Counted::global_load]), 32);
    c = run(grid, copy_stride, y.get(), x.get(), 1, 1);
    expect("offset of one float: 128 bytes over 5 sectors", per_request(c[Counted::global_load]), 5);
    c = run(grid, copy_stride, y.get(), x.get(), 0, 5);
    expect("all lanes one address", per_request(c[Counted::global_load]), 1);
    c = run({{1}, {50}}, copy_stride, y.get(), x.get(), 1, 0);
    expect("50 threads are 2 warps", double(c[Counted::global_load].requests), 2);
    expect("50 threads: 4 sectors, and 72 bytes in 3", double(c[Counted::global_load].sectors), 4 + 3);
    expect("50 threads: lanes", double(c[Counted::global_load].lanes), 50);
    c = run({{N / 128}, {128}}, copy_vector<4, float>, y.get(), x.get(), 2.0f);
    expect("16-byte loads: 512 bytes", per_request(c[Counted::global_load]), 16);
    expect("16-byte stores", per_request(c[Counted::global_store]), 16);
    expect("16-byte loads are one request each", double(c[Counted::global_load].requests), N / 32);
    c = run({{N / 128}, {128}}, copy_vector<8, float>, y.get(), x.get(), 2.0f);
    expect("32 bytes are two loads", double(c[Counted::global_load].requests), 2 * N / 32);
    expect("each of which takes half of 32 sectors", per_request(c[Counted::global_load]), 32);
    c = run(grid, broadcast, y.get(), x.get());
    expect("a block's one element", per_request(c[Counted::global_load]), 1);
    const Buffer<bf16> hx(N, [](size_t) { return bf16(1.0f); }), hy(N);
    c = run({{N / 256}, {128}}, copy_vector<2, bf16>, hy.get(), hx.get(), 2.0f);
    expect("bf16 pairs: 128 bytes per load", per_request(c[Counted::global_load]), 4);
    expect("bf16 pairs: one 4-byte store per thread", double(c[Counted::global_store].requests), N / 64);
    expect("bf16 pairs: sectors per store", per_request(c[Counted::global_store]), 4);
    c = run({{N / 128}, {128}}, copy_vector<1, bf16>, hy.get(), hx.get(), 2.0f);
    expect("single bf16: 64 bytes per load", per_request(c[Counted::global_load]), 2);
    expect("single bf16: 64 bytes per store", per_request(c[Counted::global_store]), 2);
    c = run({{N / 1024}, {128}}, copy_vector<8, bf16>, hy.get(), hx.get(), 2.0f);
    expect("8 bf16: one 16-byte load", per_request(c[Counted::global_load]), 16);
    c = run({{1}, {16, 16}}, tile_16x16, y.get(), x.get(), 1000);
    expect("two rows of 64 bytes per warp; 4000 is a multiple of 32", per_request(c[Counted::global_load]), 4);
    c = run({{1}, {128}}, read_twice, y.get(), x.get(), 8192);
    expect("read twice: bytes asked for / unique", double(c[Counted::global_load].bytes) / double(c.unique_read), 2);
    expect("read twice: unique sectors, and 128 floats written", double(c.unique_sectors), 8192 / 8 + 128 / 8);
    expect("read twice: a block's unique sectors, likewise", double(c.block_sectors), 8192 / 8 + 128 / 8);
}

// ---- shared memory
__global__ void transpose_naive(float* y, const float* x, int n) {
    const int c = int(blockIdx.x * 32 + threadIdx.x), r = int(blockIdx.y * 8 + threadIdx.y);
    y[c * n + r] = x[r * n + c];
}
template <int pad> __global__ void transpose_tile(float* y, const float* x, int n) {
    __shared__ float tile[32][32 + pad];
    const int c = int(threadIdx.x), column = int(blockIdx.x) * 32, row = int(blockIdx.y) * 32;
    for (int j = int(threadIdx.y); j < 32; j += 8) tile[j][c] = x[(row + j) * n + column + c];
    __syncthreads();
    for (int j = int(threadIdx.y); j < 32; j += 8) y[(column + j) * n + row + c] = tile[c][j];
}
template <class T> __global__ void shared_stride(T* y, int stride) {
    DYN_SMEM(bytes);
    T* s = reinterpret_cast<T*>(bytes);
    s[int(threadIdx.x) * stride] = T{};
    __syncwarp();
    y[threadIdx.x] = s[int(threadIdx.x) * stride];
}
__global__ void shared_broadcast(float* y) {
    __shared__ float s[8];
    if (threadIdx.x < 8) s[threadIdx.x] = 1;
    __syncwarp();
    y[threadIdx.x] = s[3] + s[threadIdx.x & 3];
}
__global__ void four_matrices(uint32_t* y, int pitch, int swizzled) {
    DYN_SMEM(bytes);
    const int lane = int(threadIdx.x), row = lane & 15;
    for (int i = lane; i < 16 * pitch / 2; i += 32) reinterpret_cast<uint32_t*>(bytes)[i] = 0;
    __syncwarp();
    uint32_t r[4];
    kernels::ldmatrix_x4(r, bytes + 2 * (row * pitch + ((lane >> 4) ^ (swizzled ? row & 7 : 0)) * 8));
    y[lane] = r[0] ^ r[1] ^ r[2] ^ r[3];
}
__global__ void copy_async(float* y, const float* x) {
    DYN_SMEM(bytes);
    float* s = reinterpret_cast<float*>(bytes);
    kernels::cp_async<16>(s + threadIdx.x * 4, x + threadIdx.x * 4);
    kernels::cp_async_commit();
    kernels::cp_async_wait<0>();
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x];
}
__global__ void copy_async_edge(float* y, const float* x, int valid) {        // lanes behind `valid` copy nothing
    DYN_SMEM(bytes);
    float* s = reinterpret_cast<float*>(bytes);
    const int i = int(threadIdx.x);
    kernels::cp_async<16>(s + i * 4, i < valid ? x + i * 4 : x, i < valid ? 16 : 0);
    kernels::cp_async_commit();
    y[i] = x[i];
    kernels::cp_async_wait<0>();
}
__global__ void histogram(int* bins, const int* index) { atomicAdd(&bins[index[threadIdx.x]], 1); }
__global__ void shared_histogram(int* y, const int* index) {
    __shared__ int bins[32];
    bins[threadIdx.x] = 0;
    __syncwarp();
    atomicAdd(&bins[index[threadIdx.x]], 1);
    __syncwarp();
    y[threadIdx.x] = bins[threadIdx.x];
}
template <class T> double shared_load_wavefronts(int stride) {
    const Buffer<T> y(32);
    return double(run({{1}, {32}, 32 * sizeof(T) * size_t(stride)}, shared_stride<T>, y.get(), stride)[Counted::shared_load].wavefronts);
}
void shared_memory() {
    const Buffer<float> x = ones(64 * 64), y(64 * 64);
    Counters c = run({{2, 8}, {32, 8}}, transpose_naive, y.get(), x.get(), 64);
    expect("transpose: rows are read whole", per_request(c[Counted::global_load]), 4);
    expect("transpose: columns are written, a sector per lane", per_request(c[Counted::global_store]), 32);
    c = run({{2, 2}, {32, 8}}, transpose_tile<0>, y.get(), x.get(), 64);
    expect("transpose by tiles: rows are written whole", per_request(c[Counted::global_store]), 4);
    expect("tiles of 32 columns: a column lies in one bank", double(c[Counted::shared_load].wavefronts) / double(c[Counted::shared_load].ideal_wavefronts), 32);
    expect("tiles of 32 columns: rows are stored without conflict", double(c[Counted::shared_store].bank_conflicts()), 0);
    expect("tiles of 32 columns: 64 x 64 / 32 loads of 31 conflicts", double(c[Counted::shared_load].bank_conflicts()), 128 * 31);
    expect("tiles: a barrier per warp", double(c[Counted::barrier].requests), 4 * 8);
    c = run({{2, 2}, {32, 8}}, transpose_tile<1>, y.get(), x.get(), 64);
    expect("tiles of 33 columns: one wavefront per load", double(c[Counted::shared_load].wavefronts), 128);
    expect("tiles of 33 columns: no conflict", double(c.shared().bank_conflicts()), 0);
    expect("4 bytes, stride 1", shared_load_wavefronts<float>(1), 1);
    expect("4 bytes, stride 2: 2 lanes in each of 16 banks", shared_load_wavefronts<float>(2), 2);
    expect("4 bytes, stride 8: 8 lanes in each of 4 banks", shared_load_wavefronts<float>(8), 8);
    expect("4 bytes, stride 9: coprime with 32", shared_load_wavefronts<float>(9), 1);
    expect("2 bytes, stride 1: two lanes to a word", shared_load_wavefronts<uint16_t>(1), 1);
    expect("8 bytes, stride 1: 2 phases", shared_load_wavefronts<float2>(1), 2);
    expect("8 bytes, stride 2: 2 conflicts in each of 2 phases", shared_load_wavefronts<float2>(2), 4);
    expect("16 bytes, stride 1: 4 phases", shared_load_wavefronts<float4>(1), 4);
    expect("16 bytes, stride 4: 64 bytes apart, 8 lanes in 2 places: 4 in each of 4 phases", shared_load_wavefronts<float4>(4), 16);
    const Buffer<float4> wide(32);
    expect("16 bytes, stride 1: none of the 4 is a conflict", double(run({{1}, {32}, 512}, shared_stride<float4>, wide.get(), 1)[Counted::shared_load].bank_conflicts()), 0);
    c = run({{1}, {32}}, shared_broadcast, y.get());
    expect("one word, and four words, to all lanes: a wavefront each", double(c[Counted::shared_load].wavefronts), 2);
    expect("no global loads", double(c[Counted::global_load].requests), 0);

    const Buffer<uint32_t> words(32);
    c = run({{1}, {32}, 16 * 64 * 2}, four_matrices, words.get(), 64, 0);
    expect("ldmatrix, rows of 128 bytes: 8 rows of a matrix in the same banks", double(c[Counted::ldmatrix].wavefronts), 32);
    expect("ldmatrix: 4 matrices", double(c[Counted::ldmatrix].ideal_wavefronts), 4);
    c = run({{1}, {32}, 16 * 72 * 2}, four_matrices, words.get(), 72, 0);
    expect("ldmatrix, rows of 144 bytes: 4 banks on", double(c[Counted::ldmatrix].wavefronts), 4);
    c = run({{1}, {32}, 16 * 64 * 2}, four_matrices, words.get(), 64, 1);
    expect("ldmatrix, rows of 128 bytes, swizzled", double(c[Counted::ldmatrix].wavefronts), 4);

    c = run({{1}, {32}, 512}, copy_async, y.get(), x.get());
    expect("cp.async of 16 bytes: sectors", per_request(c[Counted::global_copy]), 16);
    expect("cp.async of 16 bytes: shared memory in 4 phases", double(c[Counted::shared_copy].wavefronts), 4);
    c = run({{1}, {32}, 512}, copy_async_edge, y.get(), x.get(), 5);
    expect("cp.async of 5 lanes' 80 bytes, of others' none: one request", double(c[Counted::global_copy].requests), 1);
    expect("its 80 bytes lie in 3 sectors", double(c[Counted::global_copy].sectors), 3);
    expect("zeros are written for the others", double(c[Counted::shared_copy].bytes), 512);
    expect("the load behind it is one request", double(c[Counted::global_load].requests), 1);

    const Buffer<int> bins(64, [](size_t) { return 0; });
    auto atomics = [&](int distinct) {
        const Buffer<int> index(32, [&](size_t i) { return int(i) % distinct; });
        return run({{1}, {32}}, histogram, bins.get(), index.get())[Counted::global_atomic];
    };
    expect("atomics on one address: one after the other", double(atomics(1).wavefronts), 32);
    expect("atomics on 8 addresses, 4 lanes each", double(atomics(8).wavefronts), 4);
    expect("atomics on 32 addresses", double(atomics(32).wavefronts), 1);
    expect("atomics on 32 addresses: sectors", double(atomics(32).sectors), 4);
    const Buffer<int> same(32, [](size_t i) { return int(i) / 16; }), out(32);
    expect("shared atomics on 2 addresses, 16 lanes each", double(run({{1}, {32}}, shared_histogram, out.get(), same.get())[Counted::shared_atomic].wavefronts), 16);
}

// ---- diverging lanes: they meet again at the end of each statement
__global__ void ragged(float* y, const float* x, const int* length) {
    const int i = int(threadIdx.x);
    float sum = 0;
    for (int j = 0; j < length[i]; j++) sum += x[j * 32 + i];
    y[i] = sum;
}
__global__ void ragged_twice(float* y, const float* x, const int* length, int rows) {
    const int i = int(threadIdx.x);
    float sum = 0;
    for (int r = 0; r < rows; r++) {
        const int n = length[r * 32 + i];
        for (int j = 0; j < n; j++) sum += x[(r * 8 + j) * 32 + i];
    }
    y[i] = sum;
}
__global__ void odd_and_even(float* y, const float* x) {
    const int i = int(threadIdx.x);
    float v;
    if (i & 1) v = x[i] * 2;
    else v = x[i + 32] + 1;
    y[i] = v;
}
__global__ void search(int* y, const int* x, int n) {
    const int i = int(threadIdx.x);
    int j = 0;
    for (; j < n; j++) if (x[j * 32 + i] == i) break;
    y[i] = j;
}
__global__ void two_continues(float* y, const float* x) {
    const int i = int(threadIdx.x);
    float sum = 0;
    for (int j = 0; j < 8;) {
        const int k = j++;
        if ((i + k) % 3 == 0) continue;
        sum += x[k * 32 + i];
        if ((i + k) % 3 == 1) continue;
        sum *= x[(k + 8) * 32 + i];
    }
    y[i] = sum;
}
__noinline__ float sum_of(const float* x, int i, int n) {
    float sum = 0;
    for (int k = 0; k < n; k++) sum += x[k * 32 + i];
    return sum;
}
__global__ void calls(float* y, const float* x) {
    const int i = int(threadIdx.x);
    float s;
    if (i & 1) s = sum_of(x, i, i & 3);
    else s = sum_of(x + 32, i, 2);
    y[i] = s;
}
__global__ void chains(int* y, const int* next) {
    int at = int(threadIdx.x) + 1, n = 0;
    for (; at; n++) at = next[at];
    y[threadIdx.x] = n;
}
__global__ void cases(float* y, const float* x) {
    const int i = int(threadIdx.x);
    float v = 0;
    switch (i & 3) {
        case 0: v = x[i]; break;
        case 1: v = x[i + 32] * 2; break;
        case 2: v = x[i + 64] + 1; [[fallthrough]];
        case 3: v -= x[i + 96];
    }
    y[i] = v;
}
__global__ void half_shuffles(float* y, const float* x) {
    const int i = int(threadIdx.x);
    float v = x[i];
    if (i < 16) v += __shfl_xor_sync(0xffffu, v, 1);
    v += x[i + 32];
    y[i] = v;
}
__global__ void early_exit(float* y, const float* x) {       // the second warp leaves before the barrier, half of the first behind it
    if (threadIdx.x >= 32) return;
    __syncthreads();
    if (threadIdx.x >= 16) return;
    y[threadIdx.x] = x[threadIdx.x];
}
void divergence() {
    const Buffer<float> x = ones(32 * 8 * 6), y(32);
    constexpr int rows = 6;
    auto length = [](size_t i) { return int((i % 32 * 7 + i / 32 * 5) % 8); };
    const Buffer<int> lengths(32 * rows, length), result(32);
    int longest[rows] = {}, steps = 0;
    for (size_t i = 0; i < 32 * rows; i++) longest[i / 32] = std::max(longest[i / 32], length(i));
    for (int l : longest) steps += l;
    const Grid warp{{1}, {32}};
    Counters c = run(warp, ragged, y.get(), x.get(), lengths.get());
    expect("ragged loop: as often as the longest lane, and the length, which the compiler reads once", double(c[Counted::global_load].requests), longest[0] + 1);
    expect("ragged loop: lanes", double(c[Counted::global_load].lanes), [&] { int n = 32; for (size_t i = 0; i < 32; i++) n += length(i); return n; }());
    c = run(warp, ragged_twice, y.get(), x.get(), lengths.get(), rows);
    expect("nested ragged loops: rows wait for each other, and a length per row", double(c[Counted::global_load].requests), steps + rows);
    expect("one store behind them", double(c[Counted::global_store].requests), 1);
    c = run(warp, odd_and_even, y.get(), x.get());
    expect("if and else: a load each", double(c[Counted::global_load].requests), 2);
    expect("one store where they meet", double(c[Counted::global_store].requests), 1);
    const Buffer<int> haystack(32 * 16, [](size_t i) { return i / 32 == i % 32 % 10 ? int(i % 32) : -1; });       // lane l finds itself in row l % 10
    c = run(warp, search, result.get(), haystack.get(), 16);
    expect("search with break: rows 0 to 9", double(c[Counted::global_load].requests), 10);
    expect("one store behind the loop", double(c[Counted::global_store].requests), 1);
    c = run(warp, two_continues, y.get(), x.get());
    expect("two continues: 8 rounds of 2 loads, each by some lanes", double(c[Counted::global_load].requests), 16);
    expect("one store behind it", double(c[Counted::global_store].requests), 1);
    c = run(warp, calls, y.get(), x.get());
    expect("a function called from both branches: 3 rounds for odd lanes, 2 for even ones", double(c[Counted::global_load].requests), 3 + 2);
    expect("one store behind them", double(c[Counted::global_store].requests), 1);
    const Buffer<int> next(64, [](size_t i) { return i < 8 ? 0 : int(i) - 8; });
    c = run(warp, chains, result.get(), next.get());
    expect("chains: the longest loads 32, 24, 16 and 8", double(c[Counted::global_load].requests), 4);
    expect("one store behind them", double(c[Counted::global_store].requests), 1);
    c = run(warp, cases, y.get(), x.get());
    expect("switch: 4 loads, the last by lanes of cases 2 and 3", double(c[Counted::global_load].requests), 4);
    expect("and those lanes", double(c[Counted::global_load].lanes), 8 + 8 + 8 + 16);
    expect("one store behind it", double(c[Counted::global_store].requests), 1);
    c = run(warp, half_shuffles, y.get(), x.get());
    expect("a shuffle of half the warp: loads before and behind by all", double(c[Counted::global_load].requests), 2);
    expect("one shuffle", double(c[Counted::shuffle].requests), 1);
    expect("of 16 lanes", double(c[Counted::shuffle].lanes), 16);
    expect("one store", double(c[Counted::global_store].requests), 1);
    c = run({{3}, {64}}, early_exit, y.get(), x.get());
    expect("exits: a load per block", double(c[Counted::global_load].requests), 3);
    expect("exits: 16 lanes each", double(c[Counted::global_load].lanes), 48);
    expect("exits: a barrier by the one warp that is left", double(c[Counted::barrier].requests), 3);
}

// ---- arithmetic
__global__ void products(float* y, int times) {
    float d[4] = {};
    const uint32_t a[4] = {}, b[2] = {};
    for (int k = 0; k < times; k++) kernels::mma_bf16(d, a, b);
    y[threadIdx.x] = d[0];
}
__global__ void exponentials(float* y, const float* x) {
    const int i = int(threadIdx.x);
    float v = x[i];
    for (int k = 0; k < i / 8; k++) v = expf(-v);           // up to 3 rounds
    y[i] = v;
}
__global__ void warp_sums(float* y, const float* x) { y[threadIdx.x] = kernels::warp_reduce(x[threadIdx.x], kernels::Sum()); }
void arithmetic() {
    const Buffer<float> x = ones(64), y(64);
    Counters c = run({{1}, {32}}, products, y.get(), 5);
    expect("mma.sync", double(c[Counted::mma].requests), 5);
    expect("their flops: 2 x 16 x 8 x 16 each", c.tensor_flops, 5 * 4096);
    expect("of which Work said 1000 are useful", c.flops / c.tensor_flops, 1000.0 / 20480);
    c = run({{1}, {32}}, exponentials, y.get(), x.get());
    expect("exponentials: as often as the longest lane", double(c[Counted::special].requests), 3);
    expect("by 24, 16 and 8 lanes", double(c[Counted::special].lanes), 48);
    c = run({{1}, {64}}, warp_sums, y.get(), x.get());
    expect("a sum over a warp: 5 shuffles each", double(c[Counted::shuffle].requests), 2 * 5);
}

// ---- what wgmma and TMA will report: here a thread does, in their place
__global__ void reports(const float* x) {
    if (threadIdx.x) return;
    emu::count_tensor(Counted::wgmma, 2.0 * 64 * 128 * 16, (64 + 128) * 16 * 2, emu::Site::here());
    emu::count_bulk(uintptr_t(x + 1), 128, false, emu::Site::here());
    emu::count_wavefronts(Counted::shared_copy, 128, emu::Site::here());
}
void hooks() {
    const Buffer<float> x = ones(64);
    const Counters c = run({{2}, {128}}, reports, x.get());
    expect("wgmma: one per block", double(c[Counted::wgmma].requests), 2);
    expect("wgmma: flops of 64 x 128 x 16", c.tensor_flops, 2 * 2.0 * 64 * 128 * 16);
    expect("wgmma: 6144 bytes of operands, 128 per wavefront", double(c[Counted::wgmma].wavefronts), 2 * 48);
    expect("TMA: 128 bytes from an odd float on", double(c[Counted::global_copy].sectors), 2 * 5);
    expect("TMA: of which 4 would do", double(c[Counted::global_copy].ideal_sectors), 2 * 4);
    expect("TMA: 128 bytes of shared memory", double(c[Counted::shared_copy].wavefronts), 2);
    expect("TMA: unique bytes", double(c.unique_read), 128);
}

// ---- by line
void by_line() {
    const Buffer<float> x = ones(64 * 64), y(64 * 64);
    const Counters c = run({{2, 2}, {32, 8}}, transpose_tile<0>, y.get(), x.get(), 64);
    const std::vector<emu::LineCounters> lines = c.lines();
    double shared = 0, global = 0, in_this_file = 0;
    for (const emu::LineCounters& l : lines) shared += double(l.traffic.wavefronts), global += double(l.traffic.sectors), in_this_file += l.line.starts_with("counted.cu:");
    expect("lines' wavefronts are the kernel's", shared, double(c.shared().wavefronts));
    expect("lines' sectors are the kernel's", global, double(c.global().sectors));
    expect("a load and a store on each of two lines, and a barrier", double(lines.size()), 5);
    expect("all of this file", in_this_file, 5);
    expect("the costliest is the column's load: 128 x 32 wavefronts", double(lines[0].traffic.wavefronts), 128 * 32);
    expect("the kernel has its name", c.kernel() == "transpose_tile<0>", 1);
}

}

std::vector<Known> known_counters() {
    all.clear();
    global_memory();
    shared_memory();
    divergence();
    arithmetic();
    hooks();
    by_line();
    return all;
}

}
#endif
