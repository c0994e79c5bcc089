// The CUDA device as the rest of the engine sees it. kernels/cuda/host has its one implementation; a program that was linked without
// it (`make`) has no such device, `make CUDA=1` links it with CUDA's libraries and `make emu-cuda` with emulated ones.
//
// All work of a thread goes to one stream, to which its tensors belong: what is freed may be used by the next op without an
// event. Host code waits only where it reads values (Tensor::to(Device::cpu)).
#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include "core/storage.h"

namespace merv {

class Cuda {
  public:
    virtual ~Cuda() = default;
    virtual std::string name() const = 0;                   // "cuda:0, NVIDIA H100 80GB HBM3, 79.1 GiB"
    virtual std::byte* allocate(size_t bytes) = 0;          // 256-byte aligned, contents undefined; null: none left
    virtual void release(std::byte* p) noexcept = 0;        // once the work queued so far is done with it
    // When it returns, `from` may be overwritten, and `to` be read if it is the host's.
    virtual void copy(std::byte* to, Device to_device, const std::byte* from, Device from_device, size_t bytes) = 0;
    virtual void fill(std::byte* to, int byte, size_t bytes) = 0;
    virtual void synchronize() = 0;                         // Error(Exit::device) if anything failed, named
};

// Opens device `number` (of those CUDA_VISIBLE_DEVICES leaves), for the whole process. Error(Exit::device) with one line that says why it cannot be used.
void open_cuda(int number);
bool has_cuda_backend();                                    // this program was linked with one
Cuda& cuda();                                               // CHECKs that one is open
[[noreturn]] void none_left_on_cuda(size_t bytes, const char* tag);        // Error(Exit::no_memory): who holds its memory, and what to lower
Device open_device(const std::string& name);                // `--device`: core/program.h

}
