// What the runtime hears of accesses to memory. Without CUDA's headers, which have names in common with the emulator's.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>

namespace merv::emulated_runtime {

using RecordId = uint32_t;                      // 0: none
using Site = std::function<std::string()>;      // asked for a report only

// memory.cpp. An access by a record: false, and reported, if it must not be carried out.
bool touch(RecordId, const void*, size_t bytes, bool write, const Site& site = nullptr);
bool may_be_ours(uintptr_t address);            // false: no allocation lies there
void on_host_access(const void*, size_t bytes, bool write, const Site&);

// streams.cpp
extern thread_local bool is_device_thread;
extern RecordId running;                        // on the device thread
extern bool in_host_function;                   // it runs one of cudaLaunchHostFunc
std::recursive_mutex& state_mutex();

}
