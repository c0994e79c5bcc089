// Cuda (core/cuda.h) over the CUDA runtime: the driver's stream-ordered pool, which keeps what is freed, and pinned staging for copies.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <mutex>
#include "core/check.h"
#include "core/cuda.h"
#include "kernels/cuda/host/graph.h"
#include "kernels/cuda/host/self_test.h"
#include "kernels/cuda/host/stream.h"
#include "kernels/cuda/host/timer.h"
#include "kernels/device.h"

namespace merv {
namespace {

// Two pinned buffers: the host fills one while the device reads the other. Host memory is copied into them, so that a copy to the
// device never waits for the device's earlier work, unless both are full of copies that have not been made.
class Staging {
  public:
    static constexpr size_t kBytes = size_t(16) << 20;

    void to_device(std::byte* to, const std::byte* from, size_t bytes) {
        const std::lock_guard lock(mutex_);
        while (bytes) {
            Buffer& b = with_room();
            const size_t n = std::min(bytes, kBytes - b.used);
            std::memcpy(b.at + b.used, from, n);
            must(cudaMemcpyAsync(to, b.at + b.used, n, cudaMemcpyHostToDevice, current_stream()), "a copy to the device");
            b.copied.record();
            b.used = std::min(kBytes, (b.used + n + 63) / 64 * 64);
            to += n, from += n, bytes -= n;
        }
    }
    void to_host(std::byte* to, const std::byte* from, size_t bytes) {
        const std::lock_guard lock(mutex_);
        while (bytes) {
            Buffer& b = with_room();
            const size_t n = std::min(bytes, kBytes - b.used);
            must(cudaMemcpyAsync(b.at + b.used, from, n, cudaMemcpyDeviceToHost, current_stream()), "a copy from the device");
            must(cudaStreamSynchronize(current_stream()), "a copy from the device");
            std::memcpy(to, b.at + b.used, n);
            to += n, from += n, bytes -= n;
        }
    }

  private:
    struct Buffer {
        std::byte* at = nullptr;
        size_t used = kBytes;
        Event copied;                           // the last copy out of it
    };
    Buffer& with_room() {
        if (buffers_[turn_].used < kBytes) return buffers_[turn_];
        turn_ ^= 1;
        Buffer& b = buffers_[turn_];
        if (b.at) b.copied.synchronize();
        else {
            void* p = nullptr;
            must(cudaHostAlloc(&p, kBytes, cudaHostAllocDefault), "pinned memory");
            b.at = static_cast<std::byte*>(p);
        }
        b.used = 0;
        return b;
    }
    std::mutex mutex_;
    Buffer buffers_[2];
    int turn_ = 0;
};

class RuntimeDevice final : public Cuda {
  public:
    RuntimeDevice(int number, const cudaDeviceProp& p) : name_(concat("cuda:", number, ", ", p.name, ", ", double(p.totalGlobalMem >> 20) / 1024, " GiB")), uuid_(p.uuid.bytes, sizeof p.uuid.bytes) {
        must(cudaDeviceGetDefaultMemPool(&pool_, number), "the memory pool");
        uint64_t keep = UINT64_MAX;             // what is freed is not given back to the system at the next synchronisation
        must(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep), "the memory pool");
    }
    std::string name() const override { return name_; }
    void self_test() override {
        int driver = 0;
        cudaDriverGetVersion(&driver);
        test_device(name_, uuid_, driver);
    }

    std::byte* allocate(size_t bytes) override {
        must(not_freed_.exchange(cudaSuccess), "freeing memory");
        if (serving() != Serving::pool) {
            std::byte* p = arena().take(bytes, serving() == Serving::arena);
            if (!p && serving() == Serving::capture) throw ArenaFull();
            return p;
        }
        void* p = nullptr;
        cudaError_t e = cudaMallocAsync(&p, std::max<size_t>(bytes, 1), current_stream());
        if (e == cudaErrorMemoryAllocation) {   // what other streams freed, and pieces too small, may make room
            cudaGetLastError();
            synchronize();
            must(cudaMemPoolTrimTo(pool_, 0), "the memory pool");
            e = cudaMallocAsync(&p, std::max<size_t>(bytes, 1), current_stream());
        }
        if (e == cudaErrorMemoryAllocation) return cudaGetLastError(), nullptr;
        must(e, "memory");
        return static_cast<std::byte*>(p);
    }
    void release(std::byte* p) noexcept override {
        if (arena().give_back(p)) return;
        if (serving() == Serving::capture) return keep_until_launched(p);
        if (const cudaError_t e = cudaFreeAsync(p, current_stream())) cudaGetLastError(), not_freed_ = e;      // the next allocation reports it
    }

    void copy(std::byte* to, Device to_device, const std::byte* from, Device from_device, size_t bytes) override {
        if (bytes == 0) return;
        CHECK(serving() != Serving::capture || (to_device == Device::cuda && from_device == Device::cuda), "a step that is captured copies ", bytes, " bytes from or to the host, which a graph would repeat as they were");
        if (to_device == Device::cuda && from_device == Device::cuda) must(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, current_stream()), "a copy on the device");
        else if (to_device == Device::cuda) staging_.to_device(to, from, bytes);
        else staging_.to_host(to, from, bytes);
    }
    void fill(std::byte* to, int byte, size_t bytes) override { must(cudaMemsetAsync(to, byte, bytes, current_stream()), "a fill"); }
    void synchronize() override { must(cudaStreamSynchronize(current_stream()), "waiting for the device"); }
    std::unique_ptr<CudaGraph> graph() override { return kernels::anything_replaced ? nullptr : make_graph(); }     // an op on the host copies, which no graph can
    profile::DeviceTimer* timer() override { return &timer_; }

  private:
    std::string name_, uuid_;
    cudaMemPool_t pool_ = nullptr;
    std::atomic<cudaError_t> not_freed_ = cudaSuccess;
    Staging staging_;
    CudaTimer timer_;
};

[[noreturn]] void unusable(int number, cudaError_t e) {
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    auto version = [](int v) { return concat(v / 1000, ".", v % 1000 / 10); };
    const std::string device = concat("cuda:", number);
    switch (e) {
        case cudaErrorInsufficientDriver:
            if (driver == 0) fail(Exit::device, device, ": no NVIDIA driver is installed; use --device cpu");
            fail(Exit::device, device, ": the driver supports CUDA ", version(driver), " and this program needs ", version(runtime), "; update the driver, or use --device cpu");
        case cudaErrorNoDevice: fail(Exit::device, device, ": there is no CUDA device (CUDA_VISIBLE_DEVICES may hide it); use --device cpu");
        case cudaErrorDevicesUnavailable: fail(Exit::device, device, ": the device is busy, or in exclusive mode and another process has it; free it, choose another, or use --device cpu");
        default: fail(Exit::device, device, ": ", cudaGetErrorString(e), " (", cudaGetErrorName(e), ")");
    }
}

}

std::unique_ptr<Cuda> make_cuda(int number) {
    auto need = [&](cudaError_t e) { if (e != cudaSuccess) unusable(number, e); };
    int devices = 0;
    need(cudaGetDeviceCount(&devices));
    if (devices == 0) unusable(number, cudaErrorNoDevice);
    if (number < 0 || number >= devices) fail(Exit::device, "cuda:", number, ": there are ", devices, " CUDA devices, cuda:0 to cuda:", devices - 1);
    cudaDeviceProp p{};
    need(cudaGetDeviceProperties(&p, number));
    if (p.major < 8) fail(Exit::device, "cuda:", number, ": ", p.name, " has compute capability ", p.major, ".", p.minor, "; 8.0 (A100) and later are supported");
    use_device(number);
    need(cudaSetDevice(number));
    need(cudaFree(nullptr));                    // makes the context: a device that is taken says so here
    return std::make_unique<RuntimeDevice>(number, p);
}

}
