// Text <-> token ids, by whichever kind of tokenizer the language model came with: SentencePiece (`tokenizer.model`) or
// byte-level BPE (`tokenizer.json`). Ids and texts equal those of the fast Hugging Face tokenizers.
#pragma once
#include <variant>
#include "models/byte_bpe.h"
#include "models/sentencepiece.h"

namespace merv {

class Tokenizer {
  public:
    Tokenizer() = default;
    Tokenizer(SentencePiece model) : model_(std::move(model)) {}
    Tokenizer(ByteBpe model) : model_(std::move(model)) {}
    // Reads `tokenizer.json` (a name that ends in .json) or `tokenizer.model`. Throws Error(Exit::bad_weights), "<path>: what; what to do".
    static Tokenizer load(const std::string& path);

    std::vector<int32_t> encode(std::string_view text) const { return std::visit([&](const auto& m) { return m.encode(text); }, model_); }     // without BOS
    std::string decode(std::span<const int32_t> ids) const { return std::visit([&](const auto& m) { return m.decode(ids); }, model_); }
    int size() const { return std::visit([](const auto& m) { return m.size(); }, model_); }         // ids are below this
    int bos() const { return std::visit([](const auto& m) { return m.bos(); }, model_); }           // -1: not named, here and below
    int eos() const { return std::visit([](const auto& m) { return m.eos(); }, model_); }
    bool adds_bos() const {                     // a text begins with BOS, which is the caller's to add
        const ByteBpe* bpe = std::get_if<ByteBpe>(&model_);
        return !bpe || bpe->adds_bos();
    }

  private:
    friend class StreamDecoder;
    std::variant<SentencePiece, ByteBpe> model_;
};

// Decodes text while it grows. add() returns what is certain now, finish() the rest, ready for the next text afterwards; all
// of it in order is decode() of all ids. The tokenizer must outlive it.
class StreamDecoder {
  public:
    explicit StreamDecoder(const Tokenizer& t) : stream_(std::visit([](const auto& m) { return Stream(typename std::decay_t<decltype(m)>::Stream(m)); }, t.model_)) {}
    std::string add(int32_t id) { return std::visit([&](auto& s) { return s.add(id); }, stream_); }
    std::string finish() { return std::visit([](auto& s) { return s.finish(); }, stream_); }

  private:
    using Stream = std::variant<SentencePiece::Stream, ByteBpe::Stream>;
    Stream stream_;
};

}
