// Any bytes as a conversation file: refused with an Error, or dialogues in turns; any text as a path below a root: refused, or below it.
#include <cstdlib>
#include <filesystem>
#include <string>
#include "core/check.h"
#include "data/conversations.h"

using namespace merv;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const std::string text(reinterpret_cast<const char*>(data), size);
    try {
        for (const Conversation& c : parse_conversations(text, "fuzz")) {
            if (c.turns.size() < 2 || c.turns.size() % 2 || c.media.find('\0') != c.media.npos || count_words(c) < 0) std::abort();
            for (size_t i = 0; i < c.turns.size(); i++)
                if (c.turns[i].human != (i % 2 == 0)) std::abort();
            try {
                const auto path = std::filesystem::path(media_path("/nowhere/root", c)).lexically_normal().string();
                if (!path.starts_with("/nowhere/root")) std::abort();
            } catch (const Error&) {
            }
        }
    } catch (const Error&) {
    }
    return 0;
}
