// Accesses to memory that the compiler tells of: host code and kernels compiled with -fsanitize=thread call check.cpp, which asks here.
#include <cstring>
#include "kernels/emu/machine.h"
#include "kernels/emu/runtime/accesses.h"

namespace merv::emulated_runtime {

namespace {

thread_local bool busy = false;                 // the runtime's own templates may have been compiled with calls to it

void host_access(uintptr_t address, size_t bytes, bool write, const void* instruction) {
    if ((is_device_thread && !in_host_function) || busy || !may_be_ours(address)) return;
    busy = true;
    {
        std::unique_lock lock(state_mutex(), std::defer_lock);
        if (!is_device_thread) lock.lock();     // the thread that waits for it holds it
        on_host_access(reinterpret_cast<const void*>(address), bytes, write, [&] { return emu::place_name(emu::where_is(instruction)); });
    }
    busy = false;
}
void kernel_access(uintptr_t address, size_t bytes, bool write, uint32_t where) {
    if (running) touch(running, reinterpret_cast<const void*>(address), bytes, write, [where] { return emu::place_name(where); });
}
const bool hooked = (emu::hooks = {host_access, kernel_access}, true);

}
}

// Host code's memcpy and its kin, which objcopy renames in the objects of such code: the compiler does not tell of them.
extern "C" {
void* merv_host_memcpy(void* to, const void* from, size_t n) {
    using merv::emulated_runtime::host_access;
    host_access(uintptr_t(from), n, false, __builtin_return_address(0));
    host_access(uintptr_t(to), n, true, __builtin_return_address(0));
    return std::memcpy(to, from, n);
}
void* merv_host_memmove(void* to, const void* from, size_t n) {
    using merv::emulated_runtime::host_access;
    host_access(uintptr_t(from), n, false, __builtin_return_address(0));
    host_access(uintptr_t(to), n, true, __builtin_return_address(0));
    return std::memmove(to, from, n);
}
void* merv_host_memset(void* to, int value, size_t n) {
    merv::emulated_runtime::host_access(uintptr_t(to), n, true, __builtin_return_address(0));
    return std::memset(to, value, n);
}
}

// Host code's atomics, which order threads and are nobody's race. check.cpp has the one that is missing here.
#define MERV_ATOMIC(bits, T) \
    T __tsan_atomic##bits##_load(const volatile T* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); } \
    void __tsan_atomic##bits##_store(volatile T* p, T v, int) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); } \
    T __tsan_atomic##bits##_exchange(volatile T* p, T v, int) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); } \
    T __tsan_atomic##bits##_fetch_sub(volatile T* p, T v, int) { return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST); } \
    T __tsan_atomic##bits##_fetch_and(volatile T* p, T v, int) { return __atomic_fetch_and(p, v, __ATOMIC_SEQ_CST); } \
    T __tsan_atomic##bits##_fetch_or(volatile T* p, T v, int) { return __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST); } \
    int __tsan_atomic##bits##_compare_exchange_strong(volatile T* p, T* is, T v, int, int) { return __atomic_compare_exchange_n(p, is, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); } \
    int __tsan_atomic##bits##_compare_exchange_weak(volatile T* p, T* is, T v, int, int) { return __atomic_compare_exchange_n(p, is, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); }
extern "C" {
MERV_ATOMIC(8, char) MERV_ATOMIC(16, short) MERV_ATOMIC(32, int) MERV_ATOMIC(64, long)
char __tsan_atomic8_fetch_add(volatile char* p, char v, int) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }
long __tsan_atomic64_fetch_add(volatile long* p, long v, int) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
}
