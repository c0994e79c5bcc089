// The kernels as they are, with one fault each (`BUG` in kernels/cuda): the emulator's checked mode must report it, or the result must
// come out different, in one run of the ordinary schedule. Without a fault neither may happen.
#include <functional>
#include <utility>
#include "kernels/attention.h"
#include "kernels/emu/emulator.h"
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
#include "tests/harness.h"
#include "tests/test.h"

using namespace merv;
using namespace merv::test;

namespace merv::kernels::emu_bugs { template <class Args> void run(const Args&); }
static int the_bug = 0;
int merv_seeded_bug() { return the_bug; }

namespace {

using kernels::Rows;
namespace spoilt = kernels::emu_bugs;

Tensor random(Shape shape, const char* what, DType dtype = DType::f32) { return normal(shape, what, 0, 1, dtype); }
Tensor ints(std::vector<int32_t> v) { return from_ints(v).to(current_device()); }

// The results of one op
Tensors norm(int64_t M, int64_t C) {
    const Tensor y({M, C});
    spoilt::run(kernels::LayerNormFwd{.y = y, .x = random({M, C}, "x"), .w = random({C}, "w"), .b = random({C}, "b")});
    return {y};
}
Tensors norm_backward(int64_t M, int64_t C) {
    const Tensor dx({M, C}), dw = zeros({C}), db = zeros({C});
    spoilt::run(kernels::LayerNormBwd{.dx = dx, .dw = dw, .db = db, .dy = random({M, C}, "dy"), .x = random({M, C}, "x"), .w = random({C}, "w")});
    return {dx, dw, db};
}
Tensors table_backward() {
    const Tensor dtable = zeros({3, 20});
    spoilt::run(kernels::AddRowsBwd{.dtable = dtable, .dy = random({7, 20}, "dy"), .inner = 1});
    return {dtable};
}
Tensors product(int64_t M, int64_t N, int64_t K, DType dtype) {
    const Tensor y({M, N}, dtype);
    spoilt::run(kernels::LinearFwd{.y = y, .x = random({M, K}, "x", dtype), .w = random({N, K}, "w", dtype)});
    return {y};
}
Tensors gather_backward() {
    const Tensor dx = zeros({4, 8});
    std::vector<int32_t> index;
    for (int i = 0; i < 600; i++) index.push_back(i * 7 % 4);
    spoilt::run(kernels::GatherRowsBwd{.dx = dx, .dy = random({600, 8}, "dy"), .index = ints(index)});
    return {dx};
}
Tensors loss() {
    const Tensor loss({3});
    spoilt::run(kernels::CrossEntropyFwd{.loss = loss, .x = random({3, 37}, "x"), .labels = ints({5, kernels::kIgnore, 36})});
    return {loss};
}
Tensors pool() {
    const Tensor y({1, 2, 3, 3, 8});
    spoilt::run(kernels::AdaptivePool{.y = y, .x = random({1, 4, 5, 5, 8}, "x")});
    return {y};
}
Tensors patches() {
    const Tensor y({1, 4, 3 * 6 * 6});
    spoilt::run(kernels::Patchify{.y = y, .x = random({1, 3, 12, 12}, "x"), .patch = 6, .tubelet = 1, .mean = {}, .std = {1, 1, 1}});
    return {y};
}
Tensors sums() {
    const Tensor s({2});
    spoilt::run(kernels::ChunkSums{.sums = s, .x = random({4099}, "x"), .squares = true});
    return {s};
}
Tensors adamw() {
    const int64_t N = 1000;
    const Tensor master = random({N}, "master"), m = random({N}, "m"), v = zeros({N});
    spoilt::run(kernels::AdamW{.master = master, .m = m, .v = v, .param = {}, .grad = random({N}, "grad"), .step = 1, .lr = 1e-2});
    return {master, m, v};
}
Tensors rope() {
    const Tensor y({5, 2, 16});
    spoilt::run(kernels::RopeFwd{.y = y, .x = random({5, 2, 16}, "x"), .cos = random({5, 8}, "cos"), .sin = random({5, 8}, "sin")});
    return {y};
}
Tensors fill() {
    const Tensor wide({9}), y = wide.slice(1, 9);
    spoilt::run(kernels::FillRandom{.y = y, .rng = Rng(1, "fill")});
    return {y.to(Device::cpu)};
}

struct Attention { int64_t S, Nq, Nk, H, D; DType dtype = DType::bf16; std::vector<int32_t> k_len = {}; };
Rows rows(const Tensor& t, int64_t N) { return {.t = t, .outer_stride = N * t.dim(-1), .token_stride = t.dim(-1)}; }
kernels::AttentionFwd scene(const Attention& a, bool lse) {
    auto side = [&](const char* what, int64_t N) { return rows(random({a.S * N, a.H * a.D}, what, a.dtype), N); };
    return {.o = rows(Tensor({a.S * a.Nq, a.H * a.D}, a.dtype), a.Nq), .lse = lse ? Tensor({a.S, a.H, a.Nq}) : Tensor(), .q = side("q", a.Nq), .k = side("k", a.Nk), .v = side("v", a.Nk), .S = a.S, .Nq = a.Nq,
            .Nk = a.Nk, .H = a.H, .Hkv = a.H, .D = a.D, .scale = 0.25f, .k_len = a.k_len.empty() ? Tensor() : ints(a.k_len)};
}
Tensors attention(const Attention& a) {
    const kernels::AttentionFwd f = scene(a, false);
    spoilt::run(f);
    return {f.o.t};
}
Tensors attention_backward(const Attention& a) {
    const kernels::AttentionFwd f = scene(a, true);
    const int bug = std::exchange(the_bug, 0);
    spoilt::run(f);
    the_bug = bug;
    auto like = [](const Rows& r) { return Rows{.t = empty_like(r.t), .outer_stride = r.outer_stride, .token_stride = r.token_stride}; };
    const kernels::AttentionBwd b{.dq = like(f.q), .dk = like(f.k), .dv = like(f.v), .dout = rows(random(f.o.t.shape(), "do", a.dtype), a.Nq), .fwd = f};
    spoilt::run(b);
    return {b.dq.t, b.dk.t, b.dv.t};
}

struct Fault { std::string what; std::function<Tensors()> op; };
constexpr DType kHalf = DType::bf16;
const Attention kTiled{1, 70, 280, 1, 16}, kOnePass{1, 80, 100, 1, 16}, kFrames{3, 8, 8, 2, 16}, kPlain{1, 70, 70, 1, 16, DType::f32};
const std::vector<Fault> kFaults{              // numbered from 1
    {"row_reduce: parts are overwritten while others read them", [] { return norm(2, 1030); }},
    {"row_reduce: parts are read before all have come", [] { return norm(2, 1030); }},
    {"product: the stage is not waited for", [] { return product(128, 128, 160, kHalf); }},
    {"product: no barrier before a stage is read and another refilled", [] { return product(128, 128, 160, kHalf); }},
    {"product: one stage too few, refilled while it is read", [] { return product(128, 128, 160, kHalf); }},
    {"product: rows beyond the last are fetched", [] { return product(100, 128, 64, kHalf); }},
    {"product: a swizzle that leaves its row", [] { return product(128, 128, 64, kHalf); }},
    {"product: results are read back before all are written", [] { return product(128, 128, 64, kHalf); }},
    {"plain product: tiles are refilled while others read them", [] { return product(70, 70, 40, DType::f32); }},
    {"few rows: columns beyond the last are read", [] { return product(1, 18, 64, kHalf); }},
    {"sum_rows: parts are read before all have come", [] { return norm_backward(40, 20); }},
    {"sum_rows: rows beyond the last are read", table_backward},
    {"layernorm: a block's rows beyond the last", [] { return norm(5, 64); }},
    {"gather, backward: hits are overwritten while others read them", gather_backward},
    {"gather, backward: two blocks sum the same row", gather_backward},
    {"cross-entropy: packs that the row's address does not allow", loss},
    {"pool: a bin one cell too long", pool},
    {"patchify: packs that the patch does not allow", patches},
    {"sums: one element too many", sums},
    {"adamw: one pack too many", adamw},
    {"rope: the next row's position", rope},
    {"random: packs that the address does not allow", fill},
    {"attention: results over operands that other lanes still read", [] { return attention_backward({1, 33, 64, 1, 16}); }},
    {"attention: staged rows are read before all lanes wrote them", [] { return attention(kTiled); }},
    {"attention: one key too many", [] { return attention(kOnePass); }},
    {"attention, tiled: the stage is not waited for", [] { return attention(kTiled); }},
    {"attention, tiled: no barrier between stages", [] { return attention(kTiled); }},
    {"attention, tiled: one stage for two", [] { return attention(kTiled); }},
    {"attention, one pass: keys are read before all have come", [] { return attention(kOnePass); }},
    {"attention, one pass: queries are refilled while lanes read them", [] { return attention({1, 140, 100, 1, 16}); }},
    {"attention, one pass: the next queries are read before all have come", [] { return attention({1, 140, 100, 1, 16}); }},
    {"attention, frames: rows are read before all lanes' have come", [] { return attention(kFrames); }},
    {"attention, plain: keys are refilled while others read them", [] { return attention(kPlain); }},
    {"attention, plain: probabilities are read before all lanes wrote them", [] { return attention(kPlain); }},
    {"attention, decode: the warps' sums are read before all have come", [] { return attention({1, 1, 60, 1, 16}); }},
    {"attention, decode: keys beyond the last are read", [] { return attention({1, 1, 60, 1, 128}); }},
    {"attention, backward: no barrier between stages", [] { return attention_backward({1, 100, 64, 1, 16}); }},
    {"attention, backward: one place for two stages' lse", [] { return attention_backward({1, 100, 64, 1, 16}); }},
    {"attention, backward: results over rows that are still on their way", [] { return attention_backward({1, 20, 128, 1, 32, kHalf, {30}}); }},
    {"attention, backward, plain: P is read before all have written it", [] { return attention_backward({1, 40, 40, 1, 16, DType::f32}); }},
    {"attention, tiled: results over queries that are still on their way", [] { return attention({1, 20, 300, 1, 32, kHalf, {0}}); }},
};

struct Outcome { Tensors results; std::string reports; };
Outcome observe(int bug, const std::function<Tensors()>& op) {
    const OnDevice emulated(Device::emu);
    emu::Collect collected;
    the_bug = bug;
    Outcome o;
    for (const Tensor& t : op()) o.results.push_back(t.to(Device::cpu));
    the_bug = 0;
    for (const emu::Report& r : collected.reports) o.reports += r.kind + ": " + r.text + "\n";
    return o;
}

}

TEST_CASE("bugs: one fault in a kernel is reported, or shows in its result; none without") {
    int reported = 0, shown = 0;
    for (size_t i = 0; i < kFaults.size(); i++) {
        const Fault& f = kFaults[i];
        const Outcome right = observe(0, f.op), wrong = observe(int(i) + 1, f.op);
        EXPECT_MESSAGE(right.reports.empty(), "without a fault (", f.what, "): ", right.reports);
        bool differs = false;
        for (size_t t = 0; t < right.results.size(); t++) differs |= !same_bits(right.results[t], wrong.results[t]);
        EXPECT_MESSAGE((differs || !wrong.reports.empty()), "BUG ", i + 1, " goes unnoticed: ", f.what);
        reported += !wrong.reports.empty(), shown += wrong.reports.empty() && differs;
        if (std::getenv("MERV_TEST_VERBOSE")) std::printf("  %2zu %-72s %s\n", i + 1, f.what.c_str(), wrong.reports.empty() ? "a wrong result" : wrong.reports.substr(0, wrong.reports.find('\n')).c_str());
    }
    std::printf("  %zu faults in kernels/cuda: %d reported, %d seen in the result alone\n", kFaults.size(), reported, shown);
}
