// 64 projections of a tensor on vectors of signs over 8 (tests/golden/gradients.py): the norm of the difference of two tensors' projections estimates
// the norm of their difference within 9 %.
#pragma once
#include <cmath>
#include <cstdint>
#include <vector>
#include "core/tensor.h"

namespace merv::test {

constexpr size_t kHeader = 3, kProjections = 64;        // of a golden tensor: norm, error in f32, error in bf16; projections

inline std::vector<double> project(const Tensor& x) {
    const std::vector<float> values = to_floats(x);
    std::vector<double> sums(kProjections, 0);
    for (size_t i = 0; i < values.size(); i++) {
        uint64_t z = (i + 1) * 0x9E3779B97F4A7C15u;     // splitmix64 of the index: a sign per projection
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        z ^= z >> 31;
        for (size_t k = 0; k < kProjections; k++) sums[k] += z >> k & 1 ? -double(values[i]) : double(values[i]);
    }
    for (double& s : sums) s /= 8;
    return sums;
}
// How far x is from the golden one; not finite counts as infinitely far.
inline double distance(const Tensor& x, const Tensor& golden) {
    const std::vector<double> got = project(x);
    double squares = 0;
    for (size_t k = 0; k < kProjections; k++) squares += std::pow(got[k] - double(golden.data<float>()[kHeader + k]), 2);
    return std::isfinite(squares) ? std::sqrt(squares) : INFINITY;
}

}
