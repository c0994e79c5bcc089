// y = x w^T for bf16 on sm_90a: x (M, K), w (N, K), y (M, N), contiguous; K and N multiples of 8, all 128-byte aligned.
#pragma once
#include "core/tensor.h"
#include "kernels/device.h"

namespace merv::kernels {

struct LinearSm90 {
    Tensor y;                                   // out
    Tensor x, w;
};

}
