#include "models/import.h"
#include <algorithm>
#include <filesystem>
#include "core/json.h"
#include "core/log.h"
#include "weights/file.h"

namespace merv {
namespace {

namespace fs = std::filesystem;

bool is_folder(const std::string& path) {
    std::error_code ignored;
    return fs::is_directory(path, ignored);
}
std::string folder_of(const std::string& path) {        // where the settings lie: the folder itself, or a file's
    if (is_folder(path)) return path;
    const std::string parent = fs::path(path).parent_path().string();
    return parent.empty() ? "." : parent;
}

// ---- MERV's own checkpoint

// A training run keeps checkpoints/ beside config.json.
std::string settings_of_run(const std::string& path) {
    const std::string here = folder_of(path) + "/config.json", above = folder_of(path) + "/../config.json";
    return !exists(here) && !is_folder(path) && exists(above) ? above : here;
}
// The released config.json has the model's settings in "model", with two keys of the registry's own.
std::string model_settings(const std::string& path) {
    const std::string text = read_text(path);
    const Json json = parse_json(text, path);
    if (!json.is_object() || json.contains("video_backbone_ids") || !json.contains("model") || !json["model"].is_object()) return text;
    Json model = json["model"];
    model.erase("type"), model.erase("vidlm_id");
    return model.dump(2) + "\n";
}

struct OwnNames { Checkpoint own, llm; };       // two views of one file
OwnNames split_checkpoint(const Checkpoint& file) {
    auto after = [](const std::string& name, const char* head) { return name.starts_with(head) ? name.substr(std::string_view(head).size()) : std::string(); };
    auto in_model = [&](const std::string& name) { return name.starts_with("model.") ? name.substr(6) : name; };
    OwnNames views{file, file};
    views.llm.rename([&](const std::string& name) { return after(in_model(name), "llm_backbone.llm."); });
    views.own.rename([&](const std::string& stored) {
        const std::string name = in_model(stored);
        for (const char* other : {"llm_backbone.", "video_backbone", "optimizer.", "lr_scheduler."}) if (name.starts_with(other)) return std::string();
        if (const std::string rest = after(name, "projector."); !rest.empty()) return "projectors.0." + rest;       // before there were several
        if (const std::string rest = after(name, "adapter."); !rest.empty()) return "feature_fusion." + rest;
        return name;
    });
    return views;
}

// ---- encoders

constexpr const char *kDinov2 = "vit_large_patch14_reg4_dinov2", *kSiglip = "vit_base_patch16_siglip_224";

// Facebook's file has a position for the class token, which timm's no_embed_class has folded into the token itself.
void accept_facebook_names(Checkpoint& c) {
    c.strip_prefix({"model.", "state_dict.", "teacher.backbone."}, "register_tokens");
    if (!c.has("register_tokens") || !c.has("cls_token") || !c.has("pos_embed")) return;
    const Shape token(c.entry("cls_token").shape), table(c.entry("pos_embed").shape);
    if (token.rank() != 3 || table.rank() != 3 || token.numel() != token[2] || table[0] != 1 || table[1] < 2 || table[2] != token[2])
        fail(Exit::bad_weights, c.path(), ": cls_token ", token, " and pos_embed ", table, " do not belong together; is it another model's file?");
    const Tensor cls = c.take("cls_token"), positions = c.take("pos_embed").reshape({table[1], table[2]});
    std::vector<float> sum = to_floats(cls);
    const std::vector<float> first = to_floats(positions.slice(0, 1));
    for (size_t i = 0; i < sum.size(); i++) sum[i] += first[i];
    c.replace("cls_token", from_floats(sum, token, cls.dtype()));
    c.replace("pos_embed", positions.slice(1, table[1]).reshape({1, table[1] - 1, table[2]}));
    c.rename([](const std::string& name) { return name == "register_tokens" ? "reg_token" : name == "mask_token" ? "" : name; });
}

// LanguageBind's other release has its training's low-rank differences beside the weights.
void refuse_lora(const Checkpoint& c) {
    for (const std::string& name : c.names())
        if (name.find(".lora_A.") != name.npos) fail(Exit::bad_weights, c.path(), ": holds LoRA weights that are not merged (", brief(name), "); take LanguageBind_Video_merge");
}

// Two of timm's are alike enough to be mistaken for each other.
const TimmConfig& require_architecture(const TimmConfig& c, const char* expected, const std::string& folder) {
    if (c.architecture != expected) fail(Exit::bad_weights, folder, ": the architecture is \"", brief(c.architecture, 80), "\", ", expected, " is expected; is it another encoder's folder?");
    return c;
}

// The encoder's settings, and the file they become.
std::pair<EncoderConfig, std::string> encoder_settings(const std::string& id, const std::string& folder) {
    const bool plain = exists(folder + "/config.json"), open_clip = exists(folder + "/open_clip_config.json"), dinov2 = encoder_name(id) == "dinov2";
    const char* expected = dinov2 ? kDinov2 : kSiglip;
    if (!plain && (open_clip || dinov2)) {      // what timm's own config.json would say
        const TimmConfig c = open_clip ? read_timm_config(folder) : parse_timm_config(Json{{"architecture", kDinov2}}.dump(), kDinov2);
        const std::string text = Json{{"architecture", c.architecture}, {"num_classes", 0}, {"model_args", {{"img_size", c.image}}}}.dump(2) + "\n";
        return {require_architecture(parse_timm_config(text, folder), expected, folder), text};
    }
    EncoderConfig config = read_encoder_config(id, folder);
    if (const auto* timm = std::get_if<TimmConfig>(&config)) require_architecture(*timm, expected, folder);
    return {std::move(config), read_text(folder + "/config.json")};
}

// ---- what becomes of a checkpoint's tensors

DType dtype_of(const std::string& stored) { return stored == "BF16" ? DType::bf16 : stored == "I32" ? DType::i32 : stored == "U8" ? DType::u8 : DType::f32; }

TensorSpec spec_of(const TensorEntry& e, const std::string& name, std::optional<DType> floats) {
    TensorSpec spec{.name = name, .dtype = dtype_of(e.dtype), .shape = Shape(e.shape)};
    if (floats && (e.dtype == "F32" || e.dtype == "BF16" || e.dtype == "F16")) spec.dtype = *floats;
    else if (e.dtype != spec.stored()) spec.kept = e.dtype;
    return spec;
}

// The model's parameters under their published names, then whatever else is published with them; text towers are not.
void list_values(Part& part, const Source& source, const std::string& prefix, std::optional<DType> floats) {
    std::map<std::string, bool> own;            // false: not read by the model, but declared by it
    for (const std::string& name : source.known_unused) if (name.find('*') == name.npos && source.file.has(name)) own[name] = false;
    auto add = [&](const std::string& name, const std::string& published) { part.values.push_back({spec_of(source.file.entry(name), published, floats), name}); };
    for (const Wanted& w : source.wanted) own[w.name] = true, add(w.name, prefix + w.name);
    for (const std::string& name : source.file.names()) {
        if (const auto found = own.find(name); found != own.end() && found->second) continue;
        if (matches(name, "text.*") || matches(name, "text_*")) continue;
        const bool wrapped = !source.wrapper.empty() && source.file.stored(name).starts_with(source.wrapper);
        if (source.wrapper == "visual.trunk." && !wrapped) continue;   // OpenCLIP's logit_scale
        add(name, (own.count(name) && source.wrapper.empty()) || wrapped ? prefix + name : name);
    }
    part.file = source.file;
}

void add_copies(Part& part, const std::string& folder, std::initializer_list<const char*> names) {
    for (const char* name : names) if (exists(folder + "/" + name)) part.copies.push_back(folder + "/" + name);
}

// A vocabulary that training made larger than config.json says, and the type that the values get.
std::string llm_settings(const std::string& path, const Checkpoint& file, std::optional<DType> floats) {
    const std::string text = read_text(path);
    Json json = parse_json(text, path), before = json;
    const std::string rows = file.has("model.embed_tokens.weight") ? "model.embed_tokens.weight" : "embed_tokens.weight";
    if (json.is_object() && file.has(rows) && !file.entry(rows).shape.empty() && json.contains("vocab_size")) json["vocab_size"] = file.entry(rows).shape[0];
    if (json.is_object() && floats && json.contains("torch_dtype")) json["torch_dtype"] = *floats == DType::bf16 ? "bfloat16" : "float32";
    return json == before ? text : json.dump(2) + "\n";
}

}

size_t Part::bytes() const {
    size_t n = 0;
    for (const Value& v : values) n += v.spec.bytes();
    return n;
}

PartPaths parts_of_folder(const std::string& folder) {
    PartPaths paths{folder, folder + "/llm", {}};
    for (const std::string& id : read_merv_config(folder + "/config.json").video_backbone_ids) paths.encoders[encoder_name(id)] = folder + "/encoders/" + id;
    return paths;
}

std::vector<Part> open_parts(const PartPaths& paths, std::optional<DType> floats) {
    MervParts model;
    std::vector<Part> parts(1);                 // MERV's own first: it names the others
    Part& merv = parts[0];
    merv.name = "merv";
    const std::string settings = settings_of_run(paths.merv);
    merv.texts.emplace_back("config.json", model_settings(settings));
    model.config = parse_merv_config(merv.texts[0].second, settings);
    const OwnNames checkpoint = split_checkpoint(Checkpoint::open(paths.merv));
    const auto& ids = model.config.video_backbone_ids;
    if (ids.size() > 1 || checkpoint.own.has("feature_fusion.Q")) model.fusion_width = fusion_width(checkpoint.own, model.config);

    std::vector<Checkpoint> encoders;
    for (const std::string& id : ids) {
        const std::string name = encoder_name(id);
        const auto path = paths.encoders.find(name);
        if (path == paths.encoders.end()) fail(Exit::usage, "--", name, " is missing: ", settings, " names ", id);
        Part& part = parts.emplace_back();
        part.name = name, part.folder = "encoders/" + id;
        auto [config, text] = encoder_settings(id, folder_of(path->second));
        part.texts.emplace_back("config.json", text);
        add_copies(part, folder_of(path->second), {"preprocessor_config.json"});
        model.encoders.push_back(std::move(config));
        encoders.push_back(Checkpoint::open(path->second));
        if (name == "dinov2") accept_facebook_names(encoders.back());
        if (name == "languagebind") refuse_lora(encoders.back());
    }

    const std::string llm_folder = folder_of(paths.llm), llm_config = llm_folder + "/config.json", ids_file = llm_folder + "/generation_config.json";
    Part& llm = parts.emplace_back();
    llm.name = llm.folder = "llm";
    const bool trained = !checkpoint.llm.names().empty();
    const Checkpoint llm_file = trained ? checkpoint.llm : Checkpoint::open(paths.llm);
    say_verbose("the language model's weights: ", llm_file.path());
    llm.texts.emplace_back("config.json", llm_settings(llm_config, llm_file, floats));
    const bool has_ids = exists(ids_file);
    model.llm = parse_llama_config(llm.texts[0].second, llm_config, has_ids ? read_text(ids_file) : "{}", ids_file);
    add_copies(llm, llm_folder, {"generation_config.json", "tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"});

    Merv m = build(model);
    auto take = [&](Part& part, const Source& source, const std::string& prefix) {
        require_match(source.file, source.wanted, source.known_unused, source.what);
        list_values(part, source, prefix, floats);
    };
    for (size_t i = 0; i < ids.size(); i++) take(parts[i + 1], encoder_source(m.encoders[i], std::move(encoders[i])), published_prefix(m.encoders[i]));
    take(parts.back(), llm_source(m.llm, llm_file), "");
    take(parts[0], own_source(m, checkpoint.own), "");          // last: its shapes follow from the others'
    return parts;
}

void write_part(const Part& part, const std::string& folder, const std::map<std::string, std::string>& metadata) {
    std::vector<TensorSpec> specs;
    for (const Part::Value& v : part.values) specs.push_back(v.spec);
    std::vector<std::byte> in, out(std::min(kWritePiece, part.bytes()));
    auto values = [&](size_t i, size_t begin, size_t end) -> const std::byte* {
        const auto& [spec, name] = part.values[i];
        const std::string& from = part.file.entry(name).dtype;
        if (begin == 0) part.file.check(name);
        if (from == spec.stored()) part.file.read(name, begin, end, out.data());
        else {
            const size_t element = dtype_bytes(from), first = begin / spec.element(), count = (end - begin) / spec.element();
            in.resize(std::max(in.size(), count * element));
            part.file.read(name, first * element, (first + count) * element, in.data());
            convert_floats(from, in.data(), int64_t(count), spec.dtype, out.data());
        }
        part.file.forget(name);
        return out.data();
    };
    write_checkpoint(folder, specs, values, metadata);
    std::error_code error;
    for (const std::string& path : part.copies) {
        fs::copy_file(path, fs::path(folder) / fs::path(path).filename(), error);
        if (error) fail(Exit::runtime, folder, ": ", path, " cannot be copied: ", error.message());
    }
    for (const auto& [name, text] : part.texts) write_text(folder + "/" + name, text);
}

}
