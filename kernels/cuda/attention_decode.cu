// Attention of one query per sequence, as in token-by-token decoding (kernels/attention.h). Bound by reading k and v once.
//
// One head's keys are too few rows for a GPU, so they are cut into stretches of 256 (split-KV; Dao et al. 2023, Flash-Decoding): a
// block reads one stretch for up to four of the query heads that share it and leaves sums relative to its own maximum; a second
// kernel adds the stretches in their order. The cut depends on Nk alone, so bits do not depend on the batch. Why 256 and not a cut
// into as many stretches as the device has room for: results would depend on the device. Where lse is wanted, for backward, scores
// must be summed as backward sums them, so that a lone key has probability 1 exactly: attention.cu.
#include "kernels/cuda/attention_rows.h"

namespace merv::kernels::MERV_GPU {
namespace {

constexpr int kStretch = 256, kWarps = 4, kThreads = 32 * kWarps, kAhead = 4;      // keys of a block; keys that a lane has under way

// What one stretch gives for a head: sum (D) relative to max, and the exponentials' own sum. Of kHeads heads the last may not be there.
struct alignas(8) Part { float max, sum; };     // moved as one

// `lanes` lanes, a power of two, hold a key's row, n elements each; a warp has 32 / lanes rows at once.
template <int kHeads, class X> __global__ void __launch_bounds__(kThreads, 2)
stretch_kernel(float* sums, Part* parts, Strided<const X> q, Strided<const X> k, Strided<const X> v, Scene scene, int lanes, int stretches, int chunks) {
    constexpr int n = 16 / sizeof(X);
    constexpr int column = 160 / n;             // element d lies at d % n * column + d / n: neighbouring lanes, and neighbouring d, in different banks
    __shared__ float shared_sum[kWarps][kHeads][n * column];
    __shared__ Part shared_part[kWarps][kHeads];
    const int stretch = int(blockIdx.x % unsigned(stretches)), kv = int(blockIdx.y) / chunks, h0 = kv * scene.group + int(blockIdx.y) % chunks * kHeads, D = scene.D;
    const int64_t s = blockIdx.x / unsigned(stretches);
    const int heads = (kv + 1) * scene.group - h0 < kHeads ? (kv + 1) * scene.group - h0 : kHeads;
    const int seen = scene.seen(0, scene.keys(s)), begin = stretch * kStretch, end = seen < begin + kStretch ? seen : begin + kStretch;
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, d = lane % lanes * n, per_warp = 32 / lanes;
    const X *kh = k.head(s, kv, D) + d, *vh = v.head(s, kv, D) + d;
    float fq[kHeads][n], acc[kHeads][n] = {}, max[kHeads], sum[kHeads] = {};
    for (int h = 0; h < kHeads; h++) {
        max[h] = -INFINITY;
        for (float& x : fq[h]) x = 0;
        if (h < heads && d < D) load(fq[h], q.head(s, h0 + h, D) + d);
        for (float& x : fq[h]) x *= scene.scale * kLog2E;
    }
    for (int k0 = begin + warp * per_warp; k0 < end; k0 += kWarps * per_warp * kAhead) {
        float fk[kAhead][n] = {}, fv[kAhead][n] = {}, score[kHeads][kAhead];
        const int first = k0 + lane / lanes, step = kWarps * per_warp;
#pragma unroll
        for (int i = 0; i < kAhead; i++)
            if (first + i * step < end + (BUG == 36 ? step : 0) && d < D) {
                load(fk[i], kh + (first + i * step) * k.token_stride);
                load(fv[i], vh + (first + i * step) * v.token_stride);
            }
#pragma unroll
        for (int h = 0; h < kHeads; h++) {
            float top = max[h];
#pragma unroll
            for (int i = 0; i < kAhead; i++) {
                float dot = 0;
                for (int e = 0; e < n; e++) dot = fmaf(fq[h][e], fk[i][e], dot);
                for (int x = lanes / 2; x; x /= 2) dot += __shfl_xor_sync(~0u, dot, x);
                score[h][i] = first + i * step < end ? dot : -INFINITY;
                top = Max()(top, score[h][i]);
            }
            const float base = top == -INFINITY ? 0.0f : top, before = exp2f(max[h] - base);
            max[h] = top;
            sum[h] *= before;
            for (int e = 0; e < n; e++) acc[h][e] *= before;
#pragma unroll
            for (int i = 0; i < kAhead; i++) {
                const float p = exp2f(score[h][i] - base);
                sum[h] += p;
                for (int e = 0; e < n; e++) acc[h][e] = fmaf(p, fv[i][e], acc[h][e]);
            }
        }
    }
#pragma unroll
    for (int h = 0; h < kHeads; h++) {          // over the warp's rows, then over the warps
        float top = max[h];
        for (int x = lanes; x < 32; x *= 2) top = Max()(top, __shfl_xor_sync(~0u, top, x));
        const float factor = exp2f(max[h] - (top == -INFINITY ? 0.0f : top));
        sum[h] *= factor;
        for (int e = 0; e < n; e++) acc[h][e] *= factor;
        for (int x = lanes; x < 32; x *= 2) {
            sum[h] += __shfl_xor_sync(~0u, sum[h], x);
            for (int e = 0; e < n; e++) acc[h][e] += __shfl_xor_sync(~0u, acc[h][e], x);
        }
        if (lane < lanes && d < D) for (int e = 0; e < n; e++) shared_sum[warp][h][e * column + lane] = acc[h][e];
        if (lane == 0) shared_part[warp][h] = {top, sum[h]};
    }
    if (BUG != 35) __syncthreads();
    for (int e = int(threadIdx.x); e < heads * D; e += kThreads) {
        const int h = e / D, at = e % D;
        float top = -INFINITY, total = 0, o = 0;
        for (int w = 0; w < kWarps; w++) top = Max()(top, shared_part[w][h].max);
        for (int w = 0; w < kWarps; w++) {
            const float factor = exp2f(shared_part[w][h].max - (top == -INFINITY ? 0.0f : top));
            total = fmaf(shared_part[w][h].sum, factor, total);
            o = fmaf(shared_sum[w][h][at % n * column + at / n], factor, o);
        }
        const int64_t to = (s * scene.H + h0 + h) * stretches + stretch;
        sums[to * D + at] = o;
        if (at == 0) parts[to] = {top, total};
    }
}
// A warp per row, four elements per lane
template <class X> __global__ void __launch_bounds__(128) combine_kernel(Strided<X> o, const float* sums, const Part* parts, Scene scene, int stretches) {
    const int64_t row = int64_t(blockIdx.x) * blockDim.y + threadIdx.y, s = row / scene.H;
    if (s >= scene.S) return;
    const int h = int(row % scene.H), D = scene.D, d = int(threadIdx.x) * 4;
    parts += row * stretches;
    float top = -INFINITY;
    for (int i = int(threadIdx.x); i < stretches; i += 32) top = Max()(top, parts[i].max);
    top = warp_reduce(top, Max());
    if (d >= D) return;
    const float base = top == -INFINITY ? 0.0f : top;
    float total = 0, value[4] = {};
    for (int i = 0; i < stretches; i++) {
        const Part part = parts[i];
        const float factor = exp2f(part.max - base);
        float x[4];
        load(x, sums + (row * stretches + i) * D + d);
        total = fmaf(part.sum, factor, total);
        for (int e = 0; e < 4; e++) value[e] = fmaf(x[e], factor, value[e]);
    }
    for (float& v : value) v = total > 0 || total != total ? v / total : 0.0f;
    store(o.head(s, h, D) + d, value);
}

}

bool decode(const AttentionFwd& a) {
    if (a.Nq != 1 || a.lse) return false;
    return with_float_type(a.q.t.dtype(), [&]<class X>() {
        constexpr int n = 16 / sizeof(X);
        const Strided<X> o(a.o);
        const Strided<const X> q(a.q), k(a.k), v(a.v);
        if (a.D % n || !o.in_sectors() || !q.in_sectors() || !k.in_sectors() || !v.in_sectors()) return false;
        const Scene scene(a);
        const int64_t rows = a.S * a.H, stretches = std::max<int64_t>(1, (a.Nk + kStretch - 1) / kStretch);
        const Tensor sums({rows * stretches, a.D}), parts({rows * stretches, 2});
        int lanes = 1;
        while (lanes * n < a.D) lanes *= 2;
        auto stretch = [&](auto kernel, int heads) {
            const int chunks = (scene.group + heads - 1) / heads;
            launch(Work{"attention, decode", double(2 * a.S * a.Nk * a.Hkv * a.D) * sizeof(X), 4.0 * double(rows) * double(a.Nk) * double(a.D)},
                   Grid{{unsigned(a.S * stretches), unsigned(a.Hkv * chunks)}, {kThreads}}, kernel, at<float>(sums), reinterpret_cast<Part*>(at<float>(parts)), q, k, v, scene, lanes, int(stretches), chunks);
        };
        if (scene.group == 1) stretch(stretch_kernel<1, X>, 1);
        else stretch(stretch_kernel<4, X>, 4);
        launch(Work{"attention, stretches", double(sums.bytes() + parts.bytes()) + double(rows * a.D) * sizeof(X)}, Grid{{blocks_of(rows, 4)}, {32, 4}}, combine_kernel<X>, o, at<float>(sums),
               reinterpret_cast<const Part*>(at<float>(parts)), scene, int(stretches));
        return true;
    });
}

}
