// Sums of chunks of 4096 elements by the definition in kernels/reduce.h, bit for bit: 16 running sums in f64, then a fold. Bound by
// memory: x is read once. A thread keeps n of the running sums, so 16 / n threads take a chunk and each access is a pack of n;
// in f64 the order within a running sum is given, so more threads per chunk could not help.
#include "kernels/reduce.h"
#include "kernels/gpu.h"

namespace merv::kernels::MERV_GPU {
namespace {

constexpr int kThreads = 128, kSums = 16;

template <int n, class X> __global__ void __launch_bounds__(kThreads) chunk_sums_kernel(float* sums, const X* x, int64_t count, int64_t chunks, bool squares) {
    constexpr int lanes = kSums / n;            // of a chunk
    const int64_t thread = int64_t(blockIdx.x) * kThreads + threadIdx.x, chunk = thread / lanes;
    const int first = int(thread % lanes) * n;
    const int64_t begin = chunk * kSumChunk + first, end = begin - first + kSumChunk < count ? begin - first + kSumChunk : count;
    double sum[n] = {};
    auto add = [&](int k, float f) {
        const double v = double(f);
        sum[k] += squares ? v * v : v;
    };
    int64_t i = begin;
#pragma unroll 8
    for (; i + n <= end; i += kSums) {
        float v[n];
        load(v, x + i);
        for (int k = 0; k < n; k++) add(k, v[k]);
    }
    for (int k = 0; i + k < end + (BUG == 19) && k < n; k++) add(k, float(x[i + k]));
    for (int half = kSums / 2; half; half /= 2)
        for (int k = 0; k < n; k++) {
            if (half >= n) sum[k] += __shfl_down_sync(~0u, sum[k], unsigned(half / n), lanes);
            else if (k < half) sum[k] += sum[k + half];
        }
    if (first == 0 && chunk < chunks) sums[chunk] = float(sum[0]);
}

}

template <> void run(const ChunkSums& a) {
    const int64_t N = a.x.numel(), chunks = a.sums.numel();
    if (chunks == 0) return;
    with_float_type(a.x.dtype(), [&]<class X>() {
        const X* x = at<X>(a.x);
        with_width(vector_width(kSumChunk, x), [&]<int n>() {
            launch(Work{"chunk_sums", double(a.x.bytes()) + 4.0 * double(chunks), double(N) * (a.squares ? 2 : 1)}, Grid{{blocks_of(chunks * (kSums / n), kThreads)}, {kThreads}},
                   chunk_sums_kernel<n, X>, at<float>(a.sums), x, N, chunks, a.squares);
        });
    });
}

}
