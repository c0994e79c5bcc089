// The next token from a row of logits: greedy, or drawn after Hugging Face's warpers in their order (GenerationMixin of
// transformers 4.44): temperature, top-k, top-p, min-p.
#pragma once
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace merv {

struct Sampling {
    double temperature = 0;     // 0: always the largest logit
    int top_k = 0;              // keep the k best and whatever ties with the k-th; 0: all
    double top_p = 1;           // of those, the fewest best whose probabilities reach top_p
    double min_p = 0;           // of those, the ones at least min_p times as probable as the best
    uint64_t seed = 7;
};
void check(const Sampling& s);  // Error(Exit::usage) for values that make no sense; names the flag

// A pure function of its arguments: the same (seed, step) draws the same token from the same logits, whatever was drawn
// before. The lowest id wins ties. Error(Exit::numerics) if the logits hold NaN or +inf or only -inf (-inf: never drawn).
int32_t sample(std::span<const float> logits, const Sampling& s, uint64_t step);

// What sample() draws from: (id, probability) of each token that is kept, best first; their sum is 1.
std::vector<std::pair<int32_t, double>> candidates(std::span<const float> logits, const Sampling& s);

}
