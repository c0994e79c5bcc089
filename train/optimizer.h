// AdamW over the trained parameters, with f32 masters where a parameter is bf16 (kernels/optim.h has the formula), the gradients' norm, and the schedule.
#pragma once
#include <map>
#include <string>
#include <vector>
#include "core/tensor.h"

namespace merv::train {

// The factor on the learning rate at `step` (0, 1, ..) of `steps`, as Hugging Face's get_cosine_schedule_with_warmup: a line from 0 over the first
// int(steps warmup_ratio) steps, then half a cosine down to 0.
double cosine_with_warmup(int64_t step, int64_t steps, double warmup_ratio);

struct Parameter {
    std::string name;                           // "projectors.0.projector.projector.weight", "llm.model.layers.0...": the part, then the checkpoint's name
    Tensor value;                               // the model's: f32 or bf16; its slot takes the gradient
    Tensor master, m, v;                        // f32; the master is `value` itself where that is f32
    double decay = 0;
};

class Optimizer {
  public:
    // `trained`: each parameter's handle, which gets bytes of its own in the type that is computed in, and whose gradient is asked for. Decay goes to
    // matrices: not to biases, norms' weights or anything else of one dimension.
    Optimizer(const std::vector<std::pair<std::string, Tensor*>>& trained, DType compute, double weight_decay);

    double gradient_norm() const;               // 2-norm over all parameters; those without a gradient count as zero
    // One step: gradients times `scale`, whose norm then is `norm`, clipped to max_norm (0: not at all); then forgotten.
    void step(double learning_rate, double norm, double max_norm, double scale = 1);
    void forget_gradients();

    int64_t steps = 0;                          // taken so far: AdamW's t
    std::vector<Parameter> parameters;

    void set(Parameter& p, const Tensor& values);               // f32 or bf16, on any device, of its shape
    std::vector<std::pair<std::string, Tensor>> state() const;          // "master/NAME", "m/NAME", "v/NAME": what a checkpoint keeps
    void restore(const std::map<std::string, Tensor>& state);           // all of them, with the same shapes: CHECKed by the caller of a checkpoint
};

}
