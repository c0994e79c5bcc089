#include "models/prompt.h"
#include "core/check.h"

namespace merv {
namespace {

constexpr const char* kLlama2System =
    "<<SYS>\nYou are a helpful language and vision assistant. You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language.\n<</SYS>>\n\n";
constexpr const char* kVicunaSystem =
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. ";

// Bytes of the white-space character (as Python's str.isspace has it) at the start of s, else 0.
size_t space_length(std::string_view s) {
    if (s[0] == ' ' || (s[0] >= '\t' && s[0] <= '\r') || (s[0] >= 0x1c && s[0] <= 0x1f)) return 1;
    for (std::string_view wide : {"\u0085", "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003", "\u2004", "\u2005", "\u2006", "\u2007",
                                  "\u2008", "\u2009", "\u200a", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"})
        if (s.starts_with(wide)) return wide.size();
    return 0;
}
// Comparing the last bytes is safe: every white-space character begins with a byte that continues no other character.
std::string_view strip_right(std::string_view s) {
    for (size_t n = 1; n <= 3 && n <= s.size();)
        if (space_length(s.substr(s.size() - n)) == n) s.remove_suffix(n), n = 1;
        else n++;
    return s;
}

}

std::string_view strip(std::string_view s) {
    for (size_t n; !s.empty() && (n = space_length(s));) s.remove_prefix(n);
    return strip_right(s);
}

PromptBuilder builder_for(const std::string& id) {
    if (id == "llama2-7b-pure" || id == "llama2-13b-pure" || id == "llama3-8b-pure") return PromptBuilder::pure;
    if (id == "llama2-7b-chat" || id == "llama2-13b-chat" || id == "llama3-8b-chat") return PromptBuilder::llama2_chat;
    if (id == "vicuna-v15-7b" || id == "vicuna-v15-13b") return PromptBuilder::vicuna;
    const bool known = id == "llama3.1-8b-chat" || id == "qwen2.5-3b-instruct" || id == "qwen2.5-7b-instruct";
    fail(Exit::bad_weights, "llm_backbone_id '", id, known ? "' has a prompt format that is not supported yet" : "' is unknown",
         "; supported are llama2-7b-pure, llama2-13b-pure, llama3-8b-pure, llama2-7b-chat, llama2-13b-chat, llama3-8b-chat, vicuna-v15-7b, vicuna-v15-13b");
}

PromptBuilder parse_builder(const std::string& name) {
    if (name == "pure") return PromptBuilder::pure;
    if (name == "llama2-chat") return PromptBuilder::llama2_chat;
    if (name == "vicuna") return PromptBuilder::vicuna;
    if (name == "raw") return PromptBuilder::raw;
    fail(Exit::usage, "--prompt-builder is pure, llama2-chat, vicuna or raw, not '", name, "'");
}

std::string Dialogue::add_turn(Role role, std::string_view message) {
    const bool human = turns_ % 2 == 0, first = turns_ == 0;
    if ((role == Role::human) != human)
        fail(Exit::bad_data, "turn ", turns_ + 1, " of a conversation must be ", human ? "the human's" : "gpt's", "; they take turns");
    std::string kept;
    constexpr std::string_view image = "<image>";
    std::string_view rest = message;
    for (size_t at; (at = rest.find(image)) != rest.npos; rest.remove_prefix(at + image.size())) kept += rest.substr(0, at);
    const std::string m(strip(kept += rest));

    std::string turn;
    if (builder_ == PromptBuilder::raw) turn = message;
    else if (!human) turn = (m.empty() ? " " : m) + "</s>";
    else if (builder_ == PromptBuilder::pure) turn = "In: " + m + "\nOut: ";
    else if (builder_ == PromptBuilder::llama2_chat) turn = "<s>[INST] " + (first ? kLlama2System + m : m) + " [/INST] ";
    else turn = (first ? kVicunaSystem : "") + ("USER: " + m + " ASSISTANT: ");
    prompt_ += turn;
    turns_++;
    return turn;
}

std::string Dialogue::get_prompt() const {
    if (builder_ == PromptBuilder::raw) return prompt_;
    std::string_view text = prompt_;
    if (text.starts_with("<s>")) text.remove_prefix(3);
    return std::string(strip_right(text));
}

std::string wrap_question(PromptBuilder builder, std::string_view question) {
    Dialogue dialogue(builder);
    dialogue.add_turn(Role::human, question);
    return dialogue.get_prompt();
}

}
