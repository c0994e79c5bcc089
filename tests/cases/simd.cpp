// The scalar functions kernels share keep the errors stated in kernels/cpu/simd.h, over all floats (every 1009th bit pattern)
// and so do the ops made of them, on every instruction set
#include "kernels/cpu/simd.h"
#include <cmath>
#include <limits>
#include <ostream>
#include <vector>
#include "nn/functional.h"
#include "tests/harness.h"
#include "tests/test.h"

using namespace merv;
using namespace merv::test;
using nn::Act;
namespace cpu = merv::kernels::cpu::MERV_ISA;          // of the build's baseline

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

std::vector<float> sweep(double largest) {      // all finite floats up to it, every 1009th bit pattern
    std::vector<float> x;
    for (uint64_t bits = 0; bits < uint64_t(1) << 32; bits += 1009)
        if (const float v = std::bit_cast<float>(uint32_t(bits)); std::fabs(v) <= largest) x.push_back(v);
    return x;
}
template <class Unit> Worst worst(const std::vector<float>& x, const std::vector<double>& want, const float* got, int64_t step, Unit unit) {
    Worst w;
    for (size_t i = 0; i < x.size(); i++)
        if (const double error = std::fabs(double(got[int64_t(i) * step]) - want[i]) / unit(i); !(error <= w.error)) w = {error, x[i]};
    return w;
}

struct Activation { Act act; std::string name; double (*f)(double), (*slope)(double); };
double logistic(double x) { return 1 / (1 + std::exp(-x)); }
double normal_cdf(double x) { return 0.5 * std::erfc(-x * M_SQRT1_2); }
double steep(double x) { return 2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x); }        // 0.5 (1 + tanh(u)) = logistic(2 u)
double times_both(double x, double at) { return x == 0 ? 0 : x * logistic(at) * logistic(-at); }
const Activation kActivations[] = {
    {Act::gelu, "gelu", [](double x) { return x * normal_cdf(x); }, [](double x) { return normal_cdf(x) + x * std::exp(-0.5 * x * x) / std::sqrt(2 * M_PI); }},
    {Act::gelu_tanh, "gelu_tanh", [](double x) { return x * logistic(steep(x)); },
     [](double x) { return logistic(steep(x)) + times_both(x, steep(x)) * 2 * std::sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x); }},
    {Act::quick_gelu, "quick_gelu", [](double x) { return x * logistic(1.702 * x); }, [](double x) { return logistic(1.702 * x) + 1.702 * times_both(x, 1.702 * x); }},
    {Act::silu, "silu", [](double x) { return x * logistic(x); }, [](double x) { return logistic(x) + times_both(x, x); }},
};

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

// An activation's error is a few roundings of its factor in [0, 1], times x; its slope's, of 1.
TEST_CASE("simd: activations within 3 ulp of x and their slopes within 4 ulp of 1, on every instruction set") {
    const std::vector<float> x = sweep(3.5e38), moderate = sweep(1e4);     // x^2 of the slope does not overflow
    const Tensor in = from_floats(x, {int64_t(x.size()), 1}), in_moderate = from_floats(moderate, {int64_t(moderate.size()), 1}), one = from_floats(std::vector<float>{1}, {1, 1});
    const Tensor dy = from_floats(std::vector<float>(moderate.size(), 1.0f), in_moderate.shape());
    for (const Activation& a : kActivations) {
        std::vector<double> y, slope;
        for (float v : x) y.push_back(a.f(double(v)));
        for (float v : moderate) slope.push_back(a.slope(double(v)));
        on_every_isa([&](Isa isa) {
            auto op = [&](const Tensors& t) { return nn::linear(t[0], one, {}, {.act = a.act}); };
            const Worst w = worst(x, y, op({in}).data<float>(), 1, [&](size_t i) { return ulp(double(x[i])); });
            EXPECT_MESSAGE(w.error <= 3, a.name, " on ", isa_name(isa), ", ulp of x: ", w);
            const Tensor dx = derive(op, {in_moderate}, dy, {true}).gradients[0];
            const Worst s = worst(moderate, slope, dx.data<float>(), 1, [](size_t) { return 0x1p-23; });
            EXPECT_MESSAGE(s.error <= 4, "slope of ", a.name, " on ", isa_name(isa), ", ulp of 1: ", s);
            const std::vector<float> edges{kNaN, 0.0f, -0.0f, kInf};
            const Tensor at_edges = op({from_floats(edges, {4, 1})});
            EXPECT(std::isnan(at_edges.data<float>()[0]));
            EXPECT_EQ(at_edges.data<float>()[1], 0.0f);
            EXPECT_EQ(at_edges.data<float>()[2], 0.0f);
            EXPECT_EQ(at_edges.data<float>()[3], kInf);
        });
    }
}

TEST_CASE("simd: exp through softmax([x, 0]) within 3 ulp, 0 below e^-87.3, on every instruction set") {
    const std::vector<float> x = sweep(3.5e38);
    const Tensor rows({int64_t(x.size()), 2});
    std::vector<double> want[2];
    for (size_t i = 0; i < x.size(); i++) {
        rows.data<float>()[2 * i] = x[i], rows.data<float>()[2 * i + 1] = 0;
        want[0].push_back(logistic(double(x[i]))), want[1].push_back(logistic(-double(x[i])));
    }
    on_every_isa([&](Isa isa) {
        const Tensor y = nn::softmax_rows(rows);
        for (int side : {0, 1}) {
            auto unit = [&](size_t i) { return std::fabs(x[i]) > 87.3 && want[side][i] < 0.5 ? 0x1p-125 : ulp(want[side][i]); };
            const Worst w = worst(x, want[side], y.data<float>() + side, 2, unit);
            EXPECT_MESSAGE(w.error <= 3, isa_name(isa), ", ulp: ", w);
        }
    });
}

TEST_CASE("simd: sums of a row, whole vectors and their tail") {
    for (int64_t n : {0, 1, 3, 4, 5, 15, 16, 17, 31, 33, 257}) {
        std::vector<float> x(size_t(n) + 1, kNaN);      // what lies behind is not read
        double want = 0;
        for (int64_t i = 0; i < n; i++) x[size_t(i)] = float(i * i % 101), want += double(i * i % 101);         // small integers: exact in any order
        EXPECT_EQ(cpu::row_sum(x.data(), n, [](cpu::Vec v) { return v; }), float(want));
    }
}
