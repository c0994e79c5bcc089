// The engine's own device over the emulated runtime: what its user is told when it fails.
#include "core/cuda.h"
#include "core/tensor.h"
#include "kernels/cuda/host/stream.h"
#include "kernels/elementwise.h"
#include "kernels/linear.h"
#include "tests/host/cuda.h"

using namespace merv;
using namespace merv::test;

namespace {
template <class F> std::string error_of(Exit code, F&& f) {
    try {
        f();
    } catch (const Error& e) {
        EXPECT_EQ(int(e.code), int(code));
        return e.what();
    }
    return "no error";
}
}

TEST_CASE("device: out of memory names the owners and what to lower") {
    open_cuda(0);
    const OnDevice on(Device::cuda);
    const MemTag tag("weights");
    const Tensor held({1 << 20});
    emulated::fail_allocations_after(8 << 20);
    const std::string what = error_of(Exit::no_memory, [] { const MemTag kv("kv"); Tensor({3 << 20}); });
    EXPECT_SAYS(what, "12 MiB for kv; held: weights 4 MiB");
    EXPECT_SAYS(what, "--num-frames");
    emulated::fail_allocations_after(~size_t(0));
    EXPECT_EQ(Tensor({3 << 20}).numel(), 3 << 20);
}

TEST_CASE("device: a launch that fails names its kernel and its line") {
    open_cuda(0);
    const OnDevice on(Device::cuda);
    const Tensor a = zeros({64}), b = zeros({64}), y({64});
    emulated::fail_next("cudaLaunchKernel", cudaErrorLaunchFailure);
    const std::string what = error_of(Exit::device, [&] { kernels::add({.y = y, .a = a, .b = b}); });
    EXPECT_SAYS(what, "elementwise.cu:");
    EXPECT_SAYS(what, "cudaErrorLaunchFailure");
}

TEST_CASE("device: bytes go there and come back through more than both staging buffers") {
    open_cuda(0);
    const Tensor here({10 << 20}, DType::f32, Device::cpu);
    for (int64_t i = 0; i < here.numel(); i++) here.data<float>()[i] = float(i);
    const Tensor there = here.to(Device::cuda);
    std::fill_n(here.data<float>(), here.numel(), -1.0f);        // the copy has been staged
    const Tensor back = there.to(Device::cpu);
    int64_t wrong = 0;
    for (int64_t i = 0; i < back.numel(); i++) wrong += back.data<float>()[i] != float(i);
    EXPECT_EQ(wrong, 0);
}

TEST_CASE("device: a product of cuBLASLt that fails names the op and its line") {
    open_cuda(0);
    const OnDevice on(Device::cuda);
    const Tensor x = zeros({16, 32}), w = zeros({64, 32}), y({16, 64});
    cudaGetLastError();                         // the failures above are over
    kernels::linear({.y = y, .x = x, .w = w});
    cudaStreamCaptureStatus status;
    emulated::fail_next("cudaStreamIsCapturing", cudaErrorLaunchFailure);
    EXPECT_EQ(cudaStreamIsCapturing(nullptr, &status), cudaErrorLaunchFailure);        // an error that nobody has asked for yet
    const std::string what = error_of(Exit::device, [&] { kernels::linear({.y = y, .x = x, .w = w}); });
    EXPECT_SAYS(what, "linear: unspecified launch failure");
    EXPECT_SAYS(what, "linear at kernels/cuda/linear.cu:");
}
