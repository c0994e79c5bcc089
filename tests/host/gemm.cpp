// The engine's wrapper of cuBLASLt (kernels/cuda/host/gemm.h) against its formula in double, in all combinations of what it takes.
#include "core/cuda.h"
#include "tests/host/cuda.h"
#include "tests/host/products.h"

using namespace merv;
using namespace merv::test;

TEST_CASE("gemm: every type, transposition, epilogue, gap and way to add gives the formula, and what is refused is left alone") {
    open_cuda(0);
    const int before = emulated::reports_so_far();
    int computed = 0, refused = 0;
    for (const auto& [type, y_type] : {std::pair(DType::f32, DType::f32), {DType::bf16, DType::bf16}, {DType::bf16, DType::f32}})
        for (int bits = 0; bits < 256; bits++)
            for (const auto add : {Product::Add::none, Product::Add::other, Product::Add::in_place}) {
                const int64_t aligned = 16 / size_of(type);
                const Product p{.type = type, .y_type = y_type, .a_along_k = !(bits & 1), .b_along_k = !(bits & 2), .bias = bool(bits & 4), .gelu = bool(bits & 8), .z = bool(bits & 16), .add = add,
                                .M = 24, .N = 16, .K = bits & 128 ? 16 : 40, .gap_a = bits & 32 ? aligned : 0, .gap_b = bits & 64 ? 2 * aligned : 0};
                if (p.z && !p.gelu) continue;               // z is GELU's argument
                const RunningProduct run(p, uint64_t(bits));
                const bool refuses = p.gelu && add != Product::Add::none;
                EXPECT_MESSAGE((refuses ? run.is_untouched() : run.is_right()), name_of(p));
                (refuses ? refused : computed)++;
            }
    // Rows, or pointers, that are no multiples of 16 bytes
    for (const Product& p : {Product{.gap_a = 1}, {.gap_a = 2}, {.gap_b = 3}, {.type = DType::bf16, .gap_b = 4}, {.N = 18}, {.type = DType::bf16, .y_type = DType::bf16, .N = 12}, {.gelu = true, .z = true, .N = 12}, {.shift = 1},
                             {.type = DType::bf16, .shift = 4}}) {
        EXPECT_MESSAGE(RunningProduct(p).is_untouched(), name_of(p));
        refused++;
    }
    for (const Product& p : {Product{.M = 1}, {.M = 1, .N = 4, .K = 4}, {.M = 3, .N = 8, .K = 200}, {.type = DType::bf16, .M = 1, .N = 8, .K = 8}, {.N = 12}, {.shift = 4}}) {
        EXPECT_MESSAGE(RunningProduct(p).is_right(), name_of(p));
        computed++;
    }
    emulated::fail_next("cublasLtMatmulAlgoGetHeuristic", 15);      // CUBLAS_STATUS_NOT_SUPPORTED: no algorithm
    EXPECT(RunningProduct(Product{.M = 40, .N = 48}).is_untouched());
    EXPECT(RunningProduct(Product{.M = 40, .N = 48}).is_untouched());      // remembered
    EXPECT_EQ(emulated::reports_so_far(), before);
    MESSAGE(computed, " products computed, ", refused, " refused");
}
