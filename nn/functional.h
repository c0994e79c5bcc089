// The ops models are written with. Each checks its shapes, allocates its result, calls one kernel and ends in record() with
// its gradient. Activations are f32 or bf16, and a result has the type of its input; parameters are f32 or bf16, and their
// gradients f32, added up in the parameter's slot. Formulas stand in kernels/<op>.h.
#pragma once
#include <array>
#include <utility>
#include <vector>
#include "core/autograd.h"
#include "kernels/attention.h"
#include "kernels/linear.h"
#include "kernels/loss.h"

namespace merv::nn {

using kernels::Act;
using kernels::Mask;

// The lengths of sequences whose rows lie one behind the other, x (rows, ..). What sums over rows (gradients of parameters) then sums sequence by sequence,
// so rows of padding behind a sequence change no bit, nor does running sequences together or one after the other. None: all rows are one sequence.
using Lengths = std::vector<int64_t>;

struct LinearExtras { Act act = Act::none; Tensor gate = {}, scale = {}, residual = {}; Lengths lengths = {}; };
Tensor linear(const Tensor& x, const Tensor& w, const Tensor& bias, const LinearExtras& extras = {});    // (.., K) -> (.., N)

Tensor layernorm(const Tensor& x, const Tensor& w, const Tensor& b, float eps);
Tensor rmsnorm(const Tensor& x, const Tensor& w, float eps, const Lengths& lengths = {});

// Which rows of a (rows, width) tensor make the sequences attention runs over, counted in rows:
// token n of sequence s is row  first + s / inner * outer + s % inner * inner_step + n * token_step.
struct Layout {
    int64_t sequences, tokens, inner, outer, inner_step, token_step, first = 0;       // first: a row before all of them
    static Layout contiguous(int64_t sequences, int64_t tokens, int64_t first = 0) { return {sequences, tokens, 1, tokens, 0, 1, first}; }
    // Rows (group, frame, position): a sequence is one position of one group, seen through its frames.
    static Layout across_frames(int64_t groups, int64_t frames, int64_t positions) { return {groups * positions, frames, positions, frames * positions, 1, positions}; }
};
struct AttentionArgs {
    Tensor q = {}, k = {}, v = {};              // (rows, width); the heads begin at these columns
    int64_t q_column = 0, k_column = 0, v_column = 0;
    Layout queries = {}, keys = {};
    int64_t heads, kv_heads, head_dim;
    Mask mask = Mask::none;
    Tensor k_len = {};                          // (sequences) i32, optional
    Lengths lengths = {};                       // instead of queries and keys: each sequence sees itself
};
Tensor attention(const AttentionArgs& a);       // (rows of q, heads * head_dim); softmax scale is head_dim^-1/2

Tensor rope(const Tensor& x, const Tensor& cos, const Tensor& sin, int64_t start);     // x (.., N, H, D); tables (P, D/2)
Tensor rope(const Tensor& x, const Tensor& cos, const Tensor& sin, const Lengths& lengths);     // x (rows, H, D): each sequence from position 0
// q (N, H, D) at positions start .. turned; k (N, Hkv, D), turned, and v become rows start .. of the caches (capacity, Hkv D). No gradient.
Tensor rope_append(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& cos, const Tensor& sin, int64_t start, const Tensor& k_cache, const Tensor& v_cache);
Tensor gather_rows(const Tensor& x, const Tensor& index);                   // (R, C), (N) -> (N, C)
Tensor embedding(const Tensor& table, const Tensor& index, DType dtype);    // (V, C), (N) -> (N, C) of that type; the table is a parameter
Tensor scatter_rows(int64_t rows, const std::vector<std::pair<Tensor, Tensor>>& parts);     // (x, index) each; rows nobody names are zero
Tensor slice_rows(const Tensor& x, int64_t begin, int64_t end);             // rows of the first dimension; the result shares x's bytes
Tensor drop_tokens(const Tensor& x, int64_t n);                             // (S, N, C) -> (S, N - n, C), without the first n
Tensor add_rows(const Tensor& x, const Tensor& table, int64_t inner = 1);   // x[r] + table[(r / inner) % T]
Tensor prepend_tokens(const Tensor& x, const Tensor& tokens);               // (S, N, C), (.., C) -> (S, T + N, C)

struct Pixels {                                 // what an encoder is fed
    Tensor values;                              // (F, 3, H, W): u8, or f32 already normalised
    std::array<float, 3> mean{}, std{1, 1, 1};  // for u8: (v / 255 - mean) / std
    DType dtype = DType::f32;                   // of the activations they become
};
Tensor patchify(const Pixels& x, int64_t patch, int64_t tubelet = 1);       // (F/t, P, 3 t p p)

Tensor adaptive_pool(const Tensor& x, int64_t t, int64_t y, int64_t z);     // (B, T, Y, X, C) -> (B, t, y, z, C)
Tensor token_mean(const Tensor& x);                                         // (B, N, C) -> (B, C)
Tensor mix(const std::vector<Tensor>& x, const Tensor& weights);            // E of (B, N, C), (B, E) -> (B, N, C)
Tensor softmax_rows(const Tensor& x, float scale = 1);                      // (M, C) -> (M, C)
Tensor add(const Tensor& a, const Tensor& b);
Tensor convert(const Tensor& x, DType dtype);                               // x itself if it has that type

// Cross-entropy of logits (M, V) with labels (M) i32, kIgnore where a row takes no part: the sum over rows divided by `count`,
// which is the number of labels if 0; one f32.
using kernels::kIgnore;
Tensor cross_entropy(const Tensor& logits, const Tensor& labels, int64_t count = 0);
// The same of x w^T, holding the logits of `chunk` rows at a time; backward makes them again. Loss and gradients have the bits
// that linear and cross_entropy give, whatever the chunk: dw too, if it starts from zero.
inline constexpr int64_t kLossChunk = 512;      // chunks are multiples of this: whole chunks of the sum that dw is
Tensor linear_cross_entropy(const Tensor& x, const Tensor& w, const Tensor& labels, int64_t count = 0, int64_t chunk = kLossChunk);

// A contribution to the gradient of the tensor with this slot; no slot: nobody wants it. The first is kept as it is, and
// added to once nobody else holds it.
void add_gradient(const Slot& slot, const Tensor& g);
// The f32 sum that a parameter's gradients are added to, zero at first; none if the parameter is frozen.
Tensor grad_buffer(const Tensor& parameter);

}
