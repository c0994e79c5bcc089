// Bound by memory: x is read once.
#include "kernels/reduce.h"
#include <algorithm>
#include "kernels/cpu/simd.h"

namespace merv::kernels::cpu::MERV_ISA {
namespace {

constexpr int64_t kSums = 16;

template <bool Squares, class X> float chunk_sum(const X* x, int64_t n) {
    double sums[kSums] = {};
    auto add = [&](int64_t at, int64_t count) {
        for (int64_t j = 0; j < count; j++) {
            const double v = double(float(x[at + j]));
            sums[j] += Squares ? v * v : v;
        }
    };
    int64_t i = 0;
    for (; i + kSums <= n; i += kSums) add(i, kSums);
    add(i, n - i);
    for (int64_t half = kSums / 2; half; half /= 2)
        for (int64_t j = 0; j < half; j++) sums[j] += sums[j + half];
    return float(sums[0]);
}

}

template <> void run(const ChunkSums& a) {
    const int64_t n = a.x.numel(), chunks = a.sums.numel();
    float* sums = a.sums.data<float>();
    with_float_type(a.x.dtype(), [&]<class X>() {
        const X* x = a.x.data<X>();
#pragma omp parallel for if (n > 1 << 14)
        for (int64_t c = 0; c < chunks; c++) {
            const int64_t begin = c * kSumChunk, count = std::min(kSumChunk, n - begin);
            sums[c] = a.squares ? chunk_sum<true>(x + begin, count) : chunk_sum<false>(x + begin, count);
        }
    });
}

}
