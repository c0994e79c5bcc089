// Kernels whose counters follow from their definition.
#pragma once
#include <string>
#include <vector>
#include "kernels/emu/emulator.h"

namespace merv::test::emu_counted {

struct Known {
    std::string what;
    double counted, expected;
};
std::vector<Known> known_counters();

struct Fuzzed {                                 // a random kernel: what was counted, and what a direct execution with masks gives
    int kernel;
    uint64_t requests, expected_requests, lanes, expected_lanes;
    bool values;
};
std::vector<Fuzzed> fuzzed_kernels();

}
