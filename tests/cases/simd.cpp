// The scalar functions kernels share keep the errors stated in kernels/cpu/simd.h, over all floats (every 1009th bit pattern)
#include "kernels/cpu/simd.h"
#include <cmath>
#include <limits>
#include <ostream>
#include <vector>
#include "tests/test.h"

using namespace merv;
namespace cpu = merv::kernels::cpu::MERV_ISA;          // of the baseline build: the other instruction sets run through the op cases

namespace {

struct Worst { double error = 0; float at = 0; };
std::ostream& operator<<(std::ostream& o, const Worst& w) { return o << w.error << " at " << w.at; }

// The largest |f(x) - exact(x)| over x in [low, high], in units of unit(exact(x)).
template <class F, class Exact, class Unit> Worst worst(float low, float high, F f, Exact exact, Unit unit) {
    Worst w;
    for (uint64_t bits = 0; bits < uint64_t(1) << 32; bits += 1009) {
        const float x = std::bit_cast<float>(uint32_t(bits));
        if (!(x >= low && x <= high)) continue;
        const double want = exact(double(x)), error = std::fabs(double(f(x)) - want) / unit(want);
        if (!(error <= w.error)) w = {error, x};
    }
    return w;
}
double ulp(double v) {                          // of the f32 nearest to v
    const float f = std::fabs(float(v));
    return double(std::nextafter(f, std::numeric_limits<float>::infinity())) - double(f);
}

constexpr float kInf = std::numeric_limits<float>::infinity(), kNaN = std::numeric_limits<float>::quiet_NaN();

}

TEST_CASE("simd: exp within 1.5 ulp, 0 and infinity beyond its range") {
    const Worst w = worst(-87.3f, 88.7228394f, [](float x) { return cpu::exp(x); }, [](double x) { return std::exp(x); }, ulp);
    EXPECT_MESSAGE(w.error <= 1.5, "ulp: ", w);
    EXPECT_EQ(cpu::exp(0), 1.0f);
    for (float x : {-87.31f, -104.0f, -1e30f, -kInf}) EXPECT_EQ(cpu::exp(x), 0.0f);
    for (float x : {88.73f, 1e30f, kInf}) EXPECT_EQ(cpu::exp(x), kInf);
    EXPECT(std::isnan(cpu::exp(kNaN)));
}

TEST_CASE("simd: erf within 2.5 ulp") {
    const Worst w = worst(-kInf, kInf, [](float x) { return cpu::erf(x); }, [](double x) { return std::erf(x); }, ulp);
    EXPECT_MESSAGE(w.error <= 2.5, "ulp: ", w);
    EXPECT(std::isnan(cpu::erf(kNaN)));
}

TEST_CASE("simd: tanh within 1 ulp of 1, sigmoid too, and both saturate") {
    auto of_one = [](double) { return 0x1p-23; };
    const Worst t = worst(-kInf, kInf, [](float x) { return cpu::tanh(x); }, [](double x) { return std::tanh(x); }, of_one);
    const Worst s = worst(-kInf, kInf, [](float x) { return cpu::sigmoid(x); }, [](double x) { return 1 / (1 + std::exp(-x)); }, of_one);
    EXPECT_MESSAGE(t.error <= 1, "tanh, ulp of 1: ", t);
    EXPECT_MESSAGE(s.error <= 1, "sigmoid, ulp of 1: ", s);
    EXPECT_EQ(cpu::tanh(kInf), 1.0f);
    EXPECT_EQ(cpu::tanh(-kInf), -1.0f);
    EXPECT_EQ(cpu::sigmoid(kInf), 1.0f);
    EXPECT_EQ(cpu::sigmoid(-kInf), 0.0f);
    EXPECT(std::isnan(cpu::tanh(kNaN)));
    EXPECT(std::isnan(cpu::sigmoid(kNaN)));
}

TEST_CASE("simd: sums of a row, whole vectors and their tail") {
    for (int64_t n : {0, 1, 3, 4, 5, 15, 16, 17, 31, 33, 257}) {
        std::vector<float> x(size_t(n) + 1, kNaN);      // what lies behind is not read
        double want = 0;
        for (int64_t i = 0; i < n; i++) x[size_t(i)] = float(i * i % 101), want += double(i * i % 101);         // small integers: exact in any order
        EXPECT_EQ(cpu::row_sum(x.data(), n, [](cpu::Vec v) { return v; }), float(want));
    }
}
