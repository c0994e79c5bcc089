// What kernels may use on sm_90a besides kernels/gpu.h, which includes this: mbarriers, TMA, wgmma, clusters. Kernels of files *_sm90.cu only.
#pragma once

// A tensor as TMA sees it: a kernel's parameter TENSOR_MAP name, made by tensor_map() on the host.
#ifdef __CUDACC__
#include <cuda.h>
namespace merv::kernels { using TensorMap = CUtensorMap; }
#define TENSOR_MAP const __grid_constant__ ::merv::kernels::TensorMap
#else
namespace merv::kernels { using TensorMap = emu::TensorMap; }
#define TENSOR_MAP const ::merv::kernels::TensorMap&       // not a copy: it must lie among the kernel's arguments
#endif

namespace merv::kernels {

// Dimensions run from the innermost, whose elements are contiguous. A box is what one instruction moves; it lies in shared memory row
// by row, in rows of box[0] elements.
struct TensorLayout {
    int rank = 2;                               // 2 or 3
    uint64_t size[3] = {1, 1, 1};               // elements
    uint64_t stride[3] = {};                    // bytes, of dimensions 1 and 2
    uint32_t box[3] = {1, 1, 1};                // elements, up to 256 each
    int swizzle = 0;                            // bytes: 0, 32, 64 or 128; not 0: a box's row is as long
};

// ---- shared-memory matrices of wgmma
//
// K-major: rows of 8 elements (swizzle 0) or of `swizzle` bytes lie in groups of 8 rows; `stride` bytes from group to group, `leading` from one
// 8 elements of k to the next (swizzle 0 only). MN-major: `stride` bytes from 8 k to the next 8, `leading` from one width of the swizzle to
// the next; for swizzle 0 the other way round. The address is aligned to 8 * swizzle, but may start 32 bytes * i into a K-major row.
MERV_DEVICE uint64_t matrix_bits(uint32_t address, uint32_t leading, uint32_t stride, int swizzle) {
    const uint64_t mode = swizzle == 128 ? 1 : swizzle == 64 ? 2 : swizzle == 32 ? 3 : 0;
    return uint64_t(address >> 4 & 0x3fff) | uint64_t(leading >> 4 & 0x3fff) << 16 | uint64_t(stride >> 4 & 0x3fff) << 32 | mode << 62;
}

#ifdef __CUDACC__

// ---- nvcc

template <class T> TensorMap tensor_map(const T* base, const TensorLayout& l) {
    static void* encode = [] {
        void* f = nullptr;
        cudaDriverEntryPointQueryResult found;
        if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &found) != cudaSuccess || !f) fail(Exit::device, "the driver has no cuTensorMapEncodeTiled");
        return f;
    }();
    TensorMap m;
    const cuuint64_t size[3] = {l.size[0], l.size[1], l.size[2]}, stride[2] = {l.stride[1], l.stride[2]};
    const cuuint32_t box[3] = {l.box[0], l.box[1], l.box[2]}, step[3] = {1, 1, 1};
    const CUtensorMapSwizzle swizzle = l.swizzle == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : l.swizzle == 64 ? CU_TENSOR_MAP_SWIZZLE_64B : l.swizzle == 32 ? CU_TENSOR_MAP_SWIZZLE_32B : CU_TENSOR_MAP_SWIZZLE_NONE;
    const CUresult result = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(encode)(&m, sizeof(T) == 2 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT32, cuuint32_t(l.rank),
        const_cast<void*>(static_cast<const void*>(base)), size, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS) fail(Exit::device, "a tensor map was refused: CUDA error ", int(result));
    return m;
}

MERV_DEVICE void mbarrier_init(uint64_t* b, uint32_t arrivals) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals) : "memory"); }
MERV_DEVICE void mbarrier_inval(uint64_t* b) { asm volatile("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(shared_address(b)) : "memory"); }
MERV_DEVICE void mbarrier_arrive(uint64_t* b) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory"); }
MERV_DEVICE void mbarrier_expect_tx(uint64_t* b, uint32_t bytes) { asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory"); }
MERV_DEVICE void mbarrier_arrive_expect_tx(uint64_t* b, uint32_t bytes) { asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory"); }
MERV_DEVICE void mbarrier_arrive_remote(uint64_t* b, uint32_t rank) {       // at the same barrier of another block of the cluster
    asm volatile("{ .reg .b32 a; mapa.shared::cluster.u32 a, %0, %1; mbarrier.arrive.release.cluster.shared::cluster.b64 _, [a]; }" ::"r"(shared_address(b)), "r"(rank) : "memory");
}
MERV_DEVICE bool mbarrier_try_wait(uint64_t* b, uint32_t parity) {
    uint32_t done;
    asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }" : "=r"(done) : "r"(shared_address(b)), "r"(parity) : "memory");
    return done;
}
MERV_DEVICE void mbarrier_wait(uint64_t* b, uint32_t parity) { while (!mbarrier_try_wait(b, parity)) {} }
MERV_DEVICE void fence_mbarrier_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
MERV_DEVICE void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
MERV_DEVICE void fence_proxy_async_all() { asm volatile("fence.proxy.async;" ::: "memory"); }

MERV_DEVICE void tma_load_2d(void* to, const TensorMap& m, uint64_t* b, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
                 ::"r"(shared_address(to)), "l"(&m), "r"(shared_address(b)), "r"(x), "r"(y) : "memory");
}
MERV_DEVICE void tma_load_3d(void* to, const TensorMap& m, uint64_t* b, int x, int y, int z) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];"
                 ::"r"(shared_address(to)), "l"(&m), "r"(shared_address(b)), "r"(x), "r"(y), "r"(z) : "memory");
}
MERV_DEVICE void tma_load_2d_multicast(void* to, const TensorMap& m, uint64_t* b, int x, int y, uint16_t blocks) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;"
                 ::"r"(shared_address(to)), "l"(&m), "r"(shared_address(b)), "r"(x), "r"(y), "h"(blocks) : "memory");
}
MERV_DEVICE void tma_store_2d(const TensorMap& m, const void* from, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&m), "r"(shared_address(from)), "r"(x), "r"(y) : "memory");
}
MERV_DEVICE void tma_store_3d(const TensorMap& m, const void* from, int x, int y, int z) {
    asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(&m), "r"(shared_address(from)), "r"(x), "r"(y), "r"(z) : "memory");
}
MERV_DEVICE void bulk_load(void* to, const void* from, uint32_t bytes, uint64_t* b) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(to)), "l"(from), "r"(bytes), "r"(shared_address(b)) : "memory");
}
MERV_DEVICE void bulk_store(void* to, const void* from, uint32_t bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(shared_address(from)), "r"(bytes) : "memory");
}
MERV_DEVICE void bulk_add(float* to, const float* from, uint32_t bytes) {
    asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(to), "r"(shared_address(from)), "r"(bytes) : "memory");
}
MERV_DEVICE void bulk_add(bf16* to, const bf16* from, uint32_t bytes) {
    asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.noftz.bf16 [%0], [%1], %2;" ::"l"(to), "r"(shared_address(from)), "r"(bytes) : "memory");
}
MERV_DEVICE void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
template <int pending> MERV_DEVICE void bulk_wait() { asm volatile("cp.async.bulk.wait_group %0;" ::"n"(pending) : "memory"); }
template <int pending> MERV_DEVICE void bulk_wait_read() { asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(pending) : "memory"); }

MERV_DEVICE uint64_t matrix(const void* p, uint32_t leading, uint32_t stride, int swizzle) { return matrix_bits(shared_address(p), leading, stride, swizzle); }
MERV_DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
MERV_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int pending> MERV_DEVICE void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory"); }

// wgmma m64nNk16: operands are N / 2 registers, then those of A and B. One function per N: PTX spells every register out.
template <int N> struct Wgmma;
#define MERV_D8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define MERV_D16(i) MERV_D8(i), MERV_D8(i + 8)
#define MERV_D32(i) MERV_D16(i), MERV_D16(i + 16)
#define MERV_D64(i) MERV_D32(i), MERV_D32(i + 32)
#define MERV_L16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define MERV_L32 MERV_L16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define MERV_L48 MERV_L32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define MERV_L64 MERV_L48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define MERV_L96 MERV_L64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79" \
                          ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define MERV_L128 MERV_L96 ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" \
                           ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define MERV_WGMMA(n, list, p0, p1, p2, p3, p4, p5, p6, ...) \
    template <> struct Wgmma<n> { \
        template <int ta, int tb> static MERV_DEVICE void shared(float (&d)[n / 2], uint64_t a, uint64_t b, int accumulate) { \
            asm volatile("{ .reg .pred p; setp.ne.b32 p, %" #p2 ", 0; wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" list "}, %" #p0 ", %" #p1 ", p, 1, 1, %" #p3 ", %" #p4 "; }" \
                         : __VA_ARGS__ : "l"(a), "l"(b), "r"(accumulate), "n"(ta), "n"(tb) : "memory"); \
        } \
        template <int tb> static MERV_DEVICE void registers(float (&d)[n / 2], const uint32_t (&a)[4], uint64_t b, int accumulate) { \
            asm volatile("{ .reg .pred p; setp.ne.b32 p, %" #p5 ", 0; wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" list "}, {%" #p0 ", %" #p1 ", %" #p2 ", %" #p3 "}, %" #p4 ", p, 1, 1, %" #p6 "; }" \
                         : __VA_ARGS__ : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(tb) : "memory"); \
        } \
    };
MERV_WGMMA(32, MERV_L16, 16, 17, 18, 19, 20, 21, 22, MERV_D16(0))
MERV_WGMMA(64, MERV_L32, 32, 33, 34, 35, 36, 37, 38, MERV_D32(0))
MERV_WGMMA(96, MERV_L48, 48, 49, 50, 51, 52, 53, 54, MERV_D32(0), MERV_D16(32))
MERV_WGMMA(128, MERV_L64, 64, 65, 66, 67, 68, 69, 70, MERV_D64(0))
MERV_WGMMA(192, MERV_L96, 96, 97, 98, 99, 100, 101, 102, MERV_D64(0), MERV_D32(64))
MERV_WGMMA(256, MERV_L128, 128, 129, 130, 131, 132, 133, 134, MERV_D64(0), MERV_D64(64))

template <int N, bool trans_a = false, bool trans_b = false> MERV_DEVICE void wgmma_bf16(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate = true) {
    Wgmma<N>::template shared<trans_a, trans_b>(d, a, b, accumulate);
}
template <int N, bool trans_b = false> MERV_DEVICE void wgmma_bf16(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate = true) {
    Wgmma<N>::template registers<trans_b>(d, a, b, accumulate);
}
template <int count> MERV_DEVICE void setmaxnreg_inc() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count)); }
template <int count> MERV_DEVICE void setmaxnreg_dec() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count)); }

MERV_DEVICE uint32_t cluster_rank() {
    uint32_t r;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
}
MERV_DEVICE uint32_t cluster_size() {
    uint32_t n;
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(n));
    return n;
}
MERV_DEVICE void cluster_arrive() { asm volatile("barrier.cluster.arrive.release;" ::: "memory"); }
MERV_DEVICE void cluster_wait() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }
template <class T> MERV_DEVICE T* cluster_map(T* p, uint32_t rank) {     // the same variable of another block, for loads and stores
    uint64_t q;
    asm volatile("mapa.u64 %0, %1, %2;" : "=l"(q) : "l"(p), "r"(rank));
    return reinterpret_cast<T*>(q);
}

#else

// ---- g++: the emulator

template <class T> TensorMap tensor_map(const T* base, const TensorLayout& l) {
    TensorMap m{reinterpret_cast<char*>(const_cast<T*>(base)), sizeof(T), l.rank, l.swizzle};
    for (int i = 0; i < 3; i++) m.size[i] = l.size[i], m.stride[i] = l.stride[i], m.box[i] = l.box[i];
    emu::check(m);
    return m;
}

MERV_DEVICE void mbarrier_init(uint64_t* b, uint32_t arrivals, MERV_SITE) { emu::mbarrier_init(b, arrivals, site); }
MERV_DEVICE void mbarrier_inval(uint64_t* b, MERV_SITE) { emu::mbarrier_inval(b, site); }
MERV_DEVICE void mbarrier_arrive(uint64_t* b, MERV_SITE) { emu::mbarrier_arrive(b, 0, true, site); }
MERV_DEVICE void mbarrier_expect_tx(uint64_t* b, uint32_t bytes, MERV_SITE) { emu::mbarrier_arrive(b, bytes, false, site); }
MERV_DEVICE void mbarrier_arrive_expect_tx(uint64_t* b, uint32_t bytes, MERV_SITE) { emu::mbarrier_arrive(b, bytes, true, site); }
MERV_DEVICE void mbarrier_arrive_remote(uint64_t* b, uint32_t rank, MERV_SITE) { emu::mbarrier_arrive(static_cast<uint64_t*>(emu::cluster_map(b, rank, site)), 0, true, site); }
MERV_DEVICE bool mbarrier_try_wait(uint64_t* b, uint32_t parity, MERV_SITE) {
    if (emu::mbarrier_test(b, parity, site)) return true;
    emu::spin(site);
    return emu::mbarrier_test(b, parity, site);
}
MERV_DEVICE void mbarrier_wait(uint64_t* b, uint32_t parity, MERV_SITE) { emu::mbarrier_wait(b, parity, site); }
MERV_DEVICE void fence_mbarrier_init() { emu::fence_mbarriers(); }
MERV_DEVICE void fence_proxy_async() { emu::fence_async(); }
MERV_DEVICE void fence_proxy_async_all() { emu::fence_async(); }

MERV_DEVICE void tma_load_2d(void* to, const TensorMap& m, uint64_t* b, int x, int y, MERV_SITE) { emu::tma_load(to, &m, b, {2, {x, y, 0}}, 0, site); }
MERV_DEVICE void tma_load_3d(void* to, const TensorMap& m, uint64_t* b, int x, int y, int z, MERV_SITE) { emu::tma_load(to, &m, b, {3, {x, y, z}}, 0, site); }
MERV_DEVICE void tma_load_2d_multicast(void* to, const TensorMap& m, uint64_t* b, int x, int y, uint16_t blocks, MERV_SITE) { emu::tma_load(to, &m, b, {2, {x, y, 0}}, blocks, site); }
MERV_DEVICE void tma_store_2d(const TensorMap& m, const void* from, int x, int y, MERV_SITE) { emu::tma_store(&m, from, {2, {x, y, 0}}, site); }
MERV_DEVICE void tma_store_3d(const TensorMap& m, const void* from, int x, int y, int z, MERV_SITE) { emu::tma_store(&m, from, {3, {x, y, z}}, site); }
MERV_DEVICE void bulk_load(void* to, const void* from, uint32_t bytes, uint64_t* b, MERV_SITE) { emu::bulk_load(to, from, bytes, b, site); }
MERV_DEVICE void bulk_store(void* to, const void* from, uint32_t bytes, MERV_SITE) { emu::bulk_store(to, from, bytes, 0, site); }
MERV_DEVICE void bulk_add(float* to, const float* from, uint32_t bytes, MERV_SITE) { emu::bulk_store(to, from, bytes, 4, site); }
MERV_DEVICE void bulk_add(bf16* to, const bf16* from, uint32_t bytes, MERV_SITE) { emu::bulk_store(to, from, bytes, 2, site); }
MERV_DEVICE void bulk_commit() { emu::bulk_commit(); }
template <int pending> inline void bulk_wait(MERV_SITE) { emu::bulk_wait(pending, false, site); }
template <int pending> inline void bulk_wait_read(MERV_SITE) { emu::bulk_wait(pending, true, site); }

MERV_DEVICE uint64_t matrix(const void* p, uint32_t leading, uint32_t stride, int swizzle, MERV_SITE) { return matrix_bits(emu::matrix_address(p, leading, stride, site), leading, stride, swizzle); }
MERV_DEVICE void wgmma_fence(MERV_SITE) { emu::wgmma_fence(site); }
MERV_DEVICE void wgmma_commit(MERV_SITE) { emu::wgmma_commit(site); }
template <int pending> inline void wgmma_wait(MERV_SITE) { emu::wgmma_wait(pending, site); }
template <int N, bool trans_a = false, bool trans_b = false> inline void wgmma_bf16(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate = true, MERV_SITE) {
    emu::wgmma({d, N, nullptr, a, b, accumulate, trans_a, trans_b}, site);
}
template <int N, bool trans_b = false> inline void wgmma_bf16(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate = true, MERV_SITE) {
    emu::wgmma({d, N, a, 0, b, accumulate, false, trans_b}, site);
}
template <int count> inline void setmaxnreg_inc(MERV_SITE) { emu::limit_registers(count, site); }
template <int count> inline void setmaxnreg_dec(MERV_SITE) { emu::limit_registers(count, site); }

MERV_DEVICE uint32_t cluster_rank() { return emu::cluster_rank(); }
MERV_DEVICE uint32_t cluster_size() { return emu::cluster_size(); }
MERV_DEVICE void cluster_arrive(MERV_SITE) { emu::cluster_arrive(site); }
MERV_DEVICE void cluster_wait(MERV_SITE) { emu::cluster_wait(site); }
template <class T> inline T* cluster_map(T* p, uint32_t rank, MERV_SITE) { return static_cast<T*>(emu::cluster_map(p, rank, site)); }

#endif

}
