// Short forms of CUDA for the tests of the emulated runtime, and of what it reports.
#pragma once
#include <cuda_runtime.h>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>
#include "kernels/emu/runtime/runtime.h"
#include "tests/host/kernels.h"
#include "tests/test.h"

namespace merv::test {

namespace emulated = emulated_runtime;
using emulated::Policy;

inline cudaStream_t new_stream(unsigned flags = cudaStreamNonBlocking) {
    cudaStream_t s;
    cudaStreamCreateWithFlags(&s, flags);
    return s;
}
inline cudaEvent_t new_event() {
    cudaEvent_t e;
    cudaEventCreateWithFlags(&e, cudaEventDisableTiming);
    return e;
}
template <class T = float> T* device(size_t n) {
    void* p = nullptr;
    cudaMalloc(&p, n * sizeof(T));
    return static_cast<T*>(p);
}
template <class T = float> T* pinned(size_t n) {
    void* p = nullptr;
    cudaMallocHost(&p, n * sizeof(T));
    return static_cast<T*>(p);
}
// What `program` is reported for, on a machine of its own
template <class F> std::vector<emulated::Report> reports_of(Policy policy, unsigned seed, F&& program) {
    emulated::take_reports();
    emulated::configure(policy, seed);
    program();
    emulated::finish();
    auto found = emulated::take_reports();
    emulated::free_everything();
    emulated::take_reports();
    return found;
}
inline std::string text_of(const std::vector<emulated::Report>& reports) {
    std::string all;
    for (const auto& r : reports) all += "\n    " + r.kind + ": " + r.text;
    return all;
}
inline bool has_kind(const std::vector<emulated::Report>& reports, const std::string& kinds) {
    return std::any_of(reports.begin(), reports.end(), [&](const auto& r) { return contains(" " + kinds + " ", " " + r.kind + " "); });
}
inline std::string name_of(Policy p) { return p == Policy::late ? "late" : p == Policy::eager ? "eager" : "random"; }

}
