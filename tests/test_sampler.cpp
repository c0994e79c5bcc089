// sampler: torch's permutations, and the orders of torch's DistributedSampler and of the reference's SplitModalitySampler (tests/golden/training_data.py).
#include "tests/media.h"
#include <algorithm>
#include <set>
#include "core/check.h"
#include "data/sampler.h"

using namespace merv;

namespace {

using Indices = std::vector<int64_t>;

const nlohmann::json& goldens(const char* key) { return test::read_json(test::golden("training_data.json"))[key]; }

// Each rank's slices of every global batch, one behind the other: what the reference yields on one of `ranks` processes.
Indices slices_of_rank(const Indices& order, int64_t batch, int64_t ranks, int64_t rank) {
    const int64_t slice = batch / ranks;
    Indices mine;
    for (size_t at = size_t(rank * slice); at < order.size(); at += size_t(batch)) mine.insert(mine.end(), order.begin() + int64_t(at), order.begin() + int64_t(at) + slice);
    return mine;
}

std::vector<SampleSize> some_sizes(int64_t clips, int64_t texts) {
    std::vector<SampleSize> sizes;
    for (int64_t i = 0; i < clips + texts; i++) sizes.push_back({.words = (i * i * 7 + 13 * i) % 97, .multimodal = i * clips / (clips + texts) != (i + 1) * clips / (clips + texts)});
    return sizes;
}

}

TEST_CASE("sampler: permutations are torch's") {
    for (const auto& c : goldens("randperm")) {
        CAPTURE(c["n"]);
        const Indices p = randperm(c["n"], c["seed"]), first = c["first"];
        REQUIRE_EQ(p.size(), c["n"].get<size_t>());
        EXPECT(std::equal(first.begin(), first.end(), p.begin()));
        uint64_t sum = 0;
        for (size_t i = 0; i < p.size(); i++) sum += (i + 1) * uint64_t(p[i]);
        EXPECT_EQ(std::to_string(sum), c["sum"].get<std::string>());
    }
}

TEST_CASE("sampler: without kinds, the order is that of torch's DistributedSampler") {
    for (const auto& c : goldens("distributed")) {
        CAPTURE(c.dump());
        const int64_t n = c["n"], ranks = int64_t(c["ranks"].size());
        const Sampler sampler({.global_batch = ranks, .seed = c["seed"], .buckets = 1, .shuffle = c["shuffle"], .by_modality = false}, some_sizes(n, 0));
        EXPECT_EQ(sampler.batches(), (n + ranks - 1) / ranks);
        const Indices order = sampler.order(c["epoch"]);
        REQUIRE_EQ(int64_t(order.size()), sampler.batches() * ranks);
        for (int64_t rank = 0; rank < ranks; rank++) EXPECT_EQ(slices_of_rank(order, ranks, ranks, rank), c["ranks"][size_t(rank)].get<Indices>());
    }
}

TEST_CASE("sampler: the order of the reference's SplitModalitySampler, rank by rank") {
    int compared = 0;
    for (const auto& c : goldens("split")) {
        CAPTURE(c.dump());
        std::vector<SampleSize> sizes;
        int64_t clips = 0;
        for (const auto& l : c["lengths"]) sizes.push_back({.words = l[1], .multimodal = l[0] != 0}), clips += sizes.back().multimodal;
        const int64_t batch = c["batch"], ranks = c["n_ranks"], texts = int64_t(sizes.size()) - clips;
        const Sampler sampler({.global_batch = batch, .seed = c["seed"], .buckets = ranks}, sizes);
        EXPECT_EQ(sampler.batches(), (clips + batch - 1) / batch + (texts + batch - 1) / batch);
        const Indices order = sampler.order(c["epoch"]);
        REQUIRE_EQ(int64_t(order.size()), sampler.batches() * batch);
        if (c.contains("fails")) {              // less than half a batch of a kind, or no clip at all: the reference stops, here it is trained on
            EXPECT_EQ(std::set<int64_t>(order.begin(), order.end()).size(), sizes.size());
            continue;
        }
        for (int64_t rank = 0; rank < ranks; rank++, compared++) EXPECT_EQ(slices_of_rank(order, batch, ranks, rank), c["ranks"][size_t(rank)].get<Indices>());
    }
    EXPECT_EQ(compared, 82);
}

TEST_CASE("sampler: every batch is of one kind, holds every sample, and the longest comes first") {
    for (auto [clips, texts, batch, buckets] : {std::array<int64_t, 4>{50, 30, 16, 4}, {3, 2, 8, 8}, {0, 5, 2, 1}, {7, 0, 4, 2}, {1, 1, 16, 2}}) {
        CAPTURE(clips);
        const auto sizes = some_sizes(clips, texts);
        const Sampler sampler({.global_batch = batch, .buckets = buckets}, sizes);
        for (int64_t epoch : {0, 1, 6}) {
            const Indices order = sampler.order(epoch);
            EXPECT_EQ(std::set<int64_t>(order.begin(), order.end()).size(), sizes.size());
            int64_t first = 0, most = 0;
            for (size_t i = 0; i < order.size(); i++) {
                const SampleSize& s = sizes[size_t(order[i])];
                EXPECT_EQ(s.multimodal, sizes[size_t(order[i - i % size_t(batch)])].multimodal);
                const int64_t length = s.words + (s.multimodal ? 576 : 0);
                most = std::max(most, length);
                if (int64_t(i) < batch) first = std::max(first, length);
            }
            EXPECT_EQ(first, most);
        }
    }
}

TEST_CASE("sampler: an order depends on seed, epoch and buckets alone") {
    const auto sizes = some_sizes(40, 24);
    const SamplerOptions options{.global_batch = 16, .seed = 7, .buckets = 4};
    const Sampler sampler(options, sizes);
    const Indices fourth = sampler.order(4);
    sampler.order(0), sampler.order(9);         // what was asked before leaves no trace
    EXPECT_EQ(sampler.order(4), fourth);
    EXPECT_EQ(Sampler({.global_batch = 16, .seed = 11, .buckets = 4}, sizes).order(0), fourth);        // seed + epoch, as the reference has it
    EXPECT_NE(sampler.order(5), fourth);
    EXPECT_NE(Sampler({.global_batch = 16, .seed = 7, .buckets = 8}, sizes).order(4), fourth);
    EXPECT_NE(Sampler({.global_batch = 16, .seed = 7, .buckets = 4, .by_modality = false}, sizes).order(4), fourth);
}

TEST_CASE("sampler: without shuffling, the order of the file, kind by kind where batches are of one kind") {
    const std::vector<SampleSize> sizes = {{1, true}, {2, false}, {3, true}, {4, false}, {5, true}};
    EXPECT_EQ(Sampler({.global_batch = 2, .buckets = 1, .shuffle = false, .by_modality = false}, sizes).order(3), Indices{0, 1, 2, 3, 4, 0});
    EXPECT_EQ(Sampler({.global_batch = 2, .buckets = 1, .shuffle = false}, sizes).order(3), Indices{0, 2, 4, 0, 1, 3});
}

TEST_CASE("sampler: sizes that cannot be are a caller's mistake") {
    EXPECT_THROWS_AS(Sampler({}, {}), std::logic_error);
    EXPECT_THROWS_AS(Sampler({.global_batch = 10, .buckets = 4}, some_sizes(3, 3)), std::logic_error);
    EXPECT_THROWS_AS(Sampler({.global_batch = 0, .buckets = 1}, some_sizes(3, 3)), std::logic_error);
}
