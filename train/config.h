// The settings of a training run: a flat JSON file with the reference's keys and ours, overrides KEY=VALUE on top, every key known, every value checked.
// docs/training.md lists them.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>
#include "nn/unit.h"

namespace merv::train {

struct RunConfig {
    // what is trained, on what
    std::string model_dir;                      // the MERV folder to start from
    std::string stage = "finetune";             // align, full-align, finetune, second_finetune
    std::string pretrained_checkpoint;          // of an earlier stage: a checkpoint of ours, a MERV folder, or the reference's .pt
    std::vector<std::string> dataset;           // LLaVA's conversation JSON; several are joined
    std::string media_root;                     // videos and images lie below it; empty: beside the first dataset
    std::string dataset_id;                     // in the run's name; empty: the first dataset's file name
    std::vector<int64_t> num_frames;            // model.num_frames; none: the model's
    std::string dtype = "auto";                 // of activations: bf16, f32

    // how
    int64_t epochs = 1, max_steps = 0;          // max_steps 0: as many as the epochs have
    int64_t global_batch_size = 128, per_device_batch_size = 8;
    double learning_rate = 2e-5, weight_decay = 0.1, max_grad_norm = 1, warmup_ratio = 0.03;
    std::string lr_scheduler_type = "linear-warmup+cosine-decay";      // or "constant"
    int64_t seed = 7, buckets = 8;
    bool shuffle = true;
    std::string recompute = "full";             // none, norms, full
    std::vector<std::string> reference_quirks, without;

    // data
    std::string feature_cache;                  // a folder; empty: none
    int64_t workers = 2, prefetch = 16;         // samples decoded ahead at most
    double decode_timeout = 60;                 // seconds
    std::string on_bad_sample = "fail";         // skip, substitute

    // files and reports
    std::string run_root = "runs", run_id;      // empty: <dataset_id>+<model_id>+stage-<stage>+x<seed>
    int64_t save_every = 512, keep = 0;         // keep 0: all
    std::string val_dataset;
    int64_t val_every = 0, sample_every = 0, samples = 2, sample_tokens = 64;
    std::string on_bad_step = "stop";           // skip
    double spike_factor = 0;                    // a loss above this many times its running mean is a spike; 0: off

    bool quirk(const std::string& name) const;  // is this behaviour of the reference asked for?
    bool saves(const std::string& what) const;  // is this saving on?
    bool trains_llm() const { return stage != "align"; }
    bool aligns() const { return stage.ends_with("align"); }
    nn::Recompute recomputation() const;
};

// Names that `reference_quirks` and `without` take, with what they mean.
struct Choice { const char* name; const char* meaning; };
std::span<const Choice> reference_quirks();
std::span<const Choice> savings();

// The file (none: ""), then the overrides "key=value" in order (values are JSON; what is not JSON is text). Error(Exit::usage): a key nobody knows
// (with the nearest one), a wrong type, a value out of range, or values that contradict each other.
RunConfig read_run_config(const std::string& path, const std::vector<std::string>& overrides);
std::string to_json(const RunConfig&);          // every key, in the order of the struct

// The known key at the least edit distance from `key`, for messages; "" if none is near.
std::string nearest_key(const std::string& key);

}
