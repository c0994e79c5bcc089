// Pillow's image resize (libImaging/Resample.c) on u8 pixels: along x, rounded to bytes, then along y. Sums are integers, so
// the order does not matter and every instruction set gives the same bytes.
#pragma once
#include <vector>
#include "core/tensor.h"
#include "kernels/cpu.h"
#include "kernels/work.h"

namespace merv::kernels {

// One axis: output i is sum_j weight[i * taps + j] * input[first[i] + j] / 2^22, j < count[i].
struct ResampleAxis {
    static constexpr int kPrecision = 22;       // Pillow's PRECISION_BITS
    int taps = 0;                               // weights kept per output
    std::vector<int> first, count;
    std::vector<int32_t> weight;
    int size() const { return int(first.size()); }
};
struct Resample {
    Tensor y, x;                                // out (F, h, w, 3); (F, H, W, 3) u8
    const ResampleAxis *rows = nullptr, *columns = nullptr;     // to h and to w; null: that side stays as it is
};
inline void resample(const Resample& a) { profiled(a, Device::cpu, [&] { cpu::run(a); }); }

}
