#include "models/sampling.h"
#include <algorithm>
#include <cmath>
#include <numeric>
#include "core/check.h"
#include "core/rng.h"

namespace merv {

void check(const Sampling& s) {
    if (!(s.temperature >= 0) || !std::isfinite(s.temperature)) fail(Exit::usage, "--temperature must be 0 (greedy) or a positive number, not ", s.temperature);
    if (s.top_k < 0) fail(Exit::usage, "--top-k must be 0 (off) or a positive number, not ", s.top_k);
    if (!(s.top_p > 0 && s.top_p <= 1)) fail(Exit::usage, "--top-p must be above 0 and at most 1 (off), not ", s.top_p);
    if (!(s.min_p >= 0 && s.min_p <= 1)) fail(Exit::usage, "--min-p must be from 0 (off) to 1, not ", s.min_p);
}

static int32_t best(std::span<const float> logits) {
    CHECK(!logits.empty(), "sample: no logits");
    size_t top = 0;
    for (size_t i = 0; i < logits.size(); i++) {
        if (std::isnan(logits[i]) || logits[i] == INFINITY)
            fail(Exit::numerics, "the logit of token ", i, " is ", logits[i], "; the weights or the input are broken");
        if (logits[i] > logits[top]) top = i;
    }
    if (logits[top] == -INFINITY) fail(Exit::numerics, "all logits are -inf; the weights or the input are broken");
    return int32_t(top);
}

std::vector<std::pair<int32_t, double>> candidates(std::span<const float> logits, const Sampling& s) {
    check(s);
    const int32_t top = best(logits);
    if (s.temperature == 0) return {{top, 1.0}};
    std::vector<int32_t> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
        return logits[size_t(a)] != logits[size_t(b)] ? logits[size_t(a)] > logits[size_t(b)] : a < b;
    });
    std::vector<std::pair<int32_t, double>> kept;               // weights first, probabilities in the end
    double total = 0;
    for (int32_t id : order) {
        const float logit = logits[size_t(id)];
        const double weight = std::exp((double(logit) - double(logits[size_t(top)])) / s.temperature);     // the best one: 1
        if (weight == 0) break;
        if (s.top_k > 0 && kept.size() >= size_t(s.top_k) && logit < logits[size_t(order[size_t(s.top_k) - 1])]) break;
        kept.push_back({id, weight});
        total += weight;
    }
    size_t n = 0;
    for (double before = 0; n < kept.size() && (n == 0 || s.top_p == 1 || before < s.top_p * total); n++) before += kept[n].second;
    while (n > 1 && kept[n - 1].second < s.min_p) n--;
    kept.resize(n);
    total = 0;
    for (auto& [id, weight] : kept) total += weight;
    for (auto& [id, weight] : kept) weight /= total;
    return kept;
}

int32_t sample(std::span<const float> logits, const Sampling& s, uint64_t step) {
    if (s.temperature == 0) return best(logits);
    const auto kept = candidates(logits, s);
    double left = Rng(s.seed, "sampling").uniform(step);
    for (const auto& [id, probability] : kept)
        if ((left -= probability) < 0) return id;
    return kept.back().first;                                   // rounding: the sum fell short of 1
}

}
