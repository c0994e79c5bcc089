#include "kernels/optim.h"
#include <algorithm>
#include "kernels/cpu/simd.h"

namespace merv::kernels::cpu::MERV_ISA {

template <> void run(const AdamW& a) {
    const int64_t n = a.master.numel();
    const float keep = float(1 - a.lr * a.decay), first = float(1 - a.beta1), second = float(1 - a.beta2), beta2 = float(a.beta2), eps = float(a.eps);
    const float step = float(a.lr / (1 - std::pow(a.beta1, double(a.step)))), root = float(std::sqrt(1 - std::pow(a.beta2, double(a.step))));
    const float *grad = a.grad.data<float>(), scale = a.clip ? a.grad_scale * a.clip.data<float>()[0] : a.grad_scale;
    float *master = a.master.data<float>(), *m = a.m.data<float>(), *v = a.v.data<float>();
    with_float_type(a.param ? a.param.dtype() : DType::f32, [&]<class P>() {
        P* param = a.param.data<P>();
#pragma omp parallel for if (n > 1 << 14)
        for (int64_t i0 = 0; i0 < n; i0 += 1024) {
            const int64_t end = std::min(n, i0 + 1024);
            for (int64_t i = i0; i < end; i++) {
                const float g = grad[i] * scale;
                m[i] += first * (g - m[i]);
                v[i] = v[i] * beta2 + second * g * g;
                master[i] = master[i] * keep - step * m[i] / (std::sqrt(v[i]) / root + eps);
            }
            if (param) for (int64_t i = i0; i < end; i++) param[i] = P(master[i]);
        }
    });
}
template <> void run(const ClipFactor& a) {
    double squares = 0;
    for (int64_t i = 0; i < a.sums.numel(); i++) squares += double(a.sums.data<float>()[i]);
    a.factor.data<float>()[0] = clip_scale(std::sqrt(squares), a.limit);
}

}
