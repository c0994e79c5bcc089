// Questions from a terminal, one after the other: the clip and the dialogue so far stay in the language model's cache, and
// only what a new turn adds is computed.
#pragma once
#include <functional>
#include <optional>
#include "models/merv.h"
#include "models/prompt.h"

namespace merv {

inline constexpr int64_t kChatTokens = 8192;    // of text a chat has room for, if the language model's context is as long

struct ChatOptions {
    PromptBuilder builder = PromptBuilder::raw;
    int bos = -1;                               // stands before the text; -1: nothing does
    GenerateOptions generate;
    std::function<Visual(const std::string& path, bool video)> look;    // shows the model another video or image; may throw Error
};
// Until the end of stdin. Ctrl-C stops an answer, twice in a row the program.
void chat(const Merv& m, std::optional<Visual> visual, const ChatOptions& options);

}
