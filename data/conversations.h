// LLaVA's conversation files: a JSON list of records, each a dialogue about a video, an image or nothing (merv.md 5.5).
//
//   {"id": "v_1", "video": "videochatgpt_tune/v_1.mp4", "conversations": [{"from": "human", "value": "<video>\nQuestion"}, {"from": "gpt", "value": "Answer"}]}
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace merv {

struct Turn {
    bool human;
    std::string text;
};
struct Conversation {
    std::string id;                             // "" if the record has none
    std::string media;                          // path below the media root; "": text only. A record with both has its video here
    bool is_image = false;
    std::vector<Turn> turns;                    // human and gpt in turns, human first; at least one of each
    bool multimodal() const { return !media.empty(); }
};

// Error(Exit::bad_data): "<path>: record N: what; what to do", also for values that are no text, and for turns out of order. Records are read one at a time, so a file of
// gigabytes needs little more than its texts.
std::vector<Conversation> read_conversations(const std::string& path);
std::vector<Conversation> parse_conversations(std::string_view text, const std::string& path);

int64_t count_words(const Conversation&);       // of all turns, as Python's str.split() counts: the sampler's lengths

// The file of a record, below `root`. Error(Exit::bad_data) if the path is absolute or leaves `root`, by "..", or by a symbolic link.
std::string media_path(const std::string& root, const Conversation&);

}
