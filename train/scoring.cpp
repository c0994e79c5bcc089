#include "train/scoring.h"
#include <algorithm>
#include <cctype>
#include <cmath>
#include <set>
#include "core/rng.h"

namespace merv {

namespace {

bool alnum(char c) { return std::isalnum(uint8_t(c)) || uint8_t(c) >= 0x80; }       // bytes of other scripts are parts of words
char lower(char c) { return char(std::tolower(uint8_t(c))); }

// Where the text of an option stands as whole words in an answer, both normalised.
bool has_words(const std::string& text, const std::string& words) { return !words.empty() && (" " + text + " ").find(" " + words + " ") != std::string::npos; }

// The option that the letter at `i` names, if it stands alone there and is one of `count`: "B", "(b)"; else -1.
int lone_letter(std::string_view s, size_t i, int count, bool capital) {
    if (i >= s.size() || (i > 0 && (alnum(s[i - 1]) || s[i - 1] == '\'')) || (i + 1 < s.size() && (alnum(s[i + 1]) || s[i + 1] == '\''))) return -1;
    const int option = (capital ? s[i] : char(std::toupper(uint8_t(s[i])))) - 'A';
    return option >= 0 && option < count ? option : -1;
}

// "... answer is (B)", "option B", "choose B": the letter behind the word, with only fillers in between.
std::set<int> declared(std::string_view s, int count) {
    std::string low(s);
    std::transform(low.begin(), low.end(), low.begin(), lower);
    std::set<int> found;
    for (const std::string word : {"answer", "option", "choice", "choose"})
        for (size_t at = low.find(word); at != low.npos; at = low.find(word, at + 1)) {
            size_t i = at + word.size();
            for (bool more = true; more;) {
                while (i < low.size() && !alnum(low[i]) && low[i] != '\n') i++;
                more = false;
                for (std::string_view filler : {"is", "would", "be", "should", "option", "choice", "letter", "the", "correct", "answer", "s"})
                    if (low.compare(i, filler.size(), filler) == 0 && (i + filler.size() == low.size() || !alnum(low[i + filler.size()]))) { i += filler.size(), more = true; break; }
            }
            // "the answer is a dog": a small a is an article unless nothing follows it
            if (const int option = lone_letter(s, i, count, false); option >= 0 && (std::isupper(uint8_t(s[i])) || i + 1 == s.size() || !std::isspace(uint8_t(s[i + 1])))) found.insert(option);
        }
    return found;
}

}

std::string question_prompt(const Question& q, bool video_token) {
    if (!q.choice()) return q.text + (video_token ? "\n<video>" : "");
    std::string letters, options;
    for (int i = 0; i < q.letters; i++) letters += std::string(i ? ", " : "") + letter(i);
    for (size_t i = 0; i < q.options.size(); i++) options += std::string(i ? "\n" : "") + letter(int(i)) + ". " + q.options[i];
    return (video_token ? "<video>\n" : "") + q.text + " Select the correct answer from the following options. Write your answer as only one of " + letters + " and nothing else.\n\n    " + options;
}

bool reference_correct(std::string_view prediction, char right) { return !prediction.empty() && lower(prediction[0]) == lower(right); }

std::string normalised(std::string_view text) {
    std::string out, word;
    auto end = [&] {
        if (!word.empty() && word != "a" && word != "an" && word != "the") out += (out.empty() ? "" : " ") + word;
        word.clear();
    };
    for (char c : text) {
        if (alnum(c)) word += lower(c);
        else if (c != '\'') end();
    }
    end();
    return out;
}

int parse_choice(std::string_view prediction, const std::vector<std::string>& options) {
    const int count = int(options.size());
    size_t begin = 0;
    while (begin < prediction.size() && !alnum(prediction[begin])) begin++;
    if (begin == prediction.size()) return -1;
    // a letter alone, or at the beginning with a mark behind it
    if (const int option = lone_letter(prediction, begin, count, false); option >= 0) {
        const std::string_view rest = prediction.substr(begin + 1);
        const bool alone = std::none_of(rest.begin(), rest.end(), alnum);
        if (alone || rest[0] == '.' || rest[0] == ')' || rest[0] == ':' || rest[0] == ',' || rest[0] == ']' || rest[0] == '*' || rest[0] == '\n') return option;
    }
    if (const std::set<int> named = declared(prediction, count); !named.empty()) return named.size() == 1 ? *named.begin() : -1;
    // the text of one option: the whole answer, or words of it. An option that is part of another's text counts only without it.
    const std::string text = normalised(prediction);
    std::vector<std::string> plain;
    for (const std::string& o : options) plain.push_back(normalised(o));
    std::vector<int> equal, within;
    for (int i = 0; i < count; i++) {
        if (!plain[size_t(i)].empty() && plain[size_t(i)] == text) equal.push_back(i);
        if (has_words(text, plain[size_t(i)])) within.push_back(i);
    }
    std::erase_if(within, [&, all = within](int i) { return std::any_of(all.begin(), all.end(), [&](int k) { return plain[size_t(k)] != plain[size_t(i)] && has_words(plain[size_t(k)], plain[size_t(i)]); }); });
    if (equal.size() == 1) return equal[0];
    if (!within.empty()) return within.size() == 1 ? within[0] : -1;
    // one capital that stands alone; A and I also begin sentences
    std::set<int> capitals;
    for (size_t i = 0; i < prediction.size(); i++)
        if (const int option = lone_letter(prediction, i, count, true); option >= 0 && !((prediction[i] == 'A' || prediction[i] == 'I') && prediction.substr(i + 1).starts_with(' '))) capitals.insert(option);
    return capitals.size() == 1 ? *capitals.begin() : -1;
}

std::string first_word(std::string_view question) {
    std::string word;
    for (char c : question) {
        if (alnum(c)) word += lower(c);
        else if (!word.empty()) break;
    }
    return word;
}

bool degenerate(std::string_view p) {
    if (p.empty()) return true;
    for (size_t period = 1; period <= 4; period++) {
        size_t i = period;
        while (i < p.size() && p[i] == p[i - period]) i++;
        if (i == p.size() && p.size() >= std::max<size_t>(16, 4 * period)) return true;
    }
    return false;
}

void Rate::add(Outcome o) {
    n += o != Outcome::none, right += o == Outcome::right, none += o == Outcome::none;
}
double Rate::standard_error() const { return n < 2 ? NAN : std::sqrt(accuracy() * (1 - accuracy()) / double(n - 1)); }

std::map<std::string, Rate> rates(const std::vector<Verdict>& verdicts) {
    std::map<std::string, Rate> out;
    for (const Verdict& v : verdicts)
        for (const auto& [method, outcome] : v.by) out[method].add(outcome);
    return out;
}

std::map<std::string, std::map<std::string, Rate>> rates_by(const std::vector<Verdict>& verdicts, std::string Verdict::*key) {
    std::map<std::string, std::map<std::string, Rate>> out;
    for (const Verdict& v : verdicts)
        if (!(v.*key).empty())
            for (const auto& [method, outcome] : v.by) out[v.*key][method].add(outcome);
    return out;
}

Comparison compare_runs(const std::vector<Verdict>& first, const std::vector<Verdict>& second, const std::string& method, int draws, uint64_t seed) {
    auto outcome = [&](const Verdict& v) { const auto found = v.by.find(method); return found == v.by.end() ? Outcome::none : found->second; };
    std::map<std::string, Outcome> by_id;
    for (const Verdict& v : first) by_id[v.id] = outcome(v);
    std::vector<int> differences;                       // -1, 0, 1 per question
    Comparison c;
    for (const Verdict& v : second) {
        const auto other = by_id.find(v.id);
        if (other == by_id.end() || other->second == Outcome::none || outcome(v) == Outcome::none) continue;
        differences.push_back(int(outcome(v)) - int(other->second));
        c.only_first += differences.back() < 0, c.only_second += differences.back() > 0;
    }
    c.n = differences.size();
    if (c.n == 0) return c;
    const double n = double(c.n);
    c.difference = (double(c.only_second) - double(c.only_first)) / n;
    std::vector<double> drawn;
    const Rng rng(seed, "paired bootstrap");
    for (int d = 0; d < draws; d++) {
        int64_t sum = 0;
        for (size_t i = 0; i < c.n; i++) sum += differences[std::min(c.n - 1, size_t(rng.uniform(uint64_t(d) << 32 | i) * n))];
        drawn.push_back(double(sum) / n);
    }
    if (drawn.empty()) return c;
    std::sort(drawn.begin(), drawn.end());
    auto quantile = [&](double q) { return drawn[std::min(drawn.size() - 1, size_t(q * double(drawn.size())))]; };
    c.low = quantile(0.025), c.high = quantile(0.975);
    const auto below = double(std::upper_bound(drawn.begin(), drawn.end(), 0.0) - drawn.begin()), above = double(drawn.end() - std::lower_bound(drawn.begin(), drawn.end(), 0.0));
    c.p = std::min(1.0, 2 * (std::min(below, above) + 1) / (double(drawn.size()) + 1));
    return c;
}

}
