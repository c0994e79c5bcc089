#include "models/unicode.h"
#include <algorithm>
#include <charconv>
#include <cstdint>
#include <map>
#include <tuple>
#include <unordered_map>
#include <vector>
#include "models/unicode_tables.h"

namespace merv {

int character(std::string_view s) {
    const auto c = static_cast<unsigned char>(s[0]);
    const int n = c < 0x80 ? 1 : c >= 0xc2 && c <= 0xdf ? 2 : (c & 0xf0) == 0xe0 ? 3 : c >= 0xf0 && c <= 0xf4 ? 4 : 0;
    for (int i = 1; i < n; i++) {
        if (size_t(i) == s.size()) return -1;
        const auto tail = static_cast<unsigned char>(s[size_t(i)]);
        const bool second = i == 1;             // where overlong forms, surrogates and what lies beyond U+10FFFF show
        if (tail < (second && c == 0xe0 ? 0xa0 : second && c == 0xf0 ? 0x90 : 0x80)) return 0;
        if (tail > (second && c == 0xed ? 0x9f : second && c == 0xf4 ? 0x8f : 0xbf)) return 0;
    }
    return n;
}

namespace unicode {
namespace {

std::vector<int64_t> numbers(std::string_view text) {
    std::vector<int64_t> all;
    for (const char *at = text.data(), *end = at + text.size(); at < end; at++) at = std::from_chars(at, end, all.emplace_back()).ptr;
    return all;
}

// Ranges of characters with a value each, in order.
class Ranges {
  public:
    explicit Ranges(std::string_view table, bool with_values = false) {
        const std::vector<int64_t> n = numbers(table);
        const size_t step = with_values ? 3 : 2;
        char32_t at = 0;
        for (size_t i = 0; i + step <= n.size(); i += step) {
            at += char32_t(n[i]);
            ranges_.push_back({at, at + char32_t(n[i + 1]), with_values ? int(n[i + 2]) : 1});
            at = ranges_.back().end;
        }
    }
    int value(char32_t c) const {               // 0 outside
        const auto after = std::upper_bound(ranges_.begin(), ranges_.end(), c, [](char32_t c, const Range& r) { return c < r.begin; });
        return after != ranges_.begin() && c < after[-1].end ? after[-1].value : 0;
    }

  private:
    struct Range { char32_t begin, end; int value; };
    std::vector<Range> ranges_;
};

// Hangul syllables are composed by arithmetic (Unicode 15, section 3.12): L leading, V vowel, T trailing.
constexpr char32_t kSyllables = 0xac00, kL = 0x1100, kV = 0x1161, kT = 0x11a7, kLs = 19, kVs = 21, kTs = 28;

struct Composition {
    std::unordered_map<char32_t, std::pair<char32_t, char32_t>> parts;      // second 0: one character
    std::map<std::pair<char32_t, char32_t>, char32_t> whole;
    Ranges classes{kClasses, true};

    Composition() {
        const std::vector<int64_t> n = numbers(kDecompositions);
        const Ranges apart(kApart);
        int64_t c = 0, a = 0, b = 0;
        for (size_t i = 0; i + 3 <= n.size(); i += 3) {
            c += n[i], a += n[i + 1], b += n[i + 2];
            parts[char32_t(c)] = {char32_t(a), char32_t(b)};
            if (b && !apart.value(char32_t(c))) whole[{char32_t(a), char32_t(b)}] = char32_t(c);
        }
    }
    void decompose(char32_t c, std::u32string& out) const {
        if (c >= kSyllables && c < kSyllables + kLs * kVs * kTs) {
            const char32_t i = c - kSyllables;
            out += kL + i / (kVs * kTs), out += kV + i / kTs % kVs;
            if (i % kTs) out += kT + i % kTs;
        } else if (const auto p = parts.find(c); p != parts.end()) {
            decompose(p->second.first, out);
            if (p->second.second) decompose(p->second.second, out);
        } else out += c;
    }
    char32_t compose(char32_t a, char32_t b) const {        // 0: they stay two
        if (a >= kL && a < kL + kLs && b >= kV && b < kV + kVs) return kSyllables + ((a - kL) * kVs + (b - kV)) * kTs;
        if (a >= kSyllables && a < kSyllables + kLs * kVs * kTs && (a - kSyllables) % kTs == 0 && b > kT && b < kT + kTs) return a + (b - kT);
        const auto found = whole.find({a, b});
        return found == whole.end() ? 0 : found->second;
    }
};

}

Decoded decode(std::string_view s) {
    const auto at = [&](size_t i) { return char32_t(static_cast<unsigned char>(s[i])); };
    const char32_t c = at(0);
    if (c < 0x80) return {c, 1};
    if (c < 0xe0) return {(c & 0x1f) << 6 | (at(1) & 0x3f), 2};
    if (c < 0xf0) return {(c & 0x0f) << 12 | (at(1) & 0x3f) << 6 | (at(2) & 0x3f), 3};
    return {(c & 0x07) << 18 | (at(1) & 0x3f) << 12 | (at(2) & 0x3f) << 6 | (at(3) & 0x3f), 4};
}

void append(std::string& s, char32_t c) {
    if (c < 0x80) s += char(c);
    else if (c < 0x800) s += char(0xc0 | c >> 6);
    else if (c < 0x10000) s += char(0xe0 | c >> 12);
    else s += char(0xf0 | c >> 18);
    if (c >= 0x10000) s += char(0x80 | (c >> 12 & 0x3f));
    if (c >= 0x800) s += char(0x80 | (c >> 6 & 0x3f));
    if (c >= 0x80) s += char(0x80 | (c & 0x3f));
}

bool is_letter(char32_t c) {
    static const Ranges letters(kLetters);
    return c < 0x80 ? (c | 0x20) >= 'a' && (c | 0x20) <= 'z' : letters.value(c) != 0;
}
bool is_number(char32_t c) {
    static const Ranges numbers(kNumbers);
    return c < 0x80 ? c >= '0' && c <= '9' : numbers.value(c) != 0;
}
bool is_digit(char32_t c) {
    static const Ranges newer(kNewerDigits);
    return is_number(c) || (c >= 0x80 && newer.value(c));
}
bool is_space(char32_t c) {
    return (c >= '\t' && c <= '\r') || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

std::string nfc(std::string_view s) {
    // Below U+0300 nothing decomposes that is not put together again, and nothing combines.
    if (std::none_of(s.begin(), s.end(), [](char c) { return static_cast<unsigned char>(c) >= 0xcc; })) return std::string(s);
    static const Composition table;
    std::u32string text;
    for (size_t at = 0; at < s.size();) {
        const Decoded d = decode(s.substr(at));
        table.decompose(d.code, text);
        at += d.bytes;
    }
    std::vector<int> classes;
    for (char32_t c : text) classes.push_back(table.classes.value(c));
    for (size_t i = 0, end; i < text.size(); i = end) {     // marks behind a starter are sorted by class
        for (end = i + 1; end < text.size() && classes[i] && classes[end];) end++;
        if (end - i < 2) continue;
        std::vector<std::pair<int, char32_t>> marks;
        for (size_t j = i; j < end; j++) marks.emplace_back(classes[j], text[j]);
        std::stable_sort(marks.begin(), marks.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
        for (size_t j = i; j < end; j++) std::tie(classes[j], text[j]) = marks[j - i];
    }
    std::u32string out;
    size_t starter = std::u32string::npos;
    int last = -1;                              // class of what was kept last behind the starter; -1: nothing yet
    for (size_t i = 0; i < text.size(); i++) {
        if (starter != out.npos && last < classes[i])
            if (const char32_t whole = table.compose(out[starter], text[i])) { out[starter] = whole; continue; }
        out += text[i];
        if (classes[i] == 0) starter = out.size() - 1, last = -1;
        else last = classes[i];
    }
    std::string bytes;
    for (char32_t c : out) append(bytes, c);
    return bytes;
}

}

}
