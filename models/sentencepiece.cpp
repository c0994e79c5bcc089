#include "models/sentencepiece.h"
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <queue>
#include <tuple>
#include "core/check.h"
#include "core/log.h"
#include "models/unicode.h"

namespace merv {
namespace {

constexpr std::string_view kSpace = "\xE2\x96\x81";             // U+2581, how pieces spell a space
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";       // U+FFFD
constexpr size_t kMaxFile = size_t(64) << 20, kMaxPieces = 1'000'000, kMaxPiece = 1024;     // LLaMA-2: 0.5 MB, 32000, 48

template <class... A> [[noreturn]] void damaged(const std::string& name, const A&... what) {
    fail(Exit::bad_weights, name, ": not a SentencePiece model (", what..., "); copy tokenizer.model again from where the LLM came from");
}
template <class... A> [[noreturn]] void unsupported(const std::string& name, const A&... what) {
    fail(Exit::bad_weights, name, ": ", what..., ", which is not supported; use the SentencePiece BPE tokenizer.model of LLaMA, LLaMA-2 or Vicuna");
}

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
    std::string out;
    out.reserve(text.size());
    for (size_t at; (at = text.find(from)) != text.npos; text.remove_prefix(at + from.size())) out.append(text.substr(0, at)).append(to);
    return out.append(text);
}

// Protocol Buffers: a message is a run of fields, each a key (number << 3 | wire type) and a value. Nothing is copied and
// nothing allocated; every length is compared with the bytes that are left.
class Message {
  public:
    Message(std::span<const std::byte> bytes, const std::string& name) : rest_(bytes), name_(name) {}

    bool next() {                               // to the next field; false at the end
        if (rest_.empty()) return false;
        const uint64_t key = varint();
        if (key >> 3 == 0 || key >> 3 > 0x1fffffff) damaged(name_, "a field has no valid number");
        field = uint32_t(key >> 3), wire_ = int(key & 7);
        if (wire_ == 0) value_ = varint();
        else if (wire_ == 1) bytes_ = take(8);
        else if (wire_ == 2) bytes_ = take(varint());
        else if (wire_ == 5) bytes_ = take(4);
        else damaged(name_, "a field has the unknown wire type ", wire_);
        return true;
    }
    int32_t integer() const { return expect(0), int32_t(value_); }
    bool boolean() const { return expect(0), value_ != 0; }
    std::span<const std::byte> bytes() const { return expect(2), bytes_; }
    std::string_view text() const { return {reinterpret_cast<const char*>(bytes().data()), bytes().size()}; }
    float number() const {
        expect(5);
        uint32_t bits = 0;
        for (int i = 3; i >= 0; i--) bits = bits << 8 | uint32_t(bytes_[size_t(i)]);
        return std::bit_cast<float>(bits);
    }
    uint32_t field = 0;

  private:
    void expect(int wire) const {
        if (wire_ != wire) damaged(name_, "field ", field, " has wire type ", wire_, " instead of ", wire);
    }
    uint64_t varint() {
        uint64_t value = 0;
        for (int shift = 0; shift < 64; shift += 7) {
            const auto b = uint64_t(take(1)[0]);
            if (shift == 63 && b > 1) break;    // more than 64 bits
            value |= (b & 0x7f) << shift;
            if (b < 0x80) return value;
        }
        damaged(name_, "a number is longer than 64 bits");
    }
    std::span<const std::byte> take(uint64_t n) {
        if (n > rest_.size()) damaged(name_, "a field runs past the end of its message");
        const auto head = rest_.first(size_t(n));
        rest_ = rest_.subspan(size_t(n));
        return head;
    }
    std::span<const std::byte> rest_, bytes_;
    const std::string& name_;
    int wire_ = 0;
    uint64_t value_ = 0;
};

}

SentencePiece SentencePiece::load(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    std::error_code error;
    if (!in || !std::filesystem::is_regular_file(path, error))
        fail(Exit::bad_weights, path, ": ", std::filesystem::exists(path, error) ? "cannot be read" : "is missing",
             "; the LLM's folder needs the tokenizer.model that belongs to it");
    std::vector<std::byte> bytes(size_t(std::min<uintmax_t>(std::filesystem::file_size(path, error), kMaxFile + 1)));
    in.read(reinterpret_cast<char*>(bytes.data()), std::streamsize(bytes.size()));
    bytes.resize(size_t(in.gcount()));
    return parse(bytes, path);
}

// sentencepiece_model.proto; fields that do not bear on encoding are skipped.
SentencePiece SentencePiece::parse(std::span<const std::byte> bytes, const std::string& name) {
    if (bytes.size() > kMaxFile) damaged(name, "larger than ", kMaxFile >> 20, " MiB");
    constexpr std::string_view pointer = "version https://git-lfs";
    if (bytes.size() > pointer.size() && std::memcmp(bytes.data(), pointer.data(), pointer.size()) == 0)
        fail(Exit::bad_weights, name, ": a Git LFS pointer, not the file itself; fetch it with `git lfs pull`");
    SentencePiece t;
    t.bytes_.fill(-1);
    int model_type = 1;
    for (Message model(bytes, name); model.next();) {
        if (model.field == 1) t.add_piece(read_piece(model.bytes(), name), name);
        if (model.field == 2)
            for (Message trainer(model.bytes(), name); trainer.next();) {
                if (trainer.field == 3) model_type = trainer.integer();
                if (trainer.field == 24 && trainer.boolean()) unsupported(name, "it writes spaces behind words (treat_whitespace_as_suffix)");
                if (trainer.field == 35) t.byte_fallback_ = trainer.boolean();
                if (trainer.field == 41) t.bos_ = trainer.integer();
                if (trainer.field == 42) t.eos_ = trainer.integer();
            }
        if (model.field == 3)
            for (Message normalizer(model.bytes(), name); normalizer.next();) {
                if (normalizer.field == 2 && !normalizer.bytes().empty()) unsupported(name, "it normalises text by a table (precompiled_charsmap)");
                if (normalizer.field == 3) t.dummy_prefix_ = normalizer.boolean();
                if (normalizer.field == 4) t.trim_spaces_ = normalizer.boolean();
                if (normalizer.field == 5) t.escape_spaces_ = normalizer.boolean();
            }
    }
    if (t.pieces_.empty()) damaged(name, "it holds no pieces");
    if (model_type != 2)
        unsupported(name, "it is a ", model_type == 1 ? "unigram" : model_type == 3 ? "word" : model_type == 4 ? "character" : "non-BPE", " model");
    t.finish(name);
    return t;
}

SentencePiece SentencePiece::build(std::span<const Entry> entries, bool dummy_prefix, int bos, int eos, const std::string& name) {
    SentencePiece t;
    t.bytes_.fill(-1);
    t.dummy_prefix_ = dummy_prefix, t.trim_spaces_ = false, t.bos_ = bos, t.eos_ = eos;
    for (const Entry& e : entries) t.add_piece(e, name);
    if (t.pieces_.empty()) damaged(name, "it holds no pieces");
    t.byte_fallback_ = std::any_of(t.bytes_.begin(), t.bytes_.end(), [](int32_t id) { return id >= 0; });
    t.finish(name);
    return t;
}

void SentencePiece::finish(const std::string& name) {
    if (unknown_ < 0) damaged(name, "it has no unknown piece, as <unk>");
    check_bytes(name);
    for (int* id : {&bos_, &eos_})
        if (*id < 0 || *id >= size() || pieces_[size_t(*id)].kind != Kind::control) *id = -1;
    std::stable_sort(specials_.begin(), specials_.end(), [](const auto& a, const auto& b) { return a.size() > b.size(); });
}

SentencePiece::Entry SentencePiece::read_piece(std::span<const std::byte> message, const std::string& name) {
    Entry e{"", 0, int(Kind::normal)};
    for (Message m(message, name); m.next();) {
        if (m.field == 1) e.text = m.text();
        if (m.field == 2) e.score = m.number();
        if (m.field == 3) e.type = m.integer();
    }
    return e;
}

void SentencePiece::add_piece(const Entry& entry, const std::string& name) {
    const std::string_view text = entry.text;
    if (entry.type < 1 || entry.type > 6) damaged(name, "piece ", pieces_.size(), " has the unknown type ", entry.type);
    Piece piece{"", entry.score, Kind(entry.type)};
    const auto id = int32_t(pieces_.size());
    if (pieces_.size() == kMaxPieces) damaged(name, "more than ", kMaxPieces, " pieces");
    if (text.empty() || text.size() > kMaxPiece) damaged(name, "piece ", id, " is ", text.empty() ? "empty" : "longer than 1024 bytes");
    if (valid_utf8(text) != text) damaged(name, "piece ", id, " is not UTF-8");
    if (!std::isfinite(piece.score)) damaged(name, "the score of piece ", id, " is not a number");
    if (!ids_.emplace(text, id).second) damaged(name, "piece ", id, " is there twice: '", text, "'");
    if (piece.kind == Kind::user_defined || piece.kind == Kind::unused)
        unsupported(name, "piece ", id, " '", text, "' is of the type ", piece.kind == Kind::unused ? "UNUSED" : "USER_DEFINED");
    if (piece.kind == Kind::unknown) {
        if (unknown_ >= 0) damaged(name, "pieces ", unknown_, " and ", id, " are both the unknown piece");
        unknown_ = id;
    }
    if (piece.kind == Kind::unknown || piece.kind == Kind::control) specials_.emplace_back(text);
    else if (piece.kind == Kind::normal) piece.text = replace_all(text, kSpace, " "), longest_ = std::max(longest_, text.size());
    else {
        constexpr std::string_view digits = "0123456789ABCDEF";
        const bool framed = text.size() == 6 && text.starts_with("<0x") && text[5] == '>';
        const size_t high = framed ? digits.find(text[3]) : digits.npos, low = framed ? digits.find(text[4]) : digits.npos;
        if (high == digits.npos || low == digits.npos) damaged(name, "byte piece ", id, " is '", text, "' instead of <0x00> to <0xFF>");
        bytes_[high * 16 + low] = id;
        piece.text = char(high * 16 + low);
    }
    pieces_.push_back(std::move(piece));
}

void SentencePiece::check_bytes(const std::string& name) const {
    const auto missing = std::find(bytes_.begin(), bytes_.end(), -1);
    const bool any = std::any_of(bytes_.begin(), bytes_.end(), [](int32_t id) { return id >= 0; });
    if (byte_fallback_ && missing != bytes_.end()) damaged(name, "it falls back to bytes, but has no piece for byte ", missing - bytes_.begin());
    if (!byte_fallback_ && any) damaged(name, "it has byte pieces, but does not fall back to bytes");
}

int SentencePiece::find(std::string_view text) const {
    if (text.size() > longest_) return -1;
    const auto found = ids_.find(text);
    return found != ids_.end() && pieces_[size_t(found->second)].kind == Kind::normal ? found->second : -1;
}

std::vector<int32_t> SentencePiece::encode(std::string_view text) const {
    std::vector<int32_t> ids;
    const std::string space(escape_spaces_ ? kSpace : " "), clean = valid_utf8(text);
    auto add_segment = [&](std::string_view segment) {
        if (!segment.empty()) append(ids, (dummy_prefix_ ? space : "") + replace_all(segment, " ", space), Rule::fast);
    };
    std::string_view rest = clean;
    for (size_t at = 0; at < rest.size();) {    // cut at the leftmost special, the longest one where several start
        const auto special = std::find_if(specials_.begin(), specials_.end(), [&](const auto& s) { return rest.substr(at).starts_with(s); });
        if (special == specials_.end()) { at++; continue; }
        add_segment(rest.substr(0, at));
        ids.push_back(ids_.find(*special)->second);
        rest.remove_prefix(at + special->size()), at = 0;
    }
    add_segment(rest);
    return ids;
}

std::vector<int32_t> SentencePiece::encode_plain(std::string_view text) const {
    const std::string space(escape_spaces_ ? kSpace : " "), clean = valid_utf8(text);
    std::string_view kept = clean;
    std::string collapsed;
    if (trim_spaces_) {                         // as SentencePiece's Normalizer: no leading and no repeated spaces ...
        bool after_space = true;
        for (char c : clean) {
            if (c != ' ' || !after_space) collapsed += c;
            after_space = c == ' ';
        }
        kept = collapsed;
    }
    std::vector<int32_t> ids;
    if (kept.empty()) return ids;
    std::string normal = (dummy_prefix_ ? space : "") + replace_all(kept, " ", space);
    while (trim_spaces_ && normal.ends_with(space)) normal.resize(normal.size() - space.size());   // ... and no trailing ones
    append(ids, normal, Rule::sentencepiece);
    return ids;
}

// O(n log n): an agenda of all adjacent pairs that form a piece, best first. Joining two symbols adds at most two pairs, so
// there are at most 3n; a pair whose symbols have changed since is recognised by its size and dropped.
//
// Pairs of equal score: SentencePiece takes the leftmost. The fast tokenizer ranks merges beforehand: the longer left side
// first, then the longer right side, then the lower id, and only the same merge from left to right (the order in which its
// converter from SentencePiece sorts them); it also never joins a character that is no piece itself.
void SentencePiece::append(std::vector<int32_t>& ids, const std::string& text, Rule rule) const {
    CHECK(text.size() < size_t(1) << 30, "tokenizer: a text of ", text.size(), " bytes; 1 GiB is the most");
    struct Symbol { uint32_t begin, size, characters; int32_t id, previous, next; };    // size 0: joined to the one on its left
    struct Pair { float score; uint32_t left_characters, right_characters; int32_t id, left; uint32_t size; };
    const bool fast = rule == Rule::fast;
    auto key = [fast](const Pair& p) {
        return fast ? std::tuple(p.score, p.left_characters, p.right_characters, -p.id, -p.left) : std::tuple(p.score, 0u, 0u, 0, -p.left);
    };
    auto worse = [key](const Pair& a, const Pair& b) { return key(a) < key(b); };
    std::priority_queue<Pair, std::vector<Pair>, decltype(worse)> agenda(worse);
    std::vector<Symbol> symbols;
    auto spelling = [&](const Symbol& s) { return std::string_view(text).substr(s.begin, s.size); };
    auto consider = [&](int32_t left, int32_t right) {
        if (left < 0 || right < 0) return;
        const Symbol &l = symbols[size_t(left)], &r = symbols[size_t(right)];
        if (fast && (l.id < 0 || r.id < 0)) return;
        const int id = find(std::string_view(text).substr(l.begin, l.size + r.size));
        if (id >= 0) agenda.push({pieces_[size_t(id)].score, l.characters, r.characters, id, left, l.size + r.size});
    };

    for (size_t at = 0; at < text.size();) {
        const auto n = uint32_t(character(std::string_view(text).substr(at)));
        const auto i = int32_t(symbols.size());
        symbols.push_back({uint32_t(at), n, 1, find(std::string_view(text).substr(at, n)), i - 1, i + 1});
        at += n;
    }
    if (symbols.empty()) return;
    symbols.back().next = -1;
    for (int32_t i = 1; i < int32_t(symbols.size()); i++) consider(i - 1, i);
    while (!agenda.empty()) {
        const Pair pair = agenda.top();
        agenda.pop();
        Symbol& left = symbols[size_t(pair.left)];
        if (left.size == 0 || left.next < 0) continue;
        Symbol& right = symbols[size_t(left.next)];
        if (left.size + right.size != pair.size) continue;
        left = {left.begin, pair.size, left.characters + right.characters, pair.id, left.previous, right.next};
        right.size = 0;
        if (left.next >= 0) symbols[size_t(left.next)].previous = pair.left;
        consider(left.previous, pair.left);
        consider(pair.left, left.next);
    }
    bool after_unknown = false;                 // neighbouring unknown characters are one unknown piece
    for (int32_t i = 0; i >= 0; i = symbols[size_t(i)].next) {
        const Symbol& s = symbols[size_t(i)];
        if (s.id >= 0) ids.push_back(s.id);
        else if (byte_fallback_) for (char c : spelling(s)) ids.push_back(bytes_[static_cast<unsigned char>(c)]);
        else if (!after_unknown) ids.push_back(unknown_);
        after_unknown = s.id < 0;
    }
}

std::string SentencePiece::decode(std::span<const int32_t> ids) const {
    Stream stream(*this);
    std::string text;
    for (int32_t id : ids) text += stream.add(id);
    return text + stream.finish();
}

std::string SentencePiece::Stream::add(int32_t id) {
    if (id < 0 || id >= model_->size()) return "";
    const SentencePiece::Piece& piece = model_->pieces_[size_t(id)];
    if (piece.kind == SentencePiece::Kind::normal) {
        std::string text = end_run();
        return shown(text + piece.text);
    }
    if (piece.kind != SentencePiece::Kind::byte) return "";         // specials are skipped first: bytes around them are one run
    if (broken_) return std::string(kReplacement);
    run_ += piece.text;
    const int n = character(std::string_view(run_).substr(complete_));
    if (n > 0) complete_ += size_t(n);
    if (n != 0) return "";
    std::string text = end_run();                               // broken: the rest of the run cannot change that
    broken_ = true;
    return shown(text);
}

std::string SentencePiece::Stream::finish() {
    std::string text = shown(end_run());
    strip_ = model_->dummy_prefix_;
    return text;
}

std::string SentencePiece::Stream::end_run() {
    std::string text;
    if (complete_ == run_.size()) text = run_;
    else for (size_t i = 0; i < run_.size(); i++) text += kReplacement;
    run_.clear(), complete_ = 0, broken_ = false;
    return text;
}

std::string SentencePiece::Stream::shown(std::string text) {
    if (text.empty()) return text;
    if (strip_ && text[0] == ' ') text.erase(0, 1);
    strip_ = false;
    return text;
}

}
