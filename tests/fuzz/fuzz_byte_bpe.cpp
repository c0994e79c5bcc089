// tokenizer.json from anywhere: parses or reports; a tokenizer that parsed encodes and decodes anything.
#include <cstdint>
#include <cstdlib>
#include "core/check.h"
#include "core/log.h"
#include "models/byte_bpe.h"

using namespace merv;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const std::string_view bytes(reinterpret_cast<const char*>(data), size), text = bytes.substr(0, 500);
    for (const auto split : {ByteBpe::Split::gpt2, ByteBpe::Split::llama3, ByteBpe::Split::qwen2, ByteBpe::Split::digits, ByteBpe::Split::digit_runs}) {
        const std::string valid = valid_utf8(text);                 // words make up the text
        for (std::string_view rest = valid; !rest.empty();) {
            const size_t n = word_length(split, rest);
            if (n == 0 || n > rest.size()) std::abort();
            rest.remove_prefix(n);
        }
    }
    try {
        const ByteBpe t = ByteBpe::build(ByteBpe::read(bytes, "fuzz"), "fuzz");
        const std::vector<int32_t> ids = t.encode(text);
        for (int32_t id : ids) if (id < 0 || id >= t.size()) std::abort();
        std::string decoded = t.decode(ids);
        if (valid_utf8(decoded) != decoded) std::abort();
        std::vector<int32_t> any;
        for (size_t i = 0; i < text.size(); i++) any.push_back(int32_t(data[i]) * (i % 7 ? 1 : -1));
        decoded = t.decode(any);
        if (valid_utf8(decoded) != decoded) std::abort();
    } catch (const Error&) {
    }
    return 0;
}
