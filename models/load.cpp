#include "models/load.h"
#include <algorithm>
#include <filesystem>
#include <set>
#include <unistd.h>
#include "core/json.h"
#include "core/log.h"
#include "core/memory.h"
#include "core/profile.h"
#include "models/gguf_model.h"

namespace merv {
namespace {

namespace fs = std::filesystem;

void require_folder(const std::string& path, const char* advice) {
    std::error_code error;
    const fs::file_status s = fs::status(path, error);
    if (!fs::is_directory(s))
        fail(Exit::bad_weights, path, fs::exists(s) ? ": is not a folder" : s.type() == fs::file_type::not_found ? ": no such folder" : ": " + error.message(), "; ", advice);
    if (access(path.c_str(), R_OK | X_OK) != 0) fail(Exit::bad_weights, path, ": cannot be read; check its permissions");
}

DType stored_type(const Source& s) {            // of its weights
    for (const Wanted& w : s.wanted) if (s.file.has(w.name) && s.file.entry(w.name).dtype == "BF16") return DType::bf16;
    return DType::f32;
}
size_t bytes_of(const Source& s) {              // as they will lie in memory: f16 is widened
    size_t n = 0;
    for (const Wanted& w : s.wanted)
        if (s.file.has(w.name)) {
            const TensorEntry& e = s.file.entry(w.name);
            n += (e.end - e.begin) * (e.dtype == "F16" ? 2 : 1);
        }
    return n;
}

// All parameters of a module; those it does not compute with may be in the file or not.
template <class M, class Used> void want(Source& s, M& module, Used used, const std::string& prefix = "") {
    nn::for_each_parameter(module, [&](const std::string& name, Tensor& t) {
        if (used(name)) s.wanted.push_back({prefix + name, &t});
        else s.known_unused.push_back(prefix + name);
    });
}
auto all = [](const std::string&) { return true; };

// Bytes that live while an encoder runs: its widest block (x, norm, q k v, heads, sum; or x, norm, fc1, sum) and the pixels.
size_t activation_bytes(const Encoder& e, DType dtype) {
    auto block = [&](int64_t tokens, int64_t width, int64_t mlp) { return size_t(tokens * std::max(7 * width, 3 * width + mlp) * size_of(dtype)); };
    const size_t pixels = size_t(e.frames) * 3 * size_t(e.image) * size_t(e.image) * (e.normalises_first ? 8 : 6);
    if (const auto* v = std::get_if<Vivit>(&e.model)) return block(v->positions.dim(1), v->config.width, v->config.mlp) + pixels;
    const VitConfig& c = std::get<Vit>(e.model).config;
    return block(int64_t(e.frames) * (c.grid() * c.grid() + c.prefix()), c.width, c.mlp) + pixels;
}

// `weights`: bytes of each part.
MemoryPlan plan(const Merv& m, const std::vector<std::pair<std::string, size_t>>& weights, int64_t tokens) {
    MemoryPlan p;
    for (const auto& [what, bytes] : weights) p.rows.emplace_back("weights of " + what, bytes);
    const LlamaConfig& l = m.llm.config;
    const int64_t size = size_of(m.dtype());
    const int64_t length = std::min<int64_t>(m.visual_tokens() + tokens, l.max_positions);
    p.rows.emplace_back("kv cache", size_t(length * l.layers * 2 * l.kv_heads * l.head_dim * size));
    size_t widest = size_t(length * std::max<int64_t>(8 * l.width, 4 * l.width + 2 * l.mlp) * size);
    for (const Encoder& e : m.encoders) widest = std::max(widest, activation_bytes(e, m.dtype()));
    p.rows.emplace_back("activations", widest + size_t(int64_t(m.encoders.size()) * m.visual_tokens() * l.width * 2 * size));
    return p;
}

// --num-frames in place of the folder's; what does not fit is the user's mistake, not the folder's.
void override_frames(MervConfig& c, const std::vector<int64_t>& frames) {
    if (frames.empty()) return;
    const size_t E = c.video_backbone_ids.size();
    if (frames.size() != 1 && frames.size() != E) fail(Exit::usage, "--num-frames: ", frames.size(), " numbers for ", E, " encoders; give one for all or one each");
    for (size_t i = 0; i < E; i++) {
        const int64_t n = frames[frames.size() == 1 ? 0 : i];
        if (n < 1 || n > 4096) fail(Exit::usage, "--num-frames: ", n, " frames; 1 to 4096 are possible");
        c.num_frames[i] = int(n);
    }
    for (int n : c.num_frames) if (c.most_frames() % n) fail(Exit::usage, "--num-frames: ", n, " does not divide ", c.most_frames(), ", so its frames would not be evenly spread");
}

void bind(LoadedModel& loaded, std::vector<Source>& sources, const LoadOptions& options) {
    Merv& merv = loaded.merv;
    merv.llm.dtype = options.dtype.value_or(default_dtype(stored_type(sources.back())));       // the language model's, which is last
    std::vector<std::pair<std::string, size_t>> weights;
    for (const Source& s : sources) weights.emplace_back(s.what, bytes_of(s));
    require_memory(plan(merv, weights, options.tokens), "lower --num-frames or --max-tokens, or use a smaller model or bf16 weights");
    MemTag tag("weights");
    for (Source& s : sources) {
        load_strict(s.file, s.wanted, s.known_unused, s.what);
        for (const Wanted& w : s.wanted) loaded.weight_bytes += w.tensor->bytes(), loaded.parameters += w.tensor->numel();
    }
    for (Encoder& e : merv.encoders) if (auto* vit = std::get_if<Vit>(&e.model)) vit->prepare();
}

void require_rows(const Tokenizer& t, const LlamaConfig& llm, const std::string& path) {
    if (llm.vocab < t.size()) fail(Exit::bad_weights, path, ": ", t.size(), " pieces, but the language model has ", llm.vocab, " rows; they belong to different models");
}
Tokenizer load_tokenizer(const std::string& folder, const LlamaConfig& llm) {
    const std::string model = folder + "/tokenizer.model", json = folder + "/tokenizer.json", &path = exists(model) || !exists(json) ? model : json;
    if (!exists(path)) fail(Exit::bad_weights, folder, ": no tokenizer.model and no tokenizer.json; copy it from the language model's original folder");
    Tokenizer t = Tokenizer::load(path);
    require_rows(t, llm, path);
    return t;
}
// Of tokenizer_config.json: a text, or a list of named ones.
std::string load_chat_template(const std::string& folder) {
    const std::string path = folder + "/tokenizer_config.json";
    if (!exists(path)) return "";
    const Json config = read_json(path);
    const Json text = config.is_object() ? config.value("chat_template", Json()) : Json();
    if (text.is_string()) return text.get<std::string>();
    if (text.is_array())
        for (const Json& one : text)
            if (one.is_object() && one.value("name", Json()) == "default" && one.value("template", Json()).is_string()) return one["template"].get<std::string>();
    return "";
}

// ---- a GGUF file

// As load_strict: nothing missing, nothing left over, every shape right.
void bind_gguf(LoadedModel& loaded, const Gguf& file, const LoadOptions& options) {
    Llama& llm = loaded.merv.llm;
    std::set<std::string> left;
    for (const auto& [name, entry] : file.tensors()) left.insert(name);
    for (const char* unused : {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}) left.erase(unused);
    std::string missing, misshapen;
    size_t bytes = 0;
    nn::for_each_parameter(llm, [&](const std::string& parameter, Tensor& t) {
        const std::string name = gguf_name(parameter);
        const auto found = file.tensors().find(name);
        if (found == file.tensors().end()) missing += " " + name;
        else if (Shape(found->second.shape) != t.shape()) misshapen += concat(" ", name, " ", Shape(found->second.shape), " instead of ", t.shape());
        else bytes += file.bytes_read(name);
        left.erase(name);
    });
    std::string unexpected;
    for (const std::string& name : left) unexpected += " " + name;
    auto list = [](const char* what, const std::string& names) { return names.empty() ? "" : concat("\n  ", what, ":", brief(names, 400)); };
    if (!(missing + misshapen + unexpected).empty())
        fail(Exit::bad_weights, file.path(), ": does not hold the language model its metadata describe", list("missing", missing), list("unexpected", unexpected), list("shapes that differ", misshapen));

    const auto table = file.tensors().find("token_embd.weight");
    llm.dtype = options.dtype.value_or(default_dtype(table != file.tensors().end() && table->second.dtype == "BF16" ? DType::bf16 : DType::f32));
    require_memory(plan(loaded.merv, {{"the language model", bytes}}, options.tokens), "lower --max-tokens, or use a smaller model");
    MemTag tag("weights");
    const bool pairs = gguf_rotates_pairs(file);
    const OnDevice host(Device::cpu);           // where files are read
    nn::for_each_parameter(llm, [&](const std::string& parameter, Tensor& t) {
        Tensor values = file.tensor(gguf_name(parameter));
        if (pairs && parameter.find(".q_proj.") != parameter.npos) values = halves_from_pairs(values, llm.config.heads);
        if (pairs && parameter.find(".k_proj.") != parameter.npos) values = halves_from_pairs(values, llm.config.kv_heads);
        t.bind(values);
        loaded.weight_bytes += t.bytes(), loaded.parameters += t.numel();
    });
}

LoadedModel load_gguf(const std::string& path, const LoadOptions& options) {
    const std::shared_ptr<Gguf> file = Gguf::open(path);
    LoadedModel loaded;
    loaded.merv = build({.llm = gguf_config(*file)});
    loaded.merv.tokenizer = gguf_tokenizer(*file);
    loaded.chat_template = file->text("tokenizer.chat_template", "");
    require_rows(loaded.merv.tokenizer, loaded.merv.llm.config, path);
    bind_gguf(loaded, *file, options);
    return loaded;
}

}

Source encoder_source(Encoder& e, Checkpoint file) {
    Source s{.what = "the " + e.name + " encoder", .file = std::move(file)};
    if (auto* vit = std::get_if<Vit>(&e.model)) {
        const bool timm = vit->config.names == VitConfig::Names::timm;
        s.wrapper = s.file.strip_prefix({"visual.trunk.", "vision_model.", "model."}, timm ? "patch_embed.proj.weight" : "embeddings.class_embedding");
        s.known_unused = timm ? std::vector<std::string>{"head.*", "fc_norm.*", "norm.*", "attn_pool.*", "mask_token", "text.*", "logit_scale", "logit_bias"}
                              : std::vector<std::string>{"post_layernorm.*", "visual_projection.*", "text_model.*", "text_projection.*", "logit_scale"};
        want(s, *vit, [&](const std::string& p) { return vit->uses(p); });
    } else {
        s.wrapper = s.file.strip_prefix({"vivit.", "model."}, "embeddings.cls_token");
        s.known_unused = {"classifier.*", "pooler.*"};
        want(s, std::get<Vivit>(e.model), all);
    }
    return s;
}
std::string published_prefix(const Encoder& e) {
    const auto* vit = std::get_if<Vit>(&e.model);
    return !vit ? "vivit." : vit->config.names == VitConfig::Names::clip ? "vision_model." : "";
}

Source llm_source(Llama& llm, Checkpoint file) {
    Source s{.what = "the language model", .file = std::move(file), .known_unused = {"*.rotary_emb.inv_freq"}};
    if (!s.file.has("model.embed_tokens.weight") && s.file.has("embed_tokens.weight"))      // a LlamaModel saved without its head's wrapper
        s.file.rename([](const std::string& name) { return name.starts_with("lm_head.") ? name : "model." + name; });
    want(s, llm, all);
    if (llm.config.tied) s.known_unused.push_back("lm_head.weight");
    return s;
}

Source own_source(Merv& m, Checkpoint file) {
    Source s{.what = "the projectors and the fusion", .file = std::move(file)};
    for (size_t i = 0; i < m.projectors.size(); i++) want(s, m.projectors[i], all, "projectors." + std::to_string(i) + ".");
    want(s, m.fusion, [&](const std::string& p) { return m.fusion.uses(p); }, "feature_fusion.");
    return s;
}

std::string encoder_name(const std::string& id) {
    for (const char* name : {"languagebind", "dinov2", "vivit", "siglip"}) if (id.starts_with(name)) return name;
    fail(Exit::bad_weights, "video backbone '", id, "' is unknown");
}

DType default_dtype(DType weights) {            // the weights' own, but f32 on a CPU that has no instructions for bf16
    return weights == DType::bf16 && (current_device() != Device::cpu || kernels::cpu::isa() == kernels::cpu::Isa::avx512_bf16) ? DType::bf16 : DType::f32;
}

EncoderConfig read_encoder_config(const std::string& id, const std::string& folder) {
    const std::string name = encoder_name(id);
    if (name == "languagebind") return read_languagebind_config(folder);
    if (name == "vivit") return read_vivit_config(folder);
    return read_timm_config(folder);
}

int64_t fusion_width(const Checkpoint& own, const MervConfig& c) {
    const size_t n = c.video_backbone_ids.size();
    if (!own.has("feature_fusion.Q"))
        fail(Exit::bad_weights, own.path(), ": no feature_fusion.Q, but '", c.feature_fusion, "' mixes ", n, " encoders; this file belongs to another model");
    const TensorEntry& q = own.entry("feature_fusion.Q");
    if (q.shape.size() != 2 || q.shape[0] != 1 || q.shape[1] < 1) fail(Exit::bad_weights, own.path(), ": feature_fusion.Q is not a row (1, width)");
    return q.shape[1];
}

Merv build(const MervParts& parts) {
    Merv m;
    m.config = parts.config;
    for (size_t i = 0; i < parts.encoders.size(); i++) {
        Encoder e;
        e.id = m.config.video_backbone_ids[i], e.name = encoder_name(e.id);
        e.frames = m.config.num_frames[i], e.image = m.config.image_size[i];
        std::visit([&](const auto& c) { require_fit(m.config, i, c); }, parts.encoders[i]);
        if (const auto* c = std::get_if<VivitConfig>(&parts.encoders[i])) {
            e.model = Vivit(*c), e.filter = Filter::bilinear, e.mean = e.std = {0.5f, 0.5f, 0.5f};
        } else if (const auto* l = std::get_if<LanguageBindConfig>(&parts.encoders[i])) {
            e.model = Vit(VitConfig::from(*l, e.image)), e.normalises_first = true, e.per_frame = !l->add_time_attn;
        } else {
            e.model = Vit(VitConfig::from(std::get<TimmConfig>(parts.encoders[i]), e.image)), e.per_frame = true;
            if (e.name == "dinov2") e.mean = {0.485f, 0.456f, 0.406f}, e.std = {0.229f, 0.224f, 0.225f};
            else e.mean = e.std = {0.5f, 0.5f, 0.5f};
        }
        if (e.times() < m.config.arch.temporal_factor)
            fail(Exit::bad_weights, m.config.path, ": ", m.config.arch_specifier, " makes one frame of ", m.config.arch.temporal_factor, ", ", e.name, " gives ", e.times());
        m.projectors.emplace_back(m.config.arch.mapping, e.times() / m.config.arch.temporal_factor, m.config.grid(), e.width(), parts.llm.width);
        if (i > 0 && e.times() != m.encoders[0].times())
            fail(Exit::bad_weights, m.config.path, ": the encoders' features have different lengths: ", m.encoders[0].name, " ", m.encoders[0].times(), " frames, ", e.name, " ",
                 e.times(), "; choose num_frames so that they agree (ViViT halves its own)");
        m.encoders.push_back(std::move(e));
    }
    if (parts.fusion_width) m.fusion = Fusion(parts.fusion_width, parts.llm.width);
    m.llm = Llama(parts.llm);
    return m;
}

LoadedModel load_model(const std::string& folder, const LoadOptions& options) {
    const profile::Range range("load");
    if (is_gguf(folder)) return load_gguf(folder, options);
    require_folder(folder, "give a MERV folder (docs/model-folder.md)");
    LoadedModel loaded;
    Merv& m = loaded.merv;
    std::vector<Source> sources;                // they point into loaded.merv, which stays where it is
    if (!exists(folder + "/llm") && (exists(folder + "/tokenizer.model") || exists(folder + "/tokenizer.json"))) {      // a language model alone
        MervParts parts{.llm = read_llama_config(folder)};
        m = build(parts);
        m.tokenizer = load_tokenizer(folder, parts.llm);
        loaded.chat_template = load_chat_template(folder);
        sources.push_back(llm_source(m.llm, Checkpoint::open(folder)));
        bind(loaded, sources, options);
        return loaded;
    }
    if (!exists(folder + "/config.json")) fail(Exit::bad_weights, folder, ": holds no config.json; give a MERV folder (docs/model-folder.md)");
    require_folder(folder + "/llm", "link the language model's own folder there");
    MervParts parts{.config = read_merv_config(folder + "/config.json"), .llm = read_llama_config(folder + "/llm")};
    MervConfig& c = parts.config;
    override_frames(c, options.num_frames);
    const size_t used = !options.vision ? 0 : c.feature_fusion == "first" ? 1 : c.video_backbone_ids.size();
    auto part_folder = [&](size_t i) { return folder + "/encoders/" + c.video_backbone_ids[i]; };
    for (size_t i = 0; i < used; i++) {
        require_folder(part_folder(i), "link the encoder's own folder there");
        parts.encoders.push_back(read_encoder_config(c.video_backbone_ids[i], part_folder(i)));
    }
    Checkpoint own = used ? Checkpoint::open(folder) : Checkpoint{};
    if (used > 1) parts.fusion_width = fusion_width(own, c);
    try {
        m = build(parts);
    } catch (const Error& e) {
        if (options.num_frames.empty() || e.code != Exit::bad_weights) throw;
        fail(Exit::usage, "--num-frames does not suit this model: ", e.what());
    }
    m.tokenizer = load_tokenizer(folder + "/llm", parts.llm);
    for (size_t i = 0; i < used; i++) sources.push_back(encoder_source(m.encoders[i], Checkpoint::open(part_folder(i))));
    if (used) sources.push_back(own_source(m, std::move(own)));
    if (used == 1) sources.back().known_unused = {"feature_fusion.*", "projectors.*"};
    sources.push_back(llm_source(m.llm, Checkpoint::open(folder + "/llm")));
    bind(loaded, sources, options);
    return loaded;
}

PromptBuilder builder_of(const LoadedModel& loaded) {
    if (const std::string& id = loaded.merv.config.llm_backbone_id; !id.empty()) return builder_for(id);
    const PromptBuilder builder = builder_for_template(loaded.chat_template);
    if (builder == PromptBuilder::raw && !loaded.chat_template.empty()) warn("its chat template is not known here: the text is given to it as it is; --prompt-builder names a format");
    return builder;
}

}
