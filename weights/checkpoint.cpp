#include "weights/checkpoint.h"
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <set>
#include "core/json.h"
#include "core/log.h"
#include "weights/file.h"

namespace merv {
namespace fs = std::filesystem;
namespace {

constexpr const char* kIndex = ".index.json";
// What a folder's weights may be called, the first that is there counts.
constexpr const char* kNames[] = {"model.safetensors", "model.safetensors.index.json", "open_clip_model.safetensors",
                                  "pytorch_model.bin", "pytorch_model.bin.index.json", "open_clip_pytorch_model.bin",
                                  "checkpoints/latest-checkpoint.pt"};      // as MERV's training leaves it

// The file or index that holds a folder's weights.
std::string weights_in(const std::string& folder) {
    std::error_code error;
    const auto status = fs::status(folder, error);
    if (!fs::exists(status)) fail(Exit::bad_weights, folder, ": no such folder; check the path");
    if (!fs::is_directory(status)) fail(Exit::bad_weights, folder, ": a model folder or a file of weights is expected");
    for (const char* name : kNames) if (fs::exists(fs::status(folder + "/" + name, error))) return folder + "/" + name;
    std::vector<std::string> single;            // facebook's dinov2_vitl14_reg4_pretrain.pth
    for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
        const std::string extension = it->path().extension().string();
        if (extension == ".pt" || extension == ".pth") single.push_back(it->path().filename().string());
    }
    if (error) fail(Exit::bad_weights, folder, ": cannot be read: ", error.message(), "; check its permissions");
    if (single.size() == 1) return folder + "/" + single[0];
    if (single.size() > 1) fail(Exit::bad_weights, folder, ": holds ", brief(std::min(single[0], single[1])), " and ", single.size() - 1, " more; say which file");
    fail(Exit::bad_weights, folder, ": holds neither model.safetensors nor model.safetensors.index.json nor pytorch_model.bin; is the download complete?");
}

bool is_known(const std::string& name, const std::vector<std::string>& patterns) {
    return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) { return matches(name, pattern); });
}

std::string shape_text(const std::vector<int64_t>& dims) { return concat(Shape(dims)); }

// "missing (12): a, b, ..." with at most ten names, after `before`; or nothing.
std::string listed(const std::string& before, const std::vector<std::string>& names) {
    if (names.empty()) return "";
    std::string text = concat(before, " (", names.size(), "): ");
    for (size_t i = 0; i < std::min<size_t>(names.size(), 10); i++) text += (i ? ", " : "") + brief(names[i]);
    return text + (names.size() > 10 ? ", ..." : "");
}

}

bool matches(const std::string& name, const std::string& pattern) {
    const size_t star = pattern.find('*');
    if (star == std::string::npos) return name == pattern;
    const std::string_view head = std::string_view(pattern).substr(0, star), tail = std::string_view(pattern).substr(star + 1);
    return name.size() >= head.size() + tail.size() && name.starts_with(head) && name.ends_with(tail);
}

Checkpoint Checkpoint::open(const std::string& path) {
    Checkpoint c;
    std::error_code ignored;
    c.path_ = fs::is_regular_file(path, ignored) ? path : weights_in(path);
    if (!c.path_.ends_with(kIndex)) {
        c.files_.push_back(TensorFile::open(c.path_));
        for (const auto& [name, entry] : c.files_[0]->entries()) c.items_[name] = {0, name};
        return c;
    }
    const std::string folder = c.path_.find('/') == path.npos ? "." : c.path_.substr(0, c.path_.rfind('/'));

    const Json index = read_json(c.path_);
    const auto map = index.is_object() ? index.find("weight_map") : index.end();
    if (!index.is_object() || map == index.end() || !map->is_object() || map->empty())
        fail(Exit::bad_weights, c.path_, ": \"weight_map\" must be an object {tensor name: file name}; get the file again");
    std::map<std::string, size_t> shards;
    for (const auto& [name, value] : map->items()) {
        if (!value.is_string()) fail(Exit::bad_weights, c.path_, ": the file name of ", brief(name), " is not a string");
        const std::string file = value.get<std::string>();
        if (file.empty() || file[0] == '.' || file.find_first_of("/\\") != file.npos || file.find('\0') != file.npos)
            fail(Exit::bad_weights, c.path_, ": the shard name \"", brief(file), "\" of ", brief(name), " is not a plain file name");
        const auto [shard, is_new] = shards.emplace(file, c.files_.size());
        if (is_new) {
            if (!fs::exists(fs::status(folder + "/" + file, ignored))) fail(Exit::bad_weights, c.path_, ": the shard ", brief(file), " is not in the folder; is the download complete?");
            c.files_.push_back(TensorFile::open(folder + "/" + file));
        }
        if (!c.files_[shard->second]->entries().count(name))
            fail(Exit::bad_weights, c.path_, ": the tensor ", brief(name), " is not in ", brief(file), "; index and shards belong to different files");
        c.items_[name] = {shard->second, name};
    }
    for (const auto& [file, i] : shards)
        for (const auto& [name, entry] : c.files_[i]->entries()) {
            const auto item = c.items_.find(name);
            if (item == c.items_.end() || item->second.file != i)
                fail(Exit::bad_weights, c.path_, ": lacks the tensor ", brief(name), " of ", brief(file), "; index and shards belong to different files");
        }
    return c;
}

std::vector<std::string> Checkpoint::names() const {
    std::vector<std::string> all;
    for (const auto& item : items_) all.push_back(item.first);
    return all;
}
std::vector<std::string> Checkpoint::unused() const {
    std::vector<std::string> left;
    for (const auto& [name, item] : items_) if (!item.used) left.push_back(name);
    return left;
}
const Checkpoint::Item& Checkpoint::item(const std::string& name) const {
    const auto found = items_.find(name);
    CHECK(found != items_.end(), path_, ": no tensor ", brief(name));
    return found->second;
}
const TensorEntry& Checkpoint::entry(const std::string& name) const { return file(name).entries().at(stored(name)); }
size_t Checkpoint::bytes() const {
    size_t sum = 0;
    for (const auto& [name, item] : items_) {
        const TensorEntry& e = entry(name);
        sum += e.dtype == "F16" ? 2 * (e.end - e.begin) : e.dtype == "I64" ? (e.end - e.begin) / 2 : e.end - e.begin;
    }
    return sum;
}
Tensor Checkpoint::take(const std::string& name) {
    const Item& found = item(name);
    items_[name].used = true;
    MemTag tag("weights");
    return files_[found.file]->tensor(found.stored);
}

void Checkpoint::rename(const std::function<std::string(const std::string&)>& name_of) {
    std::map<std::string, Item> renamed;
    std::map<std::string, std::string> before;
    for (const auto& [name, item] : items_) {
        const std::string now = name_of(name);
        if (now.empty()) continue;
        const auto [old, is_new] = before.emplace(now, name);
        if (!is_new) {
            const auto [shorter, longer] = std::minmax(old->second, name, [](const std::string& a, const std::string& b) { return a.size() < b.size(); });
            fail(Exit::bad_weights, path_, ": holds both ", brief(shorter), " and ", brief(longer), "; which one is meant cannot be told");
        }
        renamed.emplace(now, item);
    }
    items_ = std::move(renamed);
}
void Checkpoint::replace(const std::string& name, const Tensor& values) {
    files_.push_back(memory_file(path_, name, values));
    items_[name] = {files_.size() - 1, name};
}
std::string Checkpoint::strip_prefix(const std::vector<std::string>& wrappers, const std::string& wanted) {
    if (has(wanted)) return "";
    for (const std::string& wrapper : wrappers) {
        if (wrapper.empty() || !has(wrapper + wanted)) continue;
        rename([&](const std::string& name) { return name.starts_with(wrapper) && name.size() > wrapper.size() ? name.substr(wrapper.size()) : name; });
        return wrapper;
    }
    return "";
}

void write_checkpoint(const std::string& folder, std::span<const TensorSpec> tensors, const TensorValues& values,
                      const std::map<std::string, std::string>& metadata, size_t most) {
    std::error_code error;
    std::vector<fs::path> old;
    for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
        const std::string name = it->path().filename().string();
        const bool shard = name.size() == 32 && matches(name, "model-*.safetensors") && name.substr(11, 4) == "-of-";
        if (shard || name == "model.safetensors" || name == "model.safetensors.index.json") old.push_back(it->path());
    }
    for (size_t i = 0; !error && i < old.size(); i++) fs::remove(old[i], error);
    if (error) fail(Exit::runtime, folder, ": cannot be written: ", error.message());

    std::vector<size_t> starts;                 // the first tensor of each shard
    size_t all = 0, here = 0;
    for (size_t i = 0; i < tensors.size(); i++) {
        if (i == 0 || here + tensors[i].bytes() > most) starts.push_back(i), here = 0;
        here += tensors[i].bytes(), all += tensors[i].bytes();
    }
    if (starts.size() <= 1) return write_safetensors(folder + "/model.safetensors", tensors, values, metadata);
    Json map = Json::object();
    for (size_t s = 0; s < starts.size(); s++) {
        char name[64];
        std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", s + 1, starts.size());
        const size_t first = starts[s], last = s + 1 < starts.size() ? starts[s + 1] : tensors.size();
        for (size_t i = first; i < last; i++) map[tensors[i].name] = name;
        write_safetensors(concat(folder, "/", name), tensors.subspan(first, last - first),
                          [&](size_t i, size_t begin, size_t end) { return values(first + i, begin, end); }, metadata);
    }
    write_text(folder + "/model.safetensors.index.json", Json{{"metadata", {{"total_size", all}}}, {"weight_map", map}}.dump(2) + "\n");
}

void require_match(const Checkpoint& file, const std::vector<Wanted>& wanted, const std::vector<std::string>& known_unused, const std::string& what) {
    std::set<std::string> names;
    std::vector<std::string> missing, unexpected, shapes, dtypes;
    for (const auto& [name, tensor] : wanted) {
        CHECK(names.insert(name).second, "load_strict: ", name, " is wanted twice");
        if (!file.has(name)) { missing.push_back(name); continue; }
        const TensorEntry& e = file.entry(name);
        if (Shape(e.shape) != tensor->shape()) shapes.push_back(concat(brief(name), " ", shape_text(e.shape), " instead of ", tensor->shape()));
        const bool wants_float = tensor->dtype() == DType::f32 || tensor->dtype() == DType::bf16;
        const bool fits = wants_float ? e.dtype == "F32" || e.dtype == "BF16" || e.dtype == "F16"
                                      : e.dtype == (tensor->dtype() == DType::u8 ? "U8" : "I32") || (tensor->dtype() == DType::i32 && e.dtype == "I64");
        if (!fits) dtypes.push_back(concat(brief(name), " ", e.dtype, " instead of ", wants_float ? "F32, BF16 or F16" : name_of(tensor->dtype())));
    }
    for (const std::string& name : file.unused())
        if (!names.count(name) && is_float_dtype(file.entry(name).dtype) && !is_known(name, known_unused)) unexpected.push_back(name);
    if (missing.size() + unexpected.size() + shapes.size() + dtypes.size() != 0)
        fail(Exit::bad_weights, file.path(), ": does not hold ", what, "; is it another model's file?", listed("\n  missing", missing),
             listed("\n  unexpected", unexpected), listed("\n  shapes that differ", shapes), listed("\n  dtypes that cannot be used", dtypes));
}

void load_strict(Checkpoint& file, const std::vector<Wanted>& wanted, const std::vector<std::string>& known_unused, const std::string& what) {
    require_match(file, wanted, known_unused, what);
    size_t widened = 0;
    const OnDevice host(Device::cpu);           // where files are read
    for (const auto& [name, tensor] : wanted) widened += file.entry(name).dtype == "F16", tensor->bind(file.take(name));
    std::vector<std::string> left;
    for (const std::string& name : file.unused()) if (is_float_dtype(file.entry(name).dtype)) left.push_back(name);
    if (widened) say_verbose(file.path(), ": ", widened, " F16 tensors are kept as f32");
    if (!left.empty()) say_verbose(file.path(), ": ", listed("known, not used", left));
}

}
