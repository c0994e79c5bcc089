// Streams, events and errors of the CUDA runtime.
#pragma once
#include <utility>
#include <cuda_runtime.h>

namespace merv {

struct LaunchPlace { const char *kernel, *file; int line; };        // of the last launch, for reports

// Error(Exit::device), or Error(Exit::no_memory), if e is an error: `what` failed, why, and the last kernel that was launched. An error of a kernel
// shows at some later call, since launches return at once; with SYNC=1 in the environment each is waited for, and the name is the right one.
void must(cudaError_t e, const char* what);
void launched(const LaunchPlace& place, cudaError_t e);             // to be called after each launch

void use_device(int number);                                         // by every thread; once, before the first stream

// Where this thread's launches, allocations and copies go: the compute stream, unless a StreamScope says another.
cudaStream_t current_stream();
struct StreamScope {
    explicit StreamScope(cudaStream_t s);
    ~StreamScope();
    StreamScope(const StreamScope&) = delete;
    StreamScope& operator=(const StreamScope&) = delete;

  private:
    cudaStream_t saved_;
};

class Event {                                                       // for order, and where `timed` for times
  public:
    explicit Event(bool timed = false) { must(cudaEventCreateWithFlags(&event_, timed ? cudaEventDefault : cudaEventDisableTiming), "an event"); }
    ~Event() { if (event_) cudaEventDestroy(event_); }
    Event(Event&& e) noexcept : event_(std::exchange(e.event_, nullptr)) {}
    Event& operator=(Event&&) = delete;
    void record(cudaStream_t s = current_stream()) const { must(cudaEventRecord(event_, s), "recording an event"); }
    void synchronize() const { must(cudaEventSynchronize(event_), "waiting for an event"); }
    bool done() const { return cudaEventQuery(event_) == cudaSuccess; }
    void make_wait(cudaStream_t s) const { must(cudaStreamWaitEvent(s, event_, 0), "a stream's wait"); }
    float ms_since(const Event& start) const {
        float ms = 0;
        must(cudaEventElapsedTime(&ms, start.event_, event_), "timing events");
        return ms;
    }

  private:
    cudaEvent_t event_ = nullptr;
};

class Stream {
  public:
    Stream() { must(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream"); }
    ~Stream() { if (stream_) cudaStreamDestroy(stream_); }
    Stream(Stream&& s) noexcept : stream_(std::exchange(s.stream_, nullptr)) {}
    Stream& operator=(Stream&&) = delete;
    operator cudaStream_t() const { return stream_; }
    void synchronize() const { must(cudaStreamSynchronize(stream_), "waiting for a stream"); }

  private:
    cudaStream_t stream_ = nullptr;
};

}
