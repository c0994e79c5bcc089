// tokenizer: ids and texts equal SentencePiece's and the fast Hugging Face tokenizer's (tests/golden/tokenizer.py), text
// streams as it grows, and no file, however broken, does worse than one clear error.
#include "tests/test.h"
#include <bit>
#include <cmath>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include "core/log.h"
#include "core/rng.h"
#include "models/sentencepiece.h"

using namespace merv;
using json = nlohmann::json;
using Ids = std::vector<int32_t>;

namespace {

std::string slurp(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    REQUIRE(in.good());
    return {std::istreambuf_iterator<char>(in), {}};
}
json read_json(const std::string& path) { return json::parse(slurp(path)); }
SentencePiece parse(const std::string& bytes) { return SentencePiece::parse(std::as_bytes(std::span(bytes)), "t.model"); }
const std::string kTok512 = "merv-tiny/llm/tokenizer.model";

// Writes a model: nested messages are strings.
struct Proto {
    std::string bytes;
    static std::string varint(uint64_t v) {
        std::string out;
        for (; v >= 0x80; v >>= 7) out += char(v | 0x80);
        return out + char(v);
    }
    Proto& number(int field, int64_t v) { bytes.append(varint(uint64_t(field) << 3)).append(varint(uint64_t(v))); return *this; }
    Proto& text(int field, const std::string& v) { bytes.append(varint(uint64_t(field) << 3 | 2)).append(varint(v.size())).append(v); return *this; }
    Proto& real(int field, float v) {
        bytes += varint(uint64_t(field) << 3 | 5);
        for (int i = 0; i < 4; i++) bytes += char(std::bit_cast<uint32_t>(v) >> 8 * i);
        return *this;
    }
};
std::string piece(const std::string& text, float score, int type) { return Proto().text(1, text).real(2, score).number(3, type).bytes; }
std::string model_of(const std::vector<std::string>& pieces, const std::string& trainer, const std::string& normalizer = "") {
    Proto p;
    for (const auto& m : pieces) p.text(1, m);
    return p.text(2, trainer).text(3, normalizer).bytes;
}
const std::string kUnk = piece("<unk>", 0, 2), kA = piece("a", 0, 1), kBpe = Proto().number(3, 2).bytes;

std::string error_of(const std::string& bytes) {
    try { parse(bytes); } catch (const Error& e) { EXPECT(e.code == Exit::bad_weights); return e.what(); }
    return "";
}

}

TEST_CASE("tokenizer: tok512 encodes as SentencePiece and as the fast tokenizer") {
    const SentencePiece t = SentencePiece::load(test::golden(kTok512));
    EXPECT_EQ(t.size(), 512);
    EXPECT_EQ(t.unknown(), 0);
    EXPECT_EQ(t.bos(), 1);
    EXPECT_EQ(t.eos(), 2);
    const json golden = read_json(test::golden("tokenizer_tok512.json"));
    for (const auto& c : golden["encode"]) {
        const auto text = c["text"].get<std::string>();
        CAPTURE(text);
        EXPECT(t.encode(text) == c["fast"].get<Ids>());
        EXPECT(t.encode_plain(text) == c["sp"].get<Ids>());
    }
}

TEST_CASE("tokenizer: broken UTF-8 becomes U+FFFD, byte by byte") {
    const SentencePiece t = SentencePiece::load(test::golden(kTok512));
    const json golden = read_json(test::golden("tokenizer_tok512.json"));
    for (const auto& c : golden["broken"]) {
        const auto hex = c["hex"].get<std::string>();
        std::string bytes;
        for (size_t i = 0; i < hex.size(); i += 2) bytes += char(std::stoi(hex.substr(i, 2), nullptr, 16));
        CAPTURE(hex);
        EXPECT(t.encode_plain(bytes) == c["sp"].get<Ids>());
        EXPECT(t.encode(bytes) == t.encode(valid_utf8(bytes)));
    }
}

TEST_CASE("tokenizer: ids decode as the fast tokenizer decodes them") {
    const SentencePiece t = SentencePiece::load(test::golden(kTok512));
    const json golden = read_json(test::golden("tokenizer_tok512.json"));
    for (const auto& c : golden["decode"]) {
        CAPTURE(c.dump());
        EXPECT_EQ(t.decode(c["ids"].get<Ids>()), c["text"].get<std::string>());
    }
    EXPECT_EQ(t.decode(Ids{-1, 512, 575, INT32_MAX, INT32_MIN}), "");
}

TEST_CASE("tokenizer: ties and settings, on small models full of equal scores") {
    const json golden = read_json(test::golden("tokenizer_small.json"));
    int differ = 0;                             // the two rules must be told apart by something
    for (const auto& m : golden) {
        const auto base64 = m["model"].get<std::string>();
        std::string bytes;
        uint32_t bits = 0;
        int n = 0;
        for (char c : base64) {
            if (c == '=') break;
            bits = bits << 6 | uint32_t(std::string_view("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/").find(c));
            if ((n += 6) >= 8) n -= 8, bytes += char(bits >> n);
        }
        const SentencePiece t = parse(bytes);
        for (const auto& c : m["encode"]) {
            const auto text = c["text"].get<std::string>();
            CAPTURE(text);
            EXPECT(t.encode_plain(text) == c["sp"].get<Ids>());
            if (c.contains("fast")) EXPECT(t.encode(text) == c["fast"].get<Ids>());
            differ += c.contains("fast") && c["fast"] != c["sp"];
        }
    }
    EXPECT_GT(differ, 20);
}

TEST_CASE("tokenizer: LLaMA-2, 637 texts") {
    const std::string model = test::shared("data/llm/tokenizer.model"), vectors = test::shared("data/vectors/tokenizer_llama2_llama3.json");
    if (model.empty() || vectors.empty()) return;
    const SentencePiece t = SentencePiece::load(model);
    EXPECT_EQ(t.size(), 32000);
    int cases = 0;
    for (const auto& c : read_json(vectors)) {
        const auto text = c["text"].get<std::string>();
        const Ids fast = c["hf_fast_ids_with_bos"].get<Ids>();
        Ids ours = t.encode(text);
        ours.insert(ours.begin(), t.bos());
        CAPTURE(text);
        EXPECT(ours == fast);
        EXPECT(t.encode_plain(text) == c["sp_ids"].get<Ids>());
        EXPECT_EQ(t.decode(fast), c["hf_fast_decoded_skip_special"].get<std::string>());
        cases++;
    }
    EXPECT_EQ(cases, 637);
}

TEST_CASE("tokenizer: LLaMA-2, llama.cpp's vocabulary tests") {
    const std::string model = test::shared("data/llm/tokenizer.model"), inputs = test::shared("data/vocab/ggml-vocab-llama-spm.gguf.inp");
    if (model.empty() || inputs.empty()) return;
    const SentencePiece t = SentencePiece::load(model);
    const std::string all = slurp(inputs), mark = "\n__ggml_vocab_test__\n";
    std::ifstream expected(test::shared("data/vocab/ggml-vocab-llama-spm.gguf.out"));
    int cases = 0;
    for (size_t at = 0, end; (end = all.find(mark, at)) != all.npos; at = end + mark.size(), cases++) {
        std::string line;
        REQUIRE(std::getline(expected, line));
        std::istringstream numbers(line);
        const Ids want{std::istream_iterator<int32_t>(numbers), {}};
        const std::string text = all.substr(at, end - at);
        CAPTURE(text);
        EXPECT(t.encode_plain(text) == want);
    }
    EXPECT_EQ(cases, 46);
}

TEST_CASE("tokenizer: a stream gives decode's text and holds back only what is uncertain") {
    const SentencePiece t = SentencePiece::load(test::golden(kTok512));
    const Rng rng(7, "test ids");
    for (uint64_t round = 0, draw = 0; round < 2000; round++) {
        Ids ids;
        const uint64_t length = rng.bits(draw++)[0] % 12;
        for (uint64_t i = 0; i < length; i++) {
            const auto b = rng.bits(draw++);
            const std::string smile = "\xF0\x9F\x98\x80";
            if (b[0] % 4 == 0) for (char c : smile.substr(b[1] % 2, 1 + b[2] % 4)) ids.push_back(3 + static_cast<unsigned char>(c));
            else ids.push_back(b[0] % 4 == 1 ? 3 + int32_t(b[1] % 256) : int32_t(b[1] % 520));
        }
        SentencePiece::Stream stream(t);
        std::string text;
        bool pending = false;                   // the last visible piece was a byte
        for (size_t i = 0; i < ids.size(); i++) {
            text += stream.add(ids[i]);
            if (ids[i] >= 3 && ids[i] < 512) pending = ids[i] < 259;
            const std::string whole = t.decode(std::span(ids).first(i + 1));
            EXPECT(valid_utf8(text) == text);
            if (!pending) EXPECT_EQ(text, whole);
        }
        EXPECT_EQ(text + stream.finish(), t.decode(ids));
        EXPECT_EQ(stream.finish(), "");
    }
}

TEST_CASE("tokenizer: a byte run streams when it ends or breaks") {
    const SentencePiece t = SentencePiece::load(test::golden(kTok512));
    auto streamed = [&](const Ids& ids) {
        SentencePiece::Stream s(t);
        std::vector<std::string> out;
        for (int32_t id : ids) out.push_back(s.add(id));
        out.push_back(s.finish());
        return out;
    };
    using Texts = std::vector<std::string>;
    const int32_t b = 3, letter = t.encode("a").back();         // b: the id of byte 0
    const std::string a = t.decode(Ids{b + 'x', letter}).substr(1), bad = "\xEF\xBF\xBD";
    EXPECT(streamed({b + 0xc3, b + 0xa9, letter}) == Texts{"", "", "\xC3\xA9" + a, ""});
    EXPECT(streamed({b + 0xc3, b + 0xa9}) == Texts{"", "", "\xC3\xA9"});
    EXPECT(streamed({b + 0xc3, b + 0xa9, b + 0xff, b + 'x', letter}) == Texts{"", "", bad + bad + bad, bad, a, ""});
    EXPECT(streamed({b + 0xc3, t.eos(), 600, b + 0xa9}) == Texts{"", "", "", "", "\xC3\xA9"});
    EXPECT(streamed({b + 0xe2, b + 0x82}) == Texts{"", "", bad + bad});
    SentencePiece::Stream again(t);
    const int32_t space = t.encode("a").front();                // starts with the dummy prefix
    const std::string first = again.add(space) + again.finish();
    EXPECT_EQ(again.add(space) + again.finish(), first);         // finish() starts anew
}

TEST_CASE("tokenizer: a megabyte of text") {              // in quadratic time this would take an hour
    const SentencePiece t = SentencePiece::load(test::golden(kTok512));
    std::string words;
    while (words.size() < 1 << 20) words += "once upon a time there was a girl named Lily ";
    const Ids ids = t.encode(words);
    const Ids spaces = t.encode(std::string(1 << 20, ' '));
    EXPECT_EQ(t.decode(ids), words);
    EXPECT_EQ(spaces.size(), (1 << 20) + 1);                    // tok512 has no piece of two spaces
}

TEST_CASE("tokenizer: settings of the model are honoured") {
    const std::vector<std::string> pieces = {kUnk, kA, piece("\u2581", 0, 1), piece("\u2581a", 0, 1), piece(" ", 0, 1)};
    EXPECT(parse(model_of(pieces, kBpe)).encode("a a") == Ids{3, 3});
    EXPECT(parse(model_of(pieces, kBpe, Proto().number(3, 0).bytes)).encode("a a") == Ids{1, 3});                  // no dummy prefix
    EXPECT_EQ(parse(model_of(pieces, kBpe, Proto().number(3, 0).bytes)).decode(Ids{3, 3}), " a a");
    EXPECT(parse(model_of(pieces, kBpe, Proto().number(5, 0).bytes)).encode("a a") == Ids{4, 1, 4, 1});            // spaces stay spaces
    EXPECT(parse(model_of(pieces, kBpe)).encode_plain("  a  ") == Ids{3});                                         // extra ones go ...
    EXPECT(parse(model_of(pieces, kBpe, Proto().number(4, 0).bytes)).encode_plain("  a  ") == Ids{2, 2, 3, 2, 2}); // ... or stay
    EXPECT(parse(model_of(pieces, kBpe)).encode("zza") == Ids{2, 0, 1});                                           // no bytes to fall back to
    EXPECT_EQ(parse(model_of(pieces, kBpe)).bos(), -1);                                                            // id 1 is no control piece
    EXPECT(parse(model_of({kUnk, piece("<s>", 0, 3), piece("<s>>", 0, 3), kA}, kBpe)).encode("a<s>>a<s>") == Ids{0, 3, 2, 0, 3, 1});
}

TEST_CASE("tokenizer: models that are not supported are named") {
    auto with = [](const std::string& trainer, const std::string& normalizer = "", const std::string& extra = kA) {
        return error_of(model_of({kUnk, extra}, trainer, normalizer));
    };
    EXPECT_EQ(with(kBpe), "");
    EXPECT_EQ(with(""), "t.model: it is a unigram model, which is not supported; use the SentencePiece BPE tokenizer.model of LLaMA, LLaMA-2 or Vicuna");
    EXPECT_NE(with(Proto().number(3, 3).bytes).find("it is a word model"), std::string::npos);
    EXPECT_NE(with(kBpe, Proto().text(2, "x").bytes).find("precompiled_charsmap"), std::string::npos);
    EXPECT_NE(with(kBpe + Proto().number(24, 1).bytes).find("treat_whitespace_as_suffix"), std::string::npos);
    EXPECT_NE(with(kBpe, "", piece("a", 0, 4)).find("piece 1 'a' is of the type USER_DEFINED"), std::string::npos);
    EXPECT_NE(with(kBpe, "", piece("a", 0, 5)).find("UNUSED"), std::string::npos);
    EXPECT_EQ(error_of("version https://git-lfs.github.com/spec/v1\noid"), "t.model: a Git LFS pointer, not the file itself; fetch it with `git lfs pull`");
}

TEST_CASE("tokenizer: damaged models are told") {
    auto says = [](const std::string& bytes, const char* what) {
        const std::string message = error_of(bytes);
        EXPECT_MESSAGE(message.find(what) != std::string::npos, message);
        EXPECT_MESSAGE(message.find("t.model: not a SentencePiece model (") == 0, message);
    };
    auto of = [](const std::vector<std::string>& pieces, const std::string& trainer = kBpe) { return model_of(pieces, trainer); };
    says("", "no pieces");
    says("IQ== 0\nIg== 1\n", "");
    says(of({kA}), "no unknown piece");
    says(of({kUnk, piece("<u>", 0, 2)}), "pieces 0 and 1 are both the unknown piece");
    says(of({kUnk, kA, kA}), "piece 2 is there twice: 'a'");
    says(of({kUnk, piece("", 0, 1)}), "piece 1 is empty");
    says(of({kUnk, piece(std::string(1025, 'a'), 0, 1)}), "longer than 1024 bytes");
    says(of({kUnk, piece("\xff", 0, 1)}), "piece 1 is not UTF-8");
    says(of({kUnk, piece("a", NAN, 1)}), "score of piece 1");
    says(of({kUnk, piece("a", -INFINITY, 1)}), "score of piece 1");
    says(of({kUnk, piece("a", 0, 7)}), "unknown type 7");
    says(of({kUnk, piece("a", 0, -1)}), "unknown type -1");
    says(of({kUnk, piece("<0xGG>", 0, 6)}), "byte piece 1 is '<0xGG>'");
    says(of({kUnk, piece("<0x0a>", 0, 6)}), "byte piece 1 is '<0x0a>'");
    says(of({kUnk, piece("<0x00>", 0, 6)}), "does not fall back to bytes");
    says(of({kUnk, piece("<0x00>", 0, 6)}, Proto().number(3, 2).number(35, 1).bytes), "no piece for byte 1");
    says(Proto().number(1, 5).bytes, "field 1 has wire type 0 instead of 2");
    says("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "past the end");           // a length of 2^63
    says(std::string("\x0a") + std::string(9, '\xff') + "\x02", "longer than 64 bits");
    says(std::string("\x00\x01", 2), "no valid number");
    says("\x0b", "unknown wire type 3");
    says("\x0d\x01\x02", "past the end");
}

TEST_CASE("tokenizer: every cut and every flipped byte of a model is an error or a tokenizer") {
    const std::string whole = slurp(test::golden(kTok512));
    EXPECT_EQ(error_of(whole), "");
    const Rng rng(7, "flips");
    int rejected = 0;
    for (uint64_t i = 0; i < 1500; i++) {
        std::string bytes = whole;
        const auto b = rng.bits(i);
        if (i % 3 == 0) bytes.resize(b[0] % bytes.size());
        else bytes[b[0] % bytes.size()] = char(b[1]);
        try {
            const SentencePiece t = parse(bytes);
            const std::string text = t.decode(t.encode("Once upon <s> a time \xff"));
            EXPECT(valid_utf8(text) == text);
        } catch (const Error& e) {
            EXPECT(e.code == Exit::bad_weights);
            rejected++;
        }
    }
    EXPECT_GT(rejected, 500);
}

TEST_CASE("tokenizer: a file that is absent or a folder is told") {
    test::TempDir dir;
    EXPECT_THROWS_WITH_AS(SentencePiece::load(dir / "tokenizer.model"), doctest::Contains("tokenizer.model: is missing; the LLM's folder needs"), Error);
    EXPECT_THROWS_WITH_AS(SentencePiece::load(dir.path.string()), doctest::Contains("cannot be read"), Error);
}
