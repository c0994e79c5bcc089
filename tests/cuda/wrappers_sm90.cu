// Every instruction of kernels/gpu_hopper.h once, for make cuda-check: ptxas reads what no kernel uses yet. Not a kernel to run.
#include "kernels/gpu.h"

namespace merv::kernels::MERV_GPU {

__global__ void copies(TENSOR_MAP map2, TENSOR_MAP map3, float* y, bf16* h) {
    __shared__ __align__(8) uint64_t bar;
    DYN_SMEM(bytes);
    mbarrier_init(&bar, 1);
    fence_mbarrier_init();
    mbarrier_expect_tx(&bar, 64);
    mbarrier_arrive_expect_tx(&bar, 64);
    mbarrier_arrive(&bar);
    mbarrier_arrive_remote(&bar, 1);
    tma_load_2d(bytes, map2, &bar, 0, 0);
    tma_load_3d(bytes, map3, &bar, 0, 0, 0);
    tma_load_2d_multicast(bytes, map2, &bar, 0, 0, 3);
    bulk_load(bytes, y, 64, &bar);
    mbarrier_wait(&bar, 0);
    fence_proxy_async();
    fence_proxy_async_all();
    tma_store_2d(map2, bytes, 0, 0);
    tma_store_3d(map3, bytes, 0, 0, 0);
    bulk_store(y, bytes, 64);
    bulk_add(y, reinterpret_cast<float*>(bytes), 64);
    bulk_add(h, reinterpret_cast<bf16*>(bytes), 64);
    bulk_commit();
    bulk_wait_read<1>();
    bulk_wait<0>();
    cluster_arrive();
    cluster_wait();
    y[cluster_rank()] = *cluster_map(reinterpret_cast<float*>(bytes), cluster_size() - 1);
    mbarrier_inval(&bar);
}

template <int N, bool trans_a, bool trans_b> __global__ void __launch_bounds__(128, 1) products(float* y, uint64_t a, uint64_t b, uint32_t r) {
    float d[N / 2];
    const uint32_t ra[4] = {r, r + 1, r + 2, r + 3};
    wgmma_fence();
    wgmma_bf16<N, trans_a, trans_b>(d, a, b, false);
    wgmma_bf16<N, trans_b>(d, ra, b);
    wgmma_commit();
    wgmma_wait<0>();
    for (int i = 0; i < N / 2; i++) y[i * 128 + int(threadIdx.x)] = d[i];
}
template __global__ void products<32, false, false>(float*, uint64_t, uint64_t, uint32_t);
template __global__ void products<64, true, false>(float*, uint64_t, uint64_t, uint32_t);
template __global__ void products<96, false, true>(float*, uint64_t, uint64_t, uint32_t);
template __global__ void products<128, true, true>(float*, uint64_t, uint64_t, uint32_t);
template __global__ void products<192, false, false>(float*, uint64_t, uint64_t, uint32_t);
template __global__ void products<256, false, true>(float*, uint64_t, uint64_t, uint32_t);

}
