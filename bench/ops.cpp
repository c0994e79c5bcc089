#include <set>
#include "bench/cases.h"
#include "core/rng.h"
#include "data/transform.h"
#include "kernels/norm.h"
#include "nn/functional.h"

namespace merv::bench {
namespace {

Tensor random(Shape s, DType type = DType::f32) {
    const Rng rng(7, "bench");
    std::vector<float> v(size_t(s.numel()));
    for (size_t i = 0; i < v.size(); i++) v[i] = float(rng.uniform(i) - 0.5);
    return from_floats(v, s, type);
}
double product(std::initializer_list<int64_t> v) {
    double p = 1;
    for (int64_t x : v) p *= double(x);
    return p;
}

using Dims = std::vector<int64_t>;
std::string joined(const Dims& dims) {
    std::string s;
    for (int64_t d : dims) s += concat(s.empty() ? "" : "x", d);
    return s;
}

// What linear layers do: y = x w^T, dx = dz w, dw += dz^T x
enum class Pass { forward, input, weight };
Case linear(const std::string& name, const Dims& d, DType type, Pass pass) {
    const int64_t M = d[0], N = d[1], K = d[2], size = size_of(type);
    const double weight_bytes = pass == Pass::weight ? 8 : double(size);        // f32 sums, read and written
    return {"ops", name, joined(d), type, double(size * M) * double(K + N) + weight_bytes * product({N, K}), 2 * product({M, N, K}), [=]() -> std::function<void()> {
        const Tensor x = random({M, K}, type), w = random({N, K}, type), y = random({M, N}, type), dw = zeros({pass == Pass::weight ? N : 0, K});
        switch (pass) {
            case Pass::forward: return [=] { kernels::linear({.y = y, .x = x, .w = w}); };
            case Pass::input: return [=] { kernels::linear({.dx = x, .dz = y, .w = w}); };
            case Pass::weight: break;
        }
        return [=] { kernels::linear({.dw = dw, .dz = y, .x = x}); };
    }};
}

// Sequences x tokens x heads x head dimension, from packed q, k, v
Case attention(const std::string& name, const Dims& d, DType type, nn::Mask mask, bool backward) {
    const int64_t S = d[0], N = d[1], H = d[2], D = d[3];
    const double pairs = mask == nn::Mask::causal ? double(N) * double(N + 1) / 2 : double(N) * double(N);
    return {"ops", name, joined(d), type, size_of(type) * (backward ? 8.0 : 4.0) * product({S, N, H, D}), (backward ? 10.0 : 4.0) * double(S) * pairs * double(H * D), [=]() -> std::function<void()> {
        auto rows = [=](const Tensor& t, int64_t column) { return kernels::Rows{t, column * H * D, 1, N * t.dim(-1), 0, t.dim(-1)}; };
        const Tensor qkv = random({S * N, 3 * H * D}, type), o({S * N, H * D}, type);
        const kernels::AttentionFwd fwd{.o = rows(o, 0), .lse = Tensor({S, H, N}), .q = rows(qkv, 0), .k = rows(qkv, 1), .v = rows(qkv, 2), .S = S, .Nq = N, .Nk = N,
                                        .H = H, .Hkv = H, .D = D, .scale = 0.1f, .mask = mask};
        if (!backward) return [=] { kernels::attention(fwd); };
        kernels::attention(fwd);
        const Tensor d = random(qkv.shape(), type), dout = random(o.shape(), type);
        return [=] { kernels::attention({.dq = rows(d, 0), .dk = rows(d, 1), .dv = rows(d, 2), .dout = rows(dout, 0), .fwd = fwd}); };
    }};
}

Case norm(const std::string& name, const Dims& d, DType type, bool centre, bool backward) {
    const int64_t M = d[0], C = d[1];
    return {"ops", name, joined(d), type, size_of(type) * (backward ? 3.0 : 2.0) * product({M, C}), 0, [=]() -> std::function<void()> {
        const Tensor x = random({M, C}, type), y = random({M, C}, type), dx(x.shape(), type), w = random({C}), dw = zeros({C}), db = zeros({C});
        if (centre && backward) return [=] { kernels::layernorm({.dx = dx, .dw = dw, .db = db, .dy = y, .x = x, .w = w}); };
        if (centre) return [=] { kernels::layernorm({.y = y, .x = x, .w = w, .b = w}); };
        if (backward) return [=] { kernels::rmsnorm({.dx = dx, .dw = dw, .dy = y, .x = x, .w = w}); };
        return [=] { kernels::rmsnorm({.y = y, .x = x, .w = w}); };
    }};
}

Case adaptive_pool(const std::string& name, const Dims& d, DType type) {        // frames x side x side x width to 8 x 8
    return {"ops", name, joined(d), type, size_of(type) * (product({d[0], d[1], d[2], d[3]}) + product({d[0], 64, d[3]})), 0, [=] {
        const Tensor x = random({1, d[0], d[1], d[2], d[3]}, type);
        return [=] { nn::adaptive_pool(x, d[0], 8, 8); };
    }};
}
Case patchify(const std::string& name, const Dims& d, DType type) {             // frames x side x side, u8, in patches of d[3]
    return {"ops", name, joined(d), type, (1.0 + size_of(type)) * 3 * product({d[0], d[1], d[2]}), 0, [=] {
        const nn::Pixels x{zeros({d[0], 3, d[1], d[2]}, DType::u8), {0.5f, 0.5f, 0.5f}, {0.5f, 0.5f, 0.5f}, type};
        return [=] { nn::patchify(x, d[3]); };
    }};
}
Case rope(const std::string& name, const Dims& d, DType type) {                 // tokens x heads x head dimension
    return {"ops", name, joined(d), type, 2.0 * size_of(type) * product({d[0], d[1], d[2]}), 0, [=] {
        const Tensor x = random({d[0], d[1], d[2]}, type), table = random({d[0], d[2] / 2});
        return [=] { nn::rope(x, table, table, 0); };
    }};
}
Case resize(const std::string& name, const Dims& d, DType) {                    // frames x height x width to 224 x 224, Pillow's bicubic
    return {"ops", name, joined(d), DType::u8, 3 * (product({d[0], d[1], d[2]}) + product({d[0], 224, 224})), 0, [=] {
        const Tensor x = zeros({d[0], d[1], d[2], 3}, DType::u8);
        return [=] { prepare(x, 224, Filter::bicubic, Resize::naive, {}); };
    }};
}

struct Op {
    std::string name;
    std::function<Case(const std::string&, const Dims&, DType)> make;
    std::vector<Dims> shapes;                   // all of one length
};
const std::vector<Op>& ops() {
    using namespace std::placeholders;
    static const std::vector<Dims> products = {
        {4176, 3072, 1024}, {4176, 4096, 1024}, {4176, 1024, 4096},             // DINOv2: qkv, fc1, fc2 of 16 frames
        {261, 3072, 1024}, {3136, 768, 768},                                    // one frame; SigLIP's and ViViT's projections
        {1100, 4096, 4096}, {1100, 22016, 4096}, {1100, 4096, 11008},           // LLaMA-2 7B's prefill
    };
    static const std::vector<Dims> few = {{1, 4096, 4096}, {1, 11008, 4096}, {1, 4096, 11008}, {2, 4096, 4096}, {4, 4096, 4096}, {8, 4096, 4096}, {16, 4096, 4096}};
    auto all = products;
    all.insert(all.end(), few.begin(), few.end());
    static const std::vector<Op> table = {
        {"linear", std::bind(linear, _1, _2, _3, Pass::forward), all},
        {"linear-dx", std::bind(linear, _1, _2, _3, Pass::input), products},
        {"linear-dw", std::bind(linear, _1, _2, _3, Pass::weight), products},
        {"attention", std::bind(attention, _1, _2, _3, nn::Mask::none, false), {{16, 261, 16, 64}, {1, 3137, 12, 64}}},        // DINOv2, ViViT
        {"attention-causal", std::bind(attention, _1, _2, _3, nn::Mask::causal, false), {{1, 1100, 32, 128}}},
        {"attention-bwd", std::bind(attention, _1, _2, _3, nn::Mask::none, true), {{16, 261, 16, 64}}},
        {"attention-causal-bwd", std::bind(attention, _1, _2, _3, nn::Mask::causal, true), {{1, 1100, 32, 128}}},
        {"layernorm", std::bind(norm, _1, _2, _3, true, false), {{4176, 1024}}},
        {"layernorm-bwd", std::bind(norm, _1, _2, _3, true, true), {{4176, 1024}}},
        {"rmsnorm", std::bind(norm, _1, _2, _3, false, false), {{1100, 4096}}},
        {"rmsnorm-bwd", std::bind(norm, _1, _2, _3, false, true), {{1100, 4096}}},
        {"rope", rope, {{1100, 32, 128}}},
        {"adaptive-pool", adaptive_pool, {{16, 16, 16, 1024}, {16, 14, 14, 768}}},
        {"patchify", patchify, {{16, 224, 224, 14}}},
        {"resize", resize, {{32, 720, 1280}}},
    };
    return table;
}

Dims parse_shape(const std::string& text, const Op& op) {
    Dims d;
    size_t at = 0;
    while (at < text.size()) {
        size_t digits = at;
        while (digits < text.size() && text[digits] >= '0' && text[digits] <= '9') digits++;
        const std::string number = text.substr(at, digits - at);
        if (number.empty() || number.size() > 9 || std::stoll(number) == 0 || (digits < text.size() && text[digits] != 'x')) break;
        d.push_back(std::stoll(number));
        at = digits + (digits < text.size());
    }
    if (at < text.size() || d.size() != op.shapes[0].size()) fail(Exit::usage, "--shape '", text, "': ", op.name, " takes ", op.shapes[0].size(), " sizes, such as ", joined(op.shapes[0]));
    return d;
}

}

std::vector<Case> op_cases(const std::string& name, const std::string& shape, std::optional<DType> dtype) {
    std::vector<Case> cases;
    std::string known;
    if (name.empty() && !shape.empty()) fail(Exit::usage, "--shape belongs to one op: merv-bench ops OP --shape ...");
    for (const Op& op : ops()) {
        known += " " + op.name;
        if (!name.empty() && name != op.name) continue;
        const std::vector<Dims> shapes = shape.empty() ? op.shapes : std::vector<Dims>{parse_shape(shape, op)};
        std::vector<DType> types{DType::f32, DType::bf16};
        if (dtype) types = {*dtype};
        if (op.name == "resize") types = {DType::u8};
        for (const Dims& d : shapes) for (DType t : types) cases.push_back(op.make(op.name, d, t));
    }
    if (cases.empty()) fail(Exit::usage, "no op '", name, "' in the table; there are", known);
    return cases;
}

}
