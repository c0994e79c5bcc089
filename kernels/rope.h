// Rotary position embedding, half rotation (Hugging Face's pairing of d with d + D/2):
//   y[d] = x[d] cos - x[d + D/2] sin      y[d + D/2] = x[d + D/2] cos + x[d] sin      angle of pair d at position p: cos[p][d]
// Backward is the rotation by the opposite angle: dx = rope(dy) with `inverse`.
#pragma once
#include "core/tensor.h"
#include "kernels/device.h"

namespace merv::kernels {

struct RopeFwd {
    Tensor y;                                   // out: (.., N, H, D); may be x
    Tensor x;                                   // (.., N, H, D) f32 or bf16, as y: sequences of N rows
    Tensor cos, sin;                            // (P, D/2) f32: one row per position
    int64_t start = 0;                          // row n of a sequence has position start + n
    bool inverse = false;
};
// One step of a decoder: q is turned, k is turned and v copied to where they stay, the next rows of a cache.
struct RopeAppend {
    Tensor q_out, k_out, v_out;                 // out: (N, H, D), (N, Hkv, D), (N, Hkv, D); may be q, k, v
    Tensor q, k, v, cos, sin;                   // all of one type, f32 or bf16; tables as above
    int64_t start = 0;
};
inline void rope(const RopeFwd& a) { run(a); }
inline void rope(const RopeAppend& a) { run(a); }

}
