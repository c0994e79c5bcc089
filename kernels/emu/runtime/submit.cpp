#include "kernels/emu/runtime/submit.h"
#include "kernels/cuda/host/stream.h"
#include "kernels/emu/runtime/runtime.h"

namespace merv::emulated_runtime {

void submit_kernel(const char* name, std::function<void()> run) { submit(current_stream(), name, std::move(run)); }

}
