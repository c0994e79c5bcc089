// All that kernel code includes. The same names twice: for nvcc, where a wrapper is one PTX instruction, and for g++, where it
// is that instruction's model in the emulator (kernels/emu). Kernels hold no inline PTX, no <<<>>> and no extern __shared__.
//
// A file kernels/cuda/<op>.cu puts its code into namespace merv::kernels::MERV_GPU: cuda for nvcc; emu_fast, emu_checked and
// emu_counted for g++ (docs/emulator.md).
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include "core/profile.h"
#include "core/tensor.h"

#ifdef __CUDACC__
#include <cmath>
#include <utility>
#include "kernels/cuda/host/stream.h"
#define MERV_SITE int site = 0
#else
#include "kernels/emu/cuda.h"
#ifdef MERV_EMULATED_RUNTIME
#include "kernels/emu/runtime/submit.h"
#endif
#endif
#define MERV_DEVICE __device__ __forceinline__
#ifndef BUG                                     // -DBUG=n: the n-th of the faults in tests/test_bugs.cpp, for learning what finds it
#define BUG 0
#endif

namespace merv::kernels {

namespace MERV_GPU { template <class Args> void run(const Args&); }

using merv::Work;
struct Grid {
    dim3 grid, block;
    size_t smem = 0;                            // bytes of dynamic shared memory
    dim3 cluster = {1, 1, 1};                   // blocks; more than one on sm_90
};

#ifdef __CUDACC__

// ---- nvcc

struct LaunchSite {
    Work work;
    const char* file;
    int line;
    LaunchSite(Work w, const char* f = __builtin_FILE(), int l = __builtin_LINE()) : work(w), file(f), line(l) {}
};
template <class... P, class... A> void launch(LaunchSite at, Grid g, void (*kernel)(P...), A&&... arguments) {
    profile::count_launch();
    const LaunchPlace place{at.work.name, at.file, at.line};
    if (g.smem > 48 * 1024) launched(place, cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, int(g.smem)));
    cudaLaunchConfig_t c{};
    c.gridDim = g.grid, c.blockDim = g.block, c.dynamicSmemBytes = g.smem, c.stream = current_stream();
    cudaLaunchAttribute cluster{};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {g.cluster.x, g.cluster.y, g.cluster.z};
    if (g.cluster.x * g.cluster.y * g.cluster.z > 1) c.attrs = &cluster, c.numAttrs = 1;
    launched(place, cudaLaunchKernelEx(&c, kernel, P(std::forward<A>(arguments))...));
}

#define DYN_SMEM(name) \
    extern __shared__ __align__(1024) unsigned char name##_bytes[]; \
    unsigned char* name = name##_bytes

MERV_DEVICE uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

MERV_DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#define MERV_LDMATRIX(name, n, trans, outputs, list) \
    MERV_DEVICE void name(uint32_t (&r)[n], const void* row) { \
        asm volatile("ldmatrix.sync.aligned.m8n8.x" #n trans ".shared.b16 " list ", [%" #n "];" : outputs : "r"(shared_address(row)) : "memory"); \
    }
#define MERV_COMMA ,
#define MERV_OUT1 "=r"(r[0])
#define MERV_OUT2 MERV_OUT1 MERV_COMMA "=r"(r[1])
#define MERV_OUT4 MERV_OUT2 MERV_COMMA "=r"(r[2]) MERV_COMMA "=r"(r[3])
MERV_LDMATRIX(ldmatrix_x1, 1, "", MERV_OUT1, "{%0}")
MERV_LDMATRIX(ldmatrix_x2, 2, "", MERV_OUT2, "{%0, %1}")
MERV_LDMATRIX(ldmatrix_x4, 4, "", MERV_OUT4, "{%0, %1, %2, %3}")
MERV_LDMATRIX(ldmatrix_x1_trans, 1, ".trans", MERV_OUT1, "{%0}")
MERV_LDMATRIX(ldmatrix_x2_trans, 2, ".trans", MERV_OUT2, "{%0, %1}")
MERV_LDMATRIX(ldmatrix_x4_trans, 4, ".trans", MERV_OUT4, "{%0, %1, %2, %3}")

template <int bytes> MERV_DEVICE void cp_async(void* shared, const void* global, int valid = bytes) {      // the rest is zero
    if constexpr (bytes == 16) asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(valid) : "memory");
    else asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(valid), "n"(bytes) : "memory");
}
MERV_DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int pending> MERV_DEVICE void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory"); }

MERV_DEVICE void named_barrier_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
MERV_DEVICE void named_barrier_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

MERV_DEVICE uint32_t load_acquire(const uint32_t* p) {
    uint32_t v;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}
MERV_DEVICE void store_release(uint32_t* p, uint32_t v) { asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory"); }
template <class F> MERV_DEVICE void spin_until(F&& come) { while (!come()) __nanosleep(20); }

MERV_DEVICE uint32_t pack_bf16(float low, float high) {          // rounds to nearest even
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}
MERV_DEVICE void trap_unless(bool holds, const char*) { if (!holds) __trap(); }

#else

// ---- g++: the emulator

#ifndef MERV_EMU_MODE                           // of this compilation: fast, checked or counted
#define MERV_EMU_MODE fast
#endif

struct LaunchSite {
    Work work;
    emu::Site site;
    LaunchSite(Work w, emu::Site s = emu::Site::here()) : work(w), site(s) {}
};
template <class... P> struct KernelCall {
    void (*kernel)(P...);
    std::tuple<std::decay_t<P>...> arguments;
    MERV_UNCHECKED static void run(void* self) {
        auto* c = static_cast<KernelCall*>(self);
        std::apply(c->kernel, c->arguments);
    }
};
template <class... P, class... A> void launch(LaunchSite at, Grid g, void (*kernel)(P...), A&&... arguments) {
    profile::count_launch();
    KernelCall<P...> call{kernel, {P(std::forward<A>(arguments))...}};
    auto run = [=]() mutable {
        emu::run({at.work.name, at.work.bytes, at.work.flops, at.site, g.grid, g.block, g.smem, emu::Mode::MERV_EMU_MODE, KernelCall<P...>::run, &call, sizeof call, reinterpret_cast<const void*>(kernel), g.cluster});
    };
#ifdef MERV_EMULATED_RUNTIME                    // as Device::cuda: queued in a stream (kernels/emu/runtime)
    emulated_runtime::submit_kernel(at.work.name, at.site.file, at.site.line, run);
#else
    run();
#endif
}

#define DYN_SMEM(name) unsigned char* name = ::merv::emu::dynamic_shared()

MERV_DEVICE uint32_t shared_address(const void* p, MERV_SITE) { return emu::shared_address(p, site); }

MERV_DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], MERV_SITE) {
    emu::Mma m{d, a, b};
    emu::warp(emu::WarpOp::mma, ~0u, &m, site);
}
#define MERV_LDMATRIX(name, n, trans) \
    MERV_DEVICE void name(uint32_t (&r)[n], const void* row, MERV_SITE) { \
        emu::Ldmatrix l{r, row, n, trans}; \
        emu::warp(emu::WarpOp::ldmatrix, ~0u, &l, site); \
    }
MERV_LDMATRIX(ldmatrix_x1, 1, false)
MERV_LDMATRIX(ldmatrix_x2, 2, false)
MERV_LDMATRIX(ldmatrix_x4, 4, false)
MERV_LDMATRIX(ldmatrix_x1_trans, 1, true)
MERV_LDMATRIX(ldmatrix_x2_trans, 2, true)
MERV_LDMATRIX(ldmatrix_x4_trans, 4, true)

template <int bytes> inline void cp_async(void* shared, const void* global, int valid = bytes, MERV_SITE) { emu::cp_async(shared, global, bytes, valid, site); }
MERV_DEVICE void cp_async_commit() { emu::cp_async_commit(); }
template <int pending> inline void cp_async_wait(MERV_SITE) { emu::cp_async_wait(pending, site); }

MERV_DEVICE void named_barrier_sync(int id, int threads, MERV_SITE) { emu::barrier(id, threads, true, site); }
MERV_DEVICE void named_barrier_arrive(int id, int threads, MERV_SITE) { emu::barrier(id, threads, false, site); }

MERV_UNCHECKED inline uint32_t load_acquire(const uint32_t* p, MERV_SITE) {
    emu::synchronising(p, sizeof *p, emu::Semantics::acquire, site);
    return *p;
}
MERV_UNCHECKED inline void store_release(uint32_t* p, uint32_t v, MERV_SITE) {
    emu::synchronising(p, sizeof *p, emu::Semantics::release, site);
    *p = v;
}
template <class F> inline void spin_until(F&& come, MERV_SITE) {
    while (!come()) emu::spin(site);
    emu::spun();
}

inline uint32_t pack_bf16(float low, float high) { return uint32_t(bf16(low).bits) | uint32_t(bf16(high).bits) << 16; }
MERV_DEVICE void trap_unless(bool holds, const char* what, MERV_SITE) { if (!holds) emu::trap(what, site); }

#endif

#if defined(__CUDACC__) || defined(MERV_EMULATED_RUNTIME)
constexpr Device kDevice = Device::cuda;
#else
constexpr Device kDevice = Device::emu;
#endif
template <class T> T* at(const Tensor& t) { return t.pointer<T>(kDevice); }     // null for "no tensor"

// n values that lie together, moved as one where they fill 4, 8 or 16 bytes, as two where they fill 32; p must be a multiple of 4, 8 or 16.
template <class T, int n> struct alignas(sizeof(T) * n < 16 ? sizeof(T) * n : 16) Pack { T v[n]; };
template <int n, class T> MERV_DEVICE void load(float (&to)[n], const T* p) {
    const Pack<T, n> pack = *reinterpret_cast<const Pack<T, n>*>(p);
    for (int i = 0; i < n; i++) to[i] = float(pack.v[i]);
}
template <int n, class T> MERV_DEVICE void store(T* p, const float (&from)[n]) {
    Pack<T, n> pack;
    for (int i = 0; i < n; i++) pack.v[i] = T(from[i]);
    *reinterpret_cast<Pack<T, n>*>(p) = pack;
}
// The most elements per access that all these addresses and the row length allow: 16 bytes of the widest type at best.
template <class... T> int vector_width(int64_t row, T*... p) {
    const int widest = int(std::max({sizeof(T)...}));
    int n = 16 / widest;
    auto fits = [&] { return row % n == 0 && ((uintptr_t(p) % (size_t(n) * sizeof(T)) == 0) && ...); };
    while (n > 1 && !fits()) n /= 2;
    return n;
}
template <class F> void with_width(int n, F&& f) {      // f.operator()<n>()
    if (n == 8) f.template operator()<8>();
    else if (n == 4) f.template operator()<4>();
    else if (n == 2) f.template operator()<2>();
    else f.template operator()<1>();
}

// The widest access of rows in `row` of elements where tables lie beside them, which may be of a wider type and then take two accesses.
template <class T> int limit_width(int n, int64_t row, const T* table) {
    const int w = vector_width(row, table);
    return w < int(16 / sizeof(T)) ? std::min(n, w) : n;
}

// ---- over the threads of a row: threadIdx.x, one warp or, where blockDim.x is more, the whole block. In a fixed order.
struct Sum { MERV_DEVICE float operator()(float a, float b) const { return a + b; } };
struct Max { MERV_DEVICE float operator()(float a, float b) const { return a > b || a != a ? a : b; } };      // NaN shows
template <class F> MERV_DEVICE float warp_reduce(float v, F f) {
    for (int x = 16; x; x /= 2) v = f(v, __shfl_xor_sync(~0u, v, x));
    return v;
}
namespace MERV_GPU {                            // where the emulator looks for shared memory
namespace {
template <class F> MERV_DEVICE float row_reduce(float v, F f) {
    __shared__ float part[32];
    v = warp_reduce(v, f);
    if (blockDim.x == 32) return v;
    if (BUG != 1) __syncthreads();              // the last reduction's parts have been read
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    if (BUG != 2) __syncthreads();
    v = part[0];
    for (unsigned i = 1; i < blockDim.x / 32; i++) v = f(v, part[i]);
    return v;
}
}
}
// A row of C elements in the registers of its threads, k packs of n each: f(pack, its first column).
template <int k, int n, class F> MERV_DEVICE void each_pack(float (&v)[k][n], int C, F&& f) {
#pragma unroll
    for (int p = 0; p < k; p++)
        if (const int c = (p * int(blockDim.x) + int(threadIdx.x)) * n; c < C) f(v[p], c);
}
// Threads of a row that keep `keep` elements each, and rows of a block: a warp per narrow row, 4 of them
inline dim3 row_block(int64_t C, int keep) {
    unsigned threads = 32;
    while (int64_t(threads) * keep < C) threads *= 2;
    return {threads, threads == 32 ? 4u : 1u};
}
inline unsigned blocks_of(int64_t items, int64_t per_block) { return unsigned((items + per_block - 1) / per_block); }
inline Grid pack_per_thread(int64_t rows, int64_t C, int n, int threads) { return {{blocks_of(rows * (C / n), threads)}, {unsigned(threads)}}; }

MERV_DEVICE float low_bf16(uint32_t pair) { return __uint_as_float(pair << 16); }
MERV_DEVICE float high_bf16(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

}

#include "kernels/gpu_hopper.h"
