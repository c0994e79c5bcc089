// Runs CUDA kernels on the CPU, for tests, for counting and for learning: each CUDA thread is a fiber on one OS thread, blocks run
// one after the other (several are resident only while one waits for another). What a GPU leaves undefined is made visible:
// shared and global memory start as NaN, asynchronous work happens as late as it may, and every schedule is repeatable.
//
//   fast       deadlocks, divergent barriers and warp operations, invalid launches, misuse of asynchronous operations
//   checked    also every load and store: races, missing proxy fences, uninitialised and out-of-bounds reads, misalignment
//   counted    what the launch asks of a GPU: requests, sectors, bank conflicts, tensor-core work, per source line
//
// This is the interface for host code; kernels see kernels/gpu.h. docs/emulator.md tells the story.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>
#include "kernels/emu/mode.h"

namespace merv::emu {

struct Site {                                   // a line of source, for reports
    const char* file = "";
    int line = 0;
    static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

// What a kernel did that no GPU program may. `kind` is one word:
//   ACCESS out of bounds, host memory   UNINIT   RACE   PROXY missing fence   ALIGN   WARP diverged or wrong lanes
//   BARRIER   DEADLOCK   ASYNC cp.async, TMA and their groups   MBARRIER   WGMMA and setmaxnreg   CLUSTER   LAUNCH   TRAP
struct Report {
    std::string kind, text;                     // text: what, by which thread, where, in which kernel launched where
};

// A launch that is reported about throws Error(Exit::device) with the first reports. In the scope of a Collect they are
// gathered instead, each cause once.
class Collect {
  public:
    Collect();
    ~Collect();
    Collect(const Collect&) = delete;
    Collect& operator=(const Collect&) = delete;
    std::vector<Report> reports;

  private:
    Collect* outer_;
};

// Which thread runs next, and when asynchronous work happens. `seeded` also delays and hastens the latter at random. The same
// schedule gives the same run.
enum class Order { fifo, lifo, seeded };
void set_schedule(Order order, unsigned seed = 1);

// ---- counted mode (count.cpp; docs/emulator.md says what is exact). Names are Nsight Compute's where it has one.
//
// A request is one instruction of one warp. `ideal` is what its bytes need at the least: sectors of 32 bytes in global memory;
// in shared memory one wavefront per 32 lanes, 16 for 8-byte and 8 for 16-byte accesses. Wavefronts beyond it are bank conflicts.
struct Traffic {
    uint64_t requests = 0, lanes = 0, bytes = 0;        // lanes that took part, and the bytes they asked for together
    uint64_t sectors = 0, ideal_sectors = 0;            // global memory
    uint64_t wavefronts = 0, ideal_wavefronts = 0;      // shared memory; atomics: one per lane at the busiest address
    Traffic& operator+=(const Traffic&);
    uint64_t bank_conflicts() const { return wavefronts - ideal_wavefronts; }
};
enum class Counted {
    global_load, global_store, global_atomic, global_copy,      // copy: cp.async and TMA, their two ends
    shared_load, shared_store, shared_atomic, shared_copy, ldmatrix,
    mma, wgmma, shuffle, vote, syncwarp, barrier, special,      // special: expf, exp2f, logf, tanhf, ...: one MUFU operation each at least
    kinds
};
const char* name_of(Counted);

struct LineCounters {
    std::string line;                           // "norm.cu:57"
    Counted what{};
    int width = 0;                              // bytes per lane; 0: no memory
    Traffic traffic;
};

struct Counters {                               // of one launch
    std::string name;                           // Work's
    double bytes = 0, flops = 0;                // Work's: of an ideal kernel
    Site site;
    uint64_t blocks = 0;
    int threads = 0;                            // of a block
    size_t dynamic_shared = 0;                  // bytes of a block
    Traffic total[size_t(Counted::kinds)];
    uint64_t unique_read = 0, unique_written = 0;       // bytes of global memory
    uint64_t unique_sectors = 0;                // read, plus written: DRAM traffic if the L2 cache never misses twice
    uint64_t block_sectors = 0;                 // summed over blocks, each one's unique ones: L2 traffic if L1 never misses twice
    double tensor_flops = 0;                    // issued; useful are Work's
    uint64_t basic_blocks = 0, basic_block_lanes = 0;   // executed by warps, and the lanes active in them
    const Traffic& operator[](Counted c) const { return total[size_t(c)]; }
    Traffic global() const;                     // loads, stores, copies, atomics
    Traffic shared() const;

    std::string kernel() const;                 // "forward_kernel<8, true, merv::bf16, float>"
    std::vector<LineCounters> lines() const;    // the costliest first
    std::string text() const;                   // a paragraph and a row per line

    const void* function = nullptr;
    struct Row { uint32_t where; Counted what; int width; Traffic traffic; };
    std::vector<Row> rows;                      // per instruction
};

std::string without_namespaces(std::string kernel);     // of a demangled name, g++'s or nvcc's

// Gathers counted launches in its scope. Outside any, each prints its text() to stderr.
class Count {
  public:
    Count();
    ~Count();
    Count(const Count&) = delete;
    Count& operator=(const Count&) = delete;
    std::vector<Counters> launches;
    bool dry = false;                           // launches are noted (grid, Work) and not run, in any mode

  private:
    Count* outer_;
};

}
