// Random numbers in a tensor, f32 or bf16: element i is a pure function of (rng, first + i), whatever the device and the shape.
//   uniform  low + (high - low) u, u = the upper 24 bits of bits(first + i)[0] / 2^24: the same bits on every device
//   normal   mean + spread z, z = sqrt(-2 log u) cos(2 pi v) (Box & Muller 1958), u = (bits[0] + 1/2) / 2^32, v = bits[1] / 2^32,
//            in f32: within a few units in the last place of it on every device
#pragma once
#include "core/rng.h"
#include "core/tensor.h"
#include "kernels/device.h"

namespace merv::kernels {

struct FillRandom {
    Tensor y;                                   // out
    Rng rng;
    enum class Kind { uniform, normal } kind = Kind::normal;
    float a = 0, b = 1;                         // low, high; or mean, spread
    uint64_t first = 0;
};
inline void fill_random(const FillRandom& f) { run(f); }

}
