// What gradients are summed with. One type, f32 or bf16, for all tensors of a call; sums are rounded once.
#pragma once
#include "core/tensor.h"
#include "kernels/device.h"

namespace merv::kernels {

struct Add { Tensor y, a, b; };                 // y = a + b; y may be a or b
struct Convert { Tensor y, x; };                // y = x in y's type, f32 or bf16
inline void add(const Add& a) { run(a); }
inline void convert(const Convert& a) { run(a); }

}
