#include "bench/gpus.h"
#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include "core/check.h"

namespace merv::bench {

// Sources. SMs, clocks, DRAM and tensor peaks of the A100: data sheet, SXM 80 GB. H100, H200: a copy and a product of 8192^3 as
// measured on one SXM card each (3.35 and 4.8 TB/s, 989 TFLOP/s on the data sheet), at the clock seen with them. fp32: 2 flops x
// 128 lanes x SMs x clock (64 lanes on the A100). L2: 5120 bytes per clock (A100 white paper); H100's is not published, 5.5 TB/s
// is an assumption. Limits per SM: CUDA programming guide, table of compute capabilities 8.0 and 9.0.
const std::vector<Gpu>& gpus() {
    static const std::vector<Gpu> all = {
        {"A100", "sm_80", 108, 1.41e9, 2.039e12, 7.2e12, 312e12, 19.5e12, 164 << 10, 2048, 32},
        {"H100", "sm_90a", 132, 1.755e9, 3.0e12, 5.5e12, 798e12, 59.3e12, 228 << 10, 2048, 32},
        {"H200", "sm_90a", 132, 1.755e9, 4.3e12, 5.5e12, 769e12, 59.3e12, 228 << 10, 2048, 32},
    };
    return all;
}

Occupancy occupancy(const Gpu& g, const Resources& r, int threads, size_t dynamic_shared) {
    // Registers are given to warps in units of 256, from four files of 16384; shared memory to blocks in units of 128 bytes, and
    // each block loses 1 KB of it to the system (both capabilities).
    constexpr int kRegisterUnit = 256, kRegisterFile = 16384, kFiles = 4, kSharedUnit = 128, kReserved = 1024;
    const int warps = (threads + 31) / 32, per_warp = (std::max(r.registers, 1) * 32 + kRegisterUnit - 1) / kRegisterUnit * kRegisterUnit;
    const int shared = (r.shared + int(dynamic_shared) + kReserved + kSharedUnit - 1) / kSharedUnit * kSharedUnit;
    const struct { int blocks; const char* by; } limits[] = {
        {g.threads / 32 / warps, "threads"}, {kRegisterFile / per_warp * kFiles / warps, "registers"}, {g.shared / shared, "shared memory"}, {g.blocks, "blocks"}};
    const auto& least = *std::min_element(std::begin(limits), std::end(limits), [](const auto& a, const auto& b) { return a.blocks < b.blocks; });
    return {least.blocks, double(least.blocks * warps) / (g.threads / 32), least.by};
}

Prediction predict(const Gpu& g, const emu::Counters& c) {
    using emu::Counted;
    // What an SM does is done by the one with the most blocks.
    const double blocks = double(std::max<uint64_t>(c.blocks, 1)), busiest = std::ceil(blocks / g.sms) / blocks, clocks = busiest / g.clock;
    const double shared = double(c.shared().wavefronts), sectors = double(c.global().sectors), special = double(c[Counted::special].requests), requests = double(c.global().requests);
    const struct { double seconds; const char* by; } needs[] = {
        {double(c.unique_sectors) * 32 / g.dram, "DRAM"},
        {double(c.block_sectors) * 32 / g.l2, "L2"},
        {c.tensor_flops * busiest / (g.bf16 / g.sms), "tensor cores"},
        {c.tensor_flops > 0 ? 0 : c.flops * busiest / (g.fp32 / g.sms), "FP32"},
        {shared * clocks, "shared memory"},                 // a wavefront per clock
        {(shared + std::max(requests, sectors / 4)) * clocks, "L1"},      // the same unit takes a request of global memory per clock, or 128 bytes
        {special * 2 * clocks, "MUFU"},                     // 16 lanes per clock
    };
    const auto& most = *std::max_element(std::begin(needs), std::end(needs), [](const auto& a, const auto& b) { return a.seconds < b.seconds; });
    return {most.seconds, most.by};
}

emu::Counters scaled(const emu::Counters& counted, const emu::Counters& full) {
    emu::Counters c = counted;
    const double by_blocks = double(full.blocks) / double(counted.blocks), by_bytes = counted.bytes > 0 ? full.bytes / counted.bytes : by_blocks;
    auto times = [](uint64_t& n, double by) { n = uint64_t(std::llround(double(n) * by)); };
    for (emu::Traffic& t : c.total)
        for (uint64_t* n : {&t.requests, &t.lanes, &t.bytes, &t.sectors, &t.ideal_sectors, &t.wavefronts, &t.ideal_wavefronts}) times(*n, by_blocks);
    for (uint64_t* n : {&c.block_sectors, &c.basic_blocks, &c.basic_block_lanes}) times(*n, by_blocks);
    for (uint64_t* n : {&c.unique_read, &c.unique_written, &c.unique_sectors}) times(*n, by_bytes);
    c.tensor_flops *= by_blocks;
    c.blocks = full.blocks, c.bytes = full.bytes, c.flops = full.flops;
    c.rows.clear();
    return c;
}

std::vector<Compiled> read_ptxas(const std::string& path) {
    std::vector<Compiled> all;
    std::ifstream in(path);
    for (std::string line; std::getline(in, line);) {
        if (line.empty() || line[0] == '#') continue;
        std::istringstream words(line);
        Compiled c;
        Resources& r = c.resources;
        words >> c.arch >> c.file >> r.registers >> r.shared >> r.stack >> r.spill_stores >> r.spill_loads;
        if (!words || !std::getline(words >> std::ws, c.kernel)) fail(Exit::usage, path, ": not a line of ptxas' numbers: ", line);
        all.push_back(c);
    }
    return all;
}
// A kernel of a header is compiled with several files, alike.
std::optional<Resources> find(const std::vector<Compiled>& all, const std::string& arch, const std::string& kernel, const std::string& launched_in) {
    std::optional<Resources> found;
    for (const Compiled& c : all)
        if (c.arch == arch && c.kernel == kernel && (!found || c.file == launched_in)) found = c.resources;
    return found;
}

}
