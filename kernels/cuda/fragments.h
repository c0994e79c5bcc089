// Fragments of mma.sync m16n8k16 from tiles of bf16 in shared memory, whose rows are `stride` elements apart. Rows 16 bytes longer
// than a multiple of 32 make ldmatrix free of bank conflicts. Across: k runs over the rows, and ldmatrix.trans turns the fragment.
#pragma once
#include "kernels/gpu.h"

namespace merv::kernels::MERV_GPU {
namespace {

// A: rows m .. m + 15, columns k .. k + 15; where k runs across, tile[k][m]
template <int stride, bool across = false> MERV_DEVICE void load_a(uint32_t (&f)[4], const bf16* tile, int m, int k) {
    const int l = int(threadIdx.x) % 32, i = l / 8, r = l % 8;
    if constexpr (!across) ldmatrix_x4(f, tile + (m + i % 2 * 8 + r) * stride + k + i / 2 * 8);
    else ldmatrix_x4_trans(f, tile + (k + i / 2 * 8 + r) * stride + m + i % 2 * 8);
}
// B: columns n .. n + 15, which are two fragments of eight, f[0..1] and f[2..3]: tile[n][k]; where k runs across, tile[k][n]
template <int stride, bool across = false> MERV_DEVICE void load_b(uint32_t (&f)[4], const bf16* tile, int n, int k) {
    const int l = int(threadIdx.x) % 32, i = l / 8, r = l % 8;
    if constexpr (!across) ldmatrix_x4(f, tile + (n + i / 2 * 8 + r) * stride + k + i % 2 * 8);
    else ldmatrix_x4_trans(f, tile + (k + i % 2 * 8 + r) * stride + n + i / 2 * 8);
}
// d (16 x 16: two fragments) += a b
MERV_DEVICE void mma_pair(float (&d0)[4], float (&d1)[4], const uint32_t (&a)[4], const uint32_t (&b)[4]) {
    const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
    mma_bf16(d0, a, first);
    mma_bf16(d1, a, second);
}
// Two result fragments, 16 x 16, become a factor A of the next product: in registers, rounded to bf16.
MERV_DEVICE void as_a(uint32_t (&a)[4], const float (&d0)[4], const float (&d1)[4]) {
    a[0] = pack_bf16(d0[0], d0[1]), a[1] = pack_bf16(d0[2], d0[3]);
    a[2] = pack_bf16(d1[0], d1[1]), a[3] = pack_bf16(d1[2], d1[3]);
}

}
}
