#include "core/storage.h"
#include <algorithm>
#include <cstdlib>
#include <deque>
#include <iterator>
#include <mutex>
#include <new>
#ifdef __linux__
#include <sys/mman.h>
#endif
#include "core/check.h"
#include "core/cuda.h"
#include "core/emulated_memory.h"

namespace merv {
namespace {

thread_local const char* current_tag = "other";
thread_local Device the_device = Device::cpu;

struct Ledger {
    std::mutex mutex;
    std::map<std::pair<std::string, bool>, size_t> now, peak;          // by owner, and whether a GPU's memory is meant
    void book(const char* tag, size_t bytes, Device device) {
        std::lock_guard lock(mutex);
        const std::pair owner(std::string(tag), device == Device::cuda);
        peak[owner] = std::max(peak[owner], now[owner] += bytes);
    }
    void unbook(const char* tag, size_t bytes, Device device) {
        std::lock_guard lock(mutex);
        now[{tag, device == Device::cuda}] -= bytes;
    }
};
Ledger& ledger() {
    static Ledger* l = new Ledger;              // never destroyed: tensors may outlive static destructors
    return *l;
}

[[noreturn]] void none_left(size_t bytes, const char* tag) { fail(Exit::no_memory, "out of memory: ", bytes, " bytes for ", tag); }

// Large blocks lie on huge pages, and a few that are free wait for the next tensor of their size, instead of the system
// finding and clearing pages for each: `merv-bench block --encoder vit --dtype bf16` 1049 -> 974 ms on 2 cores of a Zen 4.
class Blocks {
  public:
    std::byte* take(size_t bytes, const char* tag) {
        const size_t size = rounded(bytes);
        {
            std::lock_guard lock(mutex_);
            for (auto b = free_.rbegin(); b != free_.rend(); ++b)
                if (b->size == size) {
                    std::byte* at = b->at;
                    held_ -= size;
                    free_.erase(std::next(b).base());
                    return at;
                }
        }
        std::byte* p = allocate_huge_pages(size);
        if (!p) p = (give_back(0), allocate_huge_pages(size));
        if (!p) none_left(bytes, tag);
        return p;
    }
    void drop(std::byte* at, size_t bytes) {
        {
            std::lock_guard lock(mutex_);
            free_.push_back({at, rounded(bytes)});
            held_ += rounded(bytes);
        }
        give_back(kHeld);
    }
    static bool large(size_t bytes) { return kReuse && bytes >= 2 * kHugePage; }

  private:
    struct Block { std::byte* at; size_t size; };
    static constexpr size_t kHeld = size_t(512) << 20;
#ifdef MERV_EXACT_BLOCKS                        // builds with sanitizers: every access outside a tensor, and after its end, is to be seen
    static constexpr bool kReuse = false;
#else
    static constexpr bool kReuse = true;
#endif
    static size_t rounded(size_t bytes) { return (bytes + kHugePage - 1) / kHugePage * kHugePage; }
    void give_back(size_t most) {               // the oldest, to the system
        std::lock_guard lock(mutex_);
        for (; held_ > most; free_.pop_front()) held_ -= free_.front().size, std::free(free_.front().at);
    }
    std::mutex mutex_;
    std::deque<Block> free_;
    size_t held_ = 0;
};
Blocks& blocks() {
    static Blocks* b = new Blocks;
    return *b;
}

// Never zero bytes; small blocks have exactly `bytes`: an out-of-bounds access is seen by AddressSanitizer at the first byte.
std::byte* take(size_t bytes, const char* tag, Device device) {
    if (device == Device::cuda) {
        if (std::byte* p = cuda().allocate(bytes)) return p;
        none_left_on_cuda(bytes, tag);
    }
    if (device == Device::emu) return static_cast<std::byte*>(emulated_memory::allocate(bytes));
    if (Blocks::large(bytes)) return blocks().take(bytes, tag);
    void* p = ::operator new(std::max<size_t>(bytes, 1), std::align_val_t{64}, std::nothrow);
    if (!p) none_left(bytes, tag);
    return static_cast<std::byte*>(p);
}
void give_back(std::byte* at, size_t bytes, Device device) {
    if (device == Device::cuda) cuda().release(at);
    else if (device == Device::emu) emulated_memory::release(at);
    else if (Blocks::large(bytes)) blocks().drop(at, bytes);
    else ::operator delete(at, std::align_val_t{64});
}

}

std::byte* allocate_huge_pages(size_t bytes) {
    void* p = std::aligned_alloc(kHugePage, bytes);
#ifdef __linux__
    if (p) madvise(p, bytes, MADV_HUGEPAGE);
#endif
    return static_cast<std::byte*>(p);
}

Storage::Storage(std::byte* data, size_t bytes, Device device, std::shared_ptr<const void> keep)
    : data_(data), bytes_(bytes), device_(device), keep_(std::move(keep)), tag_(current_tag) {
    if (data_) ledger().book(tag_, bytes_, device);
}

std::shared_ptr<Storage> Storage::allocate(size_t bytes, Device device) {
    return std::shared_ptr<Storage>(new Storage(take(bytes, current_tag, device), bytes, device, nullptr));
}

std::shared_ptr<Storage> Storage::closed(size_t bytes, Device device) {
    return std::shared_ptr<Storage>(new Storage(nullptr, bytes, device, nullptr));
}

std::shared_ptr<Storage> Storage::borrow(std::byte* data, size_t bytes, std::shared_ptr<const void> keep) {
    return std::shared_ptr<Storage>(new Storage(data, bytes, Device::cpu, std::move(keep)));
}

Storage::~Storage() { drop(); }

void Storage::drop() {
    if (!data_) return;
    if (!keep_) give_back(data_, bytes_, device_);
    data_ = nullptr;
    ledger().unbook(tag_, bytes_, device_);
}
void Storage::restore() {
    if (data_) return;
    data_ = take(bytes_, tag_, device_);
    ledger().book(tag_, bytes_, device_);
}

Device current_device() { return the_device; }
OnDevice::OnDevice(Device d) : saved_(the_device) { the_device = d; }
OnDevice::~OnDevice() { the_device = saved_; }

MemTag::MemTag(const char* name) : saved_(current_tag) { current_tag = name; }
MemTag::~MemTag() { current_tag = saved_; }

static std::map<std::string, size_t> by_tag(const std::map<std::pair<std::string, bool>, size_t> Ledger::* which) {
    std::lock_guard lock(ledger().mutex);
    std::map<std::string, size_t> named;
    for (const auto& [owner, bytes] : ledger().*which) named[owner.first + (owner.second ? " (cuda)" : "")] = bytes;
    return named;
}
std::map<std::string, size_t> memory_by_tag() { return by_tag(&Ledger::now); }
std::map<std::string, size_t> peak_memory_by_tag() { return by_tag(&Ledger::peak); }

}
