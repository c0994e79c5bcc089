#include "models/vit.h"
#include <algorithm>
#include <cmath>
#include "kernels/elementwise.h"

namespace merv {

nn::Act parse_act(const std::string& name) {
    if (name == "gelu") return nn::Act::gelu;
    if (name == "gelu_fast" || name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_tanh") return nn::Act::gelu_tanh;
    if (name == "quick_gelu") return nn::Act::quick_gelu;
    if (name == "silu" || name == "swish") return nn::Act::silu;
    fail(Exit::bad_weights, "activation '", name, "' is unknown; known are gelu, gelu_fast, gelu_new, gelu_pytorch_tanh, gelu_tanh, quick_gelu, silu");
}

VitConfig VitConfig::from(const TimmConfig& t, int image) {
    VitConfig c;
    c.image = image, c.patch = t.patch, c.position_grid = t.image / t.patch;
    c.width = t.width, c.depth = t.depth, c.heads = t.heads, c.mlp = t.hidden, c.eps = t.eps, c.act = parse_act(t.act);
    c.class_token = t.class_token, c.registers = t.reg_tokens, c.layer_scale = t.init_values != 0, c.qkv_bias = t.qkv_bias;
    c.attention_pool = t.global_pool == "map";
    c.position_for_prefix = !t.no_embed_class && c.prefix() > 0;
    return c;
}
VitConfig VitConfig::from(const LanguageBindConfig& l, int image) {
    VitConfig c;
    c.names = Names::clip;
    c.image = image, c.patch = l.patch, c.position_grid = l.image / l.patch;
    c.width = l.width, c.depth = l.layers, c.heads = l.heads, c.mlp = l.mlp, c.eps = l.eps, c.act = parse_act(l.act);
    c.patch_bias = false, c.pre_norm = true, c.position_for_prefix = true;
    c.temporal_frames = l.add_time_attn ? l.num_frames : 0;
    return c;
}

VitAttention::VitAttention(const VitConfig& c) : out(c.width, c.width), heads(c.heads) {
    if (c.names == VitConfig::Names::timm) qkv = nn::Linear(c.width, 3 * c.width, c.qkv_bias);
    else q = nn::Linear(c.width, c.width), k = nn::Linear(c.width, c.width), v = nn::Linear(c.width, c.width);
}

Tensor VitAttention::operator()(const Tensor& x, const nn::Layout& sequences, const nn::LinearExtras& extras) const {
    const int64_t C = x.dim(-1);
    nn::AttentionArgs a{.queries = sequences, .keys = sequences, .heads = heads, .kv_heads = heads, .head_dim = C / heads};
    if (qkv) {
        a.q = a.k = a.v = qkv(x);                                       // (F, N, 3C), read in place
        a.k_column = C, a.v_column = 2 * C;
    } else {
        a.q = q(x), a.k = k(x), a.v = v(x);                             // (F, N, C) each
    }
    return out(nn::attention(a).reshape(x.shape()), extras);            // (F, N, C)
}

VitBlock::VitBlock(const VitConfig& c)
    : norm1(c.width, c.eps), norm2(c.width, c.eps), attention(c), fc1(c.width, c.mlp), fc2(c.mlp, c.width), act(c.act),
      timm(c.names == VitConfig::Names::timm) {
    if (c.layer_scale) gamma1 = Tensor::declare({c.width}), gamma2 = Tensor::declare({c.width});
    if (c.temporal_frames) {
        temporal_embedding = Tensor::declare({1, c.temporal_frames, c.width});
        temporal_norm = nn::LayerNorm(c.width, c.eps), temporal_attention = VitAttention(c);
    }
}

Tensor VitBlock::operator()(const Tensor& in) const {
    Tensor x = in;                                                      // (F, N, C)
    const int64_t F = x.dim(0), N = x.dim(1);
    if (temporal_embedding) {
        const int64_t T = temporal_embedding.dim(1);                    // consecutive groups of T frames; each has positions 0..T-1
        CHECK(F % T == 0, "LanguageBind: ", F, " frames in groups of ", T);
        if (T > 1) x = nn::add_rows(x, temporal_embedding, N);          // stays in the residual stream
        x = temporal_attention(temporal_norm(x), nn::Layout::across_frames(F / T, T, N), {.residual = x});
    }
    x = attention(norm1(x), nn::Layout::contiguous(F, N), {.scale = gamma1, .residual = x});
    return fc2(fc1(norm2(x), {.act = act}), {.scale = gamma2, .residual = x});
}

Vit::Vit(const VitConfig& c)
    : config(c), norm(c.width, c.eps), blocks(size_t(c.depth)) {
    const bool timm = c.names == VitConfig::Names::timm;
    patch_embed.weight = Tensor::declare({c.width, 3, c.patch, c.patch});
    if (c.patch_bias) patch_embed.bias = Tensor::declare({c.width});
    if (c.class_token) cls_token = Tensor::declare(timm ? Shape{1, 1, c.width} : Shape{c.width});
    if (c.registers) reg_token = Tensor::declare({1, c.registers, c.width});
    const int64_t positions = int64_t(c.position_grid) * c.position_grid + (c.position_for_prefix ? c.prefix() : 0);
    pos_embed = Tensor::declare(timm ? Shape{1, positions, c.width} : Shape{positions, c.width});
    if (c.pre_norm) pre_norm = nn::LayerNorm(c.width, c.eps);
    for (VitBlock& b : blocks) b = VitBlock(c);
    if (c.attention_pool)
        attn_pool = {Tensor::declare({1, 1, c.width}), {c.width, c.width}, {c.width, 2 * c.width}, {c.width, c.width}, {c.width, c.mlp}, {c.mlp, c.width}, {c.width, c.eps}};
}

void Vit::prepare() { positions_ = resample_positions(pos_embed, config.position_for_prefix ? config.prefix() : 0, config.position_grid, config.grid()); }

Tensor Vit::tokens(const nn::Pixels& frames, int depth) const {
    CHECK(frames.values.dim(2) == config.image && frames.values.dim(3) == config.image, "vit: frames ", frames.values, " for an image size of ", config.image);
    const Tensor positions = pos_embed.needs_grad() ? resample_positions(pos_embed, config.position_for_prefix ? config.prefix() : 0, config.position_grid, config.grid()) : positions_;
    Tensor x = nn::patchify(frames, config.patch);                      // (F, P, 3pp)
    x = nn::linear(x, patch_embed.weight.reshape({config.width, x.dim(2)}), patch_embed.bias);     // (F, P, C)
    if (!config.position_for_prefix) x = nn::add_rows(x, positions);
    if (config.registers) x = nn::prepend_tokens(x, reg_token);
    if (config.class_token) x = nn::prepend_tokens(x, cls_token.reshape({1, config.width}));       // (F, prefix + P, C)
    if (config.position_for_prefix) x = nn::add_rows(x, positions);
    if (config.pre_norm) x = pre_norm(x);
    for (int i = 0; i < depth; i++) x = nn::run_unit(x, [block = &blocks[size_t(i)]](const Tensor& h) { return (*block)(h); });
    return x;
}
Tensor Vit::features(const nn::Pixels& frames) const { return nn::drop_tokens(tokens(frames, config.depth - 1), config.prefix()); }

bool Vit::uses(const std::string& p) const {
    const std::string last = (config.names == VitConfig::Names::timm ? "blocks." : "encoder.layers.") + std::to_string(config.depth - 1) + ".";
    return !p.starts_with(last) && !p.starts_with("attn_pool.") && !p.starts_with("norm.") && !p.starts_with("post_layernorm.");
}

namespace {

// One axis of the resampling, as torch's aten/native/cpu/UpSampleKernel.cpp computes its weights, float arithmetic as there.
struct Taps { int begin; std::vector<float> weights; };
std::vector<Taps> resample_taps(int grid, int side) {
    const float scale = float(grid) / float(side), support = scale >= 1 ? 2 * scale : 2.0f, inverse = scale >= 1 ? 1 / scale : 1.0f;
    std::vector<Taps> taps;
    for (int i = 0; i < side; i++) {
        const float center = scale * (float(i) + 0.5f);
        const int begin = std::max(int(center - support + 0.5f), 0), end = std::min(int(center + support + 0.5f), grid);
        Taps t{begin, {}};
        float total = 0;
        for (int j = begin; j < end; j++) {
            const float x = std::fabs((float(j) - center + 0.5f) * inverse), a = -0.5f;
            t.weights.push_back(x < 1 ? ((a + 2) * x - (a + 3)) * x * x + 1 : x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0);
            total += t.weights.back();
        }
        for (float& w : t.weights) w /= total;
        taps.push_back(std::move(t));
    }
    return taps;
}

// to[o][i][c] += sum of weight(i, j) from[o][j][c] over the taps j of i; transposed, to[o][j][c] += weight(i, j) from[o][i][c]
std::vector<float> resample_axis(const std::vector<float>& from, const std::vector<Taps>& taps, int64_t outer, int64_t grid, int64_t C, bool transposed) {
    const int64_t side = int64_t(taps.size()), to_n = transposed ? grid : side, from_n = transposed ? side : grid;
    std::vector<float> to(size_t(outer * to_n * C), 0.0f);
    for (int64_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < side; i++)
            for (size_t t = 0; t < taps[size_t(i)].weights.size(); t++) {
                const int64_t j = taps[size_t(i)].begin + int64_t(t);
                const float w = taps[size_t(i)].weights[t], *x = &from[size_t((o * from_n + (transposed ? i : j)) * C)];
                float* y = &to[size_t((o * to_n + (transposed ? j : i)) * C)];
                for (int64_t c = 0; c < C; c++) y[c] += w * x[c];
            }
    return to;
}

}

Tensor resample_positions(const Tensor& table, int prefix, int grid, int side) {
    const int64_t C = table.dim(-1), kept = prefix * C;
    CHECK(table.rows() == prefix + int64_t(grid) * grid, "resample_positions: table ", table, " for a grid of ", grid);
    if (grid == side) return table.reshape({table.rows(), C});
    const std::vector<Taps> taps = resample_taps(grid, side);
    const std::vector<float> all = to_floats(table);
    const std::vector<float> rows = resample_axis({all.begin() + kept, all.end()}, taps, grid, grid, C, false);       // along x, then along y, in f32
    std::vector<float> out = resample_axis(rows, taps, 1, grid, side * C, false);
    out.insert(out.begin(), all.begin(), all.begin() + kept);
    return record("resample_positions", from_floats(out, {prefix + int64_t(side) * side, C}, table.dtype()), {&table}, [=](const Tensor& dy) {
        const std::vector<float> d = to_floats(dy);
        const std::vector<float> columns = resample_axis({d.begin() + kept, d.end()}, taps, 1, grid, side * C, true);
        const std::vector<float> dx = resample_axis(columns, taps, grid, grid, C, true);
        std::vector<float> all(d.begin(), d.begin() + kept);
        all.insert(all.end(), dx.begin(), dx.end());
        const Tensor sum = nn::grad_buffer(table);
        kernels::add({.y = sum, .a = sum, .b = from_floats(all, sum.shape())});
    });
}

}
