// GPU kernels, emulated, where the op cases do not reach.
// The tensor-core product: rows of whole 16 bytes, which the op cases' odd shapes are not, more steps along k than stages, ragged edges.
#include <cmath>
#include "kernels/device.h"
#include "kernels/linear.h"
#include "kernels/reduce.h"
#include "tests/harness.h"
#include "tests/test.h"

using namespace merv;
using namespace merv::test;

namespace {

// Every element's sum in double, and of the products' sizes: f32 sums of K terms err by at most K ulps of half that, and a
// result kept in bf16 by half an ulp more.
struct Sums { std::vector<double> value, size; };
template <class F> Sums sums(int64_t M, int64_t N, int64_t K, F product) {
    Sums s{std::vector<double>(size_t(M * N)), std::vector<double>(size_t(M * N))};
    for (int64_t m = 0; m < M; m++)
        for (int64_t n = 0; n < N; n++)
            for (int64_t k = 0; k < K; k++) {
                const double p = product(m, n, k);
                s.value[size_t(m * N + n)] += p, s.size[size_t(m * N + n)] += std::fabs(p);
            }
    return s;
}
void expect_near(const Tensor& t, const Sums& want, int64_t K) {
    const std::vector<float> got = to_floats(t);
    REQUIRE_EQ(got.size(), want.value.size());
    for (size_t i = 0; i < got.size(); i++) {
        const double limit = double(K) * 0x1p-24 * want.size[i] + (t.dtype() == DType::bf16 ? 0x1p-8 * std::fabs(want.value[i]) : 0);
        if (!(std::fabs(got[i] - want.value[i]) <= limit)) FAIL_CHECK("element " << i << " of " << t.describe() << " is " << got[i] << ", not " << want.value[i]);
    }
    EXPECT(true);
}

}

TEST_CASE("gpu: products on tensor cores, forward and backward") {
    constexpr int64_t M = 136, N = 152, K = 168;        // two blocks of 128 each way, six steps of 32 along k, three stages
    const std::vector<float> x = to_floats(normal({M, K}, "x", 0, 1, DType::bf16)), w = to_floats(normal({N, K}, "w", 0, 1, DType::bf16)), dz = to_floats(normal({M, N}, "dz", 0, 1, DType::bf16));
    kernels::use_checks(true);
    const OnDevice emulated(Device::emu);
    const Tensor tx = from_floats(x, {M, K}, DType::bf16), tw = from_floats(w, {N, K}, DType::bf16), tdz = from_floats(dz, {M, N}, DType::bf16);
    const Tensor y({M, N}, DType::bf16), dx({M, K}, DType::bf16), dw = from_floats(std::vector<float>(size_t(N * K), 0.0f), {N, K});
    kernels::linear({.y = y, .x = tx, .w = tw});
    expect_near(y, sums(M, N, K, [&](int64_t m, int64_t n, int64_t k) { return double(x[size_t(m * K + k)]) * w[size_t(n * K + k)]; }), K);
    kernels::linear({.dx = dx, .dz = tdz, .w = tw});
    expect_near(dx, sums(M, K, N, [&](int64_t m, int64_t k, int64_t n) { return double(dz[size_t(m * N + n)]) * w[size_t(n * K + k)]; }), N);
    kernels::linear({.dw = dw, .dz = tdz, .x = tx});
    expect_near(dw, sums(N, K, M, [&](int64_t n, int64_t k, int64_t m) { return double(dz[size_t(m * N + n)]) * x[size_t(m * K + k)]; }), M);
}

TEST_CASE("gpu: products of few rows read the matrix once") {
    for (auto [tx, tw] : {std::pair{DType::bf16, DType::bf16}, std::pair{DType::f32, DType::bf16}, std::pair{DType::f32, DType::f32}, std::pair{DType::bf16, DType::f32}})
        for (int64_t M : {1, 2, 3, 4}) {
            constexpr int64_t N = 18, K = 520;          // more than two blocks' columns, and two steps and a piece of a warp
            const std::vector<float> x = to_floats(normal({M, K}, "x", 0, 1, tx)), w = to_floats(normal({N, K}, "w", 0, 1, tw));
            kernels::use_checks(true);
            const OnDevice emulated(Device::emu);
            const Tensor y({M, N}, tx), residual = from_floats(std::vector<float>(size_t(M * N), 1.0f), {M, N}, tx);
            kernels::linear({.y = y, .x = from_floats(x, {M, K}, tx), .w = from_floats(w, {N, K}, tw), .residual = residual});
            Sums want = sums(M, N, K, [&](int64_t m, int64_t n, int64_t k) { return double(x[size_t(m * K + k)]) * w[size_t(n * K + k)]; });
            for (double& v : want.value) v += 1;
            for (double& v : want.size) v += 1;
            expect_near(y, want, K);
        }
}

// kernels/reduce.h defines the order of every addition, so the result is the same bits anywhere.
TEST_CASE("gpu: sums of a flat buffer have the bits of their definition") {
    kernels::use_checks(true);
    for (DType dtype : {DType::f32, DType::bf16})
        for (int64_t n : {1, 15, 17, 4095, 4096, 4097, 9001})
            for (bool squares : {false, true}) {
                const std::vector<float> x = to_floats(normal({n}, "x", 0.3, 1, dtype));
                std::vector<float> want;
                for (int64_t c = 0; c < n; c += kernels::kSumChunk) {
                    double running[16] = {};
                    for (int64_t i = c; i < std::min(n, c + kernels::kSumChunk); i++) {
                        const double v = x[size_t(i)];
                        running[(i - c) % 16] += squares ? v * v : v;
                    }
                    for (int half = 8; half; half /= 2)
                        for (int j = 0; j < half; j++) running[j] += running[j + half];
                    want.push_back(float(running[0]));
                }
                const OnDevice emulated(Device::emu);
                const std::vector<float> got = to_floats(kernels::chunk_sums(from_floats(x, {n}, dtype), squares));
                EXPECT_MESSAGE(got == want, n, " of ", name_of(dtype), squares ? ", squares" : "");
            }
}
