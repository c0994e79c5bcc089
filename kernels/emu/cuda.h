// What CUDA and kernels/gpu.h's wrappers are under g++: included by kernels/gpu.h only. Each name calls its model in the
// emulator; the calls carry the line they stand in, which identifies a barrier or a warp operation and appears in reports.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>
#include "kernels/emu/emulator.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __restrict__ __restrict
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__
#define __shared__ static thread_local          // the thread's TLS block is the running block's static shared memory
#define __launch_bounds__(...)

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x = 1, y = 1, z = 1; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

extern uint3 threadIdx, blockIdx;               // objects: a debugger can say `break f if threadIdx.x == 3`
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace merv::emu {

// ---- warp operations: the last lane to arrive computes for all
enum class WarpOp { sync, shuffle, vote, mma, ldmatrix };
struct Shuffle { uint64_t value; int source; };
struct Vote { bool predicate; unsigned ballot; };
struct Mma { float* d; const uint32_t *a, *b; };
struct Ldmatrix { uint32_t* r; const void* row; int count; bool trans; };
void warp(WarpOp op, unsigned mask, void* lane, Site);

// ---- barriers
constexpr int kAll = -1;                        // all threads of the block
void barrier(int id, int threads, bool wait, Site);
void fence();                                   // __threadfence: what follows is seen after what came before

// ---- memory
unsigned char* dynamic_shared();
uint32_t shared_address(const void* p, Site);
void atomic_begin(const void* p, size_t bytes, Site);       // the atomic access itself is plain code between these
void atomic_end(const void* p, Site);
enum class Semantics { acquire, release };
void synchronising(const void* p, size_t bytes, Semantics, Site);
void spin(Site);                                // lets others run; called until what is waited for has come, then
void spun();

// ---- asynchronous copies
void cp_async(void* shared, const void* global, int bytes, int valid, Site);
void cp_async_commit();
void cp_async_wait(int pending, Site);
void trap(const char* what, Site);

// ---- sm_90: kernels/gpu_hopper.h says what these are
void mbarrier_init(uint64_t*, int64_t count, Site);
void mbarrier_inval(uint64_t*, Site);
void mbarrier_arrive(uint64_t*, int64_t expected_bytes, bool arrives, Site);    // also another block's of the cluster
bool mbarrier_test(uint64_t*, uint32_t parity, Site);
void mbarrier_wait(uint64_t*, uint32_t parity, Site);
void fence_mbarriers();
void fence_async();

struct alignas(64) TensorMap {                  // of 2 or 3 dimensions, innermost first
    char* base = nullptr;
    int element = 0, rank = 0, span = 0;        // bytes; of the swizzle
    uint64_t size[3] = {1, 1, 1}, stride[3] = {};       // in elements; in bytes
    uint32_t box[3] = {1, 1, 1};
};
void check(const TensorMap&);                   // throws, or reports in the scope of a Collect
struct BoxAt { int rank, c[3]; };               // coordinates of a box's first element, innermost first
void tma_load(void* shared, const TensorMap*, uint64_t* mbarrier, BoxAt, unsigned blocks, Site);       // blocks: ranks in the cluster as bits; 0: this one
void tma_store(const TensorMap*, const void* shared, BoxAt, Site);
void bulk_load(void* shared, const void* global, uint32_t bytes, uint64_t* mbarrier, Site);
void bulk_store(void* global, const void* shared, uint32_t bytes, int add, Site);   // add: 0 stores, 4 adds f32, 2 adds bf16
void bulk_commit();
void bulk_wait(int pending, bool read_only, Site);

struct Wgmma {
    float* d;
    int n;
    const uint32_t* a;                          // null: described by a_matrix
    uint64_t a_matrix, b_matrix;
    bool accumulate, trans_a, trans_b;
};
uint32_t matrix_address(const void*, uint32_t leading, uint32_t stride, Site);      // checks what a descriptor cannot say
void wgmma(const Wgmma&, Site);
void wgmma_fence(Site);
void wgmma_commit(Site);
void wgmma_wait(int pending, Site);
void limit_registers(int count, Site);          // setmaxnreg

unsigned cluster_rank(), cluster_size();
void cluster_arrive(Site);
void cluster_wait(Site);
void* cluster_map(const void* shared, unsigned rank, Site);

// ---- launch
struct Call { const char* name; double bytes, flops; Site site; dim3 grid, block; size_t smem; Mode mode; void (*run)(void*); void* arguments; size_t argument_bytes; const void* function; dim3 cluster{}; };
void run(const Call&);

inline unsigned lane() { return (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32; }

}

#define MERV_SITE ::merv::emu::Site site = ::merv::emu::Site::here()

static inline void __syncthreads(MERV_SITE) { merv::emu::barrier(0, merv::emu::kAll, true, site); }
static inline void __syncwarp(unsigned mask = ~0u, MERV_SITE) { merv::emu::warp(merv::emu::WarpOp::sync, mask, nullptr, site); }
static inline void __threadfence() { merv::emu::fence(); }

namespace merv::emu {
int shuffle_source(int source, int width, Site);        // or the lane itself, if that lies outside its segment of `width` lanes
template <class T> T shuffle(unsigned mask, T v, int source, int width, Site site) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
    Shuffle s{0, shuffle_source(source, width, site)};
    std::memcpy(&s.value, &v, sizeof v);
    warp(WarpOp::shuffle, mask, &s, site);
    std::memcpy(&v, &s.value, sizeof v);
    return v;
}
}
#define MERV_SHUFFLE(name, T2, by, source) \
    template <class T> inline T name(unsigned mask, T v, T2 by, int width = 32, MERV_SITE) { \
        const int lane = int(merv::emu::lane()); \
        return merv::emu::shuffle(mask, v, source, width, site); \
    }
MERV_SHUFFLE(__shfl_sync, int, from, (lane & ~(width - 1)) + (from & (width - 1)))
MERV_SHUFFLE(__shfl_xor_sync, int, bits, lane ^ bits)
MERV_SHUFFLE(__shfl_down_sync, unsigned, by, lane + int(by))
MERV_SHUFFLE(__shfl_up_sync, unsigned, by, lane - int(by))
static inline unsigned __ballot_sync(unsigned mask, int predicate, MERV_SITE) {
    merv::emu::Vote v{predicate != 0, 0};
    merv::emu::warp(merv::emu::WarpOp::vote, mask, &v, site);
    return v.ballot;
}
static inline int __any_sync(unsigned mask, int predicate, MERV_SITE) { return __ballot_sync(mask, predicate, site) != 0; }
static inline int __all_sync(unsigned mask, int predicate, MERV_SITE) { return __ballot_sync(mask, predicate, site) == mask; }

#define MERV_UNCHECKED __attribute__((no_sanitize("thread")))
namespace merv::emu {
template <class T, class F> MERV_UNCHECKED T atomic(T* p, F&& f, Site site) {
    atomic_begin(p, sizeof(T), site);
    T old, now;
    __builtin_memcpy(&old, p, sizeof old);
    now = f(old);
    __builtin_memcpy(p, &now, sizeof now);
    atomic_end(p, site);
    return old;
}
}
template <class T> MERV_UNCHECKED inline T atomicAdd(T* p, std::type_identity_t<T> v, MERV_SITE) { return merv::emu::atomic(p, [v](T old) { return T(old + v); }, site); }
template <class T> MERV_UNCHECKED inline T atomicMax(T* p, std::type_identity_t<T> v, MERV_SITE) { return merv::emu::atomic(p, [v](T old) { return old > v ? old : v; }, site); }
template <class T> MERV_UNCHECKED inline T atomicCAS(T* p, std::type_identity_t<T> is, std::type_identity_t<T> v, MERV_SITE) { return merv::emu::atomic(p, [=](T old) { return old == is ? v : old; }, site); }

static inline float __uint_as_float(unsigned u) { return std::bit_cast<float>(u); }
static inline unsigned __float_as_uint(float f) { return std::bit_cast<unsigned>(f); }
static inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
static inline float __fadd_rn(float a, float b) { return a + b; }       // never fused: kernels are compiled with -ffp-contract=off
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float a) { return std::sqrt(a); }
static inline float cospif(float x) { return cosf(3.141592654f * x); }
static inline int __ffs(int i) { return __builtin_ffs(i); }
#define __expf(x) expf(x)                       // the C library declares functions of these names
#define __logf(x) logf(x)
#ifdef MERV_EMU_COUNTED
namespace merv::emu { void special_function(); }
#define expf(x) (::merv::emu::special_function(), expf(x))
#define exp2f(x) (::merv::emu::special_function(), exp2f(x))
#define logf(x) (::merv::emu::special_function(), logf(x))
#define log2f(x) (::merv::emu::special_function(), log2f(x))
#define tanhf(x) (::merv::emu::special_function(), tanhf(x))
#define erff(x) (::merv::emu::special_function(), erff(x))
#define rsqrtf(x) (::merv::emu::special_function(), rsqrtf(x))
#endif
