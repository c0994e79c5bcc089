// Cross-entropy of M rows of V logits, each with the class it should name. Rows labelled kIgnore take no part: they are not
// read, their loss and their gradient are zero.
//   loss[m] = log(sum_v exp(x[m][v] - max)) + max - x[m][label]
//   dx[m][v] = (exp(x[m][v] - max) / sum - [v = label]) scale
// All in f32, x and dx of one type, f32 or bf16. Backward computes max and sum again. Bound by memory: two reads of x, a write.
#pragma once
#include "core/tensor.h"
#include "kernels/device.h"

namespace merv::kernels {

constexpr int32_t kIgnore = -100;

struct CrossEntropyFwd {
    Tensor loss;                                // out: (M) f32
    Tensor x, labels;                           // (M, V); (M) i32, each in [0, V) or kIgnore
};
struct CrossEntropyBwd {
    Tensor dx;                                  // out: (M, V); may be x
    Tensor x, labels;
    float scale = 1;                            // of every row: d loss / rows that count
};
inline void cross_entropy(const CrossEntropyFwd& a) { run(a); }
inline void cross_entropy(const CrossEntropyBwd& a) { run(a); }

}
