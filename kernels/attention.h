// Exact attention in memory linear in the length: o = softmax(q k^T scale + mask) v, with grouped key/value heads.
//
// Keys are walked from 0 in blocks of 64 with a running maximum and sum (Milakov & Gimelshein 2018; Dao et al. 2022), so a
// query's result does not depend on how many queries run with it: prefill at once = in pieces = token by token.
#pragma once
#include "core/tensor.h"
#include "kernels/device.h"

namespace merv::kernels {

// Where the rows of q, k, v, o lie: token n of sequence s starts at element
//   offset + (s / inner) outer_stride + (s % inner) inner_stride + n token_stride,     head h at + h D.
// Packed projections, caches and sequences that run across frames are thus read and written in place.
struct Rows {
    Tensor t = {};                              // f32 or bf16, all of one call alike
    int64_t offset = 0, inner = 1, outer_stride = 0, inner_stride = 0, token_stride = 0;
    int64_t at(int64_t s, int64_t n) const { return offset + s / inner * outer_stride + s % inner * inner_stride + n * token_stride; }
};
enum class Mask { none, causal };               // causal is aligned at the end: query i of Nq sees keys 0 .. Nk - Nq + i

struct AttentionFwd {
    Rows o = {};                                // out
    Tensor lse = {};                            // (S, H, Nq) f32, log of the sum of exponentials: out, optional; backward reads it
    Rows q = {}, k = {}, v = {};
    int64_t S = 1, Nq = 0, Nk = 0, H = 1, Hkv = 1, D = 0;       // sequences, queries, keys, heads, key/value heads, head dimension
    float scale = 1;
    Mask mask = Mask::none;
    Tensor k_len = {};                          // (S) i32: keys of each sequence, at most Nk (which then is an upper bound)
};
// D is a multiple of 4 up to 128; Hkv divides H, key/value head j serves query heads j H/Hkv .. (j+1) H/Hkv - 1. A query
// that sees no key gives zeros (lse -inf). With k_len, causal is aligned at each sequence's own end.

// Backward (Dao 2023, algorithm 2): probabilities are recomputed from lse, so memory stays linear in the length.
//   P = exp(scale q k^T - lse)   dv = P^T do   dS = P (do v^T - rowsum(do o))   dq = scale dS k   dk = scale dS^T q
struct AttentionBwd {
    Rows dq, dk, dv;                            // out: every row of every sequence is written
    Rows dout;                                  // laid out as fwd.o
    AttentionFwd fwd;                           // what forward was given and gave: o and lse are read
};
inline void attention(const AttentionFwd& a) { run(a); }
inline void attention(const AttentionBwd& a) { run(a); }

}
