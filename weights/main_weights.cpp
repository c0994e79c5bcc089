// merv-weights: what is in weight files, whole models out of published parts and back, and whole models of random weights.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <omp.h>
#include "core/json.h"
#include "core/log.h"
#include "core/program.h"
#include "core/version.h"
#include "models/import.h"
#include "models/random.h"
#include "weights/checkpoint.h"
#include "weights/file.h"
#include "weights/gguf.h"
#include "weights/hash.h"
#include "train/checkpoint.h"
#include "weights/hub.h"

using namespace merv;
namespace fs = std::filesystem;

namespace {

// ---- tables

std::string grouped(uint64_t n) {               // 7,686,640,640
    std::string s = std::to_string(n);
    for (int i = int(s.size()) - 3; i > 0; i -= 3) s.insert(size_t(i), 1, ',');
    return s;
}
std::string in_units(double bytes) {
    char text[32];
    const char* units[] = {"B", "kB", "MB", "GB", "TB"};
    int u = 0;
    for (; bytes >= 999.5 && u < 4; u++) bytes /= 1000;
    std::snprintf(text, sizeof text, u == 0 ? "%.0f %s" : "%.1f %s", bytes, units[u]);
    return text;
}
std::string one_line(const std::string& name) {         // a name out of a file, for the terminal
    std::string s = printable(name);
    std::replace_if(s.begin(), s.end(), [](char c) { return c == '\n' || c == '\t'; }, ' ');
    return s;
}

// Columns as wide as their widest cell; the first and those marked '<' to the left, numbers to the right.
class Table {
  public:
    explicit Table(std::string sides) : sides_(std::move(sides)) {}
    void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
    bool empty() const { return rows_.empty(); }
    void print() const {
        std::vector<size_t> widths(sides_.size());
        for (const auto& row : rows_) for (size_t i = 0; i < row.size(); i++) widths[i] = std::max(widths[i], row[i].size());
        for (const auto& row : rows_) {
            std::string line;
            for (size_t i = 0; i < row.size(); i++) {
                const std::string space(widths[i] - row[i].size(), ' ');
                line += (i ? "  " : "") + (sides_[i] == '<' ? row[i] + space : space + row[i]);
            }
            line.erase(line.find_last_not_of(' ') + 1);
            std::printf("%s\n", line.c_str());
        }
    }

  private:
    std::string sides_;
    std::vector<std::vector<std::string>> rows_;
};

// ---- inspect

struct Contents {                               // of one file, or of a part of it
    size_t bytes = 0;
    uint64_t elements = 0;
    std::map<std::string, size_t> dtypes;       // tensors of each
    std::vector<std::pair<std::string, TensorEntry>> tensors;

    void add(const std::string& name, const TensorEntry& e) {
        bytes += e.end - e.begin, elements += uint64_t(Shape(e.shape).numel()), dtypes[e.dtype]++;
        tensors.emplace_back(name, e);
    }
    void add(const Contents& other) { for (const auto& [name, e] : other.tensors) add(name, e); }
    std::string dtype_text() const {            // "F32", or "F32 230, I64 1"
        std::string text;
        for (const auto& [dtype, n] : dtypes) text += concat(text.empty() ? "" : ", ", dtype, dtypes.size() > 1 ? concat(" ", n) : "");
        return text;
    }
    Json json(bool with_tensors) const {
        Json j{{"count", tensors.size()}, {"elements", elements}, {"bytes", bytes}, {"dtypes", dtypes}};
        if (!with_tensors) return j;
        j["tensors"] = Json::array();
        for (const auto& [name, e] : tensors) j["tensors"].push_back({{"name", name}, {"dtype", e.dtype}, {"shape", e.shape}, {"bytes", e.end - e.begin}});
        return j;
    }
    void list(Table& table) const {
        for (const auto& [name, e] : tensors) table.add({one_line(name), e.dtype, concat(Shape(e.shape)), grouped(e.end - e.begin)});
    }
};
Contents contents(const Checkpoint& file, const std::string& prefix = "") {
    Contents c;
    for (const std::string& name : file.names()) if (name.starts_with(prefix)) c.add(name, file.entry(name));
    return c;
}
int print_json(const Json& j) {
    std::printf("%s\n", j.dump(-1, ' ', true, Json::error_handler_t::replace).c_str());
    return 0;
}
void print_metadata(const std::map<std::string, std::string>& metadata) {
    for (const auto& [key, value] : metadata) std::printf("metadata  %s: %s\n", one_line(brief(key)).c_str(), one_line(brief(value)).c_str());
}

int inspect_contents(const Contents& all, const std::map<std::string, std::string>& metadata, const std::string& path, bool list, bool json) {
    if (json) return print_json({{"path", path}, {"metadata", metadata}, {"file", all.json(list)}});
    print_metadata(metadata);
    Table table("<<<>");
    if (list) all.list(table);
    table.print();
    std::printf("%s%s tensors  %s elements  %s bytes (%s)  %s\n", list ? "\n" : "", grouped(all.tensors.size()).c_str(), grouped(all.elements).c_str(),
                grouped(all.bytes).c_str(), in_units(double(all.bytes)).c_str(), all.dtype_text().c_str());
    return 0;
}

int inspect_files(const Checkpoint& file, const std::string& path, bool list, bool json) { return inspect_contents(contents(file), file.metadata(), path, list, json); }
int inspect_gguf(const std::string& path, bool json) {
    const auto file = Gguf::open(path);
    Contents all;
    for (const auto& [name, entry] : file->tensors()) all.add(name, entry);
    return inspect_contents(all, file->metadata(), path, true, json);
}

// The model that the settings of a MERV folder describe, as the reference makes it: timm's encoders at the size they run with.
MervParts read_parts(const std::string& folder, const Checkpoint& own) {
    MervParts p{.config = read_merv_config(folder + "/config.json"), .llm = read_llama_config(folder + "/llm")};
    for (size_t i = 0; i < p.config.video_backbone_ids.size(); i++) {
        p.encoders.push_back(read_encoder_config(p.config.video_backbone_ids[i], folder + "/encoders/" + p.config.video_backbone_ids[i]));
        if (auto* timm = std::get_if<TimmConfig>(&p.encoders.back())) timm->image = p.config.image_size[i];
    }
    if (own.has("feature_fusion.Q") && own.entry("feature_fusion.Q").shape.size() == 2) p.fusion_width = own.entry("feature_fusion.Q").shape[1];
    return p;
}

int inspect_merv(const std::string& folder, bool list, bool json) {
    const Checkpoint own = Checkpoint::open(folder);
    Merv m = build(read_parts(folder, own));
    Json rows = Json::array();
    Table table("<><>>><"), names("<<<>");
    table.add({"part", "parameters", "folder", "in the files: tensors", "elements", "bytes", "types"});
    Contents all;
    int64_t parameters = 0;
    for (const ModelPart& part : model_parts(m)) {
        const Contents c = part.folder.empty() ? contents(own, part.name + ".") : contents(Checkpoint::open(folder + "/" + part.folder));
        all.add(c), parameters += part.parameters();
        rows.push_back({{"name", part.name}, {"folder", part.folder}, {"parameters", part.parameters()}, {"file", c.json(list)}});
        table.add({part.name, grouped(uint64_t(part.parameters())), part.folder.empty() ? "." : part.folder, grouped(c.tensors.size()), grouped(c.elements), grouped(c.bytes),
                   c.dtype_text()});
        if (list) names.add({(names.empty() ? "" : "\n") + part.name}), c.list(names);
    }
    if (json) return print_json({{"path", folder}, {"model_id", m.config.model_id}, {"parts", rows}, {"parameters", parameters}, {"file", all.json(false)}});
    table.add({"in all", grouped(uint64_t(parameters)), "", grouped(all.tensors.size()), grouped(all.elements), grouped(all.bytes), in_units(double(all.bytes))});
    if (list) names.print(), std::printf("\n");
    std::printf("%s (%s)\n", one_line(brief(m.config.model_id)).c_str(), one_line(brief(m.config.arch_specifier)).c_str());
    table.print();
    return 0;
}

bool is_merv_folder(const std::string& folder) {
    std::error_code ignored;
    return fs::exists(folder + "/llm", ignored) || (fs::exists(folder + "/config.json", ignored) && read_json(folder + "/config.json").contains("video_backbone_ids"));
}

// The i-th argument of a command, which must be there and exist.
std::string existing(const Flags& flags, size_t i, const char* command) {
    if (flags.positionals().size() <= i || flags.positionals()[i].empty()) fail(Exit::usage, "which file or folder? `", flags.program(), " ", command, " FILE|DIR`");
    std::string path = flags.positionals()[i];
    while (path.size() > 1 && path.ends_with('/')) path.pop_back();
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (!fs::exists(status)) fail(Exit::bad_weights, path, ": ", status.type() == fs::file_type::not_found ? "no such file or folder" : error.message(), "; check the path");
    return path;
}

int inspect(const Flags& flags) {
    const std::string path = existing(flags, 0, "inspect");
    const bool list = flags.on("verbose"), json = flags.on("json");
    if (is_gguf(path)) return inspect_gguf(path, json);
    if (!fs::is_directory(path)) return inspect_files(Checkpoint::open(path), path, true, json);
    if (is_merv_folder(path)) return inspect_merv(path, list, json);
    return inspect_files(Checkpoint::open(path), path, list, json);
}

// ---- random

struct Planned {                                // one checkpoint of the folder
    std::string name, folder;
    std::vector<TensorSpec> specs = {};
    int64_t parameters = 0;
    size_t bytes = 0;
};

std::vector<Planned> plan(const std::vector<ModelPart>& parts, DType dtype) {
    std::vector<Planned> files;
    for (const ModelPart& part : parts) {
        auto file = std::find_if(files.begin(), files.end(), [&](const Planned& f) { return f.folder == part.folder; });
        if (file == files.end()) file = files.insert(file, {.name = part.folder.empty() ? "projectors, fusion" : part.name, .folder = part.folder});
        for (const auto& [name, t] : part.tensors) file->specs.push_back({name, dtype, t.shape()}), file->bytes += file->specs.back().bytes();
        file->parameters += part.parameters();
    }
    return files;
}

// Refuses, before anything is touched, a folder with something in it and a disk with too little room.
void require_place(const std::string& out, size_t bytes, bool force, const char* advice) {
    std::error_code error;
    const fs::file_status status = fs::status(out, error);
    if (fs::exists(status) && !fs::is_directory(status)) fail(Exit::usage, "--out ", out, " is not a folder");
    if (fs::is_directory(status) && !force && !fs::is_empty(out, error)) fail(Exit::usage, "--out ", out, " is not empty; give a new folder", advice);
    fs::path there = fs::absolute(out, error).lexically_normal();
    while (!fs::exists(there, error) && there.has_relative_path()) there = there.parent_path();
    const fs::space_info space = fs::space(there, error);
    const size_t needed = bytes + (size_t(16) << 20);   // headers, settings, the file system's own
    if (!error && space.available < needed)
        fail(Exit::runtime, out, ": ", in_units(double(needed)), " are needed, the disk has ", in_units(double(space.available)), " left; choose another place or --dtype bf16");
}

// Links that lead out of the folder: what they point to would be overwritten.
void refuse_links(const std::string& out, const std::vector<Planned>& files) {
    std::error_code error;
    for (const Planned& f : files)
        for (fs::path p = f.folder; !p.empty(); p = p.parent_path())
            if (fs::is_symlink(fs::path(out) / p, error)) fail(Exit::usage, out, "/", p.string(), " is a link, and what it points to would be overwritten; remove the link");
}

// Tells how long writing took, when it ends.
class Stopwatch {
  public:
    void written(const std::string& what, uint64_t parameters, size_t bytes) const {
        const double s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
        char time[32];
        std::snprintf(time, sizeof time, "%.1f s", s);
        say("write    ", what, ": ", grouped(parameters), " parameters, ", in_units(double(bytes)), ", ", time, ", ", in_units(double(bytes) / s), "/s");
    }

  private:
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

void write_random(const Planned& f, const std::string& out, uint64_t seed, const std::string& source) {
    const Stopwatch watch;
    std::vector<std::byte> piece(std::min(f.bytes, kWritePiece));
    auto values = [&](size_t i, size_t begin, size_t end) {
        const TensorSpec& t = f.specs[i];
        const int64_t size = size_of(t.dtype);
        fill_random(seed, f.folder, t.name, initial_spread(t.name, t.shape), t.dtype, int64_t(begin) / size, int64_t(end - begin) / size, piece.data());
        return piece.data();
    };
    write_checkpoint(out + "/" + f.folder, f.specs, values, {{"format", "pt"}, {"merv_cpp", kVersion}, {"source", source}});
    watch.written(f.name, uint64_t(f.parameters), f.bytes);
}

void choose_threads(const Flags& flags) {
    if (flags.integer("threads") < 0 || flags.integer("threads") > 4096) fail(Exit::usage, "--threads takes 0 to 4096");
    if (flags.integer("threads")) omp_set_num_threads(int(flags.integer("threads")));
}

int random(const Flags& flags) {
    std::string choices;
    for (const std::string& name : preset_names()) choices += (choices.empty() ? "" : " or ") + name;
    if (!flags.has("config")) fail(Exit::usage, "--config NAME is missing: ", choices);
    const std::string name = flags.text("config"), type = flags.text("dtype") == "auto" ? "f32" : flags.text("dtype"), out = flags.text("out");
    if (type != "f32" && type != "bf16") fail(Exit::usage, "--dtype takes f32 or bf16, not '", type, "'");
    choose_threads(flags);
    const bool dry = flags.on("dry-run");
    if (!dry && out.empty()) fail(Exit::usage, "--out DIR is missing: the folder to write; --dry-run shows what it would hold");
    const DType dtype = type == "f32" ? DType::f32 : DType::bf16;
    const uint64_t seed = uint64_t(flags.integer("seed"));
    const Preset p = preset(name, dtype);
    Merv m = build(p.parts);
    const std::vector<ModelPart> parts = model_parts(m);
    std::string tokenizer;
    if (flags.has("tokenizer")) {
        const std::string path = flags.text("tokenizer");
        if (const int pieces = Tokenizer::load(path).size(); pieces > p.parts.llm.vocab)
            fail(Exit::usage, "--tokenizer ", path, " has ", pieces, " pieces, ", name, " only ", p.parts.llm.vocab, " rows");
        tokenizer = read_text(path, size_t(64) << 20);
    }

    Json rows = Json::array();
    Table table("<><>>");
    table.add({"part", "parameters", "folder", "tensors", "bytes"});
    int64_t parameters = 0;
    size_t bytes = 0, tensors = 0;
    for (const ModelPart& part : parts) {
        const int64_t n = part.parameters(), size = n * size_of(dtype);
        rows.push_back({{"name", part.name}, {"folder", part.folder}, {"parameters", n}, {"count", part.tensors.size()}, {"bytes", size}});
        table.add({part.name, grouped(uint64_t(n)), part.folder.empty() ? "." : part.folder, grouped(part.tensors.size()), grouped(uint64_t(size))});
        parameters += n, bytes += size_t(size), tensors += part.tensors.size();
    }
    table.add({"in all", grouped(uint64_t(parameters)), "", grouped(tensors), grouped(bytes)});

    if (!dry) {
        const std::vector<Planned> files = plan(parts, dtype);
        require_place(out, bytes, flags.on("force"), ", or --force to overwrite the model in it");
        refuse_links(out, files);
        std::error_code error;
        for (const Planned& f : files) if (!error) fs::create_directories(fs::path(out) / f.folder, error);
        if (!error) fs::remove(fs::path(out) / "config.json", error);      // from here on, and until all is written, this is no model
        if (error) fail(Exit::runtime, out, ": cannot be written: ", error.message());
        const std::string source = concat("merv-weights random --config ", name, " --dtype ", type, " --seed ", flags.integer("seed"));
        for (const Planned& f : files) write_random(f, out, seed, source);
        if (!tokenizer.empty()) write_text(out + (flags.text("tokenizer").ends_with(".json") ? "/llm/tokenizer.json" : "/llm/tokenizer.model"), tokenizer);
        for (const auto& [path, text] : p.texts) write_text(out + "/" + path, text);
        if (!fs::exists(out + "/llm/tokenizer.model", error) && !fs::exists(out + "/llm/tokenizer.json", error)) warn(out, "/llm has no tokenizer.model; copy the language model's there, or give --tokenizer FILE");
    }
    if (flags.on("json")) return print_json({{"config", name}, {"dtype", type}, {"seed", flags.integer("seed")}, {"parts", rows}, {"parameters", parameters}, {"bytes", bytes}});
    table.print();
    return 0;
}

// ---- import, export

// Every part into a folder of its own below `out`, which appears when all is written.
int write_parts(const Flags& flags, const std::vector<Part>& parts, const std::function<std::string(const Part&)>& folder) {
    const std::string out = flags.text("out");
    const bool dry = flags.on("dry-run");
    if (!dry && out.empty()) fail(Exit::usage, "--out DIR is missing: the folder to write; --dry-run shows what it would hold");
    Json rows = Json::array();
    Table table("<<>>><");
    table.add({"part", "folder", "tensors", "elements", "bytes", "from"});
    size_t bytes = 0, tensors = 0;
    uint64_t elements = 0;
    for (const Part& part : parts) {
        uint64_t n = 0;
        for (const Part::Value& v : part.values) n += uint64_t(v.spec.shape.numel());
        const std::string below = folder(part).empty() ? "." : folder(part), from = one_line(part.file.path());
        rows.push_back({{"name", part.name}, {"folder", below}, {"count", part.values.size()}, {"elements", n}, {"bytes", part.bytes()}, {"from", part.file.path()}});
        table.add({part.name, below, grouped(part.values.size()), grouped(n), grouped(part.bytes()), from});
        bytes += part.bytes(), tensors += part.values.size(), elements += n;
    }
    table.add({"in all", "", grouped(tensors), grouped(elements), grouped(bytes)});
    if (!dry) {
        require_place(out, bytes, false, "");
        NewFolder place(out);
        for (const Part& part : parts) {
            const Stopwatch watch;
            const std::string below = place.path() + "/" + folder(part);
            std::error_code error;
            fs::create_directories(below, error);
            if (error) fail(Exit::runtime, below, ": cannot be written: ", error.message());
            write_part(part, below, {{"format", "pt"}, {"merv_cpp", kVersion}, {"source", "merv-weights"}});
            uint64_t n = 0;
            for (const Part::Value& v : part.values) n += uint64_t(v.spec.shape.numel());
            watch.written(part.name, n, part.bytes());
        }
        place.commit();
    }
    if (flags.on("json")) return print_json({{"out", out}, {"parts", rows}, {"elements", elements}, {"bytes", bytes}});
    table.print();
    return 0;
}

std::optional<DType> chosen_floats(const Flags& flags) {
    if (!flags.has("dtype")) return {};
    const std::string type = flags.text("dtype");
    if (type != "f32" && type != "bf16") fail(Exit::usage, "--dtype takes f32 or bf16, not '", type, "'");
    return type == "f32" ? DType::f32 : DType::bf16;
}
int import(const Flags& flags) {
    const std::optional<DType> floats = chosen_floats(flags);
    choose_threads(flags);
    for (const char* needed : {"merv", "llm"}) if (flags.text(needed).empty()) fail(Exit::usage, "--", needed, " DIR is missing");
    auto found = [&](const char* flag) { return find_model(flags.text(flag), concat("--", flag)); };
    PartPaths paths{found("merv"), found("llm"), {}};
    for (const char* encoder : {"languagebind", "dinov2", "vivit", "siglip"}) if (!flags.text(encoder).empty()) paths.encoders[encoder] = found(encoder);
    const std::vector<Part> parts = open_parts(paths, floats);
    for (const auto& [encoder, path] : paths.encoders)
        if (std::none_of(parts.begin(), parts.end(), [&](const Part& p) { return p.name == encoder; })) warn("--", encoder, " is not used: this model has no such encoder");
    const bool tokenizer = std::any_of(parts.back().copies.begin(), parts.back().copies.end(), [](const std::string& path) { return path.ends_with("/tokenizer.model"); });
    if (!tokenizer) warn(paths.llm, " has no tokenizer.model; the folder needs one in llm/ before it can be asked");
    return write_parts(flags, parts, [](const Part& part) { return part.folder; });
}

// What a run of merv-train has trained, in the folder that it started from: a MERV folder for merv-ask and merv-eval. Trained values are f32 unless --dtype says other.
int export_checkpoint(const Flags& flags) {
    const train::Saved saved = train::find_checkpoint(flags.positionals()[0], flags.positionals()[0]);
    const std::string base = flags.text("model").empty() ? saved.model_dir : flags.text("model");
    if (!is_merv_folder(base)) fail(Exit::bad_weights, base, ": is no MERV folder; the run started from it: give its place with -m DIR");
    const std::optional<DType> floats = chosen_floats(flags);
    std::vector<Part> parts = open_parts(parts_of_folder(base), floats);
    std::map<std::string, Tensor> trained = train::read_trained(saved.folder);
    for (Part& part : parts) {
        if (part.name != "merv" && part.name != "llm") continue;
        for (Part::Value& v : part.values) {
            const auto found = trained.find(part.name == "llm" ? "llm." + v.name : v.name);
            if (found == trained.end()) continue;
            if (!(found->second.shape() == v.spec.shape)) fail(Exit::bad_weights, saved.folder, ": '", v.name, "' is ", found->second, ", that of ", base, " is ", v.spec.shape, "; the run started from another model");
            part.file.replace(v.name, found->second);
            v.spec.dtype = floats.value_or(DType::f32), v.spec.kept.clear();
            trained.erase(found);
        }
    }
    if (!trained.empty()) fail(Exit::bad_weights, saved.folder, ": '", trained.begin()->first, "' is no parameter of ", base, "; the run started from another model");
    const Json frames = parse_json(saved.config_json, saved.folder).value("model.num_frames", Json::array());
    if (!frames.empty()) {
        Json config = parse_json(parts[0].texts[0].second, base);
        Json& list = config["num_frames"];
        list = Json::array();
        for (size_t i = 0; i < config["video_backbone_ids"].size(); i++) list.push_back(frames[frames.size() == 1 ? 0 : i]);
        parts[0].texts[0].second = config.dump(2) + "\n";
    }
    return write_parts(flags, parts, [](const Part& part) { return part.folder; });
}

int export_parts(const Flags& flags) {
    choose_threads(flags);
    if (!flags.positionals().empty()) return export_checkpoint(flags);
    if (!flags.on("parts")) fail(Exit::usage, "what to export is missing: a checkpoint of merv-train, or --parts");
    if (flags.text("model").empty()) fail(Exit::usage, "-m DIR is missing: the MERV folder to export");
    return write_parts(flags, open_parts(parts_of_folder(flags.text("model")), chosen_floats(flags)), [](const Part& part) { return part.name; });
}

// ---- verify

constexpr const char* kSums = "SHA256SUMS";
constexpr size_t kReadPiece = size_t(4) << 20;

// The checkpoints of a file, a folder or a MERV folder, by the folder they lie in.
std::vector<std::pair<std::string, Checkpoint>> checkpoints_of(const std::string& path) {
    std::vector<std::pair<std::string, Checkpoint>> all;
    all.emplace_back("", Checkpoint::open(path));
    if (!fs::is_directory(path) || !is_merv_folder(path)) return all;
    for (const std::string& id : read_merv_config(path + "/config.json").video_backbone_ids) all.emplace_back("encoders/" + id, Checkpoint::open(path + "/encoders/" + id));
    all.emplace_back("llm", Checkpoint::open(path + "/llm"));
    return all;
}
// f(bytes, where they begin) for a tensor's packed values, piece by piece.
template <class F> void for_each_piece(const Checkpoint& c, const std::string& name, std::vector<std::byte>& buffer, F f) {
    const TensorEntry& e = c.entry(name);
    const size_t bytes = e.end - e.begin;
    buffer.resize(std::max(buffer.size(), std::min(bytes, kReadPiece)));
    for (size_t at = 0; at < bytes; at += kReadPiece) {
        const size_t n = std::min(kReadPiece, bytes - at);
        c.read(name, at, at + n, buffer.data());
        c.forget(name);
        f(std::span<const std::byte>(buffer.data(), n), at);
    }
}
std::string sha256_of_file(const std::string& path) {
    Sha256 hash;
    std::error_code error;
    if (fs::file_size(path, error) == 0 && !error) return hash.hex();
    const auto file = MappedFile::open(path, "a file");
    for (size_t at = 0, all = file->bytes().size(); at < all; at += kReadPiece) {
        const auto piece = file->bytes().subspan(at, std::min(kReadPiece, all - at));
        hash.add(piece), file->forget(piece);
    }
    return hash.hex();
}

// Files of a folder, without hidden ones and the list of sums, sorted; parts may be links.
std::vector<std::string> files_below(const std::string& folder) {
    std::vector<std::string> all;
    std::error_code error;
    for (fs::recursive_directory_iterator it(folder, fs::directory_options::follow_directory_symlink, error), end; !error && it != end; it.increment(error)) {
        const std::string name = it->path().filename().string();
        if (it.depth() >= 8 || name[0] == '.') it.disable_recursion_pending();     // a link may lead back up
        if (name[0] != '.' && it->is_regular_file(error) && !error && fs::relative(it->path(), folder, error).string() != kSums) all.push_back(it->path().lexically_relative(folder).string());
    }
    if (error) fail(Exit::bad_weights, folder, ": cannot be read: ", error.message());
    std::sort(all.begin(), all.end());
    return all;
}

bool is_sha256(const std::string& text) { return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == text.npos; }
// What sha256sum wrote: 64 digits, two characters, the name.
std::map<std::string, std::string> read_sums(const std::string& path) {
    std::map<std::string, std::string> sums;
    const std::string text = read_text(path);
    for (size_t at = 0; at < text.size();) {
        const size_t end = std::min(text.find('\n', at), text.size());
        const std::string line = text.substr(at, end - at);
        if (line.size() < 67 || !is_sha256(line.substr(0, 64))) fail(Exit::bad_weights, path, ": \"", brief(line, 80), "\" is no line of sha256sum");
        sums[line.substr(66)] = line.substr(0, 64);
        at = end + 1;
    }
    return sums;
}
// Hugging Face's cache calls a large file by its SHA-256.
std::string sum_of_blob(const std::string& path) {
    std::error_code error;
    const fs::path real = fs::canonical(path, error);
    return !error && real.parent_path().filename() == "blobs" && is_sha256(real.filename()) ? real.filename().string() : "";
}

int verify_one(const std::string& path, bool list, bool json) {
    const bool folder = fs::is_directory(path);
    const auto checkpoints = checkpoints_of(path);              // headers are checked here, and below what they promise
    if (folder && is_merv_folder(path)) open_parts(parts_of_folder(path));
    std::map<std::string, std::string> sums;
    std::error_code error;
    if (folder && fs::exists(path + "/" + kSums, error) && fs::file_size(path + "/" + kSums, error) > 0) sums = read_sums(path + "/" + kSums);

    std::string wrong;
    size_t known = 0;
    auto expect = [&](const std::string& name, const std::string& got, const std::string& wanted, const char* by) {
        known++;
        if (got != wanted) wrong += concat("\n  ", one_line(brief(name)), ": ", got, ", ", by, " says ", wanted);
    };
    Json files = Json::array(), tensors = Json::array();
    Table rows("<<"), values("<<<<");
    for (const std::string& name : folder ? files_below(path) : std::vector<std::string>{fs::path(path).filename().string()}) {
        const std::string file = folder ? path + "/" + name : path, sum = sha256_of_file(file), blob = sum_of_blob(file);
        if (const auto found = sums.find(name); found != sums.end()) expect(name, sum, found->second, kSums), sums.erase(found);
        if (!blob.empty()) expect(name, sum, blob, "the cache");
        files.push_back({{"name", name}, {"sha256", sum}});
        rows.add({sum, one_line(name)});
    }
    for (const auto& [name, sum] : sums) wrong += concat("\n  ", one_line(brief(name)), ": is not there, ", kSums, " says ", sum);
    std::vector<std::byte> buffer;
    size_t count = 0;
    for (const auto& [part, file] : checkpoints)
        for (const std::string& name : file.names()) {
            count++;
            file.check(name);
            if (!list) continue;
            Sha256 hash;
            for_each_piece(file, name, buffer, [&](std::span<const std::byte> piece, size_t) { hash.add(piece); });
            const TensorEntry& e = file.entry(name);
            const std::string sum = hash.hex(), full = part.empty() ? name : part + ":" + name;
            tensors.push_back({{"name", full}, {"dtype", e.dtype}, {"shape", e.shape}, {"sha256", sum}});
            values.add({sum, e.dtype, concat(Shape(e.shape)), one_line(full)});
        }
    if (!wrong.empty()) fail(Exit::bad_weights, path, ": is not what it should be; get it again", wrong);
    say("verified ", files.size(), " files and ", count, " tensors", known ? concat(", ", known, " files against known sums") : "");
    if (json) return print_json({{"path", path}, {"compared", known}, {"files", files}, {"tensors", tensors}});
    rows.print(), values.print();
    return 0;
}

// The tensors of two files or folders, by name, type, shape and bits.
int verify_two(const std::string& a, const std::string& b, bool json) {
    const auto left = checkpoints_of(a), right = checkpoints_of(b);
    std::map<std::string, std::pair<const Checkpoint*, std::string>> others;
    auto full = [](const std::string& part, const std::string& name) { return part.empty() ? name : part + ":" + name; };
    for (const auto& [part, file] : right) for (const std::string& name : file.names()) others[full(part, name)] = {&file, name};
    std::vector<std::string> different;
    std::vector<std::byte> mine, theirs(kReadPiece);
    size_t count = 0, bytes = 0;
    for (const auto& [part, file] : left)
        for (const std::string& name : file.names()) {
            const auto other = others.find(full(part, name));
            const TensorEntry& e = file.entry(name);
            count++, bytes += e.end - e.begin;
            if (other == others.end()) { different.push_back(full(part, name) + " (not in the second)"); continue; }
            const auto [there, its_name] = other->second;
            const TensorEntry& o = there->entry(its_name);
            bool same = e.dtype == o.dtype && e.shape == o.shape;
            if (!same) different.push_back(concat(full(part, name), " (", e.dtype, Shape(e.shape), " and ", o.dtype, Shape(o.shape), ")"));
            else {
                for_each_piece(file, name, mine, [&](std::span<const std::byte> piece, size_t at) {
                    there->read(its_name, at, at + piece.size(), theirs.data());
                    there->forget(its_name);
                    same &= std::memcmp(piece.data(), theirs.data(), piece.size()) == 0;
                });
                if (!same) different.push_back(full(part, name) + " (values)");
            }
            others.erase(other);
        }
    for (const auto& [name, other] : others) different.push_back(name + " (not in the first)");
    if (!different.empty()) {
        std::string text;
        for (size_t i = 0; i < std::min<size_t>(different.size(), 10); i++) text += "\n  " + one_line(brief(different[i], 300));
        fail(Exit::bad_weights, a, " and ", b, " differ in ", different.size(), " of ", count, " tensors", text, different.size() > 10 ? "\n  ..." : "");
    }
    if (json) return print_json({{"equal", true}, {"count", count}, {"bytes", bytes}});
    std::printf("equal: %s tensors, %s bytes\n", grouped(count).c_str(), grouped(bytes).c_str());
    return 0;
}

int verify(const Flags& flags) {
    const std::string path = existing(flags, 0, "verify");
    if (flags.positionals().size() == 2) return verify_two(path, existing(flags, 1, "verify"), flags.on("json"));
    return verify_one(path, flags.on("verbose") || flags.on("json") || !fs::is_directory(path), flags.on("json"));
}

}

int main(int argc, char** argv) {
    struct Command { const char *name, *usage; std::vector<const char*> flags; size_t positionals; int (*run)(const Flags&); };
    const Command commands[] = {
        {"inspect", "merv-weights inspect FILE|DIR [-v] [--json]", {"json"}, 1, inspect},
        {"verify", "merv-weights verify FILE|DIR [FILE|DIR] [-v] [--json]", {"json"}, 2, verify},
        {"import", "merv-weights import --merv DIR --llm DIR --languagebind DIR --dinov2 DIR --vivit DIR --siglip DIR --out DIR [--dtype bf16] [...]",
         {"merv", "llm", "languagebind", "dinov2", "vivit", "siglip", "dtype", "out", "dry-run", "json", "threads"}, 0, import},
        {"export", "merv-weights export CHECKPOINT|--parts -m DIR --out DIR [--dtype bf16] [...]", {"parts", "model", "dtype", "out", "dry-run", "json", "threads"}, 1, export_parts},
        {"random", "merv-weights random --config NAME --out DIR [--dtype bf16] [...]", {"config", "dtype", "seed", "out", "force", "tokenizer", "dry-run", "json", "threads"}, 0, random},
    };
    const std::string command = argc > 1 ? argv[1] : "";
    std::string all, names;
    for (const Command& c : commands) {
        if (command == c.name) {
            Flags flags("merv-weights", c.usage, c.flags, c.positionals);
            return run_program(flags, argc - 1, argv + 1, [&] { return c.run(flags); });
        }
        all += concat(all.empty() ? "" : "\n       ", c.usage), names += concat(names.empty() ? "" : ", ", c.name);
    }
    Flags flags("merv-weights", all, {}, 1);
    return run_program(flags, argc, argv, [&]() -> int { fail(Exit::usage, command.empty() ? "what to do?" : concat("no command '", command, "';"), " the commands are ", names); });
}
