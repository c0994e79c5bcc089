// The matrix product under every linear layer, forward and backward:
//
//   sum(m, n) = left fold over chunks of 256 units of k; each chunk a left fold of multiply-adds from zero
//
// A *unit* is 32 bits of a row: one f32, or a pair of bf16, whose odd element is added first (as vdpbf16ps does). f32 and
// bf16 then share one shape of code: transpose units, keep output columns in vector lanes, broadcast units of x. A bf16
// operand beside an f32 one is widened while it is packed. bf16 products take denormals as zero on every instruction set,
// because vdpbf16ps does.
//
// Many rows: blocks of y, panels of x and w packed into L2 and L1. Up to 8 rows (decoding): w is read once, 16 rows at a
// time, and transposed in registers. 9 to 16 rows: x in lanes, w broadcast. The order of each sum is the same in all three.
#pragma once
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>
#include <omp.h>
#include "core/storage.h"
#include "kernels/cpu/simd.h"

namespace merv::kernels::cpu::MERV_ISA {

#define MERV_UNROLL _Pragma("GCC unroll 32")

// Element (i, k) of an operand: at[i * ld + k] if its rows run along k, else at[k * ld + i].
template <class S> struct Operand { const S* at; int64_t ld; bool along_k = true; };

// Tile sizes, the fastest of those tried on a 2-core Zen 4 (docs/performance.md has what they give):
struct Tiles {
    int rows;                                   // of the register tile, beside 2 vectors of columns: rows * 2 + 3 vectors fit the registers
    int64_t block_rows = 560, block_columns = 768;      // of y per task: packed x is 640 KiB, most of L2; columns share the packing of x
    int64_t units = 256;                        // of k per visit: the order of sums; a panel of w is 32 KiB, L1's size
};
constexpr Tiles tiles() { return {kLanes == 16 ? 14 : kLanes == 8 ? 6 : 4}; }    // 12 rows are as fast as 14, but pack across cache lines

constexpr int kTileRows = tiles().rows, kTileColumns = 2 * kLanes;
constexpr int64_t kUnits = tiles().units;
constexpr int kStreamRows = 8;

template <class T> constexpr int64_t per_unit = 4 / int64_t(sizeof(T));         // elements
template <class T> int64_t units(int64_t k) { return (k + per_unit<T> - 1) / per_unit<T>; }

// ---- units in vectors

inline Vec madd_units(float, Vec x, Vec w, Vec acc) { return madd(x, w, acc); }
inline Vec madd_units(bf16, Vec x, Vec w, Vec acc) {
#if defined(__AVX512BF16__)
    return _mm512_dpbf16_ps(acc, (__m512bh)x, (__m512bh)w);
#else
    typedef int32_t Int __attribute__((vector_size(sizeof(Vec))));
    const Int high = Int{} + int32_t(0xffff0000);       // products of bf16 are exact in f32, so fused or not is the same
    acc = madd((Vec)((Int)x & high), (Vec)((Int)w & high), acc);
    return madd((Vec)((Int)x << 16), (Vec)((Int)w << 16), acc);
#endif
}

inline Vec widen(const bf16* p) {
    typedef uint16_t Half __attribute__((vector_size(2 * kLanes)));
    typedef uint32_t Int __attribute__((vector_size(4 * kLanes)));
    Half h;
    std::memcpy(&h, p, sizeof h);
    return (Vec)(__builtin_convertvector(h, Int) << 16);
}
template <class T> Vec load_units(const T* p) { return load(reinterpret_cast<const float*>(p)); }        // kLanes units of T itself
template <class T> Vec load_units(const bf16* p) requires std::is_same_v<T, float> { return widen(p); }

// The first `elements` (1 to kLanes * per_unit) at p as units, zeros behind.
template <class T, class S> Vec load_units_part(const S* p, int64_t elements) {
    S part[kLanes * per_unit<T>] = {};
    std::memcpy(part, p, size_t(elements) * sizeof(S));
    return load_units<T>(part);
}

struct FlushDenormals {                         // in this thread, while it multiplies bf16
#ifdef __x86_64__
    unsigned old = _mm_getcsr();
    explicit FlushDenormals(bool on) { if (on) _mm_setcsr(old | 0x8040); }
    ~FlushDenormals() { _mm_setcsr(old); }
#else
    explicit FlushDenormals(bool) {}
#endif
};

// rows[i] = kLanes units of row i  ->  rows[j] = unit j of each row
#if defined(__AVX512F__)
// Each line is loaded once: rows 4 KiB apart share the sets of L1, which holds 8 of the 16.
template <class At> inline void load_transposed(Vec (&r)[16], At at) {
    Vec t[16];
    MERV_UNROLL for (int i = 0; i < 16; i++) r[i] = load(at(i));
    MERV_UNROLL for (int i = 0; i < 16; i += 2) t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]), t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    MERV_UNROLL for (int i = 0; i < 16; i += 4)
        MERV_UNROLL for (int h = 0; h < 2; h++) {
            const auto a = (__m512d)t[i + h], b = (__m512d)t[i + 2 + h];
            r[i + 2 * h] = (Vec)_mm512_unpacklo_pd(a, b), r[i + 2 * h + 1] = (Vec)_mm512_unpackhi_pd(a, b);
        }
    MERV_UNROLL for (int i = 0; i < 4; i++) {
        const Vec a = _mm512_shuffle_f32x4(r[i], r[4 + i], 0x88), b = _mm512_shuffle_f32x4(r[i], r[4 + i], 0xdd);
        const Vec c = _mm512_shuffle_f32x4(r[8 + i], r[12 + i], 0x88), d = _mm512_shuffle_f32x4(r[8 + i], r[12 + i], 0xdd);
        r[i] = _mm512_shuffle_f32x4(a, c, 0x88), r[8 + i] = _mm512_shuffle_f32x4(a, c, 0xdd);
        r[4 + i] = _mm512_shuffle_f32x4(b, d, 0x88), r[12 + i] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
}
#elif defined(__AVX2__)
template <class At> inline void load_transposed(Vec (&r)[8], At at) {
    Vec t[8];
    MERV_UNROLL for (int i = 0; i < 8; i++) r[i] = load(at(i));
    MERV_UNROLL for (int i = 0; i < 8; i += 2) t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]), t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    MERV_UNROLL for (int i = 0; i < 8; i += 4)
        MERV_UNROLL for (int h = 0; h < 2; h++) {
            const auto a = (__m256d)t[i + h], b = (__m256d)t[i + 2 + h];
            r[i + 2 * h] = (Vec)_mm256_unpacklo_pd(a, b), r[i + 2 * h + 1] = (Vec)_mm256_unpackhi_pd(a, b);
        }
    MERV_UNROLL for (int j = 0; j < 4; j++) {
        const Vec a = r[j], b = r[4 + j];
        r[j] = _mm256_permute2f128_ps(a, b, 0x20), r[4 + j] = _mm256_permute2f128_ps(a, b, 0x31);
    }
}
#else
template <class At> inline void load_transposed(Vec (&r)[kLanes], At at) {
    Vec rows[kLanes];
    for (int i = 0; i < kLanes; i++) rows[i] = load(at(i));     // rows of bf16 may begin in mid-float
    for (int j = 0; j < kLanes; j++) {
        Vec v{};
        for (int i = 0; i < kLanes; i++) v[i] = rows[i][j];
        r[j] = v;
    }
}
#endif
inline void transpose(Vec (&r)[kLanes]) {
    alignas(64) float part[kLanes][kLanes];
    for (int i = 0; i < kLanes; i++) store(part[i], r[i]);
    load_transposed(r, [&](int i) { return part[i]; });
}

// r[j] = unit j of kLanes rows along k, from element k on, of which `elements` are left; past `rows` the last row repeats.
template <class T, class S> inline void load_tile(Vec (&r)[kLanes], const S* p, int64_t ld, int64_t rows, int64_t elements) {
    const bool whole = elements >= kLanes * per_unit<T>;
    auto row = [&](int i) { return p + std::min<int64_t>(i, rows - 1) * ld; };
    if constexpr (std::is_same_v<T, S>) {
        if (whole) return load_transposed(r, [&](int i) { return reinterpret_cast<const float*>(row(i)); });
    }
    alignas(64) float part[kLanes][kLanes];
    for (int i = 0; i < kLanes; i++) store(part[i], whole ? load_units<T>(row(i)) : load_units_part<T>(row(i), elements));
    load_transposed(r, [&](int i) { return part[i]; });
}

// ---- packing: to[u][P] = unit u of R rows (fewer at an edge: what lies in the rest is never stored); P is R in whole vectors

template <class T, int R, class S> void pack(float* to, const Operand<S>& o, int64_t row, int64_t rows, int64_t k, int64_t elements, bool ahead) {
    constexpr int P = (R + kLanes - 1) / kLanes * kLanes;
    const int64_t n = units<T>(elements);
    if (o.along_k) {
        for (int64_t u = 0; u < n; u += kLanes)
            MERV_UNROLL for (int h = 0; h < P; h += kLanes) {
                const S* p = o.at + (row + std::min<int64_t>(h, rows - 1)) * o.ld + k + u * per_unit<T>;
                if (ahead) MERV_UNROLL for (int i = 0; i < kLanes; i++) if (h + i < R) __builtin_prefetch(p + (R + i) * o.ld, 0, 2);
                Vec r[kLanes];
                load_tile<T>(r, p, o.ld, std::max<int64_t>(1, std::min<int64_t>(rows, R) - h), elements - u * per_unit<T>);
                MERV_UNROLL for (int j = 0; j < kLanes; j++) if (j < n - u) store(to + (u + j) * P + h, r[j]);
            }
        return;
    }
    for (int64_t u = 0; u < n; u++)
        for (int h = 0; h < P; h += kLanes) {
            const int64_t left = std::min<int64_t>(rows - h, kLanes);
            if (left <= 0) { store(to + u * P + h, Vec{}); continue; }
            auto line = [&](int64_t kk) {       // kLanes neighbouring rows at one k, as f32
                const S* p = o.at + (k + kk) * o.ld + row + h;
                return left == kLanes ? load_units<float>(p) : load_units_part<float>(p, left);
            };
            if constexpr (std::is_same_v<T, float>) store(to + u * P + h, line(u));
            else {                              // a widened bf16 is its bits in the upper half: two of them make a pair
                typedef uint32_t Int __attribute__((vector_size(sizeof(Vec))));
                const Int low = (Int)line(2 * u) >> 16, high = 2 * u + 1 < elements ? (Int)line(2 * u + 1) : Int{};
                store(to + u * P + h, (Vec)(low | high));
            }
        }
}

inline float* scratch(size_t floats) {          // kept per thread, grows, never shrinks
    static thread_local struct Block {
        void* p = nullptr;
        size_t bytes = 0;
        ~Block() { std::free(p); }
    } block;
    size_t bytes = floats * 4;
    if (block.bytes < bytes) {
        std::free(block.p);
        block.bytes = 0;
        bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
        block.p = allocate_huge_pages(bytes);
        if (!block.p) throw std::bad_alloc();
        block.bytes = bytes;
    }
    return static_cast<float*>(block.p);
}

// ---- many rows

// sums (+)= one chunk of M rows of packed x times a panel of w
template <class T, int M> void tile(int64_t n, const float* x, const float* w, float* sums, bool first) {
    Vec acc[M][2] = {};
    MERV_UNROLL for (int i = 0; i < M; i++) __builtin_prefetch(sums + i * kTileColumns, 1, 3);
    for (int64_t u = 0; u < n; u++, x += (kTileRows + kLanes - 1) / kLanes * kLanes, w += kTileColumns) {
        const Vec w0 = load(w), w1 = load(w + kLanes);
        MERV_UNROLL for (int i = 0; i < M; i++) {
            const Vec b = broadcast(x[i]);
            acc[i][0] = madd_units(T{}, b, w0, acc[i][0]);
            acc[i][1] = madd_units(T{}, b, w1, acc[i][1]);
        }
    }
    MERV_UNROLL for (int i = 0; i < M; i++) MERV_UNROLL for (int h = 0; h < 2; h++) {
        float* to = sums + i * kTileColumns + h * kLanes;
        store(to, first ? acc[i][h] : load(to) + acc[i][h]);
    }
}
template <class T> using TileOf = void (*)(int64_t, const float*, const float*, float*, bool);
template <class T, int... I> TileOf<T> tile_of(int64_t rows, std::integer_sequence<int, I...>) {
    static constexpr TileOf<T> table[] = {tile<T, I + 1>...};
    return table[std::min<int64_t>(rows, kTileRows) - 1];
}

// Rows [m0, m0 + rows) and columns [n0, n0 + columns) of y, all of k.
template <class T, class SX, class SW, class Finish>
void block(int64_t K, const Operand<SX>& x, const Operand<SW>& w, int64_t m0, int64_t rows, int64_t n0, int64_t columns, const Finish& finish) {
    constexpr int P = (kTileRows + kLanes - 1) / kLanes * kLanes;
    const int64_t panels = (rows + kTileRows - 1) / kTileRows, step = kUnits * per_unit<T>;
    float* packed_x = scratch(size_t(panels * P * kUnits + kTileColumns * kUnits + panels * kTileRows * ((columns + kTileColumns - 1) / kTileColumns * kTileColumns)));
    float *packed_w = packed_x + panels * P * kUnits, *sums = packed_w + kTileColumns * kUnits;
    for (int64_t k = 0; k < K; k += step) {
        const int64_t elements = std::min(K - k, step), n = units<T>(elements);
        for (int64_t i = 0; i < panels; i++)
            pack<T, kTileRows>(packed_x + i * P * n, x, m0 + i * kTileRows, std::min<int64_t>(kTileRows, rows - i * kTileRows), k, elements, i + 1 < panels);
        for (int64_t j = 0; j < columns; j += kTileColumns) {
            const int64_t width = std::min<int64_t>(kTileColumns, columns - j);
            pack<T, kTileColumns>(packed_w, w, n0 + j, width, k, elements, false);
            // the next panel of w is fetched meanwhile, a few lines per tile
            const SW* next = w.at + (n0 + j + kTileColumns) * w.ld + k;
            const int64_t lines = w.along_k && j + kTileColumns < columns ? elements * int64_t(sizeof(SW)) / 64 : 0;
            const int64_t all = lines * std::min<int64_t>(kTileColumns, columns - j - kTileColumns), from = panels / 2;      // not sooner: x passes through L2 too
            const int64_t share = (all + panels - from - 1) / (panels - from);
            for (int64_t i = 0, done = 0; i < panels; i++) {
                for (const int64_t end = i < from ? 0 : std::min(done + share, all); done < end; done++)
                    __builtin_prefetch(next + done / lines * w.ld + done % lines * (64 / int64_t(sizeof(SW))), 0, 2);
                const int64_t height = std::min<int64_t>(kTileRows, rows - i * kTileRows);
                float* at = sums + (j / kTileColumns * panels + i) * kTileRows * kTileColumns;
                if constexpr (requires { finish.ahead(m0, n0); })
                    if (k + step >= K) for (int64_t r = 0; r < height; r++) finish.ahead(m0 + i * kTileRows + r, n0 + j);
                tile_of<T>(height, std::make_integer_sequence<int, kTileRows>())(n, packed_x + i * P * n, packed_w, at, k == 0);
                if (k + step >= K)
                    for (int64_t r = 0; r < height; r++) finish(m0 + i * kTileRows + r, n0 + j, at + r * kTileColumns, width);
            }
        }
    }
}

template <class T, class SX, class SW, class Finish> void many(int64_t M, int64_t N, int64_t K, const Operand<SX>& x, const Operand<SW>& w, const Finish& finish) {
    auto up = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
    const int64_t threads = M * N * K > 1 << 16 ? omp_get_max_threads() : 1;
    int64_t row_blocks = up(M, tiles().block_rows), column_blocks = up(N, tiles().block_columns);       // even sizes, an even share per thread
    while (row_blocks * column_blocks % threads && column_blocks < up(N, kTileColumns)) column_blocks++;
    const int64_t mb = up(up(M, kTileRows), row_blocks) * kTileRows, nb = up(up(N, kTileColumns), column_blocks) * kTileColumns;
#pragma omp parallel num_threads(threads)
    {
        const FlushDenormals flush(std::is_same_v<T, bf16>);
#pragma omp for schedule(dynamic, 1) collapse(2)
        for (int64_t n = 0; n < N; n += nb)
            for (int64_t m = 0; m < M; m += mb) block<T>(K, x, w, m, std::min(mb, M - m), n, std::min(nb, N - n), finish);
    }
}

// ---- few rows: w is read once; x is packed [u][M]

// While one group of kLanes rows is used the next is fetched into L2, in the order of memory, which is what DRAM is fast at.
inline void fetch_next(const void* group, int64_t group_bytes, int64_t used) {
    const char* next = static_cast<const char*>(group) + group_bytes + used * kLanes;       // used: bytes of each row
    MERV_UNROLL for (int i = 0; i < 4 * kLanes * kLanes; i += 64) __builtin_prefetch(next + i, 0, 2);
}

template <class T, int M, class SW, class Finish> void stream(int64_t K, const float* x, const Operand<SW>& w, int64_t n0, int64_t columns, const Finish& finish) {
    const SW* p = w.at + n0 * w.ld;
    constexpr int64_t step = kLanes * per_unit<T>;
    alignas(64) float total[M][kLanes];
    for (int64_t chunk = 0; chunk < K; chunk += kUnits * per_unit<T>) {
        Vec acc[M] = {};
        const int64_t end = std::min(K, chunk + kUnits * per_unit<T>);
        for (int64_t k = chunk; k < end; k += step, x += kLanes * M) {
            Vec r[kLanes];
            if (columns == kLanes && k + step <= end) {
                fetch_next(p, kLanes * w.ld * int64_t(sizeof(SW)), k * int64_t(sizeof(SW)));
                load_tile<T>(r, p + k, w.ld, kLanes, step);
                MERV_UNROLL for (int j = 0; j < kLanes; j++)
                    MERV_UNROLL for (int m = 0; m < M; m++) acc[m] = madd_units(T{}, broadcast(x[j * M + m]), r[j], acc[m]);
            } else {
                load_tile<T>(r, p + k, w.ld, columns, end - k);
                const int64_t n = units<T>(std::min(end - k, step));
                MERV_UNROLL for (int j = 0; j < kLanes; j++)
                    if (j < n) MERV_UNROLL for (int m = 0; m < M; m++) acc[m] = madd_units(T{}, broadcast(x[j * M + m]), r[j], acc[m]);
            }
        }
        for (int m = 0; m < M; m++) store(total[m], chunk == 0 ? acc[m] : load(total[m]) + acc[m]);
    }
    for (int m = 0; m < M; m++) finish(m, n0, total[m], columns);
}

// Up to kLanes rows of x, in lanes; w is broadcast from a copy made one step early, since its rows' lines may share a cache set.
template <class T, class SW, class Finish> void wide(int64_t M, int64_t K, const float* x, const Operand<SW>& w, int64_t n0, int64_t columns, const Finish& finish) {
    const SW* p = w.at + n0 * w.ld;
    constexpr int64_t step = kLanes * per_unit<T>;
    Vec total[kLanes] = {};
    alignas(64) float part[2][kLanes][kLanes] = {};
    auto copy = [&](int64_t k) {
        if (k >= K) return;
        float(*to)[kLanes] = part[k / step % 2];
        if (columns == kLanes) fetch_next(p, kLanes * w.ld * int64_t(sizeof(SW)), k * int64_t(sizeof(SW)));
        for (int64_t i = 0; i < columns; i++) store(to[i], K - k >= step ? load_units<T>(p + i * w.ld + k) : load_units_part<T>(p + i * w.ld + k, K - k));
    };
    copy(0);
    for (int64_t chunk = 0; chunk < K; chunk += kUnits * per_unit<T>) {
        Vec acc[kLanes] = {};
        const int64_t end = std::min(K, chunk + kUnits * per_unit<T>);
        for (int64_t k = chunk; k < end; k += step) {
            copy(k + step);
            const float(*from)[kLanes] = part[k / step % 2];
            for (int64_t j = 0, n = units<T>(std::min(end - k, step)); j < n; j++, x += kLanes) {
                const Vec v = load(x);
                MERV_UNROLL for (int i = 0; i < kLanes; i++) acc[i] = madd_units(T{}, v, broadcast(from[i][j]), acc[i]);
            }
        }
        MERV_UNROLL for (int i = 0; i < kLanes; i++) total[i] = chunk == 0 ? acc[i] : total[i] + acc[i];
    }
    transpose(total);
    alignas(64) float rows[kLanes][kLanes];
    for (int m = 0; m < kLanes; m++) store(rows[m], total[m]);
    for (int64_t m = 0; m < M; m++) finish(m, n0, rows[m], columns);
}

template <class T, class SX, class SW, class Finish> void few(int64_t M, int64_t N, int64_t K, const Operand<SX>& x, const Operand<SW>& w, const Finish& finish) {
    const int64_t across = M <= kStreamRows ? M : kLanes, n = units<T>(K);
    std::unique_ptr<float[]> packed(new float[size_t(across * (n + kLanes))]());
    for (int64_t m = 0; m < M; m++)
        for (int64_t u = 0; u < n; u++) {
            const SX* from = x.at + m * x.ld + u * per_unit<T>;
            if constexpr (std::is_same_v<T, float>) packed[size_t(u * across + m)] = float(*from);
            else std::memcpy(&packed[size_t(u * across + m)], from, size_t(std::min<int64_t>(per_unit<T>, K - u * per_unit<T>)) * sizeof(SX));
        }
    const int64_t tasks = (N + kLanes - 1) / kLanes, run = std::max<int64_t>(8, tasks / (16 * omp_get_max_threads()));     // a run's first group is not fetched ahead
#pragma omp parallel if (M * N * K > 1 << 16)
    {
        const FlushDenormals flush(std::is_same_v<T, bf16>);
#pragma omp for schedule(dynamic, run)
        for (int64_t t = 0; t < tasks; t++) {
            const int64_t n0 = t * kLanes, columns = std::min<int64_t>(kLanes, N - n0);
            [&]<int... I>(std::integer_sequence<int, I...>) {
                if (M > kStreamRows) return wide<T>(M, K, packed.get(), w, n0, columns, finish);
                ((M == I + 1 ? stream<T, I + 1>(K, packed.get(), w, n0, columns, finish) : void()), ...);
            }(std::make_integer_sequence<int, kStreamRows>());
        }
    }
}

// finish(m, n, sums, count): the sums of row m, columns n .. n + count - 1, are complete; called once for each, by any thread.
// `sums` may be changed. finish.ahead(m, n), if there is one, comes some microseconds earlier: it may prefetch kTileColumns of
// what finish will touch. T is float, or bf16 when both operands are.
template <class T, class SX, class SW, class Finish> void gemm(int64_t M, int64_t N, int64_t K, const Operand<SX>& x, const Operand<SW>& w, const Finish& finish) {
    static_assert(std::is_same_v<T, float> || (std::is_same_v<SX, bf16> && std::is_same_v<SW, bf16>));
    if (M <= 0 || N <= 0) return;
    if (K <= 0) {
        for (int64_t m = 0; m < M; m++)
            for (int64_t n = 0; n < N; n += kLanes) {
                float none[kLanes] = {};
                finish(m, n, none, std::min<int64_t>(kLanes, N - n));
            }
    } else if (M <= std::max(kStreamRows, kLanes) && x.along_k && w.along_k) {
        few<T>(M, N, K, x, w, finish);
    } else {
        many<T>(M, N, K, x, w, finish);
    }
}

}
