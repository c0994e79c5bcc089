// Philox fills (kernels/random.h has the formulas). A thread makes four elements, one counter each, and writes them as one pack. Bound
// by integer arithmetic: ten rounds of two wide multiplications per element, about 60 instructions for two or four bytes. cospif and not cosf, whose
// reduction of large arguments, which never come, takes a stack on some architectures.
#include "kernels/random.h"
#include "kernels/gpu.h"

namespace merv::kernels::MERV_GPU {
namespace {

constexpr int kThreads = 256;

template <int n, class Y> __global__ void __launch_bounds__(kThreads) fill_kernel(Y* y, Rng rng, bool uniform, float a, float b, uint64_t first, int64_t packs) {
    const int64_t i = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * n;
    if (i >= packs * n) return;
    float v[n];
    for (int k = 0; k < n; k++) {
        const auto r = rng.bits(first + uint64_t(i + k));
        const float z = uniform ? float(r[0] >> 8) * 0x1p-24f : sqrtf(-2 * logf((float(r[0]) + 0.5f) * 0x1p-32f)) * cospif(2 * (float(r[1]) * 0x1p-32f));
        v[k] = __fadd_rn(a, __fmul_rn(uniform ? b - a : b, z));         // not fused, as on the CPU
    }
    store(y + i, v);
}

}

template <> void run(const FillRandom& f) {
    const int64_t N = f.y.numel();
    if (N == 0) return;
    with_float_type(f.y.dtype(), [&]<class Y>() {
        Y* y = at<Y>(f.y);
        with_width(BUG == 22 ? 4 : std::min(4, vector_width(N, y)), [&]<int n>() {
            launch(Work{"random", double(N) * sizeof(Y), 60.0 * double(N)}, Grid{{blocks_of(N / n, kThreads)}, {kThreads}}, fill_kernel<n, Y>, y, f.rng, f.kind == FillRandom::Kind::uniform, f.a, f.b, f.first, N / n);
        });
    });
}

}
