// layernorm and rmsnorm over the last dimension
#include "tests/harness.h"
#include <cmath>
#include "kernels/elementwise.h"
#include "kernels/norm.h"
#include "nn/functional.h"
#include "tests/test.h"

using namespace merv;
using namespace merv::test;

namespace {

constexpr float kEps = 1e-5f;

Numbers layernorm_formula(const std::vector<Numbers>& in, int64_t M, int64_t C, Round q) {
    const Numbers &x = in[0], &w = in[1], &b = in[2];
    Numbers y;
    for (int64_t m = 0; m < M; m++) {
        auto at = [&](int64_t c) { return x[size_t(m * C + c)]; };
        Real sum, squares;
        for (int64_t c = 0; c < C; c++) sum = q(sum + at(c));
        const Real mean = q(sum / double(C));
        for (int64_t c = 0; c < C; c++) squares = q(squares + q(q(at(c) - mean) * q(at(c) - mean)));
        const Real rstd = q(1 / q(sqrt(q(q(squares / double(C)) + kEps))));
        for (int64_t c = 0; c < C; c++) y.push_back(q(q(q(q(at(c) - mean) * rstd) * w[size_t(c)]) + b[size_t(c)]));
    }
    return y;
}
Numbers rmsnorm_formula(const std::vector<Numbers>& in, int64_t M, int64_t C, Round q) {
    const Numbers &x = in[0], &w = in[1];
    Numbers y;
    for (int64_t m = 0; m < M; m++) {
        auto at = [&](int64_t c) { return x[size_t(m * C + c)]; };
        Real squares;
        for (int64_t c = 0; c < C; c++) squares = q(squares + q(at(c) * at(c)));
        const Real rstd = q(1 / q(sqrt(q(q(squares / double(C)) + kEps))));
        for (int64_t c = 0; c < C; c++) y.push_back(q(q(at(c) * rstd) * w[size_t(c)]));
    }
    return y;
}

struct Rows { int64_t M, C; double mean = 0, spread = 1; };
std::string name(const Rows& r) { return concat(r.M, "x", r.C, r.mean == 0 && r.spread == 1 ? "" : concat(", mean ", r.mean, ", spread ", r.spread)); }
Setting layernorm(Rows r) {
    return {name(r), {input({r.M, r.C}, r.mean, r.spread), parameter({r.C}), parameter({r.C})},
            [](const Tensors& x) { return nn::layernorm(x[0], x[1], x[2], kEps); },
            [=](const std::vector<Numbers>& x, Round q) { return layernorm_formula(x, r.M, r.C, q); }};
}
Setting rmsnorm(Rows r) {
    return {name(r), {input({r.M, r.C}, r.mean, r.spread), parameter({r.C})},
            [](const Tensors& x) { return nn::rmsnorm(x[0], x[1], kEps); },
            [=](const std::vector<Numbers>& x, Round q) { return rmsnorm_formula(x, r.M, r.C, q); },
            r.C > 1 ? Setting::Gradient::checked : Setting::Gradient::none};    // of one number: what cancellation leaves of eps
}

const Rows kPlain[] = {{1, 1}, {7, 1}, {1, 15}, {2, 16}, {13, 17}, {5, 31}, {5, 33}, {31, 65}, {3, 257}, {17, 1024}, {3, 4099}, {63, 17}, {64, 15}, {65, 18}, {257, 19}};
const Rows kSmall[] = {{13, 17, 0, 0.003}, {5, 1024, 0, 0.003}, {5, 65, 0, 1e-6}};           // eps has its share, or all
const Rows kOffset[] = {{5, 15, 100, 0.1}, {5, 17, 100, 0.1}, {5, 1024, 100, 0.1}};         // a variance from E[x^2] - E[x]^2 would drown

}

TEST_CASE("layernorm") {
    std::vector<Setting> plain, small, offset;
    for (const Rows& r : kPlain) plain.push_back(layernorm(r));
    for (const Rows& r : kSmall) small.push_back(layernorm(r));
    for (const Rows& r : kOffset) offset.push_back(layernorm(r));
    check_op("layernorm", plain);
    check_op("layernorm small", small);
    check_op("layernorm offset", offset);
}

TEST_CASE("rmsnorm") {
    std::vector<Setting> plain, small, offset;
    for (const Rows& r : kPlain) plain.push_back(rmsnorm(r));
    for (const Rows& r : kSmall) small.push_back(rmsnorm(r));
    for (const Rows& r : kOffset) offset.push_back(rmsnorm(r));
    check_op("rmsnorm", plain);
    check_op("rmsnorm small", small);
    check_op("rmsnorm offset", offset);
}

TEST_CASE("layernorm, rmsnorm: wrong arguments are refused by name") {
    const Tensor x = normal({4, 8}, "x"), w = normal({8}, "w"), short_w = normal({7}, "w"),
                 ints({8}, DType::i32), many({4, 8}, DType::i32);
    EXPECT_THROWS_WITH_AS(nn::layernorm(x, short_w, w, kEps), doctest::Contains("layernorm: x f32(4, 8), w f32(7)"), std::logic_error);
    EXPECT_THROWS_WITH_AS(nn::layernorm(x, w, short_w, kEps), doctest::Contains("layernorm: "), std::logic_error);
    EXPECT_THROWS_WITH_AS(nn::layernorm(x, w, ints, kEps), doctest::Contains("layernorm: "), std::logic_error);
    EXPECT_THROWS_WITH_AS(nn::layernorm(many, w, w, kEps), doctest::Contains("layernorm: "), std::logic_error);
    EXPECT_THROWS_WITH_AS(nn::rmsnorm(x, short_w, kEps), doctest::Contains("rmsnorm: x f32(4, 8), w f32(7)"), std::logic_error);
    EXPECT_THROWS_WITH_AS(nn::rmsnorm(many, w, kEps), doctest::Contains("rmsnorm: "), std::logic_error);
}

// In the same pass as the sum, on every device: the bits of adding first. Backward adds what comes in beside, in f32 exactly.
TEST_CASE("norm: with a residual") {
    kernels::use_checks(true);
    for (Device device : {Device::cpu, Device::emu})
        for (DType dtype : {DType::f32, DType::bf16})
            for (int64_t C : {7, 64, 1030}) {
                const OnDevice on(device);
                const int64_t M = 5;
                auto random = [&](const char* what, Shape shape) { return normal(shape, concat(what, C), 0, 1, dtype).to(device); };
                const Tensor x = random("x", {M, C}), r = random("r", {M, C}), w = random("w", {C}), b = random("b", {C}), dy = random("dy", {M, C}), dsum = random("dsum", {M, C});
                const Tensor sum = empty_like(x), fused_sum = empty_like(x);
                kernels::add({.y = sum, .a = x, .b = r});
                for (bool centre : {true, false}) {
                    const Tensor y = empty_like(x), fused = empty_like(x), dx = empty_like(x), fused_dx = empty_like(x), added = empty_like(x), dw = zeros({C}), db = zeros({C});
                    if (centre) {
                        kernels::layernorm({.y = y, .x = sum, .w = w, .b = b});
                        kernels::layernorm({.y = fused, .x = x, .w = w, .b = b, .residual = r, .sum = fused_sum});
                        kernels::layernorm({.dx = dx, .dw = dw, .db = db, .dy = dy, .x = sum, .w = w});
                        kernels::layernorm({.dx = fused_dx, .dw = dw, .db = db, .dy = dy, .x = sum, .w = w, .dsum = dsum});
                    } else {
                        kernels::rmsnorm({.y = y, .x = sum, .w = w});
                        kernels::rmsnorm({.y = fused, .x = x, .w = w, .residual = r, .sum = fused_sum});
                        kernels::rmsnorm({.dx = dx, .dw = dw, .dy = dy, .x = sum, .w = w});
                        kernels::rmsnorm({.dx = fused_dx, .dw = dw, .dy = dy, .x = sum, .w = w, .dsum = dsum});
                    }
                    kernels::add({.y = added, .a = dx, .b = dsum});
                    EXPECT(same_bits(fused.to(Device::cpu), y.to(Device::cpu)));
                    EXPECT(same_bits(fused_sum.to(Device::cpu), sum.to(Device::cpu)));
                    if (dtype == DType::f32) { EXPECT(same_bits(fused_dx.to(Device::cpu), added.to(Device::cpu))); continue; }
                    const std::vector<float> got = to_floats(fused_dx), twice = to_floats(added), once = to_floats(dx);        // halves of a unit in the last place: one of dx, one of each sum
                    for (size_t i = 0; i < got.size(); i++) EXPECT(std::fabs(got[i] - twice[i]) <= 0x1p-8f * (std::fabs(once[i]) + 2 * std::fabs(twice[i])));
                }
            }
}
