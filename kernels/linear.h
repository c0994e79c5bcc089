// Linear layers with everything that follows them elementwise, in one pass over y.
//
//   z = x w^T + bias      y = residual + scale * (act(z) * gate)          each of bias, act, gate, scale, residual optional
//
// SwiGLU is two of them: up = x Wu^T, then silu(x Wg^T) with gate = up. LayerScale is `scale`.
//
//   dz = dy scale gate act'(z)    dgate = dy scale act(z)    dscale += sum_rows(dy act(z) gate)    dbias += sum_rows(dz)
//   dx = dz w                     dw += dz^T x
//
// x, y, gate, residual and their gradients are of one type, f32 or bf16; w, bias and scale f32 or bf16; gradients of
// parameters f32. Everything between the product and y is f32, except that an act reads z rounded to their type, which is what
// backward has of it.
//
// Order of sums: a left fold over chunks of 256 units of the summed dimension, each a left fold of fused multiply-adds from
// zero; a unit is one f32, or two bf16 when both factors are bf16 (the second is added first). So a row of y does not depend
// on how many rows there are, on where it stands or on the threads.
#pragma once
#include "core/tensor.h"
#include "kernels/device.h"

namespace merv::kernels {

enum class Act {
    none,
    gelu,                                       // 0.5 x (1 + erf(x / sqrt 2)): DINOv2, SigLIP (timm), LanguageBind
    gelu_tanh,                                  // 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): ViViT's gelu_fast
    quick_gelu,                                 // x sigmoid(1.702 x): OpenAI's CLIP
    silu,                                       // x sigmoid(x): LLaMA
};

struct LinearFwd {
    Tensor y;                                   // out: (M, N)
    Tensor z = {};                              // out, optional: (M, N), what backward needs when there is an act, gate or trained scale
    Tensor x, w;                                // (M, K); (N, K)
    Tensor bias = {};                           // (N)
    Act act = Act::none;
    Tensor gate = {};                           // (M, N)
    Tensor scale = {};                          // (N)
    Tensor residual = {};                       // (M, N); may be y itself
};
struct LinearRefill {                           // y = act(z) gate, the same bits as forward's, from what backward keeps
    Tensor y;                                   // out: (M, N)
    Tensor z, gate = {};                        // (M, N)
    Act act = Act::none;
};
struct LinearEpilogueBwd {
    Tensor dz = {}, dgate = {};                 // out: (M, N), or none; dz may be dy
    Tensor dscale = {}, dbias = {};             // added to: (N) f32, or none
    Tensor dy;                                  // (M, N)
    Tensor z = {}, gate = {}, scale = {};       // as forward's
    Act act = Act::none;
};
struct LinearInputBwd {
    Tensor dx;                                  // out: (M, K)
    Tensor dz, w;                               // (M, N); (N, K)
};
struct LinearWeightBwd {
    Tensor dw;                                  // added to: (N, K) f32
    Tensor dz, x;                               // (M, N); (M, K)
};
inline void linear(const LinearFwd& a) { run(a); }
inline void linear_refill(const LinearRefill& a) { run(a); }
inline void linear(const LinearEpilogueBwd& a) { run(a); }
inline void linear(const LinearInputBwd& a) { run(a); }
inline void linear(const LinearWeightBwd& a) { run(a); }

}
