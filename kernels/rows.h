// Moving whole rows, exactly: embedding lookup, repeating frames, splicing sequences, adding tables of rows. Activations (y, x
// and their gradients) are of one type, f32 or bf16; tables f32 or bf16, their gradients f32.
#pragma once
#include "core/tensor.h"
#include "kernels/device.h"

namespace merv::kernels {

struct GatherRows {                             // y[i] = x[index[i]]
    Tensor y;                                   // out: (N, C)
    Tensor x, index;                            // (V, C); (N) i32, each in [0, V)
};
struct GatherRowsBwd {                          // dx[v] += sum of dy[i] over i with index[i] = v, in order of i
    Tensor dx;                                  // added to: (V, C) f32
    Tensor dy, index;                           // (N, C); (N) i32
};
struct ScatterRows {                            // y[index[i]] = x[i]; other rows of y stay
    Tensor y;                                   // in and out: (V, C)
    Tensor x, index;                            // (N, C); (N) i32, all different
};
struct AddRows {                                // y[r] = x[r] + table[(r / inner) % T]
    Tensor y;                                   // out: (R, C); may be x
    Tensor x, table;                            // (R, C); (T, C)
    int64_t inner = 1;
};
struct AddRowsBwd {                             // dtable[t] += sum of dy[r] over r with (r / inner) % T = t
    Tensor dtable;                              // added to: (T, C) f32
    Tensor dy;                                  // (R, C)
    int64_t inner = 1;
};
struct PrependTokens {                          // y[s] = [tokens; x[s]] for each sequence s
    Tensor y;                                   // out: (S, T + N, C)
    Tensor x, tokens;                           // (S, N, C); (T, C)
};
struct PrependTokensBwd {
    Tensor dx = {};                             // out: (S, N, C), or none
    Tensor dtokens = {};                        // added to: (T, C) f32, or none
    Tensor dy;                                  // (S, T + N, C)
};
inline void gather_rows(const GatherRows& a) { run(a); }
inline void gather_rows(const GatherRowsBwd& a) { run(a); }
inline void scatter_rows(const ScatterRows& a) { run(a); }
inline void add_rows(const AddRows& a) { run(a); }
inline void add_rows(const AddRowsBwd& a) { run(a); }
inline void prepend_tokens(const PrependTokens& a) { run(a); }
inline void prepend_tokens(const PrependTokensBwd& a) { run(a); }

}
