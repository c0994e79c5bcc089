// The settings of a MERV folder and of its parts, read from the JSON files that the reference, timm and Hugging Face write.
// Reading is strict: a wrong type, an unknown choice or sizes that contradict each other are Error(Exit::bad_weights) with
// the file, the key, the value and what is allowed. null means absent; keys that are not read are named once with -v.
#pragma once
#include <string>
#include <vector>

namespace merv {

// arch_specifier taken apart: [no-align+] avg|3davg [+frame{k}] + linear|gelu-mlp|fused-gelu-mlp
struct Arch {
    enum class Resampler { avg2d, avg3d };
    enum class Mapping { linear, gelu_mlp, fused_gelu_mlp };
    bool no_align = false;
    Resampler resampler = Resampler::avg3d;
    int temporal_factor = 1;                    // frames in per frame out, 3davg only
    Mapping mapping = Mapping::linear;
};
Arch parse_arch(const std::string& specifier, const std::string& where);

struct MervConfig {
    std::string model_id, arch_specifier, feature_fusion, llm_backbone_id, image_resize_strategy;
    std::vector<std::string> video_backbone_ids;
    std::vector<int> num_frames, image_size;    // one per backbone
    int llm_max_length = 2048;
    int projector_token_length = 64;            // per frame; a square
    int visual_feature_length = 1024;           // of the whole clip: projector_token_length x frames after the resampler
    Arch arch;
    std::string raw;                            // the file as it was, for saving again with every key it has
    std::string path;                           // for messages

    int most_frames() const;                    // frames decoded per clip; backbone i sees every (most_frames / num_frames[i])-th
    int grid() const;                           // side of the pooled grid: sqrt(projector_token_length)
};
MervConfig read_merv_config(const std::string& path);
MervConfig parse_merv_config(const std::string& text, const std::string& path);

// encoders/<dinov2 or siglip>: a timm ViT known by name, its model_args applied
struct TimmConfig {
    std::string architecture;                   // without the tag
    int image = 224, patch = 16, width = 768, depth = 12, heads = 12, hidden = 3072;     // image: native size, the file's position grid
    double eps = 1e-6, init_values = 0;         // init_values 0: no LayerScale
    int reg_tokens = 0;
    bool class_token = true, no_embed_class = false, qkv_bias = true;
    std::string global_pool = "token", act = "gelu";    // act is timm's name: gelu, gelu_tanh, quick_gelu
    std::string raw;
};
TimmConfig read_timm_config(const std::string& folder);     // config.json, or open_clip_config.json
TimmConfig parse_timm_config(const std::string& text, const std::string& path);

// encoders/<vivit>; defaults are transformers 4.44.2's
struct VivitConfig {
    int image = 224, frames = 32, tubelet[3] = {2, 16, 16};     // tubelet: frames, rows, columns
    int width = 768, layers = 12, heads = 12, mlp = 3072;
    double eps = 1e-6;
    std::string act = "gelu_fast";
    bool qkv_bias = true;
    std::string raw;
};
VivitConfig read_vivit_config(const std::string& folder);
VivitConfig parse_vivit_config(const std::string& text, const std::string& path);

// encoders/<languagebind>, its vision_config; defaults are those of LanguageBind's CLIPVisionConfig
struct LanguageBindConfig {
    int width = 768, mlp = 3072, layers = 12, heads = 12, image = 224, patch = 32;
    std::string act = "quick_gelu";
    double eps = 1e-5;
    int num_frames = 1;                         // frames that attend to each other, whatever the length of the clip
    bool add_time_attn = false;
    std::string raw;
};
LanguageBindConfig read_languagebind_config(const std::string& folder);
LanguageBindConfig parse_languagebind_config(const std::string& text, const std::string& path);

// llm/
struct LlamaConfig {
    int vocab = 0, width = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, mlp = 0, max_positions = 2048;
    double eps = 1e-6, theta = 10000;
    std::string rope_type = "default";          // default, linear, llama3
    double rope_factor = 1, low_freq_factor = 1, high_freq_factor = 4;
    int original_max_positions = 0;
    std::vector<float> rope_divisors;           // of each frequency, instead of a rope_type (GGUF); empty: none
    bool tied = false, qkv_bias = false, o_bias = false;
    int bos = -1, pad = -1;                     // -1: not said, the tokenizer decides
    std::vector<int> eos;                       // generation stops at any of them; empty: not said
    std::string raw;
};
LlamaConfig read_llama_config(const std::string& folder);   // config.json; ids from generation_config.json first
LlamaConfig parse_llama_config(const std::string& text, const std::string& path, const std::string& generation = "{}", const std::string& generation_path = "");

// Backbone i of a MERV folder against its encoder's own config: grids, frames and visual_feature_length must agree.
void require_fit(const MervConfig&, size_t i, const TimmConfig&);
void require_fit(const MervConfig&, size_t i, const VivitConfig&);
void require_fit(const MervConfig&, size_t i, const LanguageBindConfig&);

}
