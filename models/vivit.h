// ViViT-B/16x2 (Arnab et al. 2021, model 1: joint space-time attention), as transformers' VivitModel without pooler. All
// layers run and the final norm is applied; the class token is dropped afterwards.
#pragma once
#include "models/config.h"
#include "nn/layers.h"
#include "nn/unit.h"

namespace merv {

struct VivitLayer {
    nn::LayerNorm before, after;
    nn::Linear query, key, value, out, fc1, fc2;
    int heads = 0;
    nn::Act act = nn::Act::gelu_tanh;
    VivitLayer() = default;
    VivitLayer(const VivitConfig&);
    Tensor operator()(const Tensor& x) const;   // (B, N, C) -> (B, N, C)
    void visit(auto&& f) {
        f("attention.attention.query", query), f("attention.attention.key", key), f("attention.attention.value", value);
        f("attention.output.dense", out), f("intermediate.dense", fc1), f("output.dense", fc2);
        f("layernorm_before", before), f("layernorm_after", after);
    }
};

struct Vivit {
    VivitConfig config;
    Tensor cls_token, positions;                // (1, 1, C), (1, 1 + P, C)
    nn::Linear tubelet_embed;                   // (C, 3, t, p, p)
    std::vector<VivitLayer> layers;
    nn::LayerNorm norm;

    Vivit() = default;
    explicit Vivit(const VivitConfig&);
    Tensor tokens(const nn::Pixels& frames) const;      // (B T, 3, S, S) -> (B, 1 + P, C), P = T/t (S/p)^2, time-major
    Tensor features(const nn::Pixels& frames) const;    // one clip: (T, 3, S, S) -> (T/t, (S/p)^2, C)
    void visit(auto&& f) {
        f("embeddings.cls_token", cls_token), f("embeddings.position_embeddings", positions);
        f("embeddings.patch_embeddings.projection", tubelet_embed), f("encoder.layer", layers), f("layernorm", norm);
    }
};

}
