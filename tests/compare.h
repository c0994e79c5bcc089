// Comparing tensors with golden ones. "f32 rounding" (docs/fidelity.md): what two f32 runs of one formula may differ by when
// they add in different orders, as the Frobenius norm of the difference over that of the golden tensor.
#pragma once
#include "tests/test.h"
#include <cmath>
#include <cstdio>
#include <cstring>
#include "core/tensor.h"

namespace merv::test {

inline double relative_error(const Tensor& ours, const Tensor& golden) {
    REQUIRE_EQ(ours.numel(), golden.numel());
    const std::vector<float> a = to_floats(ours), b = to_floats(golden);
    double difference = 0, norm = 0;
    for (size_t i = 0; i < a.size(); i++) difference += std::pow(double(a[i]) - double(b[i]), 2), norm += std::pow(double(b[i]), 2);
    return std::isfinite(difference) ? std::sqrt(difference / norm) : INFINITY;
}

// Prints the error beside its limit, so that drift is seen before it fails.
inline void expect_close(const char* what, const Tensor& ours, const Tensor& golden, double limit) {
    const double error = relative_error(ours, golden);
    std::printf("  %-34s error %.2e  limit %.2e\n", what, error, limit);
    INFO(what);
    EXPECT_LE(error, limit);
}
inline void expect_same_bits(const Tensor& a, const Tensor& b) {
    REQUIRE_EQ(a.bytes(), b.bytes());
    EXPECT_EQ(std::memcmp(a.raw(), b.raw(), a.bytes()), 0);
}

}
