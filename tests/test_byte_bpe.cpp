// byte-level BPE: ids and texts equal those of Hugging Face's tokenizers (tests/golden/byte_bpe.py), text streams as it grows,
// and no tokenizer.json, however broken, does worse than one clear error.
#include "tests/test.h"
#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include "core/json.h"
#include "core/log.h"
#include "core/rng.h"
#include "models/tokenizer.h"
#include "models/unicode.h"

using namespace merv;
using Ids = std::vector<int32_t>;

namespace {

const char* const kKinds[] = {"llama3", "qwen2.5", "smollm2"};
std::string file_of(const std::string& kind) { return test::golden("tokenizers/" + kind + ".json"); }
ByteBpe load(const std::string& kind) { return ByteBpe::build(ByteBpe::read(read_text(file_of(kind)), kind), kind); }
ByteBpe parse(const std::string& text) { return ByteBpe::build(ByteBpe::read(text, "t.json"), "t.json"); }
const Json& golden() {
    static const Json all = read_json(test::golden("tokenizer_bpe.json"));
    return all;
}

// A tokenizer of the letters a, b, c and the space, to be made wrong.
Json small() {
    return Json::parse(R"({"added_tokens": [{"id": 6, "content": "<x>", "special": true}], "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false}, "decoder": {"type": "ByteLevel"}, "post_processor": null,
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "Ġ": 3, "ab": 4, "abc": 5}, "merges": ["a b", "ab c"]}})");
}
std::string error_of(const std::string& text) {
    try { parse(text); } catch (const Error& e) { EXPECT(e.code == Exit::bad_weights); return e.what(); }
    return "";
}
// The message after one place of small() was changed (null: removed).
std::string with(const char* pointer, const Json& value) {
    Json j = small();
    j[Json::json_pointer(pointer)] = value;
    return error_of(j.dump());
}

}

TEST_CASE("byte bpe: the pipelines of LLaMA-3, Qwen2.5 and SmolLM2 encode as Hugging Face's") {
    for (const char* kind : kKinds) {
        const ByteBpe t = load(kind);
        int cases = 0;
        for (const Json& c : golden()["encode"]) {
            const auto text = c["text"].get<std::string>();
            CAPTURE(kind);
            CAPTURE(text);
            EXPECT_EQ(Json(t.encode(text)).dump(), c[kind].dump());
            cases++;
        }
        EXPECT_GT(cases, 300);
        EXPECT_EQ(t.adds_bos(), std::string(kind) == "llama3");
        EXPECT_EQ(t.bos(), std::string(kind) == "llama3" ? 1000 : -1);
    }
}

TEST_CASE("byte bpe: ids decode as Hugging Face decodes them, at once and as a stream") {
    for (const char* kind : kKinds) {
        const ByteBpe t = load(kind);
        for (const Json& c : golden()["decode"]) {
            if (c["kind"] != kind) continue;
            CAPTURE(c.dump());
            const Ids ids = c["ids"].get<Ids>();
            EXPECT_EQ(t.decode(ids), c["text"].get<std::string>());
            std::string text;
            ByteBpe::Stream stream(t);
            for (int32_t id : ids) {
                text += stream.add(id);
                EXPECT(valid_utf8(text) == text);
            }
            EXPECT_EQ(text + stream.finish(), c["text"].get<std::string>());
            EXPECT_EQ(stream.finish(), "");
        }
        for (const Json& c : golden()["encode"]) {
            const auto text = c["text"].get<std::string>();
            if (text.find('<') == text.npos && std::string(kind) != "qwen2.5") EXPECT_EQ(t.decode(t.encode(text)), text);
        }
        EXPECT_EQ(t.decode(Ids{-1, t.size(), INT32_MAX, INT32_MIN}), "");
    }
}

TEST_CASE("byte bpe: a stream holds back only an unfinished character") {
    const ByteBpe t = load("smollm2");
    const Ids smile = t.encode("\U0001F9FF");
    REQUIRE(smile.size() > 1);
    ByteBpe::Stream s(t);
    std::string held;
    for (size_t i = 0; i + 1 < smile.size(); i++) held += s.add(smile[i]);
    EXPECT_EQ(held, "");
    EXPECT_EQ(s.add(smile.back()), "\U0001F9FF");
    EXPECT_EQ(s.add(smile[0]), "");
    EXPECT_EQ(s.add(t.encode("a")[0]), "\xEF\xBF\xBD" "a");                          // broken: one U+FFFD, then what follows
    EXPECT_EQ(s.add(smile[0]), "");
    EXPECT_EQ(s.finish(), "\xEF\xBF\xBD");
    EXPECT_EQ(s.finish(), "");
    EXPECT_EQ(s.add(2), "");                                                         // a special token shows nothing
}

TEST_CASE("byte bpe: settings the published tokenizers do not use, on tiny ones") {
    int cases = 0;
    for (const Json& tiny : golden()["tiny"]) {
        const ByteBpe t = parse(tiny["tokenizer"].dump());
        for (const Json& c : tiny["cases"]) {
            CAPTURE(tiny["tokenizer"].dump());
            CAPTURE(c.dump());
            EXPECT_EQ(Json(t.encode(c["text"].get<std::string>())).dump(), c["ids"].dump());
            cases++;
        }
    }
    EXPECT_GT(cases, 300);
}

TEST_CASE("byte bpe: broken UTF-8 becomes U+FFFD, byte by byte") {
    for (const char* kind : kKinds) {
        const ByteBpe t = load(kind);
        for (const std::string bytes : {"\xff", "a\xff\xfe z", "\xe2\x82", "\xed\xa0\x80", "\xc0\xaf", "\xf4\x90\x80\x80", "caf\xc3\xa9\xc3", "<|im_end|>\x80"})
            EXPECT(t.encode(bytes) == t.encode(valid_utf8(bytes)));
    }
}

TEST_CASE("byte bpe: the real LLaMA-3 tokenizer, 637 texts") {
    const char* path = std::getenv("MERV_LLAMA3_TOKENIZER");
    if (!path) return test::skip("MERV_LLAMA3_TOKENIZER, LLaMA-3's tokenizer.json, is not set");
    const std::string vectors = test::shared("data/vectors/tokenizer_llama2_llama3.json");
    if (vectors.empty()) return;
    const Tokenizer t = Tokenizer::load(path);
    EXPECT_EQ(t.size(), 128256);
    for (const Json& c : read_json(vectors)) {
        Ids ids = t.encode(c["text"].get<std::string>());
        ids.insert(ids.begin(), t.bos());
        CAPTURE(c["text"].dump());
        EXPECT_EQ(Json(ids).dump(), c["llama3_ids_with_bos"].dump());
    }
}

TEST_CASE("byte bpe: long texts without quadratic behaviour") {
    for (const char* kind : kKinds) {
        const ByteBpe t = load(kind);
        std::string marks, sentences;
        for (int i = 0; i < 200'000; i++) marks += i % 2 ? "\u0301" : "\u0316";
        while (sentences.size() < 1 << 20) sentences += "once upon a time there was a girl named Lily, aged 12, who didn't\n";
        for (const std::string& text : {std::string(1 << 20, 'a'), std::string(1 << 20, ' '), std::string(1 << 20, '1'), std::string(1 << 20, '\n'), std::string(1 << 20, '<'), marks, sentences})
            EXPECT_FALSE(t.encode(text).empty());
        EXPECT_EQ(t.decode(t.encode(sentences)), sentences);
    }
}

TEST_CASE("unicode: NFC") {
    EXPECT_EQ(unicode::nfc("e\u0301 A\u030a \u212b"), "\u00e9 \u00c5 \u00c5");
    EXPECT_EQ(unicode::nfc("q\u0307\u0323"), "q\u0323\u0307");                       // marks in the order of their classes
    EXPECT_EQ(unicode::nfc("\u1112\u1161\u11ab\uac00\u11a8"), "\ud55c\uac01");       // Hangul
    EXPECT_EQ(unicode::nfc("\u0958\ufb1d\u0344"), "\u0915\u093c\u05d9\u05b4\u0308\u0301");     // excluded from composition
    EXPECT_EQ(unicode::nfc("\u0301\u0301a\0"), "\u0301\u0301a");
    EXPECT_EQ(unicode::nfc(""), "");
}

TEST_CASE("byte bpe: tokenizers that are not supported are named") {
    EXPECT_EQ(error_of(small().dump()), "");
    EXPECT(parse(small().dump()).encode("abc<x> cab") == Ids{5, 6, 3, 2, 4});
    auto says = [](const std::string& message, const char* what) {
        EXPECT_MESSAGE(message.find(what) != std::string::npos, message);
        EXPECT_MESSAGE(message.find("not supported") != std::string::npos, message);
    };
    says(with("/model/type", "Unigram"), "t.json: its model is Unigram, which is not supported; the byte-level BPE of LLaMA-3, Qwen2.5, SmolLM2 and GPT-2 is");
    says(with("/model/byte_fallback", true), "byte_fallback; use its tokenizer.model");
    says(with("/model/end_of_word_suffix", "</w>"), "it has a end_of_word_suffix");
    says(with("/model/dropout", 0.1), "drops merges at random");
    says(with("/normalizer", Json{{"type", "Lowercase"}}), "its normalizer is Lowercase");
    says(with("/pre_tokenizer", nullptr), "has no ByteLevel");
    says(with("/pre_tokenizer", Json{{"type", "Metaspace"}}), "its pre_tokenizer is Metaspace");
    says(with("/pre_tokenizer", Json{{"type", "Split"}, {"pattern", {{"Regex", "\\w+"}}}, {"behavior", "Isolated"}}), "splits by '\\w+'");
    says(with("/pre_tokenizer", Json{{"type", "Split"}, {"pattern", {{"String", " "}}}, {"behavior", "Removed"}}), "Split is not Isolated");
    says(with("/decoder", Json{{"type", "WordPiece"}}), "its decoder is WordPiece");
    says(with("/decoder", nullptr), "its decoder is none");
    says(with("/post_processor", Json{{"type", "BertProcessing"}}), "its post_processor is BertProcessing");
    says(with("/added_tokens/0/single_word", true), "whole word");
    EXPECT_EQ(error_of("version https://git-lfs.github.com/spec/v1\noid"), "t.json: a Git LFS pointer, not the file itself; fetch it with `git lfs pull`");
}

TEST_CASE("byte bpe: damaged tokenizers are told") {
    auto says = [](const std::string& message, const char* what) {
        EXPECT_MESSAGE(message.find(what) != std::string::npos, message);
        EXPECT_MESSAGE(message.find("t.json: not a tokenizer that can be used (") == 0, message);
    };
    says(error_of("[]"), "the file is no object");
    says(error_of("{}"), "it has no model");
    says(with("/model/vocab", nullptr), "model.vocab, the tokens and their ids, is missing");
    says(with("/model/vocab", Json::object()), "model.vocab");
    says(with("/model/merges", nullptr), "model.merges, the list of merges, is missing");
    says(with("/model/merges", "a b"), "model.merges");
    says(with("/model/merges/0", "ab"), "merge 0 'ab' is not two tokens and a space");
    says(with("/model/merges/0", "a b c"), "is not two tokens and a space");
    says(with("/model/merges/0", 5), "merge 0 is neither");
    says(with("/model/merges/0", Json{"a"}), "merge 0 is neither");
    says(with("/model/merges/1", "ab z"), "merge 1 'ab z': 'z' is no token");
    says(with("/model/merges/1", "b c"), "merge 1 'b c': 'bc' is no token");
    says(with("/model/vocab/b", 0), "'a' and 'b' both have the id 0");
    says(with("/model/vocab/b", -1), "the id of 'b' is -1");
    says(with("/model/vocab/b", 1 << 30), "the id of 'b' is 1073741824, with 7 tokens");        // nothing that large is made
    says(with("/model/vocab/b", 1.5), "the id of 'b' is no whole number");
    says(with("/model/vocab/b", "1"), "the id of 'b' is no whole number");
    says(with("/model/unk_token", "<unk>"), "its unknown token '<unk>' is no token");
    says(with("/model/fuse_unk", 1), "fuse_unk is not true or false");
    says(with("/added_tokens", 1), "added_tokens is no list");
    says(with("/added_tokens/0", "x"), "an added token is no object");
    says(with("/added_tokens/0/id", nullptr), "the added token '<x>' has no id");
    says(with("/added_tokens/0/id", 2), "the added token '<x>' has the id 2, which belongs to another token");
    says(with("/added_tokens/0/content", "a"), "the added token 'a' has the id 6, which belongs to another token");
    says(with("/added_tokens/0/content", ""), "the added token 6 is no text");
    says(with("/added_tokens/1", Json{{"id", 7}, {"content", "<x>"}, {"special", true}}), "the added token '<x>' is there twice");
    says(with("/post_processor", Json{{"type", "TemplateProcessing"}}), "single of TemplateProcessing");
    says(with("/post_processor", Json{{"type", "TemplateProcessing"}, {"single", {{{"SpecialToken", {{"id", "<y>"}}}}}}}), "no id for '<y>'");
    says(with("/pre_tokenizer", Json{{"type", "Sequence"}}), "pretokenizers of a Sequence is no list");
    std::string deep = "{\"a\":";
    for (int i = 0; i < 100'000; i++) deep += "[";
    EXPECT_NE(error_of(deep).find("t.json: nested deeper than 32 levels"), std::string::npos);
    EXPECT_NE(error_of(R"({"model": {"vocab": {"a": 0, "a": 1}}})").find("the key \"a\" is there twice"), std::string::npos);
    EXPECT_NE(error_of("{\"model\"").find("not JSON"), std::string::npos);
}

TEST_CASE("byte bpe: every cut and every flipped byte of a tokenizer.json is an error or a tokenizer") {
    const std::string whole = small().dump();
    const Rng rng(7, "flips");
    int rejected = 0;
    for (uint64_t i = 0; i < 3000; i++) {
        std::string bytes = whole;
        const auto b = rng.bits(i);
        if (i % 3 == 0) bytes.resize(b[0] % bytes.size());
        else bytes[b[0] % bytes.size()] = char(b[1] % 128);
        try {
            const ByteBpe t = parse(bytes);
            const std::string text = t.decode(t.encode("abc <x> cab \xff"));
            EXPECT(valid_utf8(text) == text);
        } catch (const Error& e) {
            EXPECT(e.code == Exit::bad_weights);
            rejected++;
        }
    }
    EXPECT_GT(rejected, 1000);
}
