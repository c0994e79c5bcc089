#include "train/features.h"
#include <algorithm>
#include <filesystem>
#include "core/log.h"
#include "weights/file.h"
#include "weights/hash.h"
#include "weights/safetensors.h"

namespace merv::train {
namespace {

namespace fs = std::filesystem;
void add(Sha256& sum, const std::string& text) {
    const std::string with_length = concat(text.size(), ":", text);
    sum.add(std::as_bytes(std::span(with_length)));
}
void add(Sha256& sum, const Tensor& t) {
    const Tensor host = t.to(Device::cpu);
    add(sum, host.describe());
    sum.add({host.raw(), host.bytes()});
}
void add_file(Sha256& sum, const std::string& path) { sum.add(MappedFile::open(path, "a clip")->bytes()); }
std::string number(const std::optional<double>& v) { return v ? concat(std::hexfloat, *v) : "-"; }

}

FeatureCache::FeatureCache(std::string folder, const Merv& merv) : folder_(std::move(folder)), dtype_(merv.dtype()) {
    if (folder_.empty()) return;
    Sha256 sum;
    add(sum, concat("merv.cpp features 1 ", name_of(dtype_), " ", merv.config.image_resize_strategy));
    for (size_t i = 0; i < merv.encoders.size(); i++) {
        const Encoder& e = merv.encoders[i];
        const Projector& p = merv.projectors[i];
        add(sum, concat(e.id, " ", e.frames, "/", merv.config.most_frames(), " ", e.image, " ", p.frames, "x", p.side, " ", e.mean[0], " ", e.std[0]));
        std::visit([&](auto model) { nn::for_each_parameter(model, [&](const std::string& name, Tensor& t) { if (!t.is_declared()) add(sum, name), add(sum, t); }); }, e.model);
        names_.push_back(e.name);
        shapes_.push_back({int64_t(p.frames) * p.side * p.side, e.width()});
    }
    model_ = sum.hex();
}

std::string FeatureCache::key(const std::string& path, const ClipRange& range, bool flip) const {
    Sha256 sum;
    add(sum, model_);
    add(sum, concat(number(range.start), " ", number(range.end), " ", range.end_frame.value_or(-1), " ", number(range.frames_fps), flip ? " flipped" : ""));
    if (fs::is_directory(path)) {
        std::vector<std::string> files;
        for (const auto& entry : fs::directory_iterator(path)) files.push_back(entry.path().string());
        std::sort(files.begin(), files.end());
        for (const std::string& f : files) if (fs::is_regular_file(f)) add(sum, fs::path(f).filename().string()), add_file(sum, f);
    } else {
        add(sum, fs::path(path).extension().string());
        add_file(sum, path);
    }
    return sum.hex();
}

std::string FeatureCache::path(const std::string& key) const { return concat(folder_, "/", key.substr(0, 2), "/", key, ".safetensors"); }

std::optional<Encoded> FeatureCache::find(const std::string& key) const {
    if (!on() || !fs::exists(path(key))) return {};
    try {
        const auto file = SafeTensors::open(path(key));
        Encoded encoded;
        Sha256 sum;
        for (const std::string& name : names_) add(sum, file->tensor(name));
        const auto hash = file->metadata().find("sha256");
        if (hash == file->metadata().end() || hash->second != sum.hex()) fail(Exit::bad_weights, path(key), ": is damaged");
        for (size_t i = 0; i < names_.size(); i++) {
            const Tensor t = file->tensor(names_[i]);
            if (!(t.shape() == shapes_[i]) || t.dtype() != dtype_) fail(Exit::bad_weights, path(key), ": holds ", t, " as ", names_[i]);
            Tensor own(t.shape(), t.dtype());   // on the current device, and not read from the file again
            own.copy_from(t);
            encoded.pooled.push_back(own), encoded.frames_encoded.push_back(0);
        }
        return encoded;
    } catch (const Error& e) {
        warn("feature cache: ", e.what(), "; computed afresh");
        std::error_code ignored;
        fs::remove(path(key), ignored);
        return {};
    }
}

void FeatureCache::keep(const std::string& key, const Encoded& encoded) const {
    if (!on() || fs::exists(path(key))) return;
    std::error_code error;
    fs::create_directories(fs::path(path(key)).parent_path(), error);
    if (error) fail(Exit::runtime, folder_, ": no folder can be made there: ", error.message(), "; set feature_cache to one that is writable");
    std::vector<std::pair<std::string, Tensor>> tensors;
    Sha256 sum;
    for (size_t i = 0; i < names_.size(); i++) tensors.emplace_back(names_[i], encoded.pooled[i].to(Device::cpu)), add(sum, tensors.back().second);
    write_safetensors(path(key), tensors, {{"key", key}, {"sha256", sum.hex()}});
}

}
