// The memory of Device::emu, which only emulated kernels may use (kernels/emu): full of NaN when new, unreadable pages on both
// sides, its end just before the second, so that what runs past it is seen.
#pragma once
#include <cstddef>
#include <cstdint>

namespace merv::emulated_memory {

struct Block {
    uintptr_t begin = 0, end = 0;
    void* notes = nullptr;                      // the emulator's own, zero when new: kNoteBytes per two bytes
};
constexpr size_t kNoteBytes = 128;              // address space, until touched

constexpr size_t kPage = 4096;
char* map(size_t bytes, int flags = 0);         // whole pages between two unreadable ones, zero; flags: mmap's; Error(Exit::no_memory)
void unmap(char* p, size_t bytes);

void* allocate(size_t bytes);                   // 16-byte aligned; Error(Exit::no_memory)
void release(void* p);
const Block* near(uintptr_t address);           // the block it lies in, or misses by less than a page; null if none

}
