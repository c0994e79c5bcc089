// merv-ask on a terminal: a chat, its commands and its keys.
#include "tests/ask_program.h"
#include "core/log.h"
#include "models/load.h"

using namespace merv;
using namespace merv::test;

namespace {
const std::string kAsked = "> ";
Words chat_words(const Words& more) { return Words{"-m", kModel, "-v", "-n", "12"} + more; }
// The answer, and what -v says was computed for it.
struct Said { std::string text; int read = 0, held = 0; };
Said say_to(Terminal& t, const std::string& line) {
    t.type(line + "\n");
    const std::string all = t.until(kAsked);
    Said said;
    const size_t at = all.find("prefill ");
    EXPECT_MESSAGE(at != all.npos, all);
    if (at == all.npos) return said;
    EXPECT_EQ(std::sscanf(all.c_str() + at, "prefill %d tokens, %d in the cache", &said.read, &said.held), 2);
    said.text = all.substr(all.find('\n', at) + 1);
    said.text.erase(said.text.size() - kAsked.size());
    return said;
}
}

TEST_CASE("chat: a terminal without --prompt asks; the clip and the dialogue stay in the cache") {
    if (!Terminal::there_is()) return;
    Terminal t(built("merv-ask"), chat_words({"--video", kClip}));
    t.until(kAsked);
    const Said first = say_to(t, kQuestion);
    EXPECT_EQ(first.text, printable(answer({"-q", "-m", kModel, "--video", kClip, "--prompt", kQuestion, "-n", "12"}).out));
    EXPECT_EQ(first.read, 601);                                     // BOS, the clip, the question
    const Said second = say_to(t, "Why?");
    EXPECT_LT(second.read, 30);                                     // the last token said, the end of the answer, the new question
    EXPECT_EQ(second.held, first.held + 11 + second.read);
    t.type("/clear\n");
    t.until(kAsked);
    const Said again = say_to(t, kQuestion);
    EXPECT_EQ(again.text, first.text);
    EXPECT_EQ(again.read, 24);                                      // BOS and the clip are still there
    t.type("\4");
    EXPECT_EQ(t.code(), 0);
}

TEST_CASE("chat: a second turn sees the first as one prompt of both would") {
    if (!Terminal::there_is()) return;
    Terminal t(built("merv-ask"), {"-m", golden("stories260k"), "-v", "-n", "5", "--prompt-builder", "raw"});
    t.until(kAsked);
    const Said first = say_to(t, "Once upon a time");
    const Said second = say_to(t, "Tom");
    const Json whole = answer({"-q", "-m", golden("stories260k"), "-n", "5", "--json", "--prompt-builder", "raw", "--prompt", "Once upon a time"}).json()["answers"][0];
    // the second turn's tokens in a row with the first's, as a dump of one run would have them
    const LoadedModel loaded = load_model(golden("stories260k"), {.dtype = DType::f32});
    const Merv& m = loaded.merv;
    std::vector<int32_t> ids = whole["prompt_tokens"].get<std::vector<int32_t>>();
    for (int32_t id : whole["tokens"].get<std::vector<int32_t>>()) ids.push_back(id);
    for (int32_t id : m.tokenizer.encode("Tom")) ids.push_back(id);
    EXPECT_EQ(second.held, int(ids.size()));
    NoGrad inference;
    KvCache cache = m.llm.cache(64);
    const Tensor hidden = m.llm.forward(m.llm.embed(ids), cache);
    const Tensor last = m.llm.logits(hidden.slice(hidden.dim(0) - 1, hidden.dim(0)));
    std::string text = m.tokenizer.decode(generate(m.llm, cache, last, {.max_tokens = 5, .sampling = {}, .stop = {2}}));
    text.erase(0, text.find_first_not_of(" \n"));
    EXPECT_EQ(second.text, text + "\n");
    EXPECT_EQ(first.text, whole["text"].get<std::string>() + "\n");
}

TEST_CASE("chat: commands, what is wrong with them, and an end by Ctrl-D") {
    if (!Terminal::there_is()) return;
    TempDir dir;
    write_file(dir / "white.png", kPng);
    Terminal t(built("merv-ask"), chat_words({}));
    t.until(kAsked);
    auto reply = [&](const std::string& line) { return t.type(line + "\n"), t.until(kAsked); };
    EXPECT(contains(reply("/help"), "/video FILE   look at another video"));
    EXPECT(contains(reply("/frobnicate x"), "error: no command /frobnicate; /help lists the commands\n"));
    EXPECT(contains(reply("/video"), "error: /video needs a file's name"));
    EXPECT(contains(reply("/video /nowhere.mp4"), "error: /nowhere.mp4: no such file"));
    EXPECT_EQ(reply(""), kAsked);
    EXPECT_EQ(reply("   "), kAsked);
    EXPECT_LT(say_to(t, "hi").read, 40);                            // no clip yet
    EXPECT(contains(reply("/image " + dir / "white.png"), "encode   vivit"));
    EXPECT_GT(say_to(t, "hi").read, 577);
    EXPECT(contains(reply("/video " + kClip), "decode   " + kClip));
    EXPECT_GT(say_to(t, "hi").read, 577);
    EXPECT_GT(say_to(t, "h\xff\x1b[31m").held, 590);                // no control character is taken for anything
    EXPECT(contains(reply(std::string(3000, 'a')), "; /clear begins anew"));
    EXPECT_LT(say_to(t, "hi").read, 40);                            // nothing of it was kept
    t.type("\4");
    EXPECT_EQ(t.code(), 0);
}

TEST_CASE("chat: Ctrl-C stops an answer, or empties the line, and not the program") {
    if (!Terminal::there_is()) return;
    Terminal t(built("merv-ask"), {"-m", kModel, "-v", "-n", "1000", "--temp", "1"});
    t.until(kAsked);
    t.type("half a line\3");
    t.until(kAsked);
    t.type("hi\n");
    t.until("in the cache\n");
    t.type("\3");
    t.until(kAsked);
    t.type("/clear\n");
    t.until(kAsked);
    EXPECT_LT(say_to(t, "hi").read, 40);
    t.type("\4");
    EXPECT_EQ(t.code(), 0);
    Terminal language(built("merv-ask"), {"-q", "-m", golden("stories260k")});
    language.until(kAsked);
    language.type("/video x.mp4\n");
    EXPECT(contains(language.until(kAsked), "a language model alone; it cannot see"));
}

TEST_CASE("chat: --json and --dump are for prompts") {
    if (!Terminal::there_is()) return;
    Terminal t(built("merv-ask"), {"-m", kModel, "--json"});
    EXPECT(contains(t.rest(), "--json and --dump need --prompt TEXT"));
    EXPECT_EQ(t.code(), 2);
}
