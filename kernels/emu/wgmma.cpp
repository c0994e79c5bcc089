// wgmma: four warps issue it one by one; it is computed when it is waited for, from what shared memory holds then. Meanwhile the
// accumulators are NaN. Also setmaxnreg, the other instruction of a whole warpgroup.
#include <cstring>
#include <set>
#include "kernels/emu/layout.h"
#include "kernels/emu/machine.h"

namespace merv::emu {
namespace {

constexpr int kThreads = 128, kRows = 64, kDepth = 16;
constexpr uint32_t kInFlight = 0x7fbadbad;      // a NaN that no instruction makes

// An operand in shared memory: `extent` rows of A or columns of B.
struct Operand {
    const char* name;
    uint64_t bits;
    int extent;
    bool mn_major;
    uint32_t address(int mn, int k) const { return layout::operand(layout::decode(bits), mn, k, mn_major); }
    // The 16-byte units it is made of, between rows [from, to): f(shared address)
    template <class F> void each_unit(int from, int to, F&& f) const {
        for (int mn = from; mn < to; mn += mn_major ? 8 : 1)
            for (int k = 0; k < kDepth; k += mn_major ? 1 : 8) f(address(mn, k));
    }
};
std::vector<Operand> operands(const Wgmma& w) {
    std::vector<Operand> all{{"B", w.b_matrix, w.n, w.trans_b}};
    if (!w.a) all.push_back({"A", w.a_matrix, kRows, w.trans_a});
    return all;
}

// What CuTe never encodes, and the PTX ISA does not define
bool sound(const Operand& o, Site site) {
    const layout::Descriptor d = layout::decode(o.bits);
    auto refuse = [&](const auto&... what) { wrong("WGMMA", site, "wgmma: the descriptor of ", o.name, ": ", what...); return false; };
    if (o.bits & layout::kUnassigned) return refuse("bits that must be zero are set: 0x", std::hex, o.bits & layout::kUnassigned);
    const uint32_t span = uint32_t(d.span), into = span ? d.start % (8 * span) : 0;
    if (into && o.mn_major) return refuse("it starts ", into, " bytes into the swizzle's pattern");
    if (into && (into >= span || into % 32)) return refuse("it starts ", into, " bytes into the swizzle's pattern, not at a multiple of 32 in its first row");
    bool inside = true;
    std::set<uint32_t> units;
    size_t count = 0;
    o.each_unit(0, o.extent, [&](uint32_t address) {
        const Place p = place_of(uintptr_t(shared_pointer(address)));
        inside &= p.owner && uintptr_t(shared_pointer(address)) >= p.begin && uintptr_t(shared_pointer(address)) + 16 <= p.end;
        units.insert(address);
        count++;
    });
    if (!inside) { wrong("ACCESS", site, "wgmma: the descriptor of ", o.name, " reaches outside shared memory"); return false; }
    if (units.size() < count) return refuse("two elements of the matrix lie at one address");
    return true;
}

// In checked mode each warp reads its rows of A and all of B, when it issues the instruction.
void read_operands(const Product& p, const Warpgroup& g, uint32_t number, int warp) {
    const uint32_t where = where_is(p.site);
    Record r = record_of(*current->block, g.actor, number, where, kRead);
    r.four = 1;
    for (const Operand& o : operands(p.what)) {
        const bool is_a = o.name[0] == 'A';
        o.each_unit(is_a ? 16 * warp : 0, is_a ? 16 * warp + 16 : o.extent, [&](uint32_t address) { access(uintptr_t(shared_pointer(address)), 16, kRead, where, &r); });
    }
}

float element(const Operand& o, int mn, int k) {
    uint16_t bits;
    std::memcpy(&bits, shared_pointer(o.address(mn, k)), 2);
    return std::bit_cast<float>(uint32_t(bits) << 16);
}
void compute(Block& b, int group) {
    Warpgroup& g = b.warpgroups[group];
    const Product& p = g.products.front();
    const int n = p.what.n;
    std::vector<float> a(kRows * kDepth), bt(size_t(n) * kDepth);
    for (const Operand& o : operands(p.what))
        for (int mn = 0; mn < o.extent; mn++)
            for (int k = 0; k < kDepth; k++) (o.name[0] == 'A' ? a : bt)[size_t(mn * kDepth + k)] = p.sound ? element(o, mn, k) : NAN;
    for (int t = 0; p.what.a && t < kThreads; t++)
        for (int v = 0; v < 8; v++) {
            const layout::Element e = layout::fragment(t, v);
            a[size_t(e.row * kDepth + e.column)] = float_of(p.a[t][v / 2], v % 2);
        }
    for (int t = 0; t < kThreads; t++)
        for (InFlight& acc : b.threads[size_t(kThreads * group + t)]->in_flight) {
            if (acc.at != p.d[t]) continue;
            for (int v = 0; v < n / 2; v++) {
                const layout::Element e = layout::fragment(t, v);
                float sum = 0;
                for (int k = 0; k < kDepth; k++) sum += a[size_t(e.row * kDepth + k)] * bt[size_t(e.column * kDepth + k)];
                acc.sums[size_t(v)] = p.what.accumulate ? acc.sums[size_t(v)] + sum : sum;
            }
        }
    g.products.pop_front();
    g.done++;
}
bool ready(const Warpgroup& g) { return !g.products.empty() && g.products.front().threads == kThreads; }

bool overlap(uintptr_t begin, uintptr_t end, const void* p, size_t bytes) { return begin < uintptr_t(p) + bytes && uintptr_t(p) < end; }

}

uint32_t matrix_address(const void* p, uint32_t leading, uint32_t stride, Site site) {
    const uint32_t address = shared_address(p, site);
    if (address % 16 || leading % 16 || stride % 16) wrong("ALIGN", site, "a matrix descriptor holds multiples of 16 bytes");
    if (address >> 18 || leading >> 18 || stride >> 18) wrong("WGMMA", site, "a matrix descriptor holds 18-bit addresses and distances");
    return address;
}

void wgmma_fence(Site) {
    current->registers_fenced = true;
    current->touched.clear();
}

void wgmma(const Wgmma& w, Site site) {
    Thread& t = *current;
    Block& b = *t.block;
    const int group = t.number / kThreads, me = t.number % kThreads;
    Warpgroup& g = b.warpgroups[group];
    if (w.n % 8 || w.n < 8 || w.n > 256) { wrong("WGMMA", site, "wgmma: n is a multiple of 8 up to 256, not ", w.n); abandon(); }
    const size_t registers = size_t(w.n) / 2 * sizeof(float);
    if (!t.registers_fenced) wrong("WGMMA", site, "wgmma: wgmma.fence is missing before the first of a group");
    for (const Touched& x : t.touched)
        if (overlap(x.begin, x.end, w.d, registers) || (w.a && overlap(x.begin, x.end, w.a, 16))) wrong("WGMMA", site, "wgmma: its registers were touched after wgmma.fence");

    const uint32_t number = ++t.products;
    while (g.done + g.products.size() < number) {
        g.products.push_back({w, site});
        for (const Operand& o : operands(w)) g.products.back().sound &= sound(o, site);
    }
    Product& p = g.products[number - g.done - 1];
    if (p.site != site) wrong("WGMMA", site, "wgmma: others of the warpgroup are at ", name_of(p.site));
    else if (p.what.n != w.n || p.what.a_matrix != w.a_matrix || p.what.b_matrix != w.b_matrix || p.what.accumulate != w.accumulate) wrong("WGMMA", site, "wgmma: descriptors, n or scale-d differ within the warpgroup");
    if (p.what.n != w.n) abandon();
    p.threads++;
    p.d[me] = w.d;
    if (w.a) std::memcpy(p.a[me], w.a, sizeof p.a[me]);
    if (checking() && p.sound && !(p.warps >> me / 32 & 1)) {
        if (!g.actor) g.actor = new_actors(b, 4);
        read_operands(p, g, number, me / 32);
    }
    p.warps |= 1u << me / 32;

    auto same = std::find_if(t.in_flight.begin(), t.in_flight.end(), [&](const InFlight& f) { return f.at == w.d; });
    if (same == t.in_flight.end()) {
        t.in_flight.push_back({w.d, number, std::vector<uint32_t>(size_t(w.n) / 2, kInFlight), {w.d, w.d + w.n / 2}});
        std::memcpy(w.d, t.in_flight.back().held.data(), registers);
    } else if (same->sums.size() != size_t(w.n) / 2) wrong("WGMMA", site, "wgmma: an accumulator under way is used with another n");
    else same->last = number;
    if (w.a) t.in_flight.push_back({w.a, number, {w.a, w.a + 4}, {}});
    if (p.threads < kThreads) return;
    if (order() == Order::seeded && random_bits() % 4 == 0) while (ready(g)) compute(b, group);
    for (int i = 0; i < kThreads; i++)
        if (Thread& other = *b.threads[size_t(kThreads * group + i)]; other.wait == Wait::wgmma) wake(other);
}

void wgmma_commit(Site) { current->product_groups.push_back(current->products); }

void wgmma_wait(int pending, Site site) {
    Thread& t = *current;
    const int group = t.number / kThreads;
    Warpgroup& g = t.block->warpgroups[group];
    const auto& groups = t.product_groups;
    if (t.products > (groups.empty() ? 0 : groups.back())) wrong("WGMMA", site, "wgmma: waits for groups while some wgmma belong to none: wgmma.commit_group is missing");
    const uint32_t up_to = groups.size() > size_t(pending) ? groups[groups.size() - 1 - size_t(pending)] : 0;
    while (g.done < up_to) {
        if (ready(g)) compute(*t.block, group);
        else wait_for(Wait::wgmma, site);
    }
    for (const InFlight& f : t.in_flight) {
        if (f.last > up_to) continue;
        if (std::memcmp(f.at, f.held.data(), f.held.size() * 4)) wrong("WGMMA", site, "wgmma: registers of ", f.sums.empty() ? "A" : "an accumulator", " were changed while it was under way");
        if (!f.sums.empty()) std::memcpy(const_cast<void*>(f.at), f.sums.data(), f.sums.size() * sizeof(float));
    }
    std::erase_if(t.in_flight, [&](const InFlight& f) { return f.last <= up_to; });
    t.registers_fenced = false;
    t.touched.clear();
    if (checking() && g.actor) hear(t, size_t(g.actor + t.number % kThreads / 32), up_to);
}

void saw_registers(uintptr_t address, size_t bytes, const void* instruction) {
    Thread& t = *current;
    bool in_flight = false;
    for (const InFlight& f : t.in_flight) in_flight |= overlap(address, address + bytes, f.at, f.held.size() * 4);
    if (in_flight) {
        const std::string where = place_name(where_is(instruction));
        report("WGMMA", where, concat(name_of(t), " touches registers of a wgmma under way, at ", where));
    } else if (t.registers_fenced && (t.touched.empty() || t.touched.back().begin != address)) t.touched.push_back({address, address + bytes});
}

void finish_products(Block& b) {
    for (const Warpgroup& g : b.warpgroups)
        for (const Product& p : g.products)
            if (p.threads < kThreads)
                report("WGMMA", name_of(p.site), concat("wgmma at ", name_of(p.site), " was issued by ", p.threads, " threads of a warpgroup, which is 128 threads from a multiple of 128 on: warps 0x", std::hex, p.warps, " of its four"));
}

// ---- setmaxnreg

void limit_registers(int count, Site site) {
    if (count < 24 || count > 256 || count % 8) return wrong("WGMMA", site, "setmaxnreg takes a multiple of 8 from 24 to 256, not ", count);
    current->register_limits.emplace_back(count, site);
}
void finish_registers(Block& b) {
    const size_t n = b.threads.size();
    constexpr int kRegisters = 65536;           // of a multiprocessor
    int sum = 0;
    bool used = false;
    for (size_t first = 0; first < n; first += kThreads) {
        const auto& limits = b.threads[first]->register_limits;
        for (size_t i = first; i < std::min(n, first + kThreads); i++) {
            const auto& other = b.threads[i]->register_limits;
            if (std::equal(limits.begin(), limits.end(), other.begin(), other.end())) continue;
            const Site site = limits.empty() ? other[0].second : limits[0].second;
            report("WGMMA", name_of(site), concat("setmaxnreg at ", name_of(site), " was not executed by all of the warpgroup, ", name_of(*b.threads[i])));
            break;
        }
        used |= !limits.empty();
        sum += kThreads * (limits.empty() ? kRegisters / int(n) / 8 * 8 : limits.back().first);
    }
    if (used && sum > kRegisters) report("WGMMA", "registers", concat("setmaxnreg gives a block ", sum, " registers, there are ", kRegisters, ": it would wait for ever"));
}

}
