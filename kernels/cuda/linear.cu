// The matrix product under every linear layer, forward and backward, and what follows it elementwise (kernels/linear.h).
//
// Three products. Up to four rows against a matrix that lies along k (a decoder's step) go to few_rows, which reads w once, in whole
// sectors, at the speed of memory. Else bf16 times bf16 runs on the tensor cores: blocks of 128 x 128 outputs, 8 warps of 64 x 32, three stages of 32 k by
// cp.async, fragments by ldmatrix. Everything else (f32, mixed types, rows that are no multiples of 16 bytes) runs as plain
// multiply-adds on blocks of 64 x 64: f32 means f32 here, never TF32. Bound by arithmetic.
//
// Why tensor_product is held to 128 registers: two blocks then share an SM, and one computes while the other waits for its tiles. The sums
// take 64 and the fragments 24, so addresses must be few: sides are 32-bit, a thread's two packs of a tile and a warp's fragments of a column
// are constant distances from one address. Nothing spills (bench/ptxas.txt).
//
// An operand may lie along k or across it (dx = dz w, dw = dz^T x): its tile lies in shared memory as in global memory, and
// ldmatrix.trans turns it on the way to the registers, so no operand is ever transposed in memory.
#include "kernels/linear.h"
#include "kernels/cuda/host/gemm.h"
#include "kernels/gpu.h"

namespace merv::kernels::MERV_GPU {
namespace {

// ---- elementwise parts

struct Column {                                 // a bias or scale of either type, or none
    const float* f32 = nullptr;
    const bf16* half = nullptr;
    Column() = default;
    explicit Column(const Tensor& t) {
        if (t && t.dtype() == DType::f32) f32 = at<float>(t);
        else if (t) half = at<bf16>(t);
    }
    MERV_DEVICE bool is_there() const { return f32 || half; }
    template <int n> MERV_DEVICE void load(float (&to)[n], int64_t first) const {
        if (f32) kernels::load(to, f32 + first);
        else kernels::load(to, half + first);
    }
};

MERV_DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
MERV_DEVICE float phi(float x) { return 0.5f * (1.0f + erff(x * 0.707106781f)); }
MERV_DEVICE float tanh_argument(float x) { return 0.797884561f * (x + 0.044715f * (x * x * x)); }
MERV_DEVICE float activated(Act act, float x) {
    switch (act) {
        case Act::gelu: return x * phi(x);
        case Act::gelu_tanh: return 0.5f * x * (1.0f + tanhf(tanh_argument(x)));
        case Act::quick_gelu: return x * sigmoid(1.702f * x);
        case Act::silu: return x * sigmoid(x);
        default: return x;
    }
}
MERV_DEVICE float slope(Act act, float x) {
    switch (act) {
        case Act::gelu: return fmaf(x * 0.398942280f, expf(-0.5f * x * x), phi(x));
        case Act::gelu_tanh: {
            const float a = 2.0f * tanh_argument(x), s = sigmoid(a), c = sigmoid(-a);       // s = (1 + tanh) / 2, and 4 s c = 1 - tanh^2
            return fmaf(2.0f * x * s * c, 0.797884561f * fmaf(0.134145f * x, x, 1.0f), s);
        }
        case Act::quick_gelu: { const float s = sigmoid(1.702f * x); return fmaf(1.702f * x * s, sigmoid(-1.702f * x), s); }
        case Act::silu: { const float s = sigmoid(x); return fmaf(x * s, sigmoid(-x), s); }
        default: return 1.0f;
    }
}

// What is done with n finished sums of row m, columns c .. c + n - 1.
template <class X> struct Forward {
    X *y, *z;
    const X *gate, *residual;
    Column bias, scale;
    Act act;
    int64_t N;
    template <int n> MERV_DEVICE void finish(int64_t m, int64_t c, float (&v)[n]) const {
        const int64_t i = m * N + c;
        float other[n];
        if (bias.is_there()) {
            bias.load(other, c);
            for (int k = 0; k < n; k++) v[k] += other[k];
        }
        if (z) store(z + i, v);
        if (act != Act::none) for (int k = 0; k < n; k++) v[k] = activated(act, float(X(v[k])));
        if (gate) {
            load(other, gate + i);
            for (int k = 0; k < n; k++) v[k] *= other[k];
        }
        if (scale.is_there()) {
            scale.load(other, c);
            for (int k = 0; k < n; k++) v[k] *= other[k];
        }
        if (residual) {
            load(other, residual + i);
            for (int k = 0; k < n; k++) v[k] += other[k];
        }
        store(y + i, v);
    }
};
template <class X> struct Store {
    X* y;
    int64_t N;
    template <int n> MERV_DEVICE void finish(int64_t m, int64_t c, float (&v)[n]) const { store(y + m * N + c, v); }
};
struct Accumulate {
    float* y;
    int64_t N;
    template <int n> MERV_DEVICE void finish(int64_t m, int64_t c, float (&v)[n]) const {
        float old[n];
        load(old, y + m * N + c);
        for (int k = 0; k < n; k++) v[k] += old[k];
        store(y + m * N + c, v);
    }
};

// Element (i, k): at[i * ld + k] along k, else at[k * ld + i].
template <class T> struct Operand {
    const T* at;
    int64_t ld;
    bool along_k;
};

// ---- plain multiply-adds

constexpr int kPlain = 64, kPlainDepth = 16;    // outputs of a block's side, and k per step; 256 threads have 4 x 4 outputs each

template <class T> MERV_DEVICE void fill_plain(float (&tile)[kPlainDepth][kPlain + 4], const Operand<T>& o, int64_t first, int64_t count, int64_t k0, int64_t K) {
    constexpr int run = 32 / int(sizeof(T));    // of elements along k by neighbouring threads: a sector. For f32 no two threads then meet in a bank
    for (int e = int(threadIdx.x); e < kPlain * kPlainDepth; e += 256) {
        const int i = o.along_k ? e / run % kPlain : e % kPlain, k = o.along_k ? e % run + e / (run * kPlain) * run : e / kPlain;
        const bool inside = first + i < count && k0 + k < K;
        tile[k][i] = inside ? float(o.along_k ? o.at[(first + i) * o.ld + k0 + k] : o.at[(k0 + k) * o.ld + first + i]) : 0.0f;
    }
}
template <int width, class TA, class TB, class Epilogue>
__global__ void __launch_bounds__(256, 2) plain_product(Operand<TA> a, Operand<TB> b, int64_t M, int64_t N, int64_t K, Epilogue epilogue) {
    __shared__ __align__(16) float sa[kPlainDepth][kPlain + 4], sb[kPlainDepth][kPlain + 4];
    const int64_t m0 = int64_t(blockIdx.y) * kPlain, n0 = int64_t(blockIdx.x) * kPlain;
    const int tm = int(threadIdx.x) / 16 * 4, tn = int(threadIdx.x) % 16 * 4;
    float total[4][4] = {};
    for (int64_t k0 = 0; k0 < K; k0 += kPlainDepth) {
        fill_plain(sa, a, m0, M, k0, K);
        fill_plain(sb, b, n0, N, k0, K);
        __syncthreads();
        float part[4][4] = {};                  // per step from zero: one long chain would lose accuracy
        for (int k = 0; k < kPlainDepth; k++) {
            float va[4], vb[4];
            load(va, &sa[k][tm]);
            load(vb, &sb[k][tn]);
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 4; j++) part[i][j] = fmaf(va[i], vb[j], part[i][j]);
        }
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 4; j++) total[i][j] += part[i][j];
        if (BUG != 9) __syncthreads();
    }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j += width) {
            if (m0 + tm + i >= M || n0 + tn + j >= N) continue;
            float v[width];
            for (int k = 0; k < width; k++) v[k] = total[i][j + k];
            epilogue.finish(m0 + tm + i, n0 + tn + j, v);
        }
}

// ---- tensor cores

constexpr int kTile = 128, kDepth = 32, kStages = 3;
constexpr int kAcrossRow = kTile + 8;           // of a tile in shared memory; 16 bytes more than a power of two: no bank conflicts
constexpr int kOperandSize = kTile * kDepth > kDepth * kAcrossRow ? kTile * kDepth : kDepth * kAcrossRow;
constexpr int kOutRow = kTile + 8;              // of 64 finished rows in f32, which take the stages' place
constexpr size_t kProductShared = std::max(size_t(kStages) * 2 * kOperandSize * sizeof(bf16), size_t(64) * kOutRow * sizeof(float));

// Where a tile that lies along k has row i, column k (of a pack of 8). Two rows fill the 32 banks; their four packs change places
// every two rows, so neither a column of eight packs (ldmatrix) nor two rows (cp.async) meet in a bank.
MERV_DEVICE int along(int i, int k) { return i * kDepth + (k / 8 ^ i / 2 % (BUG == 7 ? 8 : 4)) * 8; }

// 128 x 32 elements by 256 threads, two packs of 16 bytes each; what lies outside is zero.
template <bool along_k> MERV_DEVICE void fill_tile(bf16* tile, const bf16* from, int ld, int first, int count, int k0, int K) {
    constexpr int per_row = (along_k ? kDepth : kTile) / 8, rows_at_once = 256 / per_row;
    const int r = int(threadIdx.x) / per_row, c = int(threadIdx.x) % per_row * 8;
    const int row = (along_k ? first : k0) + r, column = (along_k ? k0 : first) + c, rows = along_k ? count : K, left = (along_k ? K : count) - column;
    const int valid = left < 0 ? 0 : left < 8 ? left : 8;
    const bf16* pack = from + int64_t(row) * ld + column;
    tile += along_k ? along(r, c) : r * kAcrossRow + c;
    for (int i = 0; i < kTile * kDepth / 8 / 256; i++) {
        const bool there = (row + i * rows_at_once < rows || BUG == 6) && valid > 0;
        cp_async<16>(tile + i * rows_at_once * (along_k ? kDepth : kAcrossRow), there ? pack + int64_t(i * rows_at_once) * ld : from, there ? 2 * valid : 0);
    }
}
// Fragments for k .. k + 15: rows m .. m + 15 of A; rows n .. n + 15 of B, two n8 fragments. m and n, multiples of 16, change nothing
// in the packs' order: they are added outside `along`, so that one address serves all fragments of a column.
template <bool along_k> MERV_DEVICE void load_a(uint32_t (&f)[4], const bf16* tile, int m, int k) {
    const int l = int(threadIdx.x) % 32, i = l / 8, r = l % 8;
    if constexpr (along_k) ldmatrix_x4(f, tile + along(i % 2 * 8 + r, k + i / 2 * 8) + m * kDepth);
    else ldmatrix_x4_trans(f, tile + (k + i / 2 * 8 + r) * kAcrossRow + m + i % 2 * 8);
}
template <bool along_k> MERV_DEVICE void load_b(uint32_t (&f)[4], const bf16* tile, int n, int k) {
    const int l = int(threadIdx.x) % 32, i = l / 8, r = l % 8;
    if constexpr (along_k) ldmatrix_x4(f, tile + along(i / 2 * 8 + r, k + i % 2 * 8) + n * kDepth);
    else ldmatrix_x4_trans(f, tile + (k + i % 2 * 8 + r) * kAcrossRow + n + i / 2 * 8);
}

template <int width, bool a_along_k, bool b_along_k, class Epilogue>
__global__ void __launch_bounds__(256, 2) tensor_product(const bf16* a, int lda, const bf16* b, int ldb, int M, int N, int K, Epilogue epilogue) {
    DYN_SMEM(bytes);
    bf16* stages = reinterpret_cast<bf16*>(bytes);
    const int m0 = int(blockIdx.y) * kTile, n0 = int(blockIdx.x) * kTile, steps = (K + kDepth - 1) / kDepth;
    auto stage_a = [&](int s) { return stages + s % (BUG == 5 ? kStages - 1 : kStages) * 2 * kOperandSize; };
    auto fetch = [&](int s) {
        if (s < steps) {
            fill_tile<a_along_k>(stage_a(s), a, lda, m0, M, s * kDepth, K);
            fill_tile<b_along_k>(stage_a(s) + kOperandSize, b, ldb, n0, N, s * kDepth, K);
        }
        cp_async_commit();
    };
    for (int s = 0; s < kStages - 1; s++) fetch(s);

    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32, wm = warp / 4 * 64, wn = warp % 4 * 32;
    float d[4][4][4] = {};                      // 64 x 32 outputs: 4 x 4 of 16 x 8
    for (int s = 0; s < steps; s++) {
        if (BUG != 3) cp_async_wait<kStages - 2>();
        if (BUG != 4) __syncthreads();          // everybody's part has come, and nobody reads the stage that is filled next
        fetch(s + kStages - 1);
        const bf16 *ta = stage_a(s), *tb = ta + kOperandSize;
        for (int k = 0; k < kDepth; k += 16) {
            uint32_t fa[4][4], fb[2][4];
            for (int i = 0; i < 4; i++) load_a<a_along_k>(fa[i], ta, wm + 16 * i, k);
            for (int j = 0; j < 2; j++) load_b<b_along_k>(fb[j], tb, wn + 16 * j, k);
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 4; j++) {
                    const uint32_t column[2] = {fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]};
                    mma_bf16(d[i][j], fa[i], column);
                }
        }
    }
    cp_async_wait<0>();

    // Through shared memory, 64 rows at a time, so that rows are written in whole sectors
    float* out = reinterpret_cast<float*>(bytes);
    for (int half = 0; half < 2; half++) {
        __syncthreads();
        if (wm / 64 == half)
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 4; j++)
                    for (int h = 0; h < 2; h++) {
                        const float pair[2] = {d[i][j][2 * h], d[i][j][2 * h + 1]};
                        store(out + (16 * i + lane / 4 + 8 * h) * kOutRow + wn + 8 * j + 2 * (lane % 4), pair);
                    }
        if (BUG != 8) __syncthreads();
        for (int e = int(threadIdx.x) * width; e < 64 * kTile; e += 256 * width) {
            const int m = m0 + 64 * half + e / kTile, n = n0 + e % kTile;
            if (m >= M || n >= N) continue;
            float v[width];
            load(v, out + e / kTile * kOutRow + e % kTile);
            epilogue.finish(m, n, v);
        }
    }
}

// ---- few rows

constexpr int kFewRows = 4, kFewColumns = 4;    // of x and of y that a warp has at once: each of its loads of x serves four columns

template <int kM, class TA, class TB, class Epilogue> __global__ void __launch_bounds__(128, 4) few_rows(const TA* a, int lda, const TB* b, int ldb, int M, int N, int K, Epilogue epilogue) {
    constexpr int n = 16 / sizeof(TB);
    const int n0 = int(blockIdx.x * 4 + threadIdx.x / 32) * kFewColumns;
    const int lane = int(threadIdx.x) % 32;
    if (n0 >= N) return;
    float sum[kM][kFewColumns] = {};
#pragma unroll 2
    for (int k = lane * n; k < K; k += 32 * n) {
        float w[kFewColumns][n];
#pragma unroll
        for (int j = 0; j < kFewColumns; j++) load(w[j], b + int64_t(n0 + j < N || BUG == 10 ? n0 + j : N - 1) * ldb + k);
#pragma unroll
        for (int m = 0; m < kM; m++) {
            float x[n];
            load(x, a + int64_t(m < M ? m : M - 1) * lda + k);
#pragma unroll
            for (int j = 0; j < kFewColumns; j++)
#pragma unroll
                for (int e = 0; e < n; e++) sum[m][j] = fmaf(x[e], w[j][e], sum[m][j]);
        }
    }
#pragma unroll
    for (int m = 0; m < kM; m++)
#pragma unroll
        for (int j = 0; j < kFewColumns; j++) {
            float v[1] = {warp_reduce(sum[m][j], Sum())};
            if (lane == m * kFewColumns + j && m < M && n0 + j < N) epilogue.finish(m, n0 + j, v);
        }
}

template <class T> bool in_sectors(const Operand<T>& o) { return uintptr_t(o.at) % 16 == 0 && o.ld * int64_t(sizeof(T)) % 16 == 0; }

// ---- cuBLASLt, on a card: the product, with what it knows of the epilogue. The rest is one pass over its result.

template <int width, class X> __global__ void __launch_bounds__(256) finish_kernel(Forward<X> f, const X* z, int64_t packs) {
    const int64_t pack = int64_t(blockIdx.x) * 256 + threadIdx.x, i = pack * width;
    if (pack >= packs) return;
    float v[width];
    load(v, z + i);
    f.finish(i / f.N, i % f.N, v);
}
template <class T> Gemm gemm_of(const char* name, const char* file, int line, const Operand<T>& a, const Operand<T>& b, int64_t M, int64_t N, int64_t K) {
    return {.name = name, .file = file, .line = line, .type = dtype_of<T>(), .y_type = dtype_of<T>(), .a = a.at, .b = b.at, .lda = a.ld, .ldb = b.ld, .a_along_k = a.along_k, .b_along_k = b.along_k, .M = M, .N = N, .K = K, .y = nullptr};
}
template <class X> bool by_library(Gemm g, const Store<X>& f, int) { return g.y = f.y, cublaslt_gemm(g); }
template <class X> bool by_library(Gemm g, const Accumulate& f, int) { return g.y_type = DType::f32, g.y = f.y, g.add = f.y, cublaslt_gemm(g); }
template <class X> bool by_library(Gemm g, const Forward<X>& f, int width) {
    const void* const bias = std::is_same_v<X, bf16> ? static_cast<const void*>(f.bias.half) : f.bias.f32;
    const bool adds_bias = bias || !f.bias.is_there(), plain = !f.gate && !f.scale.is_there() && adds_bias;
    g.bias = bias;
    if (plain && f.act == Act::none && !f.z) return g.y = f.y, g.add = f.residual, cublaslt_gemm(g);
    if (plain && f.act == Act::gelu_tanh && !f.residual) return g.y = f.y, g.z = f.z, g.gelu_tanh = true, cublaslt_gemm(g);
    const Tensor made = f.z ? Tensor() : Tensor({g.M, g.N}, g.type);
    X* const z = f.z ? f.z : at<X>(made);
    g.y = z;
    if (!cublaslt_gemm(g)) return false;
    Forward<X> rest = f;
    if (bias) rest.bias = {}, rest.z = nullptr;
    const int64_t count = g.M * g.N;
    with_width(width, [&]<int w>() {
        if constexpr (w <= 4) launch(Work{"linear epilogue", double(sizeof(X)) * double(count) * (2 + bool(f.gate) + bool(f.residual))}, Grid{{blocks_of(count / w, 256)}, {256}}, finish_kernel<w, X>, rest, z, count / w);
    });
    return true;
}

// width: elements of a row that the epilogue may move at once
template <class TA, class TB, class Epilogue> void product(Work work, Operand<TA> a, Operand<TB> b, int64_t M, int64_t N, int64_t K, int width, const Epilogue& epilogue,
             const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    if (M == 0 || N == 0) return;
    CHECK(std::max({M, N, K, a.ld, b.ld}) < (int64_t(1) << 31) - kTile, work.name, " has a side of ", std::max({M, N, K, a.ld, b.ld}), "; sides below 2147483520 are supported");
    if (M <= kFewRows && a.along_k && b.along_k && K % std::max(16 / int(sizeof(TA)), 16 / int(sizeof(TB))) == 0 && in_sectors(a) && in_sectors(b)) {
        auto go = [&](auto kernel) { launch(work, Grid{{blocks_of(N, 4 * kFewColumns)}, {128}}, kernel, a.at, int(a.ld), b.at, int(b.ld), int(M), int(N), int(K), epilogue); };
        return M == 1 ? go(few_rows<1, TA, TB, Epilogue>) : M == 2 ? go(few_rows<2, TA, TB, Epilogue>) : go(few_rows<4, TA, TB, Epilogue>);
    }
    if constexpr (kDevice == Device::cuda && std::is_same_v<TA, TB>)
        if (special_ways.cublaslt && by_library<TA>(gemm_of(work.name, file, line, a, b, M, N, K), epilogue, std::min(width, 4))) return;
    with_width(std::min(width, 4), [&]<int w>() {
        if constexpr (w <= 4) {
            if constexpr (std::is_same_v<TA, bf16> && std::is_same_v<TB, bf16>)
                if (in_sectors(a) && in_sectors(b)) {
                    auto go = [&](auto kernel) { launch(work, Grid{{blocks_of(N, kTile), blocks_of(M, kTile)}, {256}, kProductShared}, kernel, a.at, int(a.ld), b.at, int(b.ld), int(M), int(N), int(K), epilogue); };
                    if (a.along_k && b.along_k) return go(tensor_product<w, true, true, Epilogue>);
                    if (a.along_k) return go(tensor_product<w, true, false, Epilogue>);
                    if (!b.along_k) return go(tensor_product<w, false, false, Epilogue>);
                }
            launch(work, Grid{{blocks_of(N, kPlain), blocks_of(M, kPlain)}, {256}}, plain_product<w, TA, TB, Epilogue>, a, b, M, N, K, epilogue);
        }
    });
}

// ---- backward of the elementwise parts

constexpr int kChunk = 64;                      // rows whose dscale and dbias one block adds up

template <class X> __global__ void __launch_bounds__(128) epilogue_backward(X* dz, X* dgate, float* dscale, float* dbias, const X* dy, const X* z, const X* gate, Column scale, Act act, int64_t M, int64_t N) {
    const int64_t n = int64_t(blockIdx.x) * 128 + threadIdx.x, first = int64_t(blockIdx.y) * kChunk;
    if (n >= N) return;
    float scale_sum = 0, bias_sum = 0, factor[1] = {1};
    if (scale.is_there()) scale.load(factor, n);
    for (int64_t m = first; m < M && m < first + kChunk; m++) {
        const int64_t i = m * N + n;
        const float d = float(dy[i]), zi = z ? float(z[i]) : 0.0f, g = gate ? float(gate[i]) : 1.0f, a = z ? activated(act, zi) : 0.0f;
        const float scaled = scale.is_there() ? d * factor[0] : d;
        float dzi = gate ? scaled * g : scaled;
        if (act != Act::none) dzi *= slope(act, zi);
        scale_sum = fmaf(d, gate ? a * g : a, scale_sum);
        bias_sum += dzi;
        if (dgate) dgate[i] = X(scaled * a);
        if (dz) dz[i] = X(dzi);
    }
    if (dscale) dscale[int64_t(blockIdx.y) * N + n] = scale_sum;
    if (dbias) dbias[int64_t(blockIdx.y) * N + n] = bias_sum;
}
__global__ void __launch_bounds__(128) add_chunks(float* sum, const float* parts, int64_t chunks, int64_t N) {
    const int64_t n = int64_t(blockIdx.x) * 128 + threadIdx.x;
    if (n >= N) return;
    float total = 0;
    for (int64_t c = 0; c < chunks; c++) total += parts[c * N + n];
    sum[n] += total;
}
template <class X> __global__ void __launch_bounds__(256) refill_kernel(X* y, const X* z, const X* gate, Act act, int64_t count) {
    const int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x;
    if (i >= count) return;
    const float v = activated(act, float(z[i]));
    y[i] = X(gate ? v * float(gate[i]) : v);
}

double product_bytes(const Tensor& a, const Tensor& b, const Tensor& c) { return double(a.bytes()) + double(b.bytes()) + double(c.bytes()); }

}

template <> void run(const LinearFwd& a) {
    const int64_t M = a.x.rows(), N = a.w.dim(0), K = a.w.dim(1);
    const Work work{"linear", product_bytes(a.x, a.w, a.y), 2.0 * double(M) * double(N) * double(K)};
    with_float_type(a.x.dtype(), [&]<class X>() {
        with_float_type(a.w.dtype(), [&]<class W>() {
            const Forward<X> f{at<X>(a.y), at<X>(a.z), at<X>(a.gate), at<X>(a.residual), Column(a.bias), Column(a.scale), a.act, N};
            int width = vector_width(N, f.y, f.z, f.gate, f.residual);
            auto limit = [&](const Column& c) { width = limit_width(limit_width(width, N, c.f32), N, c.half); };       // nvcc's host pass takes no for (.. : {..})
            limit(f.bias), limit(f.scale);
            product(work, Operand<X>{at<X>(a.x), K, true}, Operand<W>{at<W>(a.w), K, true}, M, N, K, width, f);
        });
    });
}
template <> void run(const LinearInputBwd& a) {
    const int64_t M = a.dz.rows(), N = a.w.dim(0), K = a.w.dim(1);
    with_float_type(a.dz.dtype(), [&]<class X>() {
        with_float_type(a.w.dtype(), [&]<class W>() {
            const Store<X> f{at<X>(a.dx), K};
            product(Work{"linear dx", product_bytes(a.dz, a.w, a.dx), 2.0 * double(M) * double(N) * double(K)}, Operand<X>{at<X>(a.dz), N, true}, Operand<W>{at<W>(a.w), K, false}, M, K, N,
                    vector_width(K, f.y), f);
        });
    });
}
template <> void run(const LinearWeightBwd& a) {
    const int64_t M = a.dz.rows(), N = a.dw.dim(0), K = a.dw.dim(1);
    with_float_type(a.dz.dtype(), [&]<class X>() {
        const Accumulate f{at<float>(a.dw), K};
        product(Work{"linear dw", product_bytes(a.dz, a.x, a.dw) + double(a.dw.bytes()), 2.0 * double(M) * double(N) * double(K)}, Operand<X>{at<X>(a.dz), N, false}, Operand<X>{at<X>(a.x), K, false}, N, K, M,
                vector_width(K, f.y), f);
    });
}
template <> void run(const LinearEpilogueBwd& a) {
    const int64_t M = a.dy.rows(), N = a.dy.dim(-1), chunks = (M + kChunk - 1) / kChunk;
    if (M == 0 || N == 0) return;
    const Tensor scale_parts = a.dscale ? Tensor({chunks, N}) : Tensor(), bias_parts = a.dbias ? Tensor({chunks, N}) : Tensor();
    with_float_type(a.dy.dtype(), [&]<class X>() {
        const double bytes = double(a.dy.bytes()) * (1 + bool(a.dz) + bool(a.dgate) + bool(a.z) + bool(a.gate));
        launch(Work{"linear epilogue, backward", bytes}, Grid{{blocks_of(N, 128), unsigned(chunks)}, {128}}, epilogue_backward<X>, at<X>(a.dz), at<X>(a.dgate), at<float>(scale_parts), at<float>(bias_parts),
               at<X>(a.dy), at<X>(a.z), at<X>(a.gate), Column(a.scale), a.act, M, N);
    });
    auto add = [&](const Tensor& sum, const Tensor& parts) {
        if (sum) launch(Work{"column sums", double(parts.bytes()) + 8.0 * double(N)}, Grid{{blocks_of(N, 128)}, {128}}, add_chunks, at<float>(sum), at<float>(parts), chunks, N);
    };
    add(a.dscale, scale_parts);
    add(a.dbias, bias_parts);
}
template <> void run(const LinearRefill& a) {
    const int64_t count = a.y.numel();
    if (count == 0) return;
    with_float_type(a.y.dtype(), [&]<class X>() {
        launch(Work{"linear refill", double(a.y.bytes()) * (2 + bool(a.gate))}, Grid{{blocks_of(count, 256)}, {256}}, refill_kernel<X>, at<X>(a.y), at<X>(a.z), at<X>(a.gate), a.act, count);
    });
}

}
