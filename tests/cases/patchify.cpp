// Where each pixel goes; u8 pixels are normalised in three f32 steps, to the bit
#include "tests/harness.h"
#include "nn/functional.h"
#include "tests/test.h"

using namespace merv;
using namespace merv::test;

namespace {

constexpr std::array<float, 3> kMean{0.48145466f, 0.4578275f, 0.40821073f}, kStd{0.26862954f, 0.26130258f, 0.27577711f};     // CLIP's

Setting setting(int64_t F, int64_t H, int64_t W, int64_t p, int64_t t, bool u8, DType dtype = DType::f32) {
    return {concat(F, "x3x", H, "x", W, " in ", t, "x", p, "x", p, u8 ? ", u8" : "", " to ", name_of(dtype)), {u8 ? pixels({F, 3, H, W}) : fixed({F, 3, H, W})},
            [=](const Tensors& x) { return nn::patchify({x[0], kMean, kStd, dtype}, p, t); },
            [=](const std::vector<Numbers>& x, Round) {
                Numbers y(x[0].size());
                size_t from = 0;
                for (int64_t f = 0; f < F; f++)
                    for (int64_t c = 0; c < 3; c++)
                        for (int64_t i = 0; i < H; i++)
                            for (int64_t j = 0; j < W; j++, from++) {
                                const int64_t patch = i / p * (W / p) + j / p, patches = (H / p) * (W / p);
                                const int64_t column = ((c * t + f % t) * p + i % p) * p + j % p;
                                const float v = float(x[0][from].v);            // rounding at each step is the definition, not an error
                                const float zero_to_one = v / 255.0f, centred = zero_to_one - kMean[size_t(c)], normalised = centred / kStd[size_t(c)];
                                y[size_t((f / t * patches + patch) * 3 * t * p * p + column)] = to_type(double(u8 ? normalised : v), dtype);
                            }
                return y;
            }, Setting::Gradient::none};
}

}

TEST_CASE("patchify") {
    std::vector<Setting> s;
    for (bool u8 : {false, true})
        for (int64_t t : {1, 2})
            for (auto [F, H, W, p] : std::vector<std::array<int64_t, 4>>{{2, 1, 1, 1}, {2, 14, 42, 14}, {4, 15, 10, 5}, {6, 48, 32, 16}, {2, 21, 35, 7}})
                for (DType dtype : {DType::f32, DType::bf16}) s.push_back(setting(F, H, W, p, t, u8, dtype));
    s.push_back(setting(6, 6, 9, 3, 3, true));
    check_op("patchify", s);
}

TEST_CASE("patchify: wrong arguments are refused by name") {
    auto refused = [&](auto call) { EXPECT_THROWS_WITH_AS(call(), doctest::Contains("patchify: "), std::logic_error); };
    refused([] { nn::patchify({Tensor({2, 3, 15, 14})}, 14); });
    refused([] { nn::patchify({Tensor({2, 3, 14, 15})}, 14); });
    refused([] { nn::patchify({Tensor({3, 3, 14, 14})}, 14, 2); });
    refused([] { nn::patchify({Tensor({2, 4, 14, 14})}, 14); });
    refused([] { nn::patchify({Tensor({3, 14, 14})}, 14); });
    refused([] { nn::patchify({Tensor({2, 3, 14, 14}, DType::bf16)}, 14); });
}
