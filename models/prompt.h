// The text around a question: what MERV's language models saw in training, to the letter. Oddities of the reference are kept
// (its `<<SYS>` lacks a `>`), because the released weights learned them. Spec: merv.md 5.1.
#pragma once
#include <string>
#include <string_view>

namespace merv {

// The last two are not the reference's: a language model's own format, and the text verbatim with nothing around it.
enum class PromptBuilder { pure, llama2_chat, vicuna, llama31_chat, qwen25_chat, smollm2_chat, chatml, raw };
enum class Role { human, gpt };

// The builder that `llm_backbone_id` of a MERV config.json stands for. Error(Exit::bad_weights): an unknown id.
PromptBuilder builder_for(const std::string& llm_backbone_id);
// "pure", "llama2-chat", ... or "raw", as on the command line. Error(Exit::usage) with the choices otherwise.
PromptBuilder parse_builder(const std::string& name);
const char* name_of(PromptBuilder);
// The builder whose format a language model's own chat template (a Jinja text) has, told by its marks; raw if it is none of them.
PromptBuilder builder_for_template(std::string_view chat_template);

// A conversation of several turns. With pure, llama2_chat and vicuna a message loses every `<image>` and then the white
// space at its ends, and an empty answer becomes one space; the others change nothing.
class Dialogue {
  public:
    explicit Dialogue(PromptBuilder builder);
    // The text this turn adds. Human and gpt take turns, human first; Error(Exit::bad_data) otherwise.
    std::string add_turn(Role role, std::string_view message);
    // The text whose tokens follow BOS. With the three that strip, without the leading `<s>` (the tokenizer adds one) and
    // without white space at the end.
    std::string get_prompt() const;
    // add_turn(human), and what the language model is then to read: for the first turn get_prompt(), later this turn alone.
    std::string ask(std::string_view question);
    std::string_view answer_end() const;        // what stands behind an answer

  private:
    PromptBuilder builder_;
    std::string prompt_;
    int turns_ = 0;
};

// One question to a fresh Dialogue: add_turn(human) and get_prompt().
std::string wrap_question(PromptBuilder builder, std::string_view question);

std::string_view strip(std::string_view text);  // without the white space of any kind at its ends, as Python's str.strip()
std::string_view strip_right(std::string_view text);        // and str.rstrip()

}
