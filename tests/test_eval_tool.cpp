// merv-eval as its user meets it, with merv-tiny on the bundled clip: what it answers is merv-ask's, and nothing is lost or made twice however it is stopped.
#include "tests/ask_program.h"
#include <cmath>
#include <sys/file.h>
#include <fcntl.h>
#include "models/load.h"
#include "train/evaluation.h"

using namespace merv;
using namespace merv::test;
namespace fs = std::filesystem;

namespace {

Run eval(const Words& arguments, const std::string& environment = "") { return run_program(built("merv-eval"), arguments, "MERV_ARG_DTYPE=f32 MERV_ARG_DEVICE=cpu " + environment); }

// Two benchmarks on two clips (one a folder link), seven questions each: "choice" and "open".
struct Data {
    TempDir dir;
    Data(bool broken = false) {
        for (const std::string b : {"choice", "open"}) {
            fs::create_directories(dir / b + "/videos");
            for (const std::string v : {"one", "two"}) fs::create_symlink(fs::absolute(kClip), dir / b + "/videos/" + v + ".mp4");
            if (broken) fs::remove(dir / b + "/videos/two.mp4"), write_file(dir / b + "/videos/two.mp4", "no video");
            Json q = Json::array(), a = Json::array();
            for (int i = 0; i < 7; i++) {
                const std::string id = concat("q", i), question = concat(i % 2 ? "What" : "Where", " is thing ", i, "?");
                q.push_back({{"video_name", i % 3 ? "one" : "two"}, {"question_id", id}, {"question", question}, {"category", i < 4 ? "early" : "late"}});
                if (i > 4) q.back()["time"] = {0.5, nullptr}, q.back()["subset"] = "temporal";
                if (b == "choice") q.back()["options"] = {"red", "green", "blue"}, q.back()["num_option"] = 3, a.push_back({{"question_id", id}, {"answer_id", i % 3}, {"answer", "x"}});
                else a.push_back({{"question_id", id}, {"answer", "mirror"}});
            }
            write_file(dir / b + "/test_q.json", q.dump()), write_file(dir / b + "/test_a.json", a.dump());
        }
    }
    Words run(const std::string& benchmark, const std::string& out, const std::string& tokens = "6") const {
        return {"run", "-m", kModel, "--eval-data", dir.path, "--eval-dataset", benchmark, "--out", dir / out, "-n", tokens};
    }
    std::string operator/(const std::string& name) const { return dir / name; }
};
const Data& data() {                                    // with `whole`, both benchmarks answered in one go
    static const Data* d = [] {
        auto* made = new Data;
        succeeded(eval(made->run("choice", "whole") + Words{"--dump-fusion"})), succeeded(eval(made->run("open", "whole")));
        return made;
    }();
    return *d;
}
std::vector<Json> records(const std::string& path) {
    std::vector<Json> out;
    for (const StoredRecord& r : read_records(path)) out.push_back(Json::parse(r.line));
    return out;
}

}

TEST_CASE("merv-eval: answers are merv-ask's, records have the reference's keys in its order") {
    const auto open = records(data() / "whole/open_pred_merge.jsonl"), choice = records(data() / "whole/choice_naive_pred_merge.jsonl");
    REQUIRE_EQ(open.size(), 7u);
    REQUIRE_EQ(choice.size(), 7u);
    for (size_t i = 0; i < 7; i++) EXPECT_EQ(open[i]["question_id"].get<std::string>(), concat("q", i));          // in the order of the questions, not of the clips
    const Json whole = answer({"-m", kModel, "--video", kClip, "-n", "6", "--prompt", open[0]["question"].get<std::string>(), "--prompt", choice[0]["question_text"].get<std::string>(), "--json"}).json();
    EXPECT_EQ(open[0]["pred"], whole["answers"][0]["text"]);
    EXPECT_EQ(choice[0]["pred"], whole["answers"][1]["text"]);
    for (const auto& [encoder, weight] : whole["fusion_weights"].items()) EXPECT_EQ(choice[0]["fusion_weights"][encoder].get<float>(), weight.get<float>());
    const Json late = answer({"-m", kModel, "--video", kClip, "-n", "6", "--clip-start", "0.5", "--prompt", open[5]["question"].get<std::string>(), "--json"}).json();
    EXPECT_EQ(open[5]["pred"], late["answers"][0]["text"]);
    std::vector<std::string> keys;
    for (const auto& [key, value] : choice[0].items()) keys.push_back(key);
    EXPECT(keys == std::vector<std::string>{"video_name", "question_id", "question", "category", "options", "num_option", "pred", "answer_id", "answer", "question_text", "answer_char", "likelihoods",
                                            "pred_tokens", "pred_ended", "fusion_weights"});
    EXPECT_FALSE(open[0].contains("fusion_weights"));
    EXPECT_EQ(open[0]["message"], open[0]["question"]);
    const Json judged = merv::read_json(data() / "whole/choice_naive_gpt.json");
    EXPECT_EQ(judged.size(), 7u);
    EXPECT_EQ(judged["q3"][0]["pred"].get<std::string>(), reference_correct(choice[3]["pred"].get<std::string>(), 'A') ? "yes" : "no");
    const Json results = merv::read_json(data() / "whole/choice_naive_results.json");
    EXPECT_EQ(results["counts"]["answered"].get<int>(), 7);
    EXPECT_EQ(results["scores"]["likelihood"]["n"].get<int>(), 7);
    EXPECT_EQ(results["by_category"]["early"]["reference"]["n"].get<int>(), 4);
    EXPECT_EQ(results["by_subset"]["temporal"]["parser"]["n"].get<int>(), 2);
    EXPECT_EQ(results["by_first_word"]["what"]["reference"]["n"].get<int>(), 3);
    EXPECT_EQ(results["sha256"]["predictions"].get<std::string>(), sha256_of(read_file(data() / "whole/choice_naive_pred_merge.jsonl")));
    EXPECT_EQ(results["settings"]["max_tokens"].get<int>(), 6);
    EXPECT_EQ(results["settings"]["model_fingerprint"].get<std::string>(), model_fingerprint(kModel));
}

TEST_CASE("merv-eval: the likelihood of a letter is that of the tokens that training would ask for") {
    const LoadedModel loaded = load_model(kModel, {.dtype = DType::f32});
    NoGrad inference;
    const Merv& m = loaded.merv;
    Answerer answerer(m, {.builder = builder_for(m.config.llm_backbone_id), .generate = {.max_tokens = 4, .sampling = {}, .stop = {}}});
    const Clip clip = read_clip(kClip, m.config.most_frames());
    answerer.look(m.encode(m.look(clip, {}), {}));
    const Question q{.text = "Which colour?", .options = {"red", "green"}, .letters = 2};
    const auto first = answerer.answer(question_prompt(q), 2);
    const Visual visual = m.see(clip, {});
    for (int i = 0; i < 2; i++) {
        Dialogue d(builder_for(m.config.llm_backbone_id));
        d.add_turn(Role::human, question_prompt(q));
        const std::string before = d.get_prompt();
        d.add_turn(Role::gpt, std::string(1, letter(i)));
        Merv::Sample sample{{}, {}, &visual};
        const std::string text = d.get_prompt();
        sample.ids = m.tokenizer.encode(text.substr(0, text.find(letter(i), before.size()) + 1));
        sample.ids.insert(sample.ids.begin(), m.tokenizer.bos());
        const size_t prompt = m.tokenizer.encode(before).size() + 1;
        sample.labels.assign(sample.ids.size(), -100);
        std::copy(sample.ids.begin() + std::ptrdiff_t(prompt), sample.ids.end(), sample.labels.begin() + std::ptrdiff_t(prompt));
        REQUIRE(sample.ids.size() > prompt);
        const double letters = double(sample.ids.size() - prompt);
        EXPECT_EQ(letters, i == 0 ? 2 : 1);             // its tokenizer has no piece " A", but one of " B"
        EXPECT_EQ(first.likelihoods[size_t(i)], doctest::Approx(-letters * double(m.loss({&sample, 1}).data<float>()[0])).epsilon(1e-5));
    }
    const auto again = answerer.answer(question_prompt(q), 2), plain = answerer.answer(question_prompt(q));      // nothing of one question reaches the next
    EXPECT(again.likelihoods == first.likelihoods);
    EXPECT_EQ(again.text, first.text);
    EXPECT_EQ(plain.text, first.text);
    EXPECT(plain.likelihoods.empty());
}

TEST_CASE("merv-eval: chunks of any number join to the same bytes, also if the number changes half way") {
    const Data d;
    for (const char* i : {"2", "0"}) succeeded(eval(d.run("choice", "three") + Words{"--dump-fusion", "--num-chunks", "3", "--chunk-idx", i}));
    EXPECT_FALSE(fs::exists(d / "three/choice_naive_pred_merge.jsonl"));
    EXPECT_SAYS(eval({"merge", "--eval-data", d.dir.path, "--eval-dataset", "choice", "--out", d / "three"}).err, "3 of 7 questions of choice have no prediction yet");
    const Run rest = succeeded(eval(d.run("choice", "three") + Words{"--dump-fusion", "--num-chunks", "1"}));        // takes over what two of three chunks have
    EXPECT_SAYS(rest.err, "7 questions, 4 answered before");
    const std::string whole = read_file(data() / "whole/choice_naive_pred_merge.jsonl");
    EXPECT_EQ(read_file(d / "three/choice_naive_pred_merge.jsonl"), whole);
    EXPECT_EQ(rest.out, succeeded(eval({"score", d / "three/choice_naive_pred_merge.jsonl"})).out);
    for (const char* what : {"computed", "read"}) {      // with a feature cache: the same bytes, whether it is filled or used
        CAPTURE(what);
        succeeded(eval(d.run("choice", "cached") + Words{"--dump-fusion", "--force", "--feature-cache", d / "cache"}));
        EXPECT_EQ(read_file(d / "cached/choice_naive_pred_merge.jsonl"), whole);
    }
    EXPECT_EQ(std::count_if(fs::recursive_directory_iterator(d / "cache"), {}, [](const auto& e) { return e.is_regular_file(); }), 2);      // two parts of one file
    const Run again = succeeded(eval(d.run("choice", "three") + Words{"--dump-fusion"}));                            // nothing left to do
    EXPECT_SAYS(again.err, "7 answered before, 0 clips to see");
    EXPECT_EQ(read_file(d / "three/choice_naive_pred_merge.jsonl"), whole);
}

TEST_CASE("merv-eval: killed at any record, with the last one torn, it goes on to the same bytes") {
    const std::string whole = read_file(data() / "whole/open_pred_merge.jsonl");
    const Data d;
    const std::string part = d / "killed/open_pred_1_0.jsonl";
    for (int after : {1, 3, 5}) {                       // each time the run of before goes on
        const pid_t pid = fork();
        if (pid == 0) {
            setenv("MERV_ARG_THREADS", "1", 1), setenv("MERV_ARG_DTYPE", "f32", 1), setenv("MERV_ARG_DEVICE", "cpu", 1);
            std::vector<std::string> words = d.run("open", "killed");
            words.insert(words.begin(), built("merv-eval"));
            words.push_back("-q");
            std::vector<char*> argv;
            for (std::string& w : words) argv.push_back(w.data());
            argv.push_back(nullptr);
            execv(argv[0], argv.data());
            _exit(127);
        }
        int status = 0;
        auto lines = [&] { const std::string text = read_file(part); return std::count(text.begin(), text.end(), '\n'); };
        while (lines() < after && waitpid(pid, &status, WNOHANG) == 0) usleep(200);
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        if (fs::exists(part)) std::ofstream(part, std::ios::app) << "{\"video_name\": \"one\", \"question_id\": \"q6\", \"pr";      // torn in the middle of a write
    }
    if (fs::exists(d / "killed/open_pred_1_0_done.jsonl")) MESSAGE("the last run was through before it could be killed");
    succeeded(eval(d.run("open", "killed")));
    EXPECT_EQ(read_file(d / "killed/open_pred_merge.jsonl"), whole);
    EXPECT_EQ(records(d / "killed/open_pred_1_0_done.jsonl").size(), 7u);           // none twice
}

TEST_CASE("merv-eval: a bad video costs its own questions and exit code 8; mended, the run is completed") {
    const Data d(true);
    const Run r = eval(d.run("open", "out"));
    EXPECT_EQ(r.code, 8);
    EXPECT_SAYS(r.err, "two.mp4");
    const Json results = merv::read_json(d / "out/open_results.json");
    EXPECT_EQ(results["counts"]["answered"].get<int>(), 4);
    EXPECT_EQ(results["counts"]["failed"].get<int>(), 3);
    EXPECT_EQ(results["failures"][0]["question_id"].get<std::string>(), "q0");
    EXPECT_SAYS(results["failures"][0]["error"].get<std::string>(), "two.mp4");
    EXPECT_EQ(results["scores"]["exact"]["n"].get<int>(), 4);
    fs::remove(d / "open/videos/two.mp4");
    EXPECT_EQ(eval(d.run("open", "out")).code, 8);      // missing altogether: the same
    fs::create_symlink(fs::absolute(kClip), d / "open/videos/two.mp4");
    succeeded(eval(d.run("open", "out")));
    EXPECT_EQ(read_file(d / "out/open_pred_merge.jsonl"), read_file(data() / "whole/open_pred_merge.jsonl"));
}

TEST_CASE("merv-eval: predictions of other settings are never mixed, and a chunk has one worker") {
    const Data d;
    succeeded(eval(d.run("open", "out")));
    const Run other = eval(d.run("open", "out", "7"));
    EXPECT_EQ(other.code, 2);
    EXPECT_SAYS(other.err, "this chunk was begun with another max_tokens (6, now 7)");
    succeeded(eval(d.run("open", "out", "7") + Words{"--force"}));
    EXPECT_EQ(merv::read_json(d / "out/open_results.json")["settings"]["max_tokens"].get<int>(), 7);
    fs::rename(d / "out/open_pred_1_0_done.jsonl", d / "out/open_pred_1_0.jsonl");
    const int fd = open((d / "out/open_pred_1_0.jsonl").c_str(), O_RDWR);
    REQUIRE_EQ(flock(fd, LOCK_EX), 0);
    const Run second = eval(d.run("open", "out", "7"));
    EXPECT_EQ(second.code, 2);
    EXPECT_SAYS(second.err, "another merv-eval is working on this chunk");
    close(fd);
    fs::remove(d / "out/open_settings_1_0.json");
    EXPECT_SAYS(eval(d.run("open", "out")).err, "is missing); --force begins anew");
}

TEST_CASE("merv-eval: a disk without room leaves what was answered") {
    if (!fs::exists("/dev/full")) return skip("no /dev/full here");
    const Data d;
    succeeded(eval(d.run("open", "out")));              // for the settings beside it
    for (const char* file : {"open_pred_1_0_done.jsonl", "open_pred_merge.jsonl"}) fs::remove(d / (std::string("out/") + file));
    fs::create_symlink("/dev/full", d / "out/open_pred_1_0.jsonl");
    const Run r = eval(d.run("open", "out"));
    EXPECT_EQ(r.code, 1);
    EXPECT_SAYS(r.err, "out/open_pred_1_0.jsonl");
}

TEST_CASE("merv-eval: the judge's files: requests, replies in two rounds, verdicts of three kinds") {
    const Data& d = data();
    TempDir dir;
    const std::string predictions = d / "whole/open_pred_merge.jsonl";
    EXPECT_EQ(succeeded(eval({"judge-requests", predictions, "--out", dir / "r"})).out, dir / "r_0.jsonl\n");
    const std::string sent = read_file(dir / "r_0.jsonl");
    EXPECT_EQ(std::count(sent.begin(), sent.end(), '\n'), 6);
    EXPECT_EQ(Json::parse(sent.substr(0, sent.find('\n')))["custom_id"].get<std::string>(), "q0");
    auto reply = [](int i, const std::string& content) { return Json{{"custom_id", concat("q", i)}, {"response", {{"status_code", 200}, {"body", {{"model", "judge-1"}, {"choices", Json::array({{{"message", {{"content", content}}}}})}}}}}}.dump() + "\n"; };
    write_file(dir / "a.jsonl", reply(0, "{'pred': 'yes', 'score': 5}") + reply(1, "{'pred': 'no', 'score': 2}") + reply(2, "no idea") + "{\"custom_id\": \"q3\", \"response\": null}\n" + reply(9, "{'pred': 'no', 'score': 2}") +
                               reply(4, "```\n{'pred': 'yes', 'score': 3}\n```"));
    const Run first = eval({"judge-merge", predictions, "--replies", dir / "a.jsonl", "--out", dir / "j"});
    EXPECT_EQ(first.code, 8);
    EXPECT_SAYS(first.out, "yes 2, no 1, malformed 1, missing 3; mean score 3.3333; the reference's script: accuracy 0.1429, score 1.0000");
    EXPECT_SAYS(first.err, "1 replies are to questions");
    Json results = merv::read_json(dir / "j_judge_results.json");
    EXPECT_EQ(results["scores"]["judge"]["accuracy"].get<double>(), doctest::Approx(2.0 / 3));
    EXPECT_EQ(results["judge"]["model"].get<std::string>(), "judge-1");
    EXPECT_EQ(merv::read_json(dir / "j_gpt.json")["q2"][0]["pred"].get<std::string>(), "malformed");
    succeeded(eval({"judge-requests", predictions, "--out", dir / "again", "--replies", dir / "a.jsonl"}));           // only what has no verdict
    const std::string rest = read_file(dir / "again_0.jsonl");
    EXPECT_EQ(std::count(rest.begin(), rest.end(), '\n'), 3);
    write_file(dir / "b.jsonl", reply(2, "{'pred': 'yes', 'score': 5}") + reply(3, "{'pred': 'yes', 'score': 5}") + reply(5, "{'pred': 'yes', 'score': 5}") + reply(6, "{'pred': 'yes', 'score': 5}") + reply(0, "broken"));
    EXPECT_SAYS(succeeded(eval({"judge-merge", predictions, "--replies", dir / "a.jsonl", "--replies", dir / "b.jsonl", "--out", dir / "j"})).out, "yes 6, no 1, malformed 0, missing 0");
    EXPECT_EQ(eval({"judge-merge", predictions}).code, 2);
    EXPECT_SAYS(eval({"judge-requests", d / "whole/choice_naive_pred_merge.jsonl"}).err, "holds choices, which need no judge");
    write_file(dir / "c.jsonl", "rubbish\n");
    EXPECT_EQ(eval({"judge-merge", predictions, "--replies", dir / "c.jsonl"}).code, 3);
}

TEST_CASE("merv-eval: scores, comparisons and pictures of stored predictions need no model") {
    const Data& d = data();
    const std::string choice = d / "whole/choice_naive_pred_merge.jsonl";
    EXPECT_SAYS(succeeded(eval({"score", choice})).out, "| subset temporal |");
    EXPECT_EQ(succeeded(eval({"score", choice, "--json"})).json()["scores"], merv::read_json(d / "whole/choice_naive_results.json")["scores"]);
    TempDir dir;
    std::string better;                                 // the same questions, all answered rightly
    for (Json r : records(choice)) r["pred"] = r["answer_char"], better += r.dump() + "\n";
    fs::create_directories(dir / "better");
    write_file(dir / "better/x_pred_merge.jsonl", better);
    const Json c = succeeded(eval({"compare", choice, dir / "better/x_pred_merge.jsonl", "--json"})).json();
    EXPECT_EQ(c["n"].get<int>(), 7);
    EXPECT_EQ(c["only_first"].get<int>(), 0);
    EXPECT_GT(c["difference"].get<double>(), 0);
    EXPECT_SAYS(eval({"compare", choice, dir / "better/x_pred_merge.jsonl", "--method", "judge"}).err, "'judge' is not in the file; it has likelihood, parser, reference");
    const std::string bars = succeeded(eval({"chart", "categories", choice, dir / "better/x_pred_merge.jsonl"})).out;
    EXPECT_SAYS(bars, "early, better: 100");
    EXPECT_SAYS(succeeded(eval({"chart", "subset", dir / "better/x_pred_merge.jsonl"})).out, "temporal, better: 100");
    EXPECT_SAYS(succeeded(eval({"chart", "words", dir / "better/x_pred_merge.jsonl", "--min-count", "4"})).out, "where, better: 100");
    EXPECT_SAYS(succeeded(eval({"chart", "difference", choice, dir / "better/x_pred_merge.jsonl"})).out, "late");
    succeeded(eval({"chart", "clips", choice, "--eval-data", d.dir.path, "--eval-dataset", "choice", "--out", dir / "clips.svg"}));
    const std::string clips = read_file(dir / "clips.svg");
    for (const char* encoder : {"languagebind", "dinov2", "vivit", "siglip"}) EXPECT_SAYS(clips, concat(">", encoder, "<"));
    EXPECT_SAYS(clips, "data:image/png;base64,iVBOR");
    EXPECT_SAYS(eval({"chart", "clips", d / "whole/open_pred_merge.jsonl", "--eval-dataset", "open"}).err, "keeps no fusion weights");
    EXPECT_SAYS(eval({"chart", "pie", choice}).err, "no picture 'pie'");
    EXPECT_SAYS(eval({"chart", "words", choice, "--min-count", "100"}).err, "of 100 questions or more");
}

TEST_CASE("merv-eval: mistakes are told before the model is loaded") {
    const Data& d = data();
    auto says = [](const Words& w, int code, const std::string& what) {
        const Run r = eval(w);
        EXPECT_EQ(r.code, code);
        EXPECT_EQ(r.out, "");
        EXPECT_SAYS(r.err, what);
    };
    says({}, 2, "the commands are run, merge, score");
    says({"rum"}, 2, "no command 'rum'");
    says({"run", "-m", kModel}, 2, "--eval-dataset NAME is missing");
    says({"run", "--eval-dataset", "x"}, 2, "-m DIR is missing");
    says({"run", "-m", "/nowhere", "--eval-dataset", "x", "--eval-data", d.dir.path}, 3, "no such folder");
    says({"run", "-m", "/nowhere", "--eval-dataset", "../x", "--eval-data", d.dir.path}, 2, "no name of a benchmark");
    says({"run", "-m", "/nowhere", "--eval-dataset", "open", "--eval-data", d.dir.path, "--num-chunks", "2", "--chunk-idx", "2"}, 2, "the index runs from 0");
    says({"run", "-m", "/nowhere", "--eval-dataset", "open", "--eval-data", d.dir.path}, 4, "/nowhere");
    says({"run", "-m", golden("stories260k"), "--eval-dataset", "open", "--eval-data", d.dir.path, "--out", d / "none"}, 4, "cannot see");
    says({"score", "/nowhere.jsonl"}, 3, "/nowhere.jsonl");
}
