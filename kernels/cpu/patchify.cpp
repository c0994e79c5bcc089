// Bound by memory. A u8 pixel has 256 values, so its normalisation is a table per channel.
#include "kernels/patchify.h"

namespace merv::kernels::cpu::MERV_ISA {
namespace {

template <class Y, class T, class Value> void cut(const Patchify& a, Value value) {
    const int64_t F = a.x.dim(0), H = a.x.dim(2), W = a.x.dim(3), p = a.patch, t = a.tubelet, X = W / p, P = (H / p) * X, K = 3 * t * p * p;
    const T* x = a.x.data<T>();
    Y* y = a.y.data<Y>();
#pragma omp parallel for collapse(2) if (a.y.numel() > 1 << 14)
    for (int64_t g = 0; g < F / t; g++)
        for (int64_t i = 0; i < P; i++) {
            Y* to = y + (g * P + i) * K;
            for (int64_t c = 0; c < 3; c++)
                for (int64_t dt = 0; dt < t; dt++)
                    for (int64_t py = 0; py < p; py++) {
                        const T* from = x + (((g * t + dt) * 3 + c) * H + i / X * p + py) * W + i % X * p;
                        for (int64_t px = 0; px < p; px++) *to++ = Y(value(c, from[px]));
                    }
        }
}

}

template <> void run(const Patchify& a) {
    float table[3][256];
    for (int c = 0; c < 3; c++)
        for (int v = 0; v < 256; v++) table[c][v] = (float(v) / 255.0f - a.mean[size_t(c)]) / a.std[size_t(c)];
    with_float_type(a.y.dtype(), [&]<class Y>() {
        if (a.x.dtype() == DType::f32) cut<Y, float>(a, [](int64_t, float v) { return v; });
        else cut<Y, uint8_t>(a, [&](int64_t c, uint8_t v) { return table[c][v]; });
    });
}

}
