// --profile and --trace: own times that add up exactly, traces that are strictly nested JSON, work() as the GPU launches say it.
// Nothing here depends on how fast the machine is.
#include "tests/ask_program.h"
#include <chrono>
#include <cmath>
#include <optional>
#include <set>
#include <thread>
#include "bench/kernels.h"
#include "core/profile.h"
#include "core/rng.h"
#include "kernels/elementwise.h"
#include "kernels/emu/emulator.h"
#include "kernels/linear.h"
#include "kernels/random.h"

using namespace merv;
using namespace merv::test;

namespace {

int64_t now() { return std::chrono::steady_clock::now().time_since_epoch().count(); }
Tensor random(Shape s) {
    const Tensor t(s);
    kernels::fill_random({.y = t, .rng = Rng(7, "profile")});
    return t;
}

Json trace_of(const profile::Results& r) {
    std::ostringstream text;
    r.write_trace(text, "test");
    return parse_json(text.str(), "trace", {.bytes = size_t(1) << 30});
}

struct Traced { int stages = 0, ops = 0, counters = 0; std::set<int> tracks; std::set<std::string> names; };
// Perfetto's rules: complete events with whole ns, each track named once and strictly nested, counters that are not negative.
// Every op lies in a stage, or on a stream.
Traced expect_nested(const Json& trace) {
    Traced seen;
    struct Span { int64_t begin, end; bool op; };
    std::map<int, std::vector<Span>> tracks;
    std::set<int> named;
    for (const Json& e : trace["traceEvents"]) {
        const std::string ph = e["ph"];
        if (ph == "M") {
            if (e["name"] == "thread_name") EXPECT(named.insert(e["tid"].get<int>()).second);
        } else if (ph == "C") {
            seen.counters++;
            for (const auto& [owner, bytes] : e["args"].items()) EXPECT_GE(bytes.get<int64_t>(), 0);
        } else {
            EXPECT_EQ(ph, "X");
            const int64_t begin = std::llround(e["ts"].get<double>() * 1e3), ns = std::llround(e["dur"].get<double>() * 1e3);
            const bool op = e["cat"] == "op";
            EXPECT_GE(begin, 0);
            EXPECT_GE(ns, 0);
            tracks[e["tid"]].push_back({begin, begin + ns, op});
            (op ? seen.ops : seen.stages)++;
            seen.names.insert(e["name"]);
        }
    }
    int bad = 0;
    for (const auto& [track, spans] : tracks) {         // they come in order: outer ones first
        EXPECT(named.count(track));
        seen.tracks.insert(track);
        std::vector<Span> open;
        for (size_t i = 0; i < spans.size(); i++) {
            const Span& s = spans[i];
            if (i) bad += s.begin < spans[i - 1].begin;
            while (!open.empty() && open.back().end <= s.begin && s.end > open.back().end) open.pop_back();
            if (!open.empty()) bad += s.end > open.back().end || open.back().op;
            else bad += s.op && track < profile::Results::kStreams;
            open.push_back(s);
            while (!open.empty() && open.back().op) open.pop_back();
        }
    }
    EXPECT_EQ(bad, 0);
    return seen;
}

// sum of own times == total, whatever the nesting
void expect_exact(const profile::Results& r) {
    int64_t ops = 0, outermost = 0;
    for (const profile::OpTotal& o : r.ops) {
        EXPECT_GE(o.ns, 0);
        ops += o.ns;
    }
    EXPECT_EQ(ops, r.op_ns);
    std::vector<int64_t> inside(r.stages.size(), 0), ops_inside(r.stages.size(), 0);
    for (const profile::StageTotal& s : r.stages) {
        EXPECT_GE(s.op_ns, 0);
        EXPECT_LE(s.op_ns, s.ns);
        if (s.parent < 0) outermost += s.ns;
        else inside[size_t(s.parent)] += s.ns, ops_inside[size_t(s.parent)] += s.op_ns;
    }
    for (size_t i = 0; i < r.stages.size(); i++) {
        EXPECT_LE(inside[i], r.stages[i].ns);
        EXPECT_LE(ops_inside[i], r.stages[i].op_ns);
    }
    EXPECT_LE(outermost, r.total_ns);
    EXPECT_LE(r.op_ns, r.total_ns);
}

std::string all(const std::vector<std::string>& lines) {
    std::string s;
    for (const std::string& l : lines) s += l + "\n";
    return s;
}

profile::Results record(const profile::Options& options, int rounds) {
    const Tensor x = random({64, 128}), w = random({96, 128}), y({64, 96});
    profile::start(options);
    {
        const profile::Range whole("whole");
        for (int i = 0; i < rounds; i++) {
            profile::Range stage("first");
            kernels::linear({.y = y, .x = x, .w = w});
            {
                const MemTag tag("scratch");
                const Tensor held({1024});
                const profile::Range inner("inner");
                kernels::add({.y = y, .a = y, .b = y});
            }
            stage.next("second");
            kernels::add({.y = y, .a = y, .b = y});
        }
    }
    return profile::stop();
}

}

TEST_CASE("profile: off until it is asked for") {
    EXPECT_FALSE(profile::on());
    const profile::Range range("nobody listens");
    random({8});
    profile::start();
    const profile::Results r = profile::stop();
    EXPECT(r.ops.empty());
    EXPECT(r.stages.empty());
    EXPECT_EQ(r.total_ns, 0);
}

TEST_CASE("profile: own times add up to the total exactly, and the total is no more than passed") {
    const int64_t begin = now();
    const profile::Results r = record({.trace = true, .memory_every_ns = 0}, 50);
    const int64_t passed = now() - begin;
    expect_exact(r);
    REQUIRE_EQ(r.stages.size(), size_t(4));
    EXPECT_EQ(r.stages[0].name, "whole");
    EXPECT_EQ(r.stages[0].ns, r.total_ns);
    EXPECT_LE(r.total_ns, passed);
    const std::vector<std::string> names = {"whole", "first", "inner", "second"};
    const std::vector<int> parents = {-1, 0, 1, 0};
    for (size_t i = 0; i < 4; i++) {
        EXPECT_EQ(r.stages[i].name, names[i]);
        EXPECT_EQ(r.stages[i].parent, parents[i]);
        EXPECT_EQ(r.stages[i].calls, uint64_t(i ? 50 : 1));
    }
    REQUIRE_EQ(r.ops.size(), size_t(2));
    EXPECT_EQ(std::string(r.ops[0].work.name), "linear");
    EXPECT(r.ops[0].shape == profile::Dims{64, 96, 128});
    EXPECT_EQ(r.ops[0].calls, 50u);
    EXPECT_EQ(r.ops[0].work.flops, 50 * 2.0 * 64 * 96 * 128);
    EXPECT_EQ(r.ops[0].work.bytes, 50 * 4.0 * (64 * 96 + 96 * 128 + 64 * 128));
    EXPECT_EQ(r.ops[1].calls, 100u);
    EXPECT_EQ(r.launches, 0u);                  // the CPU launches nothing

    const std::string table = all(r.table({1e9, 1e12, 2e12}));
    for (const char* part : {"kernel ", "linear", "floor ms", "outside kernels", "total", "sum of floors", "f32 64x96x128", "    inner", "memory, the most each owner held", "scratch"}) EXPECT_SAYS(table, part);
    // linear's floor: bytes at 1 GB/s take longer than flops at 1 TFLOP/s
    char floor[32];
    std::snprintf(floor, sizeof floor, "%.3f", r.ops[0].work.bytes * 1e-9 * 1e3);
    EXPECT_SAYS(table, floor);
    EXPECT_FALSE(contains(all(r.table({})), "sum of floors"));         // without peaks, none
}

TEST_CASE("profile: the events are the totals, strictly nested") {
    const profile::Results r = record({.trace = true, .memory_every_ns = 0}, 20);
    const Json trace = trace_of(r);
    const Traced seen = expect_nested(trace);
    EXPECT_EQ(seen.ops, 60);
    EXPECT_EQ(seen.stages, 61);
    EXPECT_GE(seen.counters, 2);                // "scratch" grows and shrinks
    EXPECT(seen.tracks.size() == 1);
    int64_t ops = 0, whole = 0;
    for (const Json& e : trace["traceEvents"])
        if (e["ph"] == "X") (e["cat"] == "op" ? ops : whole) += e["cat"] == "op" || e["name"] == "whole" ? std::llround(e["dur"].get<double>() * 1e3) : 0;
    EXPECT_EQ(ops, r.op_ns);
    EXPECT_EQ(whole, r.total_ns);
    EXPECT_EQ(trace["otherData"]["ops_left_out"], 0);
    EXPECT(record({}, 3).events.empty());       // --profile alone keeps none
}

TEST_CASE("profile: a trace has an end, and says what it left out") {
    const profile::Results r = record({.trace = true, .most_events = 40, .memory_every_ns = 0}, 100);
    const Json trace = trace_of(r);
    const Traced seen = expect_nested(trace);
    EXPECT_LE(seen.ops, 40);
    EXPECT_LE(seen.ops + seen.stages, 80);      // ranges go on up to twice as many
    EXPECT_EQ(uint64_t(seen.ops) + trace["otherData"]["ops_left_out"].get<uint64_t>(), 300u);
    EXPECT_EQ(uint64_t(seen.stages) + trace["otherData"]["ranges_left_out"].get<uint64_t>(), 301u);
    EXPECT_LE(seen.counters, 10);
    EXPECT_GT(trace["otherData"]["memory_samples_left_out"].get<int>(), 0);
    EXPECT_EQ(r.ops[0].calls, 100u);            // the tables miss nothing
    expect_exact(r);
}

TEST_CASE("profile: any name is a JSON string") {
    profile::start({.trace = true});
    for (const std::string name : {"quote \" backslash \\ slash /", "line\nbreak\ttab", "control \x01 and \x7f", "broken \xff utf-8 \xc3", "Ünïcödé", ""}) {
        const profile::Range range(name);
        random({4});
    }
    const profile::Results r = profile::stop();
    const Traced seen = expect_nested(trace_of(r));
    for (const char* name : {"quote \" backslash \\ slash /", "line\nbreak\ttab", "Ünïcödé", "", "random"}) EXPECT(seen.names.count(name));
    EXPECT_EQ(seen.names.size(), size_t(7));
}

TEST_CASE("profile: ranges opened before it starts, exceptions, threads") {
    {
        std::optional<profile::Range> late;
        profile::start({.trace = true});
        late.emplace("closed after the end");
        const profile::Results r = profile::stop();
        EXPECT_EQ(r.total_ns, 0);
    }
    profile::start({.trace = true});
    try {
        const profile::Range a("a"), b("b");
        throw 1;
    } catch (int) {}
    std::thread([] {
        const profile::Range range("elsewhere");
        random({4});
    }).join();
    const profile::Results r = profile::stop();
    expect_exact(r);
    const Traced seen = expect_nested(trace_of(r));
    EXPECT_EQ(seen.stages, 3);
    EXPECT_EQ(seen.tracks.size(), size_t(2));
}

// What a CUDA backend will do: times of the device come later, with a gap, and once overlapping by the rounding of a clock.
TEST_CASE("profile: times of a device, on a track for each stream") {
    struct Fake : profile::DeviceTimer {
        std::vector<Interval> done;
        std::vector<std::string> names;
        int64_t clock = now() + 1'000'000'000;
        int open = 0;
        void begin(uint32_t row, const char* name) override { names.push_back(name), done.push_back({row, int(names.size() % 2), clock += 500, 0}), open++; }
        void end(uint32_t) override { done.back().end = clock += 1000, clock -= names.size() == 3 ? 1600 : 0, open--; }
        std::vector<Interval> finished(bool) override { return std::exchange(done, {}); }
        profile::Peaks peaks() override { return {3e12, 60e12, 990e12}; }
    } timer;
    const Tensor x = random({32, 32});
    profile::use(&timer, Device::cpu);
    profile::start({.trace = true});
    {
        const profile::Range range("stage");
        for (int i = 0; i < 200; i++) kernels::add({.y = x, .a = x, .b = x});
    }
    const profile::Results r = profile::stop();
    profile::use(nullptr, Device::cuda);
    EXPECT_EQ(timer.open, 0);
    EXPECT_EQ(timer.names.size(), size_t(200));
    EXPECT_EQ(timer.names[0], "add");           // what NVTX shows is what the table says
    REQUIRE_EQ(r.ops.size(), size_t(1));
    EXPECT_EQ(r.ops[0].device_calls, 200u);
    EXPECT_LE(r.ops[0].device_ns, 200'000);
    EXPECT_GT(r.ops[0].device_ns, 190'000);
    REQUIRE_EQ(r.streams.size(), size_t(2));
    for (const auto& [id, s] : r.streams) {
        EXPECT_GE(s.longest_gap, 500);
        EXPECT_LE(s.busy, s.end - s.begin);
    }
    expect_exact(r);
    const Traced seen = expect_nested(trace_of(r));
    EXPECT_EQ(seen.ops, 400);                   // the launch on the host, the kernel on its stream
    EXPECT_EQ(seen.tracks.size(), size_t(3));
    const std::string table = all(r.table({}));
    for (const char* part : {"launching, on the host", "stream 0: busy", "stream 1: busy", "peaks of the device, measured now: 3000.0 GB/s"}) EXPECT_SAYS(table, part);
}

TEST_CASE("profile: the emulator's times are marked, its launches counted") {
    const OnDevice emulated(Device::emu);
    profile::start();
    {
        const profile::Range range("emulated");
        random({256});
    }
    const profile::Results r = profile::stop();
    EXPECT_EQ(r.launches, 1u);
    const std::string table = all(r.table({1e9, 1e12, 2e12}));
    for (const char* part : {"random (emu)", "say nothing of a GPU", "launches of GPU kernels: 1"}) EXPECT_SAYS(table, part);
    EXPECT_FALSE(contains(table, "sum of floors"));
}

// Launches are noted with their Work and not run. An op of several launches has no launch to compare with.
TEST_CASE("profile: work() is what the GPU launch says, for every op that is one launch") {
    const OnDevice emulated(Device::emu);
    int compared = 0, several = 0;
    std::set<std::string> names;
    for (const bench::KernelCase& c : bench::kernel_cases())
        for (const bench::Dims& shape : {c.shape, c.counted}) {
            if (shape == c.shape && shape != c.counted && Shape(std::span<const int64_t>(shape)).numel() > 1 << 24) continue;      // another size only takes time
            emu::Count noted;
            noted.dry = true;
            const std::function<void()> op = c.prepare(shape);
            noted.launches.clear();
            profile::start();
            op();
            const profile::Results r = profile::stop();
            REQUIRE_EQ(r.ops.size(), size_t(1));
            EXPECT_EQ(r.launches, noted.launches.size());
            CAPTURE(c.op);
            const Work& w = r.ops[0].work;
            EXPECT_GT(w.bytes, 0);
            if (noted.launches.size() != 1) {
                double bytes = 0, flops = 0;
                for (const emu::Counters& l : noted.launches) bytes += l.bytes, flops += l.flops;
                EXPECT_LE(w.bytes, bytes);      // together they do no less than an ideal kernel would
                EXPECT_LE(w.flops, flops);
                several++;
                continue;
            }
            const emu::Counters& launch = noted.launches[0];
            EXPECT_EQ(w.bytes, launch.bytes);
            EXPECT_EQ(w.flops, launch.flops);
            EXPECT_MESSAGE(launch.name.starts_with(w.name), "the table says ", w.name, ", the launch ", launch.name);
            compared++;
            names.insert(w.name);
        }
    std::printf("  %d launches of %d ops compared; %d ops of several launches\n", compared, int(names.size()), several);
    EXPECT_GE(names.size(), size_t(25));
}

TEST_CASE("profile: merv-ask --profile --trace") {
    TempDir dir;
    const Words question = {"-m", kModel, "--video", kClip, "--prompt", kQuestion, "-n", "8"};
    const int64_t begin = now();
    const Run profiled = answer(question + Words{"--profile", "--trace", dir / "t.json"});
    const double passed_ms = double(now() - begin) * 1e-6;
    EXPECT_EQ(profiled.out, answer(question).out);              // stdout is the answer's alone
    for (const char* part : {"kernel ", "linear", "attention", "attention, decode", "resample", "outside kernels", "sum of floors", "not in the total: ", "host launches of GPU kernels: 0", "merv-ask", "  load", "decode video", "languagebind",
                             "pool", "project", "fuse", "prefill", "generate", "unit", "weights", "kv cache"}) EXPECT_SAYS(profiled.err, part);
    const Json trace = parse_json(read_file(dir / "t.json"), "trace", {.bytes = size_t(1) << 30});
    const Traced seen = expect_nested(trace);
    EXPECT_GT(seen.ops, 100);
    EXPECT_GT(seen.counters, 4);
    for (const char* name : {"merv-ask", "dinov2", "pixels", "encode", "prefill", "decode", "logits", "linear", "rmsnorm"}) EXPECT(seen.names.count(name));
    for (const Json& e : trace["traceEvents"])
        if (e["ph"] == "X" && e["name"] == "merv-ask") EXPECT_LE(e["dur"].get<double>() * 1e-3, passed_ms);
    const Json j = answer(question + Words{"--json", "--profile", "-q"}).json();
    EXPECT(j.contains("answers"));
}

TEST_CASE("profile: a trace that cannot be written") {
    TempDir dir;
    const Words question = {"-m", "no such folder", "--prompt", "x"};
    const Run before = ask(question + Words{"--trace", dir / "no/such/folder.json"});      // said before the model is looked for
    EXPECT_EQ(before.code, int(Exit::usage));
    EXPECT_SAYS(before.err, "cannot be written; give a file's name in a folder that exists");
    EXPECT_FALSE(contains(before.err, "no such folder"));
    EXPECT_EQ(ask(question + Words{"--trace="}).code, int(Exit::usage));
    const Run failed = ask(question + Words{"--profile", "--trace", dir / "f.json"});      // what a failed run did is kept
    EXPECT_EQ(failed.code, int(Exit::bad_weights));
    EXPECT_FALSE(contains(failed.err, "outside kernels"));
    expect_nested(parse_json(read_file(dir / "f.json"), "trace"));
    if (std::filesystem::exists("/dev/full")) {
        const Run full = ask({"-m", kModel, "--prompt", "x", "-n", "1", "--trace", "/dev/full"});
        EXPECT_EQ(full.code, int(Exit::runtime));
        EXPECT_SAYS(full.err, "is the disk full?");
    }
}

TEST_CASE("profile: every program takes the flags") {
    const std::string bench = succeeded(run_program(built("merv-bench"), {"ops", "rope", "--shape", "8x4x16", "--seconds", "0.01", "--profile"})).err;
    for (const char* part : {"rope", "8x4x16", "merv-bench"}) EXPECT_SAYS(bench, part);
    EXPECT_SAYS(succeeded(run_program(built("merv-weights"), {"inspect", kModel, "--profile"})).err, "merv-weights");
}
