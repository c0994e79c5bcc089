#include "data/transform.h"
#include <algorithm>
#include <cmath>
#include <cstring>
#include "kernels/resample.h"

namespace merv {
namespace {

using kernels::ResampleAxis;

double triangle(double x) { return std::max(0.0, 1.0 - std::abs(x)); }
double cubic(double x) {
    constexpr double a = -0.5;
    x = std::abs(x);
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

ResampleAxis make_axis(int in, int out, Filter filter) {
    const double scale = double(in) / out, widen = std::max(scale, 1.0);
    const double support = (filter == Filter::bicubic ? 2.0 : 1.0) * widen, narrow = 1.0 / widen;
    ResampleAxis a;
    a.taps = 2 * int(std::ceil(support)) + 1;
    a.first.resize(size_t(out)), a.count.resize(size_t(out)), a.weight.resize(size_t(out) * size_t(a.taps));
    std::vector<double> w(static_cast<size_t>(a.taps));
    for (int i = 0; i < out; i++) {
        const double centre = (i + 0.5) * scale;
        const int first = std::max(0, int(centre - support + 0.5)), count = std::min(in, int(centre + support + 0.5)) - first;
        double sum = 0;
        for (int j = 0; j < count; j++) {
            const double x = (j + first - centre + 0.5) * narrow;
            sum += w[size_t(j)] = filter == Filter::bicubic ? cubic(x) : triangle(x);
        }
        for (int j = 0; j < count; j++) {
            const double v = sum != 0 ? w[size_t(j)] / sum : w[size_t(j)];
            a.weight[size_t(i) * size_t(a.taps) + size_t(j)] = int32_t((v < 0 ? -0.5 : 0.5) + v * (1 << ResampleAxis::kPrecision));
        }
        a.first[size_t(i)] = first, a.count[size_t(i)] = count;
    }
    return a;
}

void check_frames(const char* op, const Tensor& t) {
    CHECK(t && t.dtype() == DType::u8 && t.shape().rank() == 4 && t.dim(-1) == 3 && t.numel() > 0, op, ": u8 (F, H, W, 3) expected, not ", t);
    CHECK(t.dim(1) < (1 << 24) && t.dim(2) < (1 << 24), op, ": frames too large in ", t);
}

// Python's int(round(x / 2.0)): halves go to the even neighbour. May be negative.
int half_even(int x) { return int(std::nearbyint(x / 2.0)); }

using Table = std::array<std::array<float, 256>, 3>;    // [channel][byte]: the only 768 values normalisation can give
Table normalized_bytes(std::array<float, 3> mean, std::array<float, 3> std) {
    Table t;
    for (size_t c = 0; c < 3; c++)
        for (size_t v = 0; v < 256; v++) t[c][v] = (float(v) / 255.0f - mean[c]) / std[c];
    return t;
}

}

Tensor resize(const Tensor& frames, int height, int width, Filter filter) {
    check_frames("resize", frames);
    CHECK(height > 0 && width > 0, "resize: ", frames, " to ", height, " x ", width);
    const int H = int(frames.dim(1)), W = int(frames.dim(2));
    if (H == height && W == width) return frames;
    const ResampleAxis rows = make_axis(H, height, filter), columns = make_axis(W, width, filter);
    Tensor y({frames.dim(0), height, width, 3}, DType::u8);
    kernels::resample({.y = y, .x = frames, .rows = H == height ? nullptr : &rows, .columns = W == width ? nullptr : &columns});
    return y;
}

Tensor prepare(const Tensor& frames, int size, Filter filter, Resize strategy, std::array<float, 3> mean, int short_side) {
    check_frames("prepare", frames);
    CHECK(size > 0 && short_side >= 0, "prepare: size ", size, ", short side ", short_side);
    const int64_t F = frames.dim(0);
    std::array<uint8_t, 3> fill{};              // outside the picture a crop shows black, as torchvision's does
    Tensor x = frames;
    if (strategy == Resize::letterbox) {        // LetterboxPad: an odd difference leaves the square one pixel short
        std::array<uint8_t, 3> colour;
        for (size_t c = 0; c < 3; c++) colour[c] = uint8_t(std::clamp(double(mean[c]) * 255, 0.0, 255.0));
        const int H = int(x.dim(1)), W = int(x.dim(2)), side = std::max(H, W), left = (side - W) / 2, top = (side - H) / 2;
        Tensor padded({F, H + 2 * top, W + 2 * left, 3}, DType::u8);
        for (int64_t i = 0; i < padded.numel(); i++) padded.data<uint8_t>()[i] = colour[size_t(i % 3)];
        for (int64_t f = 0; f < F; f++)
            for (int r = 0; r < H; r++)
                std::memcpy(padded.data<uint8_t>() + ((f * padded.dim(1) + top + r) * padded.dim(2) + left) * 3,
                            x.data<uint8_t>() + (f * H + r) * W * 3, size_t(W) * 3);
        x = padded;
    }
    if (strategy == Resize::naive) x = resize(x, size, size, filter);
    else {                                      // torchvision: the long side is truncated
        const int64_t H = x.dim(1), W = x.dim(2), s = short_side ? short_side : size;
        x = W <= H ? resize(x, int(s * H / W), int(s), filter) : resize(x, int(s), int(s * W / H), filter);
    }
    const int H = int(x.dim(1)), W = int(x.dim(2)), top = half_even(H - size), left = half_even(W - size);
    Tensor y({F, 3, size, size}, DType::u8);
    const uint8_t* in = x.data<uint8_t>();
    uint8_t* out = y.data<uint8_t>();
#pragma omp parallel for schedule(static)
    for (int64_t f = 0; f < F; f++)
        for (int r = 0; r < size; r++)
            for (int c = 0; c < 3; c++) {
                uint8_t* to = out + ((f * 3 + c) * size + r) * size;
                const bool inside = r + top >= 0 && r + top < H;
                const uint8_t* from = in + ((f * H + (inside ? r + top : 0)) * W) * 3 + c;
                for (int i = 0; i < size; i++) to[i] = inside && i + left >= 0 && i + left < W ? from[(i + left) * 3] : fill[size_t(c)];
            }
    return y;
}

Tensor normalize(const Tensor& pixels, std::array<float, 3> mean, std::array<float, 3> std) {
    CHECK(pixels && pixels.dtype() == DType::u8 && pixels.shape().rank() == 4 && pixels.dim(1) == 3, "normalize: u8 (F, 3, S, S) expected, not ", pixels);
    const Table table = normalized_bytes(mean, std);
    Tensor y(pixels.shape());
    const uint8_t* in = pixels.data<uint8_t>();
    float* out = y.data<float>();
    const int64_t plane = pixels.dim(2) * pixels.dim(3), planes = pixels.dim(0) * 3;
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < planes; p++)
        for (int64_t i = p * plane; i < (p + 1) * plane; i++) out[i] = table[size_t(p % 3)][in[i]];
    return y;
}

Tensor languagebind_pixels(const Tensor& frames, int size) {
    check_frames("languagebind_pixels", frames);
    CHECK(size > 0, "languagebind_pixels: size ", size);
    const int H = int(frames.dim(1)), W = int(frames.dim(2));
    // ShortSideScale in Python's doubles, long side floored; CenterCropVideo
    const int h = W < H ? int(std::floor(double(H) / W * size)) : size, w = W < H ? size : int(std::floor(double(W) / H * size));
    struct Tap { int low, high; float w_low, w_high; };     // torch's bilinear: two neighbours, position in f32
    const bool fused = h + w <= 128;            // torch has two paths by the size of the result; the one for small results rounds a position once, the other twice
    auto taps = [size, fused](int in, int out) {
        const int first = half_even(out - size);
        const float scale = float(in) / float(out);
        std::vector<Tap> t;
        for (int i = first; i < first + size; i++) {
            const float middle = float(i) + 0.5f;
            const float s = in == out ? float(i) : std::max(0.0f, fused ? std::fma(scale, middle, -0.5f) : scale * middle - 0.5f);
            const int low = std::min(int(s), in - 1);
            const float high = std::min(std::max(s - float(low), 0.0f), 1.0f);
            t.push_back({low, low + (low < in - 1), 1.0f - high, high});
        }
        return t;
    };
    const std::vector<Tap> rows = taps(H, h), columns = taps(W, w);
    const Table table = normalized_bytes(kClipMean, kClipStd);
    Tensor y({frames.dim(0), 3, size, size});
    const uint8_t* in = frames.data<uint8_t>();
    float* out = y.data<float>();
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t f = 0; f < frames.dim(0); f++)
        for (int r = 0; r < size; r++) {
            const Tap v = rows[size_t(r)];
            const uint8_t *above = in + (f * H + v.low) * W * 3, *below = in + (f * H + v.high) * W * 3;
            for (size_t c = 0; c < 3; c++) {
                const std::array<float, 256>& value = table[c];
                float* to = out + ((f * 3 + int64_t(c)) * size + r) * size;
                for (int i = 0; i < size; i++) {
                    const Tap u = columns[size_t(i)];
                    const size_t a = size_t(u.low) * 3 + c, b = size_t(u.high) * 3 + c;
                    const float upper = u.w_low * value[above[a]] + u.w_high * value[above[b]];
                    const float lower = u.w_low * value[below[a]] + u.w_high * value[below[b]];
                    to[i] = v.w_low * upper + v.w_high * lower;
                }
            }
        }
    return y;
}

}
