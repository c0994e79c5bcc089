// What several threads do together: warp operations, which the last lane to arrive carries out for all, and barriers.
#include <bit>
#include <cstring>
#include "core/check.h"
#include "core/dtype.h"
#include "kernels/emu/layout.h"
#include "kernels/emu/machine.h"

namespace merv::emu {
namespace {

constexpr const char* kNames[] = {"__syncwarp", "shuffle", "vote", "mma.sync", "ldmatrix"};

float float_of(uint32_t pair, int half) { return std::bit_cast<float>(half ? pair & 0xffff0000 : pair << 16); }

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

int lanes_of_warp(const Block& b, int warp) { return std::min(32, int(b.threads.size()) - 32 * warp); }
unsigned whole_warp(const Block& b, int warp) { return ~0u >> (32 - lanes_of_warp(b, warp)); }

bool needs_whole_warp(WarpOp op) { return op == WarpOp::mma || op == WarpOp::ldmatrix; }

}

void check_width(int width, Site site) {
    if (width < 1 || width > 32 || (width & (width - 1))) report("WARP", name_of(site), concat("a shuffle's width is a power of two up to 32, not ", width, ", at ", name_of(site)));
}

void warp(WarpOp op, unsigned mask, void* lane_data, Site site) {
    Thread& t = *current;
    Block& b = *t.block;
    const int number = t.number / 32, me = t.number % 32;
    WarpState& w = b.warps[number];
    const char* name = kNames[int(op)];
    auto wrong = [&](const auto&... what) { report("WARP", name_of(site), concat(name, " at ", name_of(site), ": ", what..., ", ", name_of(t))); };
    if (lanes_of_warp(b, number) < 32) {
        if (needs_whole_warp(op)) { wrong("needs 32 lanes, the warp has ", lanes_of_warp(b, number)); abandon(); }
        mask &= whole_warp(b, number);
    }
    if (!(mask >> me & 1)) return wrong("lane ", me, " is not in its own mask 0x", std::hex, mask);
    if (mask & w.done) { wrong("the mask 0x", std::hex, mask, " names lanes 0x", mask & w.done, " that have exited"); abandon(); }
    t.op = op, t.mask = mask, t.lane = lane_data;

    WarpGroup* group = nullptr;
    for (WarpGroup& g : w.groups) {
        if (!(g.mask & mask)) continue;
        if (g.mask == mask && g.op == op && g.site.line == site.line && g.site.file == site.file) group = &g;
        else {
            wrong("the warp has diverged: lanes 0x", std::hex, g.in, " wait in ", kNames[int(g.op)], " of lanes 0x", g.mask, " at ", name_of(g.site));
            abandon();
        }
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
    for (Thread* other : all) if (other != &t) wake(*other);
}

// ---- barriers

namespace {

void release(Barrier& bar, Block& b, bool everybody) {
    if (checking()) {
        if (everybody) meet_all(b);
        else meet(bar.in);
    }
    for (Thread* t : bar.waiting) wake(*t);
    bar = {};
}
bool complete(const Barrier& bar, const Block& b) { return !bar.in.empty() && int(bar.in.size()) == (bar.threads == kAll ? b.live : bar.threads); }

}

void barrier(int id, int threads, bool wait, Site site) {
    Thread& t = *current;
    Block& b = *t.block;
    auto wrong = [&](const auto&... what) { report("BARRIER", name_of(site), concat("barrier ", id, " at ", name_of(site), ": ", what..., ", ", name_of(t))); };
    if (id < 0 || id > 15) { wrong("ids are 0 to 15"); abandon(); }
    if (threads != kAll && (threads <= 0 || threads % 32)) { wrong("the number of threads is a multiple of 32, not ", threads); abandon(); }
    Barrier& bar = b.barriers[id];
    if (bar.in.empty()) bar.threads = threads, bar.first = site;
    else if (bar.threads != threads) { wrong("threads wait there for another number of threads, since ", name_of(bar.first)); abandon(); }
    else if (threads == kAll && (bar.first.line != site.line || bar.first.file != site.file)) {
        wrong("the block has diverged: ", name_of(*bar.in[0]), " waits at ", name_of(bar.first));
        abandon();
    }
    bar.in.push_back(&t);
    if (!complete(bar, b)) {
        if (!wait) return;
        bar.waiting.push_back(&t);
        return wait_for(Wait::barrier, site);
    }
    if (threads != kAll) {                      // a warp arrives as a whole
        unsigned in[32] = {};
        for (Thread* other : bar.in) in[other->number / 32] |= 1u << other->number % 32;
        for (int w = 0; w < 32; w++) if (in[w] && (in[w] | b.warps[w].done) != whole_warp(b, w)) wrong("only lanes 0x", std::hex, in[w], " of warp ", std::dec, w, " came");
    }
    release(bar, b, threads == kAll);
}

void leave_collectives(Thread& t) {
    const unsigned lane = 1u << t.number % 32;
    WarpState& w = t.block->warps[t.number / 32];
    w.done |= lane;
    for (const WarpGroup& g : w.groups)
        if (g.mask & lane) report("WARP", name_of(g.site), concat(name_of(t), " exits, but lanes 0x", std::hex, g.in, " wait for it in ", kNames[int(g.op)], " at ", name_of(g.site)));
    Barrier& bar = t.block->barriers[0];
    if (bar.threads == kAll && complete(bar, *t.block)) release(bar, *t.block, true);
}

}
