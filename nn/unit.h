// A unit is a ViT block, a ViViT layer, a LLaMA layer: what a model runs through run_unit(). What the tape keeps of a unit
// between its forward and its backward is the caller's choice; the gradients have the same bits with each. A profile shows units as ranges.
#pragma once
#include "core/autograd.h"
#include "core/profile.h"

namespace merv::nn {

enum class Recompute {
    none,                                       // every activation that backward reads is kept
    norms_and_gates,                            // outputs of norms and of act(z) gate are dropped, and made again from what is kept: no matrix product
    full,                                       // the input alone is kept: the whole unit runs again
};
struct RecomputeScope {                         // the choice for the units that this thread runs in scope; none outside
    explicit RecomputeScope(Recompute);
    ~RecomputeScope();
    RecomputeScope(const RecomputeScope&) = delete;
    RecomputeScope& operator=(const RecomputeScope&) = delete;

  private:
    Recompute saved_;
};

// f(x). What f refers to must outlive the backward pass.
Tensor run_unit(const Tensor& x, const std::function<Tensor(const Tensor&)>& f);

// y = f(x), keeping x alone: backward runs f again. Parameters inside f get their gradients. If nothing wants one, this is f(x).
Tensor recompute(const std::function<Tensor(const Tensor&)>& f, const Tensor& x);

// An op says that it can write y again at any time, from tensors that its own backward keeps anyway. Under norms_and_gates y's
// bytes then go when the unit's forward ends, and come back when backward reaches the unit.
void can_refill(const Tensor& y, std::function<void(const Tensor& y)> fill);

}
