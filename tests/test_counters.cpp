// Counted mode: counters that follow from a kernel's definition, and limits on what the production kernels ask for.
#include <map>
#include "bench/kernels.h"
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

// ---- production kernels

namespace {

// What may exceed a limit, and why. A row that nothing needs any more is an error too.
struct Exception {
    std::string op, kernel;                     // prefixes; "" fits all
    double limit;
    std::string reason;
    mutable bool needed = false;
};
struct Limits {
    std::string what;
    double limit;
    std::vector<Exception> exceptions;
    void check(const std::string& op, const std::string& kernel, double value) const {
        if (value <= limit) return;
        for (const Exception& e : exceptions)
            if (op.starts_with(e.op) && kernel.starts_with(e.kernel) && value <= e.limit) {
                e.needed = true;
                return;
            }
        FAIL_CHECK(op << ": " << kernel << ": " << what << " " << value << ", of at most " << limit);
    }
    void check_exceptions() const {
        for (const Exception& e : exceptions) EXPECT_MESSAGE(e.needed, what, ": nothing needs the exception for ", e.op, " ", e.kernel, ": ", e.reason);
    }
};

}

TEST_CASE("counters: production kernels keep their limits") {
    const std::string again = "read again by every row, from L1 or L2";
    const Limits moved{"different bytes moved, over Work's:", 1.1, {
        {"layernorm backward", "backward_kernel", 1.34, "a row of dw and of db per group of rows, here only 4: 2 % at 16 frames x 16 samples"},
        {"rmsnorm backward", "backward_kernel", 1.33, "a row of dw per group of rows, here only 2"},
        {"mix backward", "sum_rows", 1.34, "4 sums of 4 bytes are half a sector"},
    }}, requested{"bytes of sectors requested, over Work's:", 1.1, {
        {"layernorm bf16", "", 2, "w and b " + again + ": (2 + 2) / 2"},
        {"layernorm f32", "", 2, "likewise"},
        {"rmsnorm bf16", "", 1.5, "w " + again + ": (2 + 1) / 2"},
        {"rmsnorm f32", "", 1.5, "likewise"},
        {"layernorm backward", "backward_kernel", 2.01, "w " + again + ", dw and db as above, written in halves of sectors"},
        {"rmsnorm backward", "backward_kernel", 1.98, "w " + again + ", dw as above, written in halves of sectors"},
        {"softmax_rows backward", "", 4 / 3.0 + 1e-9, "y twice, as registers hold only one row: (3 + 1) / 3"},
        {"cross_entropy backward", "", 1.51, "x twice: (2 + 1) / 2, and labels"},
        {"rope", "", 1.5, "cos and sin for each head; 32 bytes per thread in two accesses"},
        {"adaptive_pool bf16", "pool_kernel", 1.79, "14 cells a side to 8 bins, which cover 20: (20^2 + 8^2) / (14^2 + 8^2)"},
        {"adaptive_pool backward", "pool_backward_kernel", 2.3, "a bin for each cell in it: (20^2 + 14^2) / (14^2 + 8^2), and (16^2 + 16^2) / (16^2 + 8^2)"},
        {"token_mean backward", "", 2, "one row of dy for all tokens: (1 + 1) / 1"},
        {"mix backward", "sum_rows", 2.03, "4 sums of 4 bytes are half a sector"},
        {"patchify", "", 1.86, "runs of 14 pixels begin and end within sectors that neighbouring warps use too"},
        {"gather_rows backward", "", 1.13, "each row's block looks through the indices"},
        {"add_rows", "add_rows_kernel", 4 / 3.0 + 1e-9, "the table " + again + ": (2 + 1) / 2, of which Work knows a quarter"},
    }}, conflicts{"share of wavefronts that are bank conflicts:", 0, {
        {"linear", "plain_product", 0.06, "an operand along k is turned while stored: k and k + 8 meet in a bank. 1 of 18 wavefronts, bound by FP32"},
    }};
    for (const bench::KernelCase& c : bench::kernel_cases()) {
        const std::string type = name_of(c.dtype);
        for (const emu::Counters& k : bench::count(c)) {
            const std::string op = c.op + " " + type, kernel = k.kernel();
            const emu::Traffic shared = k.shared();
            EXPECT_MESSAGE(k.bytes > 0, op, ": ", kernel, " does not say what an ideal kernel would move");
            EXPECT_MESSAGE(k.global().requests > 0, op, ": ", kernel, " was not counted");
            conflicts.check(op, kernel, shared.wavefronts ? double(shared.bank_conflicts()) / double(shared.wavefronts) : 0);
            if (k.tensor_flops > 0) {           // blocks of 128 x 128, steps of 32
                auto up = [](int64_t n, int64_t to) { return double((n + to - 1) / to * to); };
                const int64_t M = c.op == "linear dw" ? c.counted[1] : c.counted[0], N = c.op == "linear" ? c.counted[1] : c.counted[2];
                const double depth = up(c.counted[0] * c.counted[1] * c.counted[2] / M / N, 32);
                EXPECT_EQ(k.tensor_flops, 2 * up(M, 128) * up(N, 128) * depth);
            }
            if (c.op == "linear" || c.op == "linear dx" || c.op == "linear dw") continue;       // bound by arithmetic
            moved.check(op, kernel, 32 * double(k.unique_sectors) / k.bytes);
            requested.check(op, kernel, 32 * double(k.global().sectors) / k.bytes);
        }
    }
    for (const Limits* l : {&moved, &requested, &conflicts}) l->check_exceptions();
}

TEST_CASE("counters: production kernels do not spill") {
    const std::string odd = "rows whose length is odd, of which MERV has none";
    const Limits spills{"bytes of spills:", 0, {
        {"", "tensor_product", 100, "128 registers, so that two blocks share an SM: addresses are spilled, not sums. 159 to 181 registers without"},
        {"sm_90a norm.cu", "backward_kernel<1, true", 24, odd},
        {"sm_80 pool.cu", "softmax_kernel<2, bf16>", 16, "rows whose length is twice an odd number; MERV's are of 4"},
    }};
    const std::vector<bench::Compiled> all = bench::read_ptxas("bench/ptxas.txt");
    EXPECT_GE(all.size(), 700u);
    for (const bench::Compiled& c : all) spills.check(c.arch + " " + c.file, c.kernel, std::max({c.resources.spill_loads, c.resources.spill_stores, c.resources.stack}));
    spills.check_exceptions();
}
