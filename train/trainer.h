// One optimizer step of MERV: a global batch in micro-batches, gradients exact over its label tokens, clipped, AdamW.
//
//   loss = sum over the labels of the global batch of -log p(label) / their number            (the reference: mean of micro-batches' means, a quirk by name)
//
// The encoders are frozen: what they make of a clip, pooled, comes from the feature cache or is computed without a tape.
#pragma once
#include <functional>
#include <optional>
#include "models/load.h"
#include "train/checkpoint.h"
#include "train/config.h"
#include "train/features.h"
#include "train/optimizer.h"

namespace merv::train {

struct Example {                                // a sample, ready for the model
    int64_t index = 0;                          // in the dataset
    std::string id, clip_key;                   // clip_key: in the feature cache; "" without one
    std::vector<int32_t> ids, labels;           // a label per id, kIgnore where nothing is learnt
    bool multimodal = false, flip = false;
    std::vector<Shown> shown{};                 // none if text-only or encoded
    std::optional<Encoded> encoded{};
};

struct StepReport {
    int64_t step = 0;                           // 1, 2, ...
    double loss = 0, norm = 0, learning_rate = 0, data_ms = 0, ms = 0;
    std::vector<double> micro_losses;           // the mean of each micro-batch
    int64_t samples = 0, clips = 0, labels = 0, tokens = 0, encoded_clips = 0;     // clips: samples with one; tokens: rows that the language model saw
    double flops = 0;                           // that this step needs at least (train/plan.h)
    bool skipped = false;                       // nothing was updated: no sample was left, or on_bad_step said so
    std::string bad;                            // why the step was bad: "loss is nan"; "" if it was not
};

class Trainer {
  public:
    // Takes the model over. `steps`: of the whole run, for the schedule.
    Trainer(const RunConfig& config, Merv& merv, int64_t steps);

    // next(): the next example of the global batch, none where it had to be left out. `expected_loss`: a running mean, for spikes; 0: none yet.
    // A bad step (loss or norm not finite, a spike) changes nothing; the caller decides.
    StepReport step(int64_t number, const std::function<std::optional<Example>()>& next, double expected_loss = 0);

    double loss(Example& example, int64_t* labels);             // the sum over its labels, without a tape: validation
    Visual see(Example& example);                               // under the caller's tape or none

    struct Bad { std::string op; Tensor value; };               // "gradient of rmsnorm"
    // Looks for the first value that is not finite on the way of these examples forward and backward, then for a parameter whose gradient is not.
    std::optional<Bad> first_bad(std::vector<Example>& examples);

    Optimizer optimizer;
    const FeatureCache cache;

  private:
    Tensor micro_loss(std::span<Example> examples, StepReport& report, int64_t count);
    const RunConfig& config_;
    Merv& merv_;
    int64_t steps_;
};

// The parameters that a stage trains (merv.md 6.1), as the optimizer takes them: projectors, language model (not in align), fusion. Names: "projectors.0...", "llm.model...",
// "feature_fusion.Q". Those that nothing depends on are left out.
std::vector<std::pair<std::string, Tensor*>> trained_parameters(Merv& merv, const RunConfig& config);

}
