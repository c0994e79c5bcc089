// The product is gemm.h's; what follows it happens while a row of a tile is in L1. Bound by arithmetic for many rows, by
// reading w for few.
#include "kernels/linear.h"
#include <vector>
#include "kernels/cpu/gemm.h"

namespace merv::kernels::cpu::MERV_ISA {
namespace {

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

std::vector<float> widened(const Tensor& t) { return t ? to_floats(t) : std::vector<float>{}; }     // a bias or scale; small

template <class X, class W> void forward(const LinearFwd& a) {
    using T = std::conditional_t<std::is_same_v<X, bf16> && std::is_same_v<W, bf16>, bf16, float>;
    const int64_t M = a.x.rows(), N = a.w.dim(0), K = a.w.dim(1);
    const X *gate = a.gate.data<X>(), *residual = a.residual.data<X>();
    X* y = a.y.data<X>();
    const std::vector<float> bias = widened(a.bias), scale = widened(a.scale);
    gemm<T>(M, N, K, Operand<X>{a.x.data<X>(), K}, Operand<W>{a.w.data<W>(), K}, [&](int64_t m, int64_t n, float* v, int64_t count) {
        const int64_t at = m * N + n;
        if (!bias.empty()) for (int64_t j = 0; j < count; j++) v[j] += bias[size_t(n + j)];
        activate(a.act, v, count);
        if (gate) for (int64_t j = 0; j < count; j++) v[j] *= float(gate[at + j]);
        if (!scale.empty()) for (int64_t j = 0; j < count; j++) v[j] *= scale[size_t(n + j)];
        if (residual) for (int64_t j = 0; j < count; j++) v[j] += float(residual[at + j]);
        for (int64_t j = 0; j < count; j++) y[at + j] = X(v[j]);
    });
}

}

template <> void run(const LinearFwd& a) {
    with_float_type(a.x.dtype(), [&]<class X>() { with_float_type(a.w.dtype(), [&]<class W>() { forward<X, W>(a); }); });
}

}
