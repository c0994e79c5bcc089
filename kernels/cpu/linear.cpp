// A panel of w (32 columns of y, 256 of k) is transposed into L1 and widened to f32 on the way; every row of x runs past it.
// Bound by arithmetic for many rows; for few rows by the transposition.
#include "kernels/linear.h"
#include <algorithm>
#include <vector>
#include <omp.h>
#include "kernels/cpu/simd.h"

namespace merv::kernels::cpu::MERV_ISA {
namespace {

constexpr int kColumns = 2 * kLanes;            // of a register tile
constexpr int kRows = kLanes == 16 ? 12 : kLanes == 8 ? 6 : 4;     // 2 * kRows accumulators, 2 vectors of w, 1 of x fit the registers
constexpr int64_t kChunk = 256;                 // of k: the order of sums; the panel is 32 KiB, L1's size
constexpr int64_t kBlock = 504;                 // rows of one task: a multiple of every kRows; x's chunk is 0.5 MiB, half of L2

// panel[k][j] = w[n0 + j][k0 + k]; columns past N are zero.
template <class W> void pack(float* panel, const W* w, int64_t K, int64_t columns, int64_t depth) {
    for (int64_t k0 = 0; k0 < depth; k0 += 16)
        for (int64_t j = 0; j < kColumns; j++)
            for (int64_t k = k0, end = std::min(k0 + 16, depth); k < end; k++) panel[k * kColumns + j] = j < columns ? float(w[j * K + k]) : 0.0f;
}

// sums (+)= x (rows of length K, `depth` used) times the panel, for R rows.
template <int R> void tile(float* sums, const float* x, int64_t K, const float* panel, int64_t depth, bool first) {
    Vec acc[R][2] = {};
    for (int64_t k = 0; k < depth; k++) {
        const Vec w0 = load(panel + k * kColumns), w1 = load(panel + k * kColumns + kLanes);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            const Vec v = broadcast(x[r * K + k]);
            acc[r][0] = madd(v, w0, acc[r][0]);
            acc[r][1] = madd(v, w1, acc[r][1]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int h = 0; h < 2; h++) {
            float* to = sums + r * kColumns + h * kLanes;
            store(to, first ? acc[r][h] : load(to) + acc[r][h]);
        }
}
template <int R> void tile_rows(int64_t rows, float* sums, const float* x, int64_t K, const float* panel, int64_t depth, bool first) {
    if (rows == R) return tile<R>(sums, x, K, panel, depth, first);
    if constexpr (R > 1) tile_rows<R - 1>(rows, sums, x, K, panel, depth, first);
}

template <class F> void each(float* v, int64_t n, F f) {
    for (int64_t j = 0; j < n; j++) v[j] = f(v[j]);
}
void activate(Act act, float* v, int64_t n) {
    switch (act) {
        case Act::none: break;
        case Act::gelu: each(v, n, [](float x) { return 0.5f * x * (1.0f + erf(x * 0.707106781f)); }); break;
        case Act::gelu_tanh: each(v, n, [](float x) { return 0.5f * x * (1.0f + tanh(0.797884561f * (x + 0.044715f * (x * x * x)))); }); break;
        case Act::quick_gelu: each(v, n, [](float x) { return x * sigmoid(1.702f * x); }); break;
        case Act::silu: each(v, n, [](float x) { return x * sigmoid(x); }); break;
    }
}

std::vector<float> widened(const Tensor& t) {   // a bias or scale; small
    return t ? to_floats(t) : std::vector<float>{};
}

template <class W> void run(const LinearFwd& a) {
    const int64_t M = a.x.rows(), N = a.w.dim(0), K = a.w.dim(1);
    const float *x = a.x.data<float>(), *gate = a.gate.data<float>(), *residual = a.residual.data<float>();
    const W* w = a.w.data<W>();
    float* y = a.y.data<float>();
    const std::vector<float> bias = widened(a.bias), scale = widened(a.scale);
    const int64_t panels = (N + kColumns - 1) / kColumns, blocks = (M + kBlock - 1) / kBlock;
    const int64_t rows_per_block = blocks ? (M + blocks - 1) / blocks : 0;

#pragma omp parallel if (M * N * K > 1 << 16)
    {
        std::vector<float> panel(size_t(kChunk * kColumns)), sums(size_t(std::max<int64_t>(rows_per_block, 1) * kColumns));
#pragma omp for schedule(dynamic, 1) collapse(2)
        for (int64_t block = 0; block < blocks; block++)
            for (int64_t p = 0; p < panels; p++) {
                const int64_t m0 = block * rows_per_block, rows = std::min(rows_per_block, M - m0);
                const int64_t n0 = p * kColumns, columns = std::min<int64_t>(kColumns, N - n0);
                if (K == 0) std::fill(sums.begin(), sums.end(), 0.0f);
                for (int64_t k0 = 0; k0 < K; k0 += kChunk) {
                    const int64_t depth = std::min(kChunk, K - k0);
                    pack(panel.data(), w + n0 * K + k0, K, columns, depth);
                    for (int64_t m = 0; m < rows; m += kRows)
                        tile_rows<kRows>(std::min<int64_t>(kRows, rows - m), sums.data() + m * kColumns, x + (m0 + m) * K + k0, K, panel.data(), depth, k0 == 0);
                }
                for (int64_t m = 0; m < rows; m++) {
                    float* v = sums.data() + m * kColumns;
                    const int64_t at = (m0 + m) * N + n0;
                    if (!bias.empty()) for (int64_t j = 0; j < columns; j++) v[j] += bias[size_t(n0 + j)];
                    activate(a.act, v, columns);
                    if (gate) for (int64_t j = 0; j < columns; j++) v[j] *= gate[at + j];
                    if (!scale.empty()) for (int64_t j = 0; j < columns; j++) v[j] *= scale[size_t(n0 + j)];
                    if (residual) for (int64_t j = 0; j < columns; j++) v[j] += residual[at + j];
                    std::copy(v, v + columns, y + at);
                }
            }
    }
}

}

template <> void run(const LinearFwd& a) {
    with_float_type(a.w.dtype(), [&]<class W>() { run<W>(a); });
}

}
