// A model answers the questions of a benchmark, one clip at a time: the clip is seen and prefilled once for all its questions, and the next one is decoded
// meanwhile. What is answered is kept (train/predictions.h); a clip that cannot be decoded costs its own questions only.
#pragma once
#include <optional>
#include <string>
#include <vector>
#include "data/benchmarks.h"
#include "models/load.h"
#include "models/prompt.h"
#include "train/predictions.h"

namespace merv {

// Answers questions about one clip after another.
class Answerer {
  public:
    struct Options {
        PromptBuilder builder = PromptBuilder::pure;
        GenerateOptions generate = {};
        bool likelihoods = true;                        // of the letters of a choice
    };
    Answerer(const Merv& merv, const Options& options);

    struct Answer {
        std::string text;
        int64_t tokens = 0;
        bool ended = false;                             // by a stop token rather than by the limit
        std::vector<double> likelihoods;                // log-probability of each option's letter as the whole answer
    };
    void look(const Encoded& clip);                     // everything that follows is about this clip
    Answer answer(const std::string& question, int options = 0);
    const std::vector<float>& fusion() const { return visual_.weights; }

  private:
    std::vector<int32_t> encode(const std::string& text) const;
    Tensor logits_after(const std::vector<int32_t>& ids, size_t from);
    double likelihood(const std::string& question, const std::vector<int32_t>& prompt, const Tensor& logits, char letter);

    const Merv& merv_;
    Options options_;
    int bos_ = -1;
    Visual visual_;
    KvCache cache_;
    int64_t prefix_ = 0;                                // positions of BOS and the clip in the cache
    Tensor prefix_hidden_;
};

struct EvaluationOptions {
    std::string data = "eval_data", benchmark, questions = "test_q", answers = "test_a";
    std::string out;                                    // folder of the results
    int64_t chunks = 1, chunk = 0, limit = 0;           // limit: the first questions only; 0: all
    bool video_token = false, dump_fusion = false, force = false;
    bool flip = false;                                  // LanguageBind's frames of every other clip, drawn by its name and the seed (the reference's quirk)
    uint64_t seed = 7;
    double frames_fps = 3;                              // of folders of frames, where a question has a time
    double decode_timeout = 0;                          // seconds for one clip; 0: none
    std::string feature_cache = {};                     // folder; empty: none (train/features.h)
    std::string model;                                  // folder, for the records of what was done
    nlohmann::ordered_json* settings = nullptr;         // what else decides the answers: kept, and compared when a chunk is taken up again
};

// The names of the results of a benchmark: choices get `_naive`, the reference's only strategy. Error(Exit::bad_data) if only some questions are choices.
ResultNames result_names(const Benchmark& b, const std::string& name, const std::string& out);
// SHA-256 over the names, sizes and first and last MiB of a model folder's files: tells models apart without reading 30 GB.
std::string model_fingerprint(const std::string& folder);

// Answers chunk `chunk` of `chunks`, from where it was left. 0, or 8 if something failed. When every question of the benchmark is through: merge().
int evaluate(Answerer& answerer, const Merv& merv, const EvaluationOptions& options);
// Joins the chunks into _pred_merge.jsonl, writes _gpt.json (choices) and _results.json and prints the scores. Error(Exit::bad_data) if questions are left.
int merge(const EvaluationOptions& options);

}
