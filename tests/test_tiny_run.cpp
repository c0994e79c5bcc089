// The whole way as docs/training.md begins: train/configs/tiny.json, its export, its answers, its evaluation.
#include <algorithm>
#include <sstream>
#include "tests/run_program.h"

using namespace merv;
using namespace merv::test;
namespace fs = std::filesystem;

namespace {

// The two questions with options of data/samples/train.json in the reference's layout; `moved`: the options one place on, the last first
void write_benchmark(const std::string& folder, bool moved) {
    struct Choice { const char *id, *video, *question; std::vector<std::string> options; int answer; };
    const Choice choices[] = {{"ball-choice", "ball", "What does the ball do?", {"It rises.", "It falls.", "It rests."}, 1}, {"square-choice", "square_right", "What colour has the square?", {"Red.", "Green.", "White."}, 0}};
    Json questions = Json::array(), answers = Json::array();
    for (const Choice& c : choices) {
        std::vector<std::string> options = c.options;
        int answer = c.answer;
        if (moved) std::rotate(options.rbegin(), options.rbegin() + 1, options.rend()), answer = (answer + 1) % 3;
        questions.push_back({{"video_name", c.video}, {"question_id", c.id}, {"question", c.question}, {"options", options}, {"num_option", 3}});
        answers.push_back({{"question_id", c.id}, {"answer", options[size_t(answer)]}, {"answer_id", answer}});
    }
    fs::create_directories(folder + "/videos");
    for (const char* video : {"ball.mp4", "square_right.mp4"}) fs::copy_file(std::string("data/samples/") + video, folder + "/videos/" + video);
    write_file(folder + "/test_q.json", questions.dump());
    write_file(folder + "/test_a.json", answers.dump());
}

}

TEST_CASE("tiny.json: trains to a loss below 0.05; merv-ask repeats the answers, merv-eval scores 100 % on its own questions and not on moved options") {
    const TempDir dir;
    const std::string run = dir / "runs/samples+merv-tiny+stage-finetune+x7", model = dir / "tiny";
    const Run trained = succeeded(run_program(built("merv-train"), {"--config", "train/configs/tiny.json", "--set", "run_root=" + (dir / "runs"), "--set", "feature_cache=" + (dir / "cache")}));
    std::istringstream lines(read_file(run + "/samples+merv-tiny+stage-finetune+x7.jsonl"));
    double loss = 1e9;
    for (std::string line; std::getline(lines, line);) loss = parse_json(line, "metrics")["loss"].get<double>();
    EXPECT_LT(loss, 0.05);
    succeeded(run_program(built("merv-weights"), {"export", run, "--out", model}));
    const Json samples = parse_json(read_file("data/samples/train.json"), "train.json");
    for (const Json& s : samples) {
        Words words = {"-m", model, "-q", "-n", "24"};
        for (const char* kind : {"video", "image"}) if (s.contains(kind)) words.insert(words.end(), {std::string("--") + kind, "data/samples/" + s[kind].get<std::string>()});
        words.insert(words.end(), {"--prompt", s["conversations"][0]["value"].get<std::string>()});
        EXPECT_EQ(succeeded(run_program(built("merv-ask"), words)).out, s["conversations"][1]["value"].get<std::string>() + "\n");
    }
    for (const bool moved : {false, true}) {
        const std::string name = moved ? "moved" : "own";
        write_benchmark(dir / ("eval/" + name), moved);
        succeeded(run_program(built("merv-eval"), {"run", "-m", model, "--eval-data", dir / "eval", "--eval-dataset", name + "_token", "--out", dir / "results", "--dtype", "f32"}));
        Json results;
        for (const auto& f : fs::recursive_directory_iterator(dir / "results")) {
            const std::string file = f.path().filename().string();
            if (file.starts_with(name) && file.ends_with("_results.json")) results = parse_json(read_file(f.path().string()), file);
        }
        const double reference = results["scores"]["reference"]["accuracy"].get<double>();
        std::printf("  %s: %g\n", name.c_str(), reference);
        if (moved) EXPECT_LE(reference, 0.5);
        else EXPECT_EQ(reference, 1);
    }
}
