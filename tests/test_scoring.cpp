// train/scoring: prompts and verdicts of the reference's own script (tests/golden/evaluation.py), the parser on answers of every kind, statistics against formulas.
#include "tests/media.h"
#include <cmath>
#include "core/json.h"
#include "core/rng.h"
#include "train/predictions.h"

using namespace merv;
using namespace merv::test;

namespace {

const Json& expected() {
    static const Json j = merv::read_json(golden("evaluation.json"));
    return j;
}

std::vector<Verdict> outcomes(const std::string& text, const std::string& method = "m") {       // "ynn-": right, wrong, wrong, none
    std::vector<Verdict> out;
    for (size_t i = 0; i < text.size(); i++)
        out.push_back({.id = std::to_string(i), .by = {{method, text[i] == 'y' ? Outcome::right : text[i] == 'n' ? Outcome::wrong : Outcome::none}}});
    return out;
}

}

TEST_CASE("scoring: prompts and verdicts on the reference's dummy set are its own script's") {
    const std::string q = shared("data/eval/merv_dummy_mcq_test_q.json"), a = shared("data/eval/merv_dummy_mcq_test_a.json");
    if (q.empty() || a.empty()) return;
    TempDir dir;
    std::filesystem::create_directories(dir / "dummy_mcq");
    std::filesystem::copy(q, dir / "dummy_mcq/test_q.json");
    std::filesystem::copy(a, dir / "dummy_mcq/test_a.json");
    const Benchmark b = read_benchmark(dir.path, "dummy_mcq");
    const Json& want = expected()["choices"];
    const auto predictions = expected()["predictions"].get<std::vector<std::string>>();
    for (size_t i = 0; i < b.questions.size(); i++) {
        EXPECT_EQ(want["prompts"][i]["id"].get<std::string>(), b.questions[i].id);
        EXPECT_EQ(want["prompts"][i]["sha256"].get<std::string>(), sha256_of(question_prompt(b.questions[i])));
        EXPECT_EQ(want["token_prompts"][i]["sha256"].get<std::string>(), sha256_of(question_prompt(b.questions[i], true)));
        EXPECT_EQ(want["prompts"][i]["letter"].get<std::string>(), std::string(1, letter(b.questions[i].answer_id)));
    }
    for (size_t first = 0; first < predictions.size(); first++) {
        std::string verdicts;
        for (size_t i = 0; i < b.questions.size(); i++) verdicts += reference_correct(predictions[(first + i) % predictions.size()], letter(b.questions[i].answer_id)) ? 'y' : 'n';
        EXPECT_EQ(verdicts, want["verdicts"][first].get<std::string>());
    }
}

TEST_CASE("scoring: prompts, to the letter") {
    const Question choice{.text = "Q?", .options = {"x", "y", "z"}, .letters = 2};
    EXPECT_EQ(question_prompt(choice), "Q? Select the correct answer from the following options. Write your answer as only one of A, B and nothing else.\n\n    A. x\nB. y\nC. z");
    EXPECT_EQ(question_prompt(choice, true).substr(0, 10), "<video>\nQ?");
    EXPECT_EQ(question_prompt({.text = "Q?"}), "Q?");
    EXPECT_EQ(question_prompt({.text = "Q?"}, true), "Q?\n<video>");
}

TEST_CASE("scoring: the parser finds the option that is meant, or says that there is none") {
    const std::vector<std::string> options = {"a dog", "two cats", "The cats", "nothing at all"};
    const std::pair<const char*, int> cases[] = {
        {"B", 1}, {"b", 1}, {"(b)", 1}, {" B.", 1}, {"**C**", 2}, {"B) two cats", 1}, {"B. a dog", 1}, {"[D]", 3}, {"A", 0}, {"a", 0}, {"A.", 0}, {"B\nbecause", 1},
        {"The answer is B", 1}, {"The correct answer is: (C).", 2}, {"the answer is d", 3}, {"Option B is right", 1}, {"I choose option C", 2}, {"Answer: B", 1}, {"My answer would be the letter D.", 3},
        {"I would say choice A is right", 0}, {"A dog", 0}, {"It is a dog.", 0}, {"There are two cats here", 1}, {"cats", 2}, {"Nothing at all!", 3},
        {"I think it must be B", 1}, {"An apple", -1}, {"", -1}, {"...", -1}, {"E", -1}, {"the answer is a mystery", -1}, {"a dog or two cats", -1}, {"The answer is B or the answer is C", -1},
        {"Both B and C", -1}, {"dogs", -1}, {"I do not know", -1}, {"Be careful", -1}, {"B's toy", -1}};
    for (const auto& [text, option] : cases) EXPECT_MESSAGE(parse_choice(text, options) == option, text << ": " << parse_choice(text, options) << " instead of " << option);
    EXPECT_EQ(parse_choice("The cat sat", {"cat", "the cat sat", "sat"}), 1);          // the longer text holds the others
    EXPECT_EQ(parse_choice("yes", {"yes", "yes"}), -1);
    EXPECT_EQ(parse_choice("A", {}), -1);
    for (int i = 0; i < kMostOptions; i++) EXPECT_EQ(parse_choice(std::string(1, letter(i)) + ".", std::vector<std::string>(kMostOptions, "x")), i);
}

TEST_CASE("scoring: words, first words, degenerate answers") {
    EXPECT_EQ(normalised("The  man's DOG, an apple!"), "mans dog apple");
    EXPECT_EQ(normalised(" a the an "), "");
    EXPECT_EQ(normalised("Füße"), "füße");
    EXPECT_EQ(first_word("  What's up?"), "what");
    EXPECT_EQ(first_word("?"), "");
    for (const char* s : {"", "!!!!!!!!!!!!!!!!!!!!", "abababababababababab", "is is is is is is is is "}) EXPECT_MESSAGE(degenerate(s), s);
    for (const char* s : {"A", "haha", "a man is walking", "no no no"}) EXPECT_MESSAGE(!degenerate(s), s);
}

TEST_CASE("scoring: rates and their standard error follow the formula") {
    const Rate r = rates(outcomes("yynny-nnn")).at("m");
    EXPECT_EQ(r.n, 8u);
    EXPECT_EQ(r.right, 3u);
    EXPECT_EQ(r.none, 1u);
    double mean = 3.0 / 8, variance = 0;
    for (double x : {1, 1, 0, 0, 1, 0, 0, 0}) variance += (x - mean) * (x - mean) / 7;
    EXPECT_EQ(r.standard_error(), doctest::Approx(std::sqrt(variance / 8)).epsilon(1e-12));
    EXPECT(std::isnan(rates(outcomes("y")).at("m").standard_error()));
    auto v = outcomes("yny");
    v[0].category = v[2].category = "x", v[1].category = "y";
    const auto groups = rates_by(v, &Verdict::category);
    EXPECT_EQ(groups.size(), 2u);
    EXPECT_EQ(groups.at("x").at("m").accuracy(), 1.0);
    EXPECT(rates_by(v, &Verdict::word).empty());
}

TEST_CASE("scoring: the paired bootstrap's interval is the normal one, its p the sign of a difference") {
    std::string a, b;
    const Rng rng(3, "runs");
    for (uint64_t i = 0; i < 2000; i++) a += rng.uniform(2 * i) < 0.5 ? 'y' : 'n', b += rng.uniform(2 * i + 1) < 0.25 ? (a.back() == 'y' ? 'n' : 'y') : a.back();
    const Comparison c = compare_runs(outcomes(a), outcomes(b), "m", 4000);
    double sum = 0, squares = 0;
    for (size_t i = 0; i < a.size(); i++) { const int d = int(b[i] == 'y') - int(a[i] == 'y'); sum += d, squares += d * d; }
    const double n = double(a.size()), deviation = std::sqrt((squares / n - sum / n * sum / n) / n);
    EXPECT_EQ(c.difference, doctest::Approx(sum / n));
    EXPECT_EQ((c.high - c.low) / 2, doctest::Approx(1.96 * deviation).epsilon(0.06));
    EXPECT_EQ(c.only_second - double(c.only_first), sum);
    EXPECT_EQ(compare_runs(outcomes(a), outcomes(b), "m", 100).low, compare_runs(outcomes(a), outcomes(b), "m", 100).low);
    EXPECT_EQ(compare_runs(outcomes(a), outcomes(a), "m", 100).p, 1.0);
    EXPECT_LT(compare_runs(outcomes(std::string(40, 'n')), outcomes(std::string(30, 'y') + std::string(10, 'n')), "m", 1000).p, 0.01);
    EXPECT_EQ(compare_runs(outcomes("y-n"), outcomes("nyy"), "m", 10).n, 2u);            // what has no verdict in one is in no pair
    EXPECT_EQ(compare_runs(outcomes("y"), outcomes("y"), "other", 10).n, 0u);
}

TEST_CASE("scoring: records of predictions, and of the reference's files, become verdicts") {
    const Json choice = Json::parse(R"({"question_id": 3, "question": "Why not?", "options": ["x", "y"], "answer_id": 1, "pred": "The answer is B", "likelihoods": [-1, -2], "category": "c", "subset": "s"})");
    const Verdict v = verdict_of(choice);
    EXPECT_EQ(v.id, "3");
    EXPECT_EQ(v.word, "why");
    EXPECT(v.by == std::map<std::string, Outcome>{{"likelihood", Outcome::wrong}, {"parser", Outcome::right}, {"reference", Outcome::wrong}});
    EXPECT(verdict_of(Json::parse(R"({"question_id": "1", "question": "q", "answer": "A dog", "pred": "dog."})")).by == std::map<std::string, Outcome>{{"exact", Outcome::right}});
    EXPECT(verdict_of(Json::parse(R"({"question_id": "1", "question": "q", "options": ["x"], "pred": "x"})")).by.empty());
    TempDir dir;
    write_file(dir / "x_gpt.json", R"({"1": [{"pred": "yes", "score": 4}, {"q": "What?", "a": "a", "pred": "b"}], "2": [{"pred": "malformed", "score": null}, {"q": "What?", "a": "a", "pred": "a"}]})");
    const auto judged = read_verdicts(dir / "x_gpt.json");
    EXPECT(judged[0].by.at("judge") == Outcome::right);
    EXPECT(judged[1].by.at("judge") == Outcome::none);
    EXPECT_EQ(rates_json(judged)["mean_judge_score"].get<double>(), 4);
    EXPECT_EQ(rates_json(judged)["scores"]["judge"]["without_verdict"].get<int>(), 1);
    EXPECT_SAYS(rates_table(judged), "| word what |");
    write_file(dir / "x_gpt.json", "{\"1\": []}");
    EXPECT_SAYS(error_of(Exit::bad_data, [&] { read_verdicts(dir / "x_gpt.json"); }), "is not [verdict, record]");
    write_file(dir / "x.jsonl", "{\"question_id\": \"1\", \"options\": 3, \"answer_id\": 0}\n");
    EXPECT_SAYS(error_of(Exit::bad_data, [&] { read_verdicts(dir / "x.jsonl"); }), "is damaged");
}
