// --profile and --trace: where a run's time and memory went, by kernel, by shape, by stage.
//
// Stages of a program, units of a model (Range) and ops (Op) are frames on a stack per thread, each timed by two readings of the
// host's clock. A frame's own time is its duration less that of the frames inside it, so own times add up to the total exactly:
// what is in no op is "outside kernels". Frames open and close in order, so a trace of them is strictly nested.
//
// Off, which is how every program starts, an op costs one test of a flag. docs/profiling.md says how to read the tables.
#pragma once
#include <array>
#include <atomic>
#include <functional>
#include <iosfwd>
#include <map>
#include <string>
#include <string_view>
#include <vector>
#include "core/dtype.h"
#include "core/storage.h"

namespace merv {

class Flags;

// What an ideal kernel would move and compute: what a profile and the emulator's counters compare a run with.
struct Work {
    const char* name;                           // a literal: kept, not copied
    double bytes = 0, flops = 0;
};

namespace profile {

extern std::atomic<bool> enabled;               // not inline: objects of kernels would hold copies of their own (kernels/cpu.h)
inline bool on() { return enabled.load(std::memory_order_relaxed); }

using Dims = std::array<int64_t, 6>;            // zeros at the end: fewer dimensions
struct OpCall {                                 // made by kernels::work(args)
    Work work;
    Dims shape{};                               // as merv-bench ops --shape takes it, where it knows the op
    DType dtype = DType::f32;                   // of activations
    DType multiply = DType::f32;                // what flops are multiplied in: bf16 where both factors are
    Device device = Device::cpu;
};

class Range {                                   // profile::Range range("prefill"): from here to the end of the scope
  public:
    explicit Range(std::string_view name) { if (on()) begin(name); }
    ~Range() { end(); }
    void next(std::string_view name) { end(); if (on()) begin(name); }         // this stage is over, the next begins
    Range(const Range&) = delete;
    Range& operator=(const Range&) = delete;

  private:
    void begin(std::string_view name);
    void end();
    bool open_ = false;
};

class Op {                                      // around one op; only where on()
  public:
    explicit Op(const OpCall&);                 // which outlives it
    ~Op();
    Op(const Op&) = delete;
    Op& operator=(const Op&) = delete;

  private:
    uint32_t row_;
    bool timed_;                                // by the device
};

void count_launch();                            // of a GPU kernel, by the host

// Peaks of this machine or device, by which floors are computed: bytes/s of memory, flop/s of multiply-adds. 0: not known.
struct Peaks { double bytes = 0, f32 = 0, bf16 = 0; };
extern Peaks (*measure_peaks)();                // of the CPU; set by kernels/work.cpp if the program has kernels

// Times of a device that works after the host's call has returned. A CUDA backend keeps pairs of events in a ring; begin() also
// opens an NVTX range of that name, end() closes it, so Nsight shows the names of the table.
class DeviceTimer {
  public:
    struct Interval { uint32_t row; int stream; int64_t begin, end; };         // ns of std::chrono::steady_clock
    virtual ~DeviceTimer() = default;
    virtual void begin(uint32_t row, const char* name) = 0;    // before the op's first launch
    virtual void end(uint32_t row) = 0;                        // after its last
    virtual std::vector<Interval> finished(bool wait) = 0;     // since the last call, in order on each stream; wait: all there are
    virtual Peaks peaks() = 0;                                 // measured on the device
};
void use(DeviceTimer* timer, Device device);    // for ops on that device; null: none

// ---- what came of it

struct OpTotal : OpCall {                       // of one op, shape and type; work is the sum over its calls
    uint64_t calls = 0, device_calls = 0;
    int64_t ns = 0, device_ns = 0;              // own time on the host; between the device's events
};
struct StageTotal {                             // ranges of one name inside the same parent
    std::string name;
    int parent = -1;                            // in Results::stages, always before it
    uint64_t calls = 0;
    int64_t ns = 0, op_ns = 0;                  // whole; what ops took of it
};
struct StreamTotal { int64_t begin = 0, end = 0, busy = 0, longest_gap = 0; };     // ns; end - begin - busy is idle

struct Results {
    std::vector<OpTotal> ops;
    std::vector<StageTotal> stages;
    std::map<int, StreamTotal> streams;
    int64_t total_ns = 0, op_ns = 0;            // of the outermost frames of all threads; of ops, on the host
    uint64_t launches = 0;
    std::map<std::string, size_t> memory;       // the most bytes each owner held, since the program began
    Peaks device_peaks;

    struct Event { int64_t begin, ns; uint32_t id; int track; bool op; };       // id: in ops or stages; track: a thread, or kStreams + a stream
    static constexpr int kStreams = 1000;
    std::vector<Event> events;                  // none without Options::trace
    std::vector<std::pair<int64_t, std::map<std::string, size_t>>> memory_at;  // where it changed, seen at the ends of ranges
    uint64_t ops_left_out = 0, ranges_left_out = 0, memory_left_out = 0;
    int64_t began = 0;

    std::vector<std::string> table(const Peaks& cpu) const;                     // lines for stderr
    void write_trace(std::ostream& to, std::string_view program) const;         // Chrome's JSON, which Perfetto opens
};

struct Options {
    bool trace = false;                         // keep events
    size_t most_events = 200'000;               // of ops; ranges go on up to twice as many events
    int64_t memory_every_ns = 50'000;           // memory is looked at where ranges begin and end, at most this often
};
void start(const Options& = {});                // where no frame is open; forgets what was recorded before
Results stop();

// body() under the flags --profile and --trace FILE, if given: then the table on stderr, and the file. A FILE that cannot be
// written throws Error(Exit::usage) before body() runs. If body() throws, the trace of what it did is still written.
int run(const Flags& flags, const std::function<int()>& body);

}
}
