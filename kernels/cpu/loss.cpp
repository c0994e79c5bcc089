// A row per task, its exponentials in a buffer. The sum is a fold over pieces of 4096 logits, each summed lane by lane.
#include "kernels/loss.h"
#include <algorithm>
#include "kernels/cpu/simd.h"

namespace merv::kernels::cpu::MERV_ISA {
namespace {

constexpr int64_t kPiece = 4096;

struct Row { float max, sum; };

// e = exp(x - max)
template <class X> Row exponentials(const X* x, float* e, int64_t V) {
    float max = -INFINITY;
    for (int64_t v = 0; v < V; v++) {
        e[v] = float(x[v]);
        max = e[v] > max || e[v] != e[v] ? e[v] : max;          // NaN shows
    }
    for (int64_t v = 0; v < V; v++) e[v] = exp(e[v] - max);
    float sum = 0;
    for (int64_t v = 0; v < V; v += kPiece) sum += row_sum(e + v, std::min(kPiece, V - v), [](Vec p) { return p; });
    return {max, sum};
}

template <class F> void each_row(const Tensor& x, const Tensor& labels, F f) {
    const int64_t M = x.rows(), V = x.dim(-1);
    const int32_t* label = labels.data<int32_t>();
#pragma omp parallel if (M * V > 1 << 14)
    {
        std::vector<float> e = floats(V);
#pragma omp for
        for (int64_t m = 0; m < M; m++) f(m, label[m], e.data());
    }
}

}

template <> void run(const CrossEntropyFwd& a) {
    const int64_t V = a.x.dim(-1);
    float* loss = a.loss.data<float>();
    with_float_type(a.x.dtype(), [&]<class X>() {
        const X* x = a.x.data<X>();
        each_row(a.x, a.labels, [&](int64_t m, int32_t label, float* e) {
            loss[m] = 0;
            if (label == kIgnore) return;
            const Row r = exponentials(x + m * V, e, V);
            loss[m] = std::log(r.sum) + (r.max - float(x[m * V + label]));
        });
    });
}
template <> void run(const CrossEntropyBwd& a) {
    const int64_t V = a.x.dim(-1);
    with_float_type(a.x.dtype(), [&]<class X>() {
        const X* x = a.x.data<X>();
        X* dx = a.dx.data<X>();
        each_row(a.x, a.labels, [&](int64_t m, int32_t label, float* e) {
            X* to = dx + m * V;
            if (label == kIgnore) {
                std::fill(to, to + V, X(0.0f));
                return;
            }
            const Row r = exponentials(x + m * V, e, V);
            const float at_label = (e[label] / r.sum - 1.0f) * a.scale;
            for (int64_t v = 0; v < V; v++) to[v] = X(e[v] / r.sum * a.scale);
            to[label] = X(at_label);
        });
    });
}

}
