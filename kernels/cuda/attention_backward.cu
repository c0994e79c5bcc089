// Gradients of attention (kernels/attention.h): P = exp(scale q k^T - lse), dv = P^T do, dS = P (do v^T - delta) scale,
// dq = dS k, dk = dS^T q, where delta = rowsum(do o). bf16 on tensor cores, all else by plain multiply-adds. Bound by arithmetic.
//
// Two kernels: one whose blocks own keys and walk over queries, for dk and dv, and one whose blocks own queries, for dq. Why P
// and dS are thus computed twice (14 products of Nq Nk D instead of 10): every sum is then one block's own, in one order, without
// atomics, semaphores or a copy of dq in f32.
//
// The first computes S^T = k q^T, so that P^T and dS^T leave its product in the very registers from which the next takes them.
#include "kernels/cuda/attention_rows.h"

namespace merv::kernels::MERV_GPU {
namespace {

constexpr int kOwned = 64, kStep = 32, kWarps = 4, kThreads = 32 * kWarps;         // rows that a block owns, and rows per step of its walk
struct Given { const float *lse, *delta; };     // (S, H, Nq)

// One warp per query and head; a lane adds d = lane, lane + 32, ..
template <class X> __global__ void __launch_bounds__(128) delta_kernel(float* delta, Strided<const X> o, Strided<const X> dout, Scene scene) {
    const int64_t row = int64_t(blockIdx.x) * 4 + threadIdx.y, token = row / scene.H;
    if (token >= scene.S * scene.Nq) return;
    const int64_t s = token / scene.Nq, n = token % scene.Nq;
    const int h = int(row % scene.H);
    const X *oh = o.head(s, h, scene.D) + n * o.token_stride, *dh = dout.head(s, h, scene.D) + n * dout.token_stride;
    float sum = 0;
    for (int d = int(threadIdx.x); d < scene.D; d += 32) sum = fmaf(float(oh[d]), float(dh[d]), sum);
    sum = warp_reduce(sum, Sum());
    if (threadIdx.x == 0) delta[(s * scene.H + h) * scene.Nq + n] = sum;
}

// ---- tensor cores

template <int Dp> constexpr size_t kTensorShared = (2 * kOwned + 4 * kStep) * kRow<Dp> * sizeof(bf16) + 4 * kStep * sizeof(float);

// Scores and their gradients' first factor become P and dS
MERV_DEVICE void gradients(float& s, float& dp, bool seen, float scale, float lse, float delta) {
    s = seen ? exp2f((s * scale - lse) * kLog2E) : 0.0f;
    dp = seen ? s * (dp - delta) * scale : 0.0f;
}

template <int Dp> __global__ void __launch_bounds__(kThreads)
keys_kernel(Strided<bf16> dk, Strided<bf16> dv, Strided<const bf16> q, Strided<const bf16> k, Strided<const bf16> v, Strided<const bf16> dout, Given given, Scene scene, int tiles) {
    DYN_SMEM(bytes);
    bf16 *sk = reinterpret_cast<bf16*>(bytes), *sv = sk + kOwned * kRow<Dp>, *stages = sv + kOwned * kRow<Dp>;
    float* numbers = reinterpret_cast<float*>(stages + 4 * kStep * kRow<Dp>);      // lse and delta of the stages' queries
    const int64_t s = blockIdx.x / unsigned(tiles);
    const int kv = int(blockIdx.y), D = scene.D, k0 = int(blockIdx.x % unsigned(tiles)) * kOwned, keys = scene.keys(s);
    const int thread = int(threadIdx.x), warp = thread / 32, lane = thread % 32, key = k0 + 16 * warp + lane / 4;
    const int skipped = scene.causal && k0 + scene.Nq - keys > 0 ? (k0 + scene.Nq - keys) / kStep : 0;         // steps whose queries see no key of this block
    const int per_head = (scene.Nq + kStep - 1) / kStep - skipped, steps = k0 < keys && per_head > 0 ? per_head * scene.group : 0;
    auto stage = [&](int i) { return stages + i % 2 * 2 * kStep * kRow<Dp>; };
    auto fetch = [&](int i) {
        const int h = kv * scene.group + i / per_head, q0 = (skipped + i % per_head) * kStep;
        fetch_rows<Dp, kStep, kThreads>(stage(i), q.head(s, h, D), q.token_stride, q0, scene.Nq, D, thread);
        fetch_rows<Dp, kStep, kThreads>(stage(i) + kStep * kRow<Dp>, dout.head(s, h, D), dout.token_stride, q0, scene.Nq, D, thread);
        if (thread < 2 * kStep) {
            const int row = q0 + thread % kStep;
            const float* from = (thread < kStep ? given.lse : given.delta) + (s * scene.H + h) * scene.Nq;
            cp_async<4>(numbers + (BUG == 38 ? 0 : i % 2) * 2 * kStep + thread, row < scene.Nq ? from + row : from, row < scene.Nq ? 4 : 0);
        }
    };
    fetch_rows<Dp, kOwned, kThreads>(sk, k.head(s, kv, D), k.token_stride, k0, keys, D, thread);
    fetch_rows<Dp, kOwned, kThreads>(sv, v.head(s, kv, D), v.token_stride, k0, keys, D, thread);
    if (steps > 0) fetch(0);
    cp_async_commit();
    bf16 *my_k = sk + 16 * warp * kRow<Dp>, *my_v = sv + 16 * warp * kRow<Dp>;
    float dk_sum[Dp / 8][4] = {}, dv_sum[Dp / 8][4] = {};
    for (int i = 0; i < steps; i++) {
        cp_async_wait<0>();
        if (BUG != 37) __syncthreads();         // this stage has come, and nobody reads the other one any more
        if (i + 1 < steps) fetch(i + 1);
        cp_async_commit();
        const bf16 *sq = stage(i), *sdo = sq + kStep * kRow<Dp>;
        const float *lse = numbers + i % 2 * 2 * kStep, *delta = lse + kStep;
        float p[kStep / 8][4], ds[kStep / 8][4];
        scores<Dp, kStep / 16>(p, my_k, sq);
        scores<Dp, kStep / 16>(ds, my_v, sdo);
        const int q0 = (skipped + i % per_head) * kStep;
#pragma unroll
        for (int j = 0; j < kStep / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int column = 8 * j + 2 * (lane % 4) + e % 2, query = q0 + column;
                gradients(p[j][e], ds[j][e], query < scene.Nq && key + e / 2 * 8 < scene.seen(query, keys), scene.scale, lse[column], delta[column]);
            }
        add_weighted<Dp, kStep / 16>(dv_sum, p, sdo);
        add_weighted<Dp, kStep / 16>(dk_sum, ds, sq);
    }
    cp_async_wait<0>();
    if (steps == 0 && BUG != 39) __syncthreads();           // others' keys may still be on their way to where these rows go
    const int left = scene.Nk - k0 - 16 * warp;
    write_rows<Dp>(dk.head(s, kv, D) + (k0 + 16 * warp) * dk.token_stride, dk.token_stride, left, D, my_k, dk_sum, 1, 1);
    write_rows<Dp>(dv.head(s, kv, D) + (k0 + 16 * warp) * dv.token_stride, dv.token_stride, left, D, my_v, dv_sum, 1, 1);
}

template <int Dp> __global__ void __launch_bounds__(kThreads)
queries_kernel(Strided<bf16> dq, Strided<const bf16> q, Strided<const bf16> k, Strided<const bf16> v, Strided<const bf16> dout, Given given, Scene scene, int tiles) {
    DYN_SMEM(bytes);
    bf16 *sq = reinterpret_cast<bf16*>(bytes), *sdo = sq + kOwned * kRow<Dp>, *stages = sdo + kOwned * kRow<Dp>;
    const Task task(tiles);
    const int64_t s = task.s;
    const int h = task.h, D = scene.D, q0 = task.tile * kOwned, keys = scene.keys(s);
    const int thread = int(threadIdx.x), warp = thread / 32, lane = thread % 32, query = q0 + 16 * warp + lane / 4;
    const int past = q0 + kOwned < scene.Nq ? q0 + kOwned : scene.Nq, steps = (scene.seen(past - 1, keys) + kStep - 1) / kStep;
    const bf16 *kh = k.head(s, h / scene.group, D), *vh = v.head(s, h / scene.group, D);
    auto stage = [&](int i) { return stages + i % 2 * 2 * kStep * kRow<Dp>; };
    auto fetch = [&](int i) {
        fetch_rows<Dp, kStep, kThreads>(stage(i), kh, k.token_stride, i * kStep, keys, D, thread);
        fetch_rows<Dp, kStep, kThreads>(stage(i) + kStep * kRow<Dp>, vh, v.token_stride, i * kStep, keys, D, thread);
    };
    fetch_rows<Dp, kOwned, kThreads>(sq, q.head(s, h, D), q.token_stride, q0, scene.Nq, D, thread);
    fetch_rows<Dp, kOwned, kThreads>(sdo, dout.head(s, h, D), dout.token_stride, q0, scene.Nq, D, thread);
    if (steps > 0) fetch(0);
    cp_async_commit();
    float lse[2] = {}, delta[2] = {};
    int seen[2] = {};
    for (int r = 0; r < 2; r++)
        if (query + 8 * r < scene.Nq) {
            const int64_t i = (s * scene.H + h) * scene.Nq + query + 8 * r;
            lse[r] = given.lse[i], delta[r] = given.delta[i], seen[r] = scene.seen(query + 8 * r, keys);
        }
    bf16 *my_q = sq + 16 * warp * kRow<Dp>, *my_do = sdo + 16 * warp * kRow<Dp>;
    float sum[Dp / 8][4] = {};
    for (int i = 0; i < steps; i++) {
        cp_async_wait<0>();
        __syncthreads();
        if (i + 1 < steps) fetch(i + 1);
        cp_async_commit();
        float p[kStep / 8][4], ds[kStep / 8][4];
        scores<Dp, kStep / 16>(p, my_q, stage(i));
        scores<Dp, kStep / 16>(ds, my_do, stage(i) + kStep * kRow<Dp>);
#pragma unroll
        for (int j = 0; j < kStep / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                gradients(p[j][e], ds[j][e], i * kStep + 8 * j + 2 * (lane % 4) + e % 2 < seen[e / 2], scene.scale, lse[e / 2], delta[e / 2]);
        add_weighted<Dp, kStep / 16>(sum, ds, stage(i));
    }
    cp_async_wait<0>();
    if (steps == 0) __syncthreads();
    write_rows<Dp>(dq.head(s, h, D) + (q0 + 16 * warp) * dq.token_stride, dq.token_stride, scene.Nq - q0 - 16 * warp, D, my_q, sum, 1, 1);
}

// ---- plain

constexpr int kPlain = 32, kPlainThreads = 256, kScoreRow = kPlain + 8;      // two queries on, probabilities lie 16 banks on
template <int Dm> struct PlainTiles {           // 32 rows of each; P and dS: [query][key]
    float *k, *v, *q, *dout, *p, *ds;
    MERV_DEVICE explicit PlainTiles(unsigned char* bytes) : k(reinterpret_cast<float*>(bytes)), v(k + kPlain * kPlainRow<Dm>), q(v + kPlain * kPlainRow<Dm>), dout(q + kPlain * kPlainRow<Dm>),
        p(dout + kPlain * kPlainRow<Dm>), ds(p + kPlain * kScoreRow) {}
};
inline size_t plain_shared(int Dm) { return plain_bytes(4 * kPlain, Dm) + 2 * kPlain * kScoreRow * sizeof(float); }

// P and dS of 32 x 32: thread t has queries 2 (t / 16) and the next, keys t % 16 and t % 16 + 16. delta is summed in the order of
// do v^T, so that a query of one key has dS = 0 exactly.
template <int Dm, class X> MERV_DEVICE void plain_step(const PlainTiles<Dm>& t, const X* oh, int64_t o_stride, const float* lse, const Scene& scene, int q0, int k0, int keys) {
    const int rows = int(threadIdx.x) / 16 * 2, column = int(threadIdx.x) % 16;
    float s[2][2], dp[2][2];
    dots<Dm, 2>(s, t.q + rows * kPlainRow<Dm>, t.k + column * kPlainRow<Dm>, scene.D);
    dots<Dm, 2>(dp, t.dout + rows * kPlainRow<Dm>, t.v + column * kPlainRow<Dm>, scene.D);
    for (int i = 0; i < 2; i++) {
        const int query = q0 + rows + i, seen = query < scene.Nq ? scene.seen(query, keys) - k0 : 0;
        float l = 0, delta = 0;
        if (seen > 0) {
            l = lse[query];
            for (int d = 0; d < scene.D; d++) delta = fmaf(t.dout[(rows + i) * kPlainRow<Dm> + d], float(oh[query * o_stride + d]), delta);
        }
        for (int j = 0; j < 2; j++) {
            const bool there = column + 16 * j < seen;
            const float p = there ? expf(s[i][j] * scene.scale - l) : 0.0f;
            t.p[(rows + i) * kScoreRow + column + 16 * j] = p;
            t.ds[(rows + i) * kScoreRow + column + 16 * j] = there ? p * (dp[i][j] - delta) * scene.scale : 0.0f;
        }
    }
}
// Thread t owns rows 2 (t / 16) and the next, and of each 64 columns 4 (t % 16) .. + 3: += sum over n of w(row, n) x[n]
template <int Dm, class W> MERV_DEVICE void plain_add(float (&sum)[2][Dm / 64][4], const float* x, int D, W w) {
    const int rows = int(threadIdx.x) / 16 * 2, column = int(threadIdx.x) % 16 * 4;
    for (int b = 0; b < Dm / 64; b++) {
        if (64 * b + column >= D) continue;
        float part[2][4] = {};                  // from zero each step
        for (int n = 0; n < kPlain; n++) {
            float v[4];
            load(v, x + n * kPlainRow<Dm> + 64 * b + column);
            for (int i = 0; i < 2; i++)
                for (int e = 0; e < 4; e++) part[i][e] = fmaf(w(rows + i, n), v[e], part[i][e]);
        }
        for (int i = 0; i < 2; i++)
            for (int e = 0; e < 4; e++) sum[i][b][e] += part[i][e];
    }
}
template <int Dm, class X> MERV_DEVICE void plain_store(X* to, int64_t token_stride, int first, int count, int D, const float (&sum)[2][Dm / 64][4]) {
    const int rows = int(threadIdx.x) / 16 * 2, column = int(threadIdx.x) % 16 * 4;
    for (int i = 0; i < 2; i++)
        for (int b = 0; b < Dm / 64; b++)
            for (int e = 0; e < 4; e++)
                if (const int d = 64 * b + column + e; d < D && first + rows + i < count) to[(first + rows + i) * token_stride + d] = X(sum[i][b][e]);
}

template <int Dm, class X> __global__ void __launch_bounds__(kPlainThreads, 2)
plain_keys(Strided<X> dk, Strided<X> dv, Strided<const X> q, Strided<const X> k, Strided<const X> v, Strided<const X> o, Strided<const X> dout, const float* lse, Scene scene, int tiles) {
    DYN_SMEM(bytes);
    const PlainTiles<Dm> t(bytes);
    const int64_t s = blockIdx.x / unsigned(tiles);
    const int kv = int(blockIdx.y), D = scene.D, k0 = int(blockIdx.x % unsigned(tiles)) * kPlain, keys = scene.keys(s);
    load_rows<Dm, kPlain>(t.k, k.head(s, kv, D), k.token_stride, k0, keys, D);
    load_rows<Dm, kPlain>(t.v, v.head(s, kv, D), v.token_stride, k0, keys, D);
    float dk_sum[2][Dm / 64][4] = {}, dv_sum[2][Dm / 64][4] = {};
    for (int h = kv * scene.group; h < (kv + 1) * scene.group; h++)
        for (int q0 = 0; q0 < scene.Nq; q0 += kPlain) {
            const int past = q0 + kPlain < scene.Nq ? q0 + kPlain : scene.Nq;
            if (scene.seen(past - 1, keys) <= k0) continue;
            __syncthreads();                    // the last step's tiles have been read
            load_rows<Dm, kPlain>(t.q, q.head(s, h, D), q.token_stride, q0, scene.Nq, D);
            load_rows<Dm, kPlain>(t.dout, dout.head(s, h, D), dout.token_stride, q0, scene.Nq, D);
            __syncthreads();
            plain_step<Dm>(t, o.head(s, h, D), o.token_stride, lse + (s * scene.H + h) * scene.Nq, scene, q0, k0, keys);
            if (BUG != 40) __syncthreads();
            plain_add<Dm>(dv_sum, t.dout, D, [&](int key, int n) { return t.p[n * kScoreRow + key]; });
            plain_add<Dm>(dk_sum, t.q, D, [&](int key, int n) { return t.ds[n * kScoreRow + key]; });
        }
    plain_store<Dm>(dk.head(s, kv, D), dk.token_stride, k0, scene.Nk, D, dk_sum);
    plain_store<Dm>(dv.head(s, kv, D), dv.token_stride, k0, scene.Nk, D, dv_sum);
}
template <int Dm, class X> __global__ void __launch_bounds__(kPlainThreads, 2)
plain_queries(Strided<X> dq, Strided<const X> q, Strided<const X> k, Strided<const X> v, Strided<const X> o, Strided<const X> dout, const float* lse, Scene scene, int tiles) {
    DYN_SMEM(bytes);
    const PlainTiles<Dm> t(bytes);
    const Task task(tiles);
    const int64_t s = task.s;
    const int h = task.h, kv = h / scene.group, D = scene.D, q0 = task.tile * kPlain, keys = scene.keys(s), past = q0 + kPlain < scene.Nq ? q0 + kPlain : scene.Nq;
    load_rows<Dm, kPlain>(t.q, q.head(s, h, D), q.token_stride, q0, scene.Nq, D);
    load_rows<Dm, kPlain>(t.dout, dout.head(s, h, D), dout.token_stride, q0, scene.Nq, D);
    float sum[2][Dm / 64][4] = {};
    for (int k0 = 0; k0 < scene.seen(past - 1, keys); k0 += kPlain) {
        __syncthreads();
        load_rows<Dm, kPlain>(t.k, k.head(s, kv, D), k.token_stride, k0, keys, D);
        load_rows<Dm, kPlain>(t.v, v.head(s, kv, D), v.token_stride, k0, keys, D);
        __syncthreads();
        plain_step<Dm>(t, o.head(s, h, D), o.token_stride, lse + (s * scene.H + h) * scene.Nq, scene, q0, k0, keys);
        __syncthreads();
        plain_add<Dm>(sum, t.k, D, [&](int query, int n) { return t.ds[query * kScoreRow + n]; });
    }
    plain_store<Dm>(dq.head(s, h, D), dq.token_stride, q0, scene.Nq, D, sum);
}

}

template <> void run(const AttentionBwd& b) {
    const AttentionFwd& a = b.fwd;
    if (a.S * a.H == 0) return;
    const Scene scene(a);
    const float* lse = at<float>(a.lse);
    const double q_bytes = double(a.S * a.Nq * a.H * a.D) * double(size_of(a.q.t.dtype())), kv_bytes = double(a.S * a.Nk * a.Hkv * a.D) * double(size_of(a.q.t.dtype()));
    const double product = 2.0 * double(a.S * a.H * a.D) * double(a.Nq) * double(a.mask == Mask::causal ? std::max<int64_t>(1, a.Nk - a.Nq / 2) : a.Nk);
    const Work for_keys{"attention backward, dk dv", 2 * q_bytes + 4 * kv_bytes, 4 * product}, for_queries{"attention backward, dq", 3 * q_bytes + 2 * kv_bytes, 3 * product};
    with_float_type(a.q.t.dtype(), [&]<class X>() {
        const Strided<X> dq(b.dq), dk(b.dk), dv(b.dv);
        const Strided<const X> q(a.q), k(a.k), v(a.v), o(a.o), dout(b.dout);
        if constexpr (std::is_same_v<X, bf16>)
            if (special_ways.attention && a.D % 8 == 0 && dq.in_sectors() && dk.in_sectors() && dv.in_sectors() && q.in_sectors() && k.in_sectors() && v.in_sectors() && dout.in_sectors()) {
                const Tensor delta({a.S, a.H, a.Nq});
                const Given given{lse, at<float>(delta)};
                if (a.Nq > 0)
                    launch(Work{"attention backward, delta", 2 * q_bytes + double(delta.bytes()), 2.0 * double(a.S * a.Nq * a.H * a.D)}, Grid{{blocks_of(a.S * a.Nq * a.H, 4)}, {32, 4}}, delta_kernel<X>, at<float>(delta), o, dout, scene);
                const int key_tiles = int((a.Nk + kOwned - 1) / kOwned), query_tiles = int((a.Nq + kOwned - 1) / kOwned);
                with_tile_width(a.D, [&]<int Dp>() {
                    if (key_tiles) launch(for_keys, Grid{{unsigned(a.S * key_tiles), unsigned(a.Hkv)}, {kThreads}, kTensorShared<Dp>}, keys_kernel<Dp>, dk, dv, q, k, v, dout, given, scene, key_tiles);
                    if (query_tiles) launch(for_queries, Grid{{unsigned(a.S * query_tiles), unsigned(a.H)}, {kThreads}, kTensorShared<Dp>}, queries_kernel<Dp>, dq, q, k, v, dout, given, scene, query_tiles);
                });
                return;
            }
        const int key_tiles = int((a.Nk + kPlain - 1) / kPlain), query_tiles = int((a.Nq + kPlain - 1) / kPlain);
        with_plain_width(a.D, [&]<int Dm>() {
            if (key_tiles) launch(for_keys, Grid{{unsigned(a.S * key_tiles), unsigned(a.Hkv)}, {kPlainThreads}, plain_shared(Dm)}, plain_keys<Dm, X>, dk, dv, q, k, v, o, dout, lse, scene, key_tiles);
            if (query_tiles) launch(for_queries, Grid{{unsigned(a.S * query_tiles), unsigned(a.H)}, {kPlainThreads}, plain_shared(Dm)}, plain_queries<Dm, X>, dq, q, k, v, o, dout, lse, scene, query_tiles);
        });
    });
}

}
