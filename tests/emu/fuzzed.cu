// Random kernels of nested ifs, ragged loops, break and continue, none of which ever brings the warp together. Each is a template
// that is written twice: as the lanes' code, and as one warp's with masks, where lanes meet again at the end of each statement.
// The latter is what the regrouping of counted mode must arrive at.
#ifdef MERV_EMU_COUNTED
#include <bit>
#include "kernels/gpu.h"
#include "tests/emu/counted.h"
#include "tests/emu/programs.h"

namespace merv::test::MERV_GPU {
namespace {

constexpr int kSites = 64, kKernels = 40;

constexpr unsigned random(unsigned seed, unsigned n) {
    unsigned x = seed * 2654435761u + n * 40503u + 1;
    for (int i = 0; i < 3; i++) x = (x ^ x >> 15) * 2246822519u;
    return x ^ x >> 13;
}
MERV_DEVICE bool holds(unsigned lane, unsigned round, unsigned seed) { return ((lane * 2654435761u + round * 40503u + seed * 97u) >> 13) % 7 < 1 + seed % 6; }
MERV_DEVICE int trips(int lane, unsigned seed) { return int((unsigned(lane) * 7 + seed * 13) % 5 * (1 + seed % 5) / 4); }

struct Lane {
    const volatile float* x;                    // volatile: equal loads are not merged
    int number;
    unsigned round = 0;
    float sum = 0;
};
struct Warp {
    unsigned round[32] = {}, loads[32] = {};
    uint64_t requests = 0, lanes = 0;
    unsigned where(unsigned mask, unsigned seed) const {
        unsigned yes = 0;
        for (unsigned l = 0; l < 32; l++) if (mask >> l & 1 && holds(l, round[l], seed)) yes |= 1u << l;
        return yes;
    }
};

template <unsigned seed, int depth> struct Block;

template <unsigned seed> struct Load {
    MERV_DEVICE static void run(Lane& l) { l.sum += l.x[seed % kSites * 256 + (l.round & 7) * 32 + unsigned(l.number)]; }
    static void run(Warp& w, unsigned mask) {
        if (!mask) return;
        w.requests++, w.lanes += unsigned(std::popcount(mask));
        for (int l = 0; l < 32; l++) w.loads[l] += mask >> l & 1;
    }
};
template <unsigned seed, int depth> struct If {
    static constexpr bool has_else = random(seed, 1) % 5 < 3;
    using Then = Block<random(seed, 2), depth - 1>;
    using Else = Block<random(seed, 3), depth - 1>;
    MERV_DEVICE static void run(Lane& l) {
        if (holds(unsigned(l.number), l.round, seed)) Then::run(l);
        else if constexpr (has_else) Else::run(l);
    }
    static void run(Warp& w, unsigned mask) {
        const unsigned yes = w.where(mask, seed);
        Then::run(w, yes);
        if constexpr (has_else) Else::run(w, mask & ~yes);
    }
};
template <unsigned seed, int depth> struct Loop {
    static constexpr bool breaks = random(seed, 4) % 2, continues = random(seed, 5) % 2, tested_late = random(seed, 6) % 2;
    using A = Block<random(seed, 7), depth - 1>;
    using B = Block<random(seed, 8), depth - 1>;
    using C = Load<random(seed, 9)>;
    MERV_DEVICE static void run(Lane& l) {
        for (int j = 0; j < trips(l.number, seed); j++) {
            l.round++;
            if constexpr (!tested_late) A::run(l);
            if constexpr (breaks) if (holds(unsigned(l.number), l.round, seed + 1)) break;
            if constexpr (tested_late) A::run(l);
            if constexpr (continues)
                if (holds(unsigned(l.number), l.round, seed + 2)) {
                    if constexpr (tested_late) C::run(l);
                    continue;
                }
            B::run(l);
        }
    }
    static void run(Warp& w, unsigned mask) {
        for (int j = 0; mask; j++) {
            for (int l = 0; l < 32; l++) {
                if (j >= trips(l, seed)) mask &= ~(1u << l);
                w.round[l] += mask >> l & 1;
            }
            if constexpr (!tested_late) A::run(w, mask);
            if constexpr (breaks) mask &= ~w.where(mask, seed + 1);
            if constexpr (tested_late) A::run(w, mask);
            unsigned rest = mask;
            if constexpr (continues) {
                const unsigned out = w.where(mask, seed + 2);
                if constexpr (tested_late) C::run(w, out);
                rest &= ~out;
            }
            B::run(w, rest);
        }
    }
};
template <unsigned seed, int depth> struct Statement {
    static constexpr unsigned kind = depth == 0 ? 0 : random(seed, 10) % 100;
    using Chosen = std::conditional_t<(kind < 30), Load<seed>, std::conditional_t<(kind < 62), If<seed, depth>, Loop<seed, depth>>>;
};
template <unsigned seed, int depth> struct Block {
    static constexpr unsigned count = 1 + random(seed, 11) % 3;
    using First = typename Statement<random(seed, 12), depth>::Chosen;
    using Second = typename Statement<random(seed, 13), depth>::Chosen;
    using Third = typename Statement<random(seed, 14), depth>::Chosen;
    MERV_DEVICE static void run(Lane& l) {
        First::run(l);
        if constexpr (count > 1) Second::run(l);
        if constexpr (count > 2) Third::run(l);
    }
    static void run(Warp& w, unsigned mask) {
        First::run(w, mask);
        if constexpr (count > 1) Second::run(w, mask);
        if constexpr (count > 2) Third::run(w, mask);
    }
};

template <unsigned seed> __global__ void fuzzed(float* y, const float* x) {
    Lane l{x, int(threadIdx.x)};
    Block<seed, 3>::run(l);
    Load<seed>::run(l);
    y[threadIdx.x] = l.sum;
}
template <unsigned seed> Fuzzed run_fuzzed() {
    const Buffer<float> x(kSites * 256, [](size_t) { return 1.0f; }), y(32);
    emu::Count counted;
    kernels::launch(kernels::Work{"fuzzed"}, kernels::Grid{{1}, {32}}, fuzzed<seed>, y.get(), x.get());
    Warp w;
    Block<seed, 3>::run(w, ~0u);
    Load<seed>::run(w, ~0u);
    const emu::Traffic &loads = counted.launches.at(0)[emu::Counted::global_load], &stores = counted.launches.at(0)[emu::Counted::global_store];
    bool right = stores.requests == 1 && stores.lanes == 32;
    for (size_t i = 0; i < 32; i++) right &= y[i] == float(w.loads[i]);
    return {int(seed), loads.requests, w.requests, loads.lanes, w.lanes, right};
}
template <unsigned... seeds> std::vector<Fuzzed> run_all(std::integer_sequence<unsigned, seeds...>) { return {run_fuzzed<seeds + 1>()...}; }

}

std::vector<Fuzzed> fuzzed_kernels() { return run_all(std::make_integer_sequence<unsigned, kKernels>()); }

}
#endif
