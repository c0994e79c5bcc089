#include "core/storage.h"
#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <new>
#include "core/check.h"

namespace merv {
namespace {

thread_local const char* current_tag = "other";

struct Ledger {
    std::mutex mutex;
    std::map<std::string, size_t> now, peak;
    void book(const char* tag, size_t bytes) {
        std::lock_guard lock(mutex);
        size_t& held = now[tag];
        held += bytes;
        size_t& most = peak[tag];
        most = std::max(most, held);
    }
    void unbook(const char* tag, size_t bytes) {
        std::lock_guard lock(mutex);
        now[tag] -= bytes;
    }
};
Ledger& ledger() {
    static Ledger* l = new Ledger;              // never destroyed: tensors may outlive static destructors
    return *l;
}

// Exactly `bytes`, never zero: an out-of-bounds access is seen by AddressSanitizer at the first byte.
std::byte* take(size_t bytes, const char* tag) {
    void* p = ::operator new(std::max<size_t>(bytes, 1), std::align_val_t{64}, std::nothrow);
    if (!p) fail(Exit::no_memory, "out of memory: ", bytes, " bytes for ", tag);
    return static_cast<std::byte*>(p);
}

}

Storage::Storage(std::byte* data, size_t bytes, Device device, std::shared_ptr<const void> keep)
    : data_(data), bytes_(bytes), device_(device), keep_(std::move(keep)), tag_(current_tag) {
    if (data_) ledger().book(tag_, bytes_);
}

std::shared_ptr<Storage> Storage::allocate(size_t bytes, Device device) {
    return std::shared_ptr<Storage>(new Storage(take(bytes, current_tag), bytes, device, nullptr));
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
    if (!keep_) ::operator delete(data_, std::align_val_t{64});
    data_ = nullptr;
    ledger().unbook(tag_, bytes_);
}
void Storage::restore() {
    if (data_) return;
    data_ = take(bytes_, tag_);
    ledger().book(tag_, bytes_);
}

MemTag::MemTag(const char* name) : saved_(current_tag) { current_tag = name; }
MemTag::~MemTag() { current_tag = saved_; }

std::map<std::string, size_t> memory_by_tag() {
    std::lock_guard lock(ledger().mutex);
    return ledger().now;
}
std::map<std::string, size_t> peak_memory_by_tag() {
    std::lock_guard lock(ledger().mutex);
    return ledger().peak;
}

}
