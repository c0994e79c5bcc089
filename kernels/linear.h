// Linear layers with everything that follows them elementwise, in one pass over y.
//
//   y = residual + scale * (act(x w^T + bias) * gate)          each of bias, act, gate, scale, residual optional
//
// SwiGLU is two of them: up = x Wu^T, then silu(x Wg^T) with gate = up. LayerScale is `scale`.
//
// Order of sums: element (m, n) is a left fold over chunks of 256 consecutive k; each chunk is a left fold of fused
// multiply-adds from zero. So a row of y does not depend on how many rows there are, on where it stands or on the threads.
#pragma once
#include "core/tensor.h"
#include "kernels/cpu.h"

namespace merv::kernels {

enum class Act {
    none,
    gelu,                                       // 0.5 x (1 + erf(x / sqrt 2)): DINOv2, SigLIP (timm), LanguageBind
    gelu_tanh,                                  // 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): ViViT's gelu_fast
    quick_gelu,                                 // x sigmoid(1.702 x): OpenAI's CLIP
    silu,                                       // x sigmoid(x): LLaMA
};

struct LinearFwd {
    Tensor y;                                   // out: (M, N) f32
    Tensor x, w;                                // (M, K) f32; (N, K) f32 or bf16
    Tensor bias = {};                           // (N) f32 or bf16
    Act act = Act::none;
    Tensor gate = {};                           // (M, N) f32
    Tensor scale = {};                          // (N) f32 or bf16
    Tensor residual = {};                       // (M, N) f32; may be y itself
};
inline void linear(const LinearFwd& a) { cpu::run(a); }

}
