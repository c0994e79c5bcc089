// data/benchmarks and data/convert: the reference's dummy sets, and samples of the benchmarks' real files turned into that layout and read back.
#include "tests/media.h"
#include <algorithm>
#include <set>
#include "core/json.h"
#include "data/benchmarks.h"
#include "data/convert.h"

using namespace merv;
using namespace merv::test;
namespace fs = std::filesystem;

namespace {

// What a converter makes of a file, read back as a benchmark.
Benchmark converted(const Convert& c) {
    const Converted done = convert(c);
    TempDir dir;
    fs::create_directories(dir / "B/videos");
    write_file(dir / "B/test_q.json", done.questions);
    if (!done.answers.empty()) write_file(dir / "B/test_a.json", done.answers);
    Benchmark b = read_benchmark(dir.path, "B");
    EXPECT_EQ(b.questions.size(), done.count);
    EXPECT_EQ(size_t(std::count_if(b.questions.begin(), b.questions.end(), [](const Question& q) { return q.answered; })), done.answered);
    return b;
}
std::string converting(const Convert& c, Exit code = Exit::bad_data) { return error_of(code, [&] { convert(c); }); }

struct Layout {
    TempDir dir;
    Layout(const std::string& q, const std::string& a = "") {
        fs::create_directories(dir / "B/videos");
        write_file(dir / "B/test_q.json", q);
        if (!a.empty()) write_file(dir / "B/test_a.json", a);
    }
    Benchmark read() const { return read_benchmark(dir.path, "B"); }
    std::string error() const { return error_of(Exit::bad_data, [&] { read(); }); }
};

}

TEST_CASE("benchmarks: the reference's dummy sets are read as they are") {
    const std::string q = shared("data/eval/merv_dummy_mcq_test_q.json"), a = shared("data/eval/merv_dummy_mcq_test_a.json");
    if (q.empty() || a.empty()) return;
    const Benchmark mcq = Layout(merv::read_text(q), merv::read_text(a)).read();
    REQUIRE_EQ(mcq.questions.size(), 9u);
    const Question& first = mcq.questions[0];
    EXPECT_EQ(first.video, "video_10336");
    EXPECT_EQ(first.id, "mcvqa_10336_0");
    EXPECT_EQ(first.letters, 3);
    EXPECT(first.options == std::vector<std::string>{"static or shaking", "I don't know", "moving"});
    EXPECT_EQ(first.answer_id, 2);
    EXPECT_EQ(first.answer, "moving");
    EXPECT_EQ(first.range.end_frame.value(), 595);
    const Benchmark open = Layout(merv::read_text(shared("data/eval/merv_dummy_openended_test_q.json")), merv::read_text(shared("data/eval/merv_dummy_openended_test_a.json"))).read();
    REQUIRE_EQ(open.questions.size(), 9u);
    EXPECT_FALSE(open.questions[0].choice());
    EXPECT_EQ(open.questions[8].answer, "show");
}

TEST_CASE("benchmarks: times, NaN, ids as numbers, and what may be left out") {
    const Benchmark b = Layout(R"([{"video_name": "a", "question_id": 7, "question": "NaN \"NaN\" \\", "options": ["x", "y"], "time": [NaN, NaN]},
        {"video_name": "a", "question_id": "8", "question": "q", "options": ["x", "y"], "num_option": 2, "time": [1.5, Infinity], "end_frame": -1, "extra": null}])").read();
    EXPECT_EQ(b.questions[0].id, "7");
    EXPECT_EQ(b.questions[0].text, "NaN \"NaN\" \\");
    EXPECT_FALSE(b.questions[0].range.start.has_value());
    EXPECT_EQ(b.questions[0].letters, 2);
    EXPECT_EQ(b.questions[1].range.start.value(), 1.5);
    EXPECT_FALSE(b.questions[1].range.end.has_value());
    EXPECT_FALSE(b.questions[1].range.end_frame.has_value());
    EXPECT_FALSE(b.questions[1].answered);
    EXPECT_EQ(b.answer_file, "");
}

TEST_CASE("benchmarks: what is wrong is said with the file and the record") {
    const std::string q = R"({"video_name": "a", "question_id": "1", "question": "q"})", choice = R"({"video_name": "a", "question_id": "1", "question": "q", "options": ["x"]})";
    EXPECT_SAYS(Layout("{}").error(), "test_q.json: a list of records is expected");
    EXPECT_SAYS(Layout("[]").error(), "holds no question");
    EXPECT_SAYS(Layout("[1]").error(), "record 0: not an object");
    EXPECT_SAYS(Layout("[" + q + "," + q + "]").error(), "record 1: the question_id 1 is there twice");
    EXPECT_SAYS(Layout(R"([{"question_id": "1", "question": "q"}])").error(), "record 0: no \"video_name\"");
    EXPECT_SAYS(Layout(R"([{"video_name": [], "question_id": "1", "question": "q"}])").error(), "\"video_name\" is neither");
    EXPECT_SAYS(Layout(R"([{"video_name": "a", "question_id": "1", "question": "q", "options": []}])").error(), "\"options\" is no list");
    EXPECT_SAYS(Layout(R"([{"video_name": "a", "question_id": "1", "question": "q", "options": [1]}])").error(), "option 0 is not a text");
    EXPECT_SAYS(Layout(R"([{"video_name": "a", "question_id": "1", "question": "q", "options": ["x"], "num_option": 27}])").error(), "\"num_option\" is 27");
    EXPECT_SAYS(Layout(R"([{"video_name": "a", "question_id": "1", "question": "q", "time": [1]}])").error(), "\"time\" is [1]");
    EXPECT_SAYS(Layout(R"([{"video_name": "a", "question_id": "1", "question": "q", "time": [-1, 2]}])").error(), "seconds from 0 on");
    EXPECT_SAYS(Layout("[" + q + "]", "[]").error(), "no answer to question 1");
    EXPECT_SAYS(Layout("[" + choice + "]", R"([{"question_id": "1", "answer_id": 1, "answer": "x"}])").error(), "\"answer_id\" is 1; a whole number from 0 to 0");
    EXPECT_SAYS(Layout("[" + choice + "]", R"([{"question_id": "1", "answer": "x"}])").error(), "no \"answer_id\"");
    EXPECT_SAYS(Layout(std::string(10'000, '[')).error(), "test_q.json");
    EXPECT_SAYS(error_of(Exit::bad_data, [] { read_benchmark("/nowhere", "B"); }), "no such folder");
    EXPECT_SAYS(error_of(Exit::usage, [] { read_benchmark("x", "../B"); }), "no name of a benchmark");
}

TEST_CASE("benchmarks: chunks are the reference's, and together they are the whole") {
    EXPECT(chunk(10, 4, 0) == std::pair<size_t, size_t>{0, 3});
    EXPECT(chunk(10, 4, 3) == std::pair<size_t, size_t>{9, 10});
    EXPECT(chunk(4, 3, 2) == std::pair<size_t, size_t>{4, 4});         // where the reference fails with an IndexError
    for (size_t size : {0, 1, 7, 100})
        for (int64_t n : {1, 2, 3, 8, 101}) {
            size_t end = 0;
            for (int64_t k = 0; k < n; k++) {
                EXPECT_EQ(chunk(size, n, k).first, std::min(end, size));
                end = chunk(size, n, k).second;
            }
            EXPECT_EQ(end, size);
        }
}

TEST_CASE("benchmarks: a video is found by its name, folders first, and never outside") {
    TempDir dir;
    for (const char* d : {"v/folder", "v/sub"}) fs::create_directories(dir / d);
    for (const char* f : {"v/a.mp4", "v/a.avi", "v/ab.mp4", "v/folder.mp4", "v/sub/c.d.mkv", "outside.mp4"}) write_file(dir / f, "x");
    VideoFolder v(dir / "v");
    EXPECT_EQ(v.find("a"), dir / "v/a.avi");
    EXPECT_EQ(v.find("ab"), dir / "v/ab.mp4");
    EXPECT_EQ(v.find("folder"), dir / "v/folder");
    EXPECT_EQ(v.find("sub/c.d"), dir / "v/sub/c.d.mkv");
    for (const char* name : {"b", "sub/x", "", "none/x"}) EXPECT_NE(error_of(Exit::bad_data, [&] { v.find(name); }), "");
    for (const char* name : {"../outside", "sub/../../outside", "/etc/passwd"}) EXPECT_NE(error_of(Exit::bad_data, [&] { v.find(name); }), "");
}

TEST_CASE("convert: MSVD-QA, MSRVTT-QA, TGIF-FrameQA and ActivityNet-QA from samples of their files") {
    const std::string msvd = shared("data/eval/msvd_qa_test_first100.json"), msrvtt = shared("data/eval/msrvtt_qa_test_first200.csv"), tgif = shared("data/eval/tgif_frameqa_test_first101.tsv"),
                      anet = shared("data/eval/activitynet_qa_test_q_first100.json");
    if (msvd.empty() || msrvtt.empty() || tgif.empty() || anet.empty()) return;
    const Benchmark a = converted({.benchmark = "msvd-qa", .in = msvd});
    EXPECT_EQ(a.questions.size(), 100u);
    EXPECT_EQ(a.questions[0].video, "vid1451");
    EXPECT_EQ(a.questions[0].id, "37348");
    EXPECT_EQ(a.questions[1].answer, "rifle");
    TempDir dir;
    write_file(dir / "map.txt", "abc_1_2 vid1451\n");
    EXPECT_SAYS(converting({.benchmark = "msvd-qa", .in = msvd, .mapping = dir / "map.txt"}), "has no vid");
    const Benchmark b = converted({.benchmark = "msrvtt-qa", .in = msrvtt});
    EXPECT_EQ(b.questions.size(), 199u);
    EXPECT_EQ(b.questions[3].text, "what is a person provides instructions on doing");
    EXPECT_EQ(b.questions[3].answer, "search");
    EXPECT_EQ(b.questions[3].video, "video7010");
    const Benchmark c = converted({.benchmark = "tgif-frameqa", .in = tgif});
    EXPECT_EQ(c.questions.size(), 100u);
    EXPECT_EQ(c.questions[0].video, "tumblr_no73q2fm0I1uuf348o1_250");
    EXPECT_EQ(c.questions[0].id, "FRAMEQA1159");
    EXPECT_EQ(c.questions[1].category, "location");
    EXPECT_EQ(c.questions[2].answer, "two");
    EXPECT_EQ(c.questions[2].category, "number");
    const Benchmark d = converted({.benchmark = "activitynet-qa", .in = anet, .answers = {}});         // test_a.. lies beside it
    EXPECT_EQ(d.questions.size(), 100u);
    EXPECT_EQ(d.questions[1].video, "v_9eniCub7u60");
    EXPECT_EQ(d.questions[1].answer, "yes");
    EXPECT_EQ(d.questions[1].category, "yes/no");
}

TEST_CASE("convert: NExT-QA, VLEP and TVQA from samples of their files") {
    const std::string next = shared("data/eval/nextqa_val_first60.csv"), vlep = shared("data/eval/vlep_dev_first50.jsonl"), tvqa = shared("data/eval/tvqa_test_public_first50.jsonl");
    if (next.empty() || vlep.empty() || tvqa.empty()) return;
    const Benchmark a = converted({.benchmark = "next-qa", .in = next});
    EXPECT_EQ(a.questions.size(), 59u);
    EXPECT_EQ(a.questions[0].id, "CH_4010069381_6");
    EXPECT_EQ(a.questions[0].answer, "roll the handle");
    EXPECT_EQ(a.questions[2].answer_id, 2);
    EXPECT_EQ(a.questions[19].category, "DL");
    EXPECT_EQ(a.questions[19].subset, "descriptive");
    const Benchmark b = converted({.benchmark = "vlep", .in = vlep});
    EXPECT_EQ(b.questions.size(), 50u);
    EXPECT_EQ(b.questions[1].id, "20143");
    EXPECT_EQ(b.questions[1].answer_id, 1);
    EXPECT_EQ(b.questions[0].range.start.value(), 38.81);
    EXPECT_EQ(b.questions[0].letters, 2);
    const Benchmark c = converted({.benchmark = "tvqa", .in = tvqa});
    EXPECT_EQ(c.questions.size(), 50u);
    EXPECT_FALSE(c.questions[0].answered);                  // the public test set keeps its answers secret
    EXPECT_EQ(c.questions[0].video, "s03e21_seg02_clip_08");
    EXPECT_EQ(c.questions[0].range.end.value(), 60.02);
    EXPECT_EQ(c.questions[0].options[2], "Stan Lee.");
    TempDir dir;
    write_file(dir / "v.jsonl", R"({"a0":"p","a1":"q","a2":"r","a3":"s","a4":"t","q":"?","qid":1,"ts":"nan-nan","vid_name":"v","answer_idx":"3"})");
    const Benchmark d = converted({.benchmark = "tvqa", .in = dir / "v.jsonl"});
    EXPECT_FALSE(d.questions[0].range.start.has_value());
    EXPECT_EQ(d.questions[0].answer, "s");
}

TEST_CASE("convert: Perception Test as its description has it, MERV's own sample being the truth") {
    const std::string q = shared("data/eval/merv_dummy_mcq_test_q.json"), a = shared("data/eval/merv_dummy_mcq_test_a.json");
    if (q.empty() || a.empty()) return;
    const Json want_q = merv::read_json(q), want_a = merv::read_json(a);
    Json file, list = Json::array();
    for (size_t i = 0; i < want_q.size(); i++)
        list.push_back({{"id", i}, {"question", want_q[i]["question"]}, {"options", want_q[i]["options"]}, {"answer_id", want_a[i]["answer_id"]}, {"area", "physics"}});
    file["video_10336"] = {{"mc_question", list}};
    file["video_1"] = {{"object_tracking", Json::array()}};
    TempDir dir;
    write_file(dir / "all.json", file.dump());
    write_file(dir / "cut.json", R"({"video_10336": 595})");
    const Benchmark b = converted({.benchmark = "perception-test", .in = dir / "all.json", .mapping = dir / "cut.json"});
    REQUIRE_EQ(b.questions.size(), want_q.size());
    for (size_t i = 0; i < want_q.size(); i++) {
        Json got = Json::parse(b.questions[i].question_json), right = Json::parse(b.questions[i].answer_json);
        EXPECT_EQ(got["category"].get<std::string>(), "physics");
        got.erase("category");
        for (const auto& [key, value] : want_q[i].items()) EXPECT_MESSAGE(got[key] == value, key);
        EXPECT_EQ(got.size(), want_q[i].size());
        for (const auto& [key, value] : want_a[i].items()) EXPECT_MESSAGE(right[key] == value, key);
    }
}

TEST_CASE("convert: SSv2 becomes a choice of five, the same whatever stands beside a clip") {
    const std::string labels = shared("data/eval/ssv2_174_labels.txt");
    if (labels.empty()) return;
    std::vector<std::string> names;
    std::istringstream lines(merv::read_text(labels));
    for (std::string line; std::getline(lines, line);) names.push_back(line);
    REQUIRE_EQ(names.size(), 174u);
    for (const std::string& t : temporal_classes()) EXPECT_MESSAGE(std::count(names.begin(), names.end(), t) == 1, t);
    EXPECT_EQ(temporal_classes().size(), 12u);
    Json clips = Json::array();
    for (int i = 0; i < 2000; i++) clips.push_back({{"id", std::to_string(i)}, {"label", "x"}, {"template", "[" + names[size_t(i) % 174] + "]"}});
    TempDir dir;
    write_file(dir / "validation.json", clips.dump());
    const Convert c{.benchmark = "ssv2", .in = dir / "validation.json", .mapping = labels};
    const Benchmark b = converted(c);
    int place[5] = {}, temporal = 0;
    for (const Question& q : b.questions) {
        EXPECT_EQ(std::set<std::string>(q.options.begin(), q.options.end()).size(), 5u);
        EXPECT_EQ(q.answer, names[std::stoul(q.id) % 174]);
        EXPECT_EQ(q.text, "How is the object in the video being interacted with?");
        place[q.answer_id]++, temporal += q.subset == "temporal";
    }
    for (int n : place) EXPECT_LT(std::abs(n - 400), 72);                 // 4 deviations of a fair draw
    EXPECT_EQ(temporal, std::count_if(b.questions.begin(), b.questions.end(), [&](const Question& q) { return std::count(temporal_classes().begin(), temporal_classes().end(), q.answer); }));
    EXPECT_GT(temporal, 100);
    write_file(dir / "one.json", Json(std::vector<Json>{clips[1234]}).dump());
    EXPECT(converted({.benchmark = "ssv2", .in = dir / "one.json", .mapping = labels}).questions[0].options == b.questions[1234].options);
    EXPECT_NE(convert({.benchmark = "ssv2", .in = dir / "validation.json", .mapping = labels, .seed = 8}).questions, convert(c).questions);
    EXPECT_EQ(converted({.benchmark = "ssv2", .in = dir / "validation.json"}).questions[0].answer, "[Approaching something with your camera]");     // brackets as they stand in the file
    const Benchmark open = converted({.benchmark = "ssv2", .in = dir / "one.json", .mapping = labels, .open = true});
    EXPECT_FALSE(open.questions[0].choice());
    write_file(dir / "classes.txt", "Moving something up\n");
    EXPECT_EQ(converted({.benchmark = "ssv2", .in = dir / "validation.json", .mapping = labels, .temporal = dir / "classes.txt"}).questions.size(), 2000u);
    write_file(dir / "classes.txt", "Moving nothing\n");
    EXPECT_SAYS(converting({.benchmark = "ssv2", .in = dir / "validation.json", .mapping = labels, .temporal = dir / "classes.txt"}), "is none of the 174 classes");
    EXPECT_SAYS(converting({.benchmark = "ssv2", .in = dir / "one.json"}), "a choice needs 5");
}

TEST_CASE("convert: tables are split as RFC 4180 says, and damage is named") {
    EXPECT(parse_table("a,b\r\n\"x, \"\"y\"\"\n2\",\n\n3,4", ',', "t") == std::vector<std::vector<std::string>>{{"a", "b"}, {"x, \"y\"\n2", ""}, {"3", "4"}});
    EXPECT_SAYS(error_of(Exit::bad_data, [] { parse_table("a\n\"b", ',', "t"); }), "has no end");
    EXPECT_SAYS(error_of(Exit::bad_data, [] { parse_table("", ',', "t"); }), "no heading");
    TempDir dir;
    write_file(dir / "n.csv", "video,question,answer,qid,type,a0,a1,a2,a3,a4\n1,q,5,0,CW,a,b,c,d,e\n");
    EXPECT_SAYS(converting({.benchmark = "next-qa", .in = dir / "n.csv"}), "row 1: \"answer\" is 5; an option from 0 to 4");
    write_file(dir / "n.csv", "video,question\n1\n");
    EXPECT_SAYS(converting({.benchmark = "next-qa", .in = dir / "n.csv"}), "row 1: 1 fields under 2 headings");
    write_file(dir / "v.jsonl", "{\"example_id\": 1, \"vid_name\": \"v\", \"ts\": [0, 1], \"events\": [\"a\"]}\n");
    EXPECT_SAYS(converting({.benchmark = "vlep", .in = dir / "v.jsonl"}), "1 events instead of 2");
    write_file(dir / "v.jsonl", "{}\n[]\n");
    EXPECT_SAYS(converting({.benchmark = "vlep", .in = dir / "v.jsonl"}), "line 2: not an object");
    EXPECT_SAYS(converting({.benchmark = "nextqa", .in = "x"}, Exit::usage), "no benchmark 'nextqa'; they are msvd-qa, ");
    EXPECT_SAYS(converting({.benchmark = "vlep", .in = ""}, Exit::usage), "--in FILE is missing");
}

TEST_CASE("convert: as merv-data's command it writes a folder, and overwrites only when told") {
    TempDir dir;
    write_file(dir / "dev.jsonl", R"({"example_id": 2, "vid_name": "f", "ts": [1.5, 2], "events": ["A", "B"], "answer": 1})" "\n");
    auto command = [&](std::vector<std::string> words) {
        Flags flags("merv-data", "", convert_flags(), 1);
        std::vector<const char*> argv{"merv-data"};
        for (const std::string& w : words) argv.push_back(w.c_str());
        REQUIRE(flags.parse(int(argv.size()), argv.data()));
        return convert_main(flags);
    };
    const std::vector<std::string> words = {"vlep", "--in", dir / "dev.jsonl", "--out", dir / "eval/VLEP"};
    EXPECT_EQ(command(words), 0);
    const Benchmark b = read_benchmark(dir / "eval", "VLEP");
    EXPECT_EQ(b.questions[0].answer, "B");
    EXPECT(fs::is_directory(dir / "eval/VLEP/videos"));
    EXPECT_SAYS(error_of(Exit::usage, [&] { command(words); }), "test_q.json is there already; --force overwrites it");
    write_file(dir / "dev.jsonl", R"({"example_id": 3, "vid_name": "f", "ts": [1.5, 2], "events": ["A", "B"]})" "\n");
    std::vector<std::string> forced = words;
    forced.push_back("--force");
    EXPECT_EQ(command(forced), 0);
    EXPECT_FALSE(read_benchmark(dir / "eval", "VLEP").questions[0].answered);      // the old answers went with the old questions
    EXPECT_SAYS(error_of(Exit::usage, [&] { command({"vlep", "--in", dir / "dev.jsonl"}); }), "--out DIR is missing");
}
