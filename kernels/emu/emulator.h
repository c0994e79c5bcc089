// Runs CUDA kernels on the CPU, for tests, for counting and for learning: each CUDA thread is a fiber on one OS thread, blocks run
// one after the other (several are resident only while one waits for another). What a GPU leaves undefined is made visible:
// shared and global memory start as NaN, asynchronous work happens as late as it may, and every schedule is repeatable.
//
//   fast       deadlocks, divergent barriers and warp operations, invalid launches, misuse of asynchronous operations
//   checked    also every load and store: races, missing proxy fences, uninitialised and out-of-bounds reads, misalignment
//
// This is the interface for host code; kernels see kernels/gpu.h. docs/emulator.md tells the story.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace merv::emu {

enum class Mode { fast, checked };

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

}
