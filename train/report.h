// What a run says of its steps: the line on stderr, the JSONL lines, the curve.
#pragma once
#include <deque>
#include <string>
#include "train/trainer.h"

namespace merv::train {

class Report {
  public:
    // Appends to run/<run_id>.jsonl; lines behind step `resumed` are removed first, they are made again.
    Report(const std::string& run_folder, const std::string& run_id, const RunConfig& config, int64_t steps, int64_t resumed, double peak);
    void step(const StepReport& r, const Progress& p, double next_learning_rate);
    void validation(int64_t step, double loss, int64_t labels);
    void finish() const;                        // loss.svg

  private:
    void append(const std::string& line) const;
    std::string folder_, path_, prefix_;
    const RunConfig& config_;
    int64_t steps_;
    double peak_, all_ms_ = 0, data_ms_ = 0;
    std::deque<double> seconds_;                // of the last 128 steps
};

}
