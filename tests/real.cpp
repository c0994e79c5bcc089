// The derivatives of Real against central differences: without them no gradient oracle is worth anything.
#include "tests/real.h"
#include <functional>
#include "tests/test.h"

using namespace merv;
using namespace merv::test;

namespace {

using F = std::function<Real(const Numbers&)>;

std::vector<double> gradient(const F& f, const std::vector<double>& at, Arithmetic how = Arithmetic::exact) {
    Recording r(how);
    Numbers x;
    for (double v : at) x.push_back(r.variable(v));
    const std::vector<double> adjoint = r.adjoints({f(x)}, {1});
    return {adjoint.begin(), adjoint.begin() + int64_t(at.size())};
}

}

TEST_CASE("real: derivatives are those of central differences") {
    const Round exact;
    const struct { std::string name; F f; } all[] = {
        {"a + b", [](const Numbers& x) { return x[0] + x[1]; }},
        {"a - b", [](const Numbers& x) { return x[0] - x[1]; }},
        {"a * b", [](const Numbers& x) { return x[0] * x[1]; }},
        {"a / b", [](const Numbers& x) { return x[0] / x[1]; }},
        {"-a", [](const Numbers& x) { return -x[0]; }},
        {"with a constant", [](const Numbers& x) { return 3 - 2 * x[0] / (1 + x[1]); }},
        {"a * a", [](const Numbers& x) { return x[0] * x[0]; }},
        {"max", [](const Numbers& x) { return max(x[0], max(x[1], x[2])); }},
        {"sqrt", [](const Numbers& x) { return sqrt(x[0]); }},
        {"exp", [](const Numbers& x) { return exp(x[0]); }},
        {"log", [](const Numbers& x) { return log(x[0]); }},
        {"erf", [](const Numbers& x) { return erf(x[0]); }},
        {"tanh", [](const Numbers& x) { return tanh(x[0]); }},
        {"madd", [=](const Numbers& x) { return madd(x[0], x[1], x[2], exact); }},
        {"a variable met many times", [=](const Numbers& x) {
            Real sum = x[2];
            for (int i = 0; i < 9; i++) sum = madd(x[0], tanh(sum - x[1]), sum, exact);
            return sum;
        }},
        {"no variable", [](const Numbers&) { return Real(3) * 4; }},
    };
    for (const auto& [name, f] : all)
        for (const std::vector<double>& at : std::vector<std::vector<double>>{{0.7, 1.3, 0.2}, {2.1, -0.4, 1.9}, {0.4, 3.5, -2}}) {
            const std::vector<double> got = gradient(f, at);
            for (size_t i = 0; i < at.size(); i++) {
                auto shifted = [&](double by) {
                    Numbers x(at.begin(), at.end());
                    x[i].v += by;
                    return f(x).v;
                };
                const double h = 1e-5, want = (shifted(h) - shifted(-h)) / (2 * h);
                EXPECT_MESSAGE(std::fabs(got[i] - want) <= 1e-8 * (1 + std::fabs(want)), name, " by variable ", i, ": ", got[i], " and not ", want);
            }
        }
}

TEST_CASE("real: plain f32 rounds partials and adjoints, and q passes adjoints through") {
    const Round q{Arithmetic::f32_fused};
    auto third = [=](const Numbers& x) { return q(q(x[0] / 3) / 3); };
    EXPECT_EQ(third({1.0}).v, to_f32(to_f32(1.0 / 3) / 3));
    EXPECT_EQ(gradient(third, {1}, q.how)[0], to_f32(to_f32(1.0 / 3) * to_f32(1.0 / 3)));
    EXPECT(std::fabs(gradient(third, {1})[0] - 1.0 / 9) < 1e-16);           // q of no consequence without a rounding arithmetic
    auto sum = [](const Numbers& x) {
        Real all = x[0];
        for (int i = 0; i < 2; i++) all = all + 0x1p-24 * x[0];
        return all;
    };
    EXPECT_EQ(gradient(sum, {1})[0], 1 + 0x1p-23);
    EXPECT_EQ(gradient(sum, {1}, Arithmetic::f32)[0], 1);                   // each small term is lost
    EXPECT_EQ(madd(1 + 0x1p-23, 1 + 0x1p-23, -1 - 0x1p-22, Arithmetic::f32), 0);
    EXPECT_EQ(madd(1 + 0x1p-23, 1 + 0x1p-23, -1 - 0x1p-22, Arithmetic::f32_fused), 0x1p-46);

    const Round half{Arithmetic::f32_fused, DType::bf16, DType::f32, true}, forward{Arithmetic::f32_fused, DType::bf16};
    const double v = 1 + 0x1p-10;
    EXPECT_EQ(half.kept(v).v, 1);
    EXPECT_EQ(forward.kept(v).v, v);
    EXPECT_EQ(gradient([=](const Numbers& x) { return half.gradient_kept(x[0]) * v; }, {1}, half.how)[0], 1);
    EXPECT_EQ(gradient([=](const Numbers& x) { return x[0] * v; }, {1}, half.how)[0], v);
}
