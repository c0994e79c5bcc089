#include "train/judge.h"
#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdlib>
#include <map>
#include "core/json.h"
#include "train/predictions.h"
#include "weights/hash.h"

namespace merv {

namespace {

// The reference's words, its missing blanks and doubled one included: a judge's verdicts depend on them.
constexpr const char* kSystem =
    "You are an intelligent chatbot designed for evaluating the correctness of generative outputs for question-answer pairs. "
    "Your task is to compare the predicted answer with the correct answer and determine if they match meaningfully. Here's how you can accomplish the task:"
    "------##INSTRUCTIONS: - Focus on the meaningful match between the predicted answer and the correct answer.\n"
    "- Consider synonyms or paraphrases as valid matches.\n- Evaluate the correctness of the prediction compared to the answer.";
constexpr const char* kTask =
    "Provide your evaluation only as a yes/no and score where the score is an integer value between 0 and 5, with 5 indicating the highest meaningful match. "
    "Please generate the response in the form of a Python dictionary string with keys 'pred' and 'score', where value of 'pred' is  a string of 'yes' or 'no' and value of 'score' is in INTEGER, not STRING."
    "DO NOT PROVIDE ANY OTHER OUTPUT TEXT OR EXPLANATION. Only provide the Python dictionary string. For example, your response should look like this: {'pred': 'yes', 'score': 4}.";

// A reader of one flat dict as Python or JSON writes it: texts, numbers, True, False, None and their JSON spellings.
class DictReader {
  public:
    explicit DictReader(std::string_view s) : s_(s) {}
    struct Value { bool text = false, number = false; std::string string; double value = 0; };
    std::optional<std::map<std::string, Value>> dict() {
        std::map<std::string, Value> out;
        space();
        if (!take('{')) return std::nullopt;
        for (space(); !take('}'); space()) {
            Value key, value;
            if (!scalar(key) || !key.text) return std::nullopt;
            space();
            if (!take(':')) return std::nullopt;
            space();
            if (!scalar(value)) return std::nullopt;
            out[key.string] = value;
            space();
            if (!take(',')) { if (!take('}')) return std::nullopt; break; }
        }
        return out;
    }
    void space() { while (at_ < s_.size() && std::isspace(uint8_t(s_[at_]))) at_++; }
    bool ended() const { return at_ == s_.size(); }
    bool json_words = false;                            // true, false and null too, which Python does not know

  private:
    bool take(char c) { return at_ < s_.size() && s_[at_] == c ? (at_++, true) : false; }
    bool scalar(Value& v) {
        if (at_ >= s_.size()) return false;
        if (s_[at_] == '\'' || s_[at_] == '"') return text(v);
        for (const char* word : {"True", "False", "None", "true", "false", "null"})
            if (s_.substr(at_).starts_with(word) && (json_words || std::isupper(uint8_t(word[0])))) return at_ += std::string_view(word).size(), v.number = word[0] != 'N' && word[0] != 'n', v.value = word[0] == 'T' || word[0] == 't', true;
        size_t end = at_;
        while (end < s_.size() && (std::isdigit(uint8_t(s_[end])) || std::string_view("+-.eE").find(s_[end]) != std::string_view::npos)) end++;
        const std::string digits(s_.substr(at_, end - at_));
        char* stop = nullptr;
        v.value = std::strtod(digits.c_str(), &stop);
        if (digits.empty() || *stop || !std::isfinite(v.value)) return false;
        return at_ = end, v.number = true;
    }
    bool text(Value& v) {
        const char quote = s_[at_++];
        v.text = true;
        for (; at_ < s_.size() && s_[at_] != quote; at_++) {
            if (s_[at_] == '\n') return false;
            if (s_[at_] == '\\' && ++at_ >= s_.size()) return false;
            v.string += s_[at_];
        }
        return take(quote);
    }
    std::string_view s_;
    size_t at_ = 0;
};

std::string lower(std::string s) {
    std::transform(s.begin(), s.end(), s.begin(), [](char c) { return char(std::tolower(uint8_t(c))); });
    return s;
}

Json request_json(const Judged& item, const std::string& model) {
    const std::string user = concat("Please evaluate the following video-based question-answer pair:\n\nQuestion: ", item.question, "\nCorrect Answer: ", item.answer, "\nPredicted Answer: ", item.prediction, "\n\n", kTask);
    return {{"custom_id", item.id}, {"method", "POST"}, {"url", "/v1/chat/completions"},
            {"body", {{"model", model}, {"messages", Json::array({{{"role", "system"}, {"content", kSystem}}, {{"role", "user"}, {"content", user}}})}, {"max_tokens", 500}}}};
}

}

std::string judge_request(const Judged& item, const std::string& model) { return python_json(request_json(item, model)); }

std::string judge_prompt_hash() {
    const std::string text = judge_request({}, "");
    Sha256 h;
    h.add(std::as_bytes(std::span(text.data(), text.size())));
    return h.hex();
}

std::vector<size_t> batch_files(const std::vector<size_t>& line_bytes) {
    std::vector<size_t> first;
    double size = 0;
    size_t lines = 0;
    for (size_t i = 0; i < line_bytes.size(); i++) {
        const double mib = double(line_bytes[i]) / 1024 / 1024;
        if (i == 0 || size + mib > 190 || lines > 49000) first.push_back(i), size = 0, lines = 0;
        size += mib, lines++;
    }
    return first;
}

std::optional<Reply> literal_reply(std::string_view content) {
    while (!content.empty() && (content[0] == ' ' || content[0] == '\t')) content.remove_prefix(1);
    if (content.empty() || content[0] != '{') return std::nullopt;
    DictReader reader(content);
    const auto dict = reader.dict();
    reader.space();
    if (!dict || !reader.ended() || !dict->contains("pred") || !dict->contains("score") || !dict->at("pred").text || !dict->at("score").number) return std::nullopt;
    return Reply{lower(dict->at("pred").string).find("yes") != std::string::npos, dict->at("score").value};
}

std::optional<Reply> tolerant_reply(std::string_view content) {
    for (size_t at = content.find('{'); at != content.npos; at = content.find('{', at + 1)) {
        DictReader reader(content.substr(at));
        reader.json_words = true;
        const auto dict = reader.dict();
        if (!dict || !dict->contains("pred") || !dict->contains("score")) continue;
        const auto &pred = dict->at("pred"), &score = dict->at("score");
        std::string word;
        for (char c : lower(pred.string)) if (std::isalpha(uint8_t(c))) word += c;
        double value = score.value;
        if (score.text) {
            char* end = nullptr;
            value = std::strtod(score.string.c_str(), &end);
            if (score.string.empty() || *end) continue;
        } else if (!score.number) continue;
        if (!pred.text || (word != "yes" && word != "no") || !(value >= 0 && value <= 5)) continue;
        return Reply{word == "yes", value};
    }
    return std::nullopt;
}

BatchReply read_batch_line(std::string_view line, const std::string& where) {
    const Json j = parse_json(line, where, {.bytes = size_t(64) << 20}, Exit::bad_data);
    if (!j.is_object() || !j.contains("custom_id") || !j["custom_id"].is_string()) fail(Exit::bad_data, where, ": no reply of a batch: it has no custom_id; give the judge's output file");
    BatchReply out{.id = j["custom_id"].get<std::string>(), .model = "", .content = ""};
    try {
        const Json& response = j.at("response");
        const Json& body = response.at("body");
        if (response.contains("status_code") && response["status_code"] != 200) return out;
        if (body.contains("model") && body["model"].is_string()) out.model = body["model"].get<std::string>();
        out.content = body.at("choices").at(0).at("message").at("content").get<std::string>();
    } catch (const nlohmann::json::exception&) {
        return out;                                     // an error in place of an answer
    }
    out.reply = tolerant_reply(out.content), out.literal = literal_reply(out.content);
    out.state = out.reply ? ReplyState::valid : ReplyState::malformed;
    return out;
}

}
