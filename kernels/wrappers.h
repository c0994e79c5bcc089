// The wrappers of kernels/gpu.h one by one, for holding the emulator against a card (merv-bench wrappers): the same small kernel on the same bytes gives the same bytes.
#pragma once
#include "core/tensor.h"
#include "kernels/device.h"

namespace merv::kernels {

enum class Wrapper { mma, ldmatrix, ldmatrix_trans, cp_async, cp_async_part, named_barriers, release_acquire, pack_bf16, reductions, row_reductions, packs, shuffles, functions };
constexpr int kWrappers = 13;
constexpr const char* kWrapperNames[] = {"mma_bf16", "ldmatrix", "ldmatrix, transposed", "cp_async", "cp_async, partly valid", "named barriers", "release and acquire", "pack_bf16", "warp_reduce", "row_reduce",
                                         "load and store", "shuffles", "functions"};
// Functions of the mathematics library may differ in their last bits: CUDA's are within 2 ulp (CUDA C++ Programming Guide, "Mathematical Functions"), those of the host within 1.
constexpr int kFunctionUlp = 3;
constexpr int64_t kWrapperIn = 4096, kWrapperOut = 4096;        // 32-bit words

struct WrapperProbe {
    Tensor out, in;                             // out: (kWrapperOut) i32, zero before; in: (kWrapperIn) i32, the bits of any floats or pairs of bf16
    Wrapper which = Wrapper::mma;
};

}
