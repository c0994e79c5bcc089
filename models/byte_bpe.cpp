#include "models/byte_bpe.h"
#include <algorithm>
#include <functional>
#include <queue>
#include "core/json.h"
#include "core/log.h"
#include "models/unicode.h"

namespace merv {
namespace {

using Split = ByteBpe::Split;
constexpr size_t kMaxFile = size_t(64) << 20, kMaxTokens = 1'000'000, kMaxMerges = 4'000'000, kMaxToken = 2048;     // LLaMA-3: 9 MB, 128256, 280147
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";       // U+FFFD

template <class... A> [[noreturn]] void damaged(const std::string& name, const A&... what) {
    fail(Exit::bad_weights, name, ": not a tokenizer that can be used (", what..., "); get the file again");
}
template <class... A> [[noreturn]] void unsupported(const std::string& name, const A&... what) {
    fail(Exit::bad_weights, name, ": ", what..., ", which is not supported; the byte-level BPE of LLaMA-3, Qwen2.5, SmolLM2 and GPT-2 is");
}

// ---- the byte alphabet: printable bytes of Latin-1 stand for themselves, the others for U+0100, U+0101, ... in order

bool stands_for_itself(int byte) { return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad); }

int byte_of(char32_t c) {                       // -1: not in the alphabet
    static const std::vector<int> others = [] {
        std::vector<int> bytes;
        for (int b = 0; b < 256; b++) if (!stands_for_itself(b)) bytes.push_back(b);
        return bytes;
    }();
    if (c < 0x100) return stands_for_itself(int(c)) ? int(c) : -1;
    return c < 0x100 + others.size() ? others[c - 0x100] : -1;
}
bool from_alphabet(std::string_view spelt, std::string& bytes) {
    bytes.clear();
    for (size_t at = 0; at < spelt.size();) {
        const auto [code, n] = unicode::decode(spelt.substr(at));
        const int byte = byte_of(code);
        if (byte < 0) return false;
        bytes += char(byte), at += n;
    }
    return true;
}

// ---- words

template <class Wanted> size_t run(std::string_view s, size_t at, Wanted wanted) {      // the end of the run that begins at `at`
    while (at < s.size()) {
        const auto [code, n] = unicode::decode(s.substr(at));
        if (!wanted(code)) break;
        at += n;
    }
    return at;
}
bool is_other(char32_t c) { return !unicode::is_space(c) && !unicode::is_letter(c) && !unicode::is_number(c); }
bool is_newline(char32_t c) { return c == '\r' || c == '\n'; }

// '(?:s|t|re|ve|m|ll|d); in any case U+017F, which folds to s, is one too.
size_t contraction(std::string_view s, bool any_case) {
    auto at = [&](size_t i) { return i >= s.size() ? '\0' : any_case && s[i] >= 'A' && s[i] <= 'Z' ? char(s[i] | 0x20) : s[i]; };
    const char a = at(1), b = at(2);
    if (s[0] != '\'') return 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if (((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l')) return 3;
    return any_case && s.substr(1).starts_with("\u017f") ? 3 : 0;
}

// [\s*[\r\n]+|]\s+(?!\S)|\s+ : a run of white space, up to its last line break if that is asked for; else a run followed by
// something leaves its last character to that.
size_t white_space(std::string_view s, bool to_newline) {
    size_t end = 0, last = 0, newline = 0;      // newline: the end of the last one
    while (end < s.size()) {
        const auto [code, n] = unicode::decode(s.substr(end));
        if (!unicode::is_space(code)) break;
        last = end, end += n;
        if (is_newline(code)) newline = end;
    }
    if (to_newline && newline) return newline;
    return end == s.size() || last == 0 ? end : last;
}

// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
size_t gpt2_word(std::string_view s) {
    if (const size_t n = contraction(s, false)) return n;
    const size_t begin = s[0] == ' ' && s.size() > 1 ? 1 : 0;
    const char32_t c = unicode::decode(s.substr(begin)).code;
    if (unicode::is_letter(c)) return run(s, begin, unicode::is_letter);
    if (unicode::is_number(c)) return run(s, begin, unicode::is_number);
    return unicode::is_space(c) ? white_space(s, false) : run(s, begin, is_other);
}

// (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
size_t llama3_word(std::string_view s, int digits) {
    if (const size_t n = contraction(s, true)) return n;
    const auto [c, n] = unicode::decode(s);
    if (unicode::is_letter(c)) return run(s, 0, unicode::is_letter);
    if (unicode::is_number(c)) return run(s, 0, [&](char32_t c) { return digits-- > 0 && unicode::is_number(c); });
    const char32_t next = n < s.size() ? unicode::decode(s.substr(n)).code : U'\n';
    if (!is_newline(c) && unicode::is_letter(next)) return run(s, n, unicode::is_letter);
    if (is_other(c) || (c == ' ' && is_other(next))) return run(s, run(s, is_other(c) ? 0 : 1, is_other), is_newline);
    return white_space(s, true);
}

// ---- tokenizer.json

constexpr const char* kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr const char* kLlama3 = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen2 = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

class JsonFile {
  public:
    JsonFile(std::string_view text, const std::string& name) : name_(name), root_(parse_json(text, name, {kMaxFile, 32})) {
        if (!root_.is_object()) damaged(name_, "the file is no object {...}");
    }
    ByteBpe::Parts parts() {
        ByteBpe::Parts p;
        read_model(p);
        if (const Json* n = get(root_, "normalizer")) read_normalizer(*n, p);
        if (const Json* pre = get(root_, "pre_tokenizer")) read_steps(*pre, p);
        if (!byte_level_) unsupported(name_, "its pre_tokenizer has no ByteLevel, so it does not work on bytes");
        const Json* decoder = get(root_, "decoder");
        if (const std::string type = decoder ? type_of(*decoder) : "none"; type != "ByteLevel") unsupported(name_, "its decoder is ", brief(type, 40));
        if (const Json* post = get(root_, "post_processor")) read_post_processor(*post, p);
        return p;
    }

  private:
    static const Json* get(const Json& object, const char* key) {
        const auto found = object.find(key);
        return found == object.end() || found->is_null() ? nullptr : &*found;
    }
    bool boolean(const Json& object, const char* key, bool fallback = false) const {
        const Json* v = get(object, key);
        if (v && !v->is_boolean()) damaged(name_, key, " is not true or false");
        return v ? v->get<bool>() : fallback;
    }
    std::string text(const Json& object, const char* key) const {
        const Json* v = get(object, key);
        if (v && !v->is_string()) damaged(name_, key, " is no text");
        return v ? v->get<std::string>() : "";
    }
    int64_t id(const Json& v, const std::string& of) const {
        if (!v.is_number_integer()) damaged(name_, "the id of '", brief(of, 40), "' is no whole number");
        const auto value = v.get<int64_t>();
        if (value < 0 || value >= most_id_) damaged(name_, "the id of '", brief(of, 40), "' is ", value, ", with ", most_id_ / 2, " tokens");
        return value;
    }
    std::string type_of(const Json& v) const {
        if (!v.is_object()) damaged(name_, "a part is no object {...}");
        return text(v, "type");
    }
    // The members of a Sequence under `key`, or the thing itself.
    template <class F> void each(const Json& v, const char* key, F&& f) const {
        if (type_of(v) != "Sequence") return f(v);
        const Json* list = get(v, key);
        if (!list || !list->is_array() || list->size() > 16) damaged(name_, key, " of a Sequence is no list of at most 16");
        for (const Json& one : *list) {
            if (type_of(one) == "Sequence") unsupported(name_, "it has a Sequence inside a Sequence");
            f(one);
        }
    }

    void read_model(ByteBpe::Parts& p) {
        const Json* model = get(root_, "model");
        if (!model || !model->is_object()) damaged(name_, "it has no model");
        if (const std::string type = text(*model, "type"); !type.empty() && type != "BPE") unsupported(name_, "its model is ", brief(type, 40));
        const Json *vocab = get(*model, "vocab"), *merges = get(*model, "merges"), *added = get(root_, "added_tokens"), *dropout = get(*model, "dropout");
        if (!vocab || !vocab->is_object() || vocab->empty()) damaged(name_, "model.vocab, the tokens and their ids, is missing");
        if (!merges || !merges->is_array()) damaged(name_, "model.merges, the list of merges, is missing");
        if (added && !added->is_array()) damaged(name_, "added_tokens is no list");
        if (vocab->size() + (added ? added->size() : 0) > kMaxTokens || merges->size() > kMaxMerges) damaged(name_, "more than ", kMaxTokens, " tokens or ", kMaxMerges, " merges");
        if (boolean(*model, "byte_fallback")) unsupported(name_, "it falls back to byte tokens as SentencePiece does (byte_fallback; use its tokenizer.model)");
        for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) if (!text(*model, key).empty()) unsupported(name_, "it has a ", key);
        if (dropout && *dropout != 0) unsupported(name_, "it drops merges at random (dropout)");
        p.unknown = text(*model, "unk_token"), p.fuse_unknown = boolean(*model, "fuse_unk"), p.ignore_merges = boolean(*model, "ignore_merges");

        most_id_ = 2 * int64_t(vocab->size() + (added ? added->size() : 0));       // ids may have gaps, but not make memory out of nothing
        for (const auto& [token, value] : vocab->items()) {
            const auto i = size_t(id(value, token));
            if (i >= p.tokens.size()) p.tokens.resize(i + 1);
            if (!p.tokens[i].empty()) damaged(name_, "'", brief(p.tokens[i], 40), "' and '", brief(token, 40), "' both have the id ", i);
            p.tokens[i] = token;
        }
        for (const Json& m : *merges) p.merges.push_back(merge(m, p.merges.size()));
        if (added) for (const Json& a : *added) p.added.push_back(added_token(a));
    }
    std::pair<std::string, std::string> merge(const Json& m, size_t i) const {      // "a b" or ["a", "b"]
        if (m.is_array() && m.size() == 2 && m[0].is_string() && m[1].is_string()) return {m[0].get<std::string>(), m[1].get<std::string>()};
        if (!m.is_string()) damaged(name_, "merge ", i, " is neither \"a b\" nor [\"a\", \"b\"]");
        const auto& pair = m.get_ref<const std::string&>();
        const size_t space = pair.find(' ');
        if (space == pair.npos || pair.find(' ', space + 1) != pair.npos) damaged(name_, "merge ", i, " '", brief(pair, 60), "' is not two tokens and a space");
        return {pair.substr(0, space), pair.substr(space + 1)};
    }
    ByteBpe::Added added_token(const Json& a) const {
        if (!a.is_object()) damaged(name_, "an added token is no object {...}");
        const Json* number = get(a, "id");
        ByteBpe::Added t{.id = 0, .text = text(a, "content")};
        if (!number) damaged(name_, "the added token '", brief(t.text, 40), "' has no id");
        t.id = id(*number, t.text);
        t.special = boolean(a, "special"), t.strip_left = boolean(a, "lstrip"), t.strip_right = boolean(a, "rstrip"), t.normalized = boolean(a, "normalized", !t.special);
        if (boolean(a, "single_word")) unsupported(name_, "the added token '", brief(t.text, 40), "' is only found as a whole word (single_word)");
        return t;
    }

    void read_normalizer(const Json& n, ByteBpe::Parts& p) const {
        each(n, "normalizers", [&](const Json& one) {
            if (type_of(one) != "NFC") unsupported(name_, "its normalizer is ", brief(type_of(one), 40));
            p.nfc = true;
        });
    }
    void read_steps(const Json& pre, ByteBpe::Parts& p) {
        each(pre, "pretokenizers", [&](const Json& one) {
            const std::string type = type_of(one);
            if (byte_level_) unsupported(name_, "its pre_tokenizer goes on behind ByteLevel");
            if (type == "ByteLevel") {
                p.steps.push_back({boolean(one, "use_regex", true) ? Split::gpt2 : Split::none, boolean(one, "add_prefix_space", true)});
                byte_level_ = true;
            } else if (type == "Digits") {
                p.steps.push_back({boolean(one, "individual_digits") ? Split::digits : Split::digit_runs});
            } else if (type == "Split") {
                p.steps.push_back({split(one)});
            } else unsupported(name_, "its pre_tokenizer is ", brief(type, 40));
        });
    }
    Split split(const Json& one) const {
        const Json* pattern = get(one, "pattern");
        const std::string regex = pattern && pattern->is_object() ? text(*pattern, "Regex") : "";
        if (text(one, "behavior") != "Isolated" || boolean(one, "invert")) unsupported(name_, "its pre_tokenizer's Split is not Isolated");
        for (auto [known, split] : {std::pair(kGpt2, Split::gpt2), {kLlama3, Split::llama3}, {kQwen2, Split::qwen2}}) if (regex == known) return split;
        unsupported(name_, "its pre_tokenizer splits by '", brief(regex, 200), "'");
    }
    // What stands before the text: nothing or BOS.
    void read_post_processor(const Json& post, ByteBpe::Parts& p) const {
        each(post, "processors", [&](const Json& one) {
            if (type_of(one) == "ByteLevel") return;            // trims offsets, which nobody reads here
            if (type_of(one) != "TemplateProcessing") unsupported(name_, "its post_processor is ", brief(type_of(one), 40));
            const Json* single = get(one, "single");
            if (!single || !single->is_array()) damaged(name_, "single of TemplateProcessing is no list");
            bool behind = false;
            for (const Json& item : *single) {
                if (!item.is_object() || item.size() != 1) damaged(name_, "single of TemplateProcessing is no list of objects {...}");
                if (item.contains("Sequence")) { behind = true; continue; }
                const Json *special = get(item, "SpecialToken"), *specials = get(one, "special_tokens");
                const std::string token = special && special->is_object() ? text(*special, "id") : "";
                const Json* entry = specials && specials->is_object() ? get(*specials, token.c_str()) : nullptr;
                const Json* ids = entry && entry->is_object() ? get(*entry, "ids") : nullptr;
                if (!ids || !ids->is_array() || ids->size() != 1) damaged(name_, "TemplateProcessing has no id for '", brief(token, 40), "'");
                if (behind || p.adds_bos) unsupported(name_, "it puts more around a text than one token before it");
                p.adds_bos = true, p.bos = int(id((*ids)[0], token));
            }
        });
    }

    const std::string& name_;
    const Json root_;
    int64_t most_id_ = 0;
    bool byte_level_ = false;
};

}

size_t word_length(Split split, std::string_view text) {
    const bool digit = split == Split::digits || split == Split::digit_runs ? unicode::is_digit(unicode::decode(text).code) : false;
    switch (split) {
        case Split::none: return text.size();
        case Split::gpt2: return gpt2_word(text);
        case Split::llama3: return llama3_word(text, 3);
        case Split::qwen2: return llama3_word(text, 1);
        case Split::digits: if (digit) return unicode::decode(text).bytes; break;
        case Split::digit_runs: break;
    }
    return run(text, 0, [&](char32_t c) { return unicode::is_digit(c) == digit; });
}

ByteBpe::Parts ByteBpe::read(std::string_view json, const std::string& name) {
    constexpr std::string_view pointer = "version https://git-lfs";
    if (json.starts_with(pointer)) fail(Exit::bad_weights, name, ": a Git LFS pointer, not the file itself; fetch it with `git lfs pull`");
    return JsonFile(json, name).parts();
}

ByteBpe ByteBpe::build(Parts p, const std::string& name) {
    ByteBpe t;
    if (p.tokens.size() > kMaxTokens || p.merges.size() > kMaxMerges) damaged(name, "more than ", kMaxTokens, " tokens or ", kMaxMerges, " merges");
    Map<int32_t> spelt;
    std::string bytes;
    t.bytes_.fill(-1);
    for (const std::string& token : p.tokens) {
        const auto id = int32_t(t.tokens_.size());
        if (token.size() > kMaxToken) damaged(name, "token ", id, " is longer than ", kMaxToken, " bytes");
        if (valid_utf8(token) != token) damaged(name, "token ", id, " is not UTF-8");
        if (!token.empty() && !spelt.emplace(token, id).second) damaged(name, "token ", id, " is there twice: '", brief(token, 40), "'");
        if (from_alphabet(token, bytes) && !bytes.empty()) t.ids_.emplace(bytes, id);
        else bytes = token;
        if (bytes.size() == 1 && t.ids_.count(bytes)) t.bytes_[static_cast<unsigned char>(bytes[0])] = id;
        t.tokens_.push_back({bytes});
    }
    t.add_merges(p, spelt, name);
    t.steps_ = p.steps, t.nfc_ = p.nfc, t.ignore_merges_ = p.ignore_merges, t.fuse_unknown_ = p.fuse_unknown, t.adds_bos_ = p.adds_bos;
    t.added_ = std::move(p.added);
    t.add_added(spelt, name);
    if (!p.unknown.empty()) {
        const auto found = spelt.find(p.unknown);
        if (found == spelt.end()) damaged(name, "its unknown token '", brief(p.unknown, 40), "' is no token");
        t.unknown_ = found->second;
    }
    t.bos_ = p.bos < t.size() ? p.bos : -1, t.eos_ = p.eos < t.size() ? p.eos : -1;
    if (t.adds_bos_ && t.bos_ < 0) damaged(name, "it begins texts with the token ", p.bos, ", which does not exist");
    return t;
}

void ByteBpe::add_merges(const Parts& p, const Map<int32_t>& spelt, const std::string& name) {
    for (const auto& pair : p.merges) {
        const std::string &left = pair.first, &right = pair.second;
        const auto rank = int32_t(merges_.size());
        auto token = [&](const std::string& text) {
            const auto found = spelt.find(text);
            if (found == spelt.end()) damaged(name, "merge ", rank, " '", brief(left, 40), " ", brief(right, 40), "': '", brief(text, 80), "' is no token");
            return found->second;
        };
        merges_.push_back({uint64_t(token(left)) << 32 | uint64_t(token(right)), rank, token(left + right)});
    }
    // Of a pair that is there twice the last counts, as in the reference's map.
    std::sort(merges_.begin(), merges_.end(), [](const Merge& a, const Merge& b) { return a.pair != b.pair ? a.pair < b.pair : a.rank > b.rank; });
    merges_.erase(std::unique(merges_.begin(), merges_.end(), [](const Merge& a, const Merge& b) { return a.pair == b.pair; }), merges_.end());
}

void ByteBpe::add_added(const Map<int32_t>& spelt, const std::string& name) {
    for (size_t i = 0; i < added_.size(); i++) {
        Added& a = added_[i];
        const std::string spelling = a.text;
        if (a.text.empty() || a.text.size() > kMaxToken || valid_utf8(a.text) != a.text) damaged(name, "the added token ", a.id, " is no text of at most ", kMaxToken, " bytes");
        if (a.id < 0 || a.id >= int64_t(2 * kMaxTokens)) damaged(name, "the added token '", brief(a.text, 40), "' has the id ", a.id);
        if (size_t(a.id) >= tokens_.size()) tokens_.resize(size_t(a.id) + 1);
        const auto in_vocab = spelt.find(spelling);
        Token& token = tokens_[size_t(a.id)];
        if (in_vocab != spelt.end() ? in_vocab->second != a.id : !token.bytes.empty())
            damaged(name, "the added token '", brief(spelling, 40), "' has the id ", a.id, ", which belongs to another token");
        std::string bytes;
        token = {from_alphabet(spelling, bytes) ? bytes : spelling, a.special};
        if (a.normalized && nfc_) a.text = unicode::nfc(a.text);
        AddedSet& set = a.normalized ? normalized_ : raw_;
        if (!set.by_text.emplace(a.text, i).second) damaged(name, "the added token '", brief(spelling, 40), "' is there twice");
        std::vector<uint32_t>& lengths = set.lengths[static_cast<unsigned char>(a.text[0])];
        const auto place = std::lower_bound(lengths.begin(), lengths.end(), uint32_t(a.text.size()), std::greater<>());
        if (place == lengths.end() || *place != a.text.size()) lengths.insert(place, uint32_t(a.text.size()));
    }
}

template <class F> void ByteBpe::cut(const AddedSet& set, std::string_view text, std::vector<int32_t>& ids, F&& rest) const {
    size_t start = 0;                           // of what has not been handed on
    for (size_t at = 0; at < text.size();) {
        const Added* found = nullptr;
        for (uint32_t n : set.lengths[static_cast<unsigned char>(text[at])]) {
            const auto entry = set.by_text.find(text.substr(at, n));
            if (entry != set.by_text.end()) { found = &added_[entry->second]; break; }
        }
        if (!found) { at++; continue; }
        size_t begin = at, end = at + found->text.size();
        while (found->strip_left && begin > start) {
            size_t before = begin - 1;
            while (before > start && (static_cast<unsigned char>(text[before]) & 0xc0) == 0x80) before--;
            if (!unicode::is_space(unicode::decode(text.substr(before)).code)) break;
            begin = before;
        }
        if (found->strip_right) end = run(text, end, unicode::is_space);
        if (begin > start) rest(text.substr(start, begin - start));
        ids.push_back(int32_t(found->id));
        start = at = end;
    }
    if (start < text.size()) rest(text.substr(start));
}

std::vector<int32_t> ByteBpe::encode(std::string_view text) const {
    std::vector<int32_t> ids;
    const std::string clean = valid_utf8(text);
    cut(raw_, clean, ids, [&](std::string_view part) {
        const std::string normal = nfc_ ? unicode::nfc(part) : std::string(part);
        cut(normalized_, normal, ids, [&](std::string_view piece) { words(piece, 0, ids); });
    });
    return ids;
}

void ByteBpe::words(std::string_view text, size_t step, std::vector<int32_t>& ids) const {
    if (step == steps_.size()) return append(ids, text);
    std::string prefixed;
    if (steps_[step].prefix_space && !text.starts_with(' ')) text = prefixed = concat(" ", text);
    for (size_t n; !text.empty(); text.remove_prefix(n)) {
        n = word_length(steps_[step].split, text);
        words(text.substr(0, n), step + 1, ids);
    }
}

const ByteBpe::Merge* ByteBpe::merge(int32_t left, int32_t right) const {
    const uint64_t pair = uint64_t(left) << 32 | uint64_t(right);
    const auto found = std::lower_bound(merges_.begin(), merges_.end(), pair, [](const Merge& m, uint64_t p) { return m.pair < p; });
    return found == merges_.end() || found->pair != pair ? nullptr : &*found;
}

// O(n log n): an agenda of all adjacent pairs that can be joined, first of the list first, from left to right. A join adds
// at most two; one whose symbols have changed since is recognised by what they would make now, and dropped.
void ByteBpe::append(std::vector<int32_t>& ids, std::string_view word) const {
    CHECK(word.size() < size_t(1) << 30, "tokenizer: a word of ", word.size(), " bytes; 1 GiB is the most");
    if (ignore_merges_)
        if (const auto whole = ids_.find(word); whole != ids_.end()) return ids.push_back(whole->second);
    struct Symbol { int32_t id, previous, next; };          // id -1: joined to the one on its left
    struct Join { int32_t rank, left, id; bool operator<(const Join& o) const { return rank != o.rank ? rank > o.rank : left > o.left; } };     // the top is first
    std::vector<Symbol> symbols;
    std::priority_queue<Join> agenda;
    auto consider = [&](int32_t left, int32_t right) {
        if (left < 0 || right < 0) return;
        if (const Merge* m = merge(symbols[size_t(left)].id, symbols[size_t(right)].id)) agenda.push({m->rank, left, m->id});
    };
    bool after_unknown = false;
    for (char c : word) {
        const int32_t known = bytes_[static_cast<unsigned char>(c)], id = known >= 0 ? known : unknown_;
        const auto i = int32_t(symbols.size());
        if (id >= 0 && !(known < 0 && after_unknown && fuse_unknown_)) symbols.push_back({id, i - 1, i + 1});
        after_unknown = known < 0;
    }
    if (symbols.empty()) return;
    symbols.back().next = -1;
    for (int32_t i = 1; i < int32_t(symbols.size()); i++) consider(i - 1, i);
    while (!agenda.empty()) {
        const Join join = agenda.top();
        agenda.pop();
        Symbol& left = symbols[size_t(join.left)];
        if (left.id < 0 || left.next < 0) continue;
        Symbol& right = symbols[size_t(left.next)];
        const Merge* now = merge(left.id, right.id);
        if (!now || now->id != join.id) continue;
        left.id = join.id, left.next = right.next, right.id = -1;
        if (left.next >= 0) symbols[size_t(left.next)].previous = join.left;
        consider(left.previous, join.left);
        consider(join.left, left.next);
    }
    for (int32_t i = 0; i >= 0; i = symbols[size_t(i)].next) ids.push_back(symbols[size_t(i)].id);
}

std::string ByteBpe::decode(std::span<const int32_t> ids) const {
    Stream stream(*this);
    std::string text;
    for (int32_t id : ids) text += stream.add(id);
    return text + stream.finish();
}

std::string ByteBpe::Stream::add(int32_t id) {
    if (id < 0 || id >= model_->size() || model_->tokens_[size_t(id)].special) return "";
    held_ += model_->tokens_[size_t(id)].bytes;
    std::string text;
    std::string_view rest = held_;
    while (!rest.empty()) {
        const int n = character(rest);
        if (n < 0) break;                       // it may still be completed
        size_t bad = 1;                         // as much of a broken character as could have begun one is one U+FFFD
        while (n == 0 && bad < rest.size() && character(rest.substr(0, bad + 1)) < 0) bad++;
        text += n ? rest.substr(0, size_t(n)) : kReplacement;
        rest.remove_prefix(n ? size_t(n) : bad);
    }
    held_ = std::string(rest);
    return text;
}

std::string ByteBpe::Stream::finish() {
    const std::string text(held_.empty() ? std::string_view() : kReplacement);
    held_.clear();
    return text;
}

}
