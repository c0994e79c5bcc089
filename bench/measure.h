// Timing, and tables of results. Bytes and flops are what an ideal kernel needs, so GB/s and GFLOP/s say how far an op is from
// the machine's limits, whatever it does inside; the limits are measured just before and after, because machines share them.
#pragma once
#include <functional>
#include <string>
#include <vector>
#include "core/tensor.h"

namespace merv::bench {

struct Case {
    std::string test, name, shape;              // "ops", "linear", "4176x3072x1024"
    DType dtype = DType::f32;                   // of activations and of weights unless the name says otherwise
    double bytes = 0, flops = 0;                // 0: does not apply
    std::function<std::function<void()>()> prepare = {};    // allocates the inputs, returns what is timed
};

struct Peaks { double read = 0, copy = 0, f32 = 0, bf16 = 0; };     // bytes/s (copy: read plus written), flop/s
Peaks measure_peaks(double seconds, bool all = true);               // seconds for each; all = false: read, and the two multiplies

struct Result {
    std::string test, name, shape, dtype;
    double median = 0, fastest = 0, bytes = 0, flops = 0;           // s
    int runs = 0;
    double share = 0;                           // of the nearer limit: max(bytes/s / read, flop/s / multiply); 0: does not apply
};

struct Options {
    int runs = 0;                               // 0: as many as fit into `seconds`, at least 3
    double seconds = 0.5;
    bool lockstep = false;                      // a run per line on stdin, each answered with its milliseconds: for interleaving with a peer
};
Result time(const Case& c, const Options& options);

// Results as they come, in one of the formats md, csv, json, jsonl, with the machine and build they belong to.
class Table {
  public:
    explicit Table(const std::string& format);  // Error(Exit::usage) with the choices
    void add(const Result& r);
    void finish();

  private:
    std::string format_;
    std::vector<std::string> objects_;
    bool begun_ = false;
};

// What --profile and --trace cost: each case without and with them in turn, in this process (two processes differ by more than that: where
// their memory lies). A table on stdout: medians, and the median ratio of the pairs.
void report_overhead(const std::vector<Case>& cases, double seconds);

// Two files of -o json or jsonl: a row for each case both have, with the ratio of their medians.
void compare(const std::string& before, const std::string& after);

}
