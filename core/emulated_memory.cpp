#include "core/emulated_memory.h"
#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <sys/mman.h>
#include "core/check.h"

namespace merv::emulated_memory {
namespace {

constexpr size_t kPage = 4096;

struct Mapped : Block { char* mapping = nullptr; size_t mapped = 0, noted = 0; };
std::mutex mutex;
std::map<uintptr_t, Mapped>& blocks() {         // by their ends, rounded up to 16: upper_bound(address) may hold it
    static auto* all = new std::map<uintptr_t, Mapped>;     // never destroyed: tensors may outlive static destructors
    return *all;
}
thread_local const Block* last;
thread_local uint64_t last_change;
uint64_t changes;

char* map(size_t bytes, int flags) {
    void* m = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    if (m == MAP_FAILED) fail(Exit::no_memory, "out of memory: ", bytes, " bytes of the emulated device");
    return static_cast<char*>(m);
}

}

void* allocate(size_t bytes) {
    const size_t whole = std::max<size_t>((bytes + 15) / 16 * 16, 16);
    Mapped b;
    b.mapped = (whole + kPage - 1) / kPage * kPage + 2 * kPage;
    b.mapping = map(b.mapped, 0);
    mprotect(b.mapping, kPage, PROT_NONE);
    mprotect(b.mapping + b.mapped - kPage, kPage, PROT_NONE);
    char* p = b.mapping + b.mapped - kPage - whole;
    std::memset(p, 0xff, whole);
    b.begin = uintptr_t(p), b.end = b.begin + bytes;
    b.noted = (whole / 2 + 1) * kNoteBytes;
    b.notes = map(b.noted, MAP_NORESERVE);
    const std::lock_guard lock(mutex);
    blocks()[b.begin + whole] = b;
    changes++;
    return p;
}

void release(void* p) {
    const std::lock_guard lock(mutex);
    const auto at = blocks().upper_bound(uintptr_t(p));
    CHECK(at != blocks().end() && at->second.begin == uintptr_t(p), "emulated memory is released that was not allocated");
    munmap(at->second.mapping, at->second.mapped);
    munmap(at->second.notes, at->second.noted);
    blocks().erase(at);
    changes++;
}

const Block* near(uintptr_t a) {
    if (last && last_change == changes && a >= last->begin && a < last->end) return last;
    const std::lock_guard lock(mutex);
    last_change = changes;
    auto at = blocks().upper_bound(a);
    if (at != blocks().end() && a + kPage >= at->second.begin) return last = &at->second;
    if (at != blocks().begin() && (--at, a < at->second.end + kPage)) return last = &at->second;
    return last = nullptr;
}

}
