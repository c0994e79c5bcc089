// Text <-> token ids by byte-level BPE (`tokenizer.json` of LLaMA-3, Qwen2.5, SmolLM2, GPT-2), as the Hugging Face
// tokenizers do it: added tokens are cut out, the rest is normalised and split into words by a fixed pattern, and in each
// word, from its single bytes on, the adjacent pair that stands first in the list of merges is joined until none is left.
#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace merv {

class ByteBpe {
  public:
    // How text is cut before merging. gpt2, llama3 and qwen2 are the published regular expressions; digits: each number
    // character alone; digit_runs: runs of them.
    enum class Split : uint8_t { none, gpt2, llama3, qwen2, digits, digit_runs };
    struct Step { Split split = Split::none; bool prefix_space = false; };
    struct Added { int64_t id; std::string text; bool special = true, strip_left = false, strip_right = false, normalized = false; };

    // What a tokenizer file says. Tokens and merges are spelt in the byte alphabet: a byte is one character, printable
    // ASCII itself, the space U+0120.
    struct Parts {
        std::vector<std::string> tokens = {};                       // by id; empty: none, or only an added one
        std::vector<std::pair<std::string, std::string>> merges = {};       // first come, first joined
        std::vector<Added> added = {};
        std::vector<Step> steps = {};                               // one after the other
        bool nfc = false, ignore_merges = false;                    // ignore_merges: a word that is a token stays whole
        std::string unknown = {};                                   // token for bytes that are none; empty: they are left out
        bool fuse_unknown = false;
        bool adds_bos = false;
        int bos = -1, eos = -1;
    };
    static Parts read(std::string_view json, const std::string& name);      // tokenizer.json; Error(Exit::bad_weights) beginning with `name`
    static ByteBpe build(Parts parts, const std::string& name);             // the same errors

    // Added tokens in the text become their ids. Broken UTF-8: U+FFFD for each broken byte. BOS is the caller's.
    std::vector<int32_t> encode(std::string_view text) const;
    // With skip_special_tokens: always valid UTF-8; ids that are no token decode to nothing.
    std::string decode(std::span<const int32_t> ids) const;

    int size() const { return int(tokens_.size()); }                // ids are below this
    int bos() const { return bos_; }                                // -1: the file names none
    int eos() const { return eos_; }
    bool adds_bos() const { return adds_bos_; }                     // the reference puts BOS before every text

    // Decodes text while it grows; see StreamDecoder. Only the bytes of an unfinished character are held back.
    class Stream {
      public:
        explicit Stream(const ByteBpe& model) : model_(&model) {}
        std::string add(int32_t id);
        std::string finish();

      private:
        const ByteBpe* model_;
        std::string held_;
    };

  private:
    struct Hash : std::hash<std::string_view> { using is_transparent = void; };
    template <class V> using Map = std::unordered_map<std::string, V, Hash, std::equal_to<>>;
    struct Token { std::string bytes; bool special = false; };
    struct Merge { uint64_t pair; int32_t rank, id; };
    struct AddedSet {                           // found leftmost, the longest where several start
        Map<size_t> by_text;                                        // index into added_
        std::array<std::vector<uint32_t>, 256> lengths;             // by first byte, longest first
    };

    void add_merges(const Parts& parts, const Map<int32_t>& spelt, const std::string& name);
    void add_added(const Map<int32_t>& spelt, const std::string& name);
    const Merge* merge(int32_t left, int32_t right) const;
    template <class F> void cut(const AddedSet& set, std::string_view text, std::vector<int32_t>& ids, F&& rest) const;
    void words(std::string_view text, size_t step, std::vector<int32_t>& ids) const;
    void append(std::vector<int32_t>& ids, std::string_view word) const;

    std::vector<Token> tokens_;
    Map<int32_t> ids_;                          // tokens by their bytes
    std::array<int32_t, 256> bytes_;            // tokens of one byte, -1 where there is none
    std::vector<Merge> merges_;                 // sorted by pair
    std::vector<Step> steps_;
    std::vector<Added> added_;
    AddedSet raw_, normalized_;                 // looked for before and after normalising
    bool nfc_ = false, ignore_merges_ = false, fuse_unknown_ = false, adds_bos_ = false;
    int unknown_ = -1, bos_ = -1, eos_ = -1;
};

// Bytes of the first word of `text`, which is valid UTF-8 and not empty, as the pattern cuts it.
size_t word_length(ByteBpe::Split split, std::string_view text);

}
