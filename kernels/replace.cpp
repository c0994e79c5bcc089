// Ops of a card on the host, for those whose kernels failed the self-test: slow, and right.
#include <algorithm>
#include <vector>
#include "core/cuda.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/linear.h"
#include "kernels/loss.h"
#include "kernels/norm.h"
#include "kernels/optim.h"
#include "kernels/patchify.h"
#include "kernels/pool.h"
#include "kernels/random.h"
#include "kernels/reduce.h"
#include "kernels/rope.h"
#include "kernels/rows.h"

namespace merv::kernels {

SpecialWays special_ways;
bool anything_replaced = false;

namespace {

void list(std::vector<Tensor*>& all, Tensor& t) { if (t) all.push_back(&t); }
void list(std::vector<Tensor*>& all, Rows& r) { list(all, r.t); }
void list(std::vector<Tensor*>& all, std::vector<Tensor>& ts) { for (Tensor& t : ts) list(all, t); }
void list(std::vector<Tensor*>& all, AttentionFwd& a) { list(all, a.o), list(all, a.lse), list(all, a.q), list(all, a.k), list(all, a.v), list(all, a.k_len); }

// Tensors may share bytes (an op in place), so stretches of memory are copied, not tensors.
struct Stretch { std::byte *begin, *end; std::shared_ptr<Storage> host; };

template <class Args> void on_host(Args& a, const std::vector<Tensor*>& tensors) {
    std::vector<Stretch> stretches;
    for (const Tensor* t : tensors) if (t->bytes()) stretches.push_back({t->raw(), t->raw() + t->bytes(), {}});
    std::sort(stretches.begin(), stretches.end(), [](const Stretch& x, const Stretch& y) { return x.begin < y.begin; });
    std::vector<Stretch> merged;
    for (const Stretch& s : stretches) {
        if (!merged.empty() && s.begin < merged.back().end) merged.back().end = std::max(merged.back().end, s.end);
        else merged.push_back(s);
    }
    for (Stretch& s : merged) {
        s.host = Storage::allocate(size_t(s.end - s.begin), Device::cpu);
        merv::cuda().copy(s.host->data(), Device::cpu, s.begin, Device::cuda, size_t(s.end - s.begin));
    }
    for (Tensor* t : tensors) {
        const auto s = std::find_if(merged.begin(), merged.end(), [&](const Stretch& m) { return t->raw() >= m.begin && t->raw() + t->bytes() <= m.end; });
        *t = s == merged.end() ? Tensor(t->shape(), t->dtype(), Device::cpu) : Tensor::view(s->host, t->shape(), t->dtype(), size_t(t->raw() - s->begin));
    }
    {
        const OnDevice host(Device::cpu);
        cpu::run(a);
    }
    for (const Stretch& s : merged) merv::cuda().copy(s.begin, Device::cuda, s.host->data(), Device::cpu, size_t(s.end - s.begin));
}

}

// The tensors of an op's arguments. An op that is missing here is a link error.
#define MERV_TENSORS(Args, ...)                                                \
    template <> bool& replaced<Args>() {                                       \
        static bool yes = false;                                               \
        return yes;                                                            \
    }                                                                          \
    template <> void run_on_host(const Args& given) {                          \
        Args a = given;                                                        \
        std::vector<Tensor*> all;                                              \
        auto each = [&](auto&... members) { (list(all, members), ...); };      \
        each(__VA_ARGS__);                                                     \
        on_host(a, all);                                                \
    }
MERV_TENSORS(LinearFwd, a.y, a.z, a.x, a.w, a.bias, a.gate, a.scale, a.residual)
MERV_TENSORS(LinearRefill, a.y, a.z, a.gate)
MERV_TENSORS(LinearEpilogueBwd, a.dz, a.dgate, a.dscale, a.dbias, a.dy, a.z, a.gate, a.scale)
MERV_TENSORS(LinearInputBwd, a.dx, a.dz, a.w)
MERV_TENSORS(LinearWeightBwd, a.dw, a.dz, a.x)
MERV_TENSORS(LayerNormFwd, a.y, a.x, a.w, a.b, a.residual, a.sum)
MERV_TENSORS(LayerNormBwd, a.dx, a.dw, a.db, a.dy, a.x, a.w, a.dsum)
MERV_TENSORS(RmsNormFwd, a.y, a.x, a.w, a.residual, a.sum)
MERV_TENSORS(RmsNormBwd, a.dx, a.dw, a.dy, a.x, a.w, a.dsum)
MERV_TENSORS(AttentionFwd, a)
MERV_TENSORS(AttentionBwd, a.dq, a.dk, a.dv, a.dout, a.fwd)
MERV_TENSORS(RopeFwd, a.y, a.x, a.cos, a.sin)
MERV_TENSORS(RopeAppend, a.q_out, a.k_out, a.v_out, a.q, a.k, a.v, a.cos, a.sin)
MERV_TENSORS(GatherRows, a.y, a.x, a.index)
MERV_TENSORS(GatherRowsBwd, a.dx, a.dy, a.index)
MERV_TENSORS(ScatterRows, a.y, a.x, a.index)
MERV_TENSORS(AddRows, a.y, a.x, a.table)
MERV_TENSORS(AddRowsBwd, a.dtable, a.dy)
MERV_TENSORS(PrependTokens, a.y, a.x, a.tokens)
MERV_TENSORS(PrependTokensBwd, a.dx, a.dtokens, a.dy)
MERV_TENSORS(CrossEntropyFwd, a.loss, a.x, a.labels)
MERV_TENSORS(CrossEntropyBwd, a.dx, a.x, a.labels)
MERV_TENSORS(AdamW, a.master, a.m, a.v, a.param, a.grad, a.clip)
MERV_TENSORS(ClipFactor, a.factor, a.sums)
MERV_TENSORS(ChunkSums, a.sums, a.x)
MERV_TENSORS(AdaptivePool, a.y, a.x)
MERV_TENSORS(AdaptivePoolBwd, a.dx, a.dy)
MERV_TENSORS(TokenMean, a.y, a.x)
MERV_TENSORS(TokenMeanBwd, a.dx, a.dy)
MERV_TENSORS(Mix, a.y, a.x, a.weights)
MERV_TENSORS(MixBwd, a.dx, a.dweights, a.dy, a.x, a.weights)
MERV_TENSORS(SoftmaxRows, a.y, a.x)
MERV_TENSORS(SoftmaxRowsBwd, a.dx, a.dy, a.y)
MERV_TENSORS(Add, a.y, a.a, a.b)
MERV_TENSORS(Convert, a.y, a.x)
MERV_TENSORS(Patchify, a.y, a.x)
MERV_TENSORS(FillRandom, a.y)
#undef MERV_TENSORS

}
