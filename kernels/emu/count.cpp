// Counted mode: what a launch asks of memory, tensor cores and the other units, per kernel and per line. Kernels are compiled
// with -fsanitize=thread and -fsanitize-coverage=trace-pc but linked with the functions at the end of this file: every access
// and every basic block of an unchanged kernel comes by here.
//
// Fibers run one lane after the other; a GPU runs the 32 lanes of a warp together. So each lane's steps are recorded, and where
// the warp stands together again (a warp operation of all lanes, a barrier, its end) the 32 records are replayed as hardware
// that reconverges ideally would run them: the lanes that stand earliest in the program go first, and lanes at the same access
// make one request. What "earliest" means is graph.h's order of the basic blocks.
#include <algorithm>
#include <bit>
#include <cstdio>
#include <unordered_map>
#include "core/check.h"
#include "core/emulated_memory.h"
#include "kernels/emu/graph.h"
#include "kernels/emu/machine.h"

namespace merv::emu {

// ---- what lanes record

namespace {

enum class Step : uint8_t { block, enter, leave, partial, access };     // partial: a warp operation of some of the lanes
struct Event {
    uintptr_t address;                          // of an access; a partial operation's mask
    uint32_t where;                             // a place in the source (report.cpp); a block's node
    Step step;
    Counted what;
    uint8_t bytes;
};
struct Frame { uint32_t node = 0, steps = 0; }; // of a function call: its basic block, and steps since that began

}

struct Trace {
    std::vector<Event> events;
    std::vector<uint32_t> calls;                // recording: the basic block of each function it is in
    std::vector<Frame> frames;                  // replaying: likewise
    size_t next = 0;
};

namespace {

Count* scope;
Counters counters;                              // of the launch
struct RowKey {
    uint32_t where;
    Counted what;
    int width;
    bool operator==(const RowKey&) const = default;
};
struct RowHash { size_t operator()(const RowKey& k) const { return (size_t(k.where) << 16) + (size_t(k.what) << 8) + size_t(k.width); } };
std::unordered_map<RowKey, Traffic, RowHash> rows;

std::map<const void*, Graph> graphs;            // of kernels
Graph* graph;
std::vector<std::unique_ptr<Trace>> spare;

// Which bytes of an allocation were touched, per 32-byte sector. Its start counts as aligned, as cudaMalloc's are.
constexpr uintptr_t kSector = 32;
struct Touched { std::vector<uint32_t> read, written, block; };         // block: serial of the last that touched it
std::unordered_map<uintptr_t, Touched> touched;

void push(const Event& e) { current->trace->events.push_back(e); }

Traffic& row(Counted what, uint32_t where, int width) { return rows[{where, what, width}]; }

// ---- a request: one instruction of one warp

struct Sector { uintptr_t begin; const emulated_memory::Block* allocation; uint32_t bytes; };        // bytes: which of the 32

// Splits an access into sectors, numbered from the allocation's start.
void add_sectors(std::vector<Sector>& to, const emulated_memory::Block* g, uintptr_t address, size_t bytes) {
    for (uintptr_t a = address - g->begin, end = a + bytes; a < end;) {
        const uintptr_t sector = a / kSector, next = std::min(end, (sector + 1) * kSector), n = next - a;
        to.push_back({sector, g, uint32_t(((uint64_t(1) << n) - 1) << a % kSector)});
        a = next;
    }
}
void touch(const Sector& s, bool read, bool write, uint32_t block) {
    Touched& t = touched[s.allocation->begin];
    if (t.block.empty()) {
        const size_t n = (s.allocation->end - s.allocation->begin) / kSector + 1;
        t.read.resize(n), t.written.resize(n), t.block.resize(n);
    }
    if (read) t.read[s.begin] |= s.bytes;
    if (write) t.written[s.begin] |= s.bytes;
    if (t.block[s.begin] != block) t.block[s.begin] = block, counters.block_sectors++;
}
void count_sectors(Traffic& t, std::vector<Sector>& all, Counted what, uint32_t block) {
    std::sort(all.begin(), all.end(), [](const Sector& a, const Sector& b) { return a.allocation != b.allocation ? a.allocation < b.allocation : a.begin < b.begin; });
    size_t distinct = 0;
    for (const Sector& s : all) {
        if (distinct && all[distinct - 1].begin == s.begin && all[distinct - 1].allocation == s.allocation) all[distinct - 1].bytes |= s.bytes;
        else all[distinct++] = s;
    }
    all.resize(distinct);
    unsigned bytes = 0;
    const bool write = what == Counted::global_store || what == Counted::global_atomic;
    for (const Sector& s : all) {
        bytes += unsigned(std::popcount(s.bytes));
        touch(s, what != Counted::global_store, write, block);
    }
    t.sectors += distinct, t.ideal_sectors += (bytes + kSector - 1) / kSector;
}

// Shared memory has 32 banks of 4 bytes; a wavefront serves one word of each, to any number of lanes.
unsigned wavefronts(std::vector<uintptr_t>& words) {
    std::sort(words.begin(), words.end());
    words.erase(std::unique(words.begin(), words.end()), words.end());
    unsigned in_bank[32] = {}, most = 0;
    for (uintptr_t w : words) most = std::max(most, ++in_bank[w % 32]);
    return most;
}
struct Lane { uintptr_t address; size_t bytes; int number; };
void count_banks(Traffic& t, const std::vector<Lane>& lanes, size_t width) {
    const int together = width >= 16 ? 8 : width == 8 ? 16 : 32;
    static std::vector<uintptr_t> words;
    for (size_t i = 0; i < lanes.size();) {
        const int phase = lanes[i].number / together;
        words.clear();
        for (; i < lanes.size() && lanes[i].number / together == phase; i++)
            for (uintptr_t a = lanes[i].address / 4; a <= (lanes[i].address + lanes[i].bytes - 1) / 4; a++) words.push_back(a);
        t.wavefronts += wavefronts(words), t.ideal_wavefronts++;
    }
}
unsigned lanes_at_busiest(std::vector<Lane> lanes) {
    std::sort(lanes.begin(), lanes.end(), [](const Lane& a, const Lane& b) { return a.address < b.address; });
    unsigned most = 0, same = 0;
    for (size_t i = 0; i < lanes.size(); i++) {
        same = i && lanes[i].address == lanes[i - 1].address ? same + 1 : 1;
        most = std::max(most, same);
    }
    return most;
}

void count_request(const Event* const (&events)[32], unsigned group, uint32_t block) {
    static std::vector<Lane> lanes;
    static std::vector<Sector> sectors;
    lanes.clear(), sectors.clear();
    const Event& first = *events[std::countr_zero(group)];
    Traffic one;
    one.requests = 1, one.lanes = unsigned(std::popcount(group));
    size_t width = 0;
    for (unsigned left = group; left; left &= left - 1) {
        const int l = std::countr_zero(left);
        const Event& e = *events[l];
        one.bytes += e.bytes, width = std::max<size_t>(width, e.bytes);
        if (e.bytes) lanes.push_back({e.address, e.bytes, l});
    }
    switch (first.what) {
        case Counted::global_load: case Counted::global_store: case Counted::global_atomic: case Counted::global_copy:
            for (const Lane& l : lanes) if (const emulated_memory::Block* g = emulated_memory::near(l.address)) add_sectors(sectors, g, l.address, l.bytes);
            count_sectors(one, sectors, first.what, block);
            if (first.what == Counted::global_atomic) one.wavefronts = lanes_at_busiest(lanes), one.ideal_wavefronts = 1;
            break;
        case Counted::shared_atomic: one.wavefronts = lanes_at_busiest(lanes), one.ideal_wavefronts = 1; break;
        case Counted::shared_load: case Counted::shared_store: case Counted::shared_copy: count_banks(one, lanes, width); break;
        default: break;
    }
    row(first.what, first.where, int(width)) += one;
}

// ---- replay

// Where a lane stands: calls return first, then the earlier block, then the earlier step in it.
uint64_t place(const Trace& t) {
    const Event& e = t.events[t.next];
    const Frame& f = t.frames.back();
    const bool moves = e.step == Step::block;
    const uint64_t position = moves ? graph->position(f.node, e.where) : graph->position(f.node);
    return uint64_t(255 - std::min<size_t>(t.frames.size(), 255)) << 56 | position << 24 | (moves ? 0 : std::min(f.steps + 1, 0xffffffu));
}
void advance(Trace& t) {
    const Event& e = t.events[t.next++];
    if (e.step == Step::block) {
        t.frames.back() = {e.where, 0};
        return;
    }
    if (e.step == Step::leave && t.frames.size() > 1) t.frames.pop_back();
    t.frames.back().steps++;
    if (e.step == Step::enter) t.frames.push_back({});
}
bool same(const Event& a, const Event& b) { return a.step == b.step && a.where == b.where && a.what == b.what; }

// A partial operation's lanes leave it together: those of the first whose lanes are all there, or who are there if nobody else can go on.
unsigned released(const Event* const (&events)[32], unsigned waiting, unsigned active) {
    for (unsigned left = waiting; left; left &= left - 1) {
        const uintptr_t mask = events[std::countr_zero(left)]->address;
        unsigned there = 0;
        for (unsigned w = waiting; w; w &= w - 1) if (const int l = std::countr_zero(w); events[l]->address == mask) there |= 1u << l;
        if (there == (mask & active) || waiting == active) return there;
    }
    return 0;
}

void replay(Block& b, int warp) {
    graph->order();
    Trace* traces[32];
    const Event* events[32];
    uint64_t places[32];
    unsigned active = 0;
    const int n = std::min(32, int(b.threads.size()) - 32 * warp);
    auto look = [&](int l) {
        Trace& t = *traces[l];
        if (t.next == t.events.size()) active &= ~(1u << l);
        else active |= 1u << l, events[l] = &t.events[t.next], places[l] = place(t);
    };
    for (int l = 0; l < n; l++) traces[l] = b.threads[size_t(32 * warp + l)]->trace, look(l);
    while (active) {
        uint64_t earliest = ~uint64_t(0);
        unsigned waiting = 0, group = 0;
        for (unsigned left = active; left; left &= left - 1) {
            const int l = std::countr_zero(left);
            if (events[l]->step == Step::partial) waiting |= 1u << l;
            else if (places[l] < earliest) earliest = places[l], group = 1u << l;
            else if (places[l] == earliest && same(*events[l], *events[std::countr_zero(group)])) group |= 1u << l;
        }
        if (const unsigned out = waiting ? released(events, waiting, active) : 0) group = out;
        else if (const Step step = events[std::countr_zero(group)]->step; step == Step::access) count_request(events, group, b.serial);
        else if (step == Step::block) counters.basic_blocks++, counters.basic_block_lanes += unsigned(std::popcount(group));
        for (unsigned left = group; left; left &= left - 1) {
            const int l = std::countr_zero(left);
            advance(*traces[l]);
            look(l);
        }
    }
    for (int l = 0; l < n; l++) traces[l]->events.clear(), traces[l]->next = 0;
}
unsigned live_lanes(const Block& b, int warp) {
    const int n = std::min(32, int(b.threads.size()) - 32 * warp);
    return ~0u >> (32 - n) & ~b.warps[warp].done;
}

}

// ---- what the rest of the emulator tells

bool counting() { return launched->mode == Mode::counted; }

static Counters of_launch() {
    Counters c;
    c.name = launched->name, c.bytes = launched->bytes, c.flops = launched->flops, c.site = launched->site;
    c.blocks = uint64_t(launched->grid.x) * launched->grid.y * launched->grid.z;
    c.threads = int(launched->block.x * launched->block.y * launched->block.z);
    c.dynamic_shared = launched->smem, c.function = launched->function;
    return c;
}
bool note_dry() {
    if (!scope || !scope->dry) return false;
    scope->launches.push_back(of_launch());
    return true;
}

std::vector<const void*> counted_kernels() {
    std::vector<const void*> all;
    for (const auto& [kernel, g] : graphs) all.push_back(kernel);
    return all;
}
void begin_counts() {
    counters = of_launch();
    rows.clear(), touched.clear();
    graph = &graphs[launched->function];
}
void begin_counts(Block& b) {
    for (Thread* t : b.threads) {
        if (spare.empty()) spare.push_back(std::make_unique<Trace>());
        t->trace = spare.back().release();
        spare.pop_back();
        *t->trace = {std::move(t->trace->events), {0}, {{}}, 0};
        t->trace->events.clear();
    }
}
void end_counts(Block& b) {
    for (int w = 0; 32 * w < int(b.threads.size()); w++) replay(b, w);
    for (Thread* t : b.threads) spare.emplace_back(t->trace), t->trace = nullptr;
}
void end_counts() {
    for (const auto& [begin, t] : touched)
        for (size_t s = 0; s < t.read.size(); s++) {
            counters.unique_read += unsigned(std::popcount(t.read[s])), counters.unique_written += unsigned(std::popcount(t.written[s]));
            counters.unique_sectors += (t.read[s] != 0) + (t.written[s] != 0);
        }
    for (const auto& [key, traffic] : rows) {
        counters.rows.push_back({key.where, key.what, key.width, traffic});
        counters.total[size_t(key.what)] += traffic;
    }
    if (scope) scope->launches.push_back(std::move(counters));
    else std::fputs(counters.text().c_str(), stderr);
}

void count_access(uintptr_t address, size_t bytes, unsigned kind, uint32_t where) {
    const Place p = place_of(address);
    const bool shared = p.kind == Place::dynamic_shared || p.kind == Place::static_shared, nothing = bytes == 0;
    if (!nothing && ((!shared && p.kind != Place::global) || address < p.begin || address + bytes > p.end)) return;      // a constant, or a fault
    const int place = shared && !nothing ? int(Counted::shared_load) : int(Counted::global_load);
    const Counted what = Counted(place + (kind & kCopy ? 3 : kind & kAtomic ? 2 : kind & kWrite ? 1 : 0));
    if (kind & (kCopy | kAtomic)) return push({address, where, Step::access, what, uint8_t(bytes)});      // of nothing too: lanes must take the same steps
    while (bytes) {                             // instructions move 16 bytes at most
        size_t n = std::min<size_t>(16, std::bit_floor(bytes));
        while (address % n) n /= 2;
        push({address, where, Step::access, what, uint8_t(n)});
        address += n, bytes -= n;
    }
}
void special_function() { push({0, where_is(__builtin_return_address(0)), Step::access, Counted::special, 0}); }

void count_warp(WarpOp op, unsigned mask, Thread* const (&lanes)[32], Site site) {
    Block& b = *current->block;
    const int warp = current->number / 32;
    if (const unsigned live = live_lanes(b, warp); (mask & live) == live) replay(b, warp);
    else for (Thread* t : lanes) if (t) t->trace->events.push_back({mask, 0, Step::partial, {}, 0});
    constexpr Counted names[] = {Counted::syncwarp, Counted::shuffle, Counted::vote, Counted::mma, Counted::ldmatrix};
    Traffic one;
    one.requests = 1, one.lanes = unsigned(std::popcount(mask));
    if (op == WarpOp::mma) counters.tensor_flops += 2.0 * 16 * 8 * 16;
    if (op == WarpOp::ldmatrix) {               // a matrix is 8 rows of 16 bytes, one wavefront if they lie in different banks
        std::vector<Lane> rows_of_matrices;
        for (int l = 0; l < 8 * static_cast<Ldmatrix*>(lanes[0]->lane)->count; l++) rows_of_matrices.push_back({uintptr_t(static_cast<Ldmatrix*>(lanes[l]->lane)->row), 16, l});
        count_banks(one, rows_of_matrices, 16);
        one.bytes = 16 * rows_of_matrices.size();
    }
    row(names[int(op)], where_is(site), op == WarpOp::ldmatrix ? 16 : 0) += one;
}
static unsigned warps_of(const std::vector<Thread*>& threads) {
    unsigned warps = 0;
    for (const Thread* t : threads) warps |= 1u << t->number / 32;
    return warps;
}
void count_together(const std::vector<Thread*>& threads) {
    for (unsigned warps = warps_of(threads); warps; warps &= warps - 1) replay(*current->block, std::countr_zero(warps));
}
void count_barrier(const std::vector<Thread*>& waiting, Site site) {
    count_together(waiting);
    Traffic& to = row(Counted::barrier, where_is(site), 0);
    to.requests += unsigned(std::popcount(warps_of(waiting))), to.lanes += waiting.size();
}

// The hooks for wgmma and TMA. Their tiles are conflict-free by layout, so shared memory moves 128 bytes per wavefront.
void count_wavefronts(Counted what, size_t bytes, Site site) {
    Traffic& to = row(what, where_is(site), 16);
    to.wavefronts += (bytes + 127) / 128, to.ideal_wavefronts += (bytes + 127) / 128;
}
void count_tensor(Counted what, double flops, size_t shared_bytes, Site site) {
    counters.tensor_flops += flops;
    Traffic& to = row(what, where_is(site), 16);
    to.requests++, to.bytes += shared_bytes;
    count_wavefronts(what, shared_bytes, site);
}
void count_bulk(uintptr_t global, size_t bytes, bool store, Site site) {
    std::vector<Sector> sectors;
    Traffic one;
    one.requests = 1, one.lanes = 1, one.bytes = bytes;
    if (const emulated_memory::Block* g = emulated_memory::near(global)) add_sectors(sectors, g, global, bytes);
    count_sectors(one, sectors, store ? Counted::global_store : Counted::global_copy, current->block->serial);
    row(Counted::global_copy, where_is(site), 16) += one;
}

Count::Count() : outer_(scope) { scope = this; }
Count::~Count() { scope = outer_; }

}

// ---- what the compiler calls

namespace {
bool counts() { return merv::emu::current && merv::emu::counting(); }
}
extern "C" {
void __sanitizer_cov_trace_pc() {
    using namespace merv::emu;
    if (!counts()) return;
    uint32_t& at = current->trace->calls.back();
    const uint32_t to = graph->node(__builtin_return_address(0));
    graph->edge(at, to);
    at = to;
    push({0, to, Step::block, {}, 0});
}
void __tsan_func_entry(void*) {
    using namespace merv::emu;
    if (!counts()) return;
    current->trace->calls.push_back(0);
    push({0, 0, Step::enter, {}, 0});
}
void __tsan_func_exit() {
    using namespace merv::emu;
    if (!counts() || current->trace->calls.size() == 1) return;
    current->trace->calls.pop_back();
    push({0, 0, Step::leave, {}, 0});
}
}
