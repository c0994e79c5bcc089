// Normalisation over the last dimension, M rows of C. x, y and their gradients are of one type, f32 or bf16; statistics are f32
// and variance takes two passes; parameters are f32 or bf16, their gradients f32.
//   layernorm  xhat = (x-mean) rstd, mean = sum(x)/C, rstd = 1/sqrt(sum((x-mean)^2)/C + eps)   y = xhat w + b
//              dx = rstd (g - mean(g) - xhat mean(g xhat)), g = dy w    dw += sum_rows(dy xhat)    db += sum_rows(dy)
//   rmsnorm    xhat = x rstd, rstd = 1/sqrt(sum(x^2)/C + eps)                                  y = xhat w
//              dx = rstd (g - xhat mean(g xhat)), g = dy w              dw += sum_rows(dy xhat)
// Zhang & Sennrich 2019 (RMSNorm); Ba, Kiros & Hinton 2016 (LayerNorm). Backward computes the statistics again from x.
#pragma once
#include "core/tensor.h"
#include "kernels/device.h"

namespace merv::kernels {

struct LayerNormFwd {
    Tensor y;                                   // out: (M, C)
    Tensor x, w, b;                             // (M, C); (C), (C)
    float eps = 1e-5f;
};
struct LayerNormBwd {
    Tensor dx = {};                             // out: (M, C), or none
    Tensor dw = {}, db = {};                    // added to: (C) f32, or none
    Tensor dy, x, w;                            // (M, C), (M, C), (C)
    float eps = 1e-5f;
};
struct RmsNormFwd {
    Tensor y;                                   // out: (M, C)
    Tensor x, w;                                // (M, C); (C)
    float eps = 1e-5f;
};
struct RmsNormBwd {
    Tensor dx = {};                             // out: (M, C), or none
    Tensor dw = {};                             // added to: (C) f32, or none
    Tensor dy, x, w;                            // (M, C), (M, C), (C)
    float eps = 1e-5f;
};
inline void layernorm(const LayerNormFwd& a) { run(a); }
inline void layernorm(const LayerNormBwd& a) { run(a); }
inline void rmsnorm(const RmsNormFwd& a) { run(a); }
inline void rmsnorm(const RmsNormBwd& a) { run(a); }

}
