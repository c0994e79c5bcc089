// TMA: copies of boxes of a tensor, and of plain bytes, between global and shared memory. A load happens when no thread of the block can
// run without it, a store when it is waited for; meanwhile the destination is NaN.
#include <cstring>
#include "core/check.h"
#include "core/dtype.h"
#include "core/emulated_memory.h"
#include "kernels/emu/layout.h"
#include "kernels/emu/machine.h"

namespace merv::emu {
namespace {

constexpr int kUnit = 16;                       // bytes that a swizzle keeps together

template <class... A> void wrong(const char* kind, Site site, const A&... what) {
    report(kind, name_of(site), concat("TMA at ", name_of(site), ": ", what..., ", ", name_of(*current)));
}

uint32_t box_bytes(const TensorMap& m) { return m.box[0] * m.box[1] * m.box[2] * uint32_t(m.element); }

// What a box at these coordinates moves, `shared` being the shared side as the running block sees it.
std::vector<Segment> box_segments(const TensorMap& m, uint32_t shared_start, char* shared, const BoxAt& at) {
    std::vector<Segment> all;
    const uint32_t row_bytes = m.box[0] * uint32_t(m.element);
    for (uint32_t row = 0; row < m.box[1] * m.box[2]; row++) {
        const int64_t y = at.c[1] + int64_t(row % m.box[1]), z = at.c[2] + int64_t(row / m.box[1]);
        const bool row_inside = layout::inside(y, m.size[1]) && layout::inside(z, m.size[2]);
        for (uint32_t inner = 0; inner < row_bytes; inner += kUnit) {
            Segment s{shared + (layout::boxed(shared_start, row, inner, row_bytes, m.span) - shared_start), nullptr, kUnit, 0};
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
std::vector<Segment> plain_segments(char* shared, char* global, uint32_t bytes) {
    std::vector<Segment> all;
    for (uint32_t i = 0; i < bytes; i += kUnit) all.push_back({shared + i, global + i, 0, kUnit});
    return all;
}

bool usable(const TensorMap* m, const BoxAt& at, Site site) {
    const Place p = place_of(uintptr_t(m));
    if (p.kind != Place::arguments && p.kind != Place::global) wrong("ASYNC", site, "the tensor map must be a kernel's __grid_constant__ argument or lie in global memory, not in ", p.name());
    else if (uintptr_t(m) % 64) wrong("ALIGN", site, "the tensor map is not 64-byte aligned");
    else if (m->rank != at.rank) wrong("ASYNC", site, "the tensor has ", m->rank, " dimensions, not ", at.rank);
    else return true;
    return false;
}
// Shared memory of this block that can take the bytes; no block: it was reported.
Local shared_side(const void* p, uint32_t bytes, uint32_t alignment, Site site) {
    const Local at = local_of(p);
    const Place place = place_of(uintptr_t(p));
    if (at.block != current->block) wrong("ACCESS", site, describe(uintptr_t(p)), " is not in this block's shared memory");
    else if (uintptr_t(p) + bytes > place.end) wrong("ACCESS", site, bytes, " bytes at ", describe(uintptr_t(p)), " run past its end");
    else if (shared_address(p, site) % alignment) wrong("ALIGN", site, describe(uintptr_t(p)), " is not aligned to ", alignment, " bytes");
    else return at;
    return {};
}
uint32_t box_alignment(const TensorMap& m) { return std::max(128u, 8 * uint32_t(m.span)); }     // a swizzle's pattern repeats after 8 rows
bool plain(const void* global, uint32_t bytes, Site site) {
    const Place p = place_of(uintptr_t(global));
    if (uintptr_t(global) % kUnit || bytes % kUnit || !bytes) wrong("ALIGN", site, "addresses and sizes must be multiples of 16: ", bytes, " bytes at ", describe(uintptr_t(global)));
    else if (p.kind != Place::global || uintptr_t(global) < p.begin || uintptr_t(global) + bytes > p.end) wrong("ACCESS", site, bytes, " bytes at ", describe(uintptr_t(global)), " are not global memory");
    else return true;
    return false;
}

void start_load(const Local& to, const std::vector<Segment>& segments, uint64_t* mbarrier, unsigned blocks, Site site) {
    const Local bar = local_of(mbarrier);
    const Cluster& cluster = *current->block->cluster;
    if (bar.block != current->block) return wrong("MBARRIER", site, describe(uintptr_t(mbarrier)), " is not in this block's shared memory");
    if (!blocks) blocks = 1u << current->block->rank;
    if (blocks >> cluster.blocks.size()) return wrong("CLUSTER", site, "a multicast to blocks 0x", std::hex, blocks, " of a cluster of ", std::dec, cluster.blocks.size());
    const uint32_t where = where_is(site);
    for (Block* target : cluster.blocks) {
        if (!(blocks >> target->rank & 1)) continue;
        const Local there = counterpart(bar, *target);
        MBarrier* m = mbarrier_at(there, "loads with", site);
        if (!m) continue;
        if (!m->fenced) wrong("MBARRIER", site, "fence.mbarrier_init is missing behind the mbarrier.init at ", place_name(m->init.where));
        Transfer t{Transfer::load, segments, there.address, target, m->phase, {}};
        const ptrdiff_t moved = from_here(counterpart(to, *target)) - from_here(to);
        for (Segment& s : t.segments) {
            s.shared += moved;
            if (checking()) {
                const Record r = record_of(*target, m->actor, m->phase + 1, where, kWrite);
                access(uintptr_t(s.shared), kUnit, kWrite, where, &r);
                if (s.last) access(uintptr_t(s.global) + size_t(s.first), size_t(s.last - s.first), kRead, where, &r);
            }
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
    Thread& t = *current;
    if (!t.reader) t.reader = new_actors(*t.block, 2), t.writer = uint16_t(t.reader + 1);
    const uint32_t where = where_is(site), group = t.stores_committed + 1;
    const unsigned write = kind == Transfer::store ? kWrite : kWrite | kAtomic;
    const Record reads = record_of(*t.block, t.reader, group, where, kRead), writes = record_of(*t.block, t.writer, group, where, write);
    for (const Segment& s : segments) {
        if (checking()) {
            access(uintptr_t(s.shared), kUnit, kRead, where, &reads);
            if (s.last) access(uintptr_t(s.global) + size_t(s.first), size_t(s.last - s.first), write, where, &writes);
        }
        if (kind == Transfer::store && s.last) std::memset(s.global + s.first, 0xff, size_t(s.last - s.first));
    }
    t.stores.push_back({kind, std::move(segments), 0, nullptr, 0, {}});
    if (order() == Order::seeded && random_bits() % 4 == 0) take(t.stores.back());
}

}

void check(const TensorMap& m) {
    auto refuse = [](const auto&... what) { report("LAUNCH", concat(what...), concat("tensor map: ", what...)); };
    const uint64_t row = m.box[0] * uint64_t(m.element);
    if (m.rank != 2 && m.rank != 3) refuse("2 or 3 dimensions, not ", m.rank);
    else if (m.span != 0 && m.span != 32 && m.span != 64 && m.span != 128) refuse("swizzles span 0, 32, 64 or 128 bytes, not ", m.span);
    else if (uintptr_t(m.base) % 16) refuse("the tensor is not 16-byte aligned");
    else if (m.span && uintptr_t(m.base) % 128) refuse("a swizzled tensor is not 128-byte aligned");
    else if (m.span && row != uint64_t(m.span)) refuse("a box's row is as long as the swizzle, ", m.span, " bytes, not ", row);
    else if (row % 16) refuse("a box's row is a multiple of 16 bytes, not ", row);
    else {
        uint64_t last = (m.size[0] - 1) * uint64_t(m.element);
        for (int i = 0; i < m.rank; i++) {
            if (!m.size[i] || m.size[i] > uint64_t(1) << 32) return refuse("extents are 1 to 2^32, not ", m.size[i]), throw_reports();
            if (!m.box[i] || m.box[i] > 256) return refuse("a box has 1 to 256 elements each way, not ", m.box[i]), throw_reports();
            if (i && (m.stride[i] % 16 || m.stride[i] >= uint64_t(1) << 40)) return refuse("strides are multiples of 16 bytes below 2^40, not ", m.stride[i]), throw_reports();
            if (i) last += (m.size[i] - 1) * m.stride[i];
        }
        const emulated_memory::Block* g = emulated_memory::near(uintptr_t(m.base));
        if (!g || uintptr_t(m.base) < g->begin || uintptr_t(m.base) + last + uint64_t(m.element) > g->end) refuse("the tensor is not in device memory, or runs past its allocation");
    }
    throw_reports();
}

void tma_load(void* shared, const TensorMap* m, uint64_t* mbarrier, BoxAt at, unsigned blocks, Site site) {
    if (!usable(m, at, site)) return;
    const Local to = shared_side(shared, box_bytes(*m), box_alignment(*m), site);
    if (to.block) start_load(to, box_segments(*m, shared_address(shared, site), static_cast<char*>(shared), at), mbarrier, blocks, site);
}
void tma_store(const TensorMap* m, const void* shared, BoxAt at, Site site) {
    if (!usable(m, at, site)) return;
    const Local from = shared_side(shared, box_bytes(*m), box_alignment(*m), site);
    if (from.block) start_store(Transfer::store, box_segments(*m, shared_address(shared, site), static_cast<char*>(const_cast<void*>(shared)), at), site);
}
void bulk_load(void* shared, const void* global, uint32_t bytes, uint64_t* mbarrier, Site site) {
    if (!plain(global, bytes, site)) return;
    const Local to = shared_side(shared, bytes, kUnit, site);
    if (to.block) start_load(to, plain_segments(static_cast<char*>(shared), static_cast<char*>(const_cast<void*>(global)), bytes), mbarrier, 0, site);
}
void bulk_store(void* global, const void* shared, uint32_t bytes, int add, Site site) {
    if (!plain(global, bytes, site)) return;
    const Local from = shared_side(shared, bytes, kUnit, site);
    if (from.block) start_store(add == 4 ? Transfer::add_f32 : add == 2 ? Transfer::add_bf16 : Transfer::store, plain_segments(static_cast<char*>(const_cast<void*>(shared)), static_cast<char*>(global), bytes), site);
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
    arrive_bytes({t.block, t.barrier}, t.phase, int64_t(t.segments.size()) * kUnit);
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
    if (!t.accumulators.empty()) report("WGMMA", "exit", concat(name_of(t), " exits with wgmma under way"));
}

}
