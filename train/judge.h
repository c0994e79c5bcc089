// The judge protocol of open questions (merv.md 8.3, scripts/eval_gpt_batch.py) as files that can be replayed: requests in the batch format that judges
// accept, and their replies. Nothing here speaks to a network. A reply that is missing or cannot be read is a class of its own, never "no".
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace merv {

inline constexpr const char* kJudge = "gpt-4o-mini-2024-07-18";        // the reference's; its paper used gpt-3.5-turbo-0613
struct Judged { std::string id, question, answer, prediction; };
// One line of a batch file, byte for byte the reference's json.dumps of it.
std::string judge_request(const Judged& item, const std::string& model = kJudge);
std::string judge_prompt_hash();                        // SHA-256 of the request with empty texts, its model left out: tells two protocols apart
// Where a new file begins, as the reference splits: more than 190 MiB or more than 49000 lines before it. Returns the first line of each file.
std::vector<size_t> batch_files(const std::vector<size_t>& line_bytes);

struct Reply { bool yes = false; double score = 0; };
// What the reference reads: the content is a dict as Python writes it, with 'pred' and 'score', and nothing else (ast.literal_eval). yes: 'yes' is in pred.
std::optional<Reply> literal_reply(std::string_view content);
// The same where a dict stands anywhere in the text (code fences, JSON, a quoted score); pred must be yes or no, the score within 0 to 5.
std::optional<Reply> tolerant_reply(std::string_view content);

enum class ReplyState { valid, malformed, missing };
struct BatchReply {
    std::string id, model, content;                     // content: empty if the request failed
    ReplyState state = ReplyState::missing;
    std::optional<Reply> reply = {}, literal = {};
};
// One line of a batch's output. Error(Exit::bad_data) only if it is no JSON object with a custom_id.
BatchReply read_batch_line(std::string_view line, const std::string& where);

}
