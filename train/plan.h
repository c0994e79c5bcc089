// What a run will need, said before it begins: memory by owner, flops (and MACs) of a sample, time of a step. By formulas over shapes; docs/training.md has them.
#pragma once
#include "core/memory.h"
#include "models/merv.h"
#include "train/config.h"

namespace merv::train {

struct StepReport;

// flops = 2 MACs; matrix products and attention alone, the exact count of what runs (blocks and rows that are saved are not counted).
struct Flops { double encoders = 0, projectors = 0, llm = 0; double all() const { return encoders + projectors + llm; } };
Flops forward_flops(const Merv& merv, int64_t text, int64_t labels, bool visual);           // of one sample
double step_flops(const Merv& merv, const RunConfig& config, const StepReport& report);     // forward and backward, without what recomputation repeats

// `text`: tokens of the longest sample that is planned for. The owners are the MemTags of `--profile`.
MemoryPlan memory_plan(const Merv& merv, const RunConfig& config, int64_t text);

// The table that merv-train prints: parameters trained, memory, flops of a sample, and, with a peak in flop/s, the least time of a step. Lines.
std::vector<std::string> plan_table(const Merv& merv, const RunConfig& config, int64_t text, int64_t steps, double peak);

}
