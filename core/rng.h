// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
// A value is a pure function of (seed, purpose, index), so it does not depend on threads, ranks or what was drawn before.
#pragma once
#include <array>
#include <cmath>
#include <cstdint>
#include <string_view>

namespace merv {

constexpr std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
    for (int round = 0; round < 10; round++) {
        const uint64_t a = uint64_t(0xD2511F53u) * counter[0], b = uint64_t(0xCD9E8D57u) * counter[2];
        counter = {uint32_t(b >> 32) ^ counter[1] ^ key[0], uint32_t(b), uint32_t(a >> 32) ^ counter[3] ^ key[1], uint32_t(a)};
        key[0] += 0x9E3779B9u, key[1] += 0xBB67AE85u;
    }
    return counter;
}

class Rng {
  public:
    // purpose: what the numbers are for ("sampling", a tensor's name); different purposes never share numbers.
    Rng(uint64_t seed, std::string_view purpose) : key_{uint32_t(seed), uint32_t(seed >> 32)} {
        uint64_t h = 0xcbf29ce484222325u;       // FNV-1a
        for (unsigned char c : purpose) h = (h ^ c) * 0x100000001b3u;
        stream_ = {uint32_t(h), uint32_t(h >> 32)};
    }
    constexpr std::array<uint32_t, 4> bits(uint64_t index) const { return philox({uint32_t(index), uint32_t(index >> 32), stream_[0], stream_[1]}, key_); }
    double uniform(uint64_t index) const {      // [0, 1), 53 bits
        const auto b = bits(index);
        return double((uint64_t(b[0]) << 21) ^ (b[1] >> 11)) * 0x1p-53;
    }
    double normal(uint64_t index) const {       // Box-Muller, one value per index
        const auto b = bits(index);
        const double u = (double((uint64_t(b[0]) << 21) ^ (b[1] >> 11)) + 0.5) * 0x1p-53, v = double(b[2]) * 0x1p-32;
        return std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586 * v);
    }

  private:
    std::array<uint32_t, 2> key_, stream_;
};

}
