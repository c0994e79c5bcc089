// What merv-bench measures.
#pragma once
#include <optional>
#include "bench/measure.h"

namespace merv::bench {

// Ops at the shapes MERV runs them with, or one op at the given shape. op "": all. Error(Exit::usage) names the ops there are.
std::vector<Case> op_cases(const std::string& op, const std::string& shape, std::optional<DType> dtype);

struct Sizes {
    std::string config = "merv-base", encoder = "";     // encoder "": each
    int64_t layers = 4, tokens = 1100, rows = 1;        // of the language model; rows: decoded at once
    bool all_blocks = false;                            // encoders: the blocks whose output MERV does not use, too
};
std::vector<Case> encode_cases(const Sizes&, DType);    // one clip through each encoder: features from u8 pixels
std::vector<Case> prefill_cases(const Sizes&, DType);   // `tokens` through `layers` layers of the language model's width
std::vector<Case> decode_cases(const Sizes&, DType);    // one step of `rows` tokens after `tokens` others
std::vector<Case> block_cases(const Sizes&, DType);     // forward and backward of one layer, gradients of everything
// An optimizer step of the language model, projectors and fusion on one sample, from pooled features: 1024 visual tokens before `tokens` of text, the second half learnt. The
// vocabulary has 4096 entries: what is measured is layers, not the table.
std::vector<Case> train_cases(const Sizes&, DType);
std::vector<Case> preprocess_cases(const std::string& video, const std::string& image);

}
