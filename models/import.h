// The parts of a MERV model as they are published, each under its own names, and the MERV folder (docs/model-folder.md) that
// they make; and back. Values pass through in pieces: no part is ever in memory as a whole.
#pragma once
#include <map>
#include <optional>
#include "models/load.h"

namespace merv {

struct PartPaths {                              // folders, or files with their config.json beside them
    std::string merv;                           // config.json and checkpoints/latest-checkpoint.pt, or model.safetensors
    std::string llm;
    std::map<std::string, std::string> encoders;        // by encoder_name()
};
PartPaths parts_of_folder(const std::string& folder);   // of a MERV folder

struct Part {
    struct Value { TensorSpec spec; std::string name; };        // name: in the checkpoint
    std::string name;                           // "merv", "dinov2", "llm": its folder when published
    std::string folder;                         // its folder inside a MERV folder: "", "encoders/...", "llm"
    Checkpoint file;
    std::vector<Value> values;                  // the model's in their order, then what else the part is published with
    std::vector<std::pair<std::string, std::string>> texts;     // settings: file name, contents
    std::vector<std::string> copies;            // paths of further files: tokenizers, preprocessors
    size_t bytes() const;                       // of all values
};

// Opens every part and holds it against the model that the settings describe: what goes through here can be loaded.
// `floats`: the type that all floating-point values get; without it each keeps its own. The language model is taken from the
// MERV checkpoint if that has one. Facebook's names of DINOv2 become timm's. Error(Exit::bad_weights) names the file.
std::vector<Part> open_parts(const PartPaths& paths, std::optional<DType> floats = {});

// FOLDER, which is there, gets the part's files.
void write_part(const Part& part, const std::string& folder, const std::map<std::string, std::string>& metadata);

}
