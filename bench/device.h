// merv-bench on a card: ops by pairs of events, a report of the device, and whole steps at full size.
#pragma once
#include <string>
#include "bench/cases.h"

namespace merv::bench {

struct DeviceOptions {
    std::string op, format = "md";              // op "": all; md or json
    bool small = false;                         // the sizes that the emulator counts: to try the way, not to time
    int repetitions = 0;                        // 0: 50, fewer where one takes long
};
// Each of bench/kernels.h's cases on the current device: the L2 cache flushed before each run, two sets of inputs in turn, medians of event times; bytes and flops of an ideal
// kernel, and the time below which they cannot be done at the device's measured peaks.
void device_ops(const DeviceOptions&);
int self_test_report(const std::string& format);            // known answers, asked now: 1 if one is wrong
// Every wrapper of kernels/gpu.h on the emulator and on the card, on random inputs: 1 if bytes differ.
int wrappers_report(const std::string& format, int inputs);
void device_report(const std::string& format);             // name and measured peaks
// Encode, prefill, decode of one clip and question; or, with `train`, optimizer steps of one sample: the profile's table, memory by owner, and predicted beside measured.
int whole_step(const Sizes&, DType, bool train, int64_t steps);

}
