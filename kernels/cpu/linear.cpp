// The product is gemm.h's; what follows it happens while a row of a tile is in L1. Bound by arithmetic for many rows, by
// reading w for few.
#include "kernels/linear.h"
#include "kernels/cpu/gemm.h"

namespace merv::kernels::cpu::MERV_ISA {
namespace {

MERV_INLINE float phi(float x) { return 0.5f * (1.0f + erf(x * 0.707106781f)); }            // normal distribution function
MERV_INLINE float tanh_argument(float x) { return 0.797884561f * (x + 0.044715f * (x * x * x)); }

template <class F> void each(float* v, int64_t n, F f) {
    for (int64_t j = 0; j < n; j++) v[j] = f(v[j]);
}
void activate(Act act, float* v, int64_t n) {
    switch (act) {
        case Act::none: break;
        case Act::gelu: each(v, n, [](float x) { return x * phi(x); }); break;
        case Act::gelu_tanh: each(v, n, [](float x) { return 0.5f * x * (1.0f + tanh(tanh_argument(x))); }); break;
        case Act::quick_gelu: each(v, n, [](float x) { return x * sigmoid(1.702f * x); }); break;
        case Act::silu: each(v, n, [](float x) { return x * sigmoid(x); }); break;
    }
}
void derivative(Act act, float* v, int64_t n) {
    switch (act) {
        case Act::none: std::fill(v, v + n, 1.0f); break;
        case Act::gelu: each(v, n, [](float x) { return madd(x * 0.398942280f, exp(-0.5f * x * x), phi(x)); }); break;
        case Act::gelu_tanh:
            each(v, n, [](float x) {
                const float a = 2.0f * tanh_argument(x), s = sigmoid(a), c = sigmoid(-a);       // s = (1 + tanh) / 2, and 4 s c = 1 - tanh^2
                return madd(2.0f * x * s * c, 0.797884561f * madd(0.134145f * x, x, 1.0f), s);
            });
            break;
        case Act::quick_gelu: each(v, n, [](float x) { const float s = sigmoid(1.702f * x); return madd(1.702f * x * s, sigmoid(-1.702f * x), s); }); break;
        case Act::silu: each(v, n, [](float x) { const float s = sigmoid(x); return madd(x * s, sigmoid(-x), s); }); break;
    }
}

std::vector<float> widened(const Tensor& t) { return t ? to_floats(t) : std::vector<float>{}; }     // a bias or scale; small

template <class X, class W> using Product = std::conditional_t<std::is_same_v<X, bf16> && std::is_same_v<W, bf16>, bf16, float>;

// What a linear layer does with finished sums.
template <class X> struct Epilogue {
    int64_t N;
    Act act;
    std::vector<float> bias, scale;
    const X *gate, *residual;
    X *y, *z;
    explicit Epilogue(const LinearFwd& a)
        : N(a.w.dim(0)), act(a.act), bias(widened(a.bias)), scale(widened(a.scale)), gate(a.gate.data<X>()), residual(a.residual.data<X>()), y(a.y.data<X>()), z(a.z.data<X>()) {}

    void operator()(int64_t m, int64_t n, float* v, int64_t count) const {
        const int64_t at = m * N + n;
        if (!bias.empty()) for (int64_t j = 0; j < count; j++) v[j] += bias[size_t(n + j)];
        if (z) for (int64_t j = 0; j < count; j++) z[at + j] = X(v[j]);
        if (act != Act::none) for (int64_t j = 0; j < count; j++) v[j] = float(X(v[j]));
        activate(act, v, count);
        if (gate) for (int64_t j = 0; j < count; j++) v[j] *= float(gate[at + j]);
        if (!scale.empty()) for (int64_t j = 0; j < count; j++) v[j] *= scale[size_t(n + j)];
        if (residual) for (int64_t j = 0; j < count; j++) v[j] += float(residual[at + j]);
        for (int64_t j = 0; j < count; j++) y[at + j] = X(v[j]);
    }
    void ahead(int64_t m, int64_t n) const {
        const int64_t at = m * N + n;
        for (int64_t j = 0; j < kTileColumns; j += 64 / int64_t(sizeof(X))) {
            __builtin_prefetch(y + at + j, 1, 3);
            if (z) __builtin_prefetch(z + at + j, 1, 3);
            if (gate) __builtin_prefetch(gate + at + j, 0, 3);
            if (residual) __builtin_prefetch(residual + at + j, 0, 3);
        }
    }
};

template <class X, class W> void forward(const LinearFwd& a) {
    const int64_t M = a.x.rows(), N = a.w.dim(0), K = a.w.dim(1);
    gemm<Product<X, W>>(M, N, K, Operand<X>{a.x.data<X>(), K}, Operand<W>{a.w.data<W>(), K}, Epilogue<X>(a));
}

// Column sums are folds over chunks of 64 rows, so they do not depend on the threads.
template <class X> void epilogue_backward(const LinearEpilogueBwd& a) {
    constexpr int64_t kChunk = 64, kColumns = 256;
    const int64_t M = a.dy.rows(), N = a.dy.dim(-1), chunks = (M + kChunk - 1) / kChunk;
    const X *dy = a.dy.data<X>(), *z = a.z.data<X>(), *gate = a.gate.data<X>();
    X *dz = a.dz.data<X>(), *dgate = a.dgate.data<X>();
    const std::vector<float> scale = widened(a.scale);
    const bool wants_sums = a.dscale || a.dbias;
    std::vector<float> sums = floats(wants_sums ? chunks * 2 * N : 0);          // per chunk: dscale, then dbias
#pragma omp parallel for collapse(2) if (M * N > 1 << 14)
    for (int64_t chunk = 0; chunk < chunks; chunk++)
        for (int64_t n0 = 0; n0 < N; n0 += kColumns) {
            const int64_t n = std::min(kColumns, N - n0);
            for (int64_t m = chunk * kChunk; m < std::min(M, (chunk + 1) * kChunk); m++) {
                const int64_t at = m * N + n0;
                float d[kColumns], active[kColumns], slope[kColumns];           // dy, act(z), act'(z), then dz
                for (int64_t j = 0; j < n; j++) d[j] = float(dy[at + j]);
                for (int64_t j = 0; j < n; j++) active[j] = slope[j] = z ? float(z[at + j]) : 0.0f;
                if (z) activate(a.act, active, n);
                derivative(a.act, slope, n);
                if (a.dscale) {
                    float* sum = &sums[size_t(chunk * 2 * N + n0)];
                    for (int64_t j = 0; j < n; j++) sum[j] = madd(d[j], active[j] * (gate ? float(gate[at + j]) : 1.0f), sum[j]);
                }
                if (!scale.empty()) for (int64_t j = 0; j < n; j++) d[j] *= scale[size_t(n0 + j)];
                if (dgate) for (int64_t j = 0; j < n; j++) dgate[at + j] = X(d[j] * active[j]);
                if (gate) for (int64_t j = 0; j < n; j++) d[j] *= float(gate[at + j]);
                for (int64_t j = 0; j < n; j++) d[j] *= slope[j];
                if (dz) for (int64_t j = 0; j < n; j++) dz[at + j] = X(d[j]);
                if (a.dbias) {
                    float* sum = &sums[size_t((chunk * 2 + 1) * N + n0)];
                    for (int64_t j = 0; j < n; j++) sum[j] += d[j];
                }
            }
        }
    auto fold = [&](const Tensor& t, int64_t part) {
        if (!t) return;
        std::vector<float> total = floats(N);
        for (int64_t chunk = 0; chunk < chunks; chunk++)
            for (int64_t j = 0; j < N; j++) total[size_t(j)] += sums[size_t((chunk * 2 + part) * N + j)];
        for (int64_t j = 0; j < N; j++) t.data<float>()[j] += total[size_t(j)];
    };
    fold(a.dscale, 0), fold(a.dbias, 1);
}

}

template <> void run(const LinearFwd& a) {
    with_float_type(a.x.dtype(), [&]<class X>() { with_float_type(a.w.dtype(), [&]<class W>() { forward<X, W>(a); }); });
}
template <> void run(const LinearRefill& a) {
    constexpr int64_t kPiece = 256;
    const int64_t n = a.y.numel();
    with_float_type(a.y.dtype(), [&]<class X>() {
        const X *z = a.z.data<X>(), *gate = a.gate.data<X>();
        X* y = a.y.data<X>();
#pragma omp parallel for if (n > 1 << 14)
        for (int64_t i = 0; i < n; i += kPiece) {
            float v[kPiece];
            const int64_t count = std::min(kPiece, n - i);
            for (int64_t j = 0; j < count; j++) v[j] = float(z[i + j]);
            activate(a.act, v, count);
            if (gate) for (int64_t j = 0; j < count; j++) v[j] *= float(gate[i + j]);
            for (int64_t j = 0; j < count; j++) y[i + j] = X(v[j]);
        }
    });
}
template <> void run(const LinearEpilogueBwd& a) {
    with_float_type(a.dy.dtype(), [&]<class X>() { epilogue_backward<X>(a); });
}
template <> void run(const LinearInputBwd& a) {
    with_float_type(a.dz.dtype(), [&]<class X>() { with_float_type(a.w.dtype(), [&]<class W>() {
        const int64_t M = a.dz.rows(), N = a.w.dim(0), K = a.w.dim(1);
        X* dx = a.dx.data<X>();
        gemm<Product<X, W>>(M, K, N, Operand<X>{a.dz.data<X>(), N}, Operand<W>{a.w.data<W>(), K, false}, [&](int64_t m, int64_t k, float* v, int64_t count) {
            for (int64_t j = 0; j < count; j++) dx[m * K + k + j] = X(v[j]);
        });
    }); });
}
template <> void run(const LinearWeightBwd& a) {
    with_float_type(a.dz.dtype(), [&]<class X>() {
        const int64_t M = a.dz.rows(), N = a.dw.dim(0), K = a.dw.dim(1);
        float* dw = a.dw.data<float>();
        gemm<X>(N, K, M, Operand<X>{a.dz.data<X>(), N, false}, Operand<X>{a.x.data<X>(), K, false}, [&](int64_t n, int64_t k, float* v, int64_t count) {
            for (int64_t j = 0; j < count; j++) dw[n * K + k + j] += v[j];
        });
    });
}

}
