// Rotary embedding: the pair (d, d + D/2) is a complex number, turned by the angle of its position
#include "tests/harness.h"
#include <complex>
#include "kernels/rope.h"
#include "nn/functional.h"
#include "tests/test.h"

using namespace merv;
using namespace merv::test;

namespace {

Setting setting(int64_t N, int64_t H, int64_t D, int64_t start, int64_t positions, double spread = 1, int64_t S = 1) {
    // random tables: the op must not rely on cos^2 + sin^2 = 1
    return {concat(N, "x", H, "x", D, " from ", start, " of ", positions, spread == 1 ? "" : concat(", spread ", spread), S == 1 ? "" : concat(", ", S, " sequences")),
            {input(S == 1 ? Shape{N, H, D} : Shape{S, N, H, D}, 0, spread), fixed({positions, D / 2}), fixed({positions, D / 2})},
            [=](const Tensors& x) { return nn::rope(x[0], x[1], x[2], start); },
            [=](const std::vector<Numbers>& in, Round q) {
                Numbers y(in[0].size());
                for (int64_t n = 0; n < S * N; n++)
                    for (int64_t h = 0; h < H; h++)
                        for (int64_t d = 0; d < D / 2; d++) {
                            const size_t low = size_t((n * H + h) * D + d), high = low + size_t(D / 2), angle = size_t((start + n % N) * (D / 2) + d);
                            const Real re = in[0][low], im = in[0][high], cos = in[1][angle], sin = in[2][angle];
                            y[low] = q(q(re * cos) - q(im * sin));
                            y[high] = q(q(im * cos) + q(re * sin));
                        }
                return y;
            }};
}

}

TEST_CASE("rope") {
    check_op("rope", {setting(1, 1, 2, 0, 1), setting(1, 3, 8, 12, 13), setting(7, 2, 12, 0, 7), setting(13, 5, 24, 4, 20), setting(31, 3, 30, 1, 40),
                      setting(17, 4, 34, 5, 22), setting(65, 8, 64, 100, 201), setting(3, 2, 128, 4093, 4096),
                      setting(2, 40, 80, 0, 2), setting(5, 2, 62, 0, 5, 1000),
                      setting(7, 3, 12, 2, 11, 1, 5), setting(1, 2, 34, 3, 4, 1, 13)});
}

TEST_CASE("rope: the output may be the input") {
    const Tensor x = normal({13, 5, 24}, "x"), cos = normal({20, 12}, "cos"), sin = normal({20, 12}, "sin"), y(x.shape());
    y.copy_from(x);
    kernels::rope({.y = y, .x = y, .cos = cos, .sin = sin, .start = 3});
    EXPECT(same_bits(y, nn::rope(x, cos, sin, 3)));
}

TEST_CASE("rope: wrong arguments are refused by name") {
    const Tensor x = normal({4, 2, 8}, "x"), cos = normal({6, 4}, "cos"), sin = normal({6, 4}, "sin");
    auto refused = [&](auto call) { EXPECT_THROWS_WITH_AS(call(), doctest::Contains("rope: "), std::logic_error); };
    refused([&] { nn::rope(x, cos, sin, 3); });                                         // positions 3 to 7 of 6
    refused([&] { nn::rope(x, cos, sin, -1); });
    refused([&] { nn::rope(x, normal({6, 8}, "cos"), normal({6, 8}, "sin"), 0); });
    refused([&] { nn::rope(x, cos, normal({5, 4}, "sin"), 0); });
    refused([&] { nn::rope(normal({4, 8}, "x"), cos, sin, 0); });
    refused([&] { nn::rope(normal({4, 2, 7}, "x"), normal({6, 3}, "cos"), normal({6, 3}, "sin"), 0); });
    refused([&] { nn::rope(Tensor({4, 2, 8}, DType::i32), cos, sin, 0); });
    refused([&] { nn::rope(x, normal({6, 4}, "cos", 0, 1, DType::bf16), normal({6, 4}, "sin", 0, 1, DType::bf16), 0); });
}

TEST_CASE("rope: appended to a cache") {
    kernels::use_checks(true);
    for (Device device : {Device::cpu, Device::emu})
        for (DType dtype : {DType::f32, DType::bf16})
            for (int64_t D : {6, 16}) {
                const int64_t N = 3, H = 4, Hkv = 2, start = 5, capacity = 11;
                const OnDevice on(device);
                auto random = [&](const char* what, Shape shape) { return normal(shape, concat(what, D), 0, 1, dtype).to(device); };
                const Tensor q = random("q", {N, H, D}), k = random("k", {N, Hkv, D}), v = random("v", {N, Hkv, D}), k_cache = random("k cache", {capacity, Hkv * D}), v_cache = random("v cache", {capacity, Hkv * D});
                const Tensor cos = normal({capacity, D / 2}, "cos").to(device), sin = normal({capacity, D / 2}, "sin").to(device), old_k = empty_like(k_cache), old_v = empty_like(v_cache);
                old_k.copy_from(k_cache), old_v.copy_from(v_cache);
                const Tensor turned = nn::rope_append(q, k, v, cos, sin, start, k_cache, v_cache);
                auto same = [](const Tensor& a, const Tensor& b) { return same_bits(a.to(Device::cpu).reshape({a.numel()}), b.to(Device::cpu).reshape({b.numel()})); };
                EXPECT(same(turned, nn::rope(q, cos, sin, start)));
                EXPECT(same(k_cache.slice(start, start + N), nn::rope(k, cos, sin, start)));
                EXPECT(same(v_cache.slice(start, start + N), v));
                for (const auto& [now, old] : {std::pair{k_cache, old_k}, std::pair{v_cache, old_v}}) {
                    EXPECT(same(now.slice(0, start), old.slice(0, start)));
                    EXPECT(same(now.slice(start + N, capacity), old.slice(start + N, capacity)));
                }
            }
    const Tensor q = normal({2, 2, 8}, "q"), k = normal({2, 1, 8}, "k"), cos = normal({6, 4}, "cos"), cache = normal({4, 8}, "cache");
    EXPECT_THROWS_WITH_AS(nn::rope_append(q, k, k, cos, cos, 3, cache, cache), doctest::Contains("rope_append: rows 3 to 5"), std::logic_error);
    EXPECT_THROWS_WITH_AS(nn::rope_append(q, k, q, cos, cos, 0, cache, cache), doctest::Contains("rope_append: "), std::logic_error);
}
