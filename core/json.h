// JSON read strictly: valid UTF-8, no duplicate keys, bounded size and depth, no integer outside int64, nothing after the
// value. Errors say the file, what is wrong and where. To be included by .cpp files only (the library's header is large).
#pragma once
#include <string>
#include <string_view>
#include <nlohmann/json.hpp>
#include "core/check.h"

namespace merv {

using Json = nlohmann::ordered_json;            // keys keep the order of the file
struct JsonLimits { size_t bytes = size_t(16) << 20; int depth = 64; };

bool exists(const std::string& path);           // anything of that name, as far as one may look
// The text of a regular file of at most `most` bytes; Error(code) naming the file if it is missing, a folder, unreadable or larger.
std::string read_text(const std::string& path, size_t most = size_t(16) << 20, Exit code = Exit::bad_weights);
// `where` (usually a path) opens the message of the Error(code) that anything irregular throws.
Json parse_json(std::string_view text, const std::string& where, JsonLimits limits = {}, Exit code = Exit::bad_weights);
Json read_json(const std::string& path, JsonLimits limits = {}, Exit code = Exit::bad_weights);

// The library's own message for a syntax error, without its tag and cut to a line.
std::string json_syntax_error(const nlohmann::json::exception& e);
// A name out of a file as it appears in messages: at most `most` bytes, the rest replaced by "..."; no zero bytes.
std::string brief(std::string_view name, size_t most = 120);

}
