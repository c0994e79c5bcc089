// samples: ids and labels equal those of the reference's datasets, for every prompt builder and tokenizer (tests/golden/training_data.py).
#include "tests/media.h"
#include <algorithm>
#include "core/check.h"
#include "nn/functional.h"
#include "train/samples.h"

using namespace merv;
using test::error_of;
using train::TextFormat;
using train::Tokenized;

namespace {

using Ids = std::vector<int32_t>;

const nlohmann::json& goldens() { return test::read_json(test::golden("training_data.json")); }
const std::vector<Conversation>& records() {
    static const auto* all = new std::vector<Conversation>(parse_conversations(goldens()["records"].dump(), "golden"));
    return *all;
}

// As the golden script names them; null where its file is not here.
const Tokenizer* tokenizer_of(const std::string& name) {
    static auto* loaded = new std::map<std::string, Tokenizer>;
    const std::string path = name == "tok512" ? test::golden("merv-tiny/llm/tokenizer.model") : name == "llama2" ? test::shared("data/llm/tokenizer.model")
                             : test::golden("tokenizers/" + (name == "llama3.1" ? "llama3" : name) + ".json");
    if (path.empty()) return nullptr;
    if (!loaded->contains(name)) loaded->emplace(name, Tokenizer::load(path));
    return &loaded->at(name);
}
TextFormat format_of(const nlohmann::json& c, const Tokenizer& t) {
    TextFormat f{.tokenizer = t, .bos = t.adds_bos() ? t.bos() : -1, .longest = c["max_length"]};
    if (c.contains("builder")) f.builder = parse_builder(c["builder"]);
    if (c.contains("eos")) f.eos = t.encode(c["eos"].get<std::string>()).at(0);
    return f;
}

// Compares with {"ids", "learned": [[from, to), ..]}.
void expect_same(const Tokenized& t, const nlohmann::json& sample) {
    const Ids ids = sample["ids"];
    Ids labels(ids.size(), nn::kIgnore);
    for (const auto& range : sample["learned"])
        for (size_t i = range[0]; i < range[1].get<size_t>(); i++) labels[i] = ids[i];
    EXPECT(t.ids == ids);
    EXPECT(t.labels == labels);
}

Conversation says(std::vector<std::string> texts, std::string media = "") {
    Conversation c{.id = "s", .media = std::move(media), .turns = {}};
    for (std::string& t : texts) c.turns.push_back({c.turns.size() % 2 == 0, std::move(t)});
    return c;
}

}

TEST_CASE("samples: dialogues as FinetuneVideoDataset makes them") {
    int compared = 0;
    for (const auto& c : goldens()["finetune"]) {
        const Tokenizer* t = tokenizer_of(c["tokenizer"]);
        if (!t) continue;
        CAPTURE(c.dump());
        expect_same(train::tokenize_dialogue(records()[c["record"]], format_of(c, *t)), c["sample"]);
        compared++;
    }
    EXPECT_GE(compared, 180);                   // 200 with LLaMA-2's own tokenizer
}

TEST_CASE("samples: captions as AlignVideoDataset makes them, and refused where it raises") {
    int compared = 0, refused = 0;
    for (const auto& c : goldens()["align"]) {
        const Tokenizer* t = tokenizer_of(c["tokenizer"]);
        if (!t) continue;
        CAPTURE(c.dump());
        const TextFormat f = format_of(c, *t);
        const Conversation& record = records()[c["record"]];
        if (c["sample"].is_null()) {
            const std::string why = error_of(Exit::bad_data, [&] { train::tokenize_caption(record, f); });
            EXPECT_SAYS(why, "sample " + record.id + ": ");
            EXPECT_SAYS(why, record.turns.size() != 2 ? "turns; the align stages take one question and one caption" : "the caption holds <");
            refused++;
        } else expect_same(train::tokenize_caption(record, f), c["sample"]);
        compared++;
    }
    EXPECT_GE(compared, 120);                   // 140 with LLaMA-2's own tokenizer
    EXPECT_EQ(refused * 4, compared);
}

TEST_CASE("samples: a dialogue's first question is what merv-ask prefills") {
    const Tokenizer& t = *tokenizer_of("tok512");
    for (const PromptBuilder b : {PromptBuilder::pure, PromptBuilder::vicuna, PromptBuilder::llama2_chat}) {
        const Tokenized s = train::tokenize_dialogue(says({"What is it?", "A rocket."}), {.tokenizer = t, .builder = b, .bos = t.bos()});
        Ids asked = t.encode(wrap_question(b, "What is it?"));
        // llama2-chat: training has a second BOS, the format's own `<s>`, which a question does without (merv.md 10)
        asked.insert(asked.begin(), b == PromptBuilder::llama2_chat ? 2 : 1, t.bos());
        REQUIRE(asked.size() < s.ids.size());
        EXPECT(std::equal(asked.begin(), asked.end(), s.ids.begin()));
        EXPECT(std::all_of(s.labels.begin(), s.labels.begin() + int64_t(asked.size()), [](int32_t l) { return l == nn::kIgnore; }));
        EXPECT_EQ(s.labels.back(), t.eos());
    }
}

TEST_CASE("samples: texts are cut to the longest that the model takes, ids and labels alike") {
    const Tokenizer& t = *tokenizer_of("tok512");
    const Conversation c = says({"one two three", "four five six", "seven", "eight nine"}, "clip.mp4");
    const Tokenized whole = train::tokenize_dialogue(c, {.tokenizer = t, .bos = t.bos()});
    for (int64_t longest : {int64_t(1), int64_t(2), int64_t(whole.ids.size()) - 1, int64_t(whole.ids.size()), int64_t(5000)}) {
        CAPTURE(longest);
        const Tokenized cut = train::tokenize_dialogue(c, {.tokenizer = t, .bos = t.bos(), .longest = longest});
        const size_t n = std::min(size_t(longest), whole.ids.size());
        EXPECT(cut.ids == Ids(whole.ids.begin(), whole.ids.begin() + int64_t(n)));
        EXPECT(cut.labels == Ids(whole.labels.begin(), whole.labels.begin() + int64_t(n)));
    }
}

TEST_CASE("samples: without a BOS the first label of a caption is still not learnt") {
    const Tokenizer& t = *tokenizer_of("qwen2.5");
    const Tokenized s = train::tokenize_caption(says({"q", "abc def"}, "clip.mp4"), {.tokenizer = t, .bos = -1, .eos = 994});
    REQUIRE(s.ids.size() > 1);
    EXPECT_EQ(s.labels[0], nn::kIgnore);        // as the reference has it: its comment speaks of BOS, its code of place 0
    EXPECT(Ids(s.labels.begin() + 1, s.labels.end()) == Ids(s.ids.begin() + 1, s.ids.end()));
}
