// A CUDA runtime without a GPU: the C functions of libcudart and libcublasLt that an engine's host code needs, compiled against the
// real headers and linked instead of the real libraries. It does what CUDA allows and programs hope it does not: work runs as late
// as it may, or at once, or in an order drawn at random; memory is full of NaN when it is new and when it is freed.
// Two accesses that nothing orders are reported whatever order they ran in, so one run is enough.
//
// This is its interface for tests, and for kernels' launches. docs/emulator.md says what is exact and what is a model.
#pragma once
#include <cstddef>
#include <functional>
#include <string>
#include <vector>

struct CUstream_st;

namespace merv::emulated_runtime {

enum class Policy {
    late,                                       // nothing runs before the host waits, and then only what it waits for
    eager,                                      // everything runs when it is issued
    random,                                     // by seed: half of the streams are eager for a while, and streams have priorities
};
// Runs what is queued, drops what was injected and forgets errors. A seed repeats exactly where one thread calls CUDA.
void configure(Policy policy, unsigned seed = 1);
void finish();                                  // runs what is queued, and lets the host know nothing of it

size_t free_everything();                       // likewise, and then what the program has not freed, as its end would: bytes of it

// What a program did that it may not. `kind` is one word:
//   RACE   UAF use after free   FREE of what is not allocated   OOB out of bounds   POINTER   KIND of a copy   HOSTDEREF of device memory
//   HOSTFN CUDA called in a host function   STREAM and EVENT destroyed or invalid   HANG   CUBLAS invalid arguments   KERNEL its own reports
//   API not emulated
struct Report {
    std::string kind, text;
};
// Reports since the last call, each cause once. From the first call on, or between collect(true) and collect(false), reports are kept for
// it; otherwise they are printed to stderr.
std::vector<Report> take_reports();
void collect(bool);
int reports_so_far();                           // in this process, printed or kept

// Queues a kernel: `run` calls emu::run, and must own what it refers to. Its accesses to memory are known if it was compiled in checked
// mode. Returns a cudaError_t, which is only what fail_next("cudaLaunchKernel", ..) has asked for: what the emulator finds comes with a wait.
int submit(CUstream_st* stream, std::string name, std::function<void()> run);

// ---- failures to come
void fail_allocations_after(size_t bytes);      // cudaMalloc and its kin: cudaErrorMemoryAllocation once that many bytes are allocated
void fail_next(const char* function, int error);        // "cudaMemcpyAsync": its next call does nothing and returns this cudaError_t
void set_compute_capability(int major, int minor);      // 9.0 at first
void protect_device_memory(bool);               // unreadable while host code runs: on at first; a system call per allocation and wait
void set_hang_seconds(double seconds);          // a wait for longer is reported; 600 at first: a checked kernel may take minutes

}
