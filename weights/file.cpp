#include "weights/file.h"
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>
#include <fcntl.h>
#include <unistd.h>
#include "core/check.h"

namespace merv {

NewFile::NewFile(std::string path) : path_(std::move(path)), temporary_(concat(path_, ".tmp", ::getpid())) {
    ::unlink(temporary_.c_str());               // left by a process of the same number that was killed
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd_ < 0) failed();
}
NewFile::~NewFile() {
    if (fd_ < 0) return;
    ::close(fd_);
    ::unlink(temporary_.c_str());
}
void NewFile::failed() const { fail(Exit::runtime, path_, ": cannot be written: ", std::strerror(errno)); }

void NewFile::write(const void* data, size_t bytes) {
    for (const char* p = static_cast<const char*>(data); bytes;) {
        const ssize_t done = ::write(fd_, p, std::min(bytes, size_t(1) << 30));
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) failed();
        p += done, bytes -= size_t(done);
    }
}
void NewFile::commit() {
    if (::fsync(fd_) != 0 || ::rename(temporary_.c_str(), path_.c_str()) != 0) failed();
    ::close(std::exchange(fd_, -1));
    const std::string folder = std::filesystem::path(path_).parent_path().string();
    const int parent = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (parent < 0) return;
    ::fsync(parent);                            // makes the rename last; some file systems cannot, which harms nothing
    ::close(parent);
}

void write_text(const std::string& path, std::string_view text) {
    NewFile file(path);
    file.write(text.data(), text.size());
    file.commit();
}

}
