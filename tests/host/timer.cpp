// Device times for --profile and --trace, on the emulated runtime, whose events know when they came to pass: every op has its row, intervals of a stream do
// not overlap, NVTX ranges have the table's names, and memory is shown by owner and device.
#include <map>
#include <set>
#include <thread>
#include <nvtx3/nvToolsExt.h>
#include "core/autograd.h"
#include "core/cuda.h"
#include "core/profile.h"
#include "core/profile_clock.h"
#include "kernels/cuda/host/timer.h"
#include "kernels/elementwise.h"
#include "kernels/linear.h"
#include "models/load.h"
#include "models/merv.h"
#include "nn/functional.h"
#include "tests/host/cuda.h"

using namespace merv;
using namespace merv::test;

// ---- NVTX, as a tool that is linked in sees it (nvtx3/nvtxDetail/nvtxInit.h: static injection)

namespace {
struct Ranges { std::vector<std::string> pushed; int depth = 0, deepest = 0, unmatched = 0; } ranges;
int NVTX_API on_push(const char* name) {
    ranges.pushed.emplace_back(name);
    ranges.deepest = std::max(ranges.deepest, ++ranges.depth);
    return ranges.depth;
}
int NVTX_API on_pop() {
    ranges.unmatched += ranges.depth == 0;
    return ranges.depth ? --ranges.depth : 0;
}
int NVTX_API inject(NvtxGetExportTableFunc_t get) {
    const auto* callbacks = static_cast<const NvtxExportTableCallbacks*>(get(NVTX_ETID_CALLBACKS));
    NvtxFunctionTable table = nullptr;
    unsigned size = 0;
    if (!callbacks || !callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE, &table, &size)) return 0;
    *table[NVTX_CBID_CORE_RangePushA] = reinterpret_cast<NvtxFunctionPointer>(on_push);
    *table[NVTX_CBID_CORE_RangePop] = reinterpret_cast<NvtxFunctionPointer>(on_pop);
    return 1;
}
const bool injected = (InitializeInjectionNvtx2_fnptr = inject, true);         // before the first range
}

namespace {

// Intervals of each stream, which must follow one another within what passed; how many
std::map<int, int> expect_in_order(const profile::Results& r, int64_t begin, int64_t end) {
    std::map<int, std::vector<profile::Results::Event>> tracks;
    for (const auto& e : r.events) if (e.track >= profile::Results::kStreams) tracks[e.track - profile::Results::kStreams].push_back(e);
    std::map<int, int> counts;
    int overlapping = 0, outside = 0;
    for (auto& [stream, events] : tracks) {
        counts[stream] = int(events.size());
        for (size_t i = 0; i < events.size(); i++) {
            overlapping += i && events[i].begin < events[i - 1].begin + events[i - 1].ns;
            outside += events[i].ns < 0 || events[i].begin < begin - 100'000 || events[i].begin + events[i].ns > end + 100'000;       // 0.1 ms: two clocks
        }
    }
    EXPECT_EQ(overlapping, 0);
    EXPECT_EQ(outside, 0);
    return counts;
}
std::string lines_of(const profile::Results& r) {
    std::string s;
    for (const std::string& l : r.table({1e9, 1e12, 2e12})) s += l + "\n";
    return s;
}
template <class F> std::string reports_text(F&& f) {
    emulated::take_reports();
    emulated::configure(Policy::late);
    f();
    emulated::finish();
    return text_of(emulated::take_reports());
}

}

TEST_CASE("timer: merv-micro's answer has device times for every op, under the names that NVTX shows") {
    open_cuda(0);
    const OnDevice on(Device::cuda);
    const NoGrad inference;
    LoadedModel loaded = load_model(merv::test::golden("merv-micro"), {.dtype = DType::f32});
    const Llama& llm = loaded.merv.llm;
    const std::vector<int32_t> prompt = {1, 5, 9, 13};
    profile::Results r;
    const std::string reports = reports_text([&] {
        ranges = {};
        profile::start({.trace = true});
        const int64_t begin = profile::now();
        {
            const profile::Range whole("whole");
            KvCache cache = llm.cache(32);
            const Tensor hidden = llm.forward(llm.embed(prompt), cache);
            generate(llm, cache, llm.logits(hidden.slice(3, 4)), {.max_tokens = 5, .sampling = {}, .stop = {}});
        }
        r = profile::stop();
        std::map<int, int> counts = expect_in_order(r, begin, profile::now());
        EXPECT_EQ(counts.size(), size_t(1));
        int64_t busy = 0, times = 0;
        uint64_t calls = 0;
        std::map<std::string, uint64_t> by_name, pushed;
        for (const profile::OpTotal& o : r.ops) {
            EXPECT(o.device == Device::cuda);
            EXPECT_EQ(o.device_calls, o.calls);
            EXPECT_GE(o.device_ns, 0);
            calls += o.calls, times += o.device_ns, by_name[o.work.name] += o.calls;
        }
        for (const std::string& name : ranges.pushed) pushed[name]++;
        EXPECT(by_name == pushed);
        EXPECT_EQ(uint64_t(counts[0]), calls);
        for (const char* name : {"linear", "rmsnorm", "rope, append", "attention", "attention, decode", "gather_rows"}) EXPECT_GT(by_name[name], 0u);
        EXPECT_EQ(ranges.depth, 0);
        EXPECT_EQ(ranges.deepest, 1);
        EXPECT_EQ(ranges.unmatched, 0);
        for (const auto& [stream, s] : r.streams) {
            busy += s.busy;
            EXPECT_LE(s.busy, s.end - s.begin);
        }
        EXPECT_EQ(busy, times);
        EXPECT_GT(r.launches, calls / 2);       // products of cuBLASLt are no launches of ours
    });
    EXPECT_EQ(reports, "");
    EXPECT_GT(r.device_peaks.bytes, 0);
    EXPECT_GT(r.device_peaks.f32, 0);
    EXPECT_GT(r.device_peaks.bf16, 0);
    EXPECT_EQ(r.memory.count("peaks (cuda)"), 0u);              // measured when the run has ended
    const std::string table = lines_of(r);
    for (const char* part : {"linear (cuda)", "attention, decode (cuda)", "peaks of the device, measured now", "launching, on the host", "stream 0: busy", "sum of floors", "decoding runs as plain launches"}) EXPECT_SAYS(table, part);
}

TEST_CASE("timer: more ops than the ring holds, none waited for") {
    open_cuda(0);
    const OnDevice on(Device::cuda);
    const Tensor x = zeros({4});
    constexpr uint64_t kOps = CudaTimer::kPairs + 1500;
    EXPECT_EQ(reports_text([&] {
        profile::start({.trace = true});
        const int64_t begin = profile::now();
        {
            const profile::Range whole("whole");
            for (uint64_t i = 0; i < kOps; i++) kernels::add({.y = x, .a = x, .b = x});
        }
        const profile::Results r = profile::stop();
        std::map<int, int> counts = expect_in_order(r, begin, profile::now());
        REQUIRE_EQ(r.ops.size(), size_t(1));
        EXPECT_EQ(r.ops[0].device_calls, kOps);
        EXPECT_EQ(counts[0], int(kOps));
        int empty = 0;                          // an interval that lies before the one before it would be cut to nothing
        for (const auto& e : r.events) empty += e.op && e.ns == 0;
        EXPECT_EQ(empty, 0);
    }), "");
}

TEST_CASE("timer: a full ring waits for its oldest half; what is left is for the end, and nothing for the next run") {
    open_cuda(0);
    const OnDevice on(Device::cuda);
    const Tensor x = zeros({4});
    CudaTimer timer;
    constexpr uint32_t kOps = uint32_t(2 * CudaTimer::kPairs + 100);
    EXPECT_EQ(reports_text([&] {
        for (uint32_t i = 0; i < kOps; i++) {
            timer.begin(i, "fill");
            cuda().fill(x.raw(), 0, x.bytes());
            timer.end(i);
        }
        const auto intervals = timer.finished(true);
        REQUIRE_EQ(intervals.size(), size_t(kOps));
        int wrong = 0;
        for (uint32_t i = 0; i < kOps; i++) wrong += intervals[i].row != i || intervals[i].end < intervals[i].begin || (i && intervals[i].begin < intervals[i - 1].end - 1000);
        EXPECT_EQ(wrong, 0);
        EXPECT(timer.finished(true).empty());
    }), "");
}

TEST_CASE("timer: streams and threads, a second run, and an op whose events fail") {
    open_cuda(0);
    const OnDevice on(Device::cuda);
    const Tensor x = zeros({4}), y = zeros({4});
    cuda().synchronize();
    const Stream other;
    EXPECT_EQ(reports_text([&] {
        for (int again = 0; again < 2; again++) {
            profile::start({.trace = true});
            const int64_t begin = profile::now();
            {
                const profile::Range whole("whole");
                for (int i = 0; i < 10; i++) {
                    kernels::add({.y = x, .a = x, .b = x});
                    const StreamScope scope(other);
                    kernels::add({.y = y, .a = y, .b = y});
                }
                std::thread([&] {
                    const OnDevice there(Device::cuda);
                    const profile::Range thread("thread");
                    for (int i = 0; i < 5; i++) kernels::add({.y = x, .a = x, .b = x});
                }).join();
            }
            const profile::Results r = profile::stop();
            const std::map<int, int> counts = expect_in_order(r, begin, profile::now());
            REQUIRE_EQ(r.ops.size(), size_t(1));
            EXPECT_EQ(r.ops[0].device_calls, 25u);
            REQUIRE_EQ(counts.size(), size_t(2));
            EXPECT_EQ(counts.begin()->second + counts.rbegin()->second, 25);
            EXPECT_EQ(std::min(counts.begin()->second, counts.rbegin()->second), 10);
        }
        profile::start();
        ranges = {};
        kernels::add({.y = x, .a = x, .b = x});
        emulated::fail_next("cudaEventRecord", cudaErrorLaunchFailure);     // not this op's fault: it is counted, and not timed
        kernels::add({.y = x, .a = x, .b = x});
        kernels::add({.y = x, .a = x, .b = x});
        const profile::Results r = profile::stop();
        REQUIRE_EQ(r.ops.size(), size_t(1));
        EXPECT_EQ(r.ops[0].calls, 3u);
        EXPECT_EQ(r.ops[0].device_calls, 2u);
        EXPECT_EQ(ranges.depth, 0);
        cuda().synchronize();
        profile::start();                       // a device that fails before its times are read loses them, not the next run's
        kernels::add({.y = x, .a = x, .b = x}), kernels::add({.y = x, .a = x, .b = x});
        emulated::fail_next("cudaEventSynchronize", cudaErrorLaunchFailure);
        EXPECT_EQ(profile::stop().ops[0].device_calls, 0u);
        profile::start();
        kernels::add({.y = x, .a = x, .b = x});
        EXPECT_EQ(profile::stop().ops[0].device_calls, 1u);
    }), "");
    cudaGetLastError();
}

TEST_CASE("timer: times of kernels are theirs: a long one is longer, and a wait of the host is a gap") {
    open_cuda(0);
    const OnDevice on(Device::cuda);
    const Tensor small = zeros({4}), a = zeros({64, 256}), w = zeros({256, 256}), c({64, 256});
    profile::start({.trace = true});
    {
        const profile::Range whole("whole");
        kernels::add({.y = small, .a = small, .b = small});
        cuda().synchronize();
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        kernels::linear({.y = c, .x = a, .w = w});
        cuda().synchronize();
    }
    const profile::Results r = profile::stop();
    REQUIRE_EQ(r.ops.size(), size_t(2));
    REQUIRE_EQ(r.streams.size(), size_t(1));
    EXPECT_GE(r.streams.begin()->second.longest_gap, 19'000'000);
    EXPECT_GT(r.ops[1].device_ns, r.ops[0].device_ns);          // 64 x 256 x 256 against 4 elements
    EXPECT_LE(r.ops[0].device_ns + r.ops[1].device_ns + r.streams.begin()->second.longest_gap, r.total_ns + 1'000'000);
}

TEST_CASE("timer: the profiler's clock is steady_clock's, and never goes back") {
    profile::set_clock();
    int64_t last = profile::now();
    int back = 0;
    for (int i = 0; i < 1'000'000; i++) {
        const int64_t t = profile::now();
        back += t < last, last = t;
    }
    EXPECT_EQ(back, 0);
    const int64_t before = profile::steady_now(), here = profile::now(), after = profile::steady_now();
    EXPECT_GE(here, before - 1'000'000);        // 1 ms, after some seconds
    EXPECT_LE(here, after + 1'000'000);
}

TEST_CASE("timer: memory by owner tells the device's from the host's") {
    open_cuda(0);
    const OnDevice on(Device::cuda);
    const MemTag tag("timer's test");
    {
        const Tensor there({3 << 18}), here({1 << 18}, DType::f32, Device::cpu);
        EXPECT_EQ(memory_by_tag()["timer's test (cuda)"], size_t(3) << 20);
        EXPECT_EQ(memory_by_tag()["timer's test"], size_t(1) << 20);
        here.to(Device::cuda);                  // a copy of 1 MiB, for a moment
    }
    EXPECT_EQ(memory_by_tag()["timer's test (cuda)"], 0u);
    EXPECT_EQ(memory_by_tag()["timer's test"], 0u);
    EXPECT_EQ(peak_memory_by_tag()["timer's test (cuda)"], size_t(4) << 20);
    EXPECT_EQ(peak_memory_by_tag()["timer's test"], size_t(1) << 20);
    profile::start();
    const std::string table = lines_of(profile::stop());
    EXPECT_SAYS(table, "timer's test (cuda)                                          4.00");
    try {                                       // and out of memory lists the device's alone
        const Tensor here({8 << 20}, DType::f32, Device::cpu), there({1 << 20});
        emulated::fail_allocations_after(16 << 20);
        Tensor({16 << 20});
        FAIL_CHECK("there was memory");
    } catch (const Error& e) {
        EXPECT_SAYS(e.what(), "timer's test 4 MiB");
        EXPECT_FALSE(contains(e.what(), "32 MiB,"));
    }
    emulated::fail_allocations_after(~size_t(0));
}
