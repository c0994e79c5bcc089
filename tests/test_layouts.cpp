// The emulator's idea of where elements lie, against the layouts of CuTe; and that the comparison notices mistakes.
#include "core/json.h"
#include "kernels/emu/layout.h"
#include "tests/emu/layout_mutants.h"
#include "tests/test.h"

using namespace merv;
using namespace merv::test;
namespace layout = merv::emu::layout;

namespace {

int number(const Json& j) { return j.get<int>(); }
struct Count { long compared = 0, wrong = 0; };

// Byte offset of (mn, k) in a tile, by CuTe: shape and stride, each mode split into two, then the swizzle.
struct Tile {
    int shape[2][2], stride[2][2], swizzle_bits;
    explicit Tile(const Json& j) : swizzle_bits(j["swizzle_bms_bytes"][0].get<int>()) {
        for (size_t m = 0; m < 2; m++)
            for (size_t i = 0; i < 2; i++) shape[m][i] = j["shape"][m][i].get<int>(), stride[m][i] = j["stride_elems"][m][i].get<int>();
    }
    uint32_t offset(int mn, int k) const {
        const int at[2] = {mn, k};
        int elements = 0;
        for (int m = 0; m < 2; m++) elements += at[m] % shape[m][0] * stride[m][0] + at[m] / shape[m][0] * stride[m][1];
        const uint32_t byte = uint32_t(elements) * 2;
        return byte ^ (byte >> 7 & ((1u << swizzle_bits) - 1)) << 4;
    }
};

template <class L> Count compare(const Json& all) {
    Count c;
    auto same = [&](auto a, auto b) { c.compared++, c.wrong += a != b; };

    auto fragments = [&](const Json& map, auto&& f) {       // f(thread, value): linear index
        for (size_t t = 0; t < map["thr"].size(); t++)
            for (size_t v = 0; v < map["val"].size(); v++) same(f(int(t), int(v)), number(map["thr"][t]) + number(map["val"][v]));
    };
    auto columns_of = [](int rows) { return [rows](int t, int v) { const auto e = L::fragment(t, v); return e.row + rows * e.column; }; };
    const Json &mma = all["mma_sync_m16n8k16_f32_bf16"], &wgmma = all["wgmma_m64nNk16_f32_bf16"];
    fragments(mma["A"], columns_of(16));
    fragments(mma["C"], columns_of(16));
    fragments(mma["B"], [](int t, int v) { const auto e = L::fragment_b(t, v); return e.column + 8 * e.row; });
    for (const auto& map : wgmma) fragments(map, columns_of(64));

    for (const auto& [name, map] : all["ldmatrix_m8n8_b16"].items()) {
        const int halves = 2 * number(map["regs"]);
        for (int i = 0; i < 32 * halves; i++) {
            const auto source = L::ldmatrix_source(i / halves, i % halves / 2, i % 2, name.ends_with("trans"));
            same(8 * source.lane + source.element, number(map["table"][size_t(i)]));
        }
    }
    for (const Json& tile : all["gmma_descriptors"]) {
        const Tile t(tile);
        const bool mn_major = tile["major"] == "MN";
        for (const Json& slice : tile["slices"]) {
            const uint64_t bits = std::stoull(slice[2].get<std::string>(), nullptr, 16);
            const auto d = L::decode(bits);
            same(bits & L::kUnassigned, uint64_t(0));
            same(d.leading, slice[4].get<uint32_t>() * 16);
            same(d.stride, slice[5].get<uint32_t>() * 16);
            for (int mn = 0; mn < tile["slice_mn"].get<int>(); mn++)
                for (int k = 0; k < 16; k++)
                    same(L::operand(d, mn, k, mn_major), tile["base"].get<uint32_t>() + t.offset(slice[0].get<int>() + mn, slice[1].get<int>() + k));
        }
    }
    for (const Json& tma : all["tma"]) {
        const Tile t(tma);
        const int span = std::array{0, 32, 64, 128}[tma["swizzle_enum"].get<size_t>()], width = tma["box"][0].get<int>(), rows = tma["box"][1].get<int>();
        const bool mn_major = tma["major"] == "MN";
        const int mn0 = tma["tile_coord"][0].get<int>() * tma["mn"].get<int>(), k0 = tma["tile_coord"][1].get<int>() * tma["k"].get<int>();
        for (const Json& copy : tma["copies"])
            for (int row = 0; row < rows; row++)
                for (int i = 0; i < width; i++) {
                    const int inner = copy[1].get<int>() + i, outer = copy[2].get<int>() + row;
                    const uint32_t start = 4096 * 8 + copy[0].get<uint32_t>();
                    same(L::boxed(start, uint32_t(row), uint32_t(2 * i), uint32_t(2 * width), span), 4096 * 8 + t.offset((mn_major ? inner : outer) - mn0, (mn_major ? outer : inner) - k0));
                }
        for (size_t d = 0; d < 2; d++) {        // what lies outside the tensor is zero
            const uint64_t size = tma["global_dim"][d].get<uint64_t>();
            same(L::inside(-1, size), false), same(L::inside(0, size), true), same(L::inside(int64_t(size) - 1, size), true), same(L::inside(int64_t(size), size), false);
        }
    }
    return c;
}

#define MERV_LAYOUT(name, where) \
    struct name { \
        static constexpr auto fragment = where::fragment; \
        static constexpr auto fragment_b = where::fragment_b; \
        static constexpr auto ldmatrix_source = where::ldmatrix_source; \
        static constexpr auto decode = where::decode; \
        static constexpr auto kUnassigned = where::kUnassigned; \
        static constexpr auto operand = where::operand; \
        static constexpr auto boxed = where::boxed; \
        static constexpr auto inside = where::inside; \
    };
MERV_LAYOUT(Emulator, merv::emu::layout)
#define MERV_MUTANT(n) MERV_LAYOUT(Mutant##n, merv::test::mutant##n)
MERV_MUTANTS(MERV_MUTANT)

}

TEST_CASE("layouts: the emulator's fragments, descriptors and swizzles are CuTe's") {
    const std::string path = shared("data/vectors/cute_layouts.json");
    if (path.empty()) return;
    const Json all = read_json(path);
    const Count right = compare<Emulator>(all);
    std::printf("  %ld comparisons\n", right.compared);
    EXPECT_EQ(right.wrong, 0);
    EXPECT(right.compared > 300'000);
    int mutants = 0;
    auto must_fail = [&](int n, const Count& c) {
        mutants++;
        if (std::getenv("MERV_TEST_VERBOSE")) std::printf("  mutant %d: %ld of %ld differ\n", n, c.wrong, c.compared);
        EXPECT_MESSAGE(c.wrong > 0, "the comparison does not notice mutation ", n, " of tests/emu/layout_mutations.txt");
    };
#define MERV_COMPARE(n) must_fail(n, compare<Mutant##n>(all));
    MERV_MUTANTS(MERV_COMPARE)
    EXPECT_EQ(mutants, 19);
}
