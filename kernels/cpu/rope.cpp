// Bound by memory: x is read once, y written once.
#include "kernels/rope.h"
#include <algorithm>
#include "kernels/cpu/simd.h"

namespace merv::kernels::cpu::MERV_ISA {

template <> void run(const RopeFwd& a) {
    const int64_t H = a.x.dim(-2), D = a.x.dim(-1), M = a.x.numel() / std::max<int64_t>(1, H * D), N = a.x.dim(-3), half = D / 2;
    const float *cos = a.cos.data<float>(), *sin = a.sin.data<float>(), sign = a.inverse ? -1.0f : 1.0f;
    with_float_type(a.x.dtype(), [&]<class X>() {
        const X* x = a.x.data<X>();
        X* y = a.y.data<X>();
#pragma omp parallel for if (M * H * D > 1 << 14)
        for (int64_t m = 0; m < M; m++) {
            const float *c = cos + (a.start + m % N) * half, *s = sin + (a.start + m % N) * half;
            for (int64_t h = 0; h < H; h++) {
                const X* from = x + (m * H + h) * D;
                X* to = y + (m * H + h) * D;
                for (int64_t d = 0; d < half; d++) {
                    const float low = float(from[d]), high = float(from[d + half]), t = sign * s[d];
                    to[d] = X(low * c[d] - high * t);
                    to[d + half] = X(high * c[d] + low * t);
                }
            }
        }
    });
}
template <> void run(const RopeAppend& a) {
    rope(RopeFwd{.y = a.q_out, .x = a.q, .cos = a.cos, .sin = a.sin, .start = a.start});
    rope(RopeFwd{.y = a.k_out, .x = a.k, .cos = a.cos, .sin = a.sin, .start = a.start});
    if (a.v_out.raw() != a.v.raw()) a.v_out.copy_from(a.v);
}

}
