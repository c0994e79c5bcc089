#include "models/random.h"
#include <cmath>
#include "core/json.h"
#include "core/rng.h"

namespace merv {
namespace {

// Sizes of the named models. What a settings file does not say is what the reading side takes for it (models/config.h).
struct Sizes {
    const char* name;
    int fusion;                                 // width of the fusion's query
    Json merv, languagebind, dinov2, vivit, siglip, llm;
};

const std::vector<std::string> kBackbones = {"languagebind-video-noclass", "dinov2-video-all-tokens", "vivit-google-b-all-no-cls-16frames", "siglip-vit-b16-224px-all-no-cls"};

std::vector<Sizes> all_sizes() {
    return {
        {.name = "merv-base", .fusion = 3072,
         .merv = {{"projector_token_length", 64}, {"visual_feature_length", 1024}},
         .languagebind = {{"hidden_size", 1024}, {"intermediate_size", 4096}, {"num_hidden_layers", 24}, {"num_attention_heads", 16}},
         .dinov2 = {{"img_size", 224}},         // as MERV makes it; the hub's file has the grid of 518 pixels
         .vivit = {{"hidden_size", 768}, {"num_attention_heads", 12}, {"num_hidden_layers", 12}, {"intermediate_size", 3072}},
         .siglip = {{"img_size", 224}},
         .llm = {{"vocab_size", 32064}, {"hidden_size", 4096}, {"num_hidden_layers", 32}, {"num_attention_heads", 32}, {"num_key_value_heads", 32},
                 {"intermediate_size", 11008}, {"max_position_embeddings", 4096}, {"pad_token_id", 32000}}},
        {.name = "tiny", .fusion = 48,
         .merv = {{"projector_token_length", 16}, {"visual_feature_length", 256}},
         .languagebind = {{"hidden_size", 64}, {"intermediate_size", 128}, {"num_hidden_layers", 3}, {"num_attention_heads", 2}},
         .dinov2 = {{"img_size", 224}, {"embed_dim", 72}, {"depth", 3}, {"num_heads", 3}, {"mlp_ratio", 2}},
         .vivit = {{"hidden_size", 32}, {"num_attention_heads", 2}, {"num_hidden_layers", 2}, {"intermediate_size", 64}},
         .siglip = {{"img_size", 224}, {"embed_dim", 80}, {"depth", 3}, {"num_heads", 2}, {"mlp_ratio", 2}},
         .llm = {{"vocab_size", 576}, {"hidden_size", 96}, {"num_hidden_layers", 2}, {"num_attention_heads", 4}, {"num_key_value_heads", 2},
                 {"intermediate_size", 160}, {"max_position_embeddings", 2048}, {"pad_token_id", 512}}},
    };
}

// Of a convolution or a linear layer: inputs that one output sums.
int64_t fan_in(const Shape& s) { return s.rank() < 2 || s[0] == 0 ? 1 : s.numel() / s[0]; }

}

int64_t ModelPart::parameters() const {
    int64_t n = 0;
    for (const auto& t : tensors) n += t.second.numel();
    return n;
}

std::vector<ModelPart> model_parts(Merv& m) {
    std::vector<ModelPart> parts;
    auto add = [&](const std::string& name, const std::string& folder, auto& module, const std::string& prefix) {
        ModelPart& p = parts.emplace_back(ModelPart{name, folder, {}});
        nn::for_each_parameter(module, [&](const std::string& parameter, Tensor& t) { p.tensors.emplace_back(parameter, t); }, prefix);
    };
    for (Encoder& e : m.encoders) std::visit([&](auto& model) { add(e.name, "encoders/" + e.id, model, published_prefix(e)); }, e.model);
    for (size_t i = 0; i < m.projectors.size(); i++) add("projectors." + std::to_string(i), "", m.projectors[i], "projectors." + std::to_string(i) + ".");
    if (m.fusion.query) add("feature_fusion", "", m.fusion, "feature_fusion.");
    add("llm", "llm", m.llm, "");
    return parts;
}

std::vector<std::string> preset_names() {
    std::vector<std::string> names;
    for (const Sizes& s : all_sizes()) names.push_back(s.name);
    return names;
}

Preset preset(const std::string& name, DType dtype) {
    std::string choices;
    for (const Sizes& s : all_sizes()) {
        choices += concat(choices.empty() ? "" : ", ", s.name);
        if (name != s.name) continue;
        auto with = [](Json base, const Json& sizes) {
            base.update(sizes);
            return base;
        };
        const Json frames = {16, 16, 32, 16};
        const Json merv = with({{"model_id", name}, {"arch_specifier", "no-align+3davg+linear"}, {"feature_fusion", "cross_attention_avg_lq"},
                                {"video_backbone_ids", kBackbones}, {"llm_backbone_id", "llama2-7b-pure"}, {"image_resize_strategy", "resize-naive"},
                                {"llm_max_length", 2048}, {"num_frames", frames}}, s.merv);
        const Json languagebind = {{"model_type", "LanguageBindVideo"},
                                   {"vision_config", with({{"image_size", 224}, {"patch_size", 14}, {"hidden_act", "gelu"}, {"layer_norm_eps", 1e-5},
                                                           {"add_time_attn", true}, {"num_frames", 8}}, s.languagebind)}};
        const Json dinov2 = {{"architecture", "vit_large_patch14_reg4_dinov2"}, {"num_classes", 0}, {"model_args", s.dinov2}};
        const Json siglip = {{"architecture", "vit_base_patch16_siglip_224"}, {"num_classes", 0}, {"model_args", s.siglip}};
        const Json vivit = with({{"architectures", {"VivitModel"}}, {"model_type", "vivit"}, {"num_frames", 32}, {"image_size", 224}, {"tubelet_size", {2, 16, 16}},
                                 {"hidden_act", "gelu_fast"}, {"layer_norm_eps", 1e-6}, {"qkv_bias", true}}, s.vivit);
        const Json llm = with({{"architectures", {"LlamaForCausalLM"}}, {"model_type", "llama"}, {"hidden_act", "silu"}, {"rms_norm_eps", 1e-5}, {"rope_theta", 10000.0},
                               {"tie_word_embeddings", false}, {"bos_token_id", 1}, {"eos_token_id", 2}, {"torch_dtype", dtype == DType::bf16 ? "bfloat16" : "float32"}}, s.llm);
        const Json generation = {{"bos_token_id", 1}, {"eos_token_id", 2}, {"pad_token_id", s.llm.at("pad_token_id")}};

        Preset p;
        auto file = [&](const std::string& path, const Json& json) -> const std::string& { return p.texts.emplace_back(path, json.dump(2) + "\n").second; };
        auto encoder = [&](size_t i) { return concat("encoders/", kBackbones[i], "/config.json"); };
        p.parts.encoders.emplace_back(parse_languagebind_config(file(encoder(0), languagebind), encoder(0)));
        p.parts.encoders.emplace_back(parse_timm_config(file(encoder(1), dinov2), encoder(1)));
        p.parts.encoders.emplace_back(parse_vivit_config(file(encoder(2), vivit), encoder(2)));
        p.parts.encoders.emplace_back(parse_timm_config(file(encoder(3), siglip), encoder(3)));
        const std::string ids = file("llm/generation_config.json", generation);
        p.parts.llm = parse_llama_config(file("llm/config.json", llm), "llm/config.json", ids, "llm/generation_config.json");
        p.parts.config = parse_merv_config(file("config.json", merv), "config.json");       // last: a folder without it is not a model
        p.parts.fusion_width = s.fusion;
        return p;
    }
    fail(Exit::usage, "--config '", brief(name), "' is unknown; the choices are ", choices);
}

Spread initial_spread(const std::string& name, const Shape& shape) {
    auto ends = [&](const char* tail) { return name.ends_with(tail); };
    auto holds = [&](const char* part) { return name.find(part) != std::string::npos; };
    auto evenly = [](double radius) { return Spread{0, float(radius)}; };
    auto deviation = [&](double std) { return evenly(std::sqrt(3.0) * std); };
    const double in = double(fan_in(shape));
    if (name.starts_with("feature_fusion.")) {  // torch's MultiheadAttention; Q and the projections Xavier, out_proj as any Linear
        if (ends("bias")) return {};
        return evenly(ends("out_proj.weight") ? 1 / std::sqrt(in) : std::sqrt(6 / (in + double(shape[0]))));
    }
    if (name.starts_with("projectors.")) return evenly(ends("bias") ? 0.02 : 1 / std::sqrt(in));
    if (ends("gamma")) return {0.1f, 0};
    if (holds("norm") && ends("weight")) return {1, 0};         // "pre_layrnorm" too
    if (ends("bias")) return deviation(0.02);
    for (const char* table : {"token", "pos_embed", "position_embedding", "class_embedding", "temporal_embedding", "latent"})
        if (holds(table) && !holds("embed_tokens")) return deviation(0.02);
    return deviation(1 / std::sqrt(in));
}

void fill_random(uint64_t seed, const std::string& folder, const std::string& name, Spread spread, DType dtype, int64_t first, int64_t count, void* out) {
    CHECK(first % 4 == 0, "fill_random: begins at ", first);
    const Rng rng(seed, "weights/" + folder + "/" + name);
    const float scale = spread.radius * 0x1p-31f;
    with_float_type(dtype, [&]<class T>() {
        T* y = static_cast<T*>(out);
        #pragma omp parallel for if (count > 1 << 14)
        for (int64_t i = 0; i < count / 4; i++) {
            const auto b = rng.bits(uint64_t(first / 4 + i));
            for (int64_t j = 0; j < 4; j++) y[4 * i + j] = T(spread.centre + scale * float(int32_t(b[size_t(j)])));
        }
        for (int64_t i = count / 4 * 4; i < count; i++) y[i] = T(spread.centre + scale * float(int32_t(rng.bits(uint64_t(first + i) / 4)[size_t(i % 4)])));
    });
}

}
