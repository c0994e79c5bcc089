// AdamW (Loshchilov & Hutter 2019) over flat shards, each step as torch.optim.AdamW takes it, in f32 with the factors made in f64:
//   g = grad_scale grad
//   p = p (1 - lr decay)                        decay is not part of the gradient
//   m = m + (1 - beta1) (g - m)                 v = beta2 v + (1 - beta2) g g
//   p = p - lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
// No multiplication is fused with an addition, so every instruction set gives the same bits. Bound by memory: 16 bytes read
// and 12 written per element, besides param.
#pragma once
#include "core/tensor.h"
#include "kernels/device.h"

namespace merv::kernels {

struct AdamW {
    Tensor master, m, v;                        // in and out: (n) f32; m and v zero before the first step
    Tensor param = {};                          // out, optional: (n) f32 or bf16, the master rounded
    Tensor grad;                                // (n) f32
    int64_t step = 1;                           // t: 1, 2, ...
    double lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, decay = 0;
    float grad_scale = 1;
};
inline void adamw(const AdamW& a) { run(a); }

// What gradients of this 2-norm are multiplied with so that it is at most `limit`, as torch.nn.utils.clip_grad_norm_ does.
inline float clip_scale(double norm, double limit) {
    const double scale = limit / (norm + 1e-6);
    return scale >= 1 ? 1.0f : float(scale);    // NaN stays
}

}
