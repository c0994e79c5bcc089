// Random programs of copies, memsets and kernels on four streams, in which some waits are left out. Whether a program has a race is computed
// from what it issued, as reachability in a graph, with nothing of the runtime's.
#include <bit>
#include <random>
#include "tests/host/cuda.h"

namespace merv::test {
namespace {

constexpr int streams = 4, buffers = 6, n = 64;

struct Step {
    int stream, reads, writes;                  // buffers; reads: -1 for none
    std::vector<bool> after;                    // the steps it lies after
};
bool conflict(const Step& a, const Step& b) { return a.writes == b.writes || a.writes == b.reads || a.reads == b.writes; }

struct Outcome { bool racy = false, wrong = false; };

Outcome random_program(unsigned seed, const cudaStream_t (&stream)[streams]) {
    std::mt19937 generator(seed);
    auto below = [&](int k) { return int(generator() % unsigned(k)); };
    float* buffer[buffers];
    std::vector<float> value[buffers];
    auto set = [](int byte) { return std::bit_cast<float>(uint32_t(byte) * 0x01010101u); };
    for (int b = 0; b < buffers; b++) {
        buffer[b] = device(n);
        cudaMemset(buffer[b], 0x3c + b % 4, n * sizeof(float));
        value[b].assign(n, set(0x3c + b % 4));
    }
    cudaDeviceSynchronize();

    const int count = 8 + below(24), omitted = below(3) ? below(12) : -1;       // one wait in omitted + 2
    std::vector<Step> steps;
    std::vector<cudaEvent_t> done;
    std::vector<bool> host(size_t(count), false);       // the steps that the host knows to be done
    int last[streams] = {-1, -1, -1, -1};
    auto learn = [&](std::vector<bool>& to, int step) {
        for (int k = 0; k < step; k++) to[size_t(k)] = to[size_t(k)] || steps[size_t(step)].after[size_t(k)];
        to[size_t(step)] = true;
    };
    for (int i = 0; i < count; i++) {
        const int kind = below(4);              // memset, copy, and kernels: y = 2 x, y += x
        Step s{below(streams), below(buffers), below(buffers), host};
        if (kind == 0) s.reads = -1;
        if (kind == 1 && s.reads == s.writes) s.reads = (s.writes + 1) % buffers;
        if (last[s.stream] >= 0) learn(s.after, last[s.stream]);
        for (int j = i - 1; j >= 0; j--)
            if (conflict(steps[size_t(j)], s) && !s.after[size_t(j)] && !(omitted >= 0 && below(omitted + 2) == 0)) {
                cudaStreamWaitEvent(stream[s.stream], done[size_t(j)], 0);
                learn(s.after, j);
            }
        float *y = buffer[s.writes], *x = s.reads < 0 ? nullptr : buffer[s.reads];
        std::vector<float>& to = value[s.writes];
        if (kind == 0) cudaMemsetAsync(y, 0x3e, n * sizeof(float), stream[s.stream]), to.assign(n, set(0x3e));
        else if (kind == 1) cudaMemcpyAsync(y, x, n * sizeof(float), cudaMemcpyDeviceToDevice, stream[s.stream]), to = value[s.reads];
        else if (kind == 2) scale(y, x, 2, n, stream[s.stream]), to.assign(n, 2 * value[s.reads][0]);
        else add_scaled(y, x, 1, n, stream[s.stream]), to.assign(n, to[0] + value[s.reads][0]);
        done.push_back(new_event());
        cudaEventRecord(done.back(), stream[s.stream]);
        steps.push_back(s);
        last[s.stream] = i;
        if (below(10) == 0) {
            cudaStreamSynchronize(stream[s.stream]);
            learn(host, i);
        }
    }
    cudaDeviceSynchronize();
    Outcome o;
    for (size_t i = 0; i < steps.size(); i++)
        for (size_t j = 0; j < i; j++) o.racy |= conflict(steps[i], steps[j]) && !steps[i].after[j];
    for (int b = 0; b < buffers; b++) {
        std::vector<float> got(n);
        cudaMemcpy(got.data(), buffer[b], n * sizeof(float), cudaMemcpyDeviceToHost);
        o.wrong |= got != value[b];
        cudaFree(buffer[b]);
    }
    for (const cudaEvent_t e : done) cudaEventDestroy(e);
    return o;
}

TEST_CASE("emulated runtime: random programs are reported if and only if they have a race") {
    constexpr unsigned programs = 300;
    for (const Policy policy : {Policy::late, Policy::eager, Policy::random}) {
        cudaStream_t stream[streams];
        for (cudaStream_t& s : stream) s = new_stream();
        int racy = 0, missed = 0, wrongly_reported = 0, wrong_values = 0;
        for (unsigned seed = 0; seed < programs; seed++) {
            Outcome o;
            const auto reports = reports_of(policy, seed, [&] { o = random_program(seed * 7919 + 5, stream); });
            racy += o.racy;
            missed += o.racy && !has_kind(reports, "RACE");
            wrongly_reported += !o.racy && !reports.empty();
            wrong_values += !o.racy && o.wrong;
        }
        for (cudaStream_t s : stream) cudaStreamDestroy(s);
        MESSAGE(name_of(policy), ": ", programs, " programs, ", racy, " with a race, ", missed, " missed, ", wrongly_reported, " falsely reported");
        EXPECT_GT(racy, int(programs) / 5);
        EXPECT_LT(racy, int(programs) * 4 / 5);
        EXPECT_EQ(missed, 0);
        EXPECT_EQ(wrongly_reported, 0);
        EXPECT_EQ(wrong_values, 0);
    }
}

}
}
