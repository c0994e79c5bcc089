// Where a kernel goes that is compiled for the emulated CUDA runtime: into the thread's current stream.
#pragma once
#include <functional>

namespace merv::emulated_runtime { void submit_kernel(const char* name, std::function<void()> run); }
