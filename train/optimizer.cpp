#include "train/optimizer.h"
#include <algorithm>
#include <cmath>
#include "core/profile.h"
#include "kernels/elementwise.h"
#include "kernels/optim.h"
#include "kernels/reduce.h"

namespace merv::train {

double cosine_with_warmup(int64_t step, int64_t steps, double warmup_ratio) {
    const int64_t warmup = int64_t(double(steps) * warmup_ratio);
    if (step < warmup) return double(step) / double(std::max<int64_t>(1, warmup));
    const double progress = double(step - warmup) / double(std::max<int64_t>(1, steps - warmup));
    return std::max(0.0, 0.5 * (1 + std::cos(3.141592653589793 * progress)));
}

Optimizer::Optimizer(const std::vector<std::pair<std::string, Tensor*>>& trained, DType compute, double weight_decay) {
    auto copy = [](const Tensor& from, DType to) {
        const Tensor t(from.shape(), to);
        if (from.dtype() == to) t.copy_from(from.detach());
        else kernels::convert({.y = t, .x = from.detach()});
        return t;
    };
    for (const auto& [name, tensor] : trained) {
        const Shape shape = tensor->shape(), flat{shape.numel()};
        Parameter p{.name = name, .value = {}, .master = {}, .m = {}, .v = {}, .decay = shape.rank() > 1 && !name.ends_with(".bias") ? weight_decay : 0};
        {
            MemTag tag("optimizer");
            if (compute != DType::f32) p.master = copy(*tensor, DType::f32).reshape(flat);
            p.m = zeros(flat), p.v = zeros(flat);
        }
        MemTag tag("weights");
        *tensor = copy(*tensor, compute);
        p.value = tensor->set_needs_grad();
        if (!p.master) p.master = tensor->detach().reshape(flat);
        parameters.push_back(std::move(p));
    }
}

double Optimizer::gradient_norm() const {
    const profile::Range range("gradient norm");
    double squares = 0;
    for (const Parameter& p : parameters)
        if (const Tensor g = p.value.grad()) squares += kernels::sum_of_squares(g.reshape({g.numel()}));
    return std::sqrt(squares);
}

void Optimizer::step(double learning_rate, double norm, double max_norm, double scale) {
    const profile::Range range("optimizer");
    steps++;
    const float factor = float(scale * (max_norm > 0 ? double(kernels::clip_scale(norm, max_norm)) : 1));
    for (Parameter& p : parameters) {
        Tensor g = p.value.grad();
        const Shape flat{p.master.numel()};
        const bool own = g && g.dtype() == DType::f32;
        if (!own) {                             // none: AdamW's moments still decay, as they do in torch with a zero gradient
            const Tensor f32 = zeros(flat);
            if (g) kernels::convert({.y = f32, .x = g.reshape(flat)});
            g = f32;
        }
        kernels::adamw({.master = p.master, .m = p.m, .v = p.v, .param = p.master.shares(p.value) ? Tensor() : p.value.detach().reshape(flat), .grad = g.reshape(flat), .step = steps,
                        .lr = learning_rate, .decay = p.decay, .grad_scale = factor});
    }
    forget_gradients();
}

void Optimizer::forget_gradients() {
    for (Parameter& p : parameters) {
        p.value.slot()->grad = nullptr;
        p.value.slot()->own = false;
    }
}

void Optimizer::set(Parameter& p, const Tensor& values) {
    const Shape flat{p.master.numel()};
    kernels::convert({.y = p.master, .x = values.to(current_device()).reshape(flat)});
    if (!p.master.shares(p.value)) kernels::convert({.y = p.value.detach().reshape(flat), .x = p.master});
}

std::vector<std::pair<std::string, Tensor>> Optimizer::state() const {
    std::vector<std::pair<std::string, Tensor>> all;
    for (const Parameter& p : parameters) all.emplace_back("master/" + p.name, p.master.reshape(p.value.shape()));
    for (const Parameter& p : parameters) all.emplace_back("m/" + p.name, p.m.reshape(p.value.shape())), all.emplace_back("v/" + p.name, p.v.reshape(p.value.shape()));
    return all;
}

void Optimizer::restore(const std::map<std::string, Tensor>& state) {
    for (Parameter& p : parameters) {
        const Shape flat{p.master.numel()};
        set(p, state.at("master/" + p.name));
        p.m.copy_from(state.at("m/" + p.name).reshape(flat)), p.v.copy_from(state.at("v/" + p.name).reshape(flat));
    }
}

}
