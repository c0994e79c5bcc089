#include "data/image.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_PNG
#define STBI_ONLY_JPEG
#define STBI_NO_STDIO
#define STBI_MAX_DIMENSIONS (1 << 24)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#include <stb/stb_image.h>
#pragma GCC diagnostic pop

namespace merv {

void check_regular_file(const std::string& path) {
    struct stat s;
    if (stat(path.c_str(), &s) != 0) {
        if (errno == ENOENT || errno == ENOTDIR) fail(Exit::bad_data, path, ": no such file; check the path");
        fail(Exit::bad_data, path, ": cannot be read (", std::strerror(errno), ")");
    }
    if (!S_ISREG(s.st_mode)) fail(Exit::bad_data, path, ": is ", S_ISDIR(s.st_mode) ? "a folder" : "a device or pipe", ", not a file; give a file");
    if (access(path.c_str(), R_OK) != 0) fail(Exit::bad_data, path, ": is there but cannot be read (", std::strerror(errno), "); check its permissions");
    if (s.st_size == 0) fail(Exit::bad_data, path, ": is an empty file; copy or download it again");
}

Tensor decode_image(std::span<const std::byte> bytes, const std::string& name) {
    const auto* data = reinterpret_cast<const stbi_uc*>(bytes.data());
    int width = 0, height = 0, channels = 0;
    auto refuse = [&](const char* what) {
        const char* reason = stbi_failure_reason();
        fail(Exit::bad_data, name, ": ", what, " (", reason ? reason : "unknown reason", "); give a PNG or JPEG file");
    };
    if (bytes.size() > INT_MAX) fail(Exit::bad_data, name, ": is ", bytes.size(), " bytes, too large for an image; give a smaller one");
    if (!stbi_info_from_memory(data, int(bytes.size()), &width, &height, &channels)) refuse("is no PNG or JPEG image");
    if (int64_t(width) * height > kMaxPixels)
        fail(Exit::bad_data, name, ": has ", width, " x ", height, " pixels, more than ", kMaxPixels >> 20, " Mi; scale it down");
    // stb would make grey + alpha from a palette with alpha or drop alpha itself: asking for 3 channels covers all
    std::unique_ptr<stbi_uc, void (*)(void*)> pixels(stbi_load_from_memory(data, int(bytes.size()), &width, &height, &channels, 3), stbi_image_free);
    if (!pixels) refuse("cannot be decoded, it is damaged or of a kind that is not supported");
    Tensor image({height, width, 3}, DType::u8);
    std::memcpy(image.raw(), pixels.get(), image.bytes());
    return image;
}

Tensor read_image(const std::string& path) {
    check_regular_file(path);
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    const std::streamoff size = file ? std::streamoff(file.tellg()) : -1;
    if (size < 0 || size > INT_MAX) fail(Exit::bad_data, path, ": cannot be read, or is too large for an image");
    std::vector<std::byte> bytes(static_cast<size_t>(size));
    file.seekg(0).read(reinterpret_cast<char*>(bytes.data()), size);
    if (!file) fail(Exit::bad_data, path, ": cannot be read to its end");
    return decode_image(bytes, path);
}

}
