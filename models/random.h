// Whole models of random weights, in the tensor names of the real checkpoints: for trying sizes, speed and training without
// the released weights. A value is a pure function of (seed, folder of the part, tensor's name, index).
#pragma once
#include "models/load.h"

namespace merv {

// The parameters of a model under the names its files have. Projectors and fusion share the folder's own file, folder "".
struct ModelPart {
    std::string name, folder;                   // "dinov2", "encoders/dinov2-video-all-tokens"
    std::vector<std::pair<std::string, Tensor>> tensors;
    int64_t parameters() const;
};
std::vector<ModelPart> model_parts(Merv&);      // encoders, projectors, fusion, language model

// A model by name: the settings files of its folder, and what they make.
struct Preset {
    std::vector<std::pair<std::string, std::string>> texts;     // path in the folder, contents
    MervParts parts;
};
std::vector<std::string> preset_names();
Preset preset(const std::string& name, DType);  // Error(Exit::usage) with the choices; the dtype is written into llm/config.json

// Tensor `name` of a part's folder: its values are evenly distributed in centre +- radius. Scales are those of an untrained
// model whose activations stay finite; the fusion as the reference initialises it.
struct Spread { float centre = 0, radius = 0; };
Spread initial_spread(const std::string& name, const Shape& shape);

// Elements [first, first + count) of that tensor, rounded to the dtype; first is a multiple of 4.
void fill_random(uint64_t seed, const std::string& folder, const std::string& name, Spread, DType, int64_t first, int64_t count, void* out);

}
