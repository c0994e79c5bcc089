// The CUDA device as the rest of the engine sees it. kernels/cuda/host has its one implementation; a program that was linked without
// it (`make`) has no such device, `make CUDA=1` links it with CUDA's libraries and `make emu-cuda` with emulated ones.
//
// All work of a thread goes to one stream, to which its tensors belong: what is freed may be used by the next op without an
// event. Host code waits only where it reads values (Tensor::to(Device::cpu)).
#pragma once
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include "core/storage.h"
#include "core/tensor.h"

namespace merv {

namespace profile { class DeviceTimer; }

// Work that is run again and again with other arguments, launched as one. All of it goes to the thread's stream.
class CudaGraph {
  public:
    virtual ~CudaGraph() = default;
    virtual void run(const std::function<void()>& work) = 0;            // now and plainly, which reserves the memory that captures have
    // Notes what `work` would launch, with its arguments of now; it may not copy from or to the host, and what was captured before, if launched, goes on.
    // False: its tensors found no room; nothing is there to launch, and run() makes room.
    virtual bool capture(const std::function<void()>& work) = 0;
    virtual void launch() = 0;                              // what was captured last
};

class Cuda {
  public:
    virtual ~Cuda() = default;
    virtual void self_test() = 0;                           // known answers, once per device and build: kernels/cuda/host/self_test.h
    virtual std::string name() const = 0;                   // "cuda:0, NVIDIA H100 80GB HBM3, 79.1 GiB"
    virtual std::byte* allocate(size_t bytes) = 0;          // 256-byte aligned, contents undefined; null: none left
    virtual void release(std::byte* p) noexcept = 0;        // once the work queued so far is done with it
    // When it returns, `from` may be overwritten, and `to` be read if it is the host's.
    virtual void copy(std::byte* to, Device to_device, const std::byte* from, Device from_device, size_t bytes) = 0;
    virtual void fill(std::byte* to, int byte, size_t bytes) = 0;
    virtual void synchronize() = 0;                         // Error(Exit::device) if anything failed, named
    virtual std::unique_ptr<CudaGraph> graph() = 0;         // null: plain launches are asked for (MERV_GRAPH=0, SYNC=1)
    virtual profile::DeviceTimer* timer() = 0;              // its own, for --profile
};

// One token's step of a decoder, id (1) i32 -> logits, run for one token after the other. On a card as a graph: while the device runs a step the host captures
// the next, which needs no token, since the token is read from a place on the device. Elsewhere, and under --profile, which times each kernel, step(id) is called.
class RepeatedStep {
  public:
    // `position` is the host's count that each step moves on (KvCache::length): a capture leaves it as it was, and none begins at `end`.
    RepeatedStep(std::function<Tensor(const Tensor& id)> step, int64_t& position, int64_t end);
    Tensor operator()(int32_t id);

  private:
    std::function<Tensor(const Tensor&)> step_;
    int64_t &position_, end_, after_ = 0;       // after_: position_ behind the step that is captured
    std::unique_ptr<CudaGraph> graph_;
    Tensor id_, captured_;                      // on the device; what the captured step makes, none if there is none
};

// Opens device `number` (of those CUDA_VISIBLE_DEVICES leaves), for the whole process. Error(Exit::device) with one line that says why it cannot be used.
void open_cuda(int number);
bool has_cuda_backend();                                    // this program was linked with one
Cuda& cuda();                                               // CHECKs that one is open
[[noreturn]] void none_left_on_cuda(size_t bytes, const char* tag);        // Error(Exit::no_memory): who holds its memory, and what to lower
Device open_device(const std::string& name);                // `--device`: core/program.h

}
