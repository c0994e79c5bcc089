// Philox fills: the uniform ones are bits of the generator, the normal ones a formula of them.
#include "kernels/random.h"
#include <cmath>
#include "tests/harness.h"
#include "tests/test.h"

using namespace merv;
using namespace merv::test;
using kernels::FillRandom;

TEST_CASE("random: fills are functions of the counter") {
    kernels::use_checks(true);
    const Rng rng(11, "fills");
    for (Device device : {Device::cpu, Device::emu})
        for (DType dtype : {DType::f32, DType::bf16})
            for (int64_t N : {1, 6, 1024, 4099}) {
                const OnDevice on(device);
                const Tensor u({N}, dtype), z({N}, dtype), part({N}, dtype);
                const uint64_t first = 0xfffffffeu;             // the counter's upper word takes part
                kernels::fill_random({.y = u, .rng = rng, .kind = FillRandom::Kind::uniform, .a = -2, .b = 3, .first = first});
                kernels::fill_random({.y = z, .rng = rng, .a = 0.5f, .b = 2, .first = first});
                const std::vector<float> us = to_floats(u), zs = to_floats(z);
                for (int64_t i = 0; i < N; i++) {
                    const auto bits = rng.bits(first + uint64_t(i));
                    const float uniform = -2 + 5 * (float(bits[0] >> 8) * 0x1p-24f);
                    EXPECT_EQ(us[size_t(i)], dtype == DType::f32 ? uniform : float(bf16(uniform)));
                    const double normal = 0.5 + 2 * std::sqrt(-2 * std::log((double(bits[0]) + 0.5) * 0x1p-32)) * std::cos(2 * M_PI * double(bits[1]) * 0x1p-32);
                    EXPECT(std::fabs(zs[size_t(i)] - normal) <= (dtype == DType::f32 ? 4e-6 : 4e-6 + 0x1p-8 * std::fabs(normal)));
                }
                kernels::fill_random({.y = part, .rng = rng, .a = 0.5f, .b = 2, .first = first + 1});
                const std::vector<float> shifted = to_floats(part);
                for (int64_t i = 0; i + 1 < N; i++) EXPECT_EQ(shifted[size_t(i)], zs[size_t(i + 1)]);
            }
}

TEST_CASE("random: moments of a normal fill") {
    const int64_t N = 1 << 16;
    const Tensor z({N});
    kernels::fill_random({.y = z, .rng = Rng(5, "moments")});
    double mean = 0, square = 0, fourth = 0;
    for (float v : to_floats(z)) mean += v / double(N), square += double(v) * v / double(N), fourth += std::pow(double(v), 4) / double(N);
    EXPECT(std::fabs(mean) < 5 / std::sqrt(double(N)));         // five standard deviations each: of the mean 1, of the square sqrt 2, of the fourth power sqrt 96
    EXPECT(std::fabs(square - 1) < 5 * std::sqrt(2 / double(N)));
    EXPECT(std::fabs(fourth - 3) < 5 * std::sqrt(96 / double(N)));
}
