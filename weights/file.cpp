#include "weights/file.h"
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <utility>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "core/check.h"

namespace merv {
namespace {
struct Descriptor {
    int fd;
    ~Descriptor() { if (fd >= 0) ::close(fd); }
};
}

std::shared_ptr<const MappedFile> MappedFile::open(const std::string& path, const char* expected) {
    struct stat info;
    if (::stat(path.c_str(), &info) != 0) fail(Exit::bad_weights, path, ": cannot be opened: ", std::strerror(errno), "; check the path");
    if (!S_ISREG(info.st_mode)) fail(Exit::bad_weights, path, ": ", expected, " is expected, this is a ", S_ISDIR(info.st_mode) ? "folder" : "special file");
    const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
    if (file.fd < 0 || ::fstat(file.fd, &info) != 0) fail(Exit::bad_weights, path, ": cannot be opened: ", std::strerror(errno), "; check its permissions");
    const auto size = size_t(info.st_size);
    if (size == 0) fail(Exit::bad_weights, path, ": the file is empty; get it again");
    void* p = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd, 0);
    if (p == MAP_FAILED) fail(Exit::bad_weights, path, ": cannot be mapped: ", std::strerror(errno));
    return std::shared_ptr<const MappedFile>(new MappedFile({static_cast<const std::byte*>(p), size}));
}
MappedFile::~MappedFile() { ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size()); }

void MappedFile::forget(std::span<const std::byte> part) const {
    if (part.empty()) return;
    CHECK(part.data() >= bytes_.data() && part.data() + part.size() <= bytes_.data() + bytes_.size(), "forget: not a part of the mapping");
    const auto page = size_t(::sysconf(_SC_PAGESIZE));
    const size_t begin = size_t(part.data() - bytes_.data()) / page * page, end = size_t(part.data() - bytes_.data()) + part.size();
    ::madvise(const_cast<std::byte*>(bytes_.data()) + begin, end - begin, MADV_DONTNEED);      // a hint: failing harms nothing
}

std::string first_bytes(const std::string& path, size_t most) {
    std::string text(most, '\0');
    std::error_code ignored;
    if (!std::filesystem::is_regular_file(path, ignored)) return "";       // opening a pipe would wait
    std::ifstream in(path, std::ios::binary);
    in.read(text.data(), std::streamsize(most));
    text.resize(size_t(std::max<std::streamsize>(in.gcount(), 0)));
    return text;
}

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

NewFolder::NewFolder(std::string final_path) : path_(std::move(final_path)) {
    namespace fs = std::filesystem;
    std::error_code error;
    path_ = fs::weakly_canonical(path_, error).string();        // through a link to where the folder really goes
    if (!error) temporary_ = concat(path_, ".tmp", ::getpid()), fs::remove_all(temporary_, error);
    if (!error) fs::create_directories(temporary_, error);
    if (error) fail(Exit::runtime, path_, ": cannot be written: ", error.message());
}
NewFolder::~NewFolder() {
    std::error_code ignored;
    if (!done_) std::filesystem::remove_all(temporary_, ignored);
}
void NewFolder::commit() {
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail(Exit::runtime, path_, ": cannot be written: ", std::strerror(errno));
    done_ = true;
}

void write_text(const std::string& path, std::string_view text) {
    NewFile file(path);
    file.write(text.data(), text.size());
    file.commit();
}

}
