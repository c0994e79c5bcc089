// Checksums: SHA-256 (FIPS 180-4) names contents, CRC-32 (the zip format's) finds accidents. Both are libavutil's.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

struct AVSHA;

namespace merv {

class Sha256 {
  public:
    Sha256();
    void add(std::span<const std::byte> bytes);
    std::string hex();                          // 64 digits; nothing can be added afterwards

  private:
    struct Free { void operator()(AVSHA*) const; };
    std::unique_ptr<AVSHA, Free> state_;
};

class Crc32 {
  public:
    void add(std::span<const std::byte> bytes);
    uint32_t value() const { return ~state_; }

  private:
    uint32_t state_ = UINT32_MAX;
};

}
