// o = softmax(q k^T scale + mask) v, forward (kernels/attention.h). Never is a score matrix in memory. Four kernels:
//
// tiled     bf16 on tensor cores: a block has 64 queries of a head, 16 per warp, and walks over the keys 64 at a time, two stages by
//           cp.async. Scores, probabilities and sums stay in registers. Bound by tensor cores and, with D = 64, by exponentials.
// one pass  bf16, up to 272 keys (a frame's patches), D <= 64: all keys and values of a head in shared memory and all scores of 16
//           queries in registers, so nothing is rescaled and k, v are read once. Bound by memory.
// frames    bf16, up to 16 queries and keys (the same patch in each frame), D <= 64: a warp per head, rows read where they lie in
//           the packed projection, so nothing is transposed. Bound by memory.
// plain     anything else (f32, rows that do not begin at multiples of 16 bytes): f32 multiply-adds, never TF32.
// One query per sequence goes to attention_decode.cu.
//
// Why the probabilities' sum takes them unrounded though the product takes them in bf16: that is what the CPU backend and PyTorch do.
#include "kernels/cuda/attention_rows.h"

namespace merv::kernels::MERV_GPU {
namespace {

constexpr int kQueries = 64, kKeys = 64, kWarps = 4, kThreads = 32 * kWarps;

// Scores s of rows lane / 4 and lane / 4 + 8, 8 n columns from key k0, become exponentials relative to the rows' running maxima, in
// base 2; c is scale log2(e). seen: of each row. sum: this lane's share. Gives the factors for what was summed before.
template <int n> MERV_DEVICE void softmax_step(float (&s)[n][4], float (&max)[2], float (&sum)[2], float (&before)[2], float c, int k0, const int (&seen)[2]) {
    const int column = k0 + 2 * (int(threadIdx.x) % 4);
    float top[2] = {max[0], max[1]};
#pragma unroll
    for (int j = 0; j < n; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            if (column + 8 * j + e % 2 >= seen[e / 2]) s[j][e] = -INFINITY;
            top[e / 2] = Max()(top[e / 2], s[j][e]);
        }
    float base[2];
    for (int r = 0; r < 2; r++) {
        top[r] = Max()(top[r], __shfl_xor_sync(~0u, top[r], 1));
        top[r] = Max()(top[r], __shfl_xor_sync(~0u, top[r], 2));
        base[r] = top[r] == -INFINITY ? 0.0f : top[r] * c;      // nothing seen yet: e^(-inf - 0), not e^(-inf + inf)
        before[r] = exp2f(max[r] * c - base[r]);
        max[r] = top[r];
        sum[r] *= before[r];
    }
#pragma unroll
    for (int j = 0; j < n; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            s[j][e] = exp2f(fmaf(s[j][e], c, -base[e / 2]));
            sum[e / 2] += s[j][e];
        }
}
MERV_DEVICE float inverse(float sum) { return sum > 0 || sum != sum ? 1.0f / sum : 0.0f; }      // a query that sees nothing gives zeros
// What is left to do for a warp's 16 queries from q0: o / sum, and lse
template <int Dp> MERV_DEVICE void finish(const Strided<bf16>& o, float* lse, const Scene& scene, int64_t s, int h, int q0, bf16* staging, const float (&acc)[Dp / 8][4], const float (&max)[2], float (&sum)[2]) {
    const int row = int(threadIdx.x) % 32 / 4;
    for (int r = 0; r < 2; r++) {
        sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
        sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
        if (lse && threadIdx.x % 4 == 0 && q0 + row + 8 * r < scene.Nq) lse[(s * scene.H + h) * scene.Nq + q0 + row + 8 * r] = max[r] * scene.scale + logf(sum[r]);
    }
    write_rows<Dp>(o.head(s, h, scene.D) + q0 * o.token_stride, o.token_stride, scene.Nq - q0, scene.D, staging, acc, inverse(sum[0]), inverse(sum[1]));
}

// ---- tiled

template <int Dp> constexpr size_t kTiledShared = (kQueries + 4 * kKeys) * kRow<Dp> * sizeof(bf16);

template <int Dp> __global__ void __launch_bounds__(kThreads) tiled_kernel(Strided<bf16> o, float* lse, Strided<const bf16> q, Strided<const bf16> k, Strided<const bf16> v, Scene scene, int tiles) {
    DYN_SMEM(bytes);
    bf16 *sq = reinterpret_cast<bf16*>(bytes), *stages = sq + kQueries * kRow<Dp>;
    const Task task(tiles);
    const int D = scene.D, q0 = task.tile * kQueries, keys = scene.keys(task.s), warp = int(threadIdx.x) / 32, mine = q0 + 16 * warp, row = int(threadIdx.x) % 32 / 4;
    const int past = q0 + kQueries < scene.Nq ? q0 + kQueries : scene.Nq, steps = (scene.seen(past - 1, keys) + kKeys - 1) / kKeys;
    const bf16 *kh = k.head(task.s, task.h / scene.group, D), *vh = v.head(task.s, task.h / scene.group, D);
    auto stage = [&](int i) { return stages + i % (BUG == 28 ? 1 : 2) * 2 * kKeys * kRow<Dp>; };
    auto fetch = [&](int i) {
        fetch_rows<Dp, kKeys, kThreads>(stage(i), kh, k.token_stride, i * kKeys, keys, D, int(threadIdx.x));
        fetch_rows<Dp, kKeys, kThreads>(stage(i) + kKeys * kRow<Dp>, vh, v.token_stride, i * kKeys, keys, D, int(threadIdx.x));
    };
    fetch_rows<Dp, kQueries, kThreads>(sq, q.head(task.s, task.h, D), q.token_stride, q0, scene.Nq, D, int(threadIdx.x));
    if (steps > 0) fetch(0);
    cp_async_commit();

    const int seen[2] = {scene.seen(mine + row, keys), scene.seen(mine + row + 8, keys)};
    const float c = scene.scale * kLog2E;
    uint32_t fq[Dp / 16][4];
    float acc[Dp / 8][4] = {}, max[2] = {-INFINITY, -INFINITY}, sum[2] = {};
    for (int i = 0; i < steps; i++) {
        if (BUG != 26) cp_async_wait<0>();
        if (BUG != 27) __syncthreads();         // this stage has come, and nobody reads the other one any more
        if (i + 1 < steps) fetch(i + 1);
        cp_async_commit();
        if (i == 0)
#pragma unroll
            for (int d = 0; d < Dp / 16; d++) load_a<kRow<Dp>>(fq[d], sq + 16 * warp * kRow<Dp>, 0, 16 * d);
        float p[kKeys / 8][4], before[2];
        scores<Dp, kKeys / 16>(p, fq, stage(i));
        softmax_step(p, max, sum, before, c, i * kKeys, seen);
#pragma unroll
        for (int j = 0; j < Dp / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) acc[j][e] *= before[e / 2];
        add_weighted<Dp, kKeys / 16>(acc, p, stage(i) + kKeys * kRow<Dp>);
    }
    cp_async_wait<0>();
    if (steps == 0 && BUG != 41) __syncthreads();           // others' queries may still be on their way to where these rows go
    finish<Dp>(o, lse, scene, task.s, task.h, mine, sq + 16 * warp * kRow<Dp>, acc, max, sum);
}

// ---- one pass, and frames: 16 queries against 16 n keys

template <int Dp, int n> MERV_DEVICE void attend(const Strided<bf16>& o, float* lse, const Scene& scene, int64_t s, int h, int q0, const uint32_t (&fq)[Dp / 16][4], const bf16* sk, const bf16* sv, bf16* staging) {
    const int row = int(threadIdx.x) % 32 / 4, keys = scene.keys(s), seen[2] = {scene.seen(q0 + row, keys), scene.seen(q0 + row + 8, keys)};
    float p[2 * n][4], acc[Dp / 8][4] = {}, max[2] = {-INFINITY, -INFINITY}, sum[2] = {}, before[2];
    scores<Dp, n>(p, fq, sk);
    softmax_step(p, max, sum, before, scene.scale * kLog2E, 0, seen);
    add_weighted<Dp, n>(acc, p, sv);
    finish<Dp>(o, lse, scene, s, h, q0, staging, acc, max, sum);
}

template <int Dp, int n> constexpr size_t kOnePassShared = (2 * 16 * n + 2 * 16 * kWarps) * kRow<Dp> * sizeof(bf16);

template <int Dp, int n> __global__ void __launch_bounds__(kThreads, 2) one_pass_kernel(Strided<bf16> o, float* lse, Strided<const bf16> q, Strided<const bf16> k, Strided<const bf16> v, Scene scene) {
    DYN_SMEM(bytes);
    const int64_t s = blockIdx.x;
    const int h = int(blockIdx.y), D = scene.D, keys = scene.keys(s), warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    bf16 *sk = reinterpret_cast<bf16*>(bytes), *sv = sk + 16 * n * kRow<Dp>, *mine = sv + (16 * n + 32 * warp) * kRow<Dp>, *staging = mine + 16 * kRow<Dp>;
    fetch_rows<Dp, 16 * n, kThreads>(sk, k.head(s, h / scene.group, D), k.token_stride, 0, keys, D, int(threadIdx.x));
    fetch_rows<Dp, 16 * n, kThreads>(sv, v.head(s, h / scene.group, D), v.token_stride, 0, keys, D, int(threadIdx.x));
    const bf16* qh = q.head(s, h, D);
    if (16 * warp < scene.Nq) fetch_rows<Dp, 16, 32>(mine, qh, q.token_stride, 16 * warp, scene.Nq, D, lane);
    cp_async_commit();
    cp_async_wait<0>();
    if (BUG != 29) __syncthreads();
    for (int q0 = 16 * warp; q0 < scene.Nq; q0 += 16 * kWarps) {
        uint32_t fq[Dp / 16][4];
#pragma unroll
        for (int d = 0; d < Dp / 16; d++) load_a<kRow<Dp>>(fq[d], mine, 0, 16 * d);
        if (BUG != 30) __syncwarp();
        if (q0 + 16 * kWarps < scene.Nq) fetch_rows<Dp, 16, 32>(mine, qh, q.token_stride, q0 + 16 * kWarps, scene.Nq, D, lane);
        cp_async_commit();
        attend<Dp, n>(o, lse, scene, s, h, q0, fq, sk, sv, staging);
        cp_async_wait<0>();
        if (BUG != 31) __syncwarp();            // the next queries have come, whichever lane fetched them
    }
}

template <int Dp> constexpr size_t kFramesShared = 3 * 16 * kWarps * kRow<Dp> * sizeof(bf16);

template <int Dp> __global__ void __launch_bounds__(kThreads) frames_kernel(Strided<bf16> o, float* lse, Strided<const bf16> q, Strided<const bf16> k, Strided<const bf16> v, Scene scene) {
    DYN_SMEM(bytes);
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, D = scene.D;
    const int64_t i = int64_t(blockIdx.x) * kWarps + warp, s = i / scene.H;        // a sequence's heads are neighbours in memory
    if (s >= scene.S) return;
    const int h = int(i % scene.H), keys = scene.keys(s);
    bf16 *sq = reinterpret_cast<bf16*>(bytes) + 48 * warp * kRow<Dp>, *sk = sq + 16 * kRow<Dp>, *sv = sk + 16 * kRow<Dp>;
    fetch_rows<Dp, 16, 32>(sq, q.head(s, h, D), q.token_stride, 0, scene.Nq, D, lane);
    fetch_rows<Dp, 16, 32>(sk, k.head(s, h / scene.group, D), k.token_stride, 0, keys, D, lane);
    fetch_rows<Dp, 16, 32>(sv, v.head(s, h / scene.group, D), v.token_stride, 0, keys, D, lane);
    cp_async_commit();
    cp_async_wait<0>();
    if (BUG != 32) __syncwarp();
    uint32_t fq[Dp / 16][4];
#pragma unroll
    for (int d = 0; d < Dp / 16; d++) load_a<kRow<Dp>>(fq[d], sq, 0, 16 * d);
    attend<Dp, 1>(o, lse, scene, s, h, 0, fq, sk, sv, sq);
}

// ---- plain

constexpr int kPlainQueries = 64, kPlainKeys = 32, kPlainThreads = 256, kScoreRow = kPlainKeys + 4;

// 16 threads per row of queries, four such rows at once: thread t has rows 4 (t / 16) .., keys t % 16 and t % 16 + 16, and of o the
// columns 4 (t % 16) .. + 3 of each 64.
template <int Dm, class X> __global__ void __launch_bounds__(kPlainThreads) plain_kernel(Strided<X> o, float* lse, Strided<const X> q, Strided<const X> k, Strided<const X> v, Scene scene, int tiles) {
    DYN_SMEM(bytes);
    float *sq = reinterpret_cast<float*>(bytes), *sk = sq + kPlainQueries * kPlainRow<Dm>, *sv = sk + kPlainKeys * kPlainRow<Dm>, *sp = sv + kPlainKeys * kPlainRow<Dm>;
    const Task task(tiles);
    const int D = scene.D, q0 = task.tile * kPlainQueries, keys = scene.keys(task.s), rows = int(threadIdx.x) / 16 * 4, column = int(threadIdx.x) % 16;
    const int past = q0 + kPlainQueries < scene.Nq ? q0 + kPlainQueries : scene.Nq, last = scene.seen(past - 1, keys);
    load_rows<Dm, kPlainQueries>(sq, q.head(task.s, task.h, D), q.token_stride, q0, scene.Nq, D);
    const X *kh = k.head(task.s, task.h / scene.group, D), *vh = v.head(task.s, task.h / scene.group, D);
    float acc[4][Dm / 64][4] = {}, max[4], sum[4] = {};
    for (float& m : max) m = -INFINITY;
    for (int k0 = 0; k0 < last; k0 += kPlainKeys) {
        if (BUG != 33) __syncthreads();         // the last step's keys and values have been read
        load_rows<Dm, kPlainKeys>(sk, kh, k.token_stride, k0, keys, D);
        load_rows<Dm, kPlainKeys>(sv, vh, v.token_stride, k0, keys, D);
        __syncthreads();
        float s[4][2], before[4];
        dots<Dm, 4>(s, sq + rows * kPlainRow<Dm>, sk + column * kPlainRow<Dm>, D);
        for (int i = 0; i < 4; i++) {
            const int seen = scene.seen(q0 + rows + i, keys) - k0;
            float top = max[i];
            for (int j = 0; j < 2; j++) {
                s[i][j] = column + 16 * j < seen ? s[i][j] * scene.scale : -INFINITY;
                top = Max()(top, s[i][j]);
            }
            for (int x = 8; x; x /= 2) top = Max()(top, __shfl_xor_sync(~0u, top, x));
            const float base = top == -INFINITY ? 0.0f : top;
            before[i] = expf(max[i] - base);
            max[i] = top;
            sum[i] *= before[i];
            for (int j = 0; j < 2; j++) {
                const float p = expf(s[i][j] - base);
                sp[(rows + i) * kScoreRow + column + 16 * j] = p;
                sum[i] += p;
            }
        }
        if (BUG != 34) __syncwarp();            // a row's probabilities stay within its 16 threads
        for (int b = 0; b < Dm / 64; b++) {
            const int d = 64 * b + 4 * column;
            float part[4][4] = {};              // each step's sum from zero, which keeps long sequences accurate
            if (d < D)
                for (int n = 0; n < kPlainKeys; n++) {
                    float w[4];
                    load(w, sv + n * kPlainRow<Dm> + d);
                    for (int i = 0; i < 4; i++)
                        for (int e = 0; e < 4; e++) part[i][e] = fmaf(sp[(rows + i) * kScoreRow + n], w[e], part[i][e]);
                }
            for (int i = 0; i < 4; i++)
                for (int e = 0; e < 4; e++) acc[i][b][e] = fmaf(acc[i][b][e], before[i], part[i][e]);
        }
    }
    for (int i = 0; i < 4; i++) {
        for (int x = 8; x; x /= 2) sum[i] += __shfl_xor_sync(~0u, sum[i], x);
        const int n = q0 + rows + i;
        if (n >= scene.Nq) continue;
        X* to = o.head(task.s, task.h, D) + n * o.token_stride;
        for (int b = 0; b < Dm / 64; b++)
            for (int e = 0; e < 4; e++)
                if (const int d = 64 * b + 4 * column + e; d < D) to[d] = X(acc[i][b][e] * inverse(sum[i]));
        if (lse && column == 0) lse[(task.s * scene.H + task.h) * scene.Nq + n] = max[i] + logf(sum[i]);
    }
}

template <class F> void with_key_tiles(int64_t Nk, F&& f) {      // f.operator()<n>(): 16 n keys; 196, 257 and 261 are the encoders' frames
    if (Nk <= 64) f.template operator()<4>();
    else if (Nk <= 128) f.template operator()<8>();
    else if (Nk <= 208) f.template operator()<13>();
    else f.template operator()<17>();
}

}

template <> void run(const AttentionFwd& a) {
    if (a.S * a.Nq * a.H == 0) return;
    CHECK(a.scale > 0, "attention: scale ", a.scale);
    if (special_ways.attention && decode(a)) return;
    const Scene scene(a);
    float* lse = at<float>(a.lse);
    const int64_t kv_rows = a.S * a.Nk * a.Hkv, q_rows = a.S * a.Nq * a.H, seen = a.mask == Mask::causal ? std::max<int64_t>(1, a.Nk - a.Nq / 2) : a.Nk;
    auto work = [&](const char* name) { return Work{name, double(2 * (q_rows + kv_rows) * a.D) * double(size_of(a.q.t.dtype())) + (lse ? 4.0 * double(q_rows) : 0), 4.0 * double(q_rows) * double(seen) * double(a.D)}; };
    if (special_ways.attention && a.q.t.dtype() == DType::bf16 && a.D % 8 == 0) {
        const Strided<bf16> o(a.o);
        const Strided<const bf16> q(a.q), k(a.k), v(a.v);
        if (o.in_sectors() && q.in_sectors() && k.in_sectors() && v.in_sectors()) {
            const int tiles = int((a.Nq + kQueries - 1) / kQueries);
            with_tile_width(a.D, [&]<int Dp>() {
                if constexpr (Dp <= 64) {
                    if (a.Nq <= 16 && a.Nk <= 16)
                        return launch(work("attention, frames"), Grid{{blocks_of(a.S * a.H, kWarps)}, {kThreads}, kFramesShared<Dp>}, frames_kernel<Dp>, o, lse, q, k, v, scene);
                    if (a.Nk <= 272)
                        return with_key_tiles(a.Nk, [&]<int n>() {
                            launch(work("attention, one pass"), Grid{{unsigned(a.S), unsigned(a.H)}, {kThreads}, kOnePassShared<Dp, n>}, one_pass_kernel<Dp, n>, o, lse, q, k, v, scene);
                        });
                }
                launch(work("attention, tiled"), Grid{{unsigned(a.S * tiles), unsigned(a.H)}, {kThreads}, kTiledShared<Dp>}, tiled_kernel<Dp>, o, lse, q, k, v, scene, tiles);
            });
            return;
        }
    }
    with_float_type(a.q.t.dtype(), [&]<class X>() {
        const Strided<X> o(a.o);
        const Strided<const X> q(a.q), k(a.k), v(a.v);
        const int tiles = int((a.Nq + kPlainQueries - 1) / kPlainQueries);
        with_plain_width(a.D, [&]<int Dm>() {
            const size_t smem = plain_bytes(kPlainQueries + 2 * kPlainKeys, Dm) + size_t(kPlainQueries) * kScoreRow * sizeof(float);
            launch(work("attention, plain"), Grid{{unsigned(a.S * tiles), unsigned(a.H)}, {kPlainThreads}, smem}, plain_kernel<Dm, X>, o, lse, q, k, v, scene, tiles);
        });
    });
}

}
