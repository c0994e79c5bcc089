// Averages. adaptive_pool is AdaptiveAvgPool2d/3d on channels-last grids: bin i of n covers [floor(i N / n), ceil((i+1) N / n))
// of N, so bins overlap when n does not divide N, and repeat when n > N; backward gathers from the bins a cell lies in.
// token_mean averages all tokens of a sequence. mix is the weighted sum of the encoders' tokens (paper Eq. 2: O = sum_e w_e x_e).
// Activations and their gradients are of one type, f32 or bf16; sums f32.
#pragma once
#include <vector>
#include "core/tensor.h"
#include "kernels/device.h"

namespace merv::kernels {

struct AdaptivePool { Tensor y, x; };           // out (B, t, y, x, C); in (B, T, Y, X, C)
struct AdaptivePoolBwd { Tensor dx, dy; };      // out (B, T, Y, X, C); in (B, t, y, x, C)
struct TokenMean { Tensor y, x; };              // out (B, C); in (B, N, C)
struct TokenMeanBwd { Tensor dx, dy; };         // out (B, N, C); in (B, C)
struct Mix {
    Tensor y;                                   // out: (B, N, C)
    std::vector<Tensor> x;                      // E of (B, N, C)
    Tensor weights;                             // (B, E) f32 or as x
};
struct MixBwd {                                 // dx_e = w_e dy    dw_e = sum of dy x_e
    std::vector<Tensor> dx;                     // out: E of (B, N, C), each may be none
    Tensor dweights = {};                       // out: (B, E) as weights, or none
    Tensor dy;                                  // (B, N, C)
    std::vector<Tensor> x;
    Tensor weights;
};
struct SoftmaxRows {
    Tensor y, x;                                // (M, C); y may be x
    float scale = 1;                            // y = softmax(scale x)
};
struct SoftmaxRowsBwd {                         // dx = scale y (dy - sum(y dy))
    Tensor dx, dy, y;                           // (M, C)
    float scale = 1;
};
inline void adaptive_pool(const AdaptivePool& a) { run(a); }
inline void adaptive_pool(const AdaptivePoolBwd& a) { run(a); }
inline void token_mean(const TokenMean& a) { run(a); }
inline void token_mean(const TokenMeanBwd& a) { run(a); }
inline void mix(const Mix& a) { run(a); }
inline void mix(const MixBwd& a) { run(a); }
inline void softmax_rows(const SoftmaxRows& a) { run(a); }
inline void softmax_rows(const SoftmaxRowsBwd& a) { run(a); }

}
