// tokenizer.model from anywhere: parses or reports; a tokenizer that parsed encodes and decodes anything.
#include <cstdint>
#include <cstdlib>
#include "core/check.h"
#include "core/log.h"
#include "models/sentencepiece.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    try {
        const auto bytes = std::as_bytes(std::span(data, size));
        const merv::SentencePiece t = merv::SentencePiece::parse(bytes, "fuzz");
        const std::string_view text(reinterpret_cast<const char*>(data), size < 500 ? size : 500);
        for (const auto& ids : {t.encode(text), t.encode_plain(text)}) {
            for (int32_t id : ids) if (id < 0 || id >= t.size()) std::abort();
            const std::string decoded = t.decode(ids);
            if (merv::valid_utf8(decoded) != decoded) std::abort();
        }
        std::vector<int32_t> ids;
        for (size_t i = 0; i < text.size(); i++) ids.push_back(int32_t(data[i]) * (i % 7 ? 1 : -1));
        const std::string decoded = t.decode(ids);
        if (merv::valid_utf8(decoded) != decoded) std::abort();
    } catch (const merv::Error&) {
    }
    return 0;
}
