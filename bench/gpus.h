// What a kernel's counters and resources mean on a GPU: occupancy, and a time below which it cannot fall.
#pragma once
#include <optional>
#include <string>
#include <vector>
#include "kernels/emu/emulator.h"

namespace merv::bench {

struct Gpu {
    std::string name, arch;                     // "sm_90a": which cubin it runs
    int sms;
    double clock, dram, l2, bf16, fp32;         // Hz, bytes/s, bytes/s, flop/s, flop/s
    int shared;                                 // bytes per SM
    int threads, blocks;                        // resident per SM
};
const std::vector<Gpu>& gpus();

// What ptxas says of a kernel: registers per thread, bytes of static shared memory, and bytes per thread for the rest.
struct Resources { int registers = 0, shared = 0, stack = 0, spill_stores = 0, spill_loads = 0; };

struct Occupancy {
    int blocks = 0;                             // resident per SM
    double share = 0;                           // of the warps an SM can hold
    std::string limiter;                        // "registers", "shared memory", "threads", "blocks"
};
Occupancy occupancy(const Gpu&, const Resources&, int threads, size_t dynamic_shared);

// The slowest of what must happen, each at its peak and perfectly overlapped: no latency, no dependence, no launch.
struct Prediction { double seconds = 0; std::string limiter; };
Prediction predict(const Gpu&, const emu::Counters&);

// A launch of the same kernel on a larger grid, for which `full` gives grid and Work: what blocks do is counted times the number
// of blocks, DRAM traffic times the ratio of Work's bytes.
emu::Counters scaled(const emu::Counters& counted, const emu::Counters& full);

// bench/ptxas.txt, which `make kernel-report` writes: per line arch, file, registers, static shared memory, stack, spill stores,
// spill loads, kernel.
struct Compiled { std::string arch, file, kernel; Resources resources; };
std::vector<Compiled> read_ptxas(const std::string& path);             // empty if there is no such file; Error(Exit::usage)
std::optional<Resources> find(const std::vector<Compiled>&, const std::string& arch, const std::string& kernel, const std::string& launched_in);

}
