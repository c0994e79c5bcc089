// Bound by memory. Sums run over rows in order, channels in lanes.
#include "kernels/pool.h"
#include <algorithm>
#include <cmath>
#include "kernels/cpu/simd.h"

namespace merv::kernels::cpu::MERV_ISA {
namespace {

struct Bin { int64_t begin, end; };
Bin bin(int64_t i, int64_t out, int64_t in) { return {i * in / out, ((i + 1) * in + out - 1) / out}; }

}

template <> void run(const AdaptivePool& a) {
    const int64_t B = a.x.dim(0), T = a.x.dim(1), Y = a.x.dim(2), X = a.x.dim(3), C = a.x.dim(4);
    const int64_t t = a.y.dim(1), y = a.y.dim(2), x = a.y.dim(3);
    const float* from = a.x.data<float>();
    float* to = a.y.data<float>();
#pragma omp parallel for collapse(2) if (a.x.numel() > 1 << 14)
    for (int64_t bt = 0; bt < B * t; bt++)
        for (int64_t yx = 0; yx < y * x; yx++) {
            const Bin bins[] = {bin(bt % t, t, T), bin(yx / x, y, Y), bin(yx % x, x, X)};
            float* sum = to + (bt * y * x + yx) * C;
            std::fill(sum, sum + C, 0.0f);
            int64_t count = 0;
            for (int64_t i = bins[0].begin; i < bins[0].end; i++)
                for (int64_t j = bins[1].begin; j < bins[1].end; j++)
                    for (int64_t k = bins[2].begin; k < bins[2].end; k++, count++) {
                        const float* row = from + (((bt / t * T + i) * Y + j) * X + k) * C;
                        for (int64_t c = 0; c < C; c++) sum[c] += row[c];
                    }
            for (int64_t c = 0; c < C; c++) sum[c] /= float(count);
        }
}

template <> void run(const TokenMean& a) {           // chunks of 256 tokens, as in a linear: the error stays small for long sequences
    const int64_t B = a.x.dim(0), N = a.x.dim(1), C = a.x.dim(2);
    const float* x = a.x.data<float>();
    float* y = a.y.data<float>();
    constexpr int64_t kChunk = 256, kColumns = 256;
#pragma omp parallel for collapse(2) if (a.x.numel() > 1 << 14)
    for (int64_t b = 0; b < B; b++)
        for (int64_t c0 = 0; c0 < C; c0 += kColumns) {
            const int64_t n = std::min(kColumns, C - c0);
            float total[kColumns] = {}, chunk[kColumns];
            for (int64_t i = 0; i < N; i += kChunk) {
                std::fill(chunk, chunk + kColumns, 0.0f);
                for (int64_t j = i; j < std::min(i + kChunk, N); j++)
                    for (int64_t c = 0; c < n; c++) chunk[c] += x[(b * N + j) * C + c0 + c];
                for (int64_t c = 0; c < n; c++) total[c] += chunk[c];
            }
            for (int64_t c = 0; c < n; c++) y[b * C + c0 + c] = total[c] / float(N);
        }
}

template <> void run(const Mix& a) {
    const int64_t E = int64_t(a.x.size()), B = a.y.dim(0), row = a.y.numel() / std::max<int64_t>(B, 1);
    const float* weights = a.weights.data<float>();
    float* y = a.y.data<float>();
    std::vector<const float*> x;
    for (const Tensor& t : a.x) x.push_back(t.data<float>());
#pragma omp parallel for if (a.y.numel() > 1 << 14)
    for (int64_t i = 0; i < B * row; i++) {
        const float* w = weights + i / row * E;
        float sum = 0;
        for (int64_t e = 0; e < E; e++) sum = madd(w[e], x[size_t(e)][i], sum);
        y[i] = sum;
    }
}

template <> void run(const SoftmaxRows& a) {
    const int64_t M = a.x.rows(), C = a.x.dim(-1);
    const float* x = a.x.data<float>();
    float* y = a.y.data<float>();
#pragma omp parallel for if (M * C > 1 << 14)
    for (int64_t m = 0; m < M; m++) {
        const float* from = x + m * C;
        float* to = y + m * C;
        float top = -INFINITY, sum = 0;
        for (int64_t c = 0; c < C; c++) top = std::max(top, from[c] * a.scale);
        for (int64_t c = 0; c < C; c++) to[c] = exp(from[c] * a.scale - top);
        for (int64_t c = 0; c < C; c++) sum += to[c];
        for (int64_t c = 0; c < C; c++) to[c] /= sum;
    }
}

}
