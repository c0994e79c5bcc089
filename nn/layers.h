// Layers: plain structs of parameters with a call operator and a visit. Constructed with sizes only; the values come when a
// checkpoint is loaded.
#pragma once
#include "nn/functional.h"
#include "nn/module.h"

namespace merv::nn {

struct Linear {
    Tensor weight, bias;                        // (out, in), (out) or none
    Linear() = default;
    Linear(int64_t in, int64_t out, bool with_bias = true) : weight(Tensor::declare({out, in})), bias(with_bias ? Tensor::declare({out}) : Tensor()) {}
    Tensor operator()(const Tensor& x, const LinearExtras& extras = {}) const { return linear(x, weight, bias, extras); }
    explicit operator bool() const { return bool(weight); }
    void visit(auto&& f) { f("weight", weight), f("bias", bias); }
};
struct LayerNorm {
    Tensor weight, bias;                        // (C), (C)
    float eps = 1e-5f;
    LayerNorm() = default;
    LayerNorm(int64_t width, double eps) : weight(Tensor::declare({width})), bias(Tensor::declare({width})), eps(float(eps)) {}
    Tensor operator()(const Tensor& x) const { return layernorm(x, weight, bias, eps); }
    void visit(auto&& f) { f("weight", weight), f("bias", bias); }
};
struct RmsNorm {
    Tensor weight;                              // (C)
    float eps = 1e-5f;
    RmsNorm() = default;
    RmsNorm(int64_t width, double eps) : weight(Tensor::declare({width})), eps(float(eps)) {}
    Tensor operator()(const Tensor& x, const Lengths& lengths = {}) const { return rmsnorm(x, weight, eps, lengths); }
    void visit(auto&& f) { f("weight", weight); }
};

}
