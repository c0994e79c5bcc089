#include "kernels/cuda/host/stream.h"
#include <cstdlib>
#include <string>
#include "core/check.h"

namespace merv {
namespace {

thread_local LaunchPlace last_launch{};
thread_local cudaStream_t chosen = nullptr;
int the_device;

bool waits_for_each() {
    static const bool on = [] { const char* text = std::getenv("SYNC"); return text && std::string(text) == "1"; }();
    return on;
}
cudaStream_t compute_stream() {
    static const cudaStream_t stream = [] {     // never destroyed, as tensors may outlive static destructors
        cudaStream_t s = nullptr;
        must(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), "a stream");
        return s;
    }();
    return stream;
}

}

void must(cudaError_t e, const char* what) {
    if (e == cudaSuccess) return;
    cudaGetLastError();                         // it is reported here, and not by the next product too
    std::string text = concat(what, ": ", cudaGetErrorString(e), " (", cudaGetErrorName(e), ")");
    if (last_launch.kernel) text += concat("; the last kernel launched was ", last_launch.kernel, " at ", last_launch.file, ":", last_launch.line, waits_for_each() ? "" : "; run with SYNC=1 to see which one failed");
    fail(e == cudaErrorMemoryAllocation ? Exit::no_memory : Exit::device, text);
}

void launched(const LaunchPlace& place, cudaError_t e) {
    last_launch = place;
    must(e, place.kernel);
    if (waits_for_each()) must(cudaStreamSynchronize(current_stream()), place.kernel);
}

void use_device(int number) { the_device = number; }
cudaStream_t current_stream() {
    thread_local bool on_device = false;        // a thread begins on device 0
    if (!on_device) must(cudaSetDevice(the_device), "choosing a device");
    on_device = true;
    return chosen ? chosen : compute_stream();
}
StreamScope::StreamScope(cudaStream_t s) : saved_(chosen) { chosen = s; }
StreamScope::~StreamScope() { chosen = saved_; }

}
