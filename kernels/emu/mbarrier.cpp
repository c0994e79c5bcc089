// mbarrier: a phase is complete when all arrivals and all expected bytes have come. Its state is kept here; the eight bytes in shared
// memory hold a mark, so that stores over it show.
#include <cstring>
#include "kernels/emu/machine.h"

namespace merv::emu {
namespace {

constexpr uint64_t kMark = 0xffffb0a7b0a7b0a7;
constexpr int64_t kMost = (1 << 20) - 1;        // arrivals, or bytes of one expect_tx

bool intact(const Local& at) { return std::memcmp(from_here(at), &kMark, sizeof kMark) == 0; }

Local addressed(const void* p, Site site) {
    const Local at = local_of(p);
    if (!at.block) wrong("MBARRIER", site, "an mbarrier in ", describe(uintptr_t(p)), " is not in shared memory");
    else if (at.address % 8) wrong("ALIGN", site, "the address of an mbarrier is no multiple of 8");
    else return at;
    return {};
}

// Wakes who waits, once nothing is missing.
void complete(const Local& at, MBarrier& m, Site site) {
    if (m.pending || m.bytes) return;
    if (m.loads) wrong("MBARRIER", site, "a phase of an mbarrier is complete while ", m.loads, " loads that belong to it are under way: fewer bytes were expected");
    m.phase++;
    m.pending = m.count;
    m.loads = 0;
    m.completed = m.arrived;
    for (Thread* t : at.block->threads)
        if (!t->done && t->wait == Wait::mbarrier && t->mbarrier == at.address) wake(*t);
}

}

MBarrier* mbarrier_at(const Local& at, const char* what, Site site) {
    if (!at.block) return nullptr;
    const auto it = at.block->mbarriers.find(at.address);
    if (it == at.block->mbarriers.end()) {
        wrong("MBARRIER", site, what, " an mbarrier in ", describe(uintptr_t(from_here(at))), ", where none was initialised");
        return nullptr;
    }
    if (at.block->live == 0) wrong("CLUSTER", site, what, " an mbarrier of a block that has exited");
    if (!intact(at)) wrong("MBARRIER", site, what, " an mbarrier that other stores have overwritten");
    if (checking() && !before_now(it->second.init))
        wrong("RACE", site, "mbarrier.init at ", place_name(it->second.init.where), " is not ordered before who ", what, " it");
    return &it->second;
}

void mbarrier_init(uint64_t* p, int64_t count, Site site) {
    const Local at = addressed(p, site);
    if (!at.block) return;
    if (at.block != current->block) return wrong("MBARRIER", site, "an mbarrier belongs to another block, which has to initialise it");
    if (count < 1 || count > kMost) return wrong("MBARRIER", site, "an mbarrier waits for 1 to 2^20 - 1 arrivals, not ", count);
    if (at.block->mbarriers.count(at.address)) return wrong("MBARRIER", site, "an mbarrier is initialised again without mbarrier.inval");
    MBarrier& m = at.block->mbarriers[at.address];
    m.count = m.pending = uint32_t(count);
    m.actor = new_actors(*at.block, 1);
    if (checking()) access(uintptr_t(p), sizeof *p, kWrite, where_is(site));
    m.init = record(kWrite, where_is(site));
    std::memcpy(p, &kMark, sizeof kMark);
}

void mbarrier_inval(uint64_t* p, Site site) {
    const Local at = addressed(p, site);
    const MBarrier* m = mbarrier_at(at, "invalidates", site);
    if (!m) return;
    if (m->bytes || m->loads) wrong("MBARRIER", site, "an mbarrier is invalidated while loads are under way");
    if (checking()) access(uintptr_t(p), sizeof *p, kWrite, where_is(site));
    at.block->mbarriers.erase(at.address);
    std::memset(p, 0xff, sizeof kMark);
}

void mbarrier_arrive(uint64_t* p, int64_t bytes, bool arrives, Site site) {
    const Local at = addressed(p, site);
    MBarrier* m = mbarrier_at(at, "arrives at", site);
    if (!m) return;
    if (at.block != current->block && !m->fenced) wrong("MBARRIER", site, "another block's mbarrier: fence.mbarrier_init is missing behind its mbarrier.init");
    if (bytes < -kMost || bytes > kMost) return wrong("MBARRIER", site, "an mbarrier expects up to 2^20 - 1 bytes at a time, not ", bytes);
    m->bytes += bytes;
    if (!arrives) return;
    if (checking()) offer_clocks(m->arrived);
    if (!m->pending) return wrong("MBARRIER", site, "more arrivals at an mbarrier than the ", m->count, " it was initialised for");
    m->pending--;
    complete(at, *m, site);
}

void arrive_bytes(const Local& at, uint32_t phase, int64_t bytes) {
    const auto it = at.block->mbarriers.find(at.address);
    if (it == at.block->mbarriers.end() || it->second.phase != phase) return;       // reported when its phase ended
    it->second.bytes -= bytes;
    it->second.loads--;
    complete(at, it->second, launched->site);
}

// Parity p names the phase before the current one, which is complete, or the current one.
bool mbarrier_test(uint64_t* p, uint32_t parity, Site site) {
    const Local at = addressed(p, site);
    MBarrier* m = mbarrier_at(at, "waits for", site);
    if (!m) abandon();
    if (at.block != current->block) wrong("MBARRIER", site, "an mbarrier is another block's, which only that block can wait for");
    if (parity > 1) wrong("MBARRIER", site, "a parity is 0 or 1, not ", parity);
    if (checking()) {
        const uint32_t known = heard_of(*current, m->actor), end = known % 2 == (parity & 1) ? known + 1 : known;      // of the phase meant
        if (m->phase > end) wrong("MBARRIER", site, "an mbarrier has gone on by ", m->phase - end, " phases since the one meant here; a parity tells only two apart");
    }
    if (m->phase % 2 == (parity & 1)) return false;
    m->seen = m->phase;
    if (checking()) {
        if (m->phase) hear_clocks(m->completed);
        hear(*current, m->actor, m->phase);
    }
    return true;
}
void mbarrier_wait(uint64_t* p, uint32_t parity, Site site) {
    while (!mbarrier_test(p, parity, site)) {
        current->mbarrier = local_of(p).address, current->parity = parity;
        wait_for(Wait::mbarrier, site);
    }
}

std::string describe_mbarrier(const Thread& t) {
    const auto it = t.block->mbarriers.find(t.mbarrier);
    if (it == t.block->mbarriers.end()) return "an mbarrier that is gone";
    return concat("parity ", t.parity, " of an mbarrier, whose phase ", it->second.phase, " misses ", it->second.pending, " arrivals and ", it->second.bytes, " bytes,");
}

void fence_mbarriers() {
    for (auto& [address, m] : current->block->mbarriers) if (m.init.thread == current->number) m.fenced = true;
}
void fence_async() {
    if (checking()) fence_proxy(*current);
    fence_mbarriers();
}

void finish_mbarriers(Block& b) {
    for (const auto& [address, m] : b.mbarriers) {
        if (m.loaded > m.seen) report("ASYNC", "load", concat("the block exits without having waited for its loads, whose shared memory may then be another block's, ", name_of(*current)));
        else if (m.bytes) report("MBARRIER", "bytes", concat("the block exits while an mbarrier misses ", m.bytes, " bytes, ", name_of(*current)));
        if (!intact({&b, address})) report("MBARRIER", "overwritten", concat("an mbarrier was overwritten by other stores, ", name_of(*current)));
    }
}

}
