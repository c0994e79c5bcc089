// Times of ops on the device, for --profile and --trace: a pair of events around each, kept in a ring, and an NVTX range of the op's name around the
// host's call, so that Nsight shows the names of the table.
#include <algorithm>
#include <chrono>
#include <deque>
#include <map>
#include <mutex>
#include <utility>
#include <vector>
#include <nvtx3/nvToolsExt.h>
#include "core/check.h"
#include "core/cuda.h"
#include "core/profile.h"
#include "core/rng.h"
#include "core/tensor.h"
#include "kernels/cuda/host/gemm.h"
#include "kernels/cuda/host/stream.h"

namespace merv {
namespace {

constexpr size_t kPairs = 4096;                 // in flight; beyond that the host waits for the oldest

int64_t now() { return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

class EventTimer final : public profile::DeviceTimer {
  public:
    EventTimer() {
        anchor_.record();
        anchor_.synchronize();
        anchor_ns_ = now();
    }
    void begin(uint32_t row, const char* name) override {
        nvtxRangePushA(name);
        const std::lock_guard lock(mutex_);
        const cudaStream_t s = current_stream();
        Track& track = tracks_.try_emplace(s, Track{int(tracks_.size()), {}, {}, {}, 0}).first->second;
        if (track.in_flight.size() >= kPairs) harvest(track, true, 1);
        Pair pair = fresh();
        pair.row = row;
        pair.begin.record(s);
        track.open.push_back(std::move(pair));
    }
    void end(uint32_t row) override {
        nvtxRangePop();
        const std::lock_guard lock(mutex_);
        const cudaStream_t s = current_stream();
        Track& track = tracks_.at(s);
        CHECK(!track.open.empty() && track.open.back().row == row, "profile: the end of an op that has not begun in this stream");
        track.open.back().end.record(s);
        track.in_flight.push_back(std::move(track.open.back()));
        track.open.pop_back();
    }
    std::vector<Interval> finished(bool wait) override {
        const std::lock_guard lock(mutex_);
        for (auto& [s, track] : tracks_) harvest(track, wait, SIZE_MAX);
        return std::exchange(done_, {});
    }
    profile::Peaks peaks() override;

  private:
    struct Pair {
        Event begin{true}, end{true};
        uint32_t row = 0;
    };
    // Times are counted from one op to the next, not from the start: a float of milliseconds has 24 bits.
    struct Track {
        int number;
        std::vector<Pair> open;                 // nested ops
        std::deque<Pair> in_flight;
        std::vector<Pair> last;                 // the one harvested last, none before the first
        int64_t last_begin;                     // when it began, ns of steady_clock
    };
    Pair fresh() {
        if (free_.empty()) return Pair{};
        Pair p = std::move(free_.back());
        free_.pop_back();
        return p;
    }
    void harvest(Track& t, bool wait, size_t most) {
        for (; most > 0 && !t.in_flight.empty(); most--) {
            Pair& p = t.in_flight.front();
            if (wait) p.end.synchronize();
            else if (!p.end.done()) return;
            t.last_begin = t.last.empty() ? anchor_ns_ + int64_t(double(p.begin.ms_since(anchor_)) * 1e6) : t.last_begin + int64_t(double(p.begin.ms_since(t.last[0].begin)) * 1e6);
            done_.push_back({p.row, t.number, t.last_begin, t.last_begin + int64_t(double(p.end.ms_since(p.begin)) * 1e6)});
            if (!t.last.empty()) free_.push_back(std::move(t.last[0])), t.last.clear();
            t.last.push_back(std::move(p));
            t.in_flight.pop_front();
        }
    }
    Event anchor_{true};                        // both clocks at one moment
    int64_t anchor_ns_;
    std::mutex mutex_;
    std::map<cudaStream_t, Track> tracks_;
    std::vector<Pair> free_;
    std::vector<Interval> done_;
};

// The least of three times of f in ms, by events
template <class F> double least_ms(F&& f) {
    const Event begin(true), end(true);
    double best = 1e30;
    for (int i = 0; i < 3; i++) {
        begin.record();
        f();
        end.record();
        end.synchronize();
        best = std::min(best, double(end.ms_since(begin)));
    }
    return best;
}

// A copy, and products by cuBLASLt of values that are random: of zeros they are faster. Larger and larger, until one takes long enough.
profile::Peaks EventTimer::peaks() {
    const OnDevice on(Device::cuda);
    const MemTag tag("profile");
    const Rng rng(7, "device peaks");
    profile::Peaks peaks;
    for (int64_t n = int64_t(1) << 20; n <= int64_t(1) << 27; n *= 8) {        // floats
        const Tensor from({n}), to({n});
        const double ms = least_ms([&] { to.copy_from(from); });
        peaks.bytes = 2.0 * double(from.bytes()) / (ms * 1e-3);
        if (ms > 0.2) break;
    }
    for (const DType type : {DType::f32, DType::bf16})
        for (int64_t n = 256; n <= 8192; n *= 2) {
            std::vector<float> values(static_cast<size_t>(n * n));
            for (size_t i = 0; i < values.size(); i++) values[i] = i < (1 << 16) ? float(rng.uniform(i)) - 0.5f : values[i - (1 << 16)];
            Tensor a;
            {
                const OnDevice host(Device::cpu);
                a = from_floats(values, {n, n}, type);
            }
            a = a.to(Device::cuda);
            const Tensor y({n, n}, type);
            const double ms = least_ms([&] {
                cublaslt_gemm({.name = "peak", .type = type, .y_type = type, .a = a.raw(), .b = a.raw(), .lda = n, .ldb = n, .a_along_k = true, .b_along_k = true, .M = n, .N = n, .K = n, .y = y.raw()});
            });
            (type == DType::f32 ? peaks.f32 : peaks.bf16) = 2.0 * double(n) * double(n) * double(n) / (ms * 1e-3);
            if (ms > 0.5) break;
        }
    return peaks;
}

}

void time_ops_on_device() {
    static EventTimer* timer = new EventTimer;  // never destroyed, as streams are not
    profile::use(timer, Device::cuda);
}

}
