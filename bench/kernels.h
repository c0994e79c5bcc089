// The GPU kernels at the shapes MERV runs them with, for counted mode: merv-bench ops --counters, docs/kernels.md and the
// limits in tests/test_counters.cpp.
#pragma once
#include <functional>
#include "bench/gpus.h"
#include "core/tensor.h"

namespace merv::bench {

using Dims = std::vector<int64_t>;

struct KernelCase {
    std::string op;                             // "linear", "layernorm backward"
    DType dtype;                                // of activations
    Dims shape, counted;                        // MERV's, and a smaller one the emulator can count; what they mean is the op's
    std::function<std::function<void()>(const Dims&)> prepare;         // allocates on the current device; returns the op
};
const std::vector<KernelCase>& kernel_cases();

std::vector<emu::Counters> count(const KernelCase&);                   // at the counted shape; one per launch
std::vector<emu::Counters> count_scaled(const KernelCase&);            // to MERV's shape; Error(Exit::runtime) if the two differ in their launches

struct KernelReport { std::string op, format, ptxas = "bench/ptxas.txt"; };    // op "": all; format "md" or "json"
void report_ladders();                                                  // kernels/ladder, counted: to stdout, as the tables of its README
void report_kernels(const KernelReport&);                              // to stdout; Error(Exit::usage)

}
