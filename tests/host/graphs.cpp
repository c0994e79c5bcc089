// Graphs on the emulated CUDA runtime. A loop as a decoder has it: while the device runs step t, the host captures step t + 1, then waits for step t's
// result, of which the next input is made. Right, it is never reported; with any of the mistakes below, it is, or its values are wrong.
#include <cmath>
#include <thread>
#include "tests/host/cuda.h"

namespace merv::test {
namespace {

enum class Bug {
    none, freed_before_launch, freed_and_given_away, graph_input_refilled, waits_in_capture, waits_for_other_in_capture, malloc_in_capture, pool_in_capture, frees_in_capture, copies_in_capture,
    default_stream_in_capture, other_stream, input_overwritten, result_read_early, not_captured_again, update_ignored, fork_unjoined, event_from_outside, destroyed, ended_elsewhere, stale_host_value,
    captured_twice, fork_not_ordered,
};

// How many results are wrong: of step t, n sum_{s <= t} (s + 1) input(s), where input(0) = 1 and input(s) = (result(s - 1) mod 7) + 1
int decode(Bug bug) {
    constexpr int n = 200, steps = 6;
    int wrong = 0;
    const cudaStream_t s = new_stream(bug == Bug::default_stream_in_capture ? cudaStreamDefault : cudaStreamNonBlocking), other = new_stream(), side = new_stream();
    float *x = device(n), *scaled = nullptr, *total = device(n), *out = device(1), *in = pinned(n), *result = pinned(1), pageable[n];
    void* p = nullptr;
    cudaMallocAsync(&p, n * sizeof(float), s);
    scaled = static_cast<float*>(p);
    cudaMemsetAsync(total, 0, n * sizeof(float), s);
    const cudaEvent_t read = new_event(), forked = new_event(), joined = new_event(), outside = new_event();
    cudaEventRecord(outside, s);
    const size_t bytes = n * sizeof(float);
    const bool reads_host = bug == Bug::graph_input_refilled || bug == Bug::stale_host_value;         // the graph itself uploads
    auto step = [&](int t) {
        if (reads_host) cudaMemcpyAsync(x, bug == Bug::stale_host_value ? pageable : in, bytes, cudaMemcpyHostToDevice, s);
        if (bug == Bug::event_from_outside && t == 2) cudaStreamWaitEvent(s, outside, 0);
        if (bug == Bug::update_ignored && t == 3) scale(scaled, x, 1, n, s);
        scale(scaled, x, float(t + 1), n, s);
        if (t == 2 && bug == Bug::waits_in_capture) cudaStreamSynchronize(s);
        if (t == 2 && bug == Bug::waits_for_other_in_capture) cudaEventSynchronize(outside);
        if (t == 2 && bug == Bug::malloc_in_capture) cudaMalloc(&p, 64);
        if (t == 2 && bug == Bug::pool_in_capture) cudaMallocAsync(&p, 64, s);
        if (t == 2 && bug == Bug::frees_in_capture) cudaFreeAsync(scaled, s);
        if (t == 2 && bug == Bug::copies_in_capture) cudaMemcpy(pageable, x, bytes, cudaMemcpyDeviceToHost);
        if (t == 2 && bug == Bug::default_stream_in_capture) cudaMemsetAsync(out, 0, sizeof(float), nullptr);
        add_scaled(total, scaled, 1, n, s);
        cudaEventRecord(forked, s);             // the sum on another stream
        cudaStreamWaitEvent(side, forked, 0);
        sum(out, total, n, side);
        if (bug == Bug::fork_not_ordered) scale(total, total, 1, n, s);
        cudaEventRecord(joined, side);
        if (bug != Bug::fork_unjoined) cudaStreamWaitEvent(s, joined, 0);
        cudaMemcpyAsync(result, out, sizeof(float), cudaMemcpyDeviceToHost, s);
    };
    cudaGraphExec_t exec = nullptr;
    auto capture = [&](int t) {
        cudaGraph_t graph = nullptr;
        if (cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal) != cudaSuccess) return false;
        if (t == 2 && bug == Bug::captured_twice) cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal);
        step(t);
        cudaError_t e = cudaSuccess;
        if (t == 2 && bug == Bug::ended_elsewhere) std::thread([&] { e = cudaStreamEndCapture(s, &graph); }).join();
        else e = cudaStreamEndCapture(s, &graph);
        if (e != cudaSuccess) return false;
        cudaGraphExecUpdateResultInfo info;
        if (!exec) cudaGraphInstantiate(&exec, graph, 0);
        else if (cudaGraphExecUpdate(exec, graph, &info) != cudaSuccess && bug != Bug::update_ignored) wrong++;
        cudaGraphDestroy(graph);
        return true;
    };
    auto upload = [&](float v, cudaStream_t on) {
        if (!reads_host) cudaEventSynchronize(read);
        for (int i = 0; i < n; i++) in[i] = pageable[i] = v;
        if (!reads_host) cudaMemcpyAsync(x, in, bytes, cudaMemcpyHostToDevice, on), cudaEventRecord(read, on);
    };
    float input = 1;
    double want = 0;
    upload(input, s);
    if (!capture(0)) return wrong + 1;
    for (int t = 0; t < steps; t++) {
        if (t == 2 && bug == Bug::freed_before_launch) cudaFreeAsync(scaled, s);
        if (t == 2 && bug == Bug::freed_and_given_away) cudaFreeAsync(scaled, s), cudaMallocAsync(&p, bytes, s);
        if (t == 2 && bug == Bug::destroyed) cudaGraphExecDestroy(exec);
        if (t == 2 && bug == Bug::stale_host_value) for (float& v : pageable) v = 100;
        cudaGraphLaunch(exec, t == 2 && bug == Bug::other_stream ? other : s);
        if (t == 2 && bug == Bug::graph_input_refilled) in[3] = 0;
        if (t == 2 && bug == Bug::input_overwritten) upload(9, other);
        want += double(n) * (t + 1) * input;
        if (t + 1 < steps && !(bug == Bug::not_captured_again && t == 2) && !capture(t + 1)) return wrong + 1;
        if (t != 2 || bug != Bug::result_read_early) cudaStreamSynchronize(s);
        wrong += !(std::abs(*result - want) <= 1e-3);
        input = float(std::fmod(want, 7) + 1);
        if (t + 1 < steps) upload(input, s);
    }
    cudaDeviceSynchronize();
    return wrong;
}

struct Mistake { Bug bug; std::string name, kind; };      // kind: or one of several; none: the values are wrong
const Mistake mistakes[] = {
    {Bug::freed_before_launch, "memory freed between capture and launch", "UAF"},
    {Bug::freed_and_given_away, "memory freed, and given to somebody else, between capture and launch", "UAF"},
    {Bug::graph_input_refilled, "pinned memory that the graph uploads refilled under it", "RACE"},
    {Bug::waits_in_capture, "the captured stream waited for", "CAPTURE"},
    {Bug::waits_for_other_in_capture, "an event waited for in a capture", "CAPTURE"},
    {Bug::malloc_in_capture, "cudaMalloc in a capture", "CAPTURE"},
    {Bug::pool_in_capture, "cudaMallocAsync in a capture", "CAPTURE"},
    {Bug::frees_in_capture, "cudaFreeAsync in a capture", "CAPTURE"},
    {Bug::copies_in_capture, "synchronous copy in a capture", "CAPTURE"},
    {Bug::default_stream_in_capture, "default stream used while a blocking stream is captured", "CAPTURE"},
    {Bug::other_stream, "launched on a stream that does not wait for the input", "RACE"},
    {Bug::input_overwritten, "input overwritten before the launch has read it", "RACE"},
    {Bug::result_read_early, "result read before the launch is done", "RACE"},
    {Bug::fork_not_ordered, "two branches of a graph that share memory", "RACE"},
    {Bug::fork_unjoined, "a branch that nobody joins", "CAPTURE"},
    {Bug::event_from_outside, "a capture waits for an event recorded outside", "CAPTURE"},
    {Bug::destroyed, "a destroyed graph launched", "GRAPH"},
    {Bug::ended_elsewhere, "a capture ended by another thread", "CAPTURE"},
    {Bug::captured_twice, "a captured stream captured", "CAPTURE"},
    {Bug::not_captured_again, "launched again with the length of the step before", ""},
    {Bug::update_ignored, "a refused update ignored", ""},
    {Bug::stale_host_value, "ordinary host memory changed between capture and launch", ""},
};

TEST_CASE("emulated runtime: a right loop of graphs is never reported") {
    auto run = [](Policy policy, unsigned seed) {
        CAPTURE(name_of(policy));
        CAPTURE(seed);
        int wrong = -1;
        const auto reports = reports_of(policy, seed, [&] { wrong = decode(Bug::none); });
        EXPECT_MESSAGE(reports.empty(), text_of(reports));
        EXPECT_EQ(wrong, 0);
    };
    run(Policy::late, 1);
    run(Policy::eager, 1);
    for (unsigned seed = 1; seed <= 20; seed++) run(Policy::random, seed);
}

TEST_CASE("emulated runtime: each mistake with a graph is reported, in every order, or its values are wrong") {
    for (const Mistake& m : mistakes)
        for (const Policy policy : {Policy::late, Policy::eager, Policy::random}) {
            int wrong = 0;
            const auto reports = reports_of(policy, 1, [&] { wrong = decode(m.bug); });
            CAPTURE(name_of(policy));
            if (m.kind.empty()) {
                EXPECT_MESSAGE(wrong > 0, m.name, ": no value is wrong");
                EXPECT_MESSAGE(reports.empty(), m.name, text_of(reports));
            } else EXPECT_MESSAGE(has_kind(reports, m.kind), m.name, ": not reported as ", m.kind, text_of(reports));
        }
}

TEST_CASE("emulated runtime: what a graph's functions answer") {
    const auto reports = reports_of(Policy::late, 1, [] {
        const cudaStream_t s = new_stream(), side = new_stream();
        float *x = device(64), *y = device(64);
        cudaStreamCaptureStatus status;
        auto captured = [&](auto&& work) {
            cudaGraph_t g = nullptr;
            EXPECT_EQ(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal), cudaSuccess);
            EXPECT_EQ(cudaStreamIsCapturing(s, &status), cudaSuccess);
            EXPECT_EQ(status, cudaStreamCaptureStatusActive);
            work();
            EXPECT_EQ(cudaStreamEndCapture(s, &g), cudaSuccess);
            cudaStreamIsCapturing(s, &status);
            EXPECT_EQ(status, cudaStreamCaptureStatusNone);
            return g;
        };
        const cudaGraph_t one = captured([&] { scale(y, x, 2, 64, s); }), two = captured([&] { scale(y, x, 2, 64, s), scale(y, y, 2, 64, s); });
        const cudaGraph_t copy = captured([&] { cudaMemcpyAsync(y, x, 256, cudaMemcpyDeviceToDevice, s); }), three = captured([&] { scale(x, x, 3, 32, s); });
        size_t nodes = 0;
        EXPECT_EQ(cudaGraphGetNodes(two, nullptr, &nodes), cudaSuccess);
        EXPECT_EQ(nodes, 2u);
        cudaGraphExec_t exec;
        EXPECT_EQ(cudaGraphInstantiate(&exec, one, 0), cudaSuccess);
        cudaGraphExecUpdateResultInfo info;
        EXPECT_EQ(cudaGraphExecUpdate(exec, two, &info), cudaErrorGraphExecUpdateFailure);
        EXPECT_EQ(info.result, cudaGraphExecUpdateErrorTopologyChanged);
        EXPECT_EQ(cudaGraphExecUpdate(exec, copy, &info), cudaErrorGraphExecUpdateFailure);
        EXPECT_EQ(info.result, cudaGraphExecUpdateErrorNodeTypeChanged);
        std::vector<float> host(64, 1), got(64);
        cudaMemcpyAsync(x, host.data(), 256, cudaMemcpyHostToDevice, s);
        cudaGraphLaunch(exec, s);               // not run yet
        EXPECT_EQ(cudaGraphExecUpdate(exec, three, &info), cudaSuccess);
        cudaGraphLaunch(exec, s);
        cudaGraphLaunch(exec, side);            // behind its own last launch, on whatever stream
        cudaStreamSynchronize(side);
        cudaMemcpy(got.data(), y, 256, cudaMemcpyDeviceToHost);
        EXPECT_EQ(got, std::vector<float>(64, 2));              // what was launched is not updated
        cudaMemcpy(got.data(), x, 256, cudaMemcpyDeviceToHost);
        EXPECT_EQ(got[31], 9);                  // another kernel's arguments, half of the elements
        EXPECT_EQ(got[32], 1);
        const cudaGraph_t forked = captured([&] {               // as many kernels as two has, one of them on a stream of its own
            const cudaEvent_t begun = new_event(), done = new_event();
            cudaEventRecord(begun, s), cudaStreamWaitEvent(side, begun, 0);
            scale(y, x, 2, 64, side), scale(x, x, 2, 64, s);
            cudaEventRecord(done, side), cudaStreamWaitEvent(s, done, 0);
        });
        cudaGraphExec_t chain;
        EXPECT_EQ(cudaGraphInstantiate(&chain, two, 0), cudaSuccess);
        EXPECT_EQ(cudaGraphExecUpdate(chain, forked, &info), cudaErrorGraphExecUpdateFailure);
        EXPECT_EQ(info.result, cudaGraphExecUpdateErrorTopologyChanged);
        for (const cudaGraph_t g : {one, two, copy, three}) EXPECT_EQ(cudaGraphDestroy(g), cudaSuccess);
        EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
    });
    EXPECT_MESSAGE(reports.empty(), text_of(reports));
}

}
}
