// Bound by memory. Sums run over rows in order, channels in lanes; long ones in chunks, as in a linear.
#include "kernels/pool.h"
#include <algorithm>
#include <cmath>
#include "kernels/cpu/simd.h"

namespace merv::kernels::cpu::MERV_ISA {
namespace {

struct Bin { int64_t begin, end; };
Bin bin(int64_t i, int64_t out, int64_t in) { return {i * in / out, ((i + 1) * in + out - 1) / out}; }
constexpr int64_t kChunk = 256, kColumns = 256;

}

template <> void run(const AdaptivePool& a) {
    const int64_t B = a.x.dim(0), T = a.x.dim(1), Y = a.x.dim(2), X = a.x.dim(3), C = a.x.dim(4);
    const int64_t t = a.y.dim(1), y = a.y.dim(2), x = a.y.dim(3);
    with_float_type(a.x.dtype(), [&]<class V>() {
        const V* from = a.x.data<V>();
        V* to = a.y.data<V>();
#pragma omp parallel if (a.x.numel() > 1 << 14)
        {
            std::vector<float> sum = floats(C);
#pragma omp for collapse(2)
            for (int64_t bt = 0; bt < B * t; bt++)
                for (int64_t yx = 0; yx < y * x; yx++) {
                    const Bin bins[] = {bin(bt % t, t, T), bin(yx / x, y, Y), bin(yx % x, x, X)};
                    std::fill(sum.begin(), sum.end(), 0.0f);
                    int64_t count = 0;
                    for (int64_t i = bins[0].begin; i < bins[0].end; i++)
                        for (int64_t j = bins[1].begin; j < bins[1].end; j++)
                            for (int64_t k = bins[2].begin; k < bins[2].end; k++, count++) {
                                const V* row = from + (((bt / t * T + i) * Y + j) * X + k) * C;
                                for (int64_t c = 0; c < C; c++) sum[size_t(c)] += float(row[c]);
                            }
                    for (int64_t c = 0; c < C; c++) to[(bt * y * x + yx) * C + c] = V(sum[size_t(c)] / float(count));
                }
        }
    });
}
template <> void run(const AdaptivePoolBwd& a) {
    const int64_t B = a.dx.dim(0), T = a.dx.dim(1), Y = a.dx.dim(2), X = a.dx.dim(3), C = a.dx.dim(4);
    const int64_t t = a.dy.dim(1), y = a.dy.dim(2), x = a.dy.dim(3);
    auto bins_of = [](int64_t cell, int64_t out, int64_t in) {      // the bins that cover this cell: a range
        Bin r{cell * out / in, 0};
        while (r.begin > 0 && bin(r.begin - 1, out, in).end > cell) r.begin--;
        for (r.end = r.begin; r.end < out && bin(r.end, out, in).begin <= cell; r.end++) {}
        return r;
    };
    with_float_type(a.dx.dtype(), [&]<class V>() {
        const V* from = a.dy.data<V>();
        V* to = a.dx.data<V>();
#pragma omp parallel if (a.dx.numel() > 1 << 14)
        {
            std::vector<float> sum = floats(C);
#pragma omp for collapse(2)
            for (int64_t bt = 0; bt < B * T; bt++)
                for (int64_t yx = 0; yx < Y * X; yx++) {
                    const Bin over[] = {bins_of(bt % T, t, T), bins_of(yx / X, y, Y), bins_of(yx % X, x, X)};
                    std::fill(sum.begin(), sum.end(), 0.0f);
                    for (int64_t i = over[0].begin; i < over[0].end; i++)
                        for (int64_t j = over[1].begin; j < over[1].end; j++)
                            for (int64_t k = over[2].begin; k < over[2].end; k++) {
                                const Bin p = bin(i, t, T), q = bin(j, y, Y), r = bin(k, x, X);
                                const float share = 1.0f / float((p.end - p.begin) * (q.end - q.begin) * (r.end - r.begin));
                                const V* row = from + (((bt / T * t + i) * y + j) * x + k) * C;
                                for (int64_t c = 0; c < C; c++) sum[size_t(c)] = madd(share, float(row[c]), sum[size_t(c)]);
                            }
                    for (int64_t c = 0; c < C; c++) to[(bt * Y * X + yx) * C + c] = V(sum[size_t(c)]);
                }
        }
    });
}

template <> void run(const TokenMean& a) {
    const int64_t B = a.x.dim(0), N = a.x.dim(1), C = a.x.dim(2);
    with_float_type(a.x.dtype(), [&]<class V>() {
        const V* x = a.x.data<V>();
        V* y = a.y.data<V>();
#pragma omp parallel for collapse(2) if (a.x.numel() > 1 << 14)
        for (int64_t b = 0; b < B; b++)
            for (int64_t c0 = 0; c0 < C; c0 += kColumns) {
                const int64_t n = std::min(kColumns, C - c0);
                float total[kColumns] = {}, chunk[kColumns];
                for (int64_t i = 0; i < N; i += kChunk) {
                    std::fill(chunk, chunk + kColumns, 0.0f);
                    for (int64_t j = i; j < std::min(i + kChunk, N); j++)
                        for (int64_t c = 0; c < n; c++) chunk[c] += float(x[(b * N + j) * C + c0 + c]);
                    for (int64_t c = 0; c < n; c++) total[c] += chunk[c];
                }
                for (int64_t c = 0; c < n; c++) y[b * C + c0 + c] = V(total[c] / float(N));
            }
    });
}
template <> void run(const TokenMeanBwd& a) {
    const int64_t N = a.dx.dim(1), C = a.dx.dim(2), rows = a.dx.dim(0) * N;
    with_float_type(a.dx.dtype(), [&]<class V>() {
        const V* dy = a.dy.data<V>();
        V* dx = a.dx.data<V>();
#pragma omp parallel for if (a.dx.numel() > 1 << 14)
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < C; c++) dx[r * C + c] = V(float(dy[r / N * C + c]) / float(N));
    });
}

template <> void run(const Mix& a) {
    const int64_t E = int64_t(a.x.size()), B = a.y.dim(0), row = a.y.numel() / std::max<int64_t>(B, 1);
    const std::vector<float> weights = to_floats(a.weights);
    with_float_type(a.y.dtype(), [&]<class V>() {
        V* y = a.y.data<V>();
        std::vector<const V*> x;
        for (const Tensor& t : a.x) x.push_back(t.data<V>());
#pragma omp parallel for if (a.y.numel() > 1 << 14)
        for (int64_t i = 0; i < B * row; i++) {
            const float* w = &weights[size_t(i / row * E)];
            float sum = 0;
            for (int64_t e = 0; e < E; e++) sum = madd(w[e], float(x[size_t(e)][i]), sum);
            y[i] = V(sum);
        }
    });
}
template <> void run(const MixBwd& a) {
    const int64_t E = int64_t(a.x.size()), B = a.dy.dim(0), row = a.dy.numel() / std::max<int64_t>(B, 1);
    const std::vector<float> weights = to_floats(a.weights);
    with_float_type(a.dy.dtype(), [&]<class V>() {
        const V* dy = a.dy.data<V>();
        for (int64_t e = 0; e < E; e++) {
            V* dx = a.dx[size_t(e)].template data<V>();
            if (!dx) continue;
#pragma omp parallel for if (B * row > 1 << 14)
            for (int64_t i = 0; i < B * row; i++) dx[i] = V(weights[size_t(i / row * E + e)] * float(dy[i]));
        }
        if (!a.dweights) return;
        const int64_t chunks = (row + kChunk * 16 - 1) / (kChunk * 16);
        std::vector<float> sums = floats(B * E * chunks);
#pragma omp parallel for collapse(2) if (B * row > 1 << 14)
        for (int64_t be = 0; be < B * E; be++)
            for (int64_t k = 0; k < chunks; k++) {
                const V *x = a.x[size_t(be % E)].template data<V>() + be / E * row, *d = dy + be / E * row;
                Vec lanes{};
                const int64_t end = std::min(row, (k + 1) * kChunk * 16);
                for (int64_t i = k * kChunk * 16; i < end; i += kLanes) {
                    float p[kLanes] = {}, q[kLanes] = {};
                    for (int64_t j = 0; j < std::min<int64_t>(kLanes, end - i); j++) p[j] = float(x[i + j]), q[j] = float(d[i + j]);
                    lanes = madd(load(p), load(q), lanes);
                }
                sums[size_t(be * chunks + k)] = sum(lanes);
            }
        for (int64_t be = 0; be < B * E; be++) {
            float total = 0;
            for (int64_t k = 0; k < chunks; k++) total += sums[size_t(be * chunks + k)];
            with_float_type(a.dweights.dtype(), [&]<class W>() { a.dweights.data<W>()[be] = W(total); });
        }
    });
}

template <> void run(const SoftmaxRows& a) {
    const int64_t M = a.x.rows(), C = a.x.dim(-1);
    with_float_type(a.x.dtype(), [&]<class V>() {
        const V* x = a.x.data<V>();
        V* y = a.y.data<V>();
#pragma omp parallel if (M * C > 1 << 14)
        {
            std::vector<float> row = floats(C);
#pragma omp for
            for (int64_t m = 0; m < M; m++) {
                float top = -INFINITY, sum = 0;
                for (int64_t c = 0; c < C; c++) row[size_t(c)] = float(x[m * C + c]) * a.scale, top = std::max(top, row[size_t(c)]);
                for (int64_t c = 0; c < C; c++) row[size_t(c)] = exp(row[size_t(c)] - top);
                for (int64_t c = 0; c < C; c++) sum += row[size_t(c)];
                for (int64_t c = 0; c < C; c++) y[m * C + c] = V(row[size_t(c)] / sum);
            }
        }
    });
}
template <> void run(const SoftmaxRowsBwd& a) {
    const int64_t M = a.y.rows(), C = a.y.dim(-1);
    with_float_type(a.y.dtype(), [&]<class V>() {
        const V *y = a.y.data<V>(), *dy = a.dy.data<V>();
        V* dx = a.dx.data<V>();
#pragma omp parallel for if (M * C > 1 << 14)
        for (int64_t m = 0; m < M; m++) {
            float dot = 0;
            for (int64_t c = m * C; c < (m + 1) * C; c++) dot = madd(float(y[c]), float(dy[c]), dot);
            for (int64_t c = m * C; c < (m + 1) * C; c++) dx[c] = V(a.scale * float(y[c]) * (float(dy[c]) - dot));
        }
    });
}

}
