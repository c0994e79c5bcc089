// The text around a question: what MERV's language models saw in training, to the letter. Oddities of the reference are kept
// (its `<<SYS>` lacks a `>`), because the released weights learned them. Spec: merv.md 5.1.
#pragma once
#include <string>
#include <string_view>

namespace merv {

enum class PromptBuilder { pure, llama2_chat, vicuna, raw };    // raw: the text verbatim, nothing around it
enum class Role { human, gpt };

// The builder that `llm_backbone_id` of a MERV config.json stands for. Error(Exit::bad_weights): an unknown id, or a model
// whose prompt format is not supported yet.
PromptBuilder builder_for(const std::string& llm_backbone_id);
// "pure", "llama2-chat", "vicuna" or "raw", as on the command line. Error(Exit::usage) otherwise.
PromptBuilder parse_builder(const std::string& name);

// A conversation of several turns. A message loses every `<image>` and then the white space at its ends; an empty answer
// becomes one space. (raw: nothing is changed.)
class Dialogue {
  public:
    explicit Dialogue(PromptBuilder builder) : builder_(builder) {}
    // The text this turn adds. Human and gpt take turns, human first; Error(Exit::bad_data) otherwise.
    std::string add_turn(Role role, std::string_view message);
    // The text whose tokens follow BOS: without the leading `<s>` (the tokenizer adds one) and without white space at the end.
    std::string get_prompt() const;

  private:
    PromptBuilder builder_;
    std::string prompt_;
    int turns_ = 0;
};

// One question to a fresh Dialogue: add_turn(human) and get_prompt().
std::string wrap_question(PromptBuilder builder, std::string_view question);

std::string_view strip(std::string_view text);  // without the white space of any kind at its ends, as Python's str.strip()

}
