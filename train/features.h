// The feature cache: what the frozen encoders make of a clip, pooled, kept on disk. A file is named by a hash of everything its values depend on, so a cache can be
// shared by runs and never has to be cleared for correctness.
//
//   DIR/<first two digits>/<64 digits>.safetensors    a tensor per encoder, by its name: (L, C_e) f32 or bf16, with its bits as computed
//   key = sha256 of: the encoder's id and weights, frames and image size, type computed in, pooling, LanguageBind's flip; the clip's file (its bytes) and range
#pragma once
#include <optional>
#include <string>
#include "models/merv.h"

namespace merv::train {

class FeatureCache {
  public:
    FeatureCache(std::string folder, const Merv& merv);         // hashes the encoders' weights, once; "" keeps nothing
    // Of the clip in this file. A folder of frames is hashed file by file. Thread-safe.
    std::string key(const std::string& path, const ClipRange& range, bool flip) const;
    std::optional<Encoded> find(const std::string& key) const;  // none if there is no such file; a damaged one is removed, with a note
    void keep(const std::string& key, const Encoded& encoded) const;    // Error(Exit::runtime): disk full
    bool on() const { return !folder_.empty(); }

  private:
    std::string path(const std::string& key) const;
    std::string folder_, model_;                // model_: hash of everything but the clip
    std::vector<std::string> names_;
    std::vector<Shape> shapes_;
    DType dtype_ = DType::f32;
};

}
