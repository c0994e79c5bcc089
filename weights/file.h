// Reading a file as memory, and writing one so that its name never shows half of it.
#pragma once
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace merv {

template <class T> T load_unaligned(const std::byte* at) {      // files promise no alignment
    T v;
    std::memcpy(&v, at, sizeof v);
    return v;
}

// A regular file, mapped read-only. Error(Exit::bad_weights): "<path>: what; what to do"; `expected` names what it should be.
class MappedFile {
  public:
    static std::shared_ptr<const MappedFile> open(const std::string& path, const char* expected);
    ~MappedFile();
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;
    std::span<const std::byte> bytes() const { return bytes_; }
    // Pages of this part of bytes() need not stay in memory; they come back from the file when read again.
    void forget(std::span<const std::byte> part) const;

  private:
    explicit MappedFile(std::span<const std::byte> bytes) : bytes_(bytes) {}
    std::span<const std::byte> bytes_;
};
std::string first_bytes(const std::string& path, size_t most);     // fewer if the file is shorter, none if it cannot be read

// Bytes go to a temporary name beside `path`; commit() syncs and renames.
class NewFile {
  public:
    explicit NewFile(std::string path);         // Error(Exit::runtime) with the reason, here and below
    ~NewFile();                                 // not committed: the temporary is removed
    NewFile(const NewFile&) = delete;
    NewFile& operator=(const NewFile&) = delete;
    void write(const void* data, size_t bytes);
    void commit();

  private:
    [[noreturn]] void failed() const;
    std::string path_, temporary_;
    int fd_ = -1;
};
// The same for a folder: what is written goes below path(), a temporary name beside the folder's; commit() renames.
class NewFolder {
  public:
    explicit NewFolder(std::string final_path); // parents are made. What is there must be an empty folder or nothing
    ~NewFolder();                               // not committed: everything is removed
    NewFolder(const NewFolder&) = delete;
    NewFolder& operator=(const NewFolder&) = delete;
    const std::string& path() const { return temporary_; }
    void commit();

  private:
    std::string path_, temporary_;
    bool done_ = false;
};
void write_text(const std::string& path, std::string_view text);

}
