// Normalisation over the last dimension, M rows of C. x, y and their gradients are of one type, f32 or bf16; statistics are f32
// and variance takes two passes; parameters are f32 or bf16, their gradients f32.
//   layernorm  xhat = (x-mean) rstd, mean = sum(x)/C, rstd = 1/sqrt(sum((x-mean)^2)/C + eps)   y = xhat w + b
//              dx = rstd (g - mean(g) - xhat mean(g xhat)), g = dy w    dw += sum_rows(dy xhat)    db += sum_rows(dy)
//   rmsnorm    xhat = x rstd, rstd = 1/sqrt(sum(x^2)/C + eps)                                  y = xhat w
//              dx = rstd (g - xhat mean(g xhat)), g = dy w              dw += sum_rows(dy xhat)
// Zhang & Sennrich 2019 (RMSNorm); Ba, Kiros & Hinton 2016 (LayerNorm). Backward computes the statistics again from x.
// A residual branch takes no further pass: with `residual`, what is normalised is sum = x + residual, which is stored, too, and of
// which backward is then given the gradient that comes in beside, dsum.
#pragma once
#include "core/tensor.h"
#include "kernels/device.h"

namespace merv::kernels {

struct LayerNormFwd {
    Tensor y;                                   // out: (M, C)
    Tensor x, w, b;                             // (M, C); (C), (C)
    float eps = 1e-5f;
    Tensor residual = {}, sum = {};             // (M, C), out: (M, C), may be x or residual; or none
};
struct LayerNormBwd {
    Tensor dx = {};                             // out: (M, C), or none
    Tensor dw = {}, db = {};                    // added to: (C) f32, or none
    Tensor dy, x, w;                            // (M, C), (M, C), (C)
    float eps = 1e-5f;
    Tensor dsum = {};                           // (M, C), added to dx; or none
};
struct RmsNormFwd {
    Tensor y;                                   // out: (M, C)
    Tensor x, w;                                // (M, C); (C)
    float eps = 1e-5f;
    Tensor residual = {}, sum = {};
};
struct RmsNormBwd {
    Tensor dx = {};                             // out: (M, C), or none
    Tensor dw = {};                             // added to: (C) f32, or none
    Tensor dy, x, w;                            // (M, C), (M, C), (C)
    float eps = 1e-5f;
    Tensor dsum = {};                           // (M, C), added to dx; or none
};
inline void layernorm(const LayerNormFwd& a) { run(a); }
inline void layernorm(const LayerNormBwd& a) { run(a); }
inline void rmsnorm(const RmsNormFwd& a) { run(a); }
inline void rmsnorm(const RmsNormBwd& a) { run(a); }

}
