// What the emulated CUDA runtime answers, call by call.
#include <atomic>
#include <thread>
#include <sys/wait.h>
#include <unistd.h>
#include "core/check.h"
#include "tests/host/cuda.h"

namespace merv::test {
namespace {

// The program under the three policies; it may not be reported.
template <class F> void clean(F&& program) {
    for (const Policy policy : {Policy::late, Policy::eager, Policy::random}) {
        const auto reports = reports_of(policy, 1, program);
        EXPECT_MESSAGE(reports.empty(), name_of(policy), text_of(reports));
    }
}

TEST_CASE("emulated runtime: one device, or none") {
    clean([] {
        int n = -1, major = 0, version = 0;
        EXPECT_EQ(cudaGetDeviceCount(&n), cudaSuccess);
        EXPECT_EQ(n, 1);
        EXPECT_EQ(cudaSetDevice(0), cudaSuccess);
        EXPECT_EQ(cudaSetDevice(1), cudaErrorInvalidDevice);
        EXPECT_EQ(cudaPeekAtLastError(), cudaErrorInvalidDevice);
        EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidDevice);
        EXPECT_EQ(cudaGetLastError(), cudaSuccess);
        EXPECT_EQ(std::string(cudaGetErrorName(cudaErrorInvalidDevice)), "cudaErrorInvalidDevice");
        cudaDeviceProp p;
        EXPECT_EQ(cudaGetDeviceProperties(&p, 0), cudaSuccess);
        emulated::set_compute_capability(8, 0);
        EXPECT_EQ(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), cudaSuccess);
        EXPECT_EQ(major, 8);
        emulated::set_compute_capability(9, 0);
        EXPECT_EQ(cudaRuntimeGetVersion(&version), cudaSuccess);
        EXPECT_EQ(version, CUDART_VERSION);
        for (const char* hidden : {"", "-1"}) {
            setenv("CUDA_VISIBLE_DEVICES", hidden, 1);
            EXPECT_EQ(cudaGetDeviceCount(&n), cudaErrorNoDevice);
            EXPECT_EQ(n, 0);
            void* p0;
            EXPECT_EQ(cudaMalloc(&p0, 16), cudaErrorNoDevice);
        }
        unsetenv("CUDA_VISIBLE_DEVICES");
    });
}

TEST_CASE("emulated runtime: failures can be asked for") {
    clean([] {
        size_t before, total, after;
        cudaMemGetInfo(&before, &total);
        emulated::fail_allocations_after(1000);
        void *a = nullptr, *b = nullptr;
        EXPECT_EQ(cudaMalloc(&a, 600), cudaSuccess);
        cudaMemGetInfo(&after, &total);
        EXPECT_EQ(before - after, 600u);
        EXPECT_EQ(cudaMalloc(&b, 600), cudaErrorMemoryAllocation);
        EXPECT_EQ(cudaMallocAsync(&b, 600, nullptr), cudaErrorMemoryAllocation);
        EXPECT(b == nullptr);
        EXPECT_EQ(cudaFree(a), cudaSuccess);
        EXPECT_EQ(cudaMalloc(&b, 600), cudaSuccess);
        emulated::fail_next("cudaMemsetAsync", cudaErrorLaunchFailure);
        EXPECT_EQ(cudaMemsetAsync(b, 0, 600, nullptr), cudaErrorLaunchFailure);
        EXPECT_EQ(cudaMemsetAsync(b, 0, 600, nullptr), cudaSuccess);
        EXPECT_EQ(cudaGetLastError(), cudaErrorLaunchFailure);
        emulated::fail_next("cudaLaunchKernel", cudaErrorInvalidDeviceFunction);
        scale(static_cast<float*>(b), static_cast<float*>(b), 2, 150, nullptr);
        EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidDeviceFunction);
        cudaFree(b);
    });
}

TEST_CASE("emulated runtime: who polls is answered in the end, and knows then") {
    clean([] {
        const cudaStream_t s = new_stream();
        float *x = device(64), *host = pinned(64);
        cudaMemsetAsync(x, 0, 64 * sizeof(float), s);
        for (int i = 0; i < 20; i++) scale(x, x, 2, 64, s);
        cudaMemcpyAsync(host, x, 64 * sizeof(float), cudaMemcpyDeviceToHost, s);
        cudaEvent_t e;
        cudaEventCreate(&e);
        EXPECT_EQ(cudaEventQuery(e), cudaSuccess);      // never recorded
        cudaEventRecord(e, s);
        EXPECT_EQ(cudaEventQuery(e), cudaErrorNotReady);
        int asked = 0;
        while (cudaEventQuery(e) == cudaErrorNotReady) asked++;
        EXPECT_LT(asked, 100);
        EXPECT_EQ(host[5], 0);
        EXPECT_EQ(cudaStreamQuery(s), cudaSuccess);
        cudaEvent_t later;
        cudaEventCreate(&later);
        cudaEventRecord(later, s);
        float ms = -1;
        cudaEventSynchronize(later);
        EXPECT_EQ(cudaEventElapsedTime(&ms, e, later), cudaSuccess);
        EXPECT_GE(ms, 0);
        EXPECT_EQ(cudaEventElapsedTime(&ms, new_event(), later), cudaErrorInvalidResourceHandle);
    });
}

TEST_CASE("emulated runtime: memory is NaN when new, in order with its stream, and used again only in order") {
    clean([] {
        const cudaStream_t s = new_stream(), other = new_stream();
        uint64_t keep = ~0ull;
        cudaMemPool_t pool;
        cudaDeviceGetDefaultMemPool(&pool, 0);
        cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep);
        std::vector<float> host(256);
        void *a, *b, *c;
        cudaMallocAsync(&a, 1024, s);
        cudaMemcpyAsync(host.data(), a, 1024, cudaMemcpyDeviceToHost, s);
        EXPECT(std::all_of(host.begin(), host.end(), [](float f) { return std::isnan(f); }));
        cudaFreeAsync(a, s);
        cudaMallocAsync(&b, 1024, other);       // nothing orders it after the freeing
        EXPECT(b != a);
        cudaMallocAsync(&c, 1000, s);
        EXPECT(c == a);
        cudaMemsetAsync(c, 0, 1000, s);
        cudaFreeAsync(b, other), cudaFreeAsync(c, s);
        cudaDeviceSynchronize();
        uint64_t reserved = 0;
        cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &reserved);
        EXPECT_GT(reserved, 0u);
        cudaMemPoolTrimTo(pool, 0);
        cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &reserved);
        EXPECT_EQ(reserved, 0u);
        keep = 0;
        cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep);
    });
}

TEST_CASE("emulated runtime: pageable memory is read before the call returns, and written before it returns") {
    clean([] {
        const cudaStream_t s = new_stream();
        float* x = device(256);
        std::vector<float> from(256, 3), to(256);
        cudaMemcpyAsync(x, from.data(), 1024, cudaMemcpyHostToDevice, s);
        std::fill(from.begin(), from.end(), 4);
        cudaMemcpyAsync(to.data(), x, 1024, cudaMemcpyDeviceToHost, s);
        EXPECT_EQ(to, std::vector<float>(256, 3));
        cudaFree(x);
    });
}

TEST_CASE("emulated runtime: registered memory is pinned memory while it is") {
    std::vector<float> buffer(1024);
    auto program = [&](bool waits, bool writes) {
        return reports_of(Policy::late, 1, [&] {
            const cudaStream_t s = new_stream();
            float* x = device(1024);
            EXPECT_EQ(cudaHostRegister(buffer.data(), 4096, 0), cudaSuccess);
            EXPECT_EQ(cudaHostRegister(buffer.data(), 4096, 0), cudaErrorHostMemoryAlreadyRegistered);
            cudaMemcpyAsync(x, buffer.data(), 4096, cudaMemcpyHostToDevice, s);
            if (waits) cudaStreamSynchronize(s);
            if (writes) buffer[3] = 1;
            EXPECT_EQ(cudaHostUnregister(buffer.data()), cudaSuccess);
            buffer[4] = 1;
        });
    };
    EXPECT_EQ(text_of(program(true, true)), "");
    EXPECT(has_kind(program(false, true), "RACE"));
    EXPECT_SAYS(text_of(program(false, false)), "cudaHostUnregister");
}

TEST_CASE("emulated runtime: memcpy of the host's is seen") {
    const auto reports = reports_of(Policy::late, 1, [] {
        const cudaStream_t s = new_stream();
        float *x = device(1024), *host = pinned(1024);
        cudaMemcpyAsync(x, host, 4096, cudaMemcpyHostToDevice, s);
        const std::vector<float> from(1024);
        std::copy(from.begin(), from.end(), host);
    });
    EXPECT(has_kind(reports, "RACE"));
    EXPECT_SAYS(text_of(reports), "host code");
}

TEST_CASE("emulated runtime: device memory is unreadable for code that the compiler does not tell of") {
    const auto reports = reports_of(Policy::late, 1, [] {
        const float* x = device(1024);
        cudaDeviceSynchronize();
        EXPECT(std::memchr(x, 0xff, 4096) == x);        // new memory is NaN
    });
    EXPECT(has_kind(reports, "HOSTDEREF"));
    EXPECT_EQ(reports.size(), 1u);
    static bool found = false;
    const auto in_function = reports_of(Policy::late, 1, [] {
        cudaLaunchHostFunc(nullptr, [](void* x) { found = std::memchr(x, 0xff, 4096); }, device(1024));
        cudaDeviceSynchronize();
    });
    EXPECT(has_kind(in_function, "HOSTDEREF"));
    EXPECT(found);
}

TEST_CASE("emulated runtime: the default stream and the others wait for each other") {
    clean([] {
        const cudaStream_t blocking = new_stream(cudaStreamDefault);
        float* x = device(64);
        for (int i = 0; i < 3; i++) {
            cudaMemsetAsync(x, 0, 256, blocking);
            cudaMemset(x, 1, 256);
            scale(x, x, 2, 64, blocking);
        }
        cudaDeviceSynchronize();
    });
}

TEST_CASE("emulated runtime: a kernel's own fault is reported, and what waits for it fails") {
    const auto reports = reports_of(Policy::late, 1, [] {
        const cudaStream_t s = new_stream();
        float* x = device(64);
        cudaMemsetAsync(x, 0, 256, s);
        scale(x, x + 1, 2, 64, s);              // races within: reads what the next thread writes
        EXPECT_EQ(cudaStreamSynchronize(s), cudaErrorLaunchFailure);
        EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
    });
    EXPECT(has_kind(reports, "KERNEL"));
    EXPECT_SAYS(text_of(reports), "kernels.cu:");
}

TEST_CASE("emulated runtime: several host threads") {
    clean([] {
        std::vector<std::thread> threads;
        std::atomic<int> right = 0;
        for (int t = 0; t < 4; t++)
            threads.emplace_back([&right, t] {
                const cudaStream_t s = new_stream();
                float *x = device(256), *y = device(1), *host = pinned(256);
                for (int i = 0; i < 256; i++) host[i] = float(t);
                cudaMemcpyAsync(x, host, 1024, cudaMemcpyHostToDevice, s);
                sum(y, x, 256, s);
                cudaMemcpyAsync(host, y, sizeof(float), cudaMemcpyDeviceToHost, s);
                cudaStreamSynchronize(s);
                right += host[0] == float(256 * t);
            });
        for (std::thread& t : threads) t.join();
        EXPECT_EQ(right, 4);
    });
}

TEST_CASE("emulated runtime: beside it the emulator runs kernels as before") {
    clean([] {
        const std::vector<float> x(300, 0.5f);
        float *from = device(300), *to = device(1), on_device = 0;
        for (int i = 0; i < 2; i++) {
            cudaMemcpy(from, x.data(), 1200, cudaMemcpyHostToDevice);
            sum(to, from, 300, nullptr);
            EXPECT_EQ(sum_here(x), 150);
            cudaMemcpy(&on_device, to, sizeof(float), cudaMemcpyDeviceToHost);
            EXPECT_EQ(on_device, 150);
        }
    });
}

TEST_CASE("emulated runtime: a program that was reported exits with 7 instead of 0, and with its own code otherwise") {
    auto code = [](bool wrong, int exits_with) {
        const pid_t child = fork();
        if (child == 0) {
            if (!freopen("/dev/null", "w", stderr)) _exit(99);
            emulated::collect(false);
            int ordinary;
            if (wrong) cudaFree(&ordinary);
            std::exit(exits_with);
        }
        int status = 0;
        waitpid(child, &status, 0);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    };
    EXPECT_EQ(code(false, 0), 0);
    EXPECT_EQ(code(true, 0), int(Exit::device));
    EXPECT_EQ(code(true, 3), 3);
}

TEST_CASE("emulated runtime: what is not freed is counted") {
    emulated::free_everything();
    device(100), pinned(50);
    void* p;
    cudaMallocAsync(&p, 64, nullptr);
    cudaFreeAsync(p, nullptr);
    EXPECT_EQ(emulated::free_everything(), 600u);
    EXPECT_EQ(emulated::free_everything(), 0u);
}

}
}
