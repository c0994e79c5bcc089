// Writing a file so that its name never shows half of it: bytes go to a temporary name beside it; commit() syncs and renames.
#pragma once
#include <string>
#include <string_view>

namespace merv {

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
void write_text(const std::string& path, std::string_view text);

}
