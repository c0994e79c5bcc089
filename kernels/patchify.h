// Cuts frames into the vectors a patch embedding multiplies: non-overlapping tubelets of t frames and p x p pixels.
//   y[g][i][(c, dt, py, px)] = normalised x[g t + dt][c][Y p + py][X p + px],  i = Y (W/p) + X
// u8 pixels are normalised on the way: (v / 255 - mean[c]) / std[c], each step rounded to f32 as torchvision does. f32
// pixels are taken as they are.
#pragma once
#include <array>
#include "core/tensor.h"
#include "kernels/device.h"

namespace merv::kernels {

struct Patchify {
    Tensor y;                                   // out: (F/t, P, 3 t p p) f32 or bf16, P = (H/p)(W/p)
    Tensor x;                                   // (F, 3, H, W) u8 or f32
    int64_t patch = 16, tubelet = 1;            // patch divides H and W; tubelet divides F
    std::array<float, 3> mean{}, std{1, 1, 1};  // for u8
};
inline void patchify(const Patchify& a) { run(a); }

}
