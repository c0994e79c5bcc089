#include "data/sampler.h"
#include <algorithm>
#include <numeric>
#include <random>
#include "core/check.h"

namespace merv {
namespace {

using Indices = std::vector<int64_t>;

Indices permutation(int64_t n, std::mt19937& generator) {       // torch's: Fisher-Yates from the front, 32 random bits modulo what is left
    Indices p(static_cast<size_t>(n));
    std::iota(p.begin(), p.end(), 0);
    for (int64_t i = 0; i < n - 1; i++) std::swap(p[size_t(i)], p[size_t(i + int64_t(generator()) % (n - i))]);
    return p;
}

// Longest first, each to the bucket with the least words so far that has room.
Indices balanced(const Indices& batch, int64_t buckets, const std::vector<SampleSize>& sizes) {
    const size_t room = batch.size() / size_t(buckets);
    std::vector<Indices> filled(static_cast<size_t>(buckets));
    std::vector<int64_t> words(size_t(buckets), 0);
    for (int64_t i : batch) {
        const size_t at = size_t(std::min_element(words.begin(), words.end()) - words.begin());
        filled[at].push_back(i);
        words[at] = filled[at].size() == room ? INT64_MAX : words[at] + sizes[size_t(i)].words;
    }
    Indices all;
    for (const Indices& b : filled) all.insert(all.end(), b.begin(), b.end());
    return all;
}

}

std::vector<int64_t> randperm(int64_t n, uint64_t seed) {
    std::mt19937 generator(static_cast<uint32_t>(seed));
    return permutation(n, generator);
}

Sampler::Sampler(const SamplerOptions& options, std::vector<SampleSize> sizes) : options_(options), sizes_(std::move(sizes)) {
    CHECK(!sizes_.empty() && options.global_batch > 0 && options.buckets > 0 && options.global_batch % options.buckets == 0, "sampler: ", sizes_.size(), " samples, batches of ", options.global_batch,
          " in ", options.buckets, " buckets");
    for (size_t i = 0; i < sizes_.size(); i++) kinds_[!options.by_modality || sizes_[i].multimodal].push_back(int64_t(i));
    for (const Indices& kind : kinds_) batches_ += (int64_t(kind.size()) + options.global_batch - 1) / options.global_batch;
}

std::vector<int64_t> Sampler::order(int64_t epoch) const {
    const int64_t g = options_.global_batch;
    std::mt19937 generator(static_cast<uint32_t>(options_.seed + epoch));
    std::vector<Indices> batches;
    for (const Indices* kind : {&kinds_[1], &kinds_[0]}) {
        const int64_t n = int64_t(kind->size());
        Indices places = options_.shuffle ? permutation(n, generator) : Indices(*kind);
        if (options_.shuffle) for (int64_t& p : places) p = (*kind)[size_t(p)];
        const size_t first = batches.size();
        for (int64_t i = 0; i < n; i += g) batches.emplace_back(places.begin() + i, places.begin() + std::min(n, i + g));
        // the last one is filled from the first; again and again, where a kind has less than one batch
        for (size_t k = 0; n > 0 && int64_t(batches.back().size()) < g; k++) batches.back().push_back(places[k % size_t(n)]);
        for (size_t b = first; options_.by_modality && options_.shuffle && b < batches.size(); b++) {
            std::stable_sort(batches[b].begin(), batches[b].end(), [&](int64_t x, int64_t y) { return sizes_[size_t(x)].words > sizes_[size_t(y)].words; });
            batches[b] = balanced(batches[b], options_.buckets, sizes_);
        }
    }
    if (options_.by_modality && options_.shuffle) {
        std::vector<Indices> merged;
        for (int64_t b : permutation(int64_t(batches.size()), generator)) merged.push_back(batches[size_t(b)]);
        size_t longest = 0;                     // first, so that a run that does not fit fails at once
        int64_t most = -1;
        for (size_t b = 0; b < merged.size(); b++)
            for (int64_t i : merged[b]) {
                const SampleSize& s = sizes_[size_t(i)];
                if (s.words + (s.multimodal ? 576 : 0) > most) most = s.words + (s.multimodal ? 576 : 0), longest = b;      // 576: the patches that the reference counts
            }
        std::swap(merged[0], merged[longest]);
        batches = std::move(merged);
    }
    Indices all;
    for (const Indices& b : batches) all.insert(all.end(), b.begin(), b.end());
    return all;
}

}
