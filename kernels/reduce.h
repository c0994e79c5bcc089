// Sums of a flat buffer whose bits depend on its elements and their places alone, not on threads, nor on how the buffer is
// split between ranks if they split it at multiples of 4096.
//
//   chunk c holds elements [4096 c, 4096 (c + 1)). Element i of a chunk is added to running sum i % 16, in f64; then
//   sum j + 8 to sum j, j + 4 to j, j + 2 to j, 1 to 0; the result is rounded to f32 (so ranks can exchange it).
//   total: the chunks' sums in order, in f64
//
// A square of an f32 is exact in f64, so the instruction set does not matter either.
#pragma once
#include "core/tensor.h"
#include "kernels/device.h"

namespace merv::kernels {

constexpr int64_t kSumChunk = 4096;

struct ChunkSums {
    Tensor sums;                                // out: (ceil(n / 4096)) f32
    Tensor x;                                   // n elements, f32 or bf16
    bool squares = false;                       // of x^2 instead of x
};
inline void chunk_sums(const ChunkSums& a) { run(a); }

inline double total(const Tensor& chunk_sums) {
    double sum = 0;
    for (float f : to_floats(chunk_sums)) sum += double(f);
    return sum;
}
inline Tensor chunk_sums(const Tensor& x, bool squares) {
    const Tensor sums({(x.numel() + kSumChunk - 1) / kSumChunk});
    chunk_sums({.sums = sums, .x = x, .squares = squares});
    return sums;
}
inline double sum(const Tensor& x) { return total(chunk_sums(x, false)); }
inline double mean(const Tensor& x) { return sum(x) / double(x.numel()); }
inline double sum_of_squares(const Tensor& x) { return total(chunk_sums(x, true)); }

}
