// Bound by memory: x is read once, y written once.
#include "kernels/rope.h"
#include "kernels/cpu/simd.h"

namespace merv::kernels::cpu::MERV_ISA {

template <> void run(const RopeFwd& a) {
    const int64_t N = a.x.dim(0), H = a.x.dim(1), D = a.x.dim(2), half = D / 2;
    const float *cos = a.cos.data<float>(), *sin = a.sin.data<float>(), sign = a.inverse ? -1.0f : 1.0f;
    with_float_type(a.x.dtype(), [&]<class X>() {
        const X* x = a.x.data<X>();
        X* y = a.y.data<X>();
#pragma omp parallel for if (N * H * D > 1 << 14)
        for (int64_t n = 0; n < N; n++) {
            const float *c = cos + (a.start + n) * half, *s = sin + (a.start + n) * half;
            for (int64_t h = 0; h < H; h++) {
                const X* from = x + (n * H + h) * D;
                X* to = y + (n * H + h) * D;
                for (int64_t d = 0; d < half; d++) {
                    const float low = float(from[d]), high = float(from[d + half]), t = sign * s[d];
                    to[d] = X(low * c[d] - high * t);
                    to[d + half] = X(high * c[d] + low * t);
                }
            }
        }
    });
}

}
