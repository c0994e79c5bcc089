// Counted mode: counters that follow from a kernel's definition, and limits on what the production kernels ask for.
#include "bench/kernels.h"
#include "core/check.h"
#include "kernels/emu/graph.h"
#include "tests/emu/counted.h"
#include "tests/emu/programs.h"
#include "tests/run_program.h"

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

// Blocks are any addresses; edges are added in another order than the blocks' own.
TEST_CASE("counters: lanes go on in the order of a structured program") {
    const char blocks[16] = {};
    emu::Graph g;
    uint32_t n[10] = {};
    for (int i : {3, 9, 1, 7, 2, 4, 8, 5, 6}) n[i] = g.node(blocks + i);
    auto edges = [&](std::initializer_list<std::pair<int, int>> all) { for (auto [from, to] : all) g.edge(n[from], n[to]); };
    // 1: if 2 else 3; 4: a loop of 5, an inner loop 6, and 7; its body goes back from 5 and from 7, and leaves from 6 to 8; 9 is another function
    edges({{0, 1}, {0, 9}, {1, 3}, {3, 4}, {1, 2}, {2, 4}, {4, 5}, {5, 4}, {5, 6}, {6, 6}, {6, 8}, {6, 7}, {7, 4}, {4, 8}});
    g.order();
    auto before = [&](int a, int b) { return g.position(n[a]) < g.position(n[b]); };
    for (auto [a, b] : {std::pair{1, 2}, {1, 3}, {2, 4}, {3, 4}, {4, 5}, {5, 6}, {6, 7}, {6, 8}, {7, 8}}) EXPECT_MESSAGE(before(a, b), a, " before ", b);
    EXPECT_GT(g.position(n[5], n[4]), g.position(n[7]));    // who goes back early waits for those in the body
    EXPECT_EQ(g.position(n[5], n[4]), g.position(n[7], n[4]));
    EXPECT_LT(g.position(n[5], n[4]), g.position(n[8]));
    EXPECT_GT(g.position(n[6], n[6]), g.position(n[6]));    // so in the inner loop, whose end comes before 7
    EXPECT_LT(g.position(n[6], n[6]), g.position(n[7]));
    EXPECT_EQ(g.position(n[2], n[4]), g.position(n[4]));    // from outside: the head itself
    EXPECT_EQ(g.node(blocks + 6), n[6]);
}

// Wrong programs too: they are reported as in fast mode, and whatever they did is counted without harm.
TEST_CASE("counters: counting changes no result") {
    for (const Program& p : emu_counted::programs()) {
        emu::Count counted;
        emu::Collect collected;
        const bool values = p.run();
        std::string kinds;
        for (const emu::Report& r : collected.reports) kinds += r.kind + ": " + r.text + "\n";
        const bool reported = std::any_of(collected.reports.begin(), collected.reports.end(), [&](const emu::Report& r) { return contains(p.in_fast, r.kind); });
        EXPECT_MESSAGE(reported == !p.in_fast.empty(), p.name, " wants '", p.in_fast, "', got: ", kinds);
        if (!p.in_checked.empty() || !p.in_fast.empty()) continue;
        EXPECT_MESSAGE(values, p.name);
        EXPECT_FALSE(counted.launches.empty());
    }
}

TEST_CASE("counters: occupancy is what registers, threads and shared memory leave") {
    const bench::Gpu &a100 = bench::gpus()[0], &h100 = bench::gpus()[1];
    auto expect = [](const bench::Gpu& g, int registers, int static_shared, int threads, size_t dynamic_shared, int blocks, const char* limiter) {
        const bench::Occupancy o = bench::occupancy(g, {.registers = registers, .shared = static_shared}, threads, dynamic_shared);
        EXPECT_EQ(o.blocks, blocks);
        EXPECT_EQ(o.limiter, limiter);
        EXPECT_EQ(o.share, doctest::Approx(blocks * double((threads + 31) / 32) / 64));
    };
    expect(a100, 32, 0, 1024, 0, 2, "threads");             // 2048 / 1024; 65536 / (32 x 1024) registers would do
    expect(a100, 32, 0, 32, 0, 32, "blocks");
    expect(a100, 64, 0, 128, 0, 8, "registers");            // 2048 per warp: 8 warps per file, 32 in all, 4 to a block
    expect(a100, 65, 0, 128, 0, 7, "registers");            // 2080 go up to 2304: 7 warps per file, 28 in all
    expect(a100, 255, 0, 256, 0, 1, "registers");           // 8160 go up to 8192: 2 warps per file
    expect(a100, 168, 0, 384, 0, 1, "registers");           // 5376: 3 warps per file, 12 in all
    expect(a100, 32, 0, 128, 80 << 10, 2, "shared memory"); // 164 KB / 81 KB
    expect(a100, 32, 1 << 10, 128, 80 << 10, 2, "shared memory");       // 82 KB, twice exactly
    expect(a100, 32, 1025, 128, 80 << 10, 1, "shared memory");
    expect(h100, 32, 0, 128, 227 << 10, 1, "shared memory");
    expect(h100, 32, 0, 128, 75 << 10, 3, "shared memory"); // 228 KB / 76 KB
    expect(h100, 32, 0, 48, 0, 32, "threads");              // 2 warps each: as many as blocks allow
}

TEST_CASE("counters: a prediction is the longest of what is needed") {
    bench::Gpu g{"", "", 10, 1e9, 1e12, 2e12, 1e14, 1e13, 0, 0, 0};
    emu::Counters c;
    c.blocks = 15;                              // the busiest of 10 SMs has 2
    auto expect = [&](double seconds, const char* limiter) {
        const bench::Prediction p = bench::predict(g, c);
        EXPECT_EQ(p.seconds, doctest::Approx(seconds));
        EXPECT_EQ(p.limiter, limiter);
    };
    c.unique_sectors = 1000000;
    expect(32e6 / 1e12, "DRAM");
    c.block_sectors = 3000000;
    expect(96e6 / 2e12, "L2");
    c.total[size_t(emu::Counted::shared_load)].wavefronts = 450000;
    expect(60000 / 1e9, "shared memory");       // 2 / 15 of them; the L1 needs as long
    c.total[size_t(emu::Counted::global_load)].sectors = 600000;
    expect(80000 / 1e9, "L1");                  // and 2 / 15 of 600000 / 4
    c.total[size_t(emu::Counted::special)].requests = 375000;
    expect(100000 / 1e9, "MUFU");               // 2 clocks each
    c.flops = 9e9;
    expect(1.2e9 / 1e12, "FP32");               // 2 / 15 at an SM's 1e12
    c.tensor_flops = 1.5e11;
    expect(2e10 / 1e13, "tensor cores");

    emu::Counters full = c;
    c.bytes = 100, full.bytes = 300, full.blocks = 30;
    const emu::Counters scaled = bench::scaled(c, full);
    EXPECT_EQ(scaled.unique_sectors, 3000000u);
    EXPECT_EQ(scaled.block_sectors, 6000000u);
    EXPECT_EQ(scaled[emu::Counted::special].requests, 750000u);
    EXPECT_EQ(scaled.tensor_flops, 3e11);
}

TEST_CASE("counters: what ptxas says is read by name and file") {
    const TempDir dir;
    const std::string path = (dir.path / "ptxas.txt").string();
    std::ofstream(path) << "# a comment\nsm_80 a.cu 40 128 16 8 12 k<1, bf16>\nsm_80 b.cu 41 0 0 0 0 k<1, bf16>\nsm_90a a.cu 42 0 0 0 0 k<1, bf16>\n";
    const std::vector<bench::Compiled> all = bench::read_ptxas(path);
    EXPECT_EQ(bench::find(all, "sm_80", "k<1, bf16>", "a.cu")->registers, 40);
    EXPECT_EQ(bench::find(all, "sm_80", "k<1, bf16>", "b.cu")->registers, 41);
    EXPECT_EQ(bench::find(all, "sm_90a", "k<1, bf16>", "header.h")->registers, 42);
    EXPECT_EQ(bench::find(all, "sm_80", "k<1, bf16>", "a.cu")->spill_loads, 12);
    EXPECT_FALSE(bench::find(all, "sm_80", "k<2, bf16>", "a.cu"));
    EXPECT(bench::read_ptxas((dir.path / "none").string()).empty());
    std::ofstream(path) << "sm_80 a.cu many\n";
    EXPECT_THROWS_AS(bench::read_ptxas(path), Error);
}

TEST_CASE("counters: merv-bench prints them") {
    const Run one = succeeded(run_program(built("merv-bench"), {"ops", "rope", "--device", "emu", "--counters"}));
    EXPECT_SAYS(one.out, "rope: rope_kernel<8, bf16>, launched at rope.cu:");
    EXPECT_SAYS(one.out, "| rope | bf16 | 1100x32x128 | `rope_kernel<8, bf16>` |");
    const Json rows = parse_json(succeeded(run_program(built("merv-bench"), {"ops", "rope", "--device", "emu", "--counters", "-o", "json"})).out, "rows");
    REQUIRE_EQ(rows.size(), 1u);
    EXPECT_EQ(rows[0].at("blocks").get<int>(), 1100 * 32 * 64 / 8 / 256);       // a thread turns 8 pairs
    EXPECT_EQ(rows[0].at("work_bytes").get<double>(), 1100.0 * 32 * 128 * 2 * 2);
    EXPECT_EQ(rows[0].at("compiled").size(), 2u);
    for (const Words& wrong : {Words{"ops", "--counters"}, {"peak", "--device", "emu", "--counters"}, {"ops", "rope", "--device", "emu", "--counters", "-o", "csv"}})
        EXPECT_EQ(run_program(built("merv-bench"), wrong).code, 2);
    const Run unknown = run_program(built("merv-bench"), {"ops", "ropes", "--device", "emu", "--counters"});
    EXPECT_EQ(unknown.code, 2);
    EXPECT_SAYS(unknown.err, "there are linear, linear dx,");
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

// What attention's tiles ask of the tensor cores: whole tiles of queries against whole steps of keys, or the other way round.
double tensor_work(const bench::KernelCase& c, const std::string& kernel) {
    auto up = [](int64_t n, int64_t to) { return (n + to - 1) / to * to; };
    if (kernel.starts_with("frames_kernel")) return 4.0 * double(c.counted[0] * c.counted[2] * c.counted[3]) * 16 * 16;
    const int64_t Nq = c.counted[1], Nk = c.counted[2];
    const bool causal = c.op.ends_with("causal");
    int64_t pairs = 0;                          // of a query and a key, in one head
    double products = 4;
    if (kernel.starts_with("one_pass")) pairs = up(Nq, 16) * (Nk <= 64 ? 64 : Nk <= 128 ? 128 : Nk <= 208 ? 208 : 272);
    else if (kernel.starts_with("keys_kernel")) {
        products = 8;
        for (int64_t k0 = 0; k0 < Nk; k0 += 64) pairs += 64 * (up(Nq, 32) - (causal ? k0 / 32 * 32 : 0));
    } else {
        const bool tiled = kernel.starts_with("tiled");
        products = tiled ? 4 : 6;
        for (int64_t q0 = 0; q0 < Nq; q0 += 64) pairs += 64 * up(causal ? std::min(q0 + 64, Nk) : Nk, tiled ? 64 : 32);
    }
    return products * double(c.counted[0] * c.counted[3] * pairs * c.counted[5]);
}

}

TEST_CASE("counters: production kernels keep their limits") {
    const std::string again = "read again by every row, from L1 or L2";
    const Limits moved{"different bytes moved, over Work's:", 1.1, {
        {"layernorm backward", "backward_kernel", 1.34, "a row of dw and of db per group of rows, here only 4: 2 % at 16 frames x 16 samples"},
        {"rmsnorm backward", "backward_kernel", 1.33, "a row of dw per group of rows, here only 2"},
        {"layernorm residual backward", "backward_kernel", 1.26, "dw and db as above"},
        {"rmsnorm residual backward", "backward_kernel", 1.23, "dw as above"},
        {"mix backward", "sum_rows", 1.34, "4 sums of 4 bytes are half a sector"},
    }}, requested{"bytes of sectors requested, over Work's:", 1.1, {
        {"layernorm bf16", "", 2, "w and b " + again + ": (2 + 2) / 2"},
        {"layernorm f32", "", 2, "likewise"},
        {"rmsnorm bf16", "", 1.5, "w " + again + ": (2 + 1) / 2"},
        {"rmsnorm f32", "", 1.5, "likewise"},
        {"layernorm backward", "backward_kernel", 2.01, "w " + again + ", dw and db as above, written in halves of sectors"},
        {"rmsnorm backward", "backward_kernel", 1.98, "w " + again + ", dw as above, written in halves of sectors"},
        {"layernorm residual bf16", "", 1.5, "w and b " + again + ": (4 + 2) / 4"},
        {"rmsnorm residual bf16", "", 1.25, "w " + again + ": (4 + 1) / 4"},
        {"layernorm residual backward", "backward_kernel", 1.76, "w " + again + ", dw and db as above, written in halves of sectors"},
        {"rmsnorm residual backward", "backward_kernel", 1.73, "w " + again + ", dw as above, written in halves of sectors"},
        {"linear bf16", "few_rows", 1.25, "x for each four columns, from L1: (4 + 1) / 4"},
        {"attention backward bf16", "delta_kernel", 1.11, "one float of delta per warp, and a sector for it"},
        {"softmax_rows backward", "", 4 / 3.0 + 1e-9, "y twice, as registers hold only one row: (3 + 1) / 3"},
        {"cross_entropy backward", "", 1.51, "x twice: (2 + 1) / 2, and labels"},
        {"rope append", "", 4 / 3.0 + 1e-9, "cos and sin for each head of q and k, as below"},
        {"rope bf16", "", 1.5, "cos and sin for each head; 32 bytes per thread in two accesses"},
        {"adaptive_pool bf16", "pool_kernel", 1.79, "14 cells a side to 8 bins, which cover 20: (20^2 + 8^2) / (14^2 + 8^2)"},
        {"adaptive_pool backward", "pool_backward_kernel", 2.3, "a bin for each cell in it: (20^2 + 14^2) / (14^2 + 8^2), and (16^2 + 16^2) / (16^2 + 8^2)"},
        {"token_mean backward", "", 2, "one row of dy for all tokens: (1 + 1) / 1"},
        {"mix backward", "sum_rows", 2.03, "4 sums of 4 bytes are half a sector"},
        {"patchify", "", 1.86, "runs of 14 pixels begin and end within sectors that neighbouring warps use too"},
        {"gather_rows backward", "", 1.13, "each row's block looks through the indices"},
        {"add_rows", "add_rows_kernel", 4 / 3.0 + 1e-9, "the table " + again + ": (2 + 1) / 2, of which Work knows a quarter"},
    }}, conflicts{"share of wavefronts that are bank conflicts:", 0, {
    }};
    const std::vector<bench::Compiled> compiled = bench::read_ptxas("bench/ptxas.txt");
    std::vector<std::pair<bench::KernelCase, std::vector<emu::Counters>>> all;
    for (const bench::KernelCase& c : bench::kernel_cases()) all.emplace_back(c, bench::count(c));
    for (const auto& [c, launches] : all) {
        const std::string type = name_of(c.dtype);
        for (const emu::Counters& k : launches) {
            const std::string op = c.op + " " + type, kernel = k.kernel();
            const emu::Traffic shared = k.shared();
            EXPECT_MESSAGE(k.bytes > 0, op, ": ", kernel, " does not say what an ideal kernel would move");
            EXPECT_MESSAGE(k.global().requests > 0, op, ": ", kernel, " was not counted");
            EXPECT_MESSAGE(bench::find(compiled, "sm_80", kernel, ""), op, ": bench/ptxas.txt does not know ", kernel, "; make kernel-report writes it, with nvcc");
            conflicts.check(op, kernel, shared.wavefronts ? double(shared.bank_conflicts()) / double(shared.wavefronts) : 0);
            if (k.tensor_flops > 0 && op.starts_with("attention")) EXPECT_EQ(k.tensor_flops, tensor_work(c, kernel));
            else if (k.tensor_flops > 0) {      // blocks of 128 x 128, steps of 32
                auto up = [](int64_t n, int64_t to) { return double((n + to - 1) / to * to); };
                const int64_t M = c.op == "linear dw" ? c.counted[1] : c.counted[0], N = c.op == "linear" ? c.counted[1] : c.counted[2];
                const double depth = up(c.counted[0] * c.counted[1] * c.counted[2] / M / N, 32);
                EXPECT_EQ(k.tensor_flops, 2 * up(M, 128) * up(N, 128) * depth);
            }
            const bool product = c.op == "linear" || c.op == "linear dx" || c.op == "linear dw";
            if (product && !kernel.starts_with("few_rows")) continue;       // bound by arithmetic
            if (kernel.starts_with("tiled_kernel") || kernel.starts_with("plain_") || kernel.starts_with("keys_kernel") || kernel.starts_with("queries_kernel")) continue;     // likewise
            moved.check(op, kernel, 32 * double(k.unique_sectors) / k.bytes);
            requested.check(op, kernel, 32 * double(k.global().sectors) / k.bytes);
        }
    }
    for (const Limits* l : {&moved, &requested, &conflicts}) l->check_exceptions();
}

TEST_CASE("counters: production kernels do not spill") {
    const Limits spills{"bytes of spills:", 0, {
        {"sm_90a norm.cu", "backward_kernel<1, true", 8, "rows whose length is odd, of which MERV has none"},
        {"sm_80 attention.cu", "one_pass_kernel<64, 17>", 8, "272 scores, sums and queries fill all 255 registers: one address is kept in memory"},
        {"sm_80 pool.cu", "softmax_kernel<2, bf16>", 16, "rows whose length is twice an odd number; MERV's are of 4"},
    }};
    const std::vector<bench::Compiled> all = bench::read_ptxas("bench/ptxas.txt");
    EXPECT_GE(all.size(), 700u);
    for (const bench::Compiled& c : all) spills.check(c.arch + " " + c.file, c.kernel, std::max({c.resources.spill_loads, c.resources.spill_stores, c.resources.stack}));
    spills.check_exceptions();
}
