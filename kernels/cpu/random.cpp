#include "kernels/random.h"
#include <cmath>

namespace merv::kernels::cpu::MERV_ISA {

template <> void run(const FillRandom& f) {
    const bool uniform = f.kind == FillRandom::Kind::uniform;
    with_float_type(f.y.dtype(), [&]<class Y>() {
        Y* y = f.y.data<Y>();
        const int64_t N = f.y.numel();
#pragma omp parallel for if (N > 1 << 12)
        for (int64_t i = 0; i < N; i++) {
            const auto r = f.rng.bits(f.first + uint64_t(i));
            const float z = uniform ? float(r[0] >> 8) * 0x1p-24f : std::sqrt(-2 * std::log((float(r[0]) + 0.5f) * 0x1p-32f)) * std::cos(6.283185307f * (float(r[1]) * 0x1p-32f));
            y[i] = Y(f.a + (uniform ? f.b - f.a : f.b) * z);
        }
    });
}

}
