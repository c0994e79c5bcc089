#include "models/prompt.h"
#include <iterator>
#include "core/check.h"

namespace merv {
namespace {

const std::string kSystem = "You are a helpful language and vision assistant. You are able to understand the visual content that the user provides, "
                            "and assist the user with a variety of tasks using natural language.";
const std::string kLlama2System = concat("<<SYS>\n", kSystem, "\n<</SYS>>\n\n");
constexpr const char* kSmolLm2System = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";
constexpr const char* kVicunaSystem =
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. ";

struct Format { const char* name; bool strips; const char *before_question, *before_answer, *answer_end; };
constexpr Format kFormats[] = {                 // in the order of PromptBuilder
    {"pure", true, "In: ", "\nOut: ", "</s>"},
    {"llama2-chat", true, "<s>[INST] ", " [/INST] ", "</s>"},
    {"vicuna", true, "USER: ", " ASSISTANT: ", "</s>"},
    {"llama3.1-chat", false, "<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"},
    {"qwen2.5-chat", false, "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"},
    {"smollm2-chat", false, "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>\n"},
    {"chatml", false, "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>\n"},
    {"raw", false, "", "", ""},
};
const Format& format(PromptBuilder b) { return kFormats[int(b)]; }

// Bytes of the white-space character (as Python's str.isspace has it) at the start of s, else 0.
size_t space_length(std::string_view s) {
    if (s[0] == ' ' || (s[0] >= '\t' && s[0] <= '\r') || (s[0] >= 0x1c && s[0] <= 0x1f)) return 1;
    for (std::string_view wide : {"\u0085", "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003", "\u2004", "\u2005", "\u2006", "\u2007",
                                  "\u2008", "\u2009", "\u200a", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"})
        if (s.starts_with(wide)) return wide.size();
    return 0;
}
}

// Comparing the last bytes is safe: every white-space character begins with a byte that continues no other character.
std::string_view strip_right(std::string_view s) {
    for (size_t n = 1; n <= 3 && n <= s.size();)
        if (space_length(s.substr(s.size() - n)) == n) s.remove_suffix(n), n = 1;
        else n++;
    return s;
}
std::string_view strip(std::string_view s) {
    for (size_t n; !s.empty() && (n = space_length(s));) s.remove_prefix(n);
    return strip_right(s);
}

PromptBuilder builder_for(const std::string& id) {
    if (id == "llama2-7b-pure" || id == "llama2-13b-pure" || id == "llama3-8b-pure") return PromptBuilder::pure;
    if (id == "llama2-7b-chat" || id == "llama2-13b-chat" || id == "llama3-8b-chat") return PromptBuilder::llama2_chat;
    if (id == "vicuna-v15-7b" || id == "vicuna-v15-13b") return PromptBuilder::vicuna;
    if (id == "llama3.1-8b-chat") return PromptBuilder::llama31_chat;
    if (id == "qwen2.5-3b-instruct" || id == "qwen2.5-7b-instruct") return PromptBuilder::qwen25_chat;
    fail(Exit::bad_weights, "llm_backbone_id '", id, "' is unknown; supported are llama2-7b-pure, llama2-13b-pure, llama3-8b-pure, llama2-7b-chat, llama2-13b-chat, ",
         "llama3-8b-chat, llama3.1-8b-chat, vicuna-v15-7b, vicuna-v15-13b, qwen2.5-3b-instruct, qwen2.5-7b-instruct");
}

const char* name_of(PromptBuilder builder) { return format(builder).name; }

PromptBuilder parse_builder(const std::string& name) {
    std::string choices;
    for (size_t i = 0; i < std::size(kFormats); i++) {
        if (name == kFormats[i].name) return PromptBuilder(i);
        choices += concat(i == 0 ? "" : i + 1 < std::size(kFormats) ? ", " : " or ", kFormats[i].name);
    }
    fail(Exit::usage, "--prompt-builder is ", choices, ", not '", name, "'");
}

PromptBuilder builder_for_template(std::string_view text) {
    auto holds = [&](const char* mark) { return text.find(mark) != text.npos; };
    if (holds("<|im_start|>")) return holds(kSmolLm2System) ? PromptBuilder::smollm2_chat : PromptBuilder::chatml;
    if (holds("<|start_header_id|>")) return PromptBuilder::llama31_chat;
    return holds("[INST]") ? PromptBuilder::llama2_chat : PromptBuilder::raw;
}

Dialogue::Dialogue(PromptBuilder builder) : builder_(builder) {
    auto chatml = [](const std::string& text) { return concat("<|im_start|>system\n", text, "<|im_end|>\n"); };
    if (builder == PromptBuilder::llama31_chat) prompt_ = concat("<|start_header_id|>system<|end_header_id|>\n\n", kSystem, "<|eot_id|>");
    if (builder == PromptBuilder::qwen25_chat) prompt_ = chatml(kSystem);
    if (builder == PromptBuilder::smollm2_chat) prompt_ = chatml(kSmolLm2System);
}

std::string Dialogue::add_turn(Role role, std::string_view message) {
    const bool human = turns_ % 2 == 0, first = turns_ == 0;
    if ((role == Role::human) != human)
        fail(Exit::bad_data, "turn ", turns_ + 1, " of a conversation must be ", human ? "the human's" : "gpt's", "; they take turns");
    const Format& f = format(builder_);
    std::string m(message);
    if (f.strips) {
        constexpr std::string_view image = "<image>";
        std::string kept;
        for (size_t at; (at = message.find(image)) != message.npos; message.remove_prefix(at + image.size())) kept += message.substr(0, at);
        m = strip(kept += message);
        if (!human && m.empty()) m.assign(1, ' ');
    }
    if (human && first && builder_ == PromptBuilder::llama2_chat) m = kLlama2System + m;
    const char* system = human && first && builder_ == PromptBuilder::vicuna ? kVicunaSystem : "";
    const std::string turn = human ? concat(system, f.before_question, m, f.before_answer) : concat(m, f.answer_end);
    prompt_ += turn;
    turns_++;
    return turn;
}

std::string Dialogue::get_prompt() const {
    if (!format(builder_).strips) return prompt_;
    std::string_view text = prompt_;
    if (text.starts_with("<s>")) text.remove_prefix(3);
    return std::string(strip_right(text));
}

std::string Dialogue::ask(std::string_view question) {
    const bool first = turns_ == 0;
    const std::string turn = add_turn(Role::human, question);
    return first ? get_prompt() : std::string(format(builder_).strips ? strip_right(turn) : turn);
}
std::string_view Dialogue::answer_end() const { return format(builder_).answer_end; }

std::string wrap_question(PromptBuilder builder, std::string_view question) {
    Dialogue dialogue(builder);
    dialogue.add_turn(Role::human, question);
    return dialogue.get_prompt();
}

}
