// merv-weights: what is in weight files, and whole models of random weights.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <omp.h>
#include "core/json.h"
#include "core/log.h"
#include "core/program.h"
#include "core/version.h"
#include "models/random.h"
#include "weights/checkpoint.h"
#include "weights/file.h"
#include "weights/gguf.h"

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

int inspect(const Flags& flags) {
    if (flags.positionals().empty() || flags.positionals()[0].empty()) fail(Exit::usage, "which file or folder? `", flags.program(), " inspect FILE|DIR`");
    std::string path = flags.positionals()[0];
    while (path.size() > 1 && path.ends_with('/')) path.pop_back();
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (!fs::exists(status)) fail(Exit::bad_weights, path, ": ", status.type() == fs::file_type::not_found ? "no such file or folder" : error.message(), "; check the path");
    const bool list = flags.on("verbose"), json = flags.on("json");
    if (!fs::is_directory(status) && path.ends_with(".gguf")) return inspect_gguf(path, json);
    if (!fs::is_directory(status)) return inspect_files(Checkpoint::open(path), path, true, json);
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

// Refuses, before anything is touched, a folder with something in it, links that lead out of it, and a disk with too little room.
void require_place(const std::string& out, const std::vector<Planned>& files, size_t bytes, bool force) {
    std::error_code error;
    const fs::file_status status = fs::status(out, error);
    if (fs::exists(status) && !fs::is_directory(status)) fail(Exit::usage, "--out ", out, " is not a folder");
    if (fs::is_directory(status) && !force && !fs::is_empty(out, error))
        fail(Exit::usage, "--out ", out, " is not empty; give a new folder, or --force to overwrite the model in it");
    for (const Planned& f : files)
        for (fs::path p = f.folder; !p.empty(); p = p.parent_path())
            if (fs::is_symlink(fs::path(out) / p, error)) fail(Exit::usage, out, "/", p.string(), " is a link, and what it points to would be overwritten; remove the link");
    fs::path there = fs::absolute(out, error).lexically_normal();
    while (!fs::exists(there, error) && there.has_relative_path()) there = there.parent_path();
    const fs::space_info space = fs::space(there, error);
    const size_t needed = bytes + (size_t(16) << 20);   // headers, settings, the file system's own
    if (!error && space.available < needed)
        fail(Exit::runtime, out, ": ", in_units(double(needed)), " are needed, the disk has ", in_units(double(space.available)), " left; choose another place or --dtype bf16");
}

void write_random(const Planned& f, const std::string& out, uint64_t seed, const std::string& source) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::byte> piece(std::min(f.bytes, kWritePiece));
    auto values = [&](size_t i, size_t begin, size_t end) {
        const TensorSpec& t = f.specs[i];
        const int64_t size = size_of(t.dtype);
        fill_random(seed, f.folder, t.name, initial_spread(t.name, t.shape), t.dtype, int64_t(begin) / size, int64_t(end - begin) / size, piece.data());
        return piece.data();
    };
    write_checkpoint(out + "/" + f.folder, f.specs, values, {{"format", "pt"}, {"merv_cpp", kVersion}, {"source", source}});
    const double s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    char time[32];
    std::snprintf(time, sizeof time, "%.1f s", s);
    say("write    ", f.name, ": ", grouped(uint64_t(f.parameters)), " parameters, ", in_units(double(f.bytes)), ", ", time, ", ", in_units(double(f.bytes) / s), "/s");
}

int random(const Flags& flags) {
    std::string choices;
    for (const std::string& name : preset_names()) choices += (choices.empty() ? "" : " or ") + name;
    if (!flags.has("config")) fail(Exit::usage, "--config NAME is missing: ", choices);
    const std::string name = flags.text("config"), type = flags.text("dtype"), out = flags.text("out");
    if (type != "f32" && type != "bf16") fail(Exit::usage, "--dtype takes f32 or bf16, not '", type, "'");
    if (flags.integer("threads") < 0 || flags.integer("threads") > 4096) fail(Exit::usage, "--threads takes 0 to 4096");
    if (flags.integer("threads")) omp_set_num_threads(int(flags.integer("threads")));
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
        require_place(out, files, bytes, flags.on("force"));
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

}

int main(int argc, char** argv) {
    const std::string command = argc > 1 ? argv[1] : "";
    const char *inspecting = "merv-weights inspect FILE|DIR [-v] [--json]", *making = "merv-weights random --config NAME --out DIR [--dtype bf16] [...]";
    if (command == "inspect") {
        Flags flags("merv-weights", inspecting, {"json"}, 1);
        return run_program(flags, argc - 1, argv + 1, [&] { return inspect(flags); });
    }
    if (command == "random") {
        Flags flags("merv-weights", making, {"config", "dtype", "seed", "out", "force", "tokenizer", "dry-run", "json", "threads"});
        return run_program(flags, argc - 1, argv + 1, [&] { return random(flags); });
    }
    Flags flags("merv-weights", concat(inspecting, "\n       ", making), {}, 1);
    return run_program(flags, argc, argv, [&]() -> int {
        fail(Exit::usage, command.empty() ? "what to do?" : concat("no command '", command, "';"), " `merv-weights inspect FILE|DIR` or `merv-weights random --config NAME --out DIR`");
    });
}
