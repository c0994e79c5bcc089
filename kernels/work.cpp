#include "kernels/work.h"
#include <algorithm>
#include <chrono>
#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/linear.h"
#include "kernels/linear_sm90.h"
#include "kernels/loss.h"
#include "kernels/norm.h"
#include "kernels/optim.h"
#include "kernels/patchify.h"
#include "kernels/peak.h"
#include "kernels/pool.h"
#include "kernels/random.h"
#include "kernels/reduce.h"
#include "kernels/resample.h"
#include "kernels/rope.h"
#include "kernels/rows.h"

namespace merv::kernels {
namespace {

using profile::Dims;
using profile::OpCall;

double size(const Tensor& t) { return t ? double(t.bytes()) : 0; }
double count(const Tensor& t) { return double(t.numel()); }
Dims dims(const Tensor& t) {
    Dims d{};
    std::copy(t.shape().begin(), t.shape().end(), d.begin());
    return d;
}
DType both(const Tensor& a, const Tensor& b) { return a.dtype() == DType::bf16 && b.dtype() == DType::bf16 ? DType::bf16 : DType::f32; }

OpCall product(const char* name, const Tensor& a, const Tensor& b, double bytes, int64_t M, int64_t N, int64_t K) {
    return {{name, bytes, 2.0 * double(M) * double(N) * double(K)}, {M, N, K}, a.dtype(), both(a, b)};
}
OpCall elements(const char* name, const Tensor& shown, double bytes, double flops = 0) { return {{name, bytes, flops}, dims(shown), shown.dtype()}; }
OpCall rows(const char* name, const Tensor& x, double tensors, double flops) {         // M x C
    return {{name, tensors * size(x), flops * count(x)}, {x.rows(), x.dim(-1)}, x.dtype()};
}

struct Attended { double q, kv, product; };     // bytes of q, or o; of k, or v; flops of one product over the pairs that are seen
Attended attended(const AttentionFwd& a) {
    const double size = double(size_of(a.q.t.dtype())), seen = double(a.mask == Mask::causal ? std::max<int64_t>(1, a.Nk - a.Nq / 2) : a.Nk);
    return {double(a.S * a.Nq * a.H * a.D) * size, double(a.S * a.Nk * a.Hkv * a.D) * size, 2.0 * double(a.S * a.H * a.D) * double(a.Nq) * seen};
}
OpCall attend(const char* name, const AttentionFwd& a, double bytes, double flops) {
    return {{name, bytes, flops}, {a.S, a.Nq, a.Nk, a.H, a.Hkv, a.D}, a.q.t.dtype(), a.q.t.dtype()};
}

}

template <> OpCall work(const AttentionFwd& a) {
    const Attended w = attended(a);
    return attend(a.Nq == 1 ? "attention, decode" : "attention", a, 2 * (w.q + w.kv) + size(a.lse), 2 * w.product);
}
template <> OpCall work(const AttentionBwd& b) {        // reads q k v o do lse, writes dq dk dv; S, dP, dv, dq, dk
    const Attended w = attended(b.fwd);
    return attend("attention backward", b.fwd, 4 * w.q + 4 * w.kv + size(b.fwd.lse), 5 * w.product);
}

template <> OpCall work(const Add& a) { return elements("add", a.y, 3 * size(a.y), count(a.y)); }
template <> OpCall work(const Convert& a) { return elements("convert", a.y, size(a.y) + size(a.x)); }

template <> OpCall work(const LinearFwd& a) { return product("linear", a.x, a.w, size(a.x) + size(a.w) + size(a.y), a.x.rows(), a.w.dim(0), a.w.dim(1)); }
template <> OpCall work(const LinearSm90& a) { return product("linear_sm90", a.x, a.w, size(a.x) + size(a.w) + size(a.y), a.x.rows(), a.w.dim(0), a.w.dim(1)); }
template <> OpCall work(const LinearInputBwd& a) { return product("linear dx", a.dz, a.w, size(a.dz) + size(a.w) + size(a.dx), a.dz.rows(), a.w.dim(0), a.w.dim(1)); }
template <> OpCall work(const LinearWeightBwd& a) { return product("linear dw", a.dz, a.x, size(a.dz) + size(a.x) + 2 * size(a.dw), a.dz.rows(), a.dw.dim(0), a.dw.dim(1)); }
template <> OpCall work(const LinearEpilogueBwd& a) {
    OpCall c = rows("linear epilogue, backward", a.dy, 1 + bool(a.dz) + bool(a.dgate) + bool(a.z) + bool(a.gate), 0);
    c.work.bytes += 2 * (size(a.dscale) + size(a.dbias));
    return c;
}
template <> OpCall work(const LinearRefill& a) { return rows("linear refill", a.y, 2 + bool(a.gate), 0); }

template <> OpCall work(const CrossEntropyFwd& a) {
    OpCall c = rows("cross_entropy", a.x, 1, 3);
    c.work.bytes += size(a.loss) + size(a.labels);
    return c;
}
template <> OpCall work(const CrossEntropyBwd& a) { return rows("cross_entropy backward", a.x, 2, 7); }

template <> OpCall work(const LayerNormFwd& a) { return rows("layernorm", a.x, a.residual ? 4 : 2, 7); }
template <> OpCall work(const RmsNormFwd& a) { return rows("rmsnorm", a.x, a.residual ? 4 : 2, 4); }
template <> OpCall work(const LayerNormBwd& a) { return rows("layernorm backward", a.x, (a.dx ? 3 : 2) + bool(a.dsum), 17); }
template <> OpCall work(const RmsNormBwd& a) { return rows("rmsnorm backward", a.x, (a.dx ? 3 : 2) + bool(a.dsum), 12); }

template <> OpCall work(const AdamW& a) { return elements("adamw", a.master, 7 * size(a.master) + size(a.param), 15 * count(a.master)); }
template <> OpCall work(const ClipFactor& a) { return elements("clip factor", a.sums, size(a.sums) + 4, count(a.sums)); }

template <> OpCall work(const Patchify& a) {            // as many pixels as y has elements
    return elements("patchify", a.y, size(a.y) + count(a.y) * size_of(a.x.dtype()), a.x.dtype() == DType::u8 ? 3 * count(a.y) : 0);
}

template <> OpCall work(const AdaptivePool& a) { return elements("adaptive_pool", a.x, size(a.x) + size(a.y), count(a.x)); }
template <> OpCall work(const AdaptivePoolBwd& a) { return elements("adaptive_pool backward", a.dx, size(a.dx) + size(a.dy), 2 * count(a.dx)); }
template <> OpCall work(const TokenMean& a) { return elements("token_mean", a.x, size(a.x) + size(a.y), count(a.x)); }
template <> OpCall work(const TokenMeanBwd& a) { return elements("token_mean backward", a.dx, size(a.dx) + size(a.dy), count(a.dx)); }
template <> OpCall work(const Mix& a) { return elements("mix", a.y, double(a.x.size() + 1) * size(a.y), 2 * double(a.x.size()) * count(a.y)); }
template <> OpCall work(const MixBwd& a) {
    const double given = double(std::count_if(a.dx.begin(), a.dx.end(), [](const Tensor& t) { return bool(t); })), read = a.dweights ? double(a.x.size()) : 0;
    return elements("mix backward", a.dy, (1 + read + given) * size(a.dy), 3 * double(a.x.size()) * count(a.dy));
}
template <> OpCall work(const SoftmaxRows& a) { return rows("softmax_rows", a.x, 2, 5); }
template <> OpCall work(const SoftmaxRowsBwd& a) { return rows("softmax_rows backward", a.y, 3, 5); }

template <> OpCall work(const FillRandom& a) { return elements("random", a.y, size(a.y), 60 * count(a.y)); }
template <> OpCall work(const ChunkSums& a) { return elements("chunk_sums", a.x, size(a.x) + size(a.sums), count(a.x) * (a.squares ? 2 : 1)); }

template <> OpCall work(const RopeFwd& a) { return elements("rope", a.x, 2 * size(a.x), 3 * count(a.x)); }
template <> OpCall work(const RopeAppend& a) { return elements("rope, append", a.q, 2 * (size(a.q) + size(a.k) + size(a.v)), 3 * (count(a.q) + count(a.k))); }

// Of tables only the rows that are asked for
template <> OpCall work(const GatherRows& a) { return elements("gather_rows", a.y, size(a.y) + count(a.y) * size_of(a.x.dtype()) + size(a.index)); }
template <> OpCall work(const GatherRowsBwd& a) { return elements("gather_rows backward", a.dy, size(a.dy) + 8 * count(a.dy) + size(a.index), count(a.dy)); }
template <> OpCall work(const ScatterRows& a) { return elements("scatter_rows", a.x, 2 * size(a.x) + size(a.index)); }
template <> OpCall work(const AddRows& a) { return elements("add_rows", a.x, 2 * size(a.x) + size(a.table), count(a.x)); }
template <> OpCall work(const AddRowsBwd& a) { return elements("add_rows backward", a.dy, size(a.dy) + 2 * size(a.dtable), count(a.dy)); }
template <> OpCall work(const PrependTokens& a) { return elements("prepend_tokens", a.x, size(a.y) + size(a.x) + size(a.tokens)); }
template <> OpCall work(const PrependTokensBwd& a) {
    const double tokens = a.dtokens ? double(a.dy.dim(0)) * count(a.dtokens) : 0;       // rows that are added up
    return elements("prepend_tokens backward", a.dy, 2 * size(a.dx) + tokens * size_of(a.dy.dtype()) + 2 * size(a.dtokens), tokens);
}

template <> OpCall work(const Resample& a) {
    const int64_t F = a.x.dim(0), W = a.x.dim(2), h = a.y.dim(1), w = a.y.dim(2);
    const double across = a.columns ? 2.0 * double(F * a.x.dim(1) * w * 3 * a.columns->taps) : 0, down = a.rows ? 2.0 * double(F * h * w * 3 * a.rows->taps) : 0;
    return {{"resample", size(a.x) + size(a.y), across + down}, {F, a.x.dim(1), W, h, w}, a.x.dtype()};
}

namespace {

// As bench/measure.h measures them, in 60 ms each: the fastest of a few.
profile::Peaks measure() {
    using Clock = std::chrono::steady_clock;
    auto fastest = [](auto&& f) {
        double best = 1e30;
        const auto start = Clock::now();
        do {
            const auto begin = Clock::now();
            f();
            best = std::min(best, std::chrono::duration<double>(Clock::now() - begin).count());
        } while (Clock::now() - start < std::chrono::milliseconds(60));
        return best;
    };
    profile::Peaks p;
    double flops = 0;
    p.f32 = 1 / fastest([&] { peak(PeakMultiply{DType::f32, 100000, &flops}); }) * flops;
    p.bf16 = 1 / fastest([&] { peak(PeakMultiply{DType::bf16, 100000, &flops}); }) * flops;
    const OnDevice host(Device::cpu);
    const Tensor x = zeros({int64_t(1) << 26});         // 256 MiB, past any cache
    float sink;
    p.bytes = double(x.bytes()) / fastest([&] { peak(PeakRead{x, &sink}); });
    return p;
}
const bool registered = (profile::measure_peaks = measure, true);      // core/ knows no kernels

}

}
