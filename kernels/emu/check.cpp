// Checked mode. Kernels are compiled with -fsanitize=thread, but linked with the functions at the end of this file instead of
// libtsan: every load and store of an unchanged kernel comes by here. Each two bytes of shared and global memory remember their
// last write and three reads. Two accesses race unless one lies before the other by the program's own synchronisation,
// whatever order they ran in, so one run finds what a GPU may show once in a million.
#include <cstring>
#include "core/check.h"
#include "kernels/emu/machine.h"

namespace merv::emu {
namespace {

void join(Clocks& a, const Clocks& b) {
    if (a.size() < b.size()) a.resize(b.size());
    for (size_t i = 0; i < b.size(); i++) a[i] = std::max(a[i], b[i]);
}
std::shared_ptr<const Learned> join(const std::shared_ptr<const Learned>& a, const std::shared_ptr<const Learned>& b) {
    if (!a || a == b) return b;
    auto both = std::make_shared<Learned>(*a);
    both->epoch = std::max(a->epoch, b->epoch);
    join(both->clocks, b->clocks);
    return both;
}
void join(Remote& a, const Remote& b) {
    for (const auto& [block, learned] : b) {
        auto& known = a[block];
        known = join(known, learned);
    }
}
void tick(Thread& t) { t.heard[size_t(t.number)] = ++t.clock; }

uint32_t first_of_launch;                       // serial of the launch's first block
std::map<uintptr_t, Remote> released;           // by address of an atomic: what its writers had done before their fences

bool before_now(const Record& r) {
    const Thread& t = *current;
    const Block& b = *t.block;
    if (r.block < first_of_launch) return true; // an earlier launch
    if (r.clock == kUnderWay) return false;
    if (r.block != b.serial) {
        for (const Remote* remote : {&t.remote, &b.remote})
            if (const auto it = remote->find(r.block); it != remote->end())
                if (r.epoch < it->second->epoch || (r.thread < it->second->clocks.size() && r.clock <= it->second->clocks[r.thread])) return true;
        return false;
    }
    return r.thread == t.number || r.epoch < b.epoch || r.clock <= t.heard[r.thread];
}

std::string who(const Record& r) {
    if (r.block != current->block->serial) return "another block";
    return name_of(*current->block->threads[r.thread]);
}
void race(const char* what, const Record& other, const char* its, uintptr_t address, uint32_t where) {
    const std::string here = place_name(where), there = place_name(other.where);
    report("RACE", here + " " + there, concat(what, " ", describe(address), " by ", name_of(*current), " at ", here, " and ", other.clock == kUnderWay ? "cp.async still under way" : its, " by ", who(other), " at ",
                                             there, " are not ordered"));
}

// The object's bytes [address, address + bytes) of it; cells lie from `cell` on.
void check_cells(Cell* cell, uintptr_t address, size_t bytes, unsigned kind, bool shared, Record now) {
    const uint32_t serial = current->block->serial;
    const bool write = kind & kWrite;
    for (uintptr_t a = address, end = address + bytes; a < end; cell++) {
        const uintptr_t next = std::min(end, (a / kCellBytes + 1) * kCellBytes);
        now.bytes = uint8_t(((1u << (next - a)) - 1) << a % kCellBytes);
        auto counts = [&](const Record& r) { return r.block && (!shared || r.block == serial) && (r.bytes & now.bytes); };
        Record& w = cell->write;
        if (shared && !write && !(w.block == serial)) {
            report("UNINIT", place_name(now.where), concat(name_of(*current), " reads ", describe(a), ", which nobody has written, at ", place_name(now.where)));
            w = now;
        } else if (counts(w) && !(w.atomic && now.atomic) && !before_now(w)) race(write ? "a write of" : "a read of", w, "a write", a, now.where);
        if (write) {
            for (Record& r : cell->reads) {
                if (counts(r) && !(r.atomic && now.atomic) && !before_now(r)) race("a write of", r, "a read", a, now.where);
                if (r.bytes & now.bytes) r = {};
            }
            if (w.block == serial && !(w.bytes & now.bytes) && w.thread == now.thread) now.bytes |= w.bytes;      // both bytes, one after the other
            w = now;
        } else {
            Record* slot = nullptr;
            for (Record& r : cell->reads) if (!slot && (!r.block || (shared && r.block != serial) || (r.thread == now.thread && r.block == now.block && !(r.bytes & ~now.bytes)))) slot = &r;
            for (Record& r : cell->reads) if (!slot && before_now(r)) slot = &r;
            *(slot ? slot : &cell->reads[random_bits() % 3]) = now;
        }
        a = next;
    }
}

Record record(unsigned kind, uint32_t where) {
    const Thread& t = *current;
    return {t.block->serial, t.clock, t.block->epoch, where, uint16_t(t.number), 0, uint8_t(kind & kAtomic ? 1 : 0)};
}

}

bool checking() { return launched->mode == Mode::checked; }

void begin_checks(Block& b) {
    if (!checking()) return;
    if (b.index.x == 0 && b.index.y == 0 && b.index.z == 0) first_of_launch = b.serial, released.clear();
    b.dynamic_cells.resize((launched->smem + 1023) / 1024 * 1024 / kCellBytes);     // cells of another block do not count
    b.static_cells.resize(b.statics.size() / kCellBytes + 1);
    for (Thread* t : b.threads) {
        t->heard.assign(b.threads.size(), 0);
        t->heard[size_t(t->number)] = t->clock;
    }
}

void access(uintptr_t address, size_t bytes, unsigned kind, uint32_t where) {
    const Place p = place_of(address);
    if (p.kind == Place::stack || p.kind == Place::arguments || p.kind == Place::program) return;
    const char* what = kind & kWrite ? "writes" : "reads";
    if (p.kind == Place::unknown || address < p.begin || address + bytes > p.end) {
        report("ACCESS", place_name(where), concat(name_of(*current), " ", what, " ", bytes, " bytes at ", describe(address), " at ", place_name(where)));
        if (p.kind == Place::unknown) return;
        if (address < p.begin || address + bytes > p.end) return;
    }
    if (bytes > 1 && bytes <= 16 && address % bytes) report("ALIGN", place_name(where), concat(name_of(*current), " ", what, " ", bytes, " bytes at an address that is no multiple of it, at ", place_name(where)));
    check_cells(cells_of(p, address), address, bytes, kind, p.kind != Place::global, record(kind, where));
}

// ---- what orders

void meet_all(Block& b) {
    b.epoch++;
    for (Thread* t : b.threads) if (!t->done) join(b.remote, t->remote);
    for (Thread* t : b.threads) if (!t->done) tick(*t);
}
void meet(const std::vector<Thread*>& threads) {
    Clocks all;
    Remote remote;
    for (const Thread* t : threads) join(all, t->heard), join(remote, t->remote);
    for (Thread* t : threads) t->heard = all, t->remote = remote, tick(*t);
}
// A fence before an atomic or a release hands on what came before; behind an atomic or an acquire it takes what was handed on.
void fence_clocks(Thread& t) {
    t.fenced_clock = t.clock, t.fenced_epoch = t.block->epoch, t.fenced_heard = t.heard;
    join(t.remote, t.offered);
    t.offered.clear();
    tick(t);
}
void release_clocks(const void* p) {
    Thread& t = *current;
    if (!t.fenced_clock) return;
    auto mine = std::make_shared<Learned>(Learned{t.fenced_epoch, t.fenced_heard});
    Remote& at = released[uintptr_t(p)];
    at[t.block->serial] = join(at[t.block->serial], mine);
    join(at, t.remote);
    join(at, t.block->remote);
}
void acquire_clocks(const void* p) {
    if (const auto it = released.find(uintptr_t(p)); it != released.end()) join(current->offered, it->second);
}

void begin_copy(uintptr_t shared, size_t bytes, uint32_t where) {
    Record now = record(kWrite, where);
    now.clock = kUnderWay;
    check_cells(cells_of(place_of(shared), shared), shared, bytes, kWrite, true, now);
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
    if (counting()) count_access(uintptr_t(p), bytes, kWrite | kAtomic, where_is(site));
    if (!checking()) return;
    access(uintptr_t(p), bytes, kWrite | kAtomic, where_is(site));
    release_clocks(p);
}
void atomic_end(const void* p, Site) {
    if (checking()) acquire_clocks(p);
}
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

namespace {

inline void saw(void* p, size_t bytes, unsigned kind, void* instruction) {
    using namespace merv::emu;
    if (!current || uintptr_t(p) - uintptr_t(current->stack) < kStack) return;
    if (checking()) access(uintptr_t(p), bytes, kind, where_is(instruction));
    else if (counting()) count_access(uintptr_t(p), bytes, kind, where_is(instruction));
}

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

// Counters of the host's shared pointers, in the host's part of a kernel file; no kernel has std::atomic.
#define MERV_HOST_ATOMIC(bits, T) \
    T __tsan_atomic##bits##_load(const volatile T* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); } \
    void __tsan_atomic##bits##_store(volatile T* p, T v, int) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); } \
    T __tsan_atomic##bits##_exchange(volatile T* p, T v, int) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); } \
    T __tsan_atomic##bits##_fetch_add(volatile T* p, T v, int) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); } \
    T __tsan_atomic##bits##_fetch_sub(volatile T* p, T v, int) { return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST); } \
    int __tsan_atomic##bits##_compare_exchange_strong(volatile T* p, T* is, T v, int, int) { return __atomic_compare_exchange_n(p, is, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); }
MERV_HOST_ATOMIC(8, char) MERV_HOST_ATOMIC(32, int) MERV_HOST_ATOMIC(64, long)
}
