// Averages. adaptive_pool is AdaptiveAvgPool2d/3d on channels-last grids: bin i of n covers [floor(i N / n), ceil((i+1) N / n))
// of N, so bins overlap when n does not divide N, and repeat when n > N. token_mean averages all tokens of a sequence. mix is
// the weighted sum of the encoders' tokens (paper Eq. 2: O = sum_e w_e x_e).
#pragma once
#include <vector>
#include "core/tensor.h"
#include "kernels/cpu.h"

namespace merv::kernels {

struct AdaptivePool {
    Tensor y, x;                                // out (B, t, y, x, C); in (B, T, Y, X, C); f32
};
struct TokenMean {
    Tensor y, x;                                // out (B, C); in (B, N, C); f32
};
struct Mix {
    Tensor y;                                   // out: (B, N, C) f32
    std::vector<Tensor> x;                      // E of (B, N, C) f32
    Tensor weights;                             // (B, E) f32
};
struct SoftmaxRows {
    Tensor y, x;                                // (M, C) f32; y may be x
    float scale = 1;                            // y = softmax(scale x)
};
inline void adaptive_pool(const AdaptivePool& a) { cpu::run(a); }
inline void token_mean(const TokenMean& a) { cpu::run(a); }
inline void mix(const Mix& a) { cpu::run(a); }
inline void softmax_rows(const SoftmaxRows& a) { cpu::run(a); }

}
