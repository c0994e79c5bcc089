#include "bench/kernels.h"
#include <algorithm>
#include <cstdio>
#include <set>
#include <nlohmann/json.hpp>
#include "core/rng.h"
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

namespace merv::bench {
namespace {

using namespace kernels;
using Json = nlohmann::ordered_json;

// Values; none where a launch is only noted: large tensors would take longer to fill than all else.
Tensor values(Shape s, DType type = DType::f32) {
    if (s.numel() > 1 << 23 && current_device() != Device::cuda) return Tensor(s, type);
    if (s.numel() > 1 << 20 && current_device() == Device::cuda) {      // a card is timed, and its power depends on the values
        const Tensor t(s, type);
        fill_random({.y = t, .rng = Rng(7, "kernels"), .kind = FillRandom::Kind::uniform, .a = -0.5f, .b = 0.5f});
        return t;
    }
    const Rng rng(7, "kernels");
    std::vector<float> v(size_t(s.numel()));
    for (size_t i = 0; i < v.size(); i++) v[i] = float(rng.uniform(i) - 0.5);
    return from_floats(v, s, type);
}
Tensor indices(int64_t n, int64_t below) {      // all different if below = n
    std::vector<int32_t> v(static_cast<size_t>(n));
    for (size_t i = 0; i < v.size(); i++) v[i] = int32_t((int64_t(i) * 7919 + 3) % below);
    const Tensor on_host = from_ints(v);
    return on_host.to(current_device());
}
std::string joined(const Dims& dims) {
    std::string s;
    for (int64_t d : dims) s += concat(s.empty() ? "" : "x", d);
    return s;
}

// Sequences x queries x keys x heads x key/value heads x head dimension; q, k, v in one packed projection where they are as many
AttentionFwd attend(const Dims& d, DType t, Mask mask = Mask::none, bool lse = false) {
    const int64_t S = d[0], Nq = d[1], Nk = d[2], H = d[3], Hkv = d[4], D = d[5];
    AttentionFwd a{.S = S, .Nq = Nq, .Nk = Nk, .H = H, .Hkv = Hkv, .D = D, .scale = 0.125f, .mask = mask};
    auto rows = [&](const Tensor& in, int64_t first, int64_t N, int64_t width) { return kernels::Rows{.t = in, .offset = first, .outer_stride = N * width, .token_stride = width}; };
    if (Nq == Nk && H == Hkv) {
        const Tensor packed = values({S, Nq, 3 * H * D}, t);
        for (int i = 0; i < 3; i++) (i == 0 ? a.q : i == 1 ? a.k : a.v) = rows(packed, i * H * D, Nq, 3 * H * D);
    } else a.q = rows(values({S, Nq, H * D}, t), 0, Nq, H * D), a.k = rows(values({S, Nk, Hkv * D}, t), 0, Nk, Hkv * D), a.v = rows(values({S, Nk, Hkv * D}, t), 0, Nk, Hkv * D);
    a.o = rows(Tensor({S, Nq, H * D}, t), 0, Nq, H * D);
    if (lse) a.lse = values({S, H, Nq});
    return a;
}

std::vector<KernelCase> all_cases() {
    std::vector<KernelCase> all;
    constexpr DType f32 = DType::f32, bf16 = DType::bf16;
    auto add = [&](const char* op, DType t, Dims shape, Dims counted, std::function<std::function<void()>(const Dims&)> prepare) { all.push_back({op, t, shape, counted, std::move(prepare)}); };

    // M x N x K. Blocks make 128 x 128 (bf16) or 64 x 64 outputs, and go through all of K.
    for (const auto& [t, shape, counted] : {std::tuple{bf16, Dims{4176, 3072, 1024}, Dims{256, 256, 1024}}, {bf16, {1100, 4096, 11008}, {128, 128, 11008}}, {f32, {4176, 3072, 1024}, {64, 128, 1024}}}) {
        add("linear", t, shape, counted, [t](const Dims& d) -> std::function<void()> {
            return [y = Tensor({d[0], d[1]}, t), x = values({d[0], d[2]}, t), w = values({d[1], d[2]}, t), b = values({d[1]}, t)] { linear(LinearFwd{.y = y, .x = x, .w = w, .bias = b}); };
        });
    }
    for (const auto& [shape, counted] : {std::pair{Dims{1, 4096, 4096}, Dims{1, 256, 4096}}, {{1, 4096, 11008}, {1, 256, 11008}}}) add("linear", bf16, shape, counted, [](const Dims& d) -> std::function<void()> {
        return [y = Tensor({d[0], d[1]}, bf16), x = values({d[0], d[2]}, bf16), w = values({d[1], d[2]}, bf16)] { linear(LinearFwd{.y = y, .x = x, .w = w}); };
    });
    for (const auto& [t, counted] : {std::pair{bf16, Dims{128, 3072, 128}}, {f32, {64, 3072, 64}}})
        add("linear dx", t, {4176, 3072, 1024}, counted, [t](const Dims& d) -> std::function<void()> {
            return [dx = Tensor({d[0], d[2]}, t), dz = values({d[0], d[1]}, t), w = values({d[1], d[2]}, t)] { linear(LinearInputBwd{.dx = dx, .dz = dz, .w = w}); };
        });
    for (const auto& [t, counted] : {std::pair{bf16, Dims{4176, 128, 128}}, {f32, {4176, 64, 64}}})
        add("linear dw", t, {4176, 3072, 1024}, counted, [t](const Dims& d) -> std::function<void()> {
            return [dw = values({d[1], d[2]}), dz = values({d[0], d[1]}, t), x = values({d[0], d[2]}, t)] { linear(LinearWeightBwd{.dw = dw, .dz = dz, .x = x}); };
        });

    for (DType t : {bf16, f32}) {
        // M x C
        add("layernorm", t, {4176, 1024}, {128, 1024}, [t](const Dims& d) -> std::function<void()> {
            const Tensor x = values({d[0], d[1]}, t), w = values({d[1]}, t);
            return [y = Tensor(x.shape(), t), x, w] { layernorm({.y = y, .x = x, .w = w, .b = w}); };
        });
        add("rmsnorm", t, {1100, 4096}, {32, 4096}, [t](const Dims& d) -> std::function<void()> {
            const Tensor x = values({d[0], d[1]}, t), w = values({d[1]}, t);
            return [y = Tensor(x.shape(), t), x, w] { rmsnorm({.y = y, .x = x, .w = w}); };
        });
        add("cross_entropy", t, {1600, 32000}, {8, 32000}, [t](const Dims& d) -> std::function<void()> {
            return [loss = Tensor({d[0]}), x = values({d[0], d[1]}, t), l = indices(d[0], d[1])] { cross_entropy(CrossEntropyFwd{.loss = loss, .x = x, .labels = l}); };
        });
        add("cross_entropy backward", t, {1600, 32000}, {8, 32000}, [t](const Dims& d) -> std::function<void()> {
            const Tensor x = values({d[0], d[1]}, t);
            return [dx = Tensor(x.shape(), t), x, l = indices(d[0], d[1])] { cross_entropy(CrossEntropyBwd{.dx = dx, .x = x, .labels = l}); };
        });
        // elements
        add("add", t, {1100 * 4096}, {1 << 16}, [t](const Dims& d) -> std::function<void()> { return [y = Tensor({d[0]}, t), a = values({d[0]}, t), b = values({d[0]}, t)] { kernels::add({y, a, b}); }; });
        add("convert", t, {1100 * 4096}, {1 << 16}, [t](const Dims& d) -> std::function<void()> {
            return [y = Tensor({d[0]}, t), x = values({d[0]}, t == f32 ? bf16 : f32)] { convert({y, x}); };
        });
        add("chunk_sums", t, {1 << 26}, {1 << 18}, [t](const Dims& d) -> std::function<void()> {
            return [sums = Tensor({(d[0] + kSumChunk - 1) / kSumChunk}), x = values({d[0]}, t)] { chunk_sums({.sums = sums, .x = x, .squares = true}); };
        });
    }
    constexpr DType t = bf16;
    add("linear epilogue backward", t, {4176, 4096}, {64, 256}, [t](const Dims& d) -> std::function<void()> {
        const Tensor dy = values({d[0], d[1]}, t);
        return [dz = Tensor(dy.shape(), t), db = values({d[1]}), dy, z = values(dy.shape(), t)] { linear(LinearEpilogueBwd{.dz = dz, .dbias = db, .dy = dy, .z = z, .act = Act::gelu}); };
    });
    add("linear refill", t, {1224, 11008}, {16, 11008}, [t](const Dims& d) -> std::function<void()> {
        const Tensor z = values({d[0], d[1]}, t);
        return [y = Tensor(z.shape(), t), z, gate = values(z.shape(), t)] { linear_refill({.y = y, .z = z, .gate = gate, .act = Act::silu}); };
    });
    add("layernorm backward", t, {4176, 1024}, {4176, 1024}, [t](const Dims& d) -> std::function<void()> {
        const Tensor x = values({d[0], d[1]}, t), dw = zeros({d[1]}), db = zeros({d[1]});
        return [dx = Tensor(x.shape(), t), dw, db, x, dy = values(x.shape(), t), w = values({d[1]}, t)] { layernorm({.dx = dx, .dw = dw, .db = db, .dy = dy, .x = x, .w = w}); };
    });
    add("rmsnorm backward", t, {1100, 4096}, {1100, 4096}, [t](const Dims& d) -> std::function<void()> {
        const Tensor x = values({d[0], d[1]}, t), dw = zeros({d[1]});
        return [dx = Tensor(x.shape(), t), dw, x, dy = values(x.shape(), t), w = values({d[1]}, t)] { rmsnorm({.dx = dx, .dw = dw, .dy = dy, .x = x, .w = w}); };
    });
    // M x C, a residual branch with it
    add("layernorm residual", t, {4176, 1024}, {128, 1024}, [t](const Dims& d) -> std::function<void()> {
        const Tensor x = values({d[0], d[1]}, t), w = values({d[1]}, t);
        return [y = Tensor(x.shape(), t), sum = Tensor(x.shape(), t), x, w, r = values(x.shape(), t)] { layernorm({.y = y, .x = x, .w = w, .b = w, .residual = r, .sum = sum}); };
    });
    add("rmsnorm residual", t, {1224, 4096}, {32, 4096}, [t](const Dims& d) -> std::function<void()> {
        const Tensor x = values({d[0], d[1]}, t), w = values({d[1]}, t);
        return [y = Tensor(x.shape(), t), sum = Tensor(x.shape(), t), x, w, r = values(x.shape(), t)] { rmsnorm({.y = y, .x = x, .w = w, .residual = r, .sum = sum}); };
    });
    add("layernorm residual backward", t, {4176, 1024}, {4176, 1024}, [t](const Dims& d) -> std::function<void()> {
        const Tensor x = values({d[0], d[1]}, t), dw = zeros({d[1]}), db = zeros({d[1]});
        return [dx = Tensor(x.shape(), t), dw, db, x, dy = values(x.shape(), t), w = values({d[1]}, t), dsum = values(x.shape(), t)] { layernorm({.dx = dx, .dw = dw, .db = db, .dy = dy, .x = x, .w = w, .dsum = dsum}); };
    });
    add("rmsnorm residual backward", t, {1224, 4096}, {1224, 4096}, [t](const Dims& d) -> std::function<void()> {
        const Tensor x = values({d[0], d[1]}, t), dw = zeros({d[1]});
        return [dx = Tensor(x.shape(), t), dw, x, dy = values(x.shape(), t), w = values({d[1]}, t), dsum = values(x.shape(), t)] { rmsnorm({.dx = dx, .dw = dw, .dy = dy, .x = x, .w = w, .dsum = dsum}); };
    });
    add("softmax_rows", t, {4096, 1024}, {64, 1024}, [t](const Dims& d) -> std::function<void()> {
        return [y = Tensor({d[0], d[1]}, t), x = values({d[0], d[1]}, t)] { softmax_rows({.y = y, .x = x}); };
    });
    add("softmax_rows backward", t, {4096, 1024}, {64, 1024}, [t](const Dims& d) -> std::function<void()> {
        const Tensor y = values({d[0], d[1]}, t);
        return [dx = Tensor(y.shape(), t), dy = values(y.shape(), t), y] { softmax_rows({.dx = dx, .dy = dy, .y = y}); };
    });

    // rows x heads x head dimension
    add("rope", t, {1100, 32, 128}, {32, 32, 128}, [t](const Dims& d) -> std::function<void()> {
        const Tensor x = values({d[0], d[1], d[2]}, t), table = values({d[0], d[2] / 2});
        return [y = Tensor(x.shape(), t), x, table] { rope({.y = y, .x = x, .cos = table, .sin = table}); };
    });
    // tokens x heads x key/value heads x head dimension
    for (const auto& [shape, counted] : {std::pair{Dims{1224, 32, 32, 128}, Dims{32, 32, 32, 128}}, {{1, 32, 32, 128}, {1, 32, 32, 128}}})
        add("rope append", t, shape, counted, [t](const Dims& d) -> std::function<void()> {
            const Tensor q = values({d[0], d[1], d[3]}, t), k = values({d[0], d[2], d[3]}, t), table = values({d[0], d[3] / 2});
            return [q_out = Tensor(q.shape(), t), k_out = Tensor(k.shape(), t), v_out = Tensor(k.shape(), t), q, k, v = values(k.shape(), t), table] {
                rope({.q_out = q_out, .k_out = k_out, .v_out = v_out, .q = q, .k = k, .v = v, .cos = table, .sin = table});
            };
        });

    // attend()'s dimensions: LLaMA, ViViT, frames of 261, 257 and 196 patches
    auto attention_case = [&](const char* op, DType type, Dims shape, Dims counted, Mask mask = Mask::none) {
        add(op, type, shape, counted, [type, mask](const Dims& d) -> std::function<void()> { return [a = attend(d, type, mask)] { attention(a); }; });
    };
    attention_case("attention causal", t, {1, 1224, 1224, 32, 32, 128}, {1, 1224, 1224, 1, 1, 128}, Mask::causal);
    attention_case("attention", t, {1, 3137, 3137, 12, 12, 64}, {1, 64, 3137, 2, 2, 64});
    attention_case("attention", t, {16, 261, 261, 16, 16, 64}, {1, 261, 261, 2, 2, 64});
    attention_case("attention", t, {16, 257, 257, 16, 16, 64}, {1, 257, 257, 2, 2, 64});
    attention_case("attention", t, {16, 196, 196, 12, 12, 64}, {1, 196, 196, 2, 2, 64});
    attention_case("attention", f32, {16, 257, 257, 16, 16, 64}, {1, 257, 257, 1, 1, 64});
    attention_case("attention decode", t, {1, 1, 1300, 32, 32, 128}, {1, 1, 1300, 4, 4, 128});
    attention_case("attention decode", t, {1, 1, 1300, 32, 8, 128}, {1, 1, 1300, 4, 1, 128});
    // positions x frames x heads x head dimension: a sequence is one position's frames
    add("attention frames", t, {257, 8, 16, 64}, {8, 8, 16, 64}, [t](const Dims& d) -> std::function<void()> {
        const int64_t S = d[0], N = d[1], C = d[2] * d[3];
        const Tensor packed = values({N, S, 3 * C}, t);
        auto rows = [&](const Tensor& in, int64_t first, int64_t width) { return kernels::Rows{.t = in, .offset = first, .inner = S, .outer_stride = N * S * width, .inner_stride = width, .token_stride = S * width}; };
        return [a = AttentionFwd{.o = rows(Tensor({N, S, C}, t), 0, C), .q = rows(packed, 0, 3 * C), .k = rows(packed, C, 3 * C), .v = rows(packed, 2 * C, 3 * C), .S = S, .Nq = N, .Nk = N, .H = d[2], .Hkv = d[2], .D = d[3], .scale = 0.125f}] { attention(a); };
    });
    auto attention_backward = [&](DType type, Dims shape, Dims counted, Mask mask = Mask::none) {
        add(mask == Mask::causal ? "attention backward causal" : "attention backward", type, shape, counted, [type, mask](const Dims& d) -> std::function<void()> {
            AttentionBwd b;
            b.fwd = attend(d, type, mask, true);
            b.dout = b.fwd.o, b.fwd.o.t = values(b.fwd.o.t.shape(), type), b.dout.t = values(b.fwd.o.t.shape(), type);
            b.dq = b.fwd.q, b.dk = b.fwd.k, b.dv = b.fwd.v;
            b.dq.t = b.dk.t = b.dv.t = Tensor(b.fwd.q.t.shape(), type);
            return [b] { attention(b); };
        });
    };
    attention_backward(t, {1, 1224, 1224, 32, 32, 128}, {1, 1224, 1224, 1, 1, 128}, Mask::causal);
    attention_backward(t, {16, 257, 257, 16, 16, 64}, {1, 257, 257, 1, 1, 64});
    attention_backward(f32, {16, 196, 196, 12, 12, 64}, {1, 196, 196, 1, 1, 64});

    // frames x side x side x C, to 8 x 8
    for (const Dims& shape : {Dims{16, 16, 16, 1024}, {16, 14, 14, 768}}) {
        const Dims counted{1, shape[1], shape[2], 256};
        add("adaptive_pool", t, shape, counted, [t](const Dims& d) -> std::function<void()> {
            return [y = Tensor({1, d[0], 8, 8, d[3]}, t), x = values({1, d[0], d[1], d[2], d[3]}, t)] { adaptive_pool(AdaptivePool{y, x}); };
        });
        add("adaptive_pool backward", t, shape, counted, [t](const Dims& d) -> std::function<void()> {
            return [dy = values({1, d[0], 8, 8, d[3]}, t), dx = Tensor({1, d[0], d[1], d[2], d[3]}, t)] { adaptive_pool(AdaptivePoolBwd{dx, dy}); };
        });
    }
    // samples x tokens x C
    add("token_mean", t, {16, 1024, 1024}, {1, 1024, 256}, [t](const Dims& d) -> std::function<void()> {
        return [y = Tensor({d[0], d[2]}, t), x = values({d[0], d[1], d[2]}, t)] { token_mean(TokenMean{y, x}); };
    });
    add("token_mean backward", t, {16, 1024, 1024}, {1, 128, 1024}, [t](const Dims& d) -> std::function<void()> {
        return [dx = Tensor({d[0], d[1], d[2]}, t), dy = values({d[0], d[2]}, t)] { token_mean(TokenMeanBwd{dx, dy}); };
    });
    add("mix", t, {16, 1024, 4096}, {1, 32, 4096}, [t](const Dims& d) -> std::function<void()> {
        std::vector<Tensor> x;
        for (int e = 0; e < 4; e++) x.push_back(values({d[0], d[1], d[2]}, t));
        return [y = Tensor(x[0].shape(), t), x, w = values({d[0], 4})] { mix({.y = y, .x = x, .weights = w}); };
    });
    add("mix backward", t, {16, 1024, 4096}, {1, 256, 4096}, [t](const Dims& d) -> std::function<void()> {
        std::vector<Tensor> x, dx;
        for (int e = 0; e < 4; e++) x.push_back(values({d[0], d[1], d[2]}, t)), dx.push_back(Tensor(x[0].shape(), t));
        return [dx, dw = Tensor({d[0], 4}), dy = values(x[0].shape(), t), x, w = values({d[0], 4})] { mix({.dx = dx, .dweights = dw, .dy = dy, .x = x, .weights = w}); };
    });
    // frames x side x side, patches of d[3]
    add("patchify", t, {16, 224, 224, 14}, {2, 224, 224, 14}, [t](const Dims& d) -> std::function<void()> {
        const int64_t p = d[3];
        return [y = Tensor({d[0], d[1] / p * (d[2] / p), 3 * p * p}, t), x = zeros({d[0], 3, d[1], d[2]}, DType::u8), p] { patchify({.y = y, .x = x, .patch = p, .mean = {.5f, .5f, .5f}, .std = {.5f, .5f, .5f}}); };
    });
    // rows x C
    add("gather_rows", t, {1224, 4096}, {32, 4096}, [t](const Dims& d) -> std::function<void()> {
        return [y = Tensor({d[0], d[1]}, t), x = values({d[0], d[1]}, t), i = indices(d[0], d[0])] { gather_rows(GatherRows{.y = y, .x = x, .index = i}); };
    });
    add("gather_rows backward", t, {1224, 4096}, {256, 2048}, [t](const Dims& d) -> std::function<void()> {
        return [dx = values({d[0], d[1]}), dy = values({d[0], d[1]}, t), i = indices(d[0], d[0])] { gather_rows(GatherRowsBwd{.dx = dx, .dy = dy, .index = i}); };
    });
    add("scatter_rows", t, {1224, 4096}, {32, 4096}, [t](const Dims& d) -> std::function<void()> {
        return [y = Tensor({d[0], d[1]}, t), x = values({d[0], d[1]}, t), i = indices(d[0], d[0])] { scatter_rows({.y = y, .x = x, .index = i}); };
    });
    add("add_rows", t, {4176, 1024}, {1044, 256}, [t](const Dims& d) -> std::function<void()> {       // 261 rows in turn
        const Tensor x = values({d[0], d[1]}, t);
        return [y = Tensor(x.shape(), t), x, table = values({261, d[1]}, t)] { add_rows({.y = y, .x = x, .table = table}); };
    });
    add("add_rows backward", t, {4176, 1024}, {4176, 256}, [t](const Dims& d) -> std::function<void()> {
        return [dtable = values({261, d[1]}), dy = values({d[0], d[1]}, t)] { add_rows(AddRowsBwd{.dtable = dtable, .dy = dy}); };
    });
    add("prepend_tokens", t, {16, 256, 1024}, {2, 256, 256}, [t](const Dims& d) -> std::function<void()> {
        return [y = Tensor({d[0], 5 + d[1], d[2]}, t), x = values({d[0], d[1], d[2]}, t), tokens = values({5, d[2]}, t)] { prepend_tokens({.y = y, .x = x, .tokens = tokens}); };
    });
    add("prepend_tokens backward", t, {16, 256, 1024}, {2, 256, 256}, [t](const Dims& d) -> std::function<void()> {
        return [dx = Tensor({d[0], d[1], d[2]}, t), dy = values({d[0], 5 + d[1], d[2]}, t)] { prepend_tokens({.dx = dx, .dy = dy}); };
    });
    add("adamw", bf16, {1 << 24}, {1 << 14}, [](const Dims& d) -> std::function<void()> {
        return [p = values({d[0]}), m = values({d[0]}), v = zeros({d[0]}), half = Tensor({d[0]}, bf16), g = values({d[0]})] { adamw({.master = p, .m = m, .v = v, .param = half, .grad = g}); };
    });
    for (DType type : {bf16, f32})
        add("random", type, {1 << 24}, {1 << 14}, [type](const Dims& d) -> std::function<void()> { return [y = Tensor({d[0]}, type)] { fill_random({.y = y, .rng = Rng(7, "kernels")}); }; });
    // sums of 4096 squares: one block, of a model of 64 million parameters
    add("clip factor", f32, {1 << 14}, {1 << 14}, [](const Dims& d) -> std::function<void()> {
        return [factor = Tensor({1}), sums = values({d[0]})] { clip_factor({.factor = factor, .sums = sums, .limit = 1}); };
    });
    return all;
}

std::vector<emu::Counters> launches(const KernelCase& c, const Dims& shape, bool dry) {
    struct Counting {
        const emu::Mode before = emulator_mode();
        Counting() { use_emulator(emu::Mode::counted); }
        ~Counting() { use_emulator(before); }
    };
    const OnDevice emulated(Device::emu);
    const Counting mode;
    emu::Count counted;
    counted.dry = dry;
    c.prepare(shape)();
    return counted.launches;
}

}

const std::vector<KernelCase>& kernel_cases() {
    static const std::vector<KernelCase> all = all_cases();
    return all;
}

std::vector<emu::Counters> count(const KernelCase& c) { return launches(c, c.counted, false); }
std::vector<emu::Counters> count_scaled(const KernelCase& c) {
    std::vector<emu::Counters> counted = count(c);
    const std::vector<emu::Counters> full = launches(c, c.shape, true);
    auto differ = [&] {
        if (full.size() != counted.size()) return true;
        for (size_t i = 0; i < full.size(); i++) if (full[i].function != counted[i].function || full[i].threads != counted[i].threads) return true;
        return false;
    };
    if (differ()) fail(Exit::runtime, c.op, " of ", joined(c.counted), " does not run the kernels that ", joined(c.shape), " does");
    for (size_t i = 0; i < full.size(); i++) counted[i] = scaled(counted[i], full[i]);
    return counted;
}

void report_kernels(const KernelReport& r) {
    const std::vector<Compiled> compiled = read_ptxas(r.ptxas);
    if (r.format != "md" && r.format != "json") fail(Exit::usage, "--counters prints -o md or json, not '", r.format, "'");
    Json rows = Json::array();
    std::string known;
    std::vector<std::pair<KernelCase, std::vector<emu::Counters>>> all;
    for (const KernelCase& c : kernel_cases()) {
        if (known.find(c.op + ",") == known.npos) known += " " + c.op + ",";
        if (r.op.empty() || r.op == c.op) all.emplace_back(c, count_scaled(c));
    }
    for (const auto& [c, launches] : all) {
        for (const emu::Counters& k : launches) {
            const emu::Traffic g = k.global(), s = k.shared();
            const std::string kernel = k.kernel(), file = std::string(k.site.file).substr(std::string(k.site.file).rfind('/') + 1);
            Json row{{"op", c.op}, {"file", file}, {"type", name_of(c.dtype)}, {"shape", joined(c.shape)}, {"counted", joined(c.counted)}, {"kernel", kernel}, {"blocks", k.blocks}, {"threads", k.threads}, {"dynamic_shared", k.dynamic_shared},
                     {"work_bytes", k.bytes}, {"work_flops", k.flops}, {"requests", g.requests}, {"sectors", g.sectors}, {"ideal_sectors", g.ideal_sectors}, {"unique_bytes", k.unique_read + k.unique_written},
                     {"wavefronts", s.wavefronts}, {"bank_conflicts", s.bank_conflicts()}, {"mma", k[emu::Counted::mma].requests + k[emu::Counted::wgmma].requests}, {"tensor_flops", k.tensor_flops},
                     {"shuffles", k[emu::Counted::shuffle].requests}, {"special", k[emu::Counted::special].requests}, {"barriers", k[emu::Counted::barrier].requests}};
            for (const Gpu& gpu : gpus()) {
                const Prediction p = predict(gpu, k);
                row["predicted"][gpu.name] = {{"us", p.seconds * 1e6}, {"limiter", p.limiter}};
                if (const auto found = find(compiled, gpu.arch, kernel, file)) {
                    const Occupancy o = occupancy(gpu, *found, k.threads, k.dynamic_shared);
                    row["compiled"][gpu.arch] = {{"registers", found->registers}, {"static_shared", found->shared}, {"spill_bytes", found->spill_stores + found->spill_loads}, {"occupancy", o.share}, {"limiter", o.limiter}};
                }
            }
            rows.push_back(row);
        }
    }
    if (rows.empty()) fail(Exit::usage, "no kernel '", r.op, "'; there are", known.substr(0, known.size() - 1));
    if (!r.op.empty() && r.format == "md")      // one kernel: by line
        for (const KernelCase& c : kernel_cases())
            if (c.op == r.op) {
                std::printf("%s of %s:\n", c.op.c_str(), joined(c.counted).c_str());
                for (const emu::Counters& k : count(c)) std::printf("%s\n", k.text().c_str());
            }
    if (r.format == "json") return std::printf("%s\n", rows.dump(1).c_str()), void();

    if (r.op.empty())
        std::printf(R"(# GPU kernels: counters, resources, predicted times

Made by `make kernel-report` (nvcc for registers, the emulator for the rest; no GPU takes part). docs/emulator.md says how counting works.

* shape: MERV's; counters come from a smaller one of the same kernel and are multiplied by the number of blocks.
* shared memory: bytes of a block, static and dynamic. registers, spills: ptxas', per thread, and bytes of spill stores and loads. **Exact.**
* occupancy: share of the warps an SM can hold, and what limits it, by the formula in bench/gpus.cpp. **Exact**, for what ptxas says.
* requests, sectors: of warps to global memory, and 32-byte sectors of all requests; of ideal: over what their bytes would fill, 1.00 is perfectly
  coalesced. **Exact** for the accesses g++ leaves.
* bytes of Work's: different bytes of global memory touched, over what an ideal kernel moves. **Exact.**
* wavefronts: of shared memory, and the share that are bank conflicts. **Exact**, but wide accesses follow a model (2 and 4 phases).
* mma: instructions; useful: flops of the op over flops issued to tensor cores, the rest is padding of tiles. **Exact.**
* special: instructions of warps that call expf, tanhf, ..; shuffles: likewise. **Exact** as requests are.
* us: a predicted time for %s, the longest of what DRAM, L2, tensor cores, FP32 units, shared memory, L1 and MUFU need at their peaks, each perfectly
  overlapped with the others. **A model**, never compared with a card: no latency, no instruction issue, no launch; a kernel takes longer.

)", [] { std::string all; for (const Gpu& g : gpus()) all += (all.empty() ? "" : " / ") + g.name; return all; }().c_str());
    if (compiled.empty()) std::printf("Registers, spills and occupancy are not known: there is no %s, which `make kernel-report` writes with nvcc.\n\n", r.ptxas.c_str());
    auto text = [](const char* format, auto... v) {
        char cell[128];
        std::snprintf(cell, sizeof cell, format, v...);
        return std::string(cell);
    };
    auto print = [](const std::vector<std::string>& cells) {
        for (const std::string& c : cells) std::printf("| %s ", c.c_str());
        std::printf("|\n");
    };
    const std::vector<std::string> archs = {"sm_80", "sm_90a"};
    std::printf("| kernel | threads | shared memory |");
    for (const std::string& a : archs) std::printf(" registers, %s | spills | occupancy |", a.c_str());
    std::printf("\n|---|---|---|---|---|---|---|---|---|\n");
    std::set<std::string> printed;
    for (const Json& row : rows) {
        const std::string kernel = row.at("file").get<std::string>() + " `" + row.at("kernel").get<std::string>() + "`";
        if (!printed.insert(concat(kernel, row.at("threads").get<int>())).second) continue;
        std::vector<std::string> cells = {kernel, text("%d", row.at("threads").get<int>()), text("%d", row.at("dynamic_shared").get<int>())};
        for (const std::string& a : archs) {
            if (!row.contains("compiled") || !row["compiled"].contains(a)) { cells.insert(cells.end(), {"-", "-", "-"}); continue; }
            const Json& c = row["compiled"][a];
            if (a == archs[0]) cells[2] = text("%d", row.at("dynamic_shared").get<int>() + c["static_shared"].get<int>());
            cells.push_back(text("%d", c["registers"].get<int>()));
            cells.push_back(text("%d", c["spill_bytes"].get<int>()));
            cells.push_back(text("%.0f %%, %s", 100 * c["occupancy"].get<double>(), c["limiter"].get<std::string>().c_str()));
        }
        print(cells);
    }

    std::printf("\n| op | type | shape | kernel | requests | sectors | of ideal | bytes of Work's | wavefronts | conflicts | mma | useful | special | shuffles |");
    for (const Gpu& g : gpus()) std::printf(" %s us |", g.name.c_str());
    std::printf("\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n");
    for (const Json& row : rows) {
        auto number = [&](const char* name) { return row.at(name).get<double>(); };
        auto amount = [&](const char* name) { return text("%.0f", number(name)); };
        auto ratio = [&](const char* format, double scale, const char* of, const char* to) { return number(to) > 0 ? text(format, scale * number(of) / number(to)) : "-"; };
        std::vector<std::string> cells = {row["op"], row["type"], row["shape"], "`" + row["kernel"].get<std::string>() + "`", amount("requests"), amount("sectors"), ratio("%.2f", 1, "sectors", "ideal_sectors"),
                                          ratio("%.2f", 1, "unique_bytes", "work_bytes"), amount("wavefronts"), ratio("%.1f %%", 100, "bank_conflicts", "wavefronts"), amount("mma"),
                                          ratio("%.0f %%", 100, "work_flops", "tensor_flops"), amount("special"), amount("shuffles")};
        for (const auto& [gpu, p] : row["predicted"].items()) cells.push_back(text("%.1f, %s", p["us"].get<double>(), p["limiter"].get<std::string>().c_str()));
        print(cells);
    }
}

}
