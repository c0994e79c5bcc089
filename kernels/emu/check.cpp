// Checked mode. Kernels are compiled with -fsanitize=thread, but linked with the functions at the end of this file instead of
// libtsan: every load and store of an unchanged kernel comes by here. Each two bytes of shared and global memory remember their
// last write and three reads. Two accesses race unless one lies before the other by the program's own synchronisation,
// whatever order they ran in, so one run finds what a GPU may show once in a million.
#include <cstring>
#include "kernels/emu/machine.h"

namespace merv::emu {
namespace {

void join(Clocks& a, const Clocks& b) {
    if (a.size() < b.size()) a.resize(b.size());
    for (size_t i = 0; i < b.size(); i++) a[i] = std::max(a[i], b[i]);
}
void join(Learned& a, const Learned& b) {
    a.epoch = std::max(a.epoch, b.epoch);
    join(a.clocks, b.clocks);
    join(a.proxied, b.proxied);
}
void join(std::shared_ptr<const Learned>& a, const std::shared_ptr<const Learned>& b) {
    if (!a || a == b) return void(a = b);
    auto both = std::make_shared<Learned>(*a);
    join(*both, *b);
    a = both;
}
void join(Remote& a, const Remote& b) {
    for (const auto& [block, learned] : b) join(a[block], learned);
}
void raise(Clocks& c, size_t i, uint32_t to) {
    if (c.size() <= i) c.resize(i + 1);
    c[i] = std::max(c[i], to);
}
uint32_t at(const Clocks& c, size_t i) { return i < c.size() ? c[i] : 0; }
void tick(Thread& t) { t.knows.clocks[size_t(t.number)] = ++t.clock; }

uint32_t first_of_launch;                       // serial of the launch's first block
std::map<uintptr_t, Remote> released;           // by address of an atomic: what its writers had done before their fences

// Whether what this thread knows of the record's block, or its whole block knows, satisfies f(that, and that)
template <class F> bool learned(const Record& r, F&& f) {
    const Thread& t = *current;
    const Block& b = *t.block;
    if (r.block == b.serial) return f(t.knows, b.common);
    for (const Remote* remote : {&t.remote, &b.remote})
        if (const auto it = remote->find(r.block); it != remote->end() && f(*it->second, *it->second)) return true;
    return false;
}
// Whether the writer of r has executed a proxy fence since, and this thread has heard of it
bool seen_by_async_proxy(const Record& r) {
    if (r.async || r.block < first_of_launch) return true;
    return learned(r, [&](const Learned& x, const Learned& y) { return std::max(at(x.proxied, r.thread), at(y.proxied, r.thread)) >= r.clock; });
}

std::string who(const Record& r) {
    if (r.async) return r.four ? "wgmma" : "TMA";
    if (r.block != current->block->serial) return "another block";
    return name_of(*current->block->threads[r.thread]);
}
void race(const char* what, const Record& other, const char* its, uintptr_t address, uint32_t where) {
    const std::string here = place_name(where), there = place_name(other.where);
    report("RACE", here + " " + there, concat(what, " ", describe(address), " by ", name_of(*current), " at ", here, " and ", other.clock == kUnderWay ? "cp.async still under way" : its, " by ", who(other), " at ",
                                             there, " are not ordered"));
}

// The object's bytes [address, address + bytes) of it; cells lie from `cell` on.
void check_cells(const Place& place, uintptr_t address, size_t bytes, unsigned kind, Record now) {
    Cell* cell = cells_of(place, address);
    const bool write = kind & kWrite, shared = place.owner;
    const uint32_t first = shared ? place.owner->cluster->first : 0;       // older records are of a block that had this memory before
    for (uintptr_t a = address, end = address + bytes; a < end; cell++) {
        const uintptr_t next = std::min(end, (a / kCellBytes + 1) * kCellBytes);
        now.bytes = uint8_t(((1u << (next - a)) - 1) << a % kCellBytes);
        auto counts = [&](const Record& r) { return r.block && r.block >= first && (r.bytes & now.bytes); };
        Record& w = cell->write;
        if (shared && !write && w.block < first) {
            report("UNINIT", place_name(now.where), concat(name_of(*current), " reads ", describe(a), ", which nobody has written, at ", place_name(now.where)));
            w = now;
        } else if (counts(w) && !(w.atomic && now.atomic) && !before_now(w)) race(write ? "a write of" : "a read of", w, "a write", a, now.where);
        else if (now.async && counts(w) && !seen_by_async_proxy(w))
            report("PROXY", place_name(now.where) + " " + place_name(w.where), concat(who(now), " at ", place_name(now.where), " uses ", describe(a), ", written by ", who(w), " at ", place_name(w.where), ", without a fence.proxy.async by the writer since"));
        if (write) {
            for (Record& r : cell->reads) {
                if (counts(r) && !(r.atomic && now.atomic) && !before_now(r)) race("a write of", r, "a read", a, now.where);
                if (r.bytes & now.bytes) r = {};
            }
            if (w.block == now.block && w.block >= first && !(w.bytes & now.bytes) && w.thread == now.thread) now.bytes |= w.bytes;      // both bytes, one after the other
            w = now;
        } else {
            Record* slot = nullptr;
            for (Record& r : cell->reads) if (!slot && (!r.block || r.block < first || (r.thread == now.thread && r.block == now.block && !(r.bytes & ~now.bytes)))) slot = &r;
            for (Record& r : cell->reads) if (!slot && before_now(r)) slot = &r;
            *(slot ? slot : &cell->reads[random_bits() % 3]) = now;
        }
        a = next;
    }
}

Learned knowledge(const Thread& t) {            // of its own block
    Learned mine = t.knows;
    mine.epoch = t.block->epoch;
    join(mine, t.block->common);
    return mine;
}
void hand_on(Remote& to, const Learned& own) {
    join(to[current->block->serial], std::make_shared<const Learned>(own));
    join(to, current->remote);
    join(to, current->block->remote);
}

}

bool before_now(const Record& r) {
    const Block& b = *current->block;
    if (r.block < first_of_launch) return true; // an earlier launch
    if (r.clock == kUnderWay) return false;
    if (r.block == b.serial && (r.thread == current->number || r.epoch < b.epoch)) return true;
    return learned(r, [&](const Learned& x, const Learned& y) {
        bool heard = true;
        for (size_t i = r.thread; i < size_t(r.thread) + (r.four ? 4 : 1); i++) heard &= std::max(at(x.clocks, i), at(y.clocks, i)) >= r.clock;
        return heard || r.epoch < x.epoch;
    });
}

Record record(unsigned kind, uint32_t where) {
    const Thread& t = *current;
    return {t.block->serial, t.clock, t.block->epoch, where, uint16_t(t.number), 0, uint8_t(kind & kAtomic ? 1 : 0)};
}

bool checking() { return launched->mode == Mode::checked; }

void begin_checks(Block& b) {
    if (!checking()) return;
    if (b.index.x == 0 && b.index.y == 0 && b.index.z == 0) first_of_launch = b.serial, released.clear();
    b.shared.dynamic_cells.resize((launched->smem + 1023) / 1024 * 1024 / kCellBytes);     // cells of another block do not count
    b.shared.static_cells.resize(b.shared.statics.size() / kCellBytes + 1);
    for (Thread* t : b.threads) {
        t->knows.clocks.assign(b.threads.size(), 0);
        t->knows.clocks[size_t(t->number)] = t->clock;
    }
}

void access(uintptr_t address, size_t bytes, unsigned kind, uint32_t where, const Record* as) {
    const Place p = place_of(address);
    if (p.kind == Place::stack || p.kind == Place::arguments || p.kind == Place::program) return;
    if (p.kind == Place::unknown || address < p.begin || address + bytes > p.end)
        return report("ACCESS", place_name(where), concat(name_of(*current), kind & kWrite ? " writes " : " reads ", bytes, " bytes at ", describe(address), " at ", place_name(where)));
    if (!as && bytes > 1 && bytes <= 16 && address % bytes) report("ALIGN", place_name(where), concat(name_of(*current), kind & kWrite ? " writes " : " reads ", bytes, " bytes at an address that is no multiple of it, at ", place_name(where)));
    if (p.owner && p.owner != current->block && p.owner->live == 0) report("CLUSTER", place_name(where), concat(name_of(*current), kind & kWrite ? " writes" : " reads", " shared memory of a block that has exited, at ", place_name(where)));
    if (p.kind == Place::global && hooks.global) hooks.global(address, bytes, kind & kWrite, where);
    check_cells(p, address, bytes, kind, as ? *as : record(kind, where));
}

void see(uintptr_t address, size_t bytes, unsigned kind, uint32_t where) {
    if (checking()) access(address, bytes, kind, where);
    else if (counting()) count_access(address, bytes, kind, where);
}

// ---- actors

uint16_t new_actors(Block& b, int n) {
    b.actors = uint16_t(b.actors + n);
    b.uses_proxies = true;
    return uint16_t(b.threads.size() + b.actors - size_t(n));
}
Record record_of(const Block& b, uint16_t actor, uint32_t clock, uint32_t where, unsigned kind) {
    Record r{b.serial, clock, kNoEpoch, where, actor};
    r.atomic = kind & kAtomic ? 1 : 0, r.async = 1;
    return r;
}
void hear(Thread& t, size_t actor, uint32_t clock) { raise(t.knows.clocks, actor, clock); }
uint32_t heard_of(const Thread& t, size_t actor) { return std::max(at(t.knows.clocks, actor), at(t.block->common.clocks, actor)); }

void fence_proxy(Thread& t) {
    raise(t.knows.proxied, size_t(t.number), t.clock);
    t.block->uses_proxies = true;
    tick(t);
}

// ---- what orders

void meet_all(Block& b) {
    b.epoch++;
    for (Thread* t : b.threads) {
        if (t->done) continue;
        join(b.remote, t->remote);
        if (b.uses_proxies) join(b.common, t->knows);
    }
    for (Thread* t : b.threads) if (!t->done) tick(*t);
}
void meet(const std::vector<Thread*>& threads) {
    Learned all;
    Remote remote;
    for (const Thread* t : threads) join(all, t->knows), join(remote, t->remote);
    for (Thread* t : threads) t->knows = all, t->remote = remote, tick(*t);
}
// Through an mbarrier or a cluster's barrier: all a thread knows is offered to those who wait.
void offer_clocks(Remote& to) {
    hand_on(to, knowledge(*current));
    tick(*current);
}
void hear_clocks(const Remote& from) {
    Thread& t = *current;
    for (const auto& [block, learned] : from)
        if (block == t.block->serial) join(t.knows, *learned);
        else join(t.remote[block], learned);
}
// A fence before an atomic or a release hands on what came before; behind an atomic or an acquire it takes what was handed on.
void fence_clocks(Thread& t) {
    t.has_fenced = true, t.fenced = knowledge(t);
    join(t.remote, t.offered);
    t.offered.clear();
    tick(t);
}
void release_clocks(const void* p) {
    if (current->has_fenced) hand_on(released[uintptr_t(p)], current->fenced);
}
void acquire_clocks(const void* p) {
    if (const auto it = released.find(uintptr_t(p)); it != released.end()) join(current->offered, it->second);
}

void begin_copy(uintptr_t shared, size_t bytes, uint32_t where) {
    Record now = record(kWrite, where);
    now.clock = kUnderWay;
    check_cells(place_of(shared), shared, bytes, kWrite, now);
}
void end_copy(uintptr_t shared, size_t bytes, uint32_t) {
    Cell* cells = cells_of(place_of(shared), shared);
    for (size_t i = 0; i < bytes / kCellBytes; i++) {
        Record& w = cells[i].write;
        if (w.clock == kUnderWay && w.thread == current->number && w.block == current->block->serial) w.clock = current->clock, w.epoch = current->block->epoch;
    }
}

// ---- atomics

void atomic_begin(const void* p, size_t bytes, Site site) {
    if (uintptr_t(p) % bytes) report("ALIGN", name_of(site), concat("an atomic of ", bytes, " bytes on an address that is no multiple of it, at ", name_of(site)));
    see(uintptr_t(p), bytes, kWrite | kAtomic, where_is(site));
    if (checking()) release_clocks(p);
}
void atomic_end(const void* p, Site) { if (checking()) acquire_clocks(p); }
// ld.acquire and st.release: an atomic access with its fence
void synchronising(const void* p, size_t bytes, Semantics semantics, Site site) {
    const bool acquire = semantics == Semantics::acquire;
    if (counting()) count_access(uintptr_t(p), bytes, acquire ? kRead : kWrite, where_is(site));
    if (!checking()) return;
    if (!acquire) fence_clocks(*current);
    access(uintptr_t(p), bytes, (acquire ? kRead : kWrite) | kAtomic, where_is(site));
    if (acquire) acquire_clocks(p), fence_clocks(*current);
    else release_clocks(p);
}

}

// ---- what the compiler calls

static inline void saw(void* p, size_t bytes, unsigned kind, void* instruction) {
    using namespace merv::emu;
    if (!current || uintptr_t(__builtin_frame_address(0)) - uintptr_t(current->stack) >= kStack) return hooks.host(uintptr_t(p), bytes, kind & kWrite, instruction);      // not on a fiber
    if (uintptr_t(p) - uintptr_t(current->stack) >= kStack) see(uintptr_t(p), bytes, kind, where_is(instruction));
    else if (checking() && (current->registers_fenced || !current->in_flight.empty())) saw_registers(uintptr_t(p), bytes, instruction);
}
#define MERV_CALLER __builtin_return_address(0)
#define MERV_HOOK(n) \
    void __tsan_read##n(void* p) { saw(p, n, merv::emu::kRead, MERV_CALLER); } \
    void __tsan_write##n(void* p) { saw(p, n, merv::emu::kWrite, MERV_CALLER); } \
    void __tsan_unaligned_read##n(void* p) { saw(p, n, merv::emu::kRead, MERV_CALLER); } \
    void __tsan_unaligned_write##n(void* p) { saw(p, n, merv::emu::kWrite, MERV_CALLER); }
extern "C" {
MERV_HOOK(1) MERV_HOOK(2) MERV_HOOK(4) MERV_HOOK(8) MERV_HOOK(16)
void __tsan_read_range(void* p, size_t n) { saw(p, n, merv::emu::kRead, MERV_CALLER); }
void __tsan_write_range(void* p, size_t n) { saw(p, n, merv::emu::kWrite, MERV_CALLER); }
void __tsan_vptr_read(void*) {}
void __tsan_vptr_update(void*, void*) {}
void __tsan_init() {}

// A counter of the host's shared pointers, in the host's part of a kernel file; no kernel has std::atomic.
int __tsan_atomic32_fetch_add(volatile int* p, int v, int) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }
}
