#include "kernels/gpu.h"
#include "core/emulated_memory.h"
#include "kernels/emu/runtime/runtime.h"
#include "tests/host/kernels.h"

namespace merv::test {
namespace MERV_GPU {
namespace {

__global__ void scale(float* y, const float* x, float by, int n) {
    const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) y[i] = by * x[i];
}
__global__ void add_scaled(float* y, const float* x, float by, int n) {
    const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) y[i] += by * x[i];
}
__global__ void sum(float* y, const float* x, int n) {
    __shared__ float part[64];
    float v = 0;
    for (int i = int(threadIdx.x); i < n; i += 64) v += x[i];
    part[threadIdx.x] = v;
    __syncthreads();
    if (threadIdx.x) return;
    for (int i = 1; i < 64; i++) v += part[i];
    *y = v;
}

}
}

using namespace MERV_GPU;

void scale(float* y, const float* x, float by, int n, CUstream_st* stream) {
    emulated_runtime::submit(stream, "scale", [=] { kernels::launch({{"scale"}}, {{unsigned(n + 63) / 64}, {64}}, MERV_GPU::scale, y, x, by, n); });
}
void add_scaled(float* y, const float* x, float by, int n, CUstream_st* stream) {
    emulated_runtime::submit(stream, "add_scaled", [=] { kernels::launch({{"add_scaled"}}, {{unsigned(n + 63) / 64}, {64}}, MERV_GPU::add_scaled, y, x, by, n); });
}
void sum(float* y, const float* x, int n, CUstream_st* stream) {
    emulated_runtime::submit(stream, "sum", [=] { kernels::launch({{"sum"}}, {{1}, {64}}, MERV_GPU::sum, y, x, n); });
}
float sum_here(const std::vector<float>& x) {
    auto *from = static_cast<float*>(emulated_memory::allocate(x.size() * sizeof(float))), *to = static_cast<float*>(emulated_memory::allocate(sizeof(float)));
    std::copy(x.begin(), x.end(), from);
    kernels::launch({{"sum"}}, {{1}, {64}}, MERV_GPU::sum, to, from, int(x.size()));
    const float sum = *to;
    emulated_memory::release(from), emulated_memory::release(to);
    return sum;
}

}
