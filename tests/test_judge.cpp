// train/judge: requests byte for byte the reference's, replies read as it reads them and, beside it, as they were meant (tests/golden/evaluation.py).
#include "tests/media.h"
#include "core/json.h"
#include "train/judge.h"
#include "train/predictions.h"

using namespace merv;
using namespace merv::test;

namespace {

const Json& expected() {
    static const Json j = merv::read_json(golden("evaluation.json"));
    return j;
}

}

TEST_CASE("judge: requests have the reference's bytes") {
    const Json& odd = expected()["odd"];
    for (size_t i = 0; i < odd.size(); i++) {
        const std::string line = judge_request({std::to_string(i), odd[i]["question"].get<std::string>(), odd[i]["answer"].get<std::string>(), odd[i]["pred"].get<std::string>()});
        if (i == 1) EXPECT_EQ(line, expected()["odd_request"].get<std::string>());
        EXPECT_EQ(sha256_of(line), expected()["odd_requests_sha256"][i].get<std::string>());
    }
    const std::string q = shared("data/eval/merv_dummy_openended_test_q.json"), a = shared("data/eval/merv_dummy_openended_test_a.json");
    if (q.empty() || a.empty()) return;
    const Json questions = merv::read_json(q), answers = merv::read_json(a), &predictions = expected()["predictions"];
    for (size_t i = 0; i < questions.size(); i++)
        EXPECT_EQ(sha256_of(judge_request({std::to_string(i), questions[i]["question"].get<std::string>(), answers[i]["answer"].get<std::string>(), predictions[i % predictions.size()].get<std::string>()})),
                  expected()["dummy_requests_sha256"][i].get<std::string>());
    EXPECT_EQ(judge_prompt_hash().size(), 64u);
}

TEST_CASE("judge: replies are what the reference takes them for; what it counts as no for want of a verdict has none here") {
    double score = 0, yes = 0;
    const Json& replies = expected()["replies"];
    for (const Json& r : replies) {
        const std::string content = r["content"].get<std::string>(), pred = r["pred"].get<std::string>();
        CAPTURE(content);
        const auto literal = literal_reply(content);
        EXPECT_EQ(literal && literal->yes, contains(pred == "Yes" ? "yes" : pred, "yes"));
        EXPECT_EQ(literal ? literal->score : 0, r["score"].get<double>());
        if (literal) score += literal->score, yes += literal->yes;
    }
    EXPECT_EQ(score / double(replies.size() + 1), doctest::Approx(expected()["score"].get<double>()));         // one reply was missing
    EXPECT_EQ(yes / double(replies.size() + 1), doctest::Approx(expected()["accuracy"].get<double>()));

    struct { const char* content; int yes; double score; } meant[] = {                     // yes: -1, no verdict
        {"{'pred': 'yes', 'score': 4}", 1, 4}, {"```python\n{'pred': 'yes', 'score': 4}\n```", 1, 4}, {"Sure! {\"pred\": \"No.\", \"score\": \"2\"} Bye", 0, 2}, {"{}\n{'pred': 'no', 'score': 0}", 0, 0},
        {"{'pred': 'yes', 'score': 4.8}", 1, 4.8}, {"{\"pred\": \"yes\", \"score\": 3, \"x\": null}", 1, 3}, {"yes", -1, 0}, {"", -1, 0}, {"{'pred': 'maybe', 'score': 2}", -1, 0},
        {"{'pred': 'yes'}", -1, 0}, {"{'pred': 'yes', 'score': 6}", -1, 0}, {"{'pred': 'yes', 'score': 'x'}", -1, 0}, {"{'pred': 'not yes', 'score': 2}", -1, 0}, {"{'pred': 'yes', 'score': 4", -1, 0},
        {"{'pred': 1, 'score': 4}", -1, 0}, {"{'pred': 'yes', 'score': nan}", -1, 0}, {"{{{'pred': 'yes', 'score': 1}}}", 1, 1}};
    for (const auto& m : meant) {
        CAPTURE(m.content);
        const auto reply = tolerant_reply(m.content);
        EXPECT_EQ(reply ? int(reply->yes) : -1, m.yes);
        if (reply) EXPECT_EQ(reply->score, m.score);
    }
}

TEST_CASE("judge: files of a batch split where the reference splits them") {
    const size_t mib = size_t(1) << 20;
    EXPECT(batch_files({}).empty());
    EXPECT(batch_files(std::vector<size_t>(49001, 1)) == std::vector<size_t>{0});          // as the reference counts: a new one begins with more than 49000 in the old
    EXPECT(batch_files(std::vector<size_t>(49002, 1)) == std::vector<size_t>{0, 49001});
    EXPECT(batch_files({100 * mib, 90 * mib, 1, 200 * mib, 1}) == std::vector<size_t>{0, 2, 3, 4});
}

TEST_CASE("judge: a batch's lines: answers, errors, refusals and rubbish") {
    auto line = [](const std::string& s) { return read_batch_line(s, "r"); };
    const BatchReply ok = line(R"({"custom_id": "7", "response": {"status_code": 200, "body": {"model": "m", "choices": [{"message": {"content": "{'pred': 'no', 'score': 1}"}}]}}})");
    EXPECT_EQ(ok.id, "7");
    EXPECT_EQ(ok.model, "m");
    EXPECT(ok.state == ReplyState::valid);
    EXPECT_FALSE(ok.reply->yes);
    EXPECT(line(R"({"custom_id": "7", "response": {"body": {"choices": [{"message": {"content": "I cannot"}}]}}})").state == ReplyState::malformed);
    for (const char* s : {R"({"custom_id": "7", "response": null, "error": {"code": "expired"}})", R"({"custom_id": "7"})", R"({"custom_id": "7", "response": {"status_code": 500, "body": {}}})",
                          R"({"custom_id": "7", "response": {"body": {"choices": []}}})", R"({"custom_id": "7", "response": {"body": {"choices": [{"message": {"content": null}}]}}})"})
        EXPECT_MESSAGE(line(s).state == ReplyState::missing, s);
    for (const char* s : {"", "[]", "{}", "{\"custom_id\": 7}", "not json"}) EXPECT_MESSAGE(error_of(Exit::bad_data, [&] { line(s); }) != "", s);
}
