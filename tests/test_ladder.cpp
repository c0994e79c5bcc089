// Every rung of the two ladders against the formula in double, on the emulated GPU in checked mode.
#include <cmath>
#include "kernels/ladder/ladder.h"
#include "tests/harness.h"
#include "tests/test.h"

using namespace merv;
using namespace merv::test;
namespace ladder = kernels::ladder;

TEST_CASE("ladder: every layernorm is the formula's") {
    kernels::use_checks(true);
    const OnDevice emulated(Device::emu);
    const int64_t M = 37;
    for (const int64_t C : {128, 640, 1024})
        for (const auto& rung : ladder::layernorm_rungs()) {
            const Tensor x = normal({M, C}, "x", 2, 1), w = normal({C}, "w"), b = normal({C}, "b"), y({M, C});
            rung.run({.y = y, .x = x, .w = w, .b = b});
            const std::vector<float> xs = to_floats(x), ws = to_floats(w), bs = to_floats(b), ys = to_floats(y);
            double worst = 0;
            for (int64_t m = 0; m < M; m++) {
                double mean = 0, variance = 0;
                for (int64_t c = 0; c < C; c++) mean += double(xs[size_t(m * C + c)]) / double(C);
                for (int64_t c = 0; c < C; c++) variance += std::pow(double(xs[size_t(m * C + c)]) - mean, 2) / double(C);
                for (int64_t c = 0; c < C; c++) {
                    const double want = (double(xs[size_t(m * C + c)]) - mean) / std::sqrt(variance + 1e-5) * ws[size_t(c)] + bs[size_t(c)];
                    // the sum of C numbers near 2 errs by less than its naive order's C / 2 roundings, of half an ulp of the sum each
                    const double limit = 0x1p-24 * (double(C) + 8) * (std::fabs(double(ws[size_t(c)])) * 2 + std::fabs(want));
                    worst = std::max(worst, std::fabs(ys[size_t(m * C + c)] - want) / limit);
                }
            }
            EXPECT_MESSAGE(worst <= 1, rung.name, ", rows of ", C, ": ", worst, " times what rounding explains");
            EXPECT_MESSAGE(worst > 1e-3, rung.name, ": the limit is too loose");
        }
}

TEST_CASE("ladder: every attention is the formula's") {
    kernels::use_checks(true);
    const OnDevice emulated(Device::emu);
    const int64_t H = 2, D = 64;
    for (const int64_t N : {64, 192})               // one tile, and more than the pipeline's two
        for (const auto& rung : ladder::attention_rungs()) {
            const Tensor q = normal({N, H * D}, "q", 0, 1, DType::bf16), k = normal({N, H * D}, "k", 0, 1, DType::bf16), v = normal({N, H * D}, "v", 0, 1, DType::bf16), o({N, H * D}, DType::bf16);
            rung.run({.o = o, .q = q, .k = k, .v = v});
            const std::vector<float> qs = to_floats(q), ks = to_floats(k), vs = to_floats(v), os = to_floats(o);
            double worst = 0;
            for (int64_t h = 0; h < H; h++)
                for (int64_t i = 0; i < N; i++) {
                    std::vector<double> p(static_cast<size_t>(N));
                    double sum = 0;
                    for (int64_t j = 0; j < N; j++) {
                        double dot = 0;
                        for (int64_t d = 0; d < D; d++) dot += double(qs[size_t(i * H * D + h * D + d)]) * ks[size_t(j * H * D + h * D + d)];
                        sum += p[size_t(j)] = std::exp(dot / 8);
                    }
                    for (int64_t d = 0; d < D; d++) {
                        double want = 0, size = 0;
                        for (int64_t j = 0; j < N; j++) want += p[size_t(j)] / sum * vs[size_t(j * H * D + h * D + d)], size += p[size_t(j)] / sum * std::fabs(vs[size_t(j * H * D + h * D + d)]);
                        const double limit = 0x1p-8 * (size + std::fabs(want));     // probabilities in bf16, and the result
                        worst = std::max(worst, std::fabs(os[size_t(i * H * D + h * D + d)] - want) / limit);
                    }
                }
            EXPECT_MESSAGE(worst <= 1, rung.name, ", ", N, " tokens: ", worst, " times what rounding explains");
            EXPECT_MESSAGE(worst > 0.05, rung.name, ": the limit is too loose");
        }
}
