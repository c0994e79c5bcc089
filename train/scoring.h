// Prompts and scores of the reference's evaluation (merv.md 8.2 and 8.3, scripts/eval_mcq.py and eval_openended.py), and beside them two ways to score a choice
// that do not depend on how the answer is phrased: a parser, and the likelihood of each letter.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>
#include "data/benchmarks.h"

namespace merv {

inline char letter(int option) { return char('A' + option); }
// What the model is asked. `video_token`: the reference's `_token` variants, which put `<video>` where training had it.
std::string question_prompt(const Question& q, bool video_token = false);

// ---- one answer
bool reference_correct(std::string_view prediction, char right);        // its first character is the letter, nothing is looked for
// The option that an answer means, or -1 if it means none or several: a letter alone or at its beginning ("B", "(b)", "B. a dog"), a letter it declares
// ("The answer is B"), the text of one option, or a single capital letter that stands alone. "An apple" is not A.
int parse_choice(std::string_view prediction, const std::vector<std::string>& options);
std::string normalised(std::string_view text);          // lower case, words apart by one space, without punctuation and articles
std::string first_word(std::string_view question);      // lower case; "" if there is none
bool degenerate(std::string_view prediction);           // empty, or the same one to four characters over and over

// ---- many answers
enum class Outcome : int8_t { none = -1, wrong = 0, right = 1 };        // none: no verdict, which is neither right nor wrong
struct Verdict {
    std::string id = {}, category = {}, word = {}, subset = {};
    std::map<std::string, Outcome> by = {};             // method -> outcome
    std::optional<double> score = {};                   // the judge's, 0 to 5
    bool unparsed = false;                              // the parser found no option: counted as wrong
};
struct Rate {                                           // of right ones among those with a verdict
    size_t n = 0, right = 0, none = 0;
    double accuracy() const { return n ? double(right) / double(n) : 0; }
    double standard_error() const;                      // sample deviation / sqrt(n); NaN below two
    void add(Outcome o);
};
std::map<std::string, Rate> rates(const std::vector<Verdict>& verdicts);                // method -> rate
// Group -> method -> rate. key: which field names the group; an empty one is no group.
std::map<std::string, std::map<std::string, Rate>> rates_by(const std::vector<Verdict>& verdicts, std::string Verdict::*key);

struct Comparison {                                     // of two runs on the questions that both have a verdict for
    size_t n = 0, only_first = 0, only_second = 0;      // right in one alone
    double difference = 0, low = 0, high = 0;           // second - first in accuracy, and its 95 % interval
    double p = 1;                                       // two-sided: how often resampling turns the difference over
};
// Paired bootstrap: the questions are drawn again `draws` times, each with both runs' outcomes; a pure function of the seed.
Comparison compare_runs(const std::vector<Verdict>& first, const std::vector<Verdict>& second, const std::string& method, int draws = 10000, uint64_t seed = 7);

}
