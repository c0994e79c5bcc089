#include "models/config.h"
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <initializer_list>
#include <optional>
#include <set>
#include "core/json.h"
#include "core/log.h"

namespace merv {
namespace {

// Limits of what can be run. Every size is far below them; they keep products of sizes inside 64 bits.
constexpr int kMostWidth = 1 << 16, kMostLayers = 1024, kMostHeads = 1024, kMostMlp = 1 << 20, kMostImage = 4096, kMostFrames = 4096;
constexpr int kMostPositions = 1 << 24, kMostVocab = 1 << 24;

// One JSON object of a file: values by key with their types and ranges checked, and the keys that nobody asked for.
class Fields {
  public:
    Fields(const Json& object, std::string path, std::string inside = "") : object_(object), path_(std::move(path)), inside_(std::move(inside)) {
        if (!object_.is_object()) fail(Exit::bad_weights, path_, inside_.empty() ? ": " : ": " + inside_ + " ", "must be an object {...}");
    }
    const std::string& path() const { return path_; }

    const Json* find(const char* key) {         // null if absent, or null in the file
        read_.insert(key);
        const auto found = object_.find(key);
        return found == object_.end() || found->is_null() ? nullptr : &*found;
    }
    template <class... A> [[noreturn]] void bad(const char* key, const A&... why) {
        const Json* value = find(key);
        fail(Exit::bad_weights, path_, ": ", full(key), value ? concat(" is ", brief(value->dump(), 80), "; ") : " is missing; ", why...);
    }
    int integer(const char* key, int least, int most, std::optional<int> fallback = {}) {
        const Json* v = find(key);
        if (!v && fallback) return *fallback;
        return whole(v, key, least, most, concat("a whole number from ", least, " to ", most, " is expected"));
    }
    double number(const char* key, double least, double most, double fallback) {
        const Json* v = find(key);
        if (!v) return fallback;
        if (!v->is_number() || !(v->get<double>() >= least && v->get<double>() <= most)) bad(key, "a number from ", least, " to ", most, " is expected");
        return v->get<double>();
    }
    bool boolean(const char* key, bool fallback) {
        const Json* v = find(key);
        if (v && !v->is_boolean()) bad(key, "true or false is expected");
        return v ? v->get<bool>() : fallback;
    }
    std::string text(const char* key, std::optional<std::string> fallback = {}) {
        const Json* v = find(key);
        if (!v && fallback) return *fallback;
        if (!v || !v->is_string()) bad(key, "a text is expected");
        return v->get<std::string>();
    }
    // A text out of a list. `later`: choices of the reference that this program does not have yet.
    using Choices = std::vector<std::string>;
    std::string choice(const char* key, const Choices& now, const Choices& later, std::optional<std::string> fallback = {}) {
        const std::string value = text(key, fallback);
        require_choice(key, value, now, later);
        return value;
    }
    void require_choice(const char* key, const std::string& value, const Choices& now, const Choices& later) {
        if (std::find(now.begin(), now.end(), value) != now.end()) return;
        const bool known = std::find(later.begin(), later.end(), value) != later.end();
        std::string list;
        for (const std::string& c : now) list += (list.empty() ? "" : ", ") + c;
        fail(Exit::bad_weights, path_, ": ", full(key), " is \"", brief(value, 80), "\", which is ", known ? "not supported yet" : "unknown",
             "; the choices are ", list);
    }
    // A number or a list of numbers; one number stands for `count` equal ones. With a list, `count` is its length (0: any).
    std::vector<int> integers(const char* key, int least, int most, size_t count, std::optional<int> fallback = {}) {
        const Json* v = find(key);
        if (!v && fallback) return std::vector<int>(count, *fallback);
        const std::string expected = count ? concat("a whole number from ", least, " to ", most, " or a list of ", count, " is expected")
                                           : concat("whole numbers from ", least, " to ", most, " are expected");
        if (!v || !v->is_array()) return std::vector<int>(std::max<size_t>(count, 1), whole(v, key, least, most, expected));
        if (count && v->size() != count) bad(key, expected);
        std::vector<int> all;
        for (const Json& one : *v) all.push_back(whole(&one, key, least, most, expected));
        return all;
    }
    void refuse(const char* key, const Json& only, const char* why) {      // a setting that would change the result
        const Json* v = find(key);
        if (v && *v != only) bad(key, why, " is not supported yet; only ", only.dump(), " is");
    }
    void report_unread() const {
        std::string keys;
        for (const auto& [key, value] : object_.items()) if (!read_.count(key)) keys += (keys.empty() ? "" : ", ") + brief(key, 40);
        if (!keys.empty()) say_verbose(path_, inside_.empty() ? "" : " (" + inside_ + ")", ": not read: ", brief(keys, 1000));
    }

  private:
    std::string full(const char* key) const { return inside_.empty() ? key : inside_ + "." + key; }
    int whole(const Json* v, const char* key, int least, int most, const std::string& expected) {
        if (!v || !v->is_number_integer() || v->get<int64_t>() < least || v->get<int64_t>() > most) bad(key, expected);
        return int(v->get<int64_t>());
    }
    const Json& object_;
    std::string path_, inside_;
    std::set<std::string> read_;
};

void require_heads(Fields& f, const char* key, int width, int heads) {
    if (width % heads != 0) f.bad(key, "it must divide the width, ", width);
    const int d = width / heads;
    if (d % 4 != 0 || d > 128) f.bad(key, "with width ", width, " a head has ", d, " dimensions; a multiple of 4, at most 128, is supported");
}
void require_patch(Fields& f, const char* key, int image, int patch) {
    if (image % patch != 0) f.bad(key, "it must divide the image size, ", image);
}

const std::vector<std::string> kActivations = {"gelu", "gelu_fast", "gelu_new", "gelu_pytorch_tanh", "quick_gelu"};

const std::vector<std::string> kBackbones = {"languagebind-video-noclass", "dinov2-video-all-tokens", "vivit-google-b-all-no-cls-16frames",
                                             "siglip-vit-b16-224px-all-no-cls"};
const std::vector<std::string> kBackbonesLater = {
    "languagebind-video", "languagebind-video-averagetoken", "languagebind-video-classemb", "languagebind-video-classemb-at-first",
    "dinov2-video", "dinov2-video-classemb-at-first", "dinov2-video-all-token-with-cls",
    "vivit-google-b-all-no-cls", "vivit-google-b-cls-token", "vivit-google-b-all-tokens", "vivit-google-b-classemb-at-first-16frames",
    "siglip-vit-b16-224px", "siglip-vit-b16-224px-all-tokens", "siglip-vit-b16-224px-classemb-at-first",
    "hiera-base-video", "hiera-base-plus-video", "hiera-large-video", "hiera-base-video-noft", "hiera-base-plus-video-noft", "hiera-large-video-noft"};
const std::vector<std::string> kFusions = {"cross_attention_avg_lq", "first"};
const std::vector<std::string> kFusionsLater = {"concat", "concat_channel", "concat_channel_ln", "scalar", "query_mlp", "cross_attention_classKV"};
const std::vector<std::string> kLanguageModels = {"llama2-7b-pure", "llama2-13b-pure", "llama2-7b-chat", "llama2-13b-chat", "vicuna-v15-7b", "vicuna-v15-13b",
                                                  "llama3-8b-pure", "llama3-8b-chat", "llama3.1-8b-chat", "qwen2.5-3b-instruct", "qwen2.5-7b-instruct"};

std::string file_in(const std::string& folder, const char* name) { return folder + "/" + name; }
bool is_vivit(const std::string& backbone) { return backbone.starts_with("vivit-"); }

void require(bool condition, const MervConfig& c, size_t i, const char* key, int value, const std::string& expected) {
    if (!condition) fail(Exit::bad_weights, c.path, ": ", key, " for ", c.video_backbone_ids[i], " is ", value, "; ", expected);
}
// What the resampler leaves must be visual_feature_length for every backbone. `time`: frames, or ViViT's time slices.
void require_length(const MervConfig& c, size_t i, int time) {
    const int frames = time / c.arch.temporal_factor;
    require(frames >= 1, c, i, "frame{k} of arch_specifier", c.arch.temporal_factor, concat("there are only ", time, " frames"));
    require(int64_t(c.projector_token_length) * frames == c.visual_feature_length, c, i, "visual_feature_length", c.visual_feature_length,
            concat("it gives ", frames, " frames of ", c.projector_token_length, " tokens: ", int64_t(frames) * c.projector_token_length));
}

}

// ---- MERV

Arch parse_arch(const std::string& specifier, const std::string& where) {
    auto bad = [&](const auto&... why) {
        fail(Exit::bad_weights, where, ": arch_specifier is \"", brief(specifier, 80), "\": ", why...,
             "; the form is [no-align+]avg|3davg[+frame{k}]+linear|gelu-mlp|fused-gelu-mlp");
    };
    std::vector<std::string> parts;
    for (size_t at = 0; at <= specifier.size();) {
        const size_t end = std::min(specifier.find('+', at), specifier.size());
        parts.push_back(specifier.substr(at, end - at));
        at = end + 1;
    }
    Arch arch;
    if (parts.front() == "no-align") arch.no_align = true, parts.erase(parts.begin());
    if (parts.empty()) bad("there is no projector");

    const std::string mapping = parts.back();
    parts.pop_back();
    if (mapping == "linear") arch.mapping = Arch::Mapping::linear;
    else if (mapping == "gelu-mlp") arch.mapping = Arch::Mapping::gelu_mlp;
    else if (mapping == "fused-gelu-mlp") arch.mapping = Arch::Mapping::fused_gelu_mlp;
    else bad(brief(mapping, 40), mapping == "none" ? " is not supported yet" : " is unknown");

    bool resampler = false, factor = false;
    for (const std::string& part : parts) {
        const bool frame = part.starts_with("frame");
        if (frame ? factor : resampler) bad(brief(part, 40), " comes on top of another choice");
        if (frame) {
            const std::string digits = part.substr(5);
            const bool plain = !digits.empty() && digits.size() <= 4 && digits.find_first_not_of("0123456789") == digits.npos;
            if (!plain || std::stoi(digits) == 0) bad("frame needs a number from 1 to 9999");
            arch.temporal_factor = std::stoi(digits), factor = true;
        } else if (part == "3davg" || part == "avg") {
            arch.resampler = part == "avg" ? Arch::Resampler::avg2d : Arch::Resampler::avg3d, resampler = true;
        } else bad(brief(part, 40), part == "attntv" || part == "conv" || part == "3dconv" ? " is not supported yet" : " is unknown");
    }
    if (!resampler) bad("projectors without a resampler are not supported yet");
    if (factor && arch.resampler != Arch::Resampler::avg3d) bad("frame{k} goes with 3davg only");
    return arch;
}

int MervConfig::most_frames() const { return *std::max_element(num_frames.begin(), num_frames.end()); }
int MervConfig::grid() const { return int(std::lround(std::sqrt(double(projector_token_length)))); }

MervConfig parse_merv_config(const std::string& text, const std::string& path) {
    const Json json = parse_json(text, path);
    Fields f(json, path);
    MervConfig c;
    c.raw = text, c.path = path;
    c.model_id = f.text("model_id");
    c.arch_specifier = f.text("arch_specifier");
    c.arch = parse_arch(c.arch_specifier, path);
    c.feature_fusion = f.choice("feature_fusion", kFusions, kFusionsLater);
    c.llm_backbone_id = f.choice("llm_backbone_id", kLanguageModels, {});
    c.image_resize_strategy = f.choice("image_resize_strategy", {"resize-naive", "resize-crop", "letterbox"}, {});
    const Json* ids = f.find("video_backbone_ids");
    if (!ids || !ids->is_array() || ids->empty() || ids->size() > 16) f.bad("video_backbone_ids", "a list of 1 to 16 texts is expected");
    for (const Json& id : *ids) {
        if (!id.is_string()) f.bad("video_backbone_ids", "a list of texts is expected");
        c.video_backbone_ids.push_back(id.get<std::string>());
        f.require_choice("video_backbone_ids", c.video_backbone_ids.back(), kBackbones, kBackbonesLater);
    }
    if (c.image_resize_strategy != "resize-naive" && std::any_of(c.video_backbone_ids.begin(), c.video_backbone_ids.end(), [](const std::string& id) { return id.starts_with("languagebind"); }))
        f.bad("image_resize_strategy", "LanguageBind, which always crops, goes with resize-naive only");     // the reference asserts it
    const size_t n = c.video_backbone_ids.size();
    if (std::set(c.video_backbone_ids.begin(), c.video_backbone_ids.end()).size() != n) f.bad("video_backbone_ids", "each backbone may be there once");

    c.llm_max_length = f.integer("llm_max_length", 1, kMostPositions);
    c.projector_token_length = f.integer("projector_token_length", 1, 1 << 16);
    c.visual_feature_length = f.integer("visual_feature_length", 1, kMostPositions);
    if (c.grid() * c.grid() != c.projector_token_length) f.bad("projector_token_length", "it must be a square: 1, 4, 16, 64, ...");
    c.num_frames = f.integers("num_frames", 1, kMostFrames, n);
    c.image_size = f.integers("image_size", 1, kMostImage, n, 224);
    f.report_unread();

    // Encoder i sees every (most / num_frames[i])-th frame, so anything that does not divide would silently give another length.
    const int least = *std::min_element(c.num_frames.begin(), c.num_frames.end());
    for (int frames : c.num_frames)
        if (frames % least != 0 || c.most_frames() % frames != 0) f.bad("num_frames", "each must be a multiple of the smallest and divide the largest");
    for (size_t i = 0; i < n; i++) {
        if (is_vivit(c.video_backbone_ids[i])) continue;        // its frames become time slices by its own config: require_fit
        require_length(c, i, c.num_frames[i]);
    }
    return c;
}
MervConfig read_merv_config(const std::string& path) { return parse_merv_config(read_text(path), path); }

// ---- timm: DINOv2 and SigLIP

TimmConfig parse_timm_config(const std::string& text, const std::string& path) {
    const Json json = parse_json(text, path), none = Json::object();
    Fields f(json, path);
    TimmConfig c;
    c.raw = text;
    const Json* args = nullptr;
    std::optional<int> image;
    if (const Json* model = f.find("model_cfg")) {      // OpenCLIP
        Fields outer(*model, path, "model_cfg");
        const Json* vision = outer.find("vision_cfg");
        if (!vision) outer.bad("vision_cfg", "an object is expected");
        Fields inner(*vision, path, "model_cfg.vision_cfg");
        c.architecture = inner.text("timm_model_name");
        if (inner.find("image_size")) image = inner.integer("image_size", 1, kMostImage);
    } else {
        c.architecture = f.text("architecture");
        args = f.find("model_args");
        for (const char* described : {"num_classes", "num_features", "pretrained_cfg"}) f.find(described);
    }
    c.architecture = c.architecture.substr(0, c.architecture.find('.'));        // the tag after the dot names weights, not a shape
    if (c.architecture == "vit_large_patch14_reg4_dinov2")
        c.image = 518, c.patch = 14, c.width = 1024, c.depth = 24, c.heads = 16, c.init_values = 1e-5, c.reg_tokens = 4, c.no_embed_class = true;
    else if (c.architecture == "vit_base_patch16_siglip_224") c.class_token = false, c.global_pool = "map";
    else f.require_choice("architecture", c.architecture, {"vit_large_patch14_reg4_dinov2", "vit_base_patch16_siglip_224"}, {});
    if (image) c.image = *image;

    Fields a(args ? *args : none, path, "model_args");
    const std::vector<int> size = a.integers("img_size", 1, kMostImage, 2, c.image);
    if (size[0] != size[1]) a.bad("img_size", "only square images are supported");
    c.image = size[0];
    c.patch = a.integer("patch_size", 1, 256, c.patch);
    c.width = a.integer("embed_dim", 1, kMostWidth, c.width);
    c.depth = a.integer("depth", 2, kMostLayers, c.depth);      // the feature is the last block's input
    c.heads = a.integer("num_heads", 1, kMostHeads, c.heads);
    c.hidden = std::max(1, int(c.width * a.number("mlp_ratio", 0.01, 16, 4)));
    c.init_values = a.number("init_values", 0, 1e6, c.init_values);
    c.reg_tokens = a.integer("reg_tokens", 0, 1024, c.reg_tokens);
    c.class_token = a.boolean("class_token", c.class_token);
    c.no_embed_class = a.boolean("no_embed_class", c.no_embed_class);
    c.qkv_bias = a.boolean("qkv_bias", c.qkv_bias);
    c.global_pool = a.choice("global_pool", {"token", "avg", "map", ""}, {}, c.global_pool);
    c.act = a.choice("act_layer", {"gelu", "gelu_tanh", "quick_gelu"}, {}, c.act);
    if (c.act == "gelu_tanh") c.act = "gelu_pytorch_tanh";
    a.find("num_classes");
    a.refuse("qk_norm", false, "normalising queries and keys");
    a.refuse("pre_norm", false, "a norm before the blocks");
    a.refuse("in_chans", 3, "another number of channels");
    require_heads(a, "num_heads", c.width, c.heads);
    require_patch(a, "patch_size", c.image, c.patch);
    f.report_unread();
    a.report_unread();
    return c;
}
TimmConfig read_timm_config(const std::string& folder) {
    const std::string plain = file_in(folder, "config.json"), open_clip = file_in(folder, "open_clip_config.json");
    const std::string& path = !exists(plain) && exists(open_clip) ? open_clip : plain;
    return parse_timm_config(read_text(path), path);
}

// ---- Hugging Face: ViViT, LanguageBind

VivitConfig parse_vivit_config(const std::string& text, const std::string& path) {
    const Json json = parse_json(text, path);
    Fields f(json, path);
    VivitConfig c;
    c.raw = text;
    f.choice("model_type", {"vivit"}, {}, "vivit");
    c.image = f.integer("image_size", 1, kMostImage, c.image);
    c.frames = f.integer("num_frames", 1, kMostFrames, c.frames);
    if (f.find("tubelet_size")) {
        const std::vector<int> sizes = f.integers("tubelet_size", 1, 256, 3);
        std::copy(sizes.begin(), sizes.end(), c.tubelet);
    }
    c.width = f.integer("hidden_size", 1, kMostWidth, c.width);
    c.layers = f.integer("num_hidden_layers", 1, kMostLayers, c.layers);
    c.heads = f.integer("num_attention_heads", 1, kMostHeads, c.heads);
    c.mlp = f.integer("intermediate_size", 1, kMostMlp, c.mlp);
    c.eps = f.number("layer_norm_eps", 0, 1, c.eps);
    c.act = f.choice("hidden_act", kActivations, {}, c.act);
    c.qkv_bias = f.boolean("qkv_bias", c.qkv_bias);
    f.refuse("num_channels", 3, "another number of channels");
    require_heads(f, "num_attention_heads", c.width, c.heads);
    if (c.frames % c.tubelet[0]) f.bad("tubelet_size", "its first number must divide num_frames, ", c.frames);
    if (c.image % c.tubelet[1] || c.image % c.tubelet[2]) f.bad("tubelet_size", "its last numbers must divide the image size, ", c.image);
    f.report_unread();
    return c;
}
VivitConfig read_vivit_config(const std::string& folder) {
    const std::string path = file_in(folder, "config.json");
    return parse_vivit_config(read_text(path), path);
}

LanguageBindConfig parse_languagebind_config(const std::string& text, const std::string& path) {
    const Json json = parse_json(text, path);
    Fields outer(json, path);
    const Json* vision = outer.find("vision_config");
    if (!vision) outer.bad("vision_config", "an object with the video tower's sizes is expected");
    Fields f(*vision, path, "vision_config");
    LanguageBindConfig c;
    c.raw = text;
    c.width = f.integer("hidden_size", 1, kMostWidth, c.width);
    c.mlp = f.integer("intermediate_size", 1, kMostMlp, c.mlp);
    c.layers = f.integer("num_hidden_layers", 2, kMostLayers, c.layers);        // the feature is the last layer's input
    c.heads = f.integer("num_attention_heads", 1, kMostHeads, c.heads);
    c.image = f.integer("image_size", 1, kMostImage, c.image);
    c.patch = f.integer("patch_size", 1, 256, c.patch);
    c.act = f.choice("hidden_act", kActivations, {}, c.act);
    c.eps = f.number("layer_norm_eps", 0, 1, c.eps);
    c.num_frames = f.integer("num_frames", 1, kMostFrames, c.num_frames);
    c.add_time_attn = f.boolean("add_time_attn", c.add_time_attn);
    f.refuse("num_channels", 3, "another number of channels");
    f.number("force_patch_dropout", 0, 1, 0);           // training only, and 0 in the released model
    require_heads(f, "num_attention_heads", c.width, c.heads);
    require_patch(f, "patch_size", c.image, c.patch);
    f.report_unread();
    return c;
}
LanguageBindConfig read_languagebind_config(const std::string& folder) {
    const std::string path = file_in(folder, "config.json");
    return parse_languagebind_config(read_text(path), path);
}

// ---- LLaMA

LlamaConfig parse_llama_config(const std::string& text, const std::string& path, const std::string& generation, const std::string& generation_path) {
    const Json json = parse_json(text, path);
    Fields f(json, path);
    LlamaConfig c;
    c.raw = text;
    const bool qwen2 = f.choice("model_type", {"llama", "qwen2"}, {}, "llama") == "qwen2";
    c.vocab = f.integer("vocab_size", 1, kMostVocab);
    c.width = f.integer("hidden_size", 1, kMostWidth);
    c.layers = f.integer("num_hidden_layers", 1, kMostLayers);
    c.heads = f.integer("num_attention_heads", 1, kMostHeads);
    c.mlp = f.integer("intermediate_size", 1, kMostMlp);
    c.kv_heads = f.integer("num_key_value_heads", 1, kMostHeads, c.heads);
    c.head_dim = f.integer("head_dim", 1, 128, std::max(1, std::min(128, c.width / c.heads)));
    if (!f.find("head_dim")) require_heads(f, "num_attention_heads", c.width, c.heads);
    else if (c.head_dim % 4) f.bad("head_dim", "a multiple of 4, at most 128, is supported");
    if (c.heads % c.kv_heads) f.bad("num_key_value_heads", "it must divide num_attention_heads, ", c.heads);
    c.max_positions = f.integer("max_position_embeddings", 1, kMostPositions, c.max_positions);
    c.eps = f.number("rms_norm_eps", 0, 1, c.eps);
    c.tied = f.boolean("tie_word_embeddings", false);
    f.choice("hidden_act", {"silu"}, kActivations, "silu");
    c.o_bias = f.boolean("attention_bias", false);
    c.qkv_bias = c.o_bias || qwen2;
    f.refuse("use_sliding_window", false, "attention in a sliding window");
    f.refuse("mlp_bias", false, "an MLP with biases");
    f.refuse("partial_rotary_factor", 1.0, "rotating part of a head");

    // transformers 5 moved rope_theta into rope_parameters, which is rope_scaling with the default type spelt out.
    const char* key = f.find("rope_parameters") ? "rope_parameters" : "rope_scaling";
    c.theta = f.number("rope_theta", 1, 1e12, c.theta);
    if (const Json* scaling = f.find(key)) {
        Fields rope(*scaling, path, key);
        c.theta = rope.number("rope_theta", 1, 1e12, c.theta);
        const char* type = rope.find("rope_type") ? "rope_type" : "type";
        c.rope_type = rope.choice(type, {"default", "linear", "llama3"}, {"dynamic", "yarn", "longrope"});
        if (c.rope_type != "default") {
            if (!rope.find("factor")) rope.bad("factor", "a number from 1 on is expected");
            c.rope_factor = rope.number("factor", 1, 1e6, 1);
        }
        if (c.rope_type == "llama3") {
            c.low_freq_factor = rope.number("low_freq_factor", 1e-6, 1e6, c.low_freq_factor);
            c.high_freq_factor = rope.number("high_freq_factor", 1e-6, 1e6, c.high_freq_factor);
            c.original_max_positions = rope.integer("original_max_position_embeddings", 1, kMostPositions);
            if (c.high_freq_factor <= c.low_freq_factor) rope.bad("high_freq_factor", "it must exceed low_freq_factor, ", c.low_freq_factor);
        }
        rope.report_unread();
    }

    // Each id from generation_config.json, else from config.json. pad: -1 was written by early conversions for "none".
    const Json generation_json = parse_json(generation, generation_path);
    Fields g(generation_json, generation_path);
    auto from = [&](const char* id) -> Fields& { return g.find(id) ? g : f; };
    c.bos = from("bos_token_id").integer("bos_token_id", 0, c.vocab - 1, -1);
    if (from("eos_token_id").find("eos_token_id")) c.eos = from("eos_token_id").integers("eos_token_id", 0, c.vocab - 1, 0);
    c.pad = f.integer("pad_token_id", -1, c.vocab - 1, -1);
    for (const char* id : {"bos_token_id", "eos_token_id"}) f.find(id);
    f.report_unread();
    return c;
}
LlamaConfig read_llama_config(const std::string& folder) {
    const std::string path = file_in(folder, "config.json"), generation = file_in(folder, "generation_config.json");
    return parse_llama_config(read_text(path), path, exists(generation) ? read_text(generation) : "{}", generation);
}

// ---- a backbone against its encoder

void require_fit(const MervConfig& c, size_t i, const TimmConfig& encoder) {
    require(c.image_size[i] % encoder.patch == 0, c, i, "image_size", c.image_size[i], concat("a multiple of its patch size ", encoder.patch, " is expected"));
}
void require_fit(const MervConfig& c, size_t i, const VivitConfig& encoder) {
    require(c.image_size[i] == encoder.image, c, i, "image_size", c.image_size[i], concat("its own image_size ", encoder.image, " is expected"));
    require(c.num_frames[i] == encoder.frames, c, i, "num_frames", c.num_frames[i], concat("its own num_frames ", encoder.frames, " is expected"));
    require_length(c, i, encoder.frames / encoder.tubelet[0]);
}
void require_fit(const MervConfig& c, size_t i, const LanguageBindConfig& encoder) {
    require(c.image_size[i] == encoder.image, c, i, "image_size", c.image_size[i], concat("its own image_size ", encoder.image, " is expected"));
    require(c.num_frames[i] % encoder.num_frames == 0, c, i, "num_frames", c.num_frames[i],
            concat("a multiple of its own num_frames ", encoder.num_frames, " is expected"));
}

}
