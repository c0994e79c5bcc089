#include "core/log.h"
#include <atomic>
#include <cstdio>

namespace merv {
namespace {

std::atomic<Level> chosen{Level::normal};

// Length of the well-formed UTF-8 sequence at the start of s (Unicode 15, table 3-7), or 0.
size_t sequence_length(std::string_view s) {
    auto at = [&](size_t i) { return i < s.size() ? static_cast<unsigned char>(s[i]) : 0u; };
    auto tail = [&](size_t i, unsigned lo = 0x80, unsigned hi = 0xbf) { return at(i) >= lo && at(i) <= hi; };
    const unsigned c = at(0);
    if (c < 0x80) return 1;
    if (c >= 0xc2 && c <= 0xdf) return tail(1) ? 2 : 0;
    if (c >= 0xe0 && c <= 0xef) return tail(1, c == 0xe0 ? 0xa0 : 0x80, c == 0xed ? 0x9f : 0xbf) && tail(2) ? 3 : 0;
    if (c >= 0xf0 && c <= 0xf4) return tail(1, c == 0xf0 ? 0x90 : 0x80, c == 0xf4 ? 0x8f : 0xbf) && tail(2) && tail(3) ? 4 : 0;
    return 0;
}

template <class Keep> std::string filter(std::string_view s, Keep keep) {
    std::string out;
    out.reserve(s.size());
    while (!s.empty()) {
        const size_t n = sequence_length(s);
        if (n && keep(s.substr(0, n))) out += s.substr(0, n);
        else out += "\xEF\xBF\xBD";
        s.remove_prefix(n ? n : 1);
    }
    return out;
}

bool harmless(std::string_view c) {
    const auto first = static_cast<unsigned char>(c[0]);
    if (c.size() == 1) return c == "\n" || c == "\t" || (first >= 0x20 && first != 0x7f);
    return !(c.size() == 2 && first == 0xc2 && static_cast<unsigned char>(c[1]) < 0xa0);    // C1
}

}

void set_log_level(Level l) { chosen = l; }
Level log_level() { return chosen; }
void log_text(Level at, std::string_view line) {
    if (at > chosen) return;
    const std::string safe = printable(line) + "\n";
    std::fwrite(safe.data(), 1, safe.size(), stderr);
}
std::string printable(std::string_view text) { return filter(text, harmless); }
std::string valid_utf8(std::string_view text) { return filter(text, [](std::string_view) { return true; }); }

}
