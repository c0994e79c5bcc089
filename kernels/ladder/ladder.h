// Two ops as ladders of kernels, each rung one idea better than the one below (kernels/ladder/README.md). The last rung is the
// production kernel. `make ladder` counts what each idea bought; tests/test_ladder.cpp holds every rung to the formula.
#pragma once
#include <string>
#include <vector>
#include "core/tensor.h"
#include "kernels/device.h"

namespace merv::kernels::ladder {

struct LayerNorm {                              // y = (x - mean) / sqrt(variance + eps) w + b
    Tensor y, x, w, b;                          // f32 (M, C), (M, C), (C), (C); C a multiple of 128 up to 1024
    float eps = 1e-5f;
};
struct Attention {                              // o = softmax(q k^T / 8) v, per head
    Tensor o, q, k, v;                          // bf16 (N, H 64); N a multiple of 64
    int64_t heads() const { return q.dim(1) / 64; }
};
template <int n> struct LayerNormRung : LayerNorm {};
template <int n> struct AttentionRung : Attention {};

template <class Op> struct Rung {
    std::string name, idea;                     // the file's name; what is new
    void (*run)(const Op&);                     // on the current device, which is no CPU
};
const std::vector<Rung<LayerNorm>>& layernorm_rungs();
const std::vector<Rung<Attention>>& attention_rungs();

}
