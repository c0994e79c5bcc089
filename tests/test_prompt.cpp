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
            const std::string added = dialogue.add_turn(role, turn["message"].get<std::string>());
            EXPECT_EQ(added, turn["added"].get<std::string>());
            if (role == Role::gpt) EXPECT(added.ends_with(dialogue.answer_end()));
            EXPECT_EQ(dialogue.get_prompt(), turn["prompt"].get<std::string>());
            role = role == Role::human ? Role::gpt : Role::human;
            turns++;
        }
        EXPECT_EQ(wrap_question(builder, c["turns"][0]["message"].get<std::string>()), c["turns"][0]["prompt"].get<std::string>());
    }
    EXPECT_EQ(turns, 252);
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
    EXPECT(builder_for("llama3.1-8b-chat") == PromptBuilder::llama31_chat);
    EXPECT(builder_for("qwen2.5-3b-instruct") == PromptBuilder::qwen25_chat);
    auto refused = [](const char* id) -> std::string {
        try { builder_for(id); } catch (const Error& e) { EXPECT(e.code == Exit::bad_weights); return e.what(); }
        return "";
    };
    EXPECT_EQ(refused("llama2").find("llm_backbone_id 'llama2' is unknown; supported are"), 0);
    EXPECT_EQ(refused("").find("llm_backbone_id '' is unknown"), 0);
    try { parse_builder("chat"); FAIL_CHECK("accepted"); } catch (const Error& e) {
        EXPECT(e.code == Exit::usage);
        EXPECT_EQ(std::string(e.what()), "--prompt-builder is pure, llama2-chat, vicuna, llama3.1-chat, qwen2.5-chat, smollm2-chat, chatml or raw, not 'chat'");
    }
}

TEST_CASE("prompt: a chat template names the builder by its marks") {
    const std::string chatml = "{% for m in messages %}<|im_start|>{{ m.role }}", smollm = chatml + "You are a helpful AI assistant named SmolLM, trained by Hugging Face";
    EXPECT(builder_for_template(smollm) == PromptBuilder::smollm2_chat);
    EXPECT(builder_for_template(chatml) == PromptBuilder::chatml);
    EXPECT(builder_for_template("<|start_header_id|>") == PromptBuilder::llama31_chat);
    EXPECT(builder_for_template("{{ '[INST] ' }}") == PromptBuilder::llama2_chat);
    EXPECT(builder_for_template("") == PromptBuilder::raw);
    for (PromptBuilder b : {PromptBuilder::pure, PromptBuilder::chatml, PromptBuilder::raw}) EXPECT(parse_builder(name_of(b)) == b);
}

TEST_CASE("prompt: turns as a chat feeds them make up the whole prompt, but for white space that is stripped") {
    for (const char* name : {"pure", "llama2-chat", "vicuna", "llama3.1-chat", "qwen2.5-chat", "smollm2-chat", "chatml", "raw"}) {
        Dialogue d(parse_builder(name));
        const std::string first = d.ask("One?");
        EXPECT_EQ(first, wrap_question(parse_builder(name), "One?"));
        const std::string answer = d.add_turn(Role::gpt, "1");
        EXPECT_EQ(answer, concat("1", d.answer_end()));
        const std::string second = d.ask("Two? ");
        const std::string space = first.ends_with("Out:") || first.ends_with("INST]") || first.ends_with("ANT:") ? " " : "";
        EXPECT_EQ(concat(first, space, answer, second), d.get_prompt());
    }
}
