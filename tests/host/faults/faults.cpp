// Mistakes seeded into the engine's host code (faults.txt): each must be reported by the emulated runtime, or give a wrong value or error, in
// one ordinary run of these small programs. Without a mistake they are right and unreported under every policy. Each run is a process of its own.
#include <sys/wait.h>
#include <unistd.h>
#include <barrier>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <optional>
#include <sstream>
#include <thread>
#include <cublasLt.h>
#include "core/cuda.h"
#include "core/rng.h"
#include "faults.h"
#include "kernels/cuda/host/stream.h"
#include "kernels/elementwise.h"
#include "kernels/linear.h"
#include "kernels/rows.h"
#include "tests/host/cuda.h"
#include "tests/host/products.h"

int the_fault = 0;
bool merv_host_fault(int n) { return n == the_fault; }
namespace merv { std::unique_ptr<Cuda> make_cuda(int number); }

namespace merv::test {
namespace {

std::ostringstream findings;                    // lines of "KIND text"
void expect(bool holds, const std::string& what) { if (!holds) findings << "VALUE " << what << "\n"; }
template <class F> std::string error_of(F&& f) {
    try {
        f();
    } catch (const std::exception& e) {
        return e.what();
    }
    return "";
}

Tensor counted(int64_t n, float first) {        // first, first + 1, ...
    std::vector<float> v;
    for (int64_t i = 0; i < n; i++) v.push_back(first + float(i));
    return from_floats(v, {n});
}
bool counts(const Tensor& t, float first, float step = 1) {
    const std::vector<float> v = to_floats(t);
    for (size_t i = 0; i < v.size(); i++) if (v[i] != first + step * float(i)) return false;
    return true;
}

void threads() {                                // two begin at once: each thread's first work on the device
    for (int round = 0; round < 2; round++) {   // first streams and buffers are made, then they are shared
        std::barrier together(2);
        Tensor there[2];
        std::string errors[2];
        auto work = [&](int i) {
            const OnDevice on(Device::cuda);
            together.arrive_and_wait();
            errors[i] = error_of([&] { there[i] = counted(100, float(1000 * i)); });
        };
        std::thread other(work, 1);
        work(0);
        other.join();
        for (const std::string& e : errors) if (!e.empty()) findings << "ERROR threads: " << e << "\n";
        expect(there[0] && there[1] && counts(there[0], 0) && counts(there[1], 1000), "copies of two threads");
    }
    std::string error;
    emulated::fail_next("cudaSetDevice", cudaErrorInvalidDevice);
    std::thread([&] { error = error_of([] { const OnDevice on(Device::cuda); Tensor({1}); }); }).join();
    expect(contains(error, "choosing a device"), "device of a thread: " + error);
    emulated::fail_next("cudaSetDevice", cudaSuccess);
}

void copies() {
    const int64_t n = 15001;                    // through both staging buffers twice, the last part ragged
    const Tensor here({n}, DType::f32, Device::cpu);
    for (int64_t i = 0; i < n; i++) here.data<float>()[i] = float(i);
    const Tensor there = here.to(Device::cuda);
    std::fill_n(here.data<float>(), n, -1.0f);
    const OnDevice on(Device::cuda);
    const Tensor twin({n});
    twin.copy_from(there);
    expect(counts(there, 0) && counts(twin, 0), "copies there and back");
    const Tensor bytes({3}, DType::u8, Device::cpu);
    for (int i = 0; i < 3; i++) bytes.data<uint8_t>()[i] = uint8_t(7 + i);
    const Tensor odd = bytes.to(Device::cuda), after = counted(5, 3);      // neighbours in a staging buffer
    expect(counts(odd, 7) && counts(after, 3), "copies of few bytes");
    expect(counts(zeros({300}), 0, 0), "fill with zeros");
}

void memory() {
    const OnDevice on(Device::cuda);
    Tensor sum = counted(500, 0);
    for (int i = 0; i < 3; i++) {               // what is freed is used again at once
        const Tensor y({500});
        kernels::add({.y = y, .a = sum, .b = counted(500, 0)});
        sum = y;
    }
    expect(counts(sum, 0, 4), "sums with memory that is freed meanwhile");
    expect(Tensor({0, 4}).numel() == 0, "an empty tensor");
    sum = Tensor();
    cuda().synchronize();
    cudaMemPool_t pool;
    uint64_t held = 0, kept = 0;
    cudaDeviceGetDefaultMemPool(&pool, 0);
    cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &held);
    cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &kept);
    expect(held > kept, "the pool keeps what is freed");

    emulated::fail_next("cudaMallocAsync", cudaErrorMemoryAllocation);      // once: another attempt succeeds
    expect(counts(counted(10, 1), 1), "a second attempt at an allocation");
    const MemTag tag("weights");
    const Tensor weights({1 << 19});
    emulated::fail_allocations_after(4 << 20);
    const std::string error = error_of([] { const MemTag kv("kv"); const Tensor small({1 << 18}), none({1 << 20}); });
    expect(contains(error, "held: weights 2 MiB, kv 1 MiB"), "owners of memory: " + error);
    emulated::fail_allocations_after(~size_t(0));
}

void streams() {
    const OnDevice on(Device::cuda);
    const Stream side, third;
    Event made, used;
    const Tensor a = counted(200, 1), b({200});
    made.record();
    made.make_wait(side);
    {
        const StreamScope scope(side);
        { const StreamScope inner(third); expect(current_stream() == third, "a stream's scope in another"); }
        expect(current_stream() == side, "a stream's scope ends");
        kernels::add({.y = b, .a = a, .b = a});
        used.record();
    }
    const Event moved(std::move(used));
    moved.make_wait(current_stream());
    const Tensor c({200});
    kernels::add({.y = c, .a = b, .b = a});
    expect(counts(c, 3, 3), "sums in two streams");
    float* shared = pinned(200);
    cudaMemcpyAsync(shared, c.raw(), 800, cudaMemcpyDeviceToHost, current_stream());
    cuda().synchronize();
    expect(shared[199] == 600, "synchronize() waits");
    cudaFreeHost(shared);
}

void products() {
    using Add = Product::Add;
    const DType half = DType::bf16;
    const std::vector<Product> all = {
        {}, {.M = 16}, {.N = 32}, {.K = 24}, {.gap_b = 8}, {.gap_a = 8}, {.a_along_k = false}, {.b_along_k = false}, {.a_along_k = false, .b_along_k = false, .M = 16, .K = 16}, {.a_along_k = false, .b_along_k = false, .M = 16, .K = 24},
        {.M = 16, .N = 16, .K = 16}, {.a_along_k = false, .M = 16, .N = 16, .K = 16}, {.b_along_k = false, .M = 16, .N = 16, .K = 16},
        {.type = half}, {.type = half, .y_type = half}, {.bias = true}, {.type = half, .y_type = half, .bias = true}, {.gelu = true}, {.bias = true, .gelu = true}, {.gelu = true, .z = true, .M = 8},
        {.type = half, .y_type = half, .bias = true, .gelu = true, .z = true}, {.add = Add::other}, {.add = Add::in_place}, {.type = half, .add = Add::in_place}, {.type = half, .y_type = half, .bias = true, .add = Add::other}, {.shift = 4},
    };
    for (int round = 0; round < 2; round++) for (const Product& p : all) expect(RunningProduct(p, uint64_t(round)).is_right(), "product: " + name_of(p));
    for (const Product& p : {Product{.gap_a = 1}, {.gap_b = 2}, {.N = 18}, {.gelu = true, .z = true, .N = 12}, {.shift = 1}, {.gelu = true, .add = Add::other}}) expect(RunningProduct(p).is_untouched(), "refused product: " + name_of(p));
    // Two at once in two streams
    const Stream side;
    std::optional<RunningProduct> a, b;
    { const StreamScope scope(side); a.emplace(Product{.M = 8, .K = 16}, 2); }
    b.emplace(Product{.M = 8, .K = 16}, 3);
    expect(b->is_right(), "product beside another");
    const StreamScope scope(side);
    expect(a->is_right(), "product in another stream");
    a.reset();
}

// y = residual + scale act(x w^T + bias) gate, in double, of values that are exact in bf16
void linear(DType dtype, bool half_bias, bool gate, bool scale, bool residual, kernels::Act act, bool keep_z) {
    constexpr int64_t M = 8, N = 16, K = 24;
    const Rng rng(7, "linear");
    uint64_t next = 0;
    auto values = [&](int64_t n) {
        std::vector<float> v;
        for (int64_t i = 0; i < n; i++) v.push_back(float(bf16(0.5f * float(rng.normal(next++)))));
        return v;
    };
    const auto x = values(M * K), w = values(N * K), bias = values(N), g = values(M * N), s = values(N), r = values(M * N);
    auto matrix = [&](const std::vector<float>& v, int64_t rows, DType t) { return from_floats(v, {rows, int64_t(v.size()) / rows}, t); };
    auto row = [&](const std::vector<float>& v, bool half) { return from_floats(v, {int64_t(v.size())}, half ? DType::bf16 : DType::f32); };
    const Tensor y({M, N}, dtype), z = keep_z ? Tensor({M, N}, dtype) : Tensor();
    kernels::linear({.y = y, .z = z, .x = matrix(x, M, dtype), .w = matrix(w, N, dtype), .bias = row(bias, half_bias), .act = act, .gate = gate ? matrix(g, M, dtype) : Tensor(), .scale = scale ? row(s, false) : Tensor(),
                     .residual = residual ? matrix(r, M, dtype) : Tensor()});
    const std::vector<float> got = to_floats(y), got_z = keep_z ? to_floats(z) : std::vector<float>();
    const double rounding = dtype == DType::bf16 ? 0x1p-6 : 1e-5;       // z is rounded too
    bool right = true;
    for (int64_t m = 0; m < M; m++)
        for (int64_t n = 0; n < N; n++) {
            double v = double(bias[size_t(n)]);
            for (int64_t k = 0; k < K; k++) v += double(x[size_t(m * K + k)]) * double(w[size_t(n * K + k)]);
            const size_t i = size_t(m * N + n);
            if (keep_z) right &= std::abs(double(got_z[i]) - v) <= rounding * (1 + std::abs(v));
            if (act == kernels::Act::silu) v /= 1 + std::exp(-v);
            if (act == kernels::Act::gelu_tanh) v *= 0.5 * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (v + 0.044715 * v * v * v)));
            if (gate) v *= double(g[i]);
            if (scale) v *= double(s[size_t(n)]);
            if (residual) v += double(r[i]);
            right &= std::abs(double(got[i]) - v) <= rounding * (1 + std::abs(v));
        }
    expect(right, concat("linear in ", name_of(dtype), gate ? ", gate" : "", scale ? ", scale" : "", residual ? ", residual" : "", keep_z ? ", z" : ""));
}
void layers() {
    const OnDevice on(Device::cuda);
    using kernels::Act;
    for (const DType t : {DType::f32, DType::bf16}) {
        const bool half = t == DType::bf16;
        linear(t, half, false, false, true, Act::none, false), linear(t, half, false, false, false, Act::gelu_tanh, true);
        linear(t, half, true, false, false, Act::silu, true), linear(t, half, true, true, true, Act::silu, false);
        const std::vector<float> ones(8 * 16, 1), twos(8 * 24, 2);
        const Tensor dw = zeros({16, 24}), dz = from_floats(ones, {8, 16}, t), x = from_floats(twos, {8, 24}, t);
        for (int i = 0; i < 2; i++) kernels::linear(kernels::LinearWeightBwd{.dw = dw, .dz = dz, .x = x});
        expect(counts(dw, 32, 0), "linear: gradients are added to");
    }
    linear(DType::bf16, false, false, false, true, Act::none, false);
}

void failures() {                               // the call of CUDA that fails, and the engine's that must say so
    const OnDevice on(Device::cuda);
    const Tensor a = counted(64, 0), y({64});
    auto add = [&] { kernels::add({.y = y, .a = a, .b = a}); };
    auto fails = [&](const char* call, int error, const auto& f, const std::string& says) {
        emulated::fail_next(call, error);
        const std::string what = error_of(f);
        expect(contains(what, says), concat("a failing ", call, ": '", what, "'"));
        emulated::fail_next(call, 0);
    };
    fails("cudaLaunchKernel", cudaErrorLaunchFailure, add, "cudaErrorLaunchFailure");
    RunningProduct{Product{}};                  // the error has been reported, and is not the next call's
    add();
    fails("cudaMemcpyAsync", cudaErrorIllegalAddress, [&] { counted(3, 0); }, "the last kernel launched was add");
    fails("cudaMemsetAsync", cudaErrorIllegalAddress, [&] { zeros({3}); }, "cudaErrorIllegalAddress");
    fails("cudaStreamSynchronize", cudaErrorIllegalAddress, [&] { to_floats(a); }, "cudaErrorIllegalAddress");
    cuda().synchronize();                       // the copy is still to come
    fails("cudaStreamSynchronize", cudaErrorIllegalAddress, [&] { cuda().synchronize(); }, "cudaErrorIllegalAddress");
    fails("cudaMallocAsync", cudaErrorIllegalAddress, [&] { Tensor({3}); }, "cudaErrorIllegalAddress");
    fails("cudaFreeAsync", cudaErrorIllegalAddress, [&] { { Tensor({3}); } Tensor({3}); }, "freeing memory");
    fails("cublasLtMatmul", CUBLAS_STATUS_EXECUTION_FAILED, [&] { RunningProduct{Product{}}; }, "CUBLAS_STATUS_EXECUTION_FAILED");
    expect(contains(error_of([] { make_cuda(1); }), "there are 1 CUDA devices"), "no such device");
    emulated::set_compute_capability(7, 5);
    expect(contains(error_of([] { make_cuda(0); }), "8.0"), "a device that is too old");
    emulated::set_compute_capability(9, 0);
}

// SYNC=1: the error of a kernel comes with its launch
void synchronous() {
    open_cuda(0);
    const OnDevice on(Device::cuda);
    const Tensor x = zeros({4, 8}), y({1, 8}), index = from_ints(std::vector<int32_t>{1 << 20}).to(Device::cuda);
    expect(contains(error_of([&] { kernels::gather_rows({.y = y, .x = x, .index = index}); }), "gather_rows"), "SYNC=1 names the kernel");
    emulated::take_reports();                   // the kernel's own, of its wrong access
}

void all_programs() {
    open_cuda(0);
    const std::pair<const char*, void (*)()> programs[] = {{"threads", threads}, {"copies", copies}, {"memory", memory}, {"streams", streams}, {"products", products}, {"layers", layers}, {"failures", failures}};
    for (const auto& [name, program] : programs)
        try {
            program();
        } catch (const std::exception& e) {
            findings << "ERROR " << name << ": " << e.what() << "\n";
        }
}

// What a run in a process of its own finds; a run that crashes or hangs says so
std::string run(int fault, Policy policy, unsigned seed, bool sync) {
    int ends[2];
    if (pipe(ends)) return "ERROR no pipe";
    std::cout << std::flush;
    const pid_t child = fork();
    if (!child) {
        alarm(60);
        dup2(ends[1], 1);
        the_fault = fault;
        emulated::take_reports();
        emulated::configure(policy, seed);
        try {
            if (sync) setenv("SYNC", "1", 1), synchronous();
            else all_programs();
            emulated::finish();
        } catch (const std::exception& e) {
            findings << "ERROR " << e.what() << "\n";
        }
        for (const auto& r : emulated::take_reports()) {
            std::string line = r.text;
            std::replace(line.begin(), line.end(), '\n', ' ');
            findings << r.kind << " " << line << "\n";
        }
        std::_Exit((std::cout << findings.str() << std::flush, 0));
    }
    close(ends[1]);
    std::string text;
    char part[4096];
    for (ssize_t n; (n = read(ends[0], part, sizeof part)) > 0;) text.append(part, size_t(n));
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    return status ? text + concat("ended with status ", status, "\n") : text;
}
bool is_noticed(const std::string& found, const std::string& kinds, const std::string& says) {
    std::istringstream lines(found);
    for (std::string line; std::getline(lines, line);)
        if (contains(" " + kinds + " ", " " + line.substr(0, line.find(' ')) + " ") && (says == "-" || contains(line, says))) return true;
    return false;
}

}

TEST_CASE("host faults: without one the engine's programs are right, and reported under no policy") {
    for (const auto& [policy, seed] : {std::pair(Policy::late, 1u), {Policy::eager, 1u}, {Policy::random, 1u}, {Policy::random, 2u}, {Policy::random, 3u}}) {
        EXPECT_EQ(run(0, policy, seed, false), "");
        EXPECT_EQ(run(0, policy, seed, true), "");
    }
}

TEST_CASE("host faults: each is reported, or gives a wrong value or error") {
    const bool verbose = std::getenv("MERV_TEST_VERBOSE"), soak = std::getenv("MERV_TEST_SOAK");
    int named = 0, by_value = 0;
    for (size_t i = 0; i < std::size(faults); i++) {
        const auto& f = faults[i];
        std::string found;
        for (const Policy policy : soak ? std::vector{Policy::random, Policy::eager, Policy::late} : std::vector{Policy::late}) {
            found = run(int(i + 1), policy, 1, false);
            if (contains(f.says, "SYNC=1")) found += run(int(i + 1), policy, 1, true);
            EXPECT_MESSAGE(is_noticed(found, f.kind, f.says), concat(f.file, ", ", f.name, ", ", name_of(policy), ": not noticed as ", f.kind, " '", f.says, "' but:\n", found));
        }
        std::istringstream lines(found);
        std::string first, line;
        while (std::getline(lines, line)) if (is_noticed(line, f.kind, f.says) && (first.empty() || contains("VALUE ERROR", first.substr(0, first.find(' '))))) first = line;
        if (first.empty()) continue;
        (contains("VALUE ERROR", first.substr(0, first.find(' '))) ? by_value : named)++;
        if (verbose) std::printf("  %s: %s\n    %s\n", f.file, f.name, first.substr(0, 150).c_str());
    }
    std::printf("%zu host faults: %d reported by name, %d by a value or an error that the formula or the text shows\n", std::size(faults), named, by_value);
}

}
