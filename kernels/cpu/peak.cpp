#include "kernels/peak.h"
#include <omp.h>
#include "kernels/cpu/gemm.h"

namespace merv::kernels::cpu::MERV_ISA {
namespace {

constexpr int kSums = tiles().rows * 2;         // as gemm.h's register tile

template <class T> float multiply(int64_t steps) {
    volatile float seed = 1e-3f;                // unknown to the compiler, so no two sums are known to be equal
    Vec acc[kSums], x = broadcast(seed), w = broadcast(seed);
    MERV_UNROLL for (int i = 0; i < kSums; i++) acc[i] = broadcast(seed);
    for (int64_t s = 0; s < steps; s++) {
        MERV_UNROLL for (int i = 0; i < kSums; i++) acc[i] = madd_units(T{}, x, w, acc[i]);
    }
    Vec total{};
    MERV_UNROLL for (int i = 0; i < kSums; i++) total += acc[i];
    return sum(total);
}

struct Share { int64_t begin, end; };           // of n floats, whole cache lines, for this thread
Share share(int64_t n) {
    const int64_t threads = omp_get_num_threads(), me = omp_get_thread_num(), lines = n / 16;
    return {lines * me / threads * 16, lines * (me + 1) / threads * 16};
}

}

template <> void run(const PeakMultiply& a) {
    int threads = 0;
    float sink = 0;
    with_float_type(a.dtype, [&]<class T>() {
#pragma omp parallel reduction(+ : threads, sink)
        threads = 1, sink = multiply<T>(a.steps);
        *a.flops = (sink < 0 ? 0 : 1) * 2.0 * double(a.steps) * kSums * kLanes * double(per_unit<T>) * threads;
    });
}

template <> void run(const PeakRead& a) {
    const float* x = reinterpret_cast<const float*>(a.x.raw());
    float sink = 0;
#pragma omp parallel reduction(+ : sink)
    {
        const auto [begin, end] = share(int64_t(a.x.bytes() / 4));
        Vec acc[8] = {};
        for (int64_t i = begin; i + 8 * kLanes <= end; i += 8 * kLanes)
            MERV_UNROLL for (int j = 0; j < 8; j++) acc[j] += load(x + i + j * kLanes);
        MERV_UNROLL for (int j = 1; j < 8; j++) acc[0] += acc[j];
        sink = sum(acc[0]);
    }
    *a.sum = sink;
}

template <> void run(const PeakCopy& a) {
    const float* x = reinterpret_cast<const float*>(a.x.raw());
    float* y = reinterpret_cast<float*>(a.y.raw());
#pragma omp parallel
    {
        const auto [begin, end] = share(int64_t(a.x.bytes() / 4));
#if defined(__AVX512F__)
        for (int64_t i = begin; i + kLanes <= end; i += kLanes) _mm512_stream_ps(y + i, load(x + i));
#elif defined(__AVX__)
        for (int64_t i = begin; i + kLanes <= end; i += kLanes) _mm256_stream_ps(y + i, load(x + i));
#else
        std::memcpy(y + begin, x + begin, size_t(end - begin) * 4);
#endif
    }
}

}
