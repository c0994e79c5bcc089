// Counters as their readers see them: named, by line, as text.
#include <algorithm>
#include <cstdio>
#include "core/check.h"
#include "kernels/emu/machine.h"

namespace merv::emu {

const char* name_of(Counted c) {
    constexpr const char* names[] = {"global load", "global store", "global atomic", "global copy", "shared load", "shared store", "shared atomic", "shared copy", "ldmatrix",
                                     "mma", "wgmma", "shuffle", "vote", "syncwarp", "barrier", "special function"};
    static_assert(std::size(names) == size_t(Counted::kinds));
    return names[size_t(c)];
}

Traffic& Traffic::operator+=(const Traffic& t) {
    requests += t.requests, lanes += t.lanes, bytes += t.bytes;
    sectors += t.sectors, ideal_sectors += t.ideal_sectors;
    wavefronts += t.wavefronts, ideal_wavefronts += t.ideal_wavefronts;
    return *this;
}
Traffic Counters::global() const {
    Traffic all;
    for (Counted c : {Counted::global_load, Counted::global_store, Counted::global_atomic, Counted::global_copy}) all += (*this)[c];
    return all;
}
Traffic Counters::shared() const {
    Traffic all;
    for (Counted c : {Counted::shared_load, Counted::shared_store, Counted::shared_atomic, Counted::shared_copy, Counted::ldmatrix, Counted::wgmma}) all += (*this)[c];
    return all;
}

std::string without_namespaces(std::string name) {
    for (const std::string part : {"(anonymous namespace)::", "merv::", "kernels::", "cuda::", "test::", "emu_counted::", "void "})
        for (size_t at; (at = name.find(part)) != name.npos;) name.erase(at, part.size());
    for (size_t at; (at = name.find("_GLOBAL__N_")) != name.npos;) name.erase(at, name.find("::", at) + 2 - at);      // nvcc's anonymous one
    return name.substr(0, name.find('('));
}
std::string Counters::kernel() const {
    auto inside = [](const void* f) { return static_cast<const void*>(static_cast<const char*>(f) + 1); };
    std::vector<const void*> all = {inside(function)};
    for (const void* k : counted_kernels()) all.push_back(inside(k));       // one run of addr2line for all
    return without_namespaces(sources(all)[0].function);
}

std::vector<LineCounters> Counters::lines() const {
    prepare_place_names([&] {
        std::vector<uint32_t> all;
        for (const Row& r : rows) all.push_back(r.where);
        return all;
    }());
    std::map<std::pair<std::string, Counted>, LineCounters> by_line;      // unrolled copies of a line are one
    for (const Row& r : rows) {
        const std::string line = place_name(r.where);
        LineCounters& l = by_line[{line, r.what}];
        l.line = line, l.what = r.what, l.width = std::max(l.width, r.width);
        l.traffic += r.traffic;
    }
    std::vector<LineCounters> all;
    for (auto& [key, l] : by_line) all.push_back(std::move(l));
    auto cost = [](const Traffic& t) { return t.sectors + t.wavefronts; };
    std::stable_sort(all.begin(), all.end(), [&](const auto& a, const auto& b) { return cost(a.traffic) > cost(b.traffic); });
    return all;
}

std::string Counters::text() const {
    std::string all;
    auto add = [&](const char* format, auto... values) {
        char row[512];
        std::snprintf(row, sizeof row, format, values...);
        all += row;
    };
    using Number = unsigned long long;
    const Traffic g = global(), s = shared();
    add("%s: %s, launched at %s: %llu blocks of %d threads, %.1f of 32 lanes active\n", name.c_str(), kernel().c_str(), emu::name_of(site).c_str(), Number(blocks), threads,
        basic_blocks ? double(basic_block_lanes) / double(basic_blocks) : 0);
    add("  global memory: %llu requests, %llu sectors, ideal %llu; unique bytes %llu read, %llu written", Number(g.requests), Number(g.sectors), Number(g.ideal_sectors), Number(unique_read), Number(unique_written));
    if (bytes) add(" (an ideal kernel moves %.0f)", bytes);
    add("\n  shared memory: %llu requests, %llu wavefronts, of which %llu bank conflicts\n", Number(s.requests), Number(s.wavefronts), Number(s.bank_conflicts()));
    if (tensor_flops > 0) add("  tensor cores: %.0f flops issued, %.1f %% useful\n", tensor_flops, 100 * flops / tensor_flops);
    add("  %-24s %-16s %5s %10s %6s %10s %10s %10s %10s\n", "line", "", "width", "requests", "lanes", "sectors", "ideal", "wavefronts", "ideal");
    for (const LineCounters& l : lines()) {
        const Traffic& t = l.traffic;
        add("  %-24s %-16s %5d %10llu %6.1f %10llu %10llu %10llu %10llu\n", l.line.c_str(), emu::name_of(l.what), l.width, Number(t.requests), t.requests ? double(t.lanes) / double(t.requests) : 0,
            Number(t.sectors), Number(t.ideal_sectors), Number(t.wavefronts), Number(t.ideal_wavefronts));
    }
    return all;
}

}
