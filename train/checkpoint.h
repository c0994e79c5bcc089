// run/checkpoints/step-000512/: everything a run needs to go on as if it had not stopped, and nothing else: same state, same bytes.
//
//   model.safetensors       the trained parameters, f32 masters, by the optimizer's names
//   optimizer.safetensors   AdamW's m/NAME and v/NAME
//   state.json              step, epoch, position in the epoch, seed, settings, versions; sha256 of both files
//   DONE                    written last: a folder without it is no checkpoint
// A checkpoint is made under another name and renamed; `latest` in checkpoints/ is a text file that holds the folder's name.
#pragma once
#include <map>
#include <string>
#include <vector>
#include "core/tensor.h"
#include "train/optimizer.h"

namespace merv::train {

struct Progress {
    int64_t step = 0, updates = 0;              // global batches behind us; how many of them changed the parameters
    int64_t epoch = 0, batch = 0;               // the next global batch: which epoch, which of its batches
    int64_t samples = 0, skipped = 0, substituted = 0;      // seen; left out and replaced because they could not be read
    double running_loss = 0;                    // exponential mean over about ten steps, for spikes
    std::vector<double> recent{};               // losses of the last 128 micro-batches, whose mean the metrics show
    bool operator==(const Progress&) const = default;
};

// Writes run/checkpoints/step-<step>, then `latest`, then removes all but the last `keep` (0: none). Error(Exit::runtime): the disk is full or not writable;
// what was there stays.
std::string save_checkpoint(const std::string& run_folder, const Optimizer&, const Progress&, const std::string& config_json, const std::string& model_dir, int64_t keep);

struct Saved {
    std::string folder, config_json, model_dir;
    Progress progress;
};
// "auto": the run's latest complete one (none: folder is empty); a path: that one, or the latest of that run. Error(Exit::bad_weights): damage, named; the files' hashes
// are checked first.
Saved find_checkpoint(const std::string& which, const std::string& run_folder);
void load_checkpoint(const Saved&, Optimizer&);        // Error(Exit::bad_weights) if its parameters are not the optimizer's
std::map<std::string, Tensor> read_trained(const std::string& folder);         // model.safetensors of a checkpoint, hash checked

}
