// Kernels for the tests of the emulated CUDA runtime, launched on a stream.
#pragma once
#include <vector>

struct CUstream_st;

namespace merv::test {

void scale(float* y, const float* x, float by, int n, CUstream_st* stream);         // y = by x
void add_scaled(float* y, const float* x, float by, int n, CUstream_st* stream);    // y += by x
void sum(float* y, const float* x, int n, CUstream_st* stream);                     // y[0], by one block in shared memory
float sum_here(const std::vector<float>& x);     // by the emulator itself, on this thread

}
