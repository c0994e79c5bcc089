#include "weights/hash.h"
#include <new>
extern "C" {
#include <libavutil/crc.h>
#include <libavutil/mem.h>
#include <libavutil/sha.h>
}

namespace merv {

void Sha256::Free::operator()(AVSHA* state) const { av_free(state); }
Sha256::Sha256() : state_(av_sha_alloc()) {
    if (!state_) throw std::bad_alloc();
    av_sha_init(state_.get(), 256);
}
void Sha256::add(std::span<const std::byte> bytes) { av_sha_update(state_.get(), reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()); }
std::string Sha256::hex() {
    uint8_t digest[32];
    av_sha_final(state_.get(), digest);
    std::string text;
    for (const uint8_t b : digest) text += "0123456789abcdef"[b >> 4], text += "0123456789abcdef"[b & 15];
    return text;
}
void Crc32::add(std::span<const std::byte> bytes) {
    state_ = av_crc(av_crc_get_table(AV_CRC_32_IEEE_LE), state_, reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
}

}
