#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <exception>
#include <fstream>
#include <set>
#include <sstream>
#include <unistd.h>
#include "core/flags.h"
#include "core/json.h"
#include "core/log.h"
#include "core/profile.h"

namespace merv::profile {
namespace {

constexpr size_t kShapes = 12;                  // rows of the second table

template <class... A> std::string text(const char* format, A... values) {
    char line[256];
    std::snprintf(line, sizeof line, format, values...);
    return line;
}
double ms(int64_t ns) { return double(ns) * 1e-6; }
double percent(double part, double whole) { return whole > 0 ? 100 * part / whole : 0; }

std::string joined(const Dims& shape) {
    std::string s;
    for (int64_t d : shape) if (d) s += concat(s.empty() ? "" : "x", d);
    return s;
}

// ms since the process began, before main() and its shared libraries: to 10 ms, as the kernel keeps it; 0 where it does not say.
double ms_of_process() {
    std::stringstream file;
    file << std::ifstream("/proc/self/stat").rdbuf();
    const std::string stat = file.str();
    std::istringstream fields(stat.substr(std::min(stat.size(), stat.rfind(')') + 1)));        // the 2nd field, a name, may hold blanks
    std::string word;
    double ticks = 0;
    for (int i = 3; i < 22; i++) fields >> word;
    if (!(fields >> ticks)) return 0;
    timespec now{};
    clock_gettime(CLOCK_BOOTTIME, &now);
    const double passed = double(now.tv_sec) * 1e3 + double(now.tv_nsec) * 1e-6 - ticks * 1e3 / double(sysconf(_SC_CLK_TCK));
    return passed > 0 && passed < 60e3 ? passed : 0;            // else another clock, as in some sandboxes
}

struct Row {
    std::string label;
    uint64_t calls = 0;
    double ms = 0, bytes = 0, flops = 0, floor = 0;
    bool timed = true;                          // false: the emulator's own times, which say nothing of a GPU
};
// seconds; 0: not known
double floor_of(const OpTotal& o, const Peaks& cpu, const Peaks& device) {
    const Peaks& p = o.device == Device::cuda ? device : cpu;
    if (o.device == Device::emu || !p.bytes) return 0;
    return std::max(o.work.bytes / p.bytes, o.work.flops / (o.multiply == DType::bf16 ? p.bf16 : p.f32));
}
std::string number(bool known, const char* format, double v) { return known ? text(format, v) : "-"; }
std::string line(const Row& r, double total_ms) {
    const bool timed = r.timed && r.ms > 0;
    const std::string gb_s = number(timed && r.bytes > 0, "%.2f", r.bytes / r.ms * 1e-6), tflop_s = number(timed && r.flops > 0, "%.4f", r.flops / r.ms * 1e-9);
    const std::string floor = number(r.floor > 0, "%.3f", r.floor * 1e3), gap = number(r.floor > 0, "%.2f", r.ms / (r.floor * 1e3));
    return text("  %-44.44s %8llu %11.3f %5.1f %% %11.2f %11.2f %11.3f %8s %8s %10s %7s", r.label.c_str(), static_cast<unsigned long long>(r.calls), r.ms,
                percent(r.ms, total_ms), 1e3 * r.ms / double(r.calls), r.bytes * 1e-6, r.flops * 1e-9, gb_s.c_str(), tflop_s.c_str(), floor.c_str(), gap.c_str());
}

// The slowest `most`, under their titles
void rows_of(std::vector<std::string>& lines, const std::map<std::string, Row>& by_label, double total_ms, size_t most, const char* title) {
    std::vector<Row> rows;
    for (const auto& [label, row] : by_label) rows.push_back(row), rows.back().label = label;
    std::stable_sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) { return a.ms > b.ms; });
    lines.push_back(text("  %-44s %8s %11s %7s %11s %11s %11s %8s %8s %10s %7s", title, "calls", "ms", "share", "us/call", "MB", "GFLOP", "GB/s", "TFLOP/s",
                         "floor ms", "gap"));
    for (size_t i = 0; i < rows.size() && i < most; i++) lines.push_back(line(rows[i], total_ms));
    if (rows.size() > most) lines.push_back(text("  and %zu more", rows.size() - most));
}

}

std::vector<std::string> Results::table(const Peaks& cpu) const {
    std::vector<std::string> lines;
    std::map<std::string, Row> kernels, shapes;
    std::set<Device> devices;
    double floors = 0, floored_ms = 0;
    int64_t launching = 0;
    for (const OpTotal& o : ops) {
        devices.insert(o.device);
        const bool by_device = o.device_calls > 0;
        const double floor = floor_of(o, cpu, device_peaks), took = ms(by_device ? o.device_ns : o.ns);
        const std::string name = concat(o.work.name, o.device == Device::cpu ? "" : concat(" (", name_of(o.device), ")"));
        for (Row* r : {&kernels[name], &shapes[concat(name, " ", name_of(o.dtype), " ", joined(o.shape))]})
            r->calls += o.calls, r->ms += took, r->bytes += o.work.bytes, r->flops += o.work.flops, r->floor += floor, r->timed &= o.device != Device::emu;
        if (floor > 0) floors += floor * 1e3, floored_ms += took;
        if (by_device) launching += o.ns;
    }
    const double total = ms(total_ns);
    if (cpu.bytes && devices.count(Device::cpu))
        lines.push_back(text("profile: peaks of this machine, measured now: read %.1f GB/s, f32 %.4f TFLOP/s, bf16 %.4f TFLOP/s", cpu.bytes * 1e-9, cpu.f32 * 1e-12,
                             cpu.bf16 * 1e-12));
    if (device_peaks.bytes)
        lines.push_back(text("profile: peaks of the device, measured now: %.1f GB/s, f32 %.2f TFLOP/s, bf16 %.2f TFLOP/s", device_peaks.bytes * 1e-9,
                             device_peaks.f32 * 1e-12, device_peaks.bf16 * 1e-12));
    if (devices.count(Device::emu)) lines.push_back("profile: times marked (emu) are the emulator's own and say nothing of a GPU; calls, MB, GFLOP and launches are exact");
    if (devices.count(Device::cuda) && std::any_of(stages.begin(), stages.end(), [](const StageTotal& s) { return s.name == "decode"; }))
        lines.push_back("profile: decoding runs as plain launches, each with its time; without --profile and --trace it is one CUDA graph per token");
    rows_of(lines, kernels, total, SIZE_MAX, "kernel");
    auto other = [&](const char* what, double took) { lines.push_back(text("  %-44s %8s %11.3f %5.1f %%", what, "", took, percent(took, total))); };
    if (launching) other("launching, on the host", ms(launching));
    other("outside kernels", ms(total_ns - op_ns));
    other("total", total);
    if (floors > 0)
        lines.push_back(text("sum of floors %.3f ms: kernels with a floor take %.2f times that, the whole run %.2f times", floors, floored_ms / floors, total / floors));
    lines.push_back(text("host launches of GPU kernels: %llu", static_cast<unsigned long long>(launches)));
    for (const auto& [id, s] : streams)
        lines.push_back(text("stream %d: busy %.3f ms, idle %.3f ms, longest gap %.3f ms", id, ms(s.busy), ms(s.end - s.begin - s.busy), ms(s.longest_gap)));

    lines.emplace_back();
    rows_of(lines, shapes, total, kShapes, "kernel, type, shape");

    lines.emplace_back();
    lines.push_back(text("  %-44s %8s %11s %7s %11s %11s", "stage", "calls", "ms", "share", "kernels ms", "outside ms"));
    const std::function<void(int, int)> stages_in = [&](int parent, int depth) {
        for (size_t i = 0; i < stages.size(); i++) {
            const StageTotal& s = stages[i];
            if (s.parent != parent) continue;
            const std::string indented = std::string(size_t(2 * depth), ' ') + s.name;
            lines.push_back(text("  %-44.44s %8llu %11.3f %5.1f %% %11.3f %11.3f", indented.c_str(), static_cast<unsigned long long>(s.calls), ms(s.ns),
                                 percent(ms(s.ns), total), ms(s.op_ns), ms(s.ns - s.op_ns)));
            stages_in(int(i), depth + 1);
        }
    };
    stages_in(-1, 0);

    lines.emplace_back();
    lines.push_back(text("  %-44s %20s", "memory, the most each owner held", "MiB"));
    for (const auto& [owner, bytes] : memory) lines.push_back(text("  %-44.44s %20.2f", owner.c_str(), double(bytes) / double(1 << 20)));
    return lines;
}

// Perfetto draws complete events ("ph": "X") of a track only if they are nested; ts and dur are microseconds, here to the nanosecond.
void Results::write_trace(std::ostream& to, std::string_view program) const {
    auto json = [](const Json& j) { return j.dump(-1, ' ', true, Json::error_handler_t::replace); };       // ASCII, whatever is in a name
    std::vector<std::string> stage_names, op_names;
    for (const StageTotal& s : stages) stage_names.push_back(json(s.name));
    for (const OpTotal& o : ops)
        op_names.push_back(concat(json(o.work.name), ",\"args\":", json({{"shape", joined(o.shape)}, {"type", name_of(o.dtype)}, {"device", name_of(o.device)}})));

    std::vector<Event> sorted = events;
    std::stable_sort(sorted.begin(), sorted.end(), [](const Event& a, const Event& b) {
        return std::tuple(a.track, a.begin, -a.ns, a.op) < std::tuple(b.track, b.begin, -b.ns, b.op);
    });
    auto metadata = [&](int track, const char* what, std::string_view name) {
        return json({{"ph", "M"}, {"pid", 1}, {"tid", track}, {"name", what}, {"args", {{"name", name}}}});
    };
    to << "{\"displayTimeUnit\":\"ns\",\"otherData\":"
       << json({{"program", program}, {"ops_left_out", ops_left_out}, {"ranges_left_out", ranges_left_out}, {"memory_samples_left_out", memory_left_out}})
       << ",\"traceEvents\":[\n" << metadata(0, "process_name", program);
    int named = -1;
    for (const Event& e : sorted) {
        if (e.track != named) {
            named = e.track;
            to << ",\n" << metadata(named, "thread_name", named >= kStreams ? concat("stream ", named - kStreams) : named == 1 ? "main" : concat("thread ", named));
        }
        to << text(",\n{\"ph\":\"X\",\"pid\":1,\"tid\":%d,\"ts\":%.3f,\"dur\":%.3f,\"cat\":\"%s\",\"name\":", e.track, double(e.begin - began) * 1e-3,
                   double(e.ns) * 1e-3, e.op ? "op" : "stage")
           << (e.op ? op_names[e.id] : stage_names[e.id]) << "}";
    }
    for (const auto& [at, held] : memory_at)
        to << text(",\n{\"ph\":\"C\",\"pid\":1,\"ts\":%.3f,\"name\":\"memory, bytes\",\"args\":", double(at - began) * 1e-3) << json(held) << "}";
    to << "\n]}\n";
}

int run(const Flags& flags, const std::function<int()>& body) {
    const bool traced = flags.has("trace");
    if (!traced && !flags.on("profile")) return body();
    const std::string path = flags.text("trace");
    std::ofstream file;
    if (traced) file.open(path, std::ios::binary);      // told now, not after minutes of work
    if (!file) fail(Exit::usage, "--trace '", path, "' cannot be written; give a file's name in a folder that exists");
    const double before = ms_of_process();
    start({.trace = traced});
    std::exception_ptr failure;
    int code = 0;
    try {
        const Range whole(flags.program());
        code = body();
    } catch (...) {
        failure = std::current_exception();
    }
    const Results results = stop();
    if (traced) {
        results.write_trace(file, flags.program());
        file.close();
        if (!file && !failure) fail(Exit::runtime, path, ": cannot be written; is the disk full?");
        say("trace    ", path, ": ", results.events.size(), " events; ui.perfetto.dev opens it");
        if (results.ops_left_out + results.ranges_left_out + results.memory_left_out)
            warn("the trace would be too big to open: ", results.ops_left_out, " ops, ", results.ranges_left_out, " ranges and ", results.memory_left_out, " memory samples are left out");
    }
    if (failure) std::rethrow_exception(failure);
    if (!flags.on("profile")) return code;
    const auto measuring = std::chrono::steady_clock::now();
    const Peaks peaks = measure_peaks && !results.ops.empty() ? measure_peaks() : Peaks{};
    const double measured = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - measuring).count();
    for (const std::string& l : results.table(peaks)) log_text(Level::quiet, l);
    log_text(Level::quiet, text("not in the total: %.0f ms before main(), which loads shared libraries; %.0f ms to measure the peaks", before, measured));
    return code;
}

}
