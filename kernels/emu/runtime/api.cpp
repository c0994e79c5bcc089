// The functions of libcudart. What each may and may not be relied upon for is CUDA's documentation's "API synchronization behavior".
#include <cstdlib>
#include <cstring>
#include "kernels/emu/runtime/state.h"

namespace merv::emulated_runtime {

void forget_injected();

namespace {

thread_local cudaError_t last_error = cudaSuccess;
int major_version = 9, minor_version = 0;

std::map<std::string, int>& injections() {
    static auto* all = new std::map<std::string, int>;
    return *all;
}
template <class F> cudaError_t call(const char* function, F&& f) { return note(api(function, cudaErrorNotPermitted, [&]() -> cudaError_t { return f(); })); }

bool has_device() {
    const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
    return !visible || (*visible && std::strcmp(visible, "-1"));
}

cudaError_t not_emulated(const std::string& what) {
    report("API", what, what + " is not emulated");
    return cudaErrorNotSupported;
}

const char* name_of_kind(cudaMemcpyKind k) {
    constexpr const char* names[] = {"cudaMemcpyHostToHost", "cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost", "cudaMemcpyDeviceToDevice", "cudaMemcpyDefault"};
    return k >= 0 && k <= 4 ? names[k] : "an unknown cudaMemcpyKind";
}

cudaError_t copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, CUstream_st* s, bool synchronous) {
    if (!bytes) return cudaSuccess;
    if (!to || !from) return cudaErrorInvalidValue;
    const Allocation *a = find(to), *b = find(from);
    const bool to_device = on_device(a), from_device = on_device(b);
    const std::string name = concat(synchronous ? "cudaMemcpy " : "cudaMemcpyAsync ", from_device ? "device" : "host", " to ", to_device ? "device" : "host");
    const cudaMemcpyKind is = from_device ? to_device ? cudaMemcpyDeviceToDevice : cudaMemcpyDeviceToHost : to_device ? cudaMemcpyHostToDevice : cudaMemcpyHostToHost;
    if (kind != cudaMemcpyDefault && kind != is) {
        report("KIND", name, concat(name, " is called with ", name_of_kind(kind)));
        return cudaErrorInvalidValue;
    }
    if (!fits(to, bytes, name) || !fits(from, bytes, name)) return cudaErrorInvalidValue;
    if (!b && to_device && !s->capture) {       // a graph's node reads it at each launch
        // Pageable memory is staged before the call returns, in order with the stream only where it is synchronous; the device's side comes later
        if (synchronous) synchronize(s);
        const auto staged = std::make_shared<std::vector<char>>(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
        issue(s, name + ", pageable,", [=] { if (touch(running, to, bytes, true)) std::memcpy(to, staged->data(), bytes); });
        return cudaSuccess;
    }
    const auto o = issue(s, name, [=] {
        const bool readable = touch(running, from, bytes, false);
        if (touch(running, to, bytes, true) && readable) std::memmove(to, from, bytes);
    });
    const bool waits = is == cudaMemcpyHostToHost || (from_device && !a) || (synchronous && is != cudaMemcpyDeviceToDevice);
    if (!waits || s->capture) return cudaSuccess;
    const Clock knows = s->knows;
    const cudaError_t e = wait_for({o});
    host_learns(knows);
    return e;
}

cudaError_t set(void* p, int value, size_t bytes, CUstream_st* s) {
    if (!bytes) return cudaSuccess;
    if (!find(p)) {
        report("POINTER", "cudaMemset", "cudaMemset of memory that is not the device's");
        return cudaErrorInvalidValue;
    }
    if (!fits(p, bytes, "cudaMemset")) return cudaErrorInvalidValue;
    issue(s, "cudaMemset", [=] { if (touch(running, p, bytes, true)) std::memset(p, value, bytes); });
    return cudaSuccess;
}

bool usable(cudaEvent_t e, const char* function) {
    if (e && !e->destroyed) return true;
    report("EVENT", function, concat(function, e ? " of a destroyed event" : " of no event"));
    return false;
}

// The first answer is no, unless the host knows better: a program that counts on a fast GPU shall notice. Those that follow bring the work about.
cudaError_t query(const std::shared_ptr<Operation>& o, const Clock& knows) {
    if (o && (!o->done || (!std::exchange(o->queried, true) && !known(o->record, host.knows)))) {
        if (!o->done) run_one_towards(o);
        return cudaErrorNotReady;
    }
    host_learns(knows);
    return cudaSuccess;
}

cudaError_t attribute(int* value, cudaDeviceAttr a) {
    switch (a) {
        case cudaDevAttrMaxThreadsPerBlock: return *value = 1024, cudaSuccess;
        case cudaDevAttrMaxSharedMemoryPerBlock: return *value = 48 << 10, cudaSuccess;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: return *value = 227 << 10, cudaSuccess;
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor: return *value = 228 << 10, cudaSuccess;
        case cudaDevAttrReservedSharedMemoryPerBlock: return *value = 1 << 10, cudaSuccess;
        case cudaDevAttrMaxRegistersPerBlock: case cudaDevAttrMaxRegistersPerMultiprocessor: return *value = 65536, cudaSuccess;
        case cudaDevAttrMaxThreadsPerMultiProcessor: return *value = 2048, cudaSuccess;
        case cudaDevAttrWarpSize: return *value = 32, cudaSuccess;
        case cudaDevAttrMultiProcessorCount: return *value = 132, cudaSuccess;
        case cudaDevAttrL2CacheSize: return *value = 50 << 20, cudaSuccess;
        case cudaDevAttrComputeCapabilityMajor: return *value = major_version, cudaSuccess;
        case cudaDevAttrComputeCapabilityMinor: return *value = minor_version, cudaSuccess;
        case cudaDevAttrMemoryPoolsSupported: case cudaDevAttrUnifiedAddressing: case cudaDevAttrConcurrentKernels: return *value = 1, cudaSuccess;
        case cudaDevAttrIntegrated: case cudaDevAttrManagedMemory: return *value = 0, cudaSuccess;
        default: return not_emulated(concat("cudaDeviceGetAttribute ", int(a)));
    }
}

}

cudaError_t injected(const char* function) {
    const auto it = injections().find(function);
    if (it == injections().end()) return cudaSuccess;
    const int e = it->second;
    injections().erase(it);
    return cudaError_t(e);
}
cudaError_t note(cudaError_t e) {
    if (e != cudaSuccess && e != cudaErrorNotReady) last_error = e;
    return e;
}
void forget_injected() { injections().clear(), last_error = cudaSuccess; }
void fail_next(const char* function, int error) {
    const std::lock_guard lock(state_mutex());
    injections()[function] = error;
}
void set_compute_capability(int major, int minor) { major_version = major, minor_version = minor; }

}

using namespace merv::emulated_runtime;
using merv::concat;

extern "C" {

// ---- device

cudaError_t cudaGetDeviceCount(int* count) {
    return call(__func__, [&] { return *count = has_device(), *count ? cudaSuccess : cudaErrorNoDevice; });
}
cudaError_t cudaSetDevice(int device) {
    return call(__func__, [&] { return !has_device() ? cudaErrorNoDevice : device ? cudaErrorInvalidDevice : cudaSuccess; });
}
cudaError_t cudaGetDevice(int* device) {
    return call(__func__, [&] { return *device = 0, has_device() ? cudaSuccess : cudaErrorNoDevice; });
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) {
    return call(__func__, [&] {
        if (device || !has_device()) return cudaErrorInvalidDevice;
        *p = {};
        std::strcpy(p->name, "emulated GPU");
        p->totalGlobalMem = usage.limit;
        p->sharedMemPerBlock = 48 << 10, p->sharedMemPerBlockOptin = 227 << 10, p->sharedMemPerMultiprocessor = 228 << 10, p->reservedSharedMemPerBlock = 1 << 10;
        p->regsPerBlock = p->regsPerMultiprocessor = 65536;
        p->warpSize = 32, p->maxThreadsPerBlock = 1024, p->maxThreadsPerMultiProcessor = 2048, p->multiProcessorCount = 132;
        p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024, p->maxThreadsDim[2] = 64;
        p->maxGridSize[0] = 0x7fffffff, p->maxGridSize[1] = p->maxGridSize[2] = 65535;
        p->major = major_version, p->minor = minor_version;
        p->l2CacheSize = 50 << 20, p->memoryBusWidth = 5120;
        p->unifiedAddressing = p->memoryPoolsSupported = p->concurrentKernels = 1;
        return cudaSuccess;
    });
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr a, int device) {
    return call(__func__, [&] { return device || !has_device() ? cudaErrorInvalidDevice : attribute(value, a); });
}
cudaError_t cudaDriverGetVersion(int* version) {
    return call(__func__, [&] { return *version = has_device() ? CUDART_VERSION : 0, cudaSuccess; });
}
cudaError_t cudaRuntimeGetVersion(int* version) {
    return call(__func__, [&] { return *version = CUDART_VERSION, cudaSuccess; });
}
cudaError_t cudaDeviceSynchronize() {
    return call(__func__, [] { return synchronize_all(true); });
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
    return call(__func__, [&] { return *free = usage.limit - usage.allocated - usage.in_pool, *total = usage.limit, cudaSuccess; });
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute a, int value) {
    return call(__func__, [&] { return a == cudaFuncAttributeMaxDynamicSharedMemorySize && value > 227 << 10 ? cudaErrorInvalidValue : cudaSuccess; });
}

// ---- errors

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last_error; }
const char* cudaGetErrorName(cudaError_t e) {
    switch (e) {
        case cudaSuccess: return "cudaSuccess";
        case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
        case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
        case cudaErrorNoDevice: return "cudaErrorNoDevice";
        case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
        case cudaErrorNotReady: return "cudaErrorNotReady";
        case cudaErrorNotPermitted: return "cudaErrorNotPermitted";
        case cudaErrorNotSupported: return "cudaErrorNotSupported";
        case cudaErrorInvalidResourceHandle: return "cudaErrorInvalidResourceHandle";
        case cudaErrorLaunchFailure: return "cudaErrorLaunchFailure";
        case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
        case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
        case cudaErrorStreamCaptureInvalidated: return "cudaErrorStreamCaptureInvalidated";
        case cudaErrorGraphExecUpdateFailure: return "cudaErrorGraphExecUpdateFailure";
        case cudaErrorHostMemoryAlreadyRegistered: return "cudaErrorHostMemoryAlreadyRegistered";
        case cudaErrorHostMemoryNotRegistered: return "cudaErrorHostMemoryNotRegistered";
        default: return "an error that the emulated runtime has no name for";
    }
}
const char* cudaGetErrorString(cudaError_t e) {
    switch (e) {
        case cudaSuccess: return "no error";
        case cudaErrorInvalidValue: return "invalid argument";
        case cudaErrorMemoryAllocation: return "out of memory";
        case cudaErrorNoDevice: return "no CUDA-capable device is detected";
        case cudaErrorInvalidDevice: return "invalid device ordinal";
        case cudaErrorNotReady: return "device not ready";
        case cudaErrorNotPermitted: return "operation not permitted";
        case cudaErrorNotSupported: return "operation not supported";
        case cudaErrorInvalidResourceHandle: return "invalid resource handle";
        case cudaErrorLaunchFailure: return "unspecified launch failure";
        case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
        default: return cudaGetErrorName(e);
    }
}

// ---- streams

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned flags) {
    return call(__func__, [&] { return *s = new_stream(flags & cudaStreamNonBlocking), cudaSuccess; });
}
cudaError_t cudaStreamCreate(cudaStream_t* s) { return cudaStreamCreateWithFlags(s, cudaStreamDefault); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* s, unsigned flags, int) { return cudaStreamCreateWithFlags(s, flags); }
cudaError_t cudaStreamDestroy(cudaStream_t s) {         // what is queued still comes to pass
    return call(__func__, [&] { return stream_of(s)->destroyed = true, cudaSuccess; });
}
cudaError_t cudaStreamSynchronize(cudaStream_t s) {
    return call(__func__, [&] { return synchronize(stream_of(s)); });
}
cudaError_t cudaStreamQuery(cudaStream_t s) {
    return call(__func__, [&] { return query(stream_of(s)->last, stream_of(s)->knows); });
}
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned) {
    return call(__func__, [&] {
        CUstream_st* stream = stream_of(s);
        if (!usable(e, "cudaStreamWaitEvent")) return cudaErrorInvalidResourceHandle;
        if (stream->capture || e->capture) return wait_captured(stream, e);
        if (e->operation) issue(stream, "cudaStreamWaitEvent", nullptr, e->operation, &e->knows);       // else it waits for nothing
        return cudaSuccess;
    });
}
cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t f, void* argument) {
    return call(__func__, [&] { return issue(stream_of(s), "a host function", [=] { run_host_function(f, argument); }), cudaSuccess; });
}

// ---- events

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned flags) {
    return call(__func__, [&] { return *e = new CUevent_st, (*e)->timed = !(flags & cudaEventDisableTiming), cudaSuccess; });
}
cudaError_t cudaEventCreate(cudaEvent_t* e) { return cudaEventCreateWithFlags(e, cudaEventDefault); }
cudaError_t cudaEventDestroy(cudaEvent_t e) {           // the object stays, to recognise its late uses
    return call(__func__, [&] { return usable(e, "cudaEventDestroy") ? e->destroyed = true, cudaSuccess : cudaErrorInvalidResourceHandle; });
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
    return call(__func__, [&] {
        CUstream_st* stream = stream_of(s);
        if (!usable(e, "cudaEventRecord")) return cudaErrorInvalidResourceHandle;
        if (stream->capture) return record_captured(e, stream), cudaSuccess;
        e->capture = nullptr;
        e->operation = issue(stream, "cudaEventRecord", nullptr);
        e->knows = stream->knows;
        return cudaSuccess;
    });
}
cudaError_t cudaEventSynchronize(cudaEvent_t e) {
    return call(__func__, [&] {
        if (!usable(e, "cudaEventSynchronize")) return cudaErrorInvalidResourceHandle;
        if (!e->operation) return cudaSuccess;
        const cudaError_t error = wait_for({e->operation});
        host_learns(e->knows);
        trim_pool(release_threshold);
        return error;
    });
}
cudaError_t cudaEventQuery(cudaEvent_t e) {
    return call(__func__, [&] { return usable(e, "cudaEventQuery") ? query(e->operation, e->knows) : cudaErrorInvalidResourceHandle; });
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t from, cudaEvent_t to) {
    return call(__func__, [&] {
        if (!usable(from, "cudaEventElapsedTime") || !usable(to, "cudaEventElapsedTime")) return cudaErrorInvalidResourceHandle;
        if (!from->operation || !to->operation || !from->timed || !to->timed) return cudaErrorInvalidResourceHandle;
        if (!from->operation->done || !to->operation->done) return cudaErrorNotReady;
        return *ms = float((to->operation->seconds - from->operation->seconds) * 1e3), cudaSuccess;
    });
}

// ---- memory

cudaError_t cudaMalloc(void** p, size_t bytes) {
    return call(__func__, [&] { return has_device() ? allocate(p, bytes, Where::device) : cudaErrorNoDevice; });
}
cudaError_t cudaFree(void* p) {
    return call(__func__, [&] { return free_now(p, Where::device, "cudaFree"); });
}
cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) {
    return call(__func__, [&] { return has_device() ? allocate(p, bytes, Where::pinned) : cudaErrorNoDevice; });
}
cudaError_t cudaMallocHost(void** p, size_t bytes) {
    return call(__func__, [&] { return has_device() ? allocate(p, bytes, Where::pinned) : cudaErrorNoDevice; });
}
cudaError_t cudaFreeHost(void* p) {                     // not known to wait for anything
    return call(__func__, [&] { return free_now(p, Where::pinned, "cudaFreeHost"); });
}
cudaError_t cudaHostRegister(void* p, size_t bytes, unsigned) {
    return call(__func__, [&] { return register_host(p, bytes); });
}
cudaError_t cudaHostUnregister(void* p) {
    return call(__func__, [&] { return unregister_host(p); });
}
cudaError_t cudaMallocAsync(void** p, size_t bytes, cudaStream_t s) {
    return call(__func__, [&] { return allocate_from_pool(p, bytes, stream_of(s)); });
}
cudaError_t cudaMallocFromPoolAsync(void** p, size_t bytes, cudaMemPool_t, cudaStream_t s) {
    return call(__func__, [&] { return allocate_from_pool(p, bytes, stream_of(s)); });
}
cudaError_t cudaFreeAsync(void* p, cudaStream_t s) {
    return call(__func__, [&] { return free_in_stream(p, stream_of(s)); });
}
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) {
    return call(__func__, [&] { return *pool = reinterpret_cast<cudaMemPool_t>(&release_threshold), device ? cudaErrorInvalidDevice : cudaSuccess; });
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr a, void* value) {
    return call(__func__, [&] {
        switch (a) {
            case cudaMemPoolAttrReleaseThreshold: return std::memcpy(&release_threshold, value, sizeof release_threshold), cudaSuccess;
            case cudaMemPoolReuseFollowEventDependencies: case cudaMemPoolReuseAllowOpportunistic: case cudaMemPoolReuseAllowInternalDependencies:
            case cudaMemPoolAttrReservedMemHigh: case cudaMemPoolAttrUsedMemHigh: return cudaSuccess;
            default: return not_emulated(concat("cudaMemPoolSetAttribute ", int(a)));
        }
    });
}
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr a, void* value) {
    return call(__func__, [&] {
        uint64_t v = 0;
        switch (a) {
            case cudaMemPoolAttrReleaseThreshold: v = release_threshold; break;
            case cudaMemPoolAttrReservedMemCurrent: case cudaMemPoolAttrReservedMemHigh: v = usage.allocated + usage.in_pool; break;
            case cudaMemPoolAttrUsedMemCurrent: case cudaMemPoolAttrUsedMemHigh: v = usage.allocated; break;
            default: return not_emulated(concat("cudaMemPoolGetAttribute ", int(a)));
        }
        return std::memcpy(value, &v, sizeof v), cudaSuccess;
    });
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t keep) {
    return call(__func__, [&] { return trim_pool(keep), cudaSuccess; });
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
    return call(__func__, [&] { return copy(to, from, bytes, kind, stream_of(nullptr), true); });
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t s) {
    return call(__func__, [&] { return copy(to, from, bytes, kind, stream_of(s), false); });
}
cudaError_t cudaMemset(void* p, int value, size_t bytes) {      // does not wait either
    return call(__func__, [&] { return set(p, value, bytes, stream_of(nullptr)); });
}
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t s) {
    return call(__func__, [&] { return set(p, value, bytes, stream_of(s)); });
}

}
