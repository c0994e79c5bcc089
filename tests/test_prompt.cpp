// prompt: equal, character by character, to the reference's builders (tests/golden/tokenizer.py).
#include "tests/test.h"
#include <fstream>
#include <nlohmann/json.hpp>
#include "core/check.h"
#include "models/prompt.h"

using namespace merv;

TEST_CASE("prompt: conversations equal the reference's") {
    std::ifstream in(test::golden("prompts.json"));
    int turns = 0;
    for (const auto& c : nlohmann::json::parse(in)) {
        const PromptBuilder builder = parse_builder(c["builder"]);
        Dialogue dialogue(builder);
        Role role = Role::human;
        for (const auto& turn : c["turns"]) {
            CAPTURE(turn.dump());
            EXPECT_EQ(dialogue.add_turn(role, turn["message"].get<std::string>()), turn["added"].get<std::string>());
            EXPECT_EQ(dialogue.get_prompt(), turn["prompt"].get<std::string>());
            role = role == Role::human ? Role::gpt : Role::human;
            turns++;
        }
        EXPECT_EQ(wrap_question(builder, c["turns"][0]["message"].get<std::string>()), c["turns"][0]["prompt"].get<std::string>());
    }
    EXPECT_EQ(turns, 108);
}

TEST_CASE("prompt: raw is verbatim") {
    EXPECT_EQ(wrap_question(PromptBuilder::raw, "  <s> <image> \n"), "  <s> <image> \n");
    EXPECT_EQ(wrap_question(PromptBuilder::raw, ""), "");
}

TEST_CASE("prompt: broken UTF-8 in a question is kept, and its ends are still stripped") {
    EXPECT_EQ(wrap_question(PromptBuilder::pure, "\xe2\x80 x \xff\xe3\x80 "), "In: \xe2\x80 x \xff\xe3\x80\nOut:");
    EXPECT_EQ(wrap_question(PromptBuilder::pure, "\xa0"), "In: \xa0\nOut:");     // the tail of U+00A0 alone is no space
}

TEST_CASE("prompt: human and gpt take turns") {
    Dialogue d(PromptBuilder::pure);
    EXPECT_THROWS_WITH_AS(d.add_turn(Role::gpt, "x"), "turn 1 of a conversation must be the human's; they take turns", Error);
    d.add_turn(Role::human, "x");
    EXPECT_THROWS_WITH_AS(d.add_turn(Role::human, "y"), "turn 2 of a conversation must be gpt's; they take turns", Error);
    EXPECT_EQ(d.get_prompt(), "In: x\nOut:");                    // a refused turn leaves no trace
}

TEST_CASE("prompt: the language model's id names the builder") {
    EXPECT(builder_for("llama2-7b-pure") == PromptBuilder::pure);
    EXPECT(builder_for("llama3-8b-pure") == PromptBuilder::pure);
    EXPECT(builder_for("llama2-13b-chat") == PromptBuilder::llama2_chat);
    EXPECT(builder_for("llama3-8b-chat") == PromptBuilder::llama2_chat);
    EXPECT(builder_for("vicuna-v15-7b") == PromptBuilder::vicuna);
    auto refused = [](const char* id) -> std::string {
        try { builder_for(id); } catch (const Error& e) { EXPECT(e.code == Exit::bad_weights); return e.what(); }
        return "";
    };
    EXPECT_EQ(refused("llama3.1-8b-chat").find("llm_backbone_id 'llama3.1-8b-chat' has a prompt format that is not supported yet; supported are llama2-7b"), 0);
    EXPECT_EQ(refused("qwen2.5-7b-instruct").find("llm_backbone_id 'qwen2.5-7b-instruct' has a prompt format"), 0);
    EXPECT_EQ(refused("llama2").find("llm_backbone_id 'llama2' is unknown; supported are"), 0);
    EXPECT_EQ(refused("").find("llm_backbone_id '' is unknown"), 0);
    try { parse_builder("chat"); FAIL_CHECK("accepted"); } catch (const Error& e) {
        EXPECT(e.code == Exit::usage);
        EXPECT_EQ(std::string(e.what()), "--prompt-builder is pure, llama2-chat, vicuna or raw, not 'chat'");
    }
}
