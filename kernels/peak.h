// What this machine can do at best: loops that do nothing else. A kernel's speed is judged against these, measured beside it.
#pragma once
#include "core/tensor.h"
#include "kernels/cpu.h"

namespace merv::kernels {

struct PeakMultiply {                           // as many independent multiply-adds as a GEMM's inner loop has, from registers
    DType dtype = DType::f32;                   // bf16: pairs, as the instruction set multiplies them
    int64_t steps = 0;
    double* flops = nullptr;                    // out: how many were done, over all threads
};
struct PeakRead { Tensor x; float* sum = nullptr; };    // every byte of x once, in order, a contiguous share per thread; sum: out, meaningless
struct PeakCopy { Tensor y, x; };               // of the same size; y is written past the caches
inline void peak(const PeakMultiply& a) { cpu::run(a); }
inline void peak(const PeakRead& a) { cpu::run(a); }
inline void peak(const PeakCopy& a) { cpu::run(a); }

}
