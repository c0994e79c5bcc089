// Moving whole rows, exactly: embedding lookup, repeating frames, splicing sequences, adding tables of rows.
#pragma once
#include <span>
#include "core/tensor.h"
#include "kernels/cpu.h"

namespace merv::kernels {

struct GatherRows {                             // y[i] = x[index[i]]
    Tensor y;                                   // out: (N, C) f32
    Tensor x, index;                            // (V, C) f32 or bf16; (N) i32, each in [0, V)
};
struct ScatterRows {                            // y[index[i]] = x[i]; other rows of y stay
    Tensor y;                                   // in and out: (V, C) f32
    Tensor x, index;                            // (N, C) f32; (N) i32, all different
};
struct AddRows {                                // y[r] = x[r] + table[(r / inner) % T]
    Tensor y;                                   // out: (R, C) f32; may be x
    Tensor x, table;                            // (R, C) f32; (T, C) f32 or bf16
    int64_t inner = 1;
};
struct PrependTokens {                          // y[s] = [tokens; x[s]] for each sequence s
    Tensor y;                                   // out: (S, T + N, C) f32
    Tensor x, tokens;                           // (S, N, C) f32; (T, C) f32 or bf16
};
inline void gather_rows(const GatherRows& a) { cpu::run(a); }
inline void scatter_rows(const ScatterRows& a) { cpu::run(a); }
inline void add_rows(const AddRows& a) { cpu::run(a); }
inline void prepend_tokens(const PrependTokens& a) { cpu::run(a); }

}
