#include "data/conversations.h"
#include <algorithm>
#include <filesystem>
#include "core/json.h"

namespace merv {
namespace {

constexpr size_t kLargestRecord = size_t(16) << 20;

// Positions of the elements of a top-level list. Strings and nesting are followed, nothing else: each element is parsed on its own.
template <class F> void each_element(std::string_view text, const std::string& path, const F& f) {
    const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; };
    size_t at = text.starts_with("\xEF\xBB\xBF") ? 3 : 0;
    while (at < text.size() && blank(text[at])) at++;
    if (at == text.size() || text[at] != '[') fail(Exit::bad_data, path, ": holds no JSON list; a dataset is [{\"id\": .., \"conversations\": [..]}, ..]");
    size_t begin = ++at, records = 0;
    int64_t depth = 0;
    bool quoted = false;
    for (; at < text.size(); at++) {
        const char c = text[at];
        if (quoted) {
            if (c == '\\') at++;
            else quoted = c != '"';
        } else if (c == '"') quoted = true;
        else if (c == '[' || c == '{') depth++;
        else if ((c == ']' || c == '}') && depth > 0) depth--;
        else if (depth == 0 && (c == ',' || c == ']')) {
            std::string_view element = text.substr(begin, at - begin);
            if (c == ',' || records > 0 || !std::all_of(element.begin(), element.end(), blank)) f(records++, element);
            begin = at + 1;
            if (c != ']') continue;
            while (++at < text.size()) if (!blank(text[at])) fail(Exit::bad_data, path, ": something follows the list's end, at byte ", at);
            return;
        }
    }
    fail(Exit::bad_data, path, ": ends inside record ", records, "; the file is cut off");
}

Conversation parse_record(const Json& j, const std::string& where) {
    auto wrong = [&](const auto&... what) { fail(Exit::bad_data, where, ": ", what...); };
    if (!j.is_object()) wrong("is no object");
    Conversation c;
    if (const auto id = j.find("id"); id != j.end() && !id->is_null()) {
        if (!id->is_string() && !id->is_number_integer()) wrong("id is ", brief(id->dump()), "; a text or a number is needed");
        c.id = id->is_string() ? id->get<std::string>() : id->dump();
    }
    for (const char* key : {"image", "video"}) {                    // a video wins
        const auto path = j.find(key);
        if (path == j.end() || path->is_null()) continue;
        if (!path->is_string() || path->get_ref<const std::string&>().empty()) wrong(key, " is ", brief(path->dump()), "; a path below the media root is needed");
        c.media = path->get<std::string>(), c.is_image = key == std::string_view("image");
        if (c.media.find('\0') != c.media.npos) wrong(key, " holds a zero byte");
    }
    const auto turns = j.find("conversations");
    if (turns == j.end() || !turns->is_array() || turns->empty()) wrong("has no conversations; [{\"from\": \"human\", \"value\": ..}, {\"from\": \"gpt\", \"value\": ..}] is needed");
    for (const Json& t : *turns) {
        const bool human = c.turns.size() % 2 == 0;
        const std::string n = concat("turn ", c.turns.size() + 1);
        if (!t.is_object() || !t.contains("from") || !t.contains("value") || !t["from"].is_string() || !t["value"].is_string()) wrong(n, " is no {\"from\": text, \"value\": text}");
        if (t["from"] != (human ? "human" : "gpt")) wrong(n, " is from ", brief(t["from"].dump()), "; human and gpt take turns, human first");
        c.turns.push_back({human, t["value"].get<std::string>()});
    }
    if (c.turns.size() % 2) wrong("ends with a question; an answer from gpt is needed behind it");
    return c;
}

}

std::vector<Conversation> parse_conversations(std::string_view text, const std::string& path) {
    std::vector<Conversation> all;
    each_element(text, path, [&](size_t i, std::string_view element) {
        const std::string where = concat(path, ": record ", i);
        all.push_back(parse_record(parse_json(element, where, {.bytes = kLargestRecord}, Exit::bad_data), where));
    });
    return all;
}

std::vector<Conversation> read_conversations(const std::string& path) { return parse_conversations(read_text(path, size_t(16) << 30, Exit::bad_data), path); }

int64_t count_words(const Conversation& c) {
    int64_t n = 0;
    for (const Turn& t : c.turns) {
        bool inside = false;
        const std::string& s = t.text;
        for (size_t i = 0; i < s.size(); i++) {
            const auto at = [&](size_t k) { return i + k < s.size() ? static_cast<unsigned char>(s[i + k]) : 0; };
            const unsigned char a = at(0), b = at(1), d = at(2);
            size_t length = 0;                  // bytes of a white space of Unicode's, as str.isspace() has it
            if ((a >= 9 && a <= 13) || (a >= 28 && a <= 32)) length = 1;
            else if (a == 0xC2 && (b == 0x85 || b == 0xA0)) length = 2;
            else if ((a == 0xE1 && b == 0x9A && d == 0x80) || (a == 0xE3 && b == 0x80 && d == 0x80) || (a == 0xE2 && b == 0x81 && d == 0x9F) ||
                     (a == 0xE2 && b == 0x80 && ((d >= 0x80 && d <= 0x8A) || d == 0xA8 || d == 0xA9 || d == 0xAF))) length = 3;
            if (length) inside = false, i += length - 1;
            else if (!inside) inside = true, n++;
        }
    }
    return n;
}

std::string media_path(const std::string& root, const Conversation& c) {
    namespace fs = std::filesystem;
    const fs::path asked = c.media;
    auto outside = [&] { fail(Exit::bad_data, "'", brief(c.media), "'", c.id.empty() ? "" : concat(" of sample ", brief(c.id)), ": lies outside the media root ", root, "; paths are relative to it"); };
    if (asked.is_absolute()) outside();
    std::error_code error;
    const fs::path base = fs::weakly_canonical(root, error), full = fs::weakly_canonical(base / asked, error);
    const auto [end, rest] = std::mismatch(base.begin(), base.end(), full.begin(), full.end());
    if (end != base.end() && !(std::next(end) == base.end() && end->empty())) outside();
    return (fs::path(root) / asked).string();
}

}
