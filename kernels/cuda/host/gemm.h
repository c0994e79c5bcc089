// Matrix products by cuBLASLt, for linear.cu.
//
//   y[m][n] = act(sum_k a(m, k) b(n, k) + bias[n]) + add[m][n]
//
// a and b lie along k (a(m, k) at a[m * lda + k]) or across it (a[k * lda + m]); both f32, or both bf16; sums are f32, never TF32.
// y is row-major and dense, f32 or their type; bias and z (the value before act) are of y's type; add may be y itself.
#pragma once
#include <cstdint>
#include "core/dtype.h"

namespace merv {

struct Gemm {
    const char *name, *file;                    // of the op and its place, for errors
    int line;
    DType type, y_type;                         // of a and b; of y, z, bias, add
    const void *a, *b;
    int64_t lda, ldb;
    bool a_along_k, b_along_k;
    int64_t M, N, K;
    void* y;
    const void* bias = nullptr;
    const void* add = nullptr;
    bool gelu_tanh = false;                     // act, which cuBLASLt has in this form only
    void* z = nullptr;
};
// Queued in the current stream. False, and nothing was done: cuBLASLt has no way to compute it (rows of a length that is no multiple of 16 bytes, ...).
bool cublaslt_gemm(const Gemm&);

}
