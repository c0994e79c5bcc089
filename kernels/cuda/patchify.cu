// Cuts frames (F, 3, H, W) into vectors (F/t, P, 3 t p p) (kernels/patchify.h has the formula). A thread moves a pack of pixels of
// one line of one patch, in y's order: writes are coalesced, reads come in runs of p pixels whose neighbours other warps take
// from cache. Bound by memory: every pixel is read once, every element written once. No contraction can occur in the
// normalisation, a division after a subtraction after a division, so its bits are the CPU's table's.
#include "kernels/patchify.h"
#include "kernels/gpu.h"

namespace merv::kernels::MERV_GPU {
namespace {

constexpr int kThreads = 256;
struct Cut { int H, W, p, t; float mean[3], std[3]; };

template <int n, class Y, class X> __global__ void __launch_bounds__(kThreads) patchify_kernel(Y* y, const X* x, Cut s, int64_t packs) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= packs) return;
    int64_t rest = i / (s.p / n);
    auto next = [&](int size) { const int at = int(rest % size); rest /= size; return at; };
    const int px = int(i % (s.p / n)) * n, py = next(s.p), dt = next(s.t), c = next(3), column = next(s.W / s.p), line = next(s.H / s.p);
    float v[n];
    auto of_channel = [&](const float (&f)[3]) { return c == 0 ? f[0] : c == 1 ? f[1] : f[2]; };       // f[c] would put f into local memory
    const float mean = of_channel(s.mean), std = of_channel(s.std);
    Pack<X, n> pixels = *reinterpret_cast<const Pack<X, n>*>(x + (((rest * s.t + dt) * 3 + c) * s.H + line * s.p + py) * s.W + column * s.p + px);
    for (int k = 0; k < n; k++) {
        v[k] = float(pixels.v[k]);
        if constexpr (sizeof(X) == 1) v[k] = (v[k] / 255.0f - mean) / std;
    }
    store(y + i * n, v);
}

}

template <> void run(const Patchify& a) {
    const int64_t N = a.y.numel();
    if (N == 0) return;
    Cut s{int(a.x.dim(2)), int(a.x.dim(3)), int(a.patch), int(a.tubelet), {}, {}};
    for (size_t c = 0; c < 3; c++) s.mean[c] = a.mean[c], s.std[c] = a.std[c];
    with_float_type(a.y.dtype(), [&]<class Y>() {
        auto cut = [&]<class X>(const X* x) {
            Y* y = at<Y>(a.y);
            with_width(BUG == 18 ? 8 : vector_width(a.patch, y, x), [&]<int n>() {
                launch(Work{"patchify", double(N) * (sizeof(Y) + sizeof(X)), sizeof(X) == 1 ? 3.0 * double(N) : 0.0}, Grid{{blocks_of(N / n, kThreads)}, {kThreads}},
                       patchify_kernel<n, Y, X>, y, x, s, N / n);
            });
        };
        if (a.x.dtype() == DType::f32) cut(static_cast<const float*>(at<float>(a.x)));
        else cut(static_cast<const uint8_t*>(at<uint8_t>(a.x)));
    });
}

}
