#include "models/vivit.h"
#include "models/vit.h"

namespace merv {

VivitLayer::VivitLayer(const VivitConfig& c)
    : before(c.width, c.eps), after(c.width, c.eps), query(c.width, c.width, c.qkv_bias), key(c.width, c.width, c.qkv_bias),
      value(c.width, c.width, c.qkv_bias), out(c.width, c.width), fc1(c.width, c.mlp), fc2(c.mlp, c.width), heads(c.heads), act(parse_act(c.act)) {}

Tensor VivitLayer::operator()(const Tensor& x) const {
    const nn::Layout clips = nn::Layout::contiguous(x.dim(0), x.dim(1));
    const Tensor n = before(x);                                         // (B, N, C)
    const Tensor o = nn::attention({.q = query(n), .k = key(n), .v = value(n), .queries = clips, .keys = clips, .heads = heads, .kv_heads = heads, .head_dim = x.dim(2) / heads});
    const Tensor h = out(o.reshape(x.shape()), {.residual = x});        // (B, N, C)
    return fc2(fc1(after(h), {.act = act}), {.residual = h});           // (B, N, C)
}

Vivit::Vivit(const VivitConfig& c) : config(c), layers(size_t(c.layers)), norm(c.width, c.eps) {
    const int64_t patches = int64_t(c.frames / c.tubelet[0]) * (c.image / c.tubelet[1]) * (c.image / c.tubelet[2]);
    cls_token = Tensor::declare({1, 1, c.width}), positions = Tensor::declare({1, 1 + patches, c.width});
    tubelet_embed.weight = Tensor::declare({c.width, 3, c.tubelet[0], c.tubelet[1], c.tubelet[2]}), tubelet_embed.bias = Tensor::declare({c.width});
    for (VivitLayer& l : layers) l = VivitLayer(c);
}

Tensor Vivit::tokens(const nn::Pixels& frames) const {
    const int64_t F = frames.values.dim(0), B = F / config.frames;
    CHECK(F == B * config.frames && frames.values.dim(2) == config.image && config.tubelet[1] == config.tubelet[2],
          "vivit: frames ", frames.values, " for clips of ", config.frames, " frames of ", config.image);
    Tensor x = nn::patchify(frames, config.tubelet[1], config.tubelet[0]);                          // (B T/t, YX, 3tpp)
    x = nn::linear(x, tubelet_embed.weight.reshape({config.width, x.dim(2)}), tubelet_embed.bias);  // (B T/t, YX, C)
    x = nn::prepend_tokens(x.reshape({B, x.dim(0) / B * x.dim(1), config.width}), cls_token);       // (B, 1 + P, C)
    x = nn::add_rows(x, positions);
    for (const VivitLayer& l : layers) x = nn::run_unit(x, [&l](const Tensor& h) { return l(h); });
    return norm(x);                                                                                 // (B, 1 + P, C)
}
Tensor Vivit::features(const nn::Pixels& frames) const {
    const int64_t times = config.frames / config.tubelet[0], side = config.image / config.tubelet[1];
    return nn::drop_tokens(tokens(frames), 1).reshape({times, side * side, config.width});
}

}
