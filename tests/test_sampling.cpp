// sampling: the tokens Hugging Face's warpers keep, drawn in proportion, reproducibly.
#include "tests/test.h"
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include "core/check.h"
#include "models/sampling.h"

using namespace merv;

TEST_CASE("sampling: keeps the tokens Hugging Face's warpers keep, with their probabilities") {
    std::ifstream in(test::golden("sampling.json"));
    int cut = 0;
    for (const auto& c : nlohmann::json::parse(in)) {
        const auto logits = c["logits"].get<std::vector<float>>();
        const auto want = c["p"].get<std::vector<double>>();
        std::vector<double> p(logits.size());
        double sum = 0;
        const Sampling s{.temperature = c["temperature"], .top_k = c["top_k"], .top_p = c["top_p"], .min_p = c["min_p"]};
        for (const auto& [id, probability] : candidates(logits, s))
            p[size_t(id)] = probability, sum += probability;
        CAPTURE(c.dump());
        EXPECT_LT(std::abs(sum - 1), 1e-12);
        for (size_t i = 0; i < p.size(); i++) {
            EXPECT_EQ(p[i] > 0, want[i] > 0);
            EXPECT_LE(std::abs(p[i] - want[i]), 1e-8 * want[i]);         // nine digits are written
            cut += want[i] == 0;
        }
    }
    EXPECT_GT(cut, 200);
}

TEST_CASE("sampling: temperature 0 is the largest logit, the lowest id on ties") {
    EXPECT_EQ(sample(std::vector<float>{1, 3, 3, 2}, {}, 0), 1);
    EXPECT_EQ(sample(std::vector<float>{-INFINITY, -5}, {}, 0), 1);
    EXPECT_EQ(sample(std::vector<float>{-0.0f, 0.0f}, {}, 0), 0);
    EXPECT_EQ(sample(std::vector<float>{1, 3, 3, 2}, {.temperature = 1, .top_p = 1e-9}, 5), 1);
    EXPECT_EQ(sample(std::vector<float>{1, 2, 4, 3}, {.temperature = 1, .top_k = 1}, 5), 2);
    EXPECT_EQ(sample(std::vector<float>{1, 2, 4, 3}, {.temperature = 1e-300}, 5), 2);
}

TEST_CASE("sampling: draws follow the probabilities") {
    const std::vector<float> logits = {0, 1, 2, -INFINITY, 1.5f};
    const Sampling s{.temperature = 0.8, .seed = 3};
    const int n = 40000;
    std::vector<int> count(logits.size());
    for (int i = 0; i < n; i++) count[size_t(sample(logits, s, uint64_t(i)))]++;
    EXPECT_EQ(count[3], 0);
    double total = 0, chi2 = 0;
    for (float l : logits) total += std::exp(double(l) / 0.8);
    for (size_t i = 0; i < logits.size(); i++) {
        const double expected = n * std::exp(double(logits[i]) / 0.8) / total;
        if (expected > 0) chi2 += (count[i] - expected) * (count[i] - expected) / expected;
    }
    EXPECT_LT(chi2, 16.3);                                       // three degrees of freedom: one seed in a thousand
}

TEST_CASE("sampling: a pure function of seed and step") {
    std::vector<float> logits(100);
    for (size_t i = 0; i < logits.size(); i++) logits[i] = std::sin(float(i));
    auto text = [&](uint64_t seed, uint64_t from) {
        std::vector<int32_t> ids;
        for (uint64_t i = 0; i < 20; i++) ids.push_back(sample(logits, {.temperature = 1, .seed = seed}, from + i));
        return ids;
    };
    const auto a = text(7, 0), b = text(7, 10);
    EXPECT(text(7, 0) == a);
    EXPECT(std::equal(a.begin() + 10, a.end(), b.begin()));      // the draw depends on its step, not on earlier ones
    EXPECT(text(8, 0) != a);
}

TEST_CASE("sampling: nonsense is refused") {
    auto message = [](const Sampling& s) -> std::string {
        try { check(s); } catch (const Error& e) { EXPECT(e.code == Exit::usage); return e.what(); }
        return "";
    };
    EXPECT_EQ(message({}), "");
    EXPECT_EQ(message({.temperature = 1, .top_k = 5, .top_p = 1, .min_p = 1}), "");
    EXPECT_EQ(message({.temperature = -1}), "--temperature must be 0 (greedy) or a positive number, not -1");
    for (double bad : {double(INFINITY), double(NAN), -0.5}) {
        EXPECT_NE(message({.temperature = bad}), "");
        EXPECT_NE(message({.top_p = bad}), "");
        EXPECT_NE(message({.min_p = bad}), "");
    }
    EXPECT_EQ(message({.top_k = -1}), "--top-k must be 0 (off) or a positive number, not -1");
    EXPECT_EQ(message({.top_p = 0}), "--top-p must be above 0 and at most 1 (off), not 0");
    EXPECT_EQ(message({.min_p = 1.5}), "--min-p must be from 0 (off) to 1, not 1.5");
    for (double t : {0.0, 1.0})
        for (std::vector<float> bad : {std::vector<float>{1, NAN}, {NAN, 1}, {1, INFINITY}, {-INFINITY, -INFINITY}})
            try { sample(bad, {.temperature = t}, 0); FAIL_CHECK("accepted"); } catch (const Error& e) { EXPECT(e.code == Exit::numerics); }
}
