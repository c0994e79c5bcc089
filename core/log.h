// What programs say. stdout is for data (answers, tables, JSON); everything else goes through here to stderr, one line each.
#pragma once
#include <string>
#include <string_view>
#include "core/check.h"

namespace merv {

enum class Level { quiet = -1, normal = 0, verbose = 1 };   // -q, nothing, -v
void set_log_level(Level);
Level log_level();
void log_text(Level at, std::string_view line);     // printed if `at` <= the chosen level; control characters made visible
template <class... A> void say(const A&... parts) { log_text(Level::normal, concat(parts...)); }
template <class... A> void say_verbose(const A&... parts) { log_text(Level::verbose, concat(parts...)); }
template <class... A> void warn(const A&... parts) { log_text(Level::normal, concat("note: ", parts...)); }

// Text from a model or a file, safe for a terminal: control characters (C0 except \n and \t, DEL, C1) become U+FFFD, so
// no escape sequence ever reaches it. Input is UTF-8; broken bytes become U+FFFD too.
std::string printable(std::string_view text);
std::string valid_utf8(std::string_view text);      // only the broken bytes are replaced

}
