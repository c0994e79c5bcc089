// Predictions on disk, under the reference's names (merv.md 8.1):
//
//   <B>[_naive]_pred_<n>_<i>.jsonl        chunk i of n while it is worked on, a record per line; _done.jsonl when it is through
//   <B>[_naive]_pred_merge.jsonl          all chunks, in the order of the questions
//   <B>[_naive]_gpt.json                  {question_id: [{"pred": "yes" | "no", "score"}, record]}
// and ours: _settings_<n>_<i>.json (what the chunk was made with), _failed_<n>_<i>.jsonl (what could not be answered), _results.json.
//
// A record is written with one write() and reaches the disk before the next begins, so that killing a run loses at most the record being written, which is
// cut off when the run is taken up again.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <set>
#include <string>
#include <vector>
#include "train/scoring.h"

namespace merv {

std::string python_json(const nlohmann::ordered_json& j);       // as Python's json.dumps writes it
std::string sha256_of(std::string_view text);
void write_whole(const std::string& path, std::string_view text);      // beside it first, then renamed; Error(Exit::runtime) on a full disk

struct ResultNames {
    std::string folder, stem;                           // stem: the benchmark, with _naive behind it for a choice
    std::string part(int64_t n, int64_t i) const { return concat(folder, "/", stem, "_pred_", n, "_", i, ".jsonl"); }
    std::string done(int64_t n, int64_t i) const { return concat(folder, "/", stem, "_pred_", n, "_", i, "_done.jsonl"); }
    std::string settings(int64_t n, int64_t i) const { return concat(folder, "/", stem, "_settings_", n, "_", i, ".json"); }
    std::string failed(int64_t n, int64_t i) const { return concat(folder, "/", stem, "_failed_", n, "_", i, ".jsonl"); }
    std::string merged() const { return concat(folder, "/", stem, "_pred_merge.jsonl"); }
    std::string judged() const { return concat(folder, "/", stem, "_gpt.json"); }
    std::string results() const { return concat(folder, "/", stem, "_results.json"); }
    struct Chunk { std::string path; int64_t n, i; };
    std::vector<Chunk> chunks() const;                  // all files of predictions that are there, of any n
    std::vector<std::string> failures() const;
};

struct StoredRecord { std::string id, line; };          // line: JSON without the line break
// The whole lines of a file of predictions. Error(Exit::bad_data): one that is not a record. A last line without its end is left out.
std::vector<StoredRecord> read_records(const std::string& path);

class PredictionLog {
  public:
    explicit PredictionLog(const std::string& path);    // Error(Exit::usage): another process has it open
    ~PredictionLog();
    PredictionLog(const PredictionLog&) = delete;
    const std::set<std::string>& ids() const { return ids_; }
    void append(const std::string& id, const std::string& line);

  private:
    std::string path_;
    int fd_ = -1;
    std::set<std::string> ids_;
};

// What a record is worth: for a choice by "reference", "parser" and, where the letters' likelihoods are stored, "likelihood"; for an open question by "exact".
Verdict verdict_of(const nlohmann::ordered_json& record);
// Of a _pred_merge.jsonl, or of a _gpt.json, which adds "judge" for open questions.
std::vector<Verdict> read_verdicts(const std::string& path);
nlohmann::ordered_json rates_json(const std::vector<Verdict>& verdicts);        // {"scores": .., "by_category": .., "by_first_word": .., "by_subset": ..}
std::string rates_table(const std::vector<Verdict>& verdicts);                  // the same for people, as Markdown

}
