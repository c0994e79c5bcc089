// Text <-> token ids by SentencePiece BPE (`tokenizer.model` of LLaMA, LLaMA-2 and Vicuna).
//
// BPE starts from single characters and keeps joining the adjacent pair whose joined text is the piece of the highest
// score, until no two neighbours form a piece. A space is the character U+2581; a character that is no piece becomes its
// UTF-8 bytes, one byte piece each. The reference tokenises with Hugging Face's *fast* LLaMA tokenizer, so encode and
// decode equal that one; where it and SentencePiece differ is said at each function. Neither adds BOS: that is the caller's.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace merv {

class SentencePiece {
  public:
    // Reads `tokenizer.model`. Throws Error(Exit::bad_weights), "<path>: what is wrong; what to do".
    static SentencePiece load(const std::string& path);
    // The same from bytes that may hold anything; `name` stands for the path in messages.
    static SentencePiece parse(std::span<const std::byte> bytes, const std::string& name);

    // From pieces that another kind of file lists (GGUF); `type` as in tokenizer.model.
    struct Entry { std::string_view text; float score; int type; };
    static SentencePiece build(std::span<const Entry> entries, bool dummy_prefix, int bos, int eos, const std::string& name);

    // As the fast tokenizer: the text of a control piece (`<s>`, `</s>`, `<unk>`) becomes its id, and each stretch of text
    // between them gets a dummy prefix (a leading space) of its own. Broken UTF-8: U+FFFD for each broken byte.
    std::vector<int32_t> encode(std::string_view text) const;
    // As SentencePiece: control pieces are ordinary text, and extra spaces go if the model says so (LLaMA's does not).
    std::vector<int32_t> encode_plain(std::string_view text) const;
    // As the fast tokenizer with skip_special_tokens: always valid UTF-8. Control pieces, and ids that are no piece (a
    // model may have more rows than its tokenizer has pieces), decode to nothing.
    std::string decode(std::span<const int32_t> ids) const;

    int size() const { return int(pieces_.size()); }        // pieces
    int bos() const { return bos_; }                        // -1: the model has none
    int eos() const { return eos_; }                        // -1: the model has none
    int unknown() const { return unknown_; }

    // Decodes text while it grows; see StreamDecoder. Only runs of byte pieces are held back: one bad byte turns its whole
    // run into U+FFFD, so a run shows when it ends or breaks.
    class Stream {
      public:
        explicit Stream(const SentencePiece& model) : model_(&model), strip_(model.dummy_prefix_) {}
        std::string add(int32_t id);
        std::string finish();

      private:
        std::string end_run();                  // the held-back bytes as text
        std::string shown(std::string text);    // without the dummy prefix
        const SentencePiece* model_;
        std::string run_;                       // bytes of a run that may still turn out valid
        size_t complete_ = 0;                   // of these, bytes in complete characters
        bool broken_ = false;                   // the run is known to be invalid
        bool strip_;                            // the next text is the first, and its leading space is the dummy prefix
    };

  private:
    enum class Kind : uint8_t { normal = 1, unknown, control, user_defined, unused, byte };     // as in the file
    enum class Rule { fast, sentencepiece };                // who decides between pairs of equal score
    struct Piece {
        std::string text;                                   // what it decodes to: U+2581 is a space, a byte piece its byte
        float score;
        Kind kind;
    };
    struct Hash : std::hash<std::string_view> { using is_transparent = void; };

    static Entry read_piece(std::span<const std::byte> message, const std::string& name);
    void add_piece(const Entry& entry, const std::string& name);
    void finish(const std::string& name);
    void check_bytes(const std::string& name) const;
    int find(std::string_view text) const;                  // the normal piece spelt so, or -1
    void append(std::vector<int32_t>& ids, const std::string& text, Rule rule) const;

    std::vector<Piece> pieces_;
    std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> ids_;   // of every piece, as spelt in the file
    std::vector<std::string> specials_;                     // control and unknown pieces, longest first
    std::array<int32_t, 256> bytes_;                        // ids of the byte pieces, -1 where there is none
    size_t longest_ = 0;                                    // bytes of the longest piece
    int bos_ = 1, eos_ = 2, unknown_ = -1;
    bool byte_fallback_ = false, dummy_prefix_ = true, trim_spaces_ = true, escape_spaces_ = true;
};

}
