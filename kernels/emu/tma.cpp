// TMA: copies of boxes of a tensor, and of plain bytes, between global and shared memory. A load happens when no thread of the block can
// run without it, a store when it is waited for; meanwhile the destination is NaN.
#include <cstring>
#include "core/dtype.h"
#include "core/emulated_memory.h"
#include "kernels/emu/layout.h"
#include "kernels/emu/machine.h"

namespace merv::emu {
namespace {

constexpr int kUnit = 16;                       // bytes that a swizzle keeps together

bool usable(const TensorMap* m, const BoxAt& at, Site site) {
    const Place p = place_of(uintptr_t(m));
    if (p.kind != Place::arguments && p.kind != Place::global) wrong("ASYNC", site, "TMA: the tensor map must be a kernel's __grid_constant__ argument or lie in global memory, not in ", p.name());
    else if (uintptr_t(m) % 64) wrong("ALIGN", site, "TMA: the tensor map is not 64-byte aligned");
    else if (m->rank != at.rank) wrong("ASYNC", site, "TMA: the tensor has ", m->rank, " dimensions, not ", at.rank);
    else return true;
    return false;
}
// Whether shared memory of this block can take the bytes
bool fits(const void* p, uint32_t bytes, uint32_t alignment, Site site) {
    if (local_of(p).block != current->block) wrong("ACCESS", site, "TMA: ", describe(uintptr_t(p)), " is not in this block's shared memory");
    else if (uintptr_t(p) + bytes > place_of(uintptr_t(p)).end) wrong("ACCESS", site, "TMA: ", bytes, " bytes at ", describe(uintptr_t(p)), " run past its end");
    else if (shared_address(p, site) % alignment) wrong("ALIGN", site, "TMA: ", describe(uintptr_t(p)), " is not aligned to ", alignment, " bytes");
    else return true;
    return false;
}

// What a box at these coordinates moves; none: it was reported. A swizzle's pattern repeats after 8 rows.
std::vector<Segment> box(const TensorMap* map, const void* shared, const BoxAt& at, Site site) {
    if (!usable(map, at, site)) return {};
    const TensorMap& m = *map;
    const uint32_t rows = m.box[1] * m.box[2], row_bytes = m.box[0] * uint32_t(m.element);
    if (!fits(shared, rows * row_bytes, std::max(128u, 8 * uint32_t(m.span)), site)) return {};
    const uint32_t start = shared_address(shared, site);
    std::vector<Segment> all;
    for (uint32_t row = 0; row < rows; row++) {
        const int64_t y = at.c[1] + int64_t(row % m.box[1]), z = at.c[2] + int64_t(row / m.box[1]);
        const bool row_inside = layout::inside(y, m.size[1]) && layout::inside(z, m.size[2]);
        for (uint32_t inner = 0; inner < row_bytes; inner += kUnit) {
            char* to = static_cast<char*>(const_cast<void*>(shared)) + (layout::boxed(start, row, inner, row_bytes, m.span) - start);
            Segment s{to, nullptr, kUnit, 0};
            for (int byte = 0; row_inside && byte < kUnit; byte += m.element) {
                if (!layout::inside(at.c[0] + int64_t(inner + uint32_t(byte)) / m.element, m.size[0])) continue;
                s.first = std::min(s.first, byte), s.last = byte + m.element;
            }
            if (s.last) s.global = m.base + (at.c[0] * int64_t(m.element) + inner) + y * int64_t(m.stride[1]) + z * int64_t(m.stride[2]);
            else s.first = 0;
            all.push_back(s);
        }
    }
    return all;
}
std::vector<Segment> plain(const void* shared, const void* global, uint32_t bytes, Site site) {
    const Place p = place_of(uintptr_t(global));
    std::vector<Segment> all;
    if (uintptr_t(global) % kUnit || bytes % kUnit || !bytes) wrong("ALIGN", site, "TMA: addresses and sizes must be multiples of 16: ", bytes, " bytes at ", describe(uintptr_t(global)));
    else if (p.kind != Place::global || uintptr_t(global) < p.begin || uintptr_t(global) + bytes > p.end) wrong("ACCESS", site, "TMA: ", bytes, " bytes at ", describe(uintptr_t(global)), " are not global memory");
    else if (fits(shared, bytes, kUnit, site))
        for (uint32_t i = 0; i < bytes; i += kUnit) all.push_back({static_cast<char*>(const_cast<void*>(shared)) + i, static_cast<char*>(const_cast<void*>(global)) + i, 0, kUnit});
    return all;
}

// Both sides of a transfer, as actors access them
void see_both(const Segment& s, const Record& on_shared, unsigned shared_kind, const Record& on_global, unsigned global_kind) {
    if (!checking()) return;
    access(uintptr_t(s.shared), kUnit, shared_kind, on_shared.where, &on_shared);
    if (s.last) access(uintptr_t(s.global) + size_t(s.first), size_t(s.last - s.first), global_kind, on_global.where, &on_global);
}

void start_load(const std::vector<Segment>& segments, uint64_t* mbarrier, unsigned blocks, Site site) {
    if (segments.empty()) return;
    const Local bar = local_of(mbarrier), to = local_of(segments[0].shared);
    const Cluster& cluster = *current->block->cluster;
    if (bar.block != current->block) return wrong("MBARRIER", site, "TMA with an mbarrier in ", describe(uintptr_t(mbarrier)), ", not in this block's shared memory");
    if (!blocks) blocks = 1u << current->block->rank;
    if (blocks >> cluster.blocks.size()) return wrong("CLUSTER", site, "TMA: a multicast to blocks 0x", std::hex, blocks, " of a cluster of ", std::dec, cluster.blocks.size());
    for (Block* target : cluster.blocks) {
        if (!(blocks >> target->rank & 1)) continue;
        const Local there{target, bar.address};
        MBarrier* m = mbarrier_at(there, "loads with", site);
        if (!m) continue;
        if (!m->fenced) wrong("MBARRIER", site, "TMA: fence.mbarrier_init is missing behind the mbarrier.init at ", place_name(m->init.where));
        Transfer t{Transfer::load, segments, there, m->phase, {}};
        const ptrdiff_t moved = from_here({target, to.address}) - from_here(to);
        const Record r = record_of(*target, m->actor, m->phase + 1, where_is(site), kWrite);
        for (Segment& s : t.segments) {
            s.shared += moved;
            see_both(s, r, kWrite, r, kRead);
            std::memset(s.shared, 0xff, kUnit);
        }
        m->loads++;
        m->loaded = m->phase + 1;
        current->block->loads.push_back(std::move(t));
    }
}

// A store's two halves: shared memory is read, global memory is written.
void take(Transfer& t) {
    if (!t.taken.empty()) return;
    for (const Segment& s : t.segments) t.taken.insert(t.taken.end(), s.shared, s.shared + kUnit);
}
template <class T> void add(char* to, const char* from) {
    for (int i = 0; i < kUnit / int(sizeof(T)); i++) reinterpret_cast<T*>(to)[i] = T(float(reinterpret_cast<T*>(to)[i]) + float(reinterpret_cast<const T*>(from)[i]));
}
void give(const Transfer& t) {
    const char* from = t.taken.data();
    for (const Segment& s : t.segments) {
        if (t.kind == Transfer::add_f32) add<float>(s.global, from);
        else if (t.kind == Transfer::add_bf16) add<bf16>(s.global, from);
        else if (s.last) std::memcpy(s.global + s.first, from + s.first, size_t(s.last - s.first));
        from += kUnit;
    }
}

void start_store(Transfer::Kind kind, std::vector<Segment> segments, Site site) {
    if (segments.empty()) return;
    Thread& t = *current;
    if (!t.reader) t.reader = new_actors(*t.block, 2), t.writer = uint16_t(t.reader + 1);
    const uint32_t where = where_is(site), group = t.stores_committed + 1;
    const unsigned write = kind == Transfer::store ? kWrite : kWrite | kAtomic;
    const Record reads = record_of(*t.block, t.reader, group, where, kRead), writes = record_of(*t.block, t.writer, group, where, write);
    for (const Segment& s : segments) {
        see_both(s, reads, kRead, writes, write);
        if (kind == Transfer::store && s.last) std::memset(s.global + s.first, 0xff, size_t(s.last - s.first));
    }
    t.stores.push_back({kind, std::move(segments), {}, 0, {}});
    if (order() == Order::seeded && random_bits() % 4 == 0) take(t.stores.back());
}

}

static bool encodable(const TensorMap& m) {
    auto refuse = [](const auto&... what) { report("LAUNCH", concat(what...), concat("tensor map: ", what...)); return false; };
    const uint64_t row = m.box[0] * uint64_t(m.element);
    if (m.rank != 2 && m.rank != 3) return refuse("2 or 3 dimensions, not ", m.rank);
    if (m.span != 0 && m.span != 32 && m.span != 64 && m.span != 128) return refuse("swizzles span 0, 32, 64 or 128 bytes, not ", m.span);
    if (uintptr_t(m.base) % 16) return refuse("the tensor is not 16-byte aligned");
    if (m.span && uintptr_t(m.base) % 128) return refuse("a swizzled tensor is not 128-byte aligned");
    if (m.span && row != uint64_t(m.span)) return refuse("a box's row is as long as the swizzle, ", m.span, " bytes, not ", row);
    if (row % 16) return refuse("a box's row is a multiple of 16 bytes, not ", row);
    uint64_t end = uint64_t(m.element);
    for (int i = 0; i < m.rank; i++) {
        if (!m.size[i] || m.size[i] > uint64_t(1) << 32) return refuse("extents are 1 to 2^32, not ", m.size[i]);
        if (!m.box[i] || m.box[i] > 256) return refuse("a box has 1 to 256 elements each way, not ", m.box[i]);
        if (i && (m.stride[i] % 16 || m.stride[i] >= uint64_t(1) << 40)) return refuse("strides are multiples of 16 bytes below 2^40, not ", m.stride[i]);
        end += (m.size[i] - 1) * (i ? m.stride[i] : uint64_t(m.element));
    }
    const emulated_memory::Block* g = emulated_memory::near(uintptr_t(m.base));
    if (!g || uintptr_t(m.base) < g->begin || uintptr_t(m.base) + end > g->end) return refuse("the tensor is not in device memory, or runs past its allocation");
    return true;
}
void check(const TensorMap& m) {
    encodable(m);
    throw_reports();
}

void tma_load(void* shared, const TensorMap* m, uint64_t* mbarrier, BoxAt at, unsigned blocks, Site site) { start_load(box(m, shared, at, site), mbarrier, blocks, site); }
void tma_store(const TensorMap* m, const void* shared, BoxAt at, Site site) { start_store(Transfer::store, box(m, shared, at, site), site); }
void bulk_load(void* shared, const void* global, uint32_t bytes, uint64_t* mbarrier, Site site) { start_load(plain(shared, global, bytes, site), mbarrier, 0, site); }
void bulk_store(void* global, const void* shared, uint32_t bytes, int add, Site site) {
    start_store(add == 4 ? Transfer::add_f32 : add == 2 ? Transfer::add_bf16 : Transfer::store, plain(shared, global, bytes, site), site);
}

bool carry_out_load(Block& b) {
    if (b.loads.empty()) return false;
    const size_t n = b.loads.size(), i = order() == Order::seeded ? random_bits() % n : order() == Order::lifo ? 0 : n - 1;
    const Transfer t = std::move(b.loads[i]);
    b.loads.erase(b.loads.begin() + long(i));
    for (const Segment& s : t.segments) {
        std::memset(s.shared, 0, kUnit);
        if (s.last) std::memcpy(s.shared + s.first, s.global + s.first, size_t(s.last - s.first));
    }
    arrive_bytes(t.barrier, t.phase, int64_t(t.segments.size()) * kUnit);
    return true;
}

// ---- bulk groups, per thread

void bulk_commit() {
    Thread& t = *current;
    t.store_groups.push_back(std::move(t.stores));
    t.stores.clear();
    t.stores_committed++;
}
void bulk_wait(int pending, bool read_only, Site) {
    Thread& t = *current;
    if (t.stores_committed <= uint32_t(pending)) return;
    const uint32_t up_to = t.stores_committed - uint32_t(pending);
    for (; t.stores_read < up_to; t.stores_read++)
        for (Transfer& store : t.store_groups[t.stores_read - t.stores_done]) take(store);
    if (t.reader && checking()) hear(t, t.reader, up_to);
    if (read_only) return;
    for (; t.stores_done < up_to; t.stores_done++, t.store_groups.pop_front())
        for (const Transfer& store : t.store_groups.front()) give(store);
    if (t.reader && checking()) hear(t, t.writer, up_to);
}

void finish_async(Thread& t) {
    if (!t.stores.empty()) report("ASYNC", "uncommitted", concat(name_of(t), " exits with bulk stores that it never committed"));
    if (t.stores_read < t.stores_committed) report("ASYNC", "store", concat(name_of(t), " exits while its bulk stores read shared memory: cp.async.bulk.wait_group is missing"));
    for (const auto& group : t.store_groups)
        for (const Transfer& store : group)
            if (!store.taken.empty()) give(store);
    if (!t.in_flight.empty()) report("WGMMA", "exit", concat(name_of(t), " exits with wgmma under way"));
}

}
