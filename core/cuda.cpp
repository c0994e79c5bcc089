#include "core/cuda.h"
#include "core/check.h"

namespace merv {

[[gnu::weak]] std::unique_ptr<Cuda> make_cuda(int number);  // kernels/cuda/host/device.cpp, where it is linked

namespace {
Cuda*& opened() {
    static Cuda* device = nullptr;                          // never closed: tensors may outlive static destructors
    return device;
}
}

bool has_cuda_backend() { return make_cuda != nullptr; }
void open_cuda(int number) {
    if (!has_cuda_backend()) fail(Exit::device, "this program was built without the CUDA backend; `make CUDA=1` builds it with");
    if (!opened()) opened() = make_cuda(number).release();
}
Cuda& cuda() {
    CHECK(opened(), "a CUDA device is used before open_cuda");
    return *opened();
}

}
