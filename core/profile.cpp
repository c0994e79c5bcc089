#include "core/profile.h"
#include <algorithm>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <utility>
#include "core/check.h"
#include "core/profile_clock.h"

namespace merv::profile {

std::atomic<bool> enabled = false;
Peaks (*measure_peaks)() = nullptr;

namespace {

// Calls of one row: all but the amount of work. Without memcmp, which six numbers are too few for; each factor of the hash is odd and
// its own, so that products do not wait for one another.
struct SameRow {
    bool operator()(const OpCall& a, const OpCall& b) const {
        int64_t differ = 0;
        for (size_t i = 0; i < a.shape.size(); i++) differ |= a.shape[i] ^ b.shape[i];
        return a.work.name == b.work.name && !differ && a.dtype == b.dtype && a.multiply == b.multiply && a.device == b.device;
    }
};
struct HashRow {
    size_t operator()(const OpCall& c) const {
        const auto d = [&](size_t i) { return size_t(c.shape[i]); };
        const size_t h = reinterpret_cast<size_t>(c.work.name) + (size_t(c.dtype) << 8 ^ size_t(c.multiply) << 12 ^ size_t(c.device) << 16) + d(0) * 0x9e3779b97f4a7c15u + d(1) * 0xc2b2ae3d27d4eb4fu +
                         d(2) * 0x165667b19e3779f9u + d(3) * 0x27d4eb2f165667c5u + d(4) * 0x85ebca77c2b2ae63u + d(5) * 0xd6e8feb86659fd93u;
        return h ^ h >> 29 ^ h >> 43;
    }
};

struct Frame {
    bool op;
    int session;                                // of Recorder; frames that outlive theirs are not recorded
    uint32_t id;                                // of a stage
    const OpCall* call;
    int64_t begin, inside = 0, ops = 0;         // inside: ns of the frames in it; ops: of the ops in it, at any depth
};
thread_local std::vector<Frame> stack;
std::atomic<int> threads = 0;
int track() {
    thread_local const int id = ++threads;
    return id;
}

class SpinLock {                                // mostly held for tens of ns; giving it back is a plain store, which a mutex's is not
  public:
    void lock() { while (held_.test_and_set(std::memory_order_acquire)) std::this_thread::yield(); }
    void unlock() { held_.clear(std::memory_order_release); }

  private:
    std::atomic_flag held_;
};

// All that is recorded, behind one lock (docs/profiling.md says what a frame costs).
struct Recorder {
    SpinLock mutex;
    Options options;
    Results r;
    std::unordered_map<OpCall, uint32_t, HashRow, SameRow> rows;
    std::array<uint32_t, 256> recent{};         // 1 + a row, by its hash; 0: none
    std::vector<std::vector<uint32_t>> children{{}};            // of each stage, by 1 + its index; [0]: the outermost
    std::atomic<DeviceTimer*> timer = nullptr;
    std::atomic<Device> timed = Device::cuda;
    std::atomic<int> session = 0;
    int64_t memory_seen = 0;
    int ended = 0;

    uint32_t row(const OpCall& c) {
        uint32_t& seen = recent[HashRow()(c) % recent.size()];  // a step's ops are few and come again and again: mostly found here
        if (seen && SameRow()(r.ops[seen - 1], c)) return seen - 1;
        const auto [at, fresh] = rows.try_emplace(c, uint32_t(r.ops.size()));
        if (fresh) r.ops.push_back({{{c.work.name}, c.shape, c.dtype, c.multiply, c.device}});
        seen = at->second + 1;
        return at->second;
    }
    uint32_t stage(std::string_view name) {
        int parent = -1;
        for (const Frame& f : stack) if (!f.op && f.session == session) parent = int(f.id);
        for (uint32_t s : children[size_t(parent + 1)]) if (r.stages[s].name == name) return s;
        const uint32_t fresh = uint32_t(r.stages.size());
        r.stages.emplace_back().name = name, r.stages.back().parent = parent;
        children[size_t(parent + 1)].push_back(fresh), children.emplace_back();
        return fresh;
    }
    void event(const Results::Event& e) {
        if (r.events.size() < options.most_events * (e.op ? 1 : 2)) r.events.push_back(e);
        else (e.op ? r.ops_left_out : r.ranges_left_out)++;
    }
    void sample_memory(int64_t at) {
        if (!options.trace || at - memory_seen < options.memory_every_ns) return;
        memory_seen = at;
        auto held = memory_by_tag();
        if (!r.memory_at.empty() && r.memory_at.back().second == held) return;
        if (r.memory_at.size() < options.most_events / 4) r.memory_at.emplace_back(at, std::move(held));
        else r.memory_left_out++;
    }
    void close(int64_t end) {                   // the thread's innermost frame
        Frame f = stack.back();
        stack.pop_back();
        if (f.session != session) return;
        const int64_t ns = end - f.begin;
        if (f.op) {
            OpTotal& o = r.ops[f.id = row(*f.call)];
            o.calls++, o.ns += ns - f.inside, o.work.bytes += f.call->work.bytes, o.work.flops += f.call->work.flops;
        } else r.stages[f.id].calls++, r.stages[f.id].ns += ns, r.stages[f.id].op_ns += f.ops;
        const int64_t ops = f.op ? ns : f.ops;
        if (stack.empty() || stack.back().session != session) r.total_ns += ns, r.op_ns += ops;
        else stack.back().inside += ns, stack.back().ops += ops;
        if (options.trace) event({f.begin, ns, f.id, track(), f.op});
    }
    void take(const std::vector<DeviceTimer::Interval>& intervals) {
        for (const auto& i : intervals) {
            if (i.row >= r.ops.size()) continue;                // of a run before, which did not wait for it
            const auto [at, fresh] = r.streams.try_emplace(i.stream, StreamTotal{i.begin, i.begin});
            StreamTotal& s = at->second;
            const int64_t begin = std::max(i.begin, s.end), end = std::max(i.end, begin);      // clocks of events overlap by their rounding
            s.longest_gap = std::max(s.longest_gap, begin - s.end);
            s.busy += end - begin, s.end = end;
            r.ops[i.row].device_calls++, r.ops[i.row].device_ns += end - begin;
            if (options.trace) event({begin, end - begin, i.row, Results::kStreams + i.stream, true});
        }
    }
};
Recorder& recorder() {
    static Recorder* r = new Recorder;          // never destroyed: frames may outlive static destructors
    return *r;
}

}

void Range::begin(std::string_view name) {
    Recorder& p = recorder();
    const std::lock_guard lock(p.mutex);
    const uint32_t id = p.stage(name);
    if (p.options.trace) p.sample_memory(now());
    stack.push_back({false, p.session, id, nullptr, now()});        // what recording takes belongs to the range outside
    open_ = true;
}
void Range::end() {
    if (!open_) return;
    const int64_t at = now();
    Recorder& p = recorder();
    const std::lock_guard lock(p.mutex);
    p.close(at);
    p.sample_memory(at);
    open_ = false;
}

// One lock per op, at its end; another at its beginning only where a device is to know its row.
Op::Op(const OpCall& call) : row_(0) {
    Recorder& p = recorder();
    timed_ = p.timer && call.device == p.timed;
    stack.push_back({true, p.session, 0, &call, now()});
    if (!timed_) return;
    const std::lock_guard lock(p.mutex);
    p.timer.load()->begin(row_ = p.row(call), call.work.name);
}
Op::~Op() {
    if (timed_) recorder().timer.load()->end(row_);
    const int64_t end = now();
    Recorder& p = recorder();
    const std::lock_guard lock(p.mutex);
    p.close(end);
    if (timed_ && ++p.ended % 64 == 0) p.take(p.timer.load()->finished(false));       // before the ring is full
}

namespace { std::atomic<uint64_t> launches = 0; }
void count_launch() { if (on()) launches++; }

void use(DeviceTimer* timer, Device device) {
    Recorder& p = recorder();
    const std::lock_guard lock(p.mutex);
    p.timer = timer, p.timed = device;
}

void start(const Options& options) {
    CHECK(stack.empty(), "profile: starts inside a range");
    set_clock();
    Recorder& p = recorder();
    const std::lock_guard lock(p.mutex);
    p.options = options, p.r = {}, p.rows.clear(), p.recent = {}, p.children = {{}}, p.memory_seen = 0;
    p.r.began = now();
    p.session++, launches = 0;
    enabled = true;
}
Results stop() {
    enabled = false;
    Recorder& p = recorder();
    const std::lock_guard lock(p.mutex);
    if (DeviceTimer* t = p.timer) p.take(t->finished(true));
    p.session++;
    p.rows.clear(), p.recent = {};              // an op that began before this may still ask for a row
    p.r.launches = launches, p.r.memory = peak_memory_by_tag();
    const bool on_device = std::any_of(p.r.ops.begin(), p.r.ops.end(), [](const OpTotal& o) { return o.device_calls > 0; });
    if (DeviceTimer* t = p.timer; t && on_device) p.r.device_peaks = t->peaks();
    return std::exchange(p.r, {});
}

}
