// Normalisation over the last dimension, M rows of C. Statistics in f32, variance in two passes.
//   layernorm: mean = sum(x)/C   rstd = 1/sqrt(sum((x-mean)^2)/C + eps)   y = (x-mean) rstd w + b
//   rmsnorm:   rstd = 1/sqrt(sum(x^2)/C + eps)                            y = (x rstd) w
#pragma once
#include "core/tensor.h"
#include "kernels/cpu.h"

namespace merv::kernels {

struct LayerNormFwd {
    Tensor y;                                   // out: (M, C) f32
    Tensor x, w, b;                             // (M, C) f32; (C), (C) f32 or bf16
    float eps = 1e-5f;
};
struct RmsNormFwd {
    Tensor y;                                   // out: (M, C) f32
    Tensor x, w;                                // (M, C) f32; (C) f32 or bf16
    float eps = 1e-5f;
};
inline void layernorm(const LayerNormFwd& a) { cpu::run(a); }
inline void rmsnorm(const RmsNormFwd& a) { cpu::run(a); }

}
