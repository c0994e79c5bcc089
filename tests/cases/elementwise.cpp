// y = a + b, and y = x in another type
#include "kernels/elementwise.h"
#include "nn/functional.h"
#include <algorithm>
#include <cmath>
#include "tests/harness.h"
#include "tests/test.h"

using namespace merv;
using namespace merv::test;

namespace {

Setting sum(Shape shape) {
    return {concat(shape), {input(shape), input(shape)}, [](const Tensors& x) { return nn::add(x[0], x[1]); },
            [](const std::vector<Numbers>& x, Round q) {
                Numbers y;
                for (size_t i = 0; i < x[0].size(); i++) y.push_back(q(x[0][i] + x[1][i]));
                return y;
            }};
}
Setting twice(Shape shape) {                    // both gradients go to one tensor
    return {concat(shape, ", twice"), {input(shape)}, [](const Tensors& x) { return nn::add(x[0], x[0]); },
            [](const std::vector<Numbers>& x, Round q) {
                Numbers y;
                for (const Real& v : x[0]) y.push_back(q(v + v));
                return y;
            }};
}

Setting conversion(Shape shape, DType dtype) {
    return {concat(shape, " to ", name_of(dtype)), {input(shape)}, [=](const Tensors& x) { return nn::convert(x[0], dtype); },
            [](const std::vector<Numbers>& x, Round) { return x[0]; }, Setting::Gradient::checked, true};
}

}

TEST_CASE("convert") {
    check_op("convert", {conversion({1}, DType::bf16), conversion({7, 15}, DType::bf16), conversion({130, 127}, DType::bf16), conversion({3, 33}, DType::f32), conversion({130, 127}, DType::f32)});
}
TEST_CASE("add") { check_op("add", {sum({1}), sum({7, 15}), sum({3, 5, 33}), sum({130, 127}), sum({0, 4}), twice({5, 31})}); }
TEST_CASE("add: the output may be an input") {
    for (DType t : {DType::f32, DType::bf16}) {
        const Tensor a = normal({13, 17}, "a", 0, 1, t), b = normal({13, 17}, "b", 0, 1, t), y = nn::add(a, b);
        for (const Tensor& out : {a, b}) {
            const Tensor before = empty_like(out);
            before.copy_from(out);
            kernels::add({.y = out, .a = a, .b = b});
            EXPECT(same_bits(out, y));
            out.copy_from(before);
        }
    }
}
TEST_CASE("add: wrong arguments are refused by name") {
    auto refused = [&](auto call) { EXPECT_THROWS_WITH_AS(call(), doctest::Contains("add: "), std::logic_error); };
    refused([] { nn::add(Tensor({2, 3}), Tensor({3, 2})); });
    refused([] { nn::add(Tensor({2, 3}), Tensor({2, 3}, DType::bf16)); });
    refused([] { nn::add(Tensor({2, 3}, DType::i32), Tensor({2, 3}, DType::i32)); });
}

TEST_CASE("convert: f32 to bf16 rounds to nearest even, and back is exact") {
    on_every_isa([](Isa isa) {
        const Tensor x = normal({37, 501}, "x"), half(x.shape(), DType::bf16), back(x.shape());
        float* v = x.data<float>();
        const float edges[] = {0.0f, -0.0f, 1 + 0x1p-8f, 1 + 0x3p-8f, 1 + 0x1p-8f + 0x1p-20f, INFINITY, -INFINITY, NAN, 3.4e38f, 1e-40f};
        std::copy(std::begin(edges), std::end(edges), v);
        kernels::convert({.y = half, .x = x});
        kernels::convert({.y = back, .x = half});
        int differ = 0;
        for (int64_t i = 0; i < x.numel(); i++) {
            const bf16 want(v[i]);
            differ += half.data<bf16>()[i].bits != want.bits || (v[i] == v[i] && back.data<float>()[i] != float(want));
        }
        EXPECT_MESSAGE(differ == 0, isa_name(isa));
        EXPECT(std::isnan(back.data<float>()[7]));
    });
}
