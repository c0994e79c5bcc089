// Small kernels, right ones and wrong ones, compiled for each mode of the emulator. A wrong one names the report it must cause.
#pragma once
#include <cstring>
#include <functional>
#include <string>
#include <vector>
#include "core/emulated_memory.h"
#include "kernels/emu/emulator.h"

namespace merv::test {

struct Program {
    std::string name;
    std::string in_fast, in_checked;            // kinds of report, one of which must come; none for "": in fast mode many faults leave no trace.
                                                // WRONG: no report, but wrong values
    std::function<bool()> run;                  // whether the values are right
};
std::vector<Program> programs(emu::Mode);

// Memory of the emulated device with values.
template <class T> class Buffer {
  public:
    explicit Buffer(size_t n) : n_(n), p_(static_cast<T*>(emulated_memory::allocate(n * sizeof(T)))) {}
    Buffer(size_t n, const std::function<T(size_t)>& value) : Buffer(n) { for (size_t i = 0; i < n; i++) p_[i] = value(i); }
    ~Buffer() { emulated_memory::release(p_); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    T* get() const { return p_; }
    T& operator[](size_t i) const { return p_[i]; }
    size_t size() const { return n_; }

  private:
    size_t n_;
    T* p_;
};

}
