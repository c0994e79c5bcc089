// Small models with the weights of tests/golden/vectors: the reference implementations' random ones, with their outputs.
#pragma once
#include "tests/compare.h"
#include "models/merv.h"
#include "weights/safetensors.h"

namespace merv::test {

// A vector file, its tensors taken by name.
struct Vectors {
    std::shared_ptr<SafeTensors> file;
    explicit Vectors(const std::string& name) : file(SafeTensors::open(golden("vectors/" + name + ".safetensors"))) {}
    Tensor operator[](const std::string& name) const { return file->tensor(name); }
    // `rename` maps the module's names to the file's tensors.
    template <class M, class Rename> void bind(M& module, Rename rename) const {
        nn::for_each_parameter(module, [&](const std::string& name, Tensor& t) {
            const Tensor values = rename(name);
            if (values) t.bind(values.reshape(t.shape()));
        });
    }
    template <class M> void bind_all(M& module, const std::string& prefix = "") const {
        bind(module, [&](const std::string& name) { return (*this)[prefix + name]; });
    }
};

// (B, C, T, H, W) -> (B T, C, H, W)
inline Tensor frames_first(const Tensor& x) {
    const int64_t B = x.dim(0), C = x.dim(1), T = x.dim(2), plane = x.dim(3) * x.dim(4);
    Tensor y({B * T, C, x.dim(3), x.dim(4)});
    for (int64_t b = 0; b < B; b++)
        for (int64_t t = 0; t < T; t++)
            for (int64_t c = 0; c < C; c++)
                std::copy_n(x.data<float>() + ((b * C + c) * T + t) * plane, plane, y.data<float>() + ((b * T + t) * C + c) * plane);
    return y;
}

inline Vit dinov2_tiny(const Vectors& v) {
    Vit vit(VitConfig{.image = 12, .patch = 4, .position_grid = 5, .width = 32, .depth = 3, .heads = 4, .mlp = 128, .layer_scale = true, .registers = 4});
    // facebook's names: registers, and the class token's position kept apart from it (encoders.md 1)
    v.bind(vit, [&](const std::string& name) -> Tensor {
        if (name == "reg_token") return v["register_tokens"];
        if (name == "cls_token") return nn::add_rows(v["cls_token"], v["pos_embed"].reshape({26, 32}).slice(0, 1));
        if (name == "pos_embed") return v["pos_embed"].reshape({26, 32}).slice(1, 26);
        return v[name];
    });
    vit.prepare();
    return vit;
}
inline Vit siglip_tiny(const Vectors& v) {
    Vit vit(VitConfig{.image = 16, .patch = 4, .position_grid = 4, .width = 32, .depth = 3, .heads = 4, .mlp = 128, .class_token = false, .attention_pool = true});
    v.bind_all(vit);
    vit.prepare();
    return vit;
}
inline Vit clip_tiny(const Vectors& v) {
    Vit vit(VitConfig{.names = VitConfig::Names::clip, .image = 16, .patch = 4, .position_grid = 4, .width = 64, .depth = 3, .heads = 4, .mlp = 256, .eps = 1e-5,
                      .act = nn::Act::quick_gelu, .patch_bias = false, .pre_norm = true, .position_for_prefix = true});
    const std::vector<std::pair<std::string, std::string>> names = {
        {"embeddings.class_embedding", "class_embedding"}, {"embeddings.position_embedding.weight", "positional_embedding"}, {"embeddings.patch_embedding", "conv1"},
        {"pre_layrnorm", "ln_pre"}, {"post_layernorm", "ln_post"}, {"encoder.layers", "transformer.resblocks"}, {"layer_norm", "ln_"}, {"self_attn.out_proj", "attn.out_proj"},
        {"mlp.fc1", "mlp.c_fc"}, {"mlp.fc2", "mlp.c_proj"}};
    v.bind(vit, [&](std::string name) {
        for (const auto& [ours, theirs] : names) if (const size_t at = name.find(ours); at != std::string::npos) name.replace(at, ours.size(), theirs);
        if (const size_t at = name.find("self_attn."); at != std::string::npos) {      // q, k, v are stacked
            const int64_t part = name[at + 10] == 'q' ? 0 : name[at + 10] == 'k' ? 1 : 2;
            return v["visual." + name.substr(0, at) + (name.ends_with("weight") ? "attn.in_proj_weight" : "attn.in_proj_bias")].slice(64 * part, 64 * (part + 1));
        }
        return v["visual." + name];
    });
    vit.prepare();
    return vit;
}
inline Vit languagebind_tiny(const Vectors& v) {
    Vit vit(VitConfig{.names = VitConfig::Names::clip, .image = 56, .patch = 14, .position_grid = 4, .width = 32, .depth = 3, .heads = 4, .mlp = 64, .eps = 1e-5,
                      .patch_bias = false, .pre_norm = true, .position_for_prefix = true, .temporal_frames = 8});
    v.bind_all(vit, "vision_model.");
    vit.prepare();
    return vit;
}
inline Vivit vivit_tiny(const Vectors& v) {
    VivitConfig c;
    c.image = 48, c.frames = 8, c.width = 32, c.layers = 2, c.heads = 4, c.mlp = 64;
    Vivit vivit(c);
    v.bind_all(vivit, "vivit.");
    return vivit;
}
inline Llama llama_tiny(const Vectors& v) {
    LlamaConfig c;
    c.vocab = 50, c.width = 64, c.layers = 2, c.heads = 4, c.kv_heads = 2, c.head_dim = 16, c.mlp = 176, c.eps = 1e-5, c.tied = true;
    Llama llm(c);
    v.bind_all(llm);
    return llm;
}

struct AveragingProjector { const char* file; Arch::Mapping mapping; int frames, side; };
inline constexpr AveragingProjector kAveragingProjectors[] = {
    {"projector_2davg_linear", Arch::Mapping::linear, 4, 4},
    {"projector_2davg_up", Arch::Mapping::linear, 4, 8},        // 6x6 -> 8x8
    {"projector_2davg_gelu-mlp", Arch::Mapping::gelu_mlp, 4, 4},
    {"projector_2davg_fused-gelu-mlp", Arch::Mapping::fused_gelu_mlp, 4, 4},
    {"projector_3davg", Arch::Mapping::linear, 3, 4}};          // 4 frames -> 3: bins overlap in time

}
