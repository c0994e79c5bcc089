// Counted mode: counters that follow from a kernel's definition.
#include "tests/emu/counted.h"
#include "tests/emu/programs.h"
#include "tests/test.h"

using namespace merv;
using namespace merv::test;

namespace merv::test::emu_counted { std::vector<Program> programs(); }

TEST_CASE("counters: known values") {
    int values = 0;
    for (const emu_counted::Known& k : emu_counted::known_counters()) {
        EXPECT_MESSAGE(k.counted == doctest::Approx(k.expected).epsilon(1e-12), k.what, ": ", k.counted, ", not ", k.expected);
        values++;
    }
    EXPECT_GE(values, 71);
    std::printf("  %d counters\n", values);
}

// Lanes are regrouped by the control flow seen so far, so a few requests of a kernel's first rounds may differ.
TEST_CASE("counters: random kernels count as a warp with masks does") {
    int kernels = 0, exact = 0;
    uint64_t counted = 0, expected = 0;
    for (const emu_counted::Fuzzed& f : emu_counted::fuzzed_kernels()) {
        EXPECT_MESSAGE(f.values, "kernel ", f.kernel, ": wrong values, or lanes that do not store together");
        EXPECT_EQ(f.lanes, f.expected_lanes);
        kernels++, exact += f.requests == f.expected_requests;
        counted += f.requests, expected += f.expected_requests;
        if (f.requests != f.expected_requests) std::printf("  kernel %d: %d requests, not %d\n", f.kernel, int(f.requests), int(f.expected_requests));
    }
    std::printf("  %d of %d kernels exact, %d requests of %d\n", exact, kernels, int(counted), int(expected));
    EXPECT_GE(exact, kernels - 1);
    EXPECT_LE(counted > expected ? counted - expected : expected - counted, expected / 100);
}

TEST_CASE("counters: counting changes no result") {
    for (const Program& p : emu_counted::programs()) {
        if (!p.in_checked.empty() || !p.in_fast.empty()) continue;
        emu::Count counted;
        EXPECT_MESSAGE(p.run(), p.name);
        EXPECT_FALSE(counted.launches.empty());
    }
}
