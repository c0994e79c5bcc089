// What several threads do together: warp operations, which the last lane to arrive carries out for all, barriers, clusters.
#include <cstring>
#include "core/dtype.h"
#include "kernels/emu/layout.h"
#include "kernels/emu/machine.h"

namespace merv::emu {
namespace {

struct Lanes {
    Thread* at[32];                             // null: not in the mask
    unsigned mask;
    template <class T> T& of(int lane) const { return *static_cast<T*>(at[lane]->lane); }
    bool has(int lane) const { return lane >= 0 && lane < 32 && mask >> lane & 1; }
};

void shuffle_lanes(const Lanes& lanes, Site site) {
    uint64_t values[32];
    for (int l = 0; l < 32; l++) if (lanes.has(l)) values[l] = lanes.of<Shuffle>(l).value;
    for (int l = 0; l < 32; l++) {
        if (!lanes.has(l)) continue;
        Shuffle& s = lanes.of<Shuffle>(l);
        if (!lanes.has(s.source)) report("WARP", name_of(site), concat("lane ", l, " of ", name_of(*lanes.at[l]), " reads lane ", s.source, ", which is not in the mask, at ", name_of(site)));
        s.value = lanes.has(s.source) ? values[s.source] : ~uint64_t(0);
    }
}
void vote_lanes(const Lanes& lanes) {
    unsigned ballot = 0;
    for (int l = 0; l < 32; l++) if (lanes.has(l) && lanes.of<Vote>(l).predicate) ballot |= 1u << l;
    for (int l = 0; l < 32; l++) if (lanes.has(l)) lanes.of<Vote>(l).ballot = ballot;
}
// mma.sync.m16n8k16
void mma_lanes(const Lanes& lanes) {
    float a[16][16], b[16][8];
    for (int l = 0; l < 32; l++) {
        const Mma& m = lanes.of<Mma>(l);
        for (int v = 0; v < 8; v++) {
            const layout::Element e = layout::fragment(l, v);
            a[e.row][e.column] = float_of(m.a[v / 2], v % 2);
        }
        for (int v = 0; v < 4; v++) {
            const layout::Element e = layout::fragment_b(l, v);
            b[e.row][e.column] = float_of(m.b[v / 2], v % 2);
        }
    }
    for (int l = 0; l < 32; l++)
        for (int i = 0; i < 4; i++) {
            const auto [row, column] = layout::fragment(l, i);
            float sum = 0;
            for (int k = 0; k < 16; k++) sum += a[row][k] * b[k][column];
            lanes.of<Mma>(l).d[i] += sum;
        }
}
// ldmatrix.x1/x2/x4: lanes 8 i .. 8 i + 7 give the rows of matrix i.
void ldmatrix_lanes(const Lanes& lanes, Site site) {
    uint16_t m[32][8];
    const int count = lanes.of<Ldmatrix>(0).count;
    Thread* self = current;
    for (int l = 0; l < 8 * count; l++) {
        const void* row = lanes.of<Ldmatrix>(l).row;
        current = lanes.at[l];
        shared_address(row, site);
        if (uintptr_t(row) % 16) report("ALIGN", name_of(site), concat("a row of ldmatrix is not 16-byte aligned, lane ", l, " of ", name_of(*current), " at ", name_of(site)));
        if (checking()) access(uintptr_t(row), 16, kRead, where_is(site));
        std::memcpy(m[l], row, 16);
    }
    current = self;
    for (int l = 0; l < 32; l++) {
        const Ldmatrix& o = lanes.of<Ldmatrix>(l);
        for (int i = 0; i < count; i++) {
            uint32_t half[2];
            for (int h = 0; h < 2; h++) {
                const auto [source, element] = layout::ldmatrix_source(l, i, h, o.trans);
                half[h] = m[source][element];
            }
            o.r[i] = half[0] | half[1] << 16;
        }
    }
}

unsigned whole_warp(const Block& b, int warp) { return ~0u >> std::max(0, 32 * (warp + 1) - int(b.threads.size())); }

}

const char* name_of(WarpOp op) {
    constexpr const char* names[] = {"__syncwarp", "a shuffle", "a vote", "mma.sync", "ldmatrix"};
    return names[int(op)];
}

int shuffle_source(int source, int width, Site site) {
    if (width < 1 || width > 32 || (width & (width - 1))) wrong("WARP", site, "a shuffle's width is a power of two up to 32, not ", width);
    const int me = int(lane()), first = me & ~(width - 1);
    return source < first || source >= first + width ? me : source;
}

void warp(WarpOp op, unsigned mask, void* lane_data, Site site) {
    Thread& t = *current;
    Block& b = *t.block;
    const int number = t.number / 32, me = t.number % 32;
    WarpState& w = b.warps[number];
    auto refuse = [&](const auto&... what) { wrong("WARP", site, name_of(op), ": ", what...), abandon(); };
    const unsigned whole = whole_warp(b, number);
    if (whole != ~0u && (op == WarpOp::mma || op == WarpOp::ldmatrix)) refuse("it needs 32 lanes, the warp has 0x", std::hex, whole);
    mask &= whole;
    if (!(mask >> me & 1)) return wrong("WARP", site, name_of(op), ": lane ", me, " is not in its own mask 0x", std::hex, mask);
    if (mask & w.done) refuse("the mask 0x", std::hex, mask, " names lanes 0x", mask & w.done, " that have exited");
    t.op = op, t.mask = mask, t.lane = lane_data;

    WarpGroup* group = nullptr;
    for (WarpGroup& g : w.groups) {
        if (!(g.mask & mask)) continue;
        if (g.mask == mask && g.op == op && g.site == site) group = &g;
        else refuse("the warp has diverged: lanes 0x", std::hex, g.in, " wait in ", name_of(g.op), " of lanes 0x", g.mask, " at ", name_of(g.site));
    }
    if (!group) w.groups.push_back({mask, 0, op, site}), group = &w.groups.back();
    group->in |= 1u << me;
    if (group->in != mask) return wait_for(Wait::warp, site);
    w.groups.erase(w.groups.begin() + (group - w.groups.data()));

    Lanes lanes{{}, mask};
    std::vector<Thread*> all;
    for (int l = 0; l < 32; l++)
        if (mask >> l & 1) all.push_back(lanes.at[l] = b.threads[size_t(32 * number + l)]);
    switch (op) {
        case WarpOp::sync: if (checking()) meet(all); break;
        case WarpOp::shuffle: shuffle_lanes(lanes, site); break;        // orders no memory: CUDA promises none
        case WarpOp::vote: vote_lanes(lanes); break;
        case WarpOp::mma: mma_lanes(lanes); break;
        case WarpOp::ldmatrix: ldmatrix_lanes(lanes, site); break;
    }
    if (counting()) count_warp(op, mask, lanes.at, site);
    for (Thread* other : all) if (other != &t) wake(*other);
}

// ---- barriers

static void release(Barrier& bar, Block& b, bool everybody) {
    if (checking()) {
        if (everybody) meet_all(b);
        else meet(bar.in);
    }
    if (counting()) count_barrier(bar.waiting, bar.first);      // others who only arrived have gone on
    for (Thread* t : bar.waiting) if (t != current) wake(*t);
    bar = {};
}
static bool complete(const Barrier& bar, const Block& b) { return !bar.in.empty() && int(bar.in.size()) == (bar.threads == kAll ? b.live : bar.threads); }

void barrier(int id, int threads, bool wait, Site site) {
    Thread& t = *current;
    Block& b = *t.block;
    auto refuse = [&](const auto&... what) { wrong("BARRIER", site, "barrier ", id, ": ", what...), abandon(); };
    if (id < 0 || id > 15) refuse("ids are 0 to 15");
    if (threads != kAll && (threads <= 0 || threads % 32)) refuse("the number of threads is a multiple of 32, not ", threads);
    Barrier& bar = b.barriers[id];
    if (bar.in.empty()) bar.threads = threads, bar.first = site;
    else if (bar.threads != threads) refuse("threads wait there for another number of threads, since ", name_of(bar.first));
    else if (threads == kAll && bar.first != site) refuse("the block has diverged: ", name_of(*bar.in[0]), " waits at ", name_of(bar.first));
    bar.in.push_back(&t);
    if (wait) bar.waiting.push_back(&t);
    if (!complete(bar, b)) {
        if (wait) wait_for(Wait::barrier, site);
        return;
    }
    if (threads != kAll) {                      // a warp arrives as a whole
        unsigned in[32] = {};
        for (Thread* other : bar.in) in[other->number / 32] |= 1u << other->number % 32;
        for (int w = 0; w < 32; w++) if (in[w] && (in[w] | b.warps[w].done) != whole_warp(b, w)) wrong("BARRIER", site, "barrier ", id, ": only lanes 0x", std::hex, in[w], " of warp ", std::dec, w, " came");
    }
    release(bar, b, threads == kAll);
}

void leave_collectives(Thread& t) {
    const unsigned lane = 1u << t.number % 32;
    WarpState& w = t.block->warps[t.number / 32];
    w.done |= lane;
    for (const WarpGroup& g : w.groups)
        if (g.mask & lane) report("WARP", name_of(g.site), concat(name_of(t), " exits, but lanes 0x", std::hex, g.in, " wait for it in ", name_of(g.op), " at ", name_of(g.site)));
    Barrier& bar = t.block->barriers[0];
    if (bar.threads == kAll && complete(bar, *t.block)) release(bar, *t.block, true);
}

// ---- clusters: blocks that are resident together, with a barrier of their own and sight of each other's shared memory

static void complete(Cluster& c) {
    if (!c.arrived || c.arrived < c.live) return;
    c.arrived = 0;
    c.phase++;
    c.heard = c.offered;
    for (Block* b : c.blocks)
        for (Thread* t : b->threads)
            if (!t->done && t->wait == Wait::cluster) wake(*t);
}

unsigned cluster_rank() { return current->block->rank; }
unsigned cluster_size() { return unsigned(current->block->cluster->blocks.size()); }

void cluster_arrive(Site site) {
    Thread& t = *current;
    Cluster& c = *t.block->cluster;
    if (t.at_cluster_barrier) return wrong("CLUSTER", site, "a second arrival at the cluster's barrier without a wait");
    t.at_cluster_barrier = true;
    t.cluster_phase = c.phase;
    if (checking()) offer_clocks(c.offered);
    c.arrived++;
    complete(c);
}
void cluster_wait(Site site) {
    Thread& t = *current;
    Cluster& c = *t.block->cluster;
    if (!t.at_cluster_barrier) return wrong("CLUSTER", site, "a wait at the cluster's barrier without an arrival");
    while (c.phase == t.cluster_phase) wait_for(Wait::cluster, site);
    t.at_cluster_barrier = false;
    if (checking()) hear_clocks(c.heard);
}
void leave_cluster(Thread& t) {
    Cluster& c = *t.block->cluster;
    c.live--;
    if (t.at_cluster_barrier && t.cluster_phase == c.phase) c.arrived--;
    complete(c);
}

void* cluster_map(const void* shared, unsigned rank, Site site) {
    const Local at = local_of(shared);
    const auto& blocks = current->block->cluster->blocks;
    if (at.block != current->block) wrong("CLUSTER", site, "a map of ", describe(uintptr_t(shared)), ", which is not the block's own shared memory");
    else if (rank >= blocks.size()) wrong("CLUSTER", site, "a map of shared memory to block ", rank, " of a cluster of ", blocks.size());
    else return from_here({blocks[rank], at.address});
    abandon();
    return nullptr;
}

}
