// Vision transformer (Dosovitskiy et al. 2021) on single frames. DINOv2 with registers, SigLIP, CLIP and LanguageBind's video
// tower, which adds attention across frames, are configurations of it.
//
//   x = [cls; registers; patches] + positions
//   per block:  (LanguageBind)  x += temporal_embedding[frame];  x += attention_over_frames(LN(x))
//               x += gamma1 attention(LN(x));  x += gamma2 fc2(act(fc1(LN(x))))
//
// The feature MERV uses is the output of the last block but one, patches only and without a final norm.
#pragma once
#include "models/config.h"
#include "nn/layers.h"
#include "nn/unit.h"

namespace merv {

nn::Act parse_act(const std::string& name);     // the names of timm and Hugging Face; Error(Exit::bad_weights) otherwise

struct VitConfig {
    enum class Names { timm, clip };            // how the checkpoint calls its tensors; clip is Hugging Face's CLIPVisionModel
    Names names = Names::timm;
    int image = 224, patch = 14;                // as it runs
    int position_grid = 16;                     // side of the checkpoint's position grid; resampled if the run's differs
    int width = 1024, depth = 24, heads = 16, mlp = 4096;
    double eps = 1e-6;
    nn::Act act = nn::Act::gelu;
    bool class_token = true, patch_bias = true, pre_norm = false, layer_scale = false, attention_pool = false, qkv_bias = true;
    bool position_for_prefix = false;           // the position table has rows for the class token (and registers)
    int registers = 0;
    int temporal_frames = 0;                    // LanguageBind: frames that attend to each other; 0: none

    static VitConfig from(const TimmConfig&, int image);
    static VitConfig from(const LanguageBindConfig&, int image);
    int grid() const { return image / patch; }
    int prefix() const { return int(class_token) + registers; }
};

struct VitAttention {
    nn::Linear qkv;                             // timm: one matrix, q over k over v
    nn::Linear q, k, v;                         // clip: three
    nn::Linear out;
    int heads = 0;
    VitAttention() = default;
    VitAttention(const VitConfig&);
    Tensor operator()(const Tensor& x, const nn::Layout& sequences, const nn::LinearExtras& extras) const;    // (F, N, C) -> (F, N, C)
    void visit(auto&& f) {
        f("qkv", qkv), f("q_proj", q), f("k_proj", k), f("v_proj", v);
        f(qkv ? "proj" : "out_proj", out);
    }
};
struct VitBlock {
    Tensor temporal_embedding;                  // (1, T, C)
    nn::LayerNorm temporal_norm, norm1, norm2;
    VitAttention temporal_attention, attention;
    Tensor gamma1, gamma2;                      // LayerScale: (C)
    nn::Linear fc1, fc2;
    nn::Act act = nn::Act::gelu;
    bool timm = true;
    VitBlock() = default;
    VitBlock(const VitConfig&);
    Tensor operator()(const Tensor& x) const;   // (F, N, C) -> (F, N, C)
    void visit(auto&& f) {
        f("temporal_embedding", temporal_embedding), f("temporal_layer_norm1", temporal_norm), f("temporal_attn", temporal_attention);
        f(timm ? "norm1" : "layer_norm1", norm1), f(timm ? "attn" : "self_attn", attention), f("ls1.gamma", gamma1);
        f(timm ? "norm2" : "layer_norm2", norm2), f("mlp.fc1", fc1), f("mlp.fc2", fc2), f("ls2.gamma", gamma2);
    }
};
struct AttentionPool {                          // SigLIP's head: loaded and saved, never run by MERV
    Tensor latent;
    nn::Linear q, kv, proj, fc1, fc2;
    nn::LayerNorm norm;
    void visit(auto&& f) { f("latent", latent), f("q", q), f("kv", kv), f("proj", proj), f("norm", norm), f("mlp.fc1", fc1), f("mlp.fc2", fc2); }
};

struct Vit {
    VitConfig config;
    nn::Linear patch_embed;                     // (C, 3, p, p)
    Tensor cls_token, reg_token, pos_embed;
    nn::LayerNorm pre_norm, norm;
    std::vector<VitBlock> blocks;
    AttentionPool attn_pool;

    Vit() = default;
    explicit Vit(const VitConfig&);
    void prepare();                             // after loading: the position table at the run's grid, unless it is trained

    Tensor tokens(const nn::Pixels& frames, int depth) const;   // (F, 3, S, S) -> (F, prefix + P, C) after `depth` blocks
    Tensor features(const nn::Pixels& frames) const;            // (F, P, C)
    bool uses(const std::string& parameter) const;              // does features() read this parameter?

    void visit(auto&& f) {
        const bool timm = config.names == VitConfig::Names::timm;
        f(timm ? "cls_token" : "embeddings.class_embedding", cls_token), f("reg_token", reg_token);
        f(timm ? "pos_embed" : "embeddings.position_embedding.weight", pos_embed);
        f(timm ? "patch_embed.proj" : "embeddings.patch_embedding", patch_embed);
        f(timm ? "norm_pre" : "pre_layrnorm", pre_norm);
        f(timm ? "blocks" : "encoder.layers", blocks);
        f(timm ? "norm" : "post_layernorm", norm), f("attn_pool", attn_pool);
    }

  private:
    Tensor positions_;                          // (prefix or 0 + P, C)
};

// The (1, rows, C) position table from a grid x grid checkpoint to side x side, `prefix` leading rows untouched: antialiased
// bicubic with a = -0.5, as timm's resample_abs_pos_embed (torch's interpolate with antialias=True).
Tensor resample_positions(const Tensor& table, int prefix, int grid, int side);

}
