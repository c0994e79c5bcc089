// What the attention kernels share: where rows lie, which keys a query sees, tiles of rows in shared memory.
#pragma once
#include "kernels/attention.h"
#include "kernels/cuda/fragments.h"

namespace merv::kernels::MERV_GPU {

bool decode(const AttentionFwd&);               // attention_decode.cu: one query per sequence; false: nothing done, not for this call

namespace {

constexpr float kLog2E = 1.44269504f;

template <class T> struct Strided {             // kernels::Rows on the device
    T* first;
    int64_t inner, outer_stride, inner_stride, token_stride;
    explicit Strided(const Rows& r) : first(at<std::remove_const_t<T>>(r.t) + r.offset), inner(r.inner), outer_stride(r.outer_stride), inner_stride(r.inner_stride), token_stride(r.token_stride) {}
    MERV_DEVICE T* head(int64_t s, int h, int D) const { return first + s / inner * outer_stride + s % inner * inner_stride + int64_t(h) * D; }
    bool in_sectors() const {                   // every head of every row begins at a multiple of 16 bytes, if D fills such
        constexpr int64_t n = 16 / sizeof(T);
        return uintptr_t(first) % 16 == 0 && outer_stride % n == 0 && inner_stride % n == 0 && token_stride % n == 0;
    }
};
struct Scene {                                  // of one call; the numbers of AttentionFwd
    int64_t S;
    int Nq, Nk, H, group, D;                    // group: query heads per key/value head
    float scale;
    bool causal;
    const int32_t* k_len;
    explicit Scene(const AttentionFwd& a)
        : S(a.S), Nq(int(a.Nq)), Nk(int(a.Nk)), H(int(a.H)), group(int(a.H / a.Hkv)), D(int(a.D)), scale(a.scale), causal(a.mask == Mask::causal), k_len(at<int32_t>(a.k_len)) {}
    MERV_DEVICE int keys(int64_t s) const { return k_len ? k_len[s] : Nk; }
    MERV_DEVICE int seen(int q, int keys) const {           // how many of them, from the first, by query q
        const int last = keys - Nq + q + 1;
        return !causal ? keys : last < 0 ? 0 : last < keys ? last : keys;
    }
};
// Blocks of one head are neighbours in blockIdx.x; the last queries, which causal gives most keys, go first.
struct Task {
    int64_t s;
    int tile, h;
    MERV_DEVICE explicit Task(int tiles) : s(blockIdx.x / unsigned(tiles)), tile(tiles - 1 - int(blockIdx.x % unsigned(tiles))), h(int(blockIdx.y)) {}
};

// ---- tiles of bf16 for tensor cores: rows of D elements, padded with zeros to Dp, a multiple of 16

template <int Dp> constexpr int kRow = Dp + 8;  // elements from row to row in shared memory

// Rows first .. first + rows - 1 of `count`, by `threads` threads; those that are not there are zero. Asynchronous.
template <int Dp, int rows, int threads> MERV_DEVICE void fetch_rows(bf16* tile, const bf16* from, int64_t token_stride, int first, int count, int D, int thread) {
    constexpr int packs = Dp / 8;
#pragma unroll 4
    for (int e = thread; e < rows * packs; e += threads) {
        const int r = e / packs, c = e % packs * 8;
        const bool there = first + r < count && c < D;
        cp_async<16>(tile + r * kRow<Dp> + c, there ? from + (first + r) * token_stride + c : from, there ? 16 : 0);
    }
}
// 16 rows that a warp has in fragments, times their factors, to global rows, by way of 16 rows of shared memory, so that
// whole sectors are written. low, high: of the rows that this lane holds, lane / 4 and lane / 4 + 8.
template <int Dp> MERV_DEVICE void write_rows(bf16* to, int64_t token_stride, int count, int D, bf16* staging, const float (&o)[Dp / 8][4], float low, float high) {
    const int lane = int(threadIdx.x) % 32;
    uint32_t* words = reinterpret_cast<uint32_t*>(staging);
    __syncwarp();                               // what was there has been read
#pragma unroll
    for (int j = 0; j < Dp / 8; j++) {
        words[(lane / 4 * kRow<Dp> + 8 * j) / 2 + lane % 4] = pack_bf16(o[j][0] * low, o[j][1] * low);
        words[((lane / 4 + 8) * kRow<Dp> + 8 * j) / 2 + lane % 4] = pack_bf16(o[j][2] * high, o[j][3] * high);
    }
    __syncwarp();
    for (int e = lane; e < 16 * Dp / 8; e += 32) {
        const int r = e / (Dp / 8), c = e % (Dp / 8) * 8;
        if (r < count && c < D) *reinterpret_cast<uint4*>(to + r * token_stride + c) = *reinterpret_cast<const uint4*>(staging + r * kRow<Dp> + c);
    }
}
// S (16 x 16 n) = a b^T over Dp, b: 16 n rows of a tile from row `from`
template <int Dp, int n> MERV_DEVICE void scores(float (&s)[2 * n][4], const uint32_t (&a)[Dp / 16][4], const bf16* b) {
#pragma unroll
    for (int j = 0; j < n; j++) {
#pragma unroll
        for (int e = 0; e < 4; e++) s[2 * j][e] = s[2 * j + 1][e] = 0;
#pragma unroll
        for (int k = 0; k < Dp / 16; k++) {
            uint32_t f[4];
            load_b<kRow<Dp>>(f, b, 16 * j, 16 * k);
            mma_pair(s[2 * j], s[2 * j + 1], a[k], f);
        }
    }
}
// The same where a stays in shared memory, too: 16 rows of a tile
template <int Dp, int n> MERV_DEVICE void scores(float (&s)[2 * n][4], const bf16* a, const bf16* b) {
#pragma unroll
    for (int j = 0; j < 2 * n; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) s[j][e] = 0;
#pragma unroll
    for (int k = 0; k < Dp / 16; k++) {
        uint32_t fa[4];
        load_a<kRow<Dp>>(fa, a, 0, 16 * k);
#pragma unroll
        for (int j = 0; j < n; j++) {
            uint32_t f[4];
            load_b<kRow<Dp>>(f, b, 16 * j, 16 * k);
            mma_pair(s[2 * j], s[2 * j + 1], fa, f);
        }
    }
}
// o (16 x Dp) += p v, v: 16 n rows of a tile; p is rounded to bf16
template <int Dp, int n> MERV_DEVICE void add_weighted(float (&o)[Dp / 8][4], const float (&p)[2 * n][4], const bf16* v) {
#pragma unroll
    for (int k = 0; k < n; k++) {
        uint32_t a[4];
        as_a(a, p[2 * k], p[2 * k + 1]);
#pragma unroll
        for (int j = 0; j < Dp / 16; j++) {
            uint32_t f[4];
            load_b<kRow<Dp>, true>(f, v, 16 * j, 16 * k);
            mma_pair(o[2 * j], o[2 * j + 1], a, f);
        }
    }
}

// ---- tiles of f32 for plain multiply-adds, whatever the type: rows of D elements, D a multiple of 4 and at most Dm

template <int Dm> constexpr int kPlainRow = Dm + 4;
template <int Dm, int rows, class X> MERV_DEVICE void load_rows(float* tile, const X* from, int64_t token_stride, int first, int count, int D) {
    for (int e = int(threadIdx.x); e < rows * D; e += int(blockDim.x)) {
        const int r = e / D, c = e % D;
        tile[r * kPlainRow<Dm> + c] = first + r < count ? float(from[(first + r) * token_stride + c]) : 0.0f;
    }
}
// One sum over D for each of n x 2 pairs of rows: a + i rows and b + 16 j rows
template <int Dm, int n> MERV_DEVICE void dots(float (&s)[n][2], const float* a, const float* b, int D) {
    for (int i = 0; i < n; i++) s[i][0] = s[i][1] = 0;
    for (int d = 0; d < D; d += 4) {
        float va[n][4], vb[2][4];
        for (int i = 0; i < n; i++) load(va[i], a + i * kPlainRow<Dm> + d);
        for (int j = 0; j < 2; j++) load(vb[j], b + 16 * j * kPlainRow<Dm> + d);
        for (int i = 0; i < n; i++)
            for (int j = 0; j < 2; j++)
                for (int k = 0; k < 4; k++) s[i][j] = fmaf(va[i][k], vb[j][k], s[i][j]);
    }
}

inline size_t plain_bytes(int rows, int Dm) { return size_t(rows) * size_t(Dm + 4) * sizeof(float); }
template <class F> void with_plain_width(int64_t D, F&& f) {        // f.operator()<Dm>()
    if (D <= 64) f.template operator()<64>();
    else f.template operator()<128>();
}
template <class F> void with_tile_width(int64_t D, F&& f) {         // f.operator()<Dp>()
    if (D <= 16) f.template operator()<16>();
    else if (D <= 32) f.template operator()<32>();
    else if (D <= 64) f.template operator()<64>();
    else if (D <= 80) f.template operator()<80>();
    else if (D <= 96) f.template operator()<96>();
    else f.template operator()<128>();
}

}
}
