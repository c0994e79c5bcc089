// Bound by reading the frames: the horizontal pass does some 20 multiply-adds per byte it writes, but an eighth of what it reads.
#include "kernels/resample.h"
#include <algorithm>
#include <cstring>

namespace merv::kernels::cpu::MERV_ISA {
namespace {

constexpr int kPrecision = ResampleAxis::kPrecision, kRows = 16;

inline uint8_t to_byte(int32_t sum) { return uint8_t(std::clamp(sum >> kPrecision, 0, 255)); }

// to[i][r] = from[r * ld + i] for 16 x 16 bytes: four rounds of interleaving halves
void turn(const uint8_t* from, int64_t ld, uint8_t* to) {
    typedef uint8_t Bytes __attribute__((vector_size(16)));
    Bytes a[16], b[16];
    for (int r = 0; r < 16; r++) std::memcpy(&a[r], from + r * ld, 16);
    for (int round = 0; round < 4; round++) {
        for (int r = 0; r < 8; r++) {
            b[2 * r] = __builtin_shufflevector(a[r], a[r + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            b[2 * r + 1] = __builtin_shufflevector(a[r], a[r + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
        std::copy(b, b + 16, a);
    }
    std::memcpy(to, a, sizeof a);
}

// Rows of W pixels to rows of axis.size() pixels. Sixteen rows are turned into columns first, so that the sum over taps, whose
// start differs from pixel to pixel, runs over sixteen rows at once.
void along_rows(const uint8_t* x, int rows, int W, const ResampleAxis& axis, uint8_t* y, std::vector<uint8_t>& turned) {
    const int out = axis.size();
    turned.resize(size_t(W) * 3 * kRows);
    for (int r0 = 0; r0 < rows; r0 += kRows) {
        const int n = std::min(kRows, rows - r0);
        const uint8_t* from = x + size_t(r0) * size_t(W) * 3;
        int i = 0;
        if (n == kRows) for (; i + 16 <= W * 3; i += 16) turn(from + i, int64_t(W) * 3, &turned[size_t(i) * kRows]);
        for (; i < W * 3; i++)
            for (int r = 0; r < n; r++) turned[size_t(i) * kRows + size_t(r)] = from[size_t(r) * size_t(W) * 3 + size_t(i)];
        for (int i = 0; i < out; i++) {
            int32_t sum[3][kRows];
            for (auto& channel : sum) std::fill_n(channel, kRows, 1 << (kPrecision - 1));
            const int32_t* w = &axis.weight[size_t(i) * size_t(axis.taps)];
            const uint8_t* p = &turned[size_t(axis.first[size_t(i)]) * 3 * kRows];
            for (int j = 0; j < axis.count[size_t(i)]; j++, p += 3 * kRows)
                for (int c = 0; c < 3; c++)
                    for (int r = 0; r < kRows; r++) sum[c][r] += w[j] * p[c * kRows + r];
            for (int r = 0; r < n; r++)
                for (int c = 0; c < 3; c++) y[(size_t(r0 + r) * size_t(out) + size_t(i)) * 3 + size_t(c)] = to_byte(sum[c][r]);
        }
    }
}

// x holds input rows from `x_first` on, `n` bytes each.
void along_columns(const uint8_t* x, int x_first, int n, const ResampleAxis& axis, uint8_t* y, std::vector<int32_t>& sum) {
    for (int i = 0; i < axis.size(); i++, y += n) {
        sum.assign(size_t(n), 1 << (kPrecision - 1));
        int32_t* s = sum.data();
        for (int j = 0; j < axis.count[size_t(i)]; j++) {
            const int32_t w = axis.weight[size_t(i) * size_t(axis.taps) + size_t(j)];
            const uint8_t* row = x + size_t(axis.first[size_t(i)] + j - x_first) * size_t(n);
            for (int k = 0; k < n; k++) s[k] += w * row[k];
        }
        for (int k = 0; k < n; k++) y[k] = to_byte(s[k]);
    }
}

}

template <> void run(const Resample& a) {
    const int H = int(a.x.dim(1)), W = int(a.x.dim(2)), height = int(a.y.dim(1)), width = int(a.y.dim(2));
    // only the input rows that some output row reads go through the horizontal pass
    const int top = a.rows ? a.rows->first.front() : 0, bottom = a.rows ? a.rows->first.back() + a.rows->count.back() : H;
    const uint8_t* in = a.x.data<uint8_t>();
    uint8_t* out = a.y.data<uint8_t>();
#pragma omp parallel
    {
        std::vector<uint8_t> narrow, turned;
        std::vector<int32_t> sums;
#pragma omp for schedule(dynamic)
        for (int64_t f = 0; f < a.x.dim(0); f++) {
            const uint8_t* x = in + f * H * W * 3 + int64_t(top) * W * 3;
            uint8_t* to = out + f * height * width * 3;
            if (a.columns) {
                narrow.resize(size_t(bottom - top) * size_t(width) * 3);
                uint8_t* halfway = a.rows ? narrow.data() : to;
                along_rows(x, bottom - top, W, *a.columns, halfway, turned);
                x = halfway;
            }
            if (a.rows) along_columns(x, top, width * 3, *a.rows, to, sums);
        }
    }
}

}
