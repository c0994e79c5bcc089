// A benchmark in the reference's layout (merv.md 8.1):
//
//   ROOT/<benchmark>/test_q.json   [{"video_name", "question_id", "question", and for a choice "options": [..], "num_option"; optional "time": [s, s], "end_frame"}]
//   ROOT/<benchmark>/test_a.json   [{"question_id", "answer", and for a choice "answer_id"}]
//   ROOT/<benchmark>/videos/       <video_name>.*, or a folder of frames of that name
//
// Read strictly, but NaN (Python writes it) is taken for null, and a question id may be a whole number. Other keys are carried along; "category" (or "type")
// names the group that tables put a question in, "subset" a part of the benchmark that is scored apart too. Mistakes are Error(Exit::bad_data).
#pragma once
#include <optional>
#include <string>
#include <vector>
#include "data/video.h"

namespace merv {

struct Question {
    std::string id = {}, video = {}, text = {}; // id: of a whole number its digits
    std::vector<std::string> options = {};      // empty: an open question
    int letters = 0;                            // how many of the options' letters the prompt lists (num_option)
    ClipRange range = {};
    std::string answer = {}, category = {}, subset = {};
    int answer_id = -1;                         // the right option; -1: not known, or an open question
    bool answered = false;                      // test_a.json knows it
    std::string question_json = {}, answer_json = {};       // the two records as they were
    bool choice() const { return !options.empty(); }
};

struct Benchmark {
    std::string name, folder, question_file, answer_file;       // answer_file: empty if there is none (a test set whose answers are secret)
    std::vector<Question> questions;            // in the file's order, ids unique
};
inline constexpr int kMostOptions = 26;

// Without an answer file every question is unanswered; with one, each must be in it.
Benchmark read_benchmark(const std::string& root, const std::string& name, const std::string& question_file = "test_q", const std::string& answer_file = "test_a");

// The benchmark's part k of n as the reference cuts it: pieces of ceil(size / n), one behind the other. [begin, end)
std::pair<size_t, size_t> chunk(size_t size, int64_t n, int64_t k);

// Where the video of a question lies: a folder ROOT/<B>/videos/NAME, else the first file NAME.* in byte order. Folders are listed once.
class VideoFolder {
  public:
    explicit VideoFolder(std::string path) : path_(std::move(path)) {}
    std::string find(const std::string& name);  // Error(Exit::bad_data): none, or a name that leads out of the folder

  private:
    std::string path_;
    std::vector<std::pair<std::string, std::vector<std::string>>> listed_;      // folder, its entries sorted
};

std::string null_for_nan(std::string_view json);        // bare NaN, Infinity and -Infinity become null

}
