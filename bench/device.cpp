#include "bench/device.h"
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include "bench/kernels.h"
#include "core/cuda.h"
#include "core/profile.h"
#include "core/rng.h"
#include "core/version.h"
#include "kernels/known_answers.h"
#include "kernels/wrappers.h"

namespace merv::bench {
namespace {

using Json = nlohmann::ordered_json;

std::string joined(const Dims& dims) {
    std::string s;
    for (int64_t d : dims) s += concat(s.empty() ? "" : "x", d);
    return s;
}

// Seconds of one run each, between two events of the device.
std::vector<double> timed(const std::vector<std::function<void()>>& ops, int repetitions) {
    static const Tensor flush({int64_t(1) << 28}, DType::u8);           // 256 MiB: no L2 is that large
    profile::DeviceTimer& timer = *cuda().timer();
    timer.finished(true);
    for (int i = 0; i < repetitions; i++) {
        cuda().fill(flush.raw(), i, flush.bytes());
        timer.begin(0, "bench");
        ops[size_t(i) % ops.size()]();
        timer.end(0);
        if (i % 64 == 63) cuda().synchronize();
    }
    std::vector<double> seconds;
    for (const auto& interval : timer.finished(true)) seconds.push_back(double(interval.end - interval.begin) * 1e-9);
    return seconds;
}

Work work_of(const std::function<void()>& op) {
    profile::start();
    op();
    const profile::Results r = profile::stop();
    Work all{"all"};
    for (const profile::OpTotal& o : r.ops) all.bytes += o.work.bytes, all.flops += o.work.flops;
    return all;
}

std::string device_json() {
    const profile::Peaks p = cuda().timer()->peaks();
    return Json{{"device", cuda().name()}, {"commit", commit()}, {"read_gb_s", p.bytes * 1e-9}, {"f32_tflop_s", p.f32 * 1e-12}, {"bf16_tflop_s", p.bf16 * 1e-12}}.dump();
}

}

void device_report(const std::string& format) {
    const Json j = Json::parse(device_json());
    if (format == "json") std::printf("%s\n", j.dump().c_str());
    else for (const auto& [key, value] : j.items()) std::printf("%-14s %s\n", key.c_str(), value.is_string() ? value.get<std::string>().c_str() : value.dump().c_str());
}

int self_test_report(const std::string& format) {
    if (current_device() != Device::cuda) fail(Exit::usage, "self-test asks a card: merv-bench self-test --device cuda");
    int wrong = 0;
    double worst = 0;
    Json rows = Json::array();
    for (const kernels::Question& q : kernels::known_answers()) {
        const kernels::Answer a = q.ask();
        const bool right = a.error <= a.limit;
        wrong += !right;
        if (a.limit > 0) worst = std::max(worst, a.error / a.limit);
        rows.push_back({{"op", q.op}, {"way", q.way}, {"error", a.error}, {"limit", a.limit}, {"right", right}});
        if (format != "json" && !right) std::printf("wrong: %s (%s): off by %g, limit %g\n", q.op, q.way.c_str(), a.error, a.limit);
    }
    if (format == "json") std::printf("%s\n", Json{{"device", Json::parse(device_json())}, {"rows", rows}, {"wrong", wrong}}.dump(1).c_str());
    else std::printf("%zu known answers, %d wrong, the worst right one at %.0f %% of its limit; %s\n", rows.size(), wrong, 100 * worst, cuda().name().c_str());
    return wrong ? 1 : 0;
}

int wrappers_report(const std::string& format, int inputs) {
    if (current_device() != Device::cuda) fail(Exit::usage, "wrappers holds the emulator against a card: merv-bench wrappers --device cuda");
    using namespace kernels;
    int wrong = 0;
    Json rows = Json::array();
    for (int w = 0; w < kWrappers; w++) {
        int differing = 0;
        int64_t words = 0, most_ulp = 0;
        std::string example;
        for (int n = 0; n < inputs; n++) {
            const Rng rng(uint64_t(n), kWrapperNames[w]);
            std::vector<int32_t> in(static_cast<size_t>(kWrapperIn));
            for (size_t i = 0; i < in.size(); i++) in[i] = int32_t(rng.bits(i)[0] & (Wrapper(w) == Wrapper::pack_bf16 ? ~0u : 0xBFFFBFFFu));      // else finite, as f32 and as two bf16
            auto made = [&](Device device, auto run) {
                const OnDevice on(device);
                const WrapperProbe p{.out = zeros({kWrapperOut}, DType::i32), .in = from_ints(in).to(device), .which = Wrapper(w)};
                run(p);
                return p.out.to(Device::cpu);
            };
            const Tensor here = made(Device::emu, [](const WrapperProbe& p) { emu_fast::run(p); }), there = made(Device::cuda, [](const WrapperProbe& p) { cuda::run(p); });
            int64_t bad = 0;
            for (int64_t i = 0; i < kWrapperOut; i++) {
                const int32_t a = here.data<int32_t>()[i], b = there.data<int32_t>()[i];
                const int64_t ulp = std::abs(int64_t(a) - int64_t(b));      // of two floats of one sign, their distance
                if (Wrapper(w) == Wrapper::functions) most_ulp = std::max(most_ulp, ulp);
                if (Wrapper(w) == Wrapper::functions ? ulp > kFunctionUlp : a != b) {
                    if (example.empty()) example = concat("input ", n, ", word ", i, ": the emulator has ", a, ", the card ", b);
                    bad++;
                }
            }
            differing += bad > 0, words += bad;
        }
        wrong += differing > 0;
        rows.push_back({{"wrapper", kWrapperNames[w]}, {"inputs", inputs}, {"differing", differing}, {"words", words}, {"ulp", most_ulp}, {"first", example}});
        if (format != "json") std::printf("%-24s %d inputs, %s\n", kWrapperNames[w], inputs, differing ? concat(differing, " differ in ", words, " words; ", example).c_str() : most_ulp ? concat("within ", most_ulp, " ulp").c_str() : "equal bytes");
    }
    if (format == "json") std::printf("%s\n", Json{{"device", Json::parse(device_json())}, {"rows", rows}, {"wrong", wrong}}.dump(1).c_str());
    return wrong ? 1 : 0;
}

void device_ops(const DeviceOptions& o) {
    if (o.format != "md" && o.format != "json") fail(Exit::usage, "--output takes md or json on a device, not '", o.format, "'");
    const profile::Peaks peaks = cuda().timer()->peaks();
    Json rows = Json::array();
    std::string known;
    if (o.format == "md") std::printf("| op | type | shape | us | fastest | GB/s | TFLOP/s | floor us | of floor | runs |\n|---|---|---|---|---|---|---|---|---|---|\n");
    for (const KernelCase& c : kernel_cases()) {
        if (known.find(" " + c.op + ",") == known.npos) known += " " + c.op + ",";
        if (!o.op.empty() && o.op != c.op) continue;
        const Dims& shape = o.small ? c.counted : c.shape;
        const std::vector<std::function<void()>> ops = {c.prepare(shape), c.prepare(shape)};
        for (const auto& op : ops) op();        // warm: heuristics, code
        const Work w = work_of(ops[0]);
        const double first = timed(ops, 2).back();
        const int repetitions = o.repetitions ? o.repetitions : std::clamp(int(2.0 / std::max(first, 1e-6)), 5, 50);
        std::vector<double> t = timed(ops, repetitions);
        std::sort(t.begin(), t.end());
        const double median = t[t.size() / 2], multiply = c.dtype == DType::bf16 ? peaks.bf16 : peaks.f32;
        const double floor = std::max(peaks.bytes > 0 ? w.bytes / peaks.bytes : 0, multiply > 0 ? w.flops / multiply : 0);
        rows.push_back({{"op", c.op}, {"dtype", name_of(c.dtype)}, {"shape", shape}, {"us", median * 1e6}, {"min_us", t[0] * 1e6}, {"bytes", w.bytes}, {"flops", w.flops},
                        {"gb_s", w.bytes / median * 1e-9}, {"tflop_s", w.flops / median * 1e-12}, {"floor_us", floor * 1e6}, {"of_floor", floor / median}, {"runs", t.size()}});
        if (o.format == "md")
            std::printf("| %s | %s | %s | %.2f | %.2f | %.1f | %.2f | %.2f | %.2f | %zu |\n", c.op.c_str(), name_of(c.dtype), joined(shape).c_str(), median * 1e6, t[0] * 1e6, w.bytes / median * 1e-9,
                        w.flops / median * 1e-12, floor * 1e6, floor / median, t.size()), std::fflush(stdout);
    }
    if (rows.empty()) fail(Exit::usage, "no op '", o.op, "' in the table; there are", known.substr(0, known.size() - 1));
    if (o.format == "json") std::printf("%s\n", Json{{"device", Json::parse(device_json())}, {"rows", rows}}.dump(1).c_str());
    else std::printf("\n%s, commit %s\n", cuda().name().c_str(), commit().c_str());
}

}
