#include "kernels/rope.h"
#include "kernels/cpu/simd.h"

namespace merv::kernels::cpu::MERV_ISA {

template <> void run(const RopeFwd& a) {
    const int64_t N = a.x.dim(0), H = a.x.dim(1), D = a.x.dim(2), half = D / 2;
    const float *x = a.x.data<float>(), *cos = a.cos.data<float>(), *sin = a.sin.data<float>();
    float* y = a.y.data<float>();
#pragma omp parallel for if (N * H * D > 1 << 14)
    for (int64_t n = 0; n < N; n++) {
        const float *c = cos + (a.start + n) * half, *s = sin + (a.start + n) * half;
        for (int64_t h = 0; h < H; h++) {
            const float* from = x + (n * H + h) * D;
            float* to = y + (n * H + h) * D;
            for (int64_t d = 0; d < half; d++) {
                const float low = from[d], high = from[d + half];
                to[d] = low * c[d] - high * s[d];
                to[d + half] = high * c[d] + low * s[d];
            }
        }
    }
}

}
