// Times of a card's ops for --profile and --trace (core/profile.h): a pair of events around each, and an NVTX range of the name that the table shows.
#pragma once
#include <map>
#include <memory>
#include <mutex>
#include <vector>
#include "core/profile.h"
#include "kernels/cuda/host/stream.h"

namespace merv {

class CudaTimer final : public profile::DeviceTimer {
  public:
    static constexpr size_t kPairs = 4096;                  // of a stream that may be under way; then the host waits for half of them

    void begin(uint32_t row, const char* name) override;
    void end(uint32_t row) override;
    std::vector<Interval> finished(bool wait) override;
    // bytes/s: a copy on the device, read and written. flop/s: square products by cuBLASLt, of random numbers. Measured once; zeros if there is no memory for it.
    profile::Peaks peaks() override;

  private:
    using SharedEvent = std::shared_ptr<Event>;             // shared: what was a pair's may become an anchor
    struct Pair { SharedEvent begin, end; uint32_t row = 0; bool open = false, failed = false; };
    struct Ring {
        int stream;
        std::vector<Pair> pairs;
        uint64_t first = 0, next = 0;                       // pairs[first % kPairs] up to next are in use
        SharedEvent anchor;                                 // done; times are read against it, as a float of ms is exact to the ns only for some 10 ms
        double anchor_ns = 0;
    };
    struct Raw { uint32_t row; int stream; double begin, end; };        // ns of the device's clock since the first calibration
    struct Calibration { int64_t host; double device; };

    Ring& ring();
    void harvest(Ring&, uint64_t until);                    // which are done
    void wait_for(Ring&, uint64_t until);
    Calibration calibrate();
    std::vector<Interval> converted();

    std::mutex mutex_;
    std::map<cudaStream_t, Ring> rings_;
    std::vector<Raw> raw_;                                  // until two calibrations enclose them
    SharedEvent calibrated_;
    Calibration last_{};
    profile::Peaks peaks_{};
    bool measured_ = false;
};

}
