// For the tests of data/: CRC32 and base64, in which tests/golden/video.py writes its expectations.
#pragma once
#include "tests/test.h"
#include <array>
#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include "core/tensor.h"

namespace merv::test {

inline uint32_t crc32(const Tensor& t) {
    static const std::array<uint32_t, 256> table = [] {
        std::array<uint32_t, 256> v;
        for (uint32_t i = 0; i < 256; i++) {
            v[i] = i;
            for (int bit = 0; bit < 8; bit++) v[i] = (v[i] >> 1) ^ (0xedb88320u & (0u - (v[i] & 1)));
        }
        return v;
    }();
    uint32_t crc = ~0u;
    for (size_t i = 0; i < t.bytes(); i++) crc = (crc >> 8) ^ table[(crc ^ uint32_t(t.raw()[i])) & 255];
    return ~crc;
}

inline std::string from_base64(const std::string& text) {
    std::string out;
    uint32_t bits = 0;
    int held = 0;
    for (char c : text) {
        const char* alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        const char* at = std::strchr(alphabet, c);
        if (!at || !c) break;
        bits = bits << 6 | uint32_t(at - alphabet), held += 6;
        if (held >= 8) out += char(bits >> (held -= 8));
    }
    return out;
}

inline void write_file(const std::string& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary).write(bytes.data(), std::streamsize(bytes.size()));
}
inline std::string read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}
inline const nlohmann::json& read_json(const std::string& path) {      // read once and kept, so that loops may run over parts of it
    static auto* files = new std::map<std::string, nlohmann::json>;
    if (!files->contains(path)) (*files)[path] = nlohmann::json::parse(read_file(path));
    return (*files)[path];
}

// The synthetic picture of tests/golden: p[y][x][c] = (7x + 13y + 31c + floor(xy/3) + 5(x xor y) + 17f) & 255, frames f.
inline Tensor pattern(int64_t frames, int64_t h, int64_t w) {
    Tensor t({frames, h, w, 3}, DType::u8);
    uint8_t* p = t.data<uint8_t>();
    for (int64_t f = 0; f < frames; f++)
        for (int64_t y = 0; y < h; y++)
            for (int64_t x = 0; x < w; x++)
                for (int64_t c = 0; c < 3; c++) *p++ = uint8_t(7 * x + 13 * y + 31 * c + x * y / 3 + 5 * (x ^ y) + 17 * f);
    return t;
}

// What an Error says, with its exit code checked; "" if f throws none.
template <class F> std::string error_of(Exit code, F f) {
    try { f(); } catch (const Error& e) { EXPECT_EQ(int(e.code), int(code)); return e.what(); }
    return "";
}

}
