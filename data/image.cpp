#include "data/image.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>

// stb decodes what it can of a damaged file, tables and pixels it never filled included: zeroed memory makes that the same
// every time and keeps its assertions, which would end the program, from meeting garbage.
// The largest honest block is that of 64 megapixels of 16-bit RGBA, doubled while it grows; a PNG may claim more.
#define STBI_MALLOC(bytes) (size_t(bytes) <= size_t(1) << 30 ? std::calloc(1, bytes) : nullptr)
#define STBI_REALLOC(p, bytes) (size_t(bytes) <= size_t(1) << 30 ? std::realloc(p, bytes) : nullptr)
#define STBI_FREE(p) std::free(p)
#define STBI_ASSERT(x) ((x) ? void() : merv::fail(merv::Exit::bad_data, "an image is damaged beyond what stb_image expects; give another PNG or JPEG file"))
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
#ifdef __clang__                                // the fuzzer's UBSan: on damaged files stb lets numbers wrap and copies 0 bytes from or to null
#pragma clang attribute push(__attribute__((no_sanitize("signed-integer-overflow", "shift", "nonnull-attribute"))), apply_to = function)
#endif
#include <stb/stb_image.h>
#ifdef __clang__
#pragma clang attribute pop
#endif
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

namespace {

// stb_image 2.27 (Debian 12) writes past its Huffman tables when the code counts of a JPEG's DHT segment add up to more than
// 256; later versions check. Segments are followed as stb follows them up to the first scan, so that other binary data is
// not mistaken for tables; from there on every FF C4, which cannot occur within a scan, counts as one.
bool huffman_tables_fit(std::span<const std::byte> bytes) {
    auto at = [&](size_t i) { return i < bytes.size() ? unsigned(bytes[i]) : 0u; };
    bool scanning = false;
    for (size_t p = 0; p + 1 < bytes.size();) {
        if (at(p) != 0xff || at(p + 1) == 0xff) { p++; continue; }
        const unsigned marker = at(p + 1);
        const size_t length = at(p + 2) << 8 | at(p + 3);
        if (marker == 0xc4)
            for (size_t table = p + 4; table < p + 2 + length;) {
                unsigned codes = 0;
                for (size_t i = 1; i <= 16; i++) codes += at(table + i);
                if (at(table) >> 4 > 1 || (at(table) & 15) > 3) break;      // stb stops here
                if (codes > 256) return false;
                table += 17 + codes;
            }
        scanning = scanning || marker == 0xda;
        p += scanning || marker == 0xd8 ? 2 : 2 + length;
    }
    return true;
}

}

Tensor decode_image(std::span<const std::byte> bytes, const std::string& name) {
    const auto* data = reinterpret_cast<const stbi_uc*>(bytes.data());
    int width = 0, height = 0, channels = 0;
    auto refuse = [&](const char* what) {
        const char* reason = stbi_failure_reason();
        fail(Exit::bad_data, name, ": ", what, " (", reason ? reason : "unknown reason", "); give a PNG or JPEG file");
    };
    if (bytes.size() > INT_MAX) fail(Exit::bad_data, name, ": is ", bytes.size(), " bytes, too large for an image; give a smaller one");
    if (!bytes.empty() && bytes[0] == std::byte(0xff) && !huffman_tables_fit(bytes))    // a JPEG, if anything
        fail(Exit::bad_data, name, ": cannot be decoded, its Huffman tables are damaged; give a PNG or JPEG file");
    if (!stbi_info_from_memory(data, int(bytes.size()), &width, &height, &channels)) refuse("is no PNG or JPEG image");
    if (int64_t(width) * height > kMaxPixels)
        fail(Exit::bad_data, name, ": has ", width, " x ", height, " pixels, more than ", kMaxPixels >> 20, " Mi; scale it down");
    // stb would make grey + alpha from a palette with alpha or drop alpha itself: asking for 3 channels covers all
    std::unique_ptr<stbi_uc, void (*)(void*)> pixels(stbi_load_from_memory(data, int(bytes.size()), &width, &height, &channels, 3), stbi_image_free);
    if (!pixels) refuse("cannot be decoded, it is damaged or of a kind that is not supported");
    Tensor image({height, width, 3}, DType::u8, Device::cpu);
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
