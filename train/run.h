// A whole training run: data, steps, reports, validation, checkpoints, signals. Everything it writes lies in run_root/run_id:
//
//   config.json                the settings as resolved
//   run-metrics.jsonl          the run's id and settings; <run id>.jsonl: a line per step, with the reference's names and ours; loss.svg: the curve
//   samples.jsonl              answers on fixed clips, with sample_every
//   checkpoints/               train/checkpoint.h
//   bad-step-000012.{json,safetensors}     of a step that was not finite or a spike: the batch's ids, the first bad tensor
#pragma once
#include <string>
#include "train/config.h"

namespace merv::train {

struct RunOptions {
    std::string resume = "auto";                // auto, none, or a checkpoint
    bool dry_run = false;                       // say the plan and stop
};
// 0; 75 after SIGTERM and 130 after SIGINT, both with a checkpoint; errors as Error.
int run(const RunConfig& config, const RunOptions& options);

void write_loss_curve(const std::string& metrics_path, const std::string& svg_path);

}
