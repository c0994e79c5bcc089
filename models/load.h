// A MERV folder (docs/model-folder.md), or a language model alone, becomes a Merv: configs read, modules declared, memory
// checked, weights bound where they lie in the mapped files. Every mistake in them is Error(Exit::bad_weights) naming the file.
#pragma once
#include <optional>
#include "models/merv.h"
#include "models/prompt.h"
#include "weights/checkpoint.h"

namespace merv {

using EncoderConfig = std::variant<TimmConfig, LanguageBindConfig, VivitConfig>;

struct MervParts {                              // everything that decides shapes
    MervConfig config = {};
    std::vector<EncoderConfig> encoders = {};
    LlamaConfig llm = {};
    int64_t fusion_width = 0;                   // of feature_fusion.Q; 0: no fusion parameters
};
Merv build(const MervParts& parts);             // declared, without values

struct LoadOptions {
    std::vector<int64_t> num_frames = {};       // replaces the folder's; one for all, or one per encoder
    std::optional<DType> dtype = {};            // of activations, f32 or bf16; none: default_dtype()
    int64_t tokens = 0;                         // text and answer tokens the caller plans for (memory)
    bool vision = true;                         // false: the encoders are not needed and not opened
};
// bf16 where the machine multiplies it natively and the language model's weights are bf16, else f32.
DType default_dtype(DType weights);

struct LoadedModel {
    Merv merv;
    size_t weight_bytes = 0;
    int64_t parameters = 0;                     // read from the files, used or not
    std::string chat_template;                  // the language model's own, where its files say one
};
// `path` is a MERV folder, or a language model alone (then there are no encoders): a Hugging Face folder or a .gguf file.
// Throws Error(Exit::no_memory) with a table before anything large is read.
LoadedModel load_model(const std::string& path, const LoadOptions& options = {});

// The format of its prompts: what a MERV folder's llm_backbone_id says, or a language model's own chat template.
PromptBuilder builder_of(const LoadedModel& loaded);

// One checkpoint of a model, and the parameters it must bring; the others it may hold are known_unused.
struct Source {
    std::string what;                           // "the dinov2 encoder"
    Checkpoint file;                            // without the wrapper that its names had
    std::vector<Wanted> wanted = {};            // they point into the module
    std::vector<std::string> known_unused = {};
    std::string wrapper = "";                   // what was taken off
};
Source encoder_source(Encoder&, Checkpoint file);
Source llm_source(Llama&, Checkpoint file);
Source own_source(Merv&, Checkpoint file);      // projectors and fusion
int64_t fusion_width(const Checkpoint& own, const MervConfig&);        // of feature_fusion.Q, which must be there
std::string published_prefix(const Encoder&);   // what its parameters' names begin with in the files of the hub: "vision_model."

EncoderConfig read_encoder_config(const std::string& backbone_id, const std::string& folder);
std::string encoder_name(const std::string& backbone_id);       // "languagebind", "dinov2", "vivit", "siglip"

}
