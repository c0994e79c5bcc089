#include "core/emulated_memory.h"
#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <sys/mman.h>
#include "core/check.h"

namespace merv::emulated_memory {
namespace {

struct Mapped : Block { char* pages = nullptr; size_t mapped = 0, noted = 0; };
std::mutex mutex;
std::map<uintptr_t, Mapped>& blocks() {         // by their ends, rounded up to 16: upper_bound(address) may hold it
    static auto* all = new std::map<uintptr_t, Mapped>;     // never destroyed: tensors may outlive static destructors
    return *all;
}
thread_local const Block* recent[64];            // by page
thread_local uint64_t last_change;
uint64_t changes;

size_t in_pages(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

}

char* map(size_t bytes, int flags) {
    const size_t inside = in_pages(bytes);
    void* m = mmap(nullptr, inside + 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    char* p = static_cast<char*>(m) + kPage;
    if (m == MAP_FAILED || mprotect(p, inside, PROT_READ | PROT_WRITE)) fail(Exit::no_memory, "out of memory: ", bytes, " bytes of the emulated device");
    return p;
}
void unmap(char* p, size_t bytes) { munmap(p - kPage, in_pages(bytes) + 2 * kPage); }

void* allocate(size_t bytes) {
    const size_t whole = std::max<size_t>((bytes + 15) / 16 * 16, 16);
    Mapped b;
    b.mapped = in_pages(whole);
    b.pages = map(whole);
    char* p = b.pages + b.mapped - whole;
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
    unmap(at->second.pages, at->second.mapped);
    unmap(static_cast<char*>(at->second.notes), at->second.noted);
    blocks().erase(at);
    changes++;
}

const Block* near(uintptr_t a) {
    const Block*& last = recent[a / kPage % 64];
    if (last && last_change == changes && a >= last->begin && a < last->end) return last;
    const std::lock_guard lock(mutex);
    if (last_change != changes) std::fill_n(recent, 64, nullptr), last_change = changes;
    auto at = blocks().upper_bound(a);
    if (at != blocks().end() && a + kPage >= at->second.begin) return last = &at->second;
    if (at != blocks().begin() && (--at, a < at->second.end + kPage)) return last = &at->second;
    return last = nullptr;
}

}
