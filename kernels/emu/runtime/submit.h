// Where a kernel goes that is compiled for the emulated CUDA runtime: into the thread's current stream. Errors as on a card (kernels/cuda/host/stream.h).
#pragma once
#include <functional>

namespace merv::emulated_runtime { void submit_kernel(const char* name, const char* file, int line, std::function<void()> run); }
