#include "bench/measure.h"
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <map>
#include <sstream>
#include <omp.h>
#include <nlohmann/json.hpp>
#include "core/profile.h"
#include "core/version.h"
#include "kernels/peak.h"

namespace merv::bench {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;
double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double seconds_of(const std::function<void()>& f) {
    const auto start = Clock::now();
    f();
    return since(start);
}
double fastest_of(double seconds, const std::function<void()>& f) {
    f();
    double best = 1e30;
    for (const auto start = Clock::now(); since(start) < seconds;) best = std::min(best, seconds_of(f));
    return best;
}

Json machine() {
    std::string cpu = "unknown", line;
    for (std::ifstream in("/proc/cpuinfo"); std::getline(in, line);)
        if (line.starts_with("model name")) cpu = line.substr(std::min(line.size(), line.find(':') + 2));
    const std::time_t now = std::time(nullptr);
    char date[16];
    std::strftime(date, sizeof date, "%Y-%m-%d", std::gmtime(&now));
    return {{"cpu", cpu}, {"threads", omp_get_max_threads()}, {"isa", kernels::cpu::name_of(kernels::cpu::isa())}, {"compiler", compiler()}, {"commit", commit()}, {"date", date}};
}

Json to_json(const Result& r) {
    Json j{{"test", r.test}, {"name", r.name}, {"shape", r.shape}, {"dtype", r.dtype}, {"median_ms", r.median * 1e3}, {"min_ms", r.fastest * 1e3}, {"runs", r.runs}};
    if (r.bytes) j["gb_s"] = r.bytes / r.median * 1e-9;
    if (r.flops) j["gflop_s"] = r.flops / r.median * 1e-9;
    if (r.share) j["share_of_peak"] = r.share;
    return j;
}
std::string cell(double v, const char* format) {
    char text[32] = "";
    if (v) std::snprintf(text, sizeof text, format, v);
    return text;
}

}

Peaks measure_peaks(double seconds, bool all) {
    static const Tensor x = zeros({int64_t(1) << 27}), y = zeros({int64_t(1) << 27});     // 512 MiB each, past any cache
    Peaks p;
    auto multiply = [&](DType dtype) {
        double flops = 0;
        const double t = fastest_of(seconds, [&] { kernels::peak(kernels::PeakMultiply{dtype, 100000, &flops}); });
        return flops / t;
    };
    p.f32 = multiply(DType::f32), p.bf16 = multiply(DType::bf16);
    float sink;
    p.read = double(x.bytes()) / fastest_of(seconds, [&] { kernels::peak(kernels::PeakRead{x, &sink}); });
    if (all) p.copy = 2.0 * double(x.bytes()) / fastest_of(seconds, [&] { kernels::peak(kernels::PeakCopy{y, x}); });
    return p;
}

Result time(const Case& c, const Options& o) {
    Result r{c.test, c.name, c.shape, name_of(c.dtype), 0, 0, c.bytes, c.flops, 0, 0};
    const std::function<void()> op = c.prepare();
    op();                                       // warm
    std::vector<double> times;
    if (o.lockstep) {
        std::printf("ready %s %s\n", c.name.c_str(), c.shape.c_str());
        std::fflush(stdout);
        for (std::string line; std::getline(std::cin, line) && line != "next";) {
            times.push_back(seconds_of(op));
            std::printf("%.6f\n", times.back() * 1e3);
            std::fflush(stdout);
        }
        return r;
    }
    const bool judged = c.bytes || c.flops;
    const Peaks before = judged ? measure_peaks(0.1, false) : Peaks{};
    for (double total = 0; o.runs ? int(times.size()) < o.runs : total < o.seconds || times.size() < 3; total += times.back()) times.push_back(seconds_of(op));
    const Peaks after = judged ? measure_peaks(0.1, false) : Peaks{};
    std::sort(times.begin(), times.end());
    r.median = times[times.size() / 2], r.fastest = times.front(), r.runs = int(times.size());
    auto mean = [](double a, double b) { return (a + b) / 2; };
    if (c.bytes) r.share = c.bytes / r.median / mean(before.read, after.read);
    if (c.flops) r.share = std::max(r.share, c.flops / r.median / (c.dtype == DType::bf16 ? mean(before.bf16, after.bf16) : mean(before.f32, after.f32)));
    return r;
}

Table::Table(const std::string& format) : format_(format) {
    for (const char* known : {"md", "csv", "json", "jsonl"}) if (format == known) return;
    fail(Exit::usage, "--output takes md, csv, json or jsonl, not '", format, "'");
}
void Table::add(const Result& r) {
    if (format_ == "md") {
        if (!begun_) std::printf("| test | name | shape | type | median ms | fastest ms | GB/s | GFLOP/s | of peak | runs |\n|---|---|---|---|---|---|---|---|---|---|\n");
        std::printf("| %s | %s | %s | %s | %.3f | %.3f | %s | %s | %s | %d |\n", r.test.c_str(), r.name.c_str(), r.shape.c_str(), r.dtype.c_str(), r.median * 1e3, r.fastest * 1e3,
                    cell(r.bytes / r.median * 1e-9, "%.1f").c_str(), cell(r.flops / r.median * 1e-9, "%.1f").c_str(), cell(r.share, "%.2f").c_str(), r.runs);
    } else if (format_ == "csv") {
        if (!begun_) std::printf("test,name,shape,type,median_ms,min_ms,gb_s,gflop_s,share_of_peak,runs\n");
        std::printf("%s,\"%s\",\"%s\",%s,%.6f,%.6f,%s,%s,%s,%d\n", r.test.c_str(), r.name.c_str(), r.shape.c_str(), r.dtype.c_str(), r.median * 1e3, r.fastest * 1e3,
                    cell(r.bytes / r.median * 1e-9, "%.3f").c_str(), cell(r.flops / r.median * 1e-9, "%.3f").c_str(), cell(r.share, "%.4f").c_str(), r.runs);
    } else if (format_ == "jsonl") {
        Json j = to_json(r);
        j.update(machine());
        std::printf("%s\n", j.dump().c_str());
    } else {
        objects_.push_back(to_json(r).dump());
    }
    begun_ = true;
    std::fflush(stdout);
}
void Table::finish() {
    const Json m = machine();
    if (format_ == "md")
        std::printf("\n%s, %d threads, %s, %s, commit %s, %s\n", m["cpu"].get<std::string>().c_str(), m["threads"].get<int>(), m["isa"].get<std::string>().c_str(),
                    m["compiler"].get<std::string>().c_str(), m["commit"].get<std::string>().c_str(), m["date"].get<std::string>().c_str());
    if (format_ != "json") return;
    Json rows = Json::array();
    for (const std::string& o : objects_) rows.push_back(Json::parse(o));
    std::printf("%s\n", Json{{"machine", m}, {"rows", rows}}.dump(1).c_str());
}

void report_overhead(const std::vector<Case>& cases, double seconds) {
    if (profile::on()) fail(Exit::usage, "profile measures --profile and --trace: run it without them");
    std::printf("| test | name | shape | ops | flag | without ms | with ms | median ratio | pairs |\n|---|---|---|---|---|---|---|---|---|\n");
    for (const Case& c : cases)
        for (bool trace : {false, true}) {
            const std::function<void()> op = c.prepare();
            op();                               // warm
            profile::start({.trace = trace, .most_events = size_t(1) << 24});
            std::vector<double> times[2], ratios;
            auto timed = [&](bool on) {
                profile::enabled = on;
                times[on].push_back(seconds_of(op));
            };
            for (const auto start = Clock::now(); since(start) < seconds || ratios.size() < 3;) {
                const bool first = ratios.size() % 2;
                timed(first), timed(!first);
                ratios.push_back(times[1].back() / times[0].back());
            }
            const profile::Results r = profile::stop();
            uint64_t calls = 0;
            for (const profile::OpTotal& o : r.ops) calls += o.calls;
            for (std::vector<double>* v : {&times[0], &times[1], &ratios}) std::sort(v->begin(), v->end());
            const size_t middle = ratios.size() / 2;
            std::printf("| %s | %s | %s | %llu | %s | %.4f | %.4f | %.4f | %zu |\n", c.test.c_str(), c.name.c_str(), c.shape.c_str(), static_cast<unsigned long long>(calls / ratios.size()),
                        trace ? "--profile --trace" : "--profile", times[0][middle] * 1e3, times[1][middle] * 1e3, ratios[middle], ratios.size());
            std::fflush(stdout);
        }
}

void compare(const std::string& before, const std::string& after) {
    auto read = [](const std::string& path) {
        std::ifstream in(path);
        if (!in) fail(Exit::usage, path, ": cannot be read; give two files made with merv-bench -o json or jsonl");
        std::stringstream text;
        text << in.rdbuf();
        std::map<std::string, double> medians;
        auto take = [&](const Json& r) {
            medians[concat(r.at("test").get<std::string>(), " | ", r.at("name").get<std::string>(), " | ", r.at("shape").get<std::string>(), " | ", r.at("dtype").get<std::string>())] = r.at("median_ms");
        };
        try {
            if (const Json whole = Json::parse(text.str(), nullptr, false); whole.is_object() && whole.contains("rows")) for (const Json& r : whole["rows"]) take(r);
            else for (std::string line; std::getline(text, line);) take(Json::parse(line));
        } catch (const nlohmann::json::exception&) {
            fail(Exit::usage, path, ": is not what merv-bench -o json or jsonl writes");
        }
        return medians;
    };
    const auto a = read(before), b = read(after);
    std::printf("| test | name | shape | type | %s ms | %s ms | times as fast |\n|---|---|---|---|---|---|---|\n", before.c_str(), after.c_str());
    int common = 0;
    for (const auto& [key, ms] : a)
        if (auto it = b.find(key); it != b.end()) std::printf("| %s | %.3f | %.3f | %.2f |\n", key.c_str(), ms, it->second, ms / it->second), common++;
    if (!common) fail(Exit::usage, "the two files have no case in common");
}

}
