// Bytes with an owner. Every allocation is booked under the MemTag in scope ("weights", "kv", "activations", ...), so a
// program can say who holds its memory. A Storage either owns an allocation, or keeps a file mapping alive, or is closed:
// it has a size but no bytes yet (a declared parameter before its file is read); using it then throws.
#pragma once
#include <cstddef>
#include <map>
#include <memory>
#include <string>

namespace merv {

enum class Device { cpu, emu, cuda };           // emu: the CUDA kernels, on an emulated GPU (kernels/emu); cuda: core/cuda.h
constexpr const char* name_of(Device d) { return d == Device::cpu ? "cpu" : d == Device::emu ? "emu" : "cuda"; }

// Where new tensors of this thread are made, unless they say it, and where ops run: cpu, until OnDevice device(Device::emu).
Device current_device();
struct OnDevice {
    explicit OnDevice(Device);
    ~OnDevice();
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;

  private:
    Device saved_;
};

class Storage {
  public:
    static std::shared_ptr<Storage> allocate(size_t bytes, Device device = current_device());   // 64-byte aligned, contents undefined
    static std::shared_ptr<Storage> closed(size_t bytes, Device device = current_device());
    // Bytes inside somebody else's memory (a mapped file), which `keep` keeps alive. Read only if that memory is.
    static std::shared_ptr<Storage> borrow(std::byte* data, size_t bytes, std::shared_ptr<const void> keep);
    ~Storage();
    Storage(const Storage&) = delete;
    Storage& operator=(const Storage&) = delete;

    std::byte* data() const { return data_; }
    size_t bytes() const { return bytes_; }
    Device device() const { return device_; }
    void drop();                                // gives owned bytes back; whoever holds this keeps it, but using it throws
    void restore();                             // until they are replaced; contents undefined

  private:
    Storage(std::byte* data, size_t bytes, Device device, std::shared_ptr<const void> keep);
    std::byte* data_;
    size_t bytes_;
    Device device_;
    std::shared_ptr<const void> keep_;          // null: this Storage owns data_
    const char* tag_;
};

struct MemTag {                                 // MemTag tag("weights"): books every allocation of this thread in scope
    explicit MemTag(const char* name);          // name must be a literal: it is kept, not copied
    ~MemTag();
    MemTag(const MemTag&) = delete;
    MemTag& operator=(const MemTag&) = delete;

  private:
    const char* saved_;
};

// Memory booked under no tag, for scratch: whole pages of 2 MiB, which the system is asked to keep whole. Null if there is
// none; std::free gives it back.
constexpr size_t kHugePage = size_t(2) << 20;
std::byte* allocate_huge_pages(size_t bytes);           // a multiple of kHugePage

std::map<std::string, size_t> memory_by_tag();          // bytes held now
std::map<std::string, size_t> peak_memory_by_tag();     // the most each tag ever held

}
