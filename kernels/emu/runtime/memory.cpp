// Device and pinned memory: who accessed each two bytes of it last, when it was allocated and freed, and who may read it now.
// What is freed stays for a while, unreadable, so that a late use of it is recognised.
#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstring>
#include <sys/mman.h>
#include "core/emulated_memory.h"
#include "kernels/emu/runtime/state.h"

namespace merv::emulated_runtime {
namespace {

using emulated_memory::kPage;
constexpr size_t kAlignment = 256;              // cudaMalloc's
constexpr int kNaN = 0xff;
constexpr size_t kRemembered = 256;             // freed blocks

std::map<uintptr_t, Allocation>& allocations() {
    static auto* all = new std::map<uintptr_t, Allocation>;
    return *all;
}
std::multimap<size_t, char*>& free_in_pool() {  // by capacity
    static auto* all = new std::multimap<size_t, char*>;
    return *all;
}
std::deque<char*>& forgotten_soon() {           // freed, the oldest first
    static auto* all = new std::deque<char*>;
    return *all;
}
std::atomic<uintptr_t> lowest = ~uintptr_t(0), highest = 0;
bool device_is_open = false, protects = true;
size_t fail_after = ~size_t(0);

size_t in_pages(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

void set_access(Allocation& a, bool open) {
    if (a.where == Where::registered || a.open == open) return;
    const uintptr_t begin = uintptr_t(a.begin) / kPage * kPage;
    mprotect(reinterpret_cast<void*>(begin), uintptr_t(a.begin) + a.capacity - begin, open ? PROT_READ | PROT_WRITE : PROT_NONE);
    a.open = open;
}
void drop_pages(Allocation& a) {
    const uintptr_t begin = uintptr_t(a.begin) / kPage * kPage;
    madvise(reinterpret_cast<void*>(begin), uintptr_t(a.begin) + a.capacity - begin, MADV_DONTNEED);
    madvise(a.cells, a.cell_bytes, MADV_DONTNEED);
}
void add_cells(Allocation& a) {
    a.cell_bytes = in_pages((a.capacity / kCellBytes + 2) * sizeof(Cell));
    void* m = mmap(nullptr, a.cell_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m == MAP_FAILED) fail(Exit::no_memory, "out of memory: the emulated CUDA runtime's notes of ", a.capacity, " bytes");
    a.cells = static_cast<Cell*>(m);
}
Allocation& add(Allocation a) {
    add_cells(a);
    lowest = std::min<uintptr_t>(lowest, uintptr_t(a.begin));
    highest = std::max<uintptr_t>(highest, uintptr_t(a.begin) + a.capacity + kPage);
    return allocations()[uintptr_t(a.begin)] = std::move(a);
}
void forget(Allocation& a) {
    munmap(a.cells, a.cell_bytes);
    if (a.where != Where::registered) {
        set_access(a, true);
        emulated_memory::release(a.begin);
    }
    allocations().erase(uintptr_t(a.begin));
}
void retire(Allocation& a) {                    // freed, and not for use again
    set_access(a, false);
    drop_pages(a);
    forgotten_soon().push_back(a.begin);
}
void forget_oldest(size_t kept) {
    if (!idle()) return;                        // queued work may still name them
    for (; forgotten_soon().size() > kept; forgotten_soon().pop_front()) forget(*find(forgotten_soon().front()));
}

struct sigaction before_ours;
void on_fault(int number, siginfo_t* info, void* context) {
    {
        std::unique_lock lock(state_mutex(), std::defer_lock);
        if (!is_device_thread) lock.lock();     // the thread that waits for it holds it
        Allocation* a = find(info->si_addr);
        if (a && !a->open && uintptr_t(info->si_addr) < uintptr_t(a->begin) + a->capacity && !(is_device_thread && !in_host_function)) {
            if (a->live && a->where == Where::device) report("HOSTDEREF", describe(*a, a->begin), concat("host code uses ", describe(*a, info->si_addr)));
            else report("UAF", concat("host ", describe(*a, a->begin)), concat("host code uses ", describe(*a, info->si_addr), ", which is freed"));
            set_access(*a, true);               // it goes on
            return;
        }
    }
    if (before_ours.sa_flags & SA_SIGINFO) return before_ours.sa_sigaction(number, info, context);
    std::signal(number, SIG_DFL);
}
void catch_faults() {
    static const bool once = [] {
        struct sigaction a{};
        a.sa_sigaction = on_fault;
        a.sa_flags = SA_SIGINFO | SA_NODEFER;
        return sigaction(SIGSEGV, &a, &before_ours) == 0;
    }();
    (void)once;
}

Allocation& new_block(size_t bytes, Where where) {
    catch_faults();
    Allocation a;
    a.where = where;
    a.capacity = (std::max<size_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
    a.begin = static_cast<char*>(emulated_memory::allocate(a.capacity));
    a.open = true;
    Allocation& added = add(std::move(a));
    if (where == Where::device && protects && !device_is_open) set_access(added, false);
    return added;
}

// Those that read two bytes since they were written and are not ordered among each other: mostly one
struct ReaderSets {
    std::vector<const std::vector<RecordId>*> all;
    std::map<std::vector<RecordId>, RecordId> numbers;
};
ReaderSets& reader_sets() {
    static auto* sets = new ReaderSets;
    return *sets;
}
std::vector<RecordId> readers(RecordId reads) {
    if (reads & kMany) return *reader_sets().all[reads - kMany];
    return reads ? std::vector{reads} : std::vector<RecordId>{};
}
RecordId with_reader(RecordId reads, RecordId now) {
    if (!reads || (!(reads & kMany) && before(reads, now))) return now;
    std::vector<RecordId> set = readers(reads);
    std::erase_if(set, [now](RecordId r) { return r == now || before(r, now); });      // who is ordered after the one is after the other
    set.push_back(now);
    if (set.size() == 1) return now;
    std::sort(set.begin(), set.end());
    const auto [at, added] = reader_sets().numbers.try_emplace(std::move(set), kMany + RecordId(reader_sets().all.size()));
    if (added) reader_sets().all.push_back(&at->first);
    return at->second;
}

std::string at_site(const Site& site) { return site ? " at " + site() : ""; }
void race(RecordId now, bool write, RecordId other, bool other_write, const Allocation& a, const void* p, const Site& site) {
    const bool frees = name_of(now).starts_with("cudaFree") || name_of(other).starts_with("cudaFree");
    report(frees ? "UAF" : "RACE", name_of(now) + " " + name_of(other), concat(name_of(now), " (", write ? "write" : "read", at_site(site), ") and ", name_of(other), " (", other_write ? "write" : "read",
                                                              ") are not ordered: ", describe(a, p)));
}

}

Usage usage;
uint64_t release_threshold = 0;

Allocation* find(const void* p) {
    const uintptr_t address = uintptr_t(p);
    if (!may_be_ours(address)) return nullptr;
    auto it = allocations().upper_bound(address);
    if (it == allocations().begin()) return nullptr;
    Allocation& a = (--it)->second;
    return address - uintptr_t(a.begin) < a.capacity + (a.where == Where::registered ? 0 : kPage) ? &a : nullptr;
}
bool may_be_ours(uintptr_t address) { return address >= lowest && address < highest; }

std::string describe(const Allocation& a, const void* p) {
    constexpr const char* names[] = {"device memory", "pinned memory", "registered memory"};
    const ptrdiff_t offset = static_cast<const char*>(p) - a.begin;
    return concat(names[int(a.where)], " of ", a.lives.back().bytes, " bytes", offset ? concat(" + ", offset) : "");
}

bool touch(RecordId now, const void* p, size_t bytes, bool write, const Site& site) {
    Allocation* a = find(p);
    if (!a || !bytes) return true;
    auto does = [&] { return name_of(now) + (write ? " writes " : " reads "); };
    const auto life = std::upper_bound(a->lives.begin(), a->lives.end(), now, [](RecordId r, const Life& l) { return r < l.allocated; });
    if (life == a->lives.begin()) {
        report("UAF", name_of(now), concat(does(), describe(*a, p), at_site(site), ", which was allocated after it was issued"));
        return a->open;
    }
    const Life& l = life[-1];
    if (l.freed && now != l.freed && !before(now, l.freed)) {
        report("UAF", name_of(now), concat(does(), describe(*a, p), at_site(site), before(l.freed, now) ? ", already freed by " : ", freed without waiting for it by ", name_of(l.freed)));
        return a->open;
    }
    if (captured_at && l.allocated >= captured_at) report("UAF", name_of(now), concat(does(), describe(*a, p), at_site(site), ", which was allocated after the graph was captured"));
    const size_t offset = size_t(static_cast<const char*>(p) - a->begin);
    if (offset + bytes > l.bytes) {
        report("OOB", name_of(now), concat(does(), bytes, " bytes at ", describe(*a, p), at_site(site)));
        if (offset + bytes > a->capacity) return false;      // nor is it mapped
        bytes = offset < l.bytes ? l.bytes - offset : 0;
    }
    if (!bytes) return false;
    // Neighbours mostly share their past, and then what has been found out about it
    Cell was{}, becomes{};
    bool first = true;
    for (size_t i = offset / kCellBytes; i <= (offset + bytes - 1) / kCellBytes; i++) {
        Cell& c = a->cells[i];
        if (!first && c.write == was.write && c.reads == was.reads) {
            c = becomes;
            continue;
        }
        first = false, was = c;
        auto ordered = [&](RecordId other) { return !other || other == now || before(other, now) || before(now, other); };
        if (!ordered(c.write)) race(now, write, c.write, true, *a, a->begin + i * kCellBytes, site);
        if (write) {
            for (const RecordId r : readers(c.reads)) if (!ordered(r)) race(now, write, r, false, *a, a->begin + i * kCellBytes, site);
            c = {now, 0};
        } else if (c.reads != now) {
            c.reads = with_reader(c.reads, now);
        }
        becomes = c;
    }
    return a->open || a->where == Where::registered;
}

bool fits(const void* p, size_t bytes, const std::string& what) {
    const Allocation* a = find(p);
    if (!a) return true;
    const size_t offset = size_t(static_cast<const char*>(p) - a->begin), has = a->lives.back().bytes;
    if (offset <= has && bytes <= has - offset) return true;
    report("OOB", what, concat(what, " of ", bytes, " bytes at ", describe(*a, p)));
    return false;
}

// ---- allocation

cudaError_t allocate(void** p, size_t bytes, Where where) {
    if (!p) return cudaErrorInvalidValue;
    *p = nullptr;
    if (!bytes) return cudaSuccess;
    if (where == Where::device && (usage.allocated + bytes > fail_after || usage.allocated + usage.in_pool + bytes > usage.limit)) return cudaErrorMemoryAllocation;
    Allocation& a = new_block(bytes, where);
    a.lives.push_back({last_record(), 0, bytes});
    if (where == Where::device) usage.allocated += bytes;
    next_host_record();
    *p = a.begin;
    return cudaSuccess;
}

cudaError_t allocate_from_pool(void** p, size_t bytes, CUstream_st* s) {
    if (!p) return cudaErrorInvalidValue;
    *p = nullptr;
    if (s->capture) return invalidate(s, "cudaMallocAsync", "cudaMallocAsync on a stream that is captured (a node that allocates) is not emulated"), cudaErrorNotSupported;
    if (!bytes) return cudaSuccess;
    if (usage.allocated + bytes > fail_after || usage.allocated + bytes > usage.limit) return cudaErrorMemoryAllocation;
    // Memory freed is used again as early as order allows
    Clock knows = s->knows;
    join(knows, host.knows);
    Allocation* block = nullptr;
    for (auto it = free_in_pool().lower_bound(bytes); it != free_in_pool().end() && it->first < 2 * bytes + kAlignment; ++it) {
        Allocation* a = find(it->second);
        if (!known(a->lives.back().freed, knows)) continue;
        free_in_pool().erase(it);
        usage.in_pool -= a->capacity;
        block = a;
        break;
    }
    if (!block) block = &new_block(bytes, Where::device);
    block->pool = block->live = true;
    usage.allocated += bytes;
    char* begin = block->begin;
    block->lives.push_back({last_record() + 1, 0, bytes});     // the operation's, which may run at once
    issue(s, "cudaMallocAsync", [begin, bytes] { if (touch(running, begin, bytes, true)) std::memset(begin, kNaN, bytes); });
    *p = begin;
    return cudaSuccess;
}

namespace {
// The live allocation that begins there, else reported
Allocation* to_free(void* p, const char* function, bool fitting_kind(const Allocation&)) {
    Allocation* a = find(p);
    if (!a || a->begin != p) report("FREE", function, concat(function, " of a pointer that no allocation returned"));
    else if (!a->live) report("FREE", concat(function, " twice"), concat(function, " of ", describe(*a, p), ", which ", name_of(a->lives.back().freed), " has freed"));
    else if (!fitting_kind(*a)) report("FREE", concat(function, " kind"), concat(function, " of ", describe(*a, p), ", which another function allocated"));
    else return a;
    return nullptr;
}
}

cudaError_t free_now(void* p, Where where, const char* function) {
    if (!p) return cudaSuccess;
    Allocation* a = where == Where::device ? to_free(p, function, [](const Allocation& x) { return x.where == Where::device; }) : to_free(p, function, [](const Allocation& x) { return x.where == Where::pinned; });
    if (!a) return cudaErrorInvalidValue;
    // cudaFree of what cudaMalloc returned waits for the device, which nobody may rely on otherwise; nothing else here waits
    Clock knows = host.knows;
    if (where == Where::device && !a->pool) {
        if (const cudaError_t e = synchronize_all(false)) return e;
        join(knows, all_work());
    }
    raise(knows, 0, host.clock);
    Life& life = a->lives.back();
    const RecordId freed = new_record(0, host.clock, knows, function);
    touch(freed, p, life.bytes, true);
    life.freed = freed;
    next_host_record();
    a->live = a->pool = false;
    if (where == Where::device) usage.allocated -= life.bytes;
    retire(*a);
    forget_oldest(kRemembered);
    return cudaSuccess;
}

cudaError_t free_in_stream(void* p, CUstream_st* s) {
    if (!p) return cudaSuccess;
    if (s->capture) return invalidate(s, "cudaFreeAsync", "cudaFreeAsync on a stream that is captured (a node that frees) is not emulated"), cudaErrorNotSupported;
    Allocation* a = to_free(p, "cudaFreeAsync", [](const Allocation& x) { return x.where == Where::device; });
    if (!a) return cudaErrorInvalidValue;
    const size_t bytes = a->lives.back().bytes;
    a->live = false;
    a->pool = true;
    const auto operation = issue(s, "cudaFreeAsync", [p, bytes] { if (touch(running, p, bytes, true)) std::memset(p, kNaN, bytes); });
    a->lives.back().freed = operation->record;
    usage.allocated -= bytes, usage.in_pool += a->capacity;
    free_in_pool().emplace(a->capacity, a->begin);
    return cudaSuccess;
}

void trim_pool(size_t keep) {
    for (auto it = free_in_pool().begin(); it != free_in_pool().end() && usage.in_pool > keep;) {
        Allocation* a = find(it->second);
        if (!known(a->lives.back().freed, host.knows)) {
            ++it;
            continue;
        }
        it = free_in_pool().erase(it);
        usage.in_pool -= a->capacity;
        a->pool = false;
        retire(*a);
    }
    forget_oldest(kRemembered);
}

size_t free_everything() {
    finish();
    const std::lock_guard lock(state_mutex());
    size_t bytes = 0;
    free_in_pool().clear();
    for (auto& [begin, a] : allocations()) {
        if (a.where == Where::registered || !(a.live || a.pool)) continue;
        if (a.live) bytes += a.lives.back().bytes, a.lives.back().freed = host_record();
        a.live = a.pool = false;
        retire(a);
    }
    forget_oldest(0);
    usage.allocated = usage.in_pool = 0;
    next_host_record();
    return bytes;
}

cudaError_t register_host(void* p, size_t bytes) {
    if (!p || !bytes) return cudaErrorInvalidValue;
    for (const auto& [begin, a] : allocations())
        if (a.live && begin < uintptr_t(p) + bytes && uintptr_t(p) < begin + a.capacity) return cudaErrorHostMemoryAlreadyRegistered;
    allocations().erase(uintptr_t(p));
    Allocation a;
    a.begin = static_cast<char*>(p), a.capacity = bytes, a.where = Where::registered, a.open = true;
    a.lives.push_back({last_record(), 0, bytes});
    add(std::move(a));
    next_host_record();
    return cudaSuccess;
}
cudaError_t unregister_host(void* p) {
    Allocation* a = find(p);
    if (!a || a->begin != p || a->where != Where::registered) {
        report("FREE", "cudaHostUnregister", "cudaHostUnregister of memory that is not registered");
        return cudaErrorHostMemoryNotRegistered;
    }
    synchronize_all(false);                     // so that all who use it have been seen; who is not waited for is reported
    const RecordId freed = new_record(0, host.clock, host.knows, "cudaHostUnregister");
    touch(freed, p, a->capacity, true);
    next_host_record();
    forget(*a);
    return cudaSuccess;
}

// ---- host code

// With many allocations memory is left open now and then, so that the system calls do not outweigh all else.
void open_device_memory(bool open) {
    static size_t credit = 0;
    if (!open) credit += 32;
    if (open == device_is_open || (!protects && !open) || (!open && credit + forgotten_soon().size() < allocations().size())) return;
    credit = 0;
    device_is_open = open;
    for (auto& [begin, a] : allocations()) if (on_device(&a) && (a.live || a.pool)) set_access(a, open);
}
void protect_device_memory(bool on) {
    const std::lock_guard lock(state_mutex());
    protects = on;
    device_is_open = on;
    open_device_memory(!on);
}

void on_host_access(const void* p, size_t bytes, bool write, const Site& site) {
    Allocation* a = find(p);
    if (!a || (a->where == Where::registered && !a->live)) return;
    if (on_device(a) && a->live && uintptr_t(p) < uintptr_t(a->begin) + a->capacity) {
        report("HOSTDEREF", describe(*a, a->begin), concat("host code ", write ? "writes " : "reads ", describe(*a, p), " at ", site()));
        set_access(*a, true);
        return;
    }
    touch(is_device_thread ? running : host_record(), p, bytes, write, site);
}

void fail_allocations_after(size_t bytes) {
    const std::lock_guard lock(state_mutex());
    fail_after = bytes;
}

}
