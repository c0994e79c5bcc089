#include "core/memory.h"
#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include "core/check.h"

namespace merv {
namespace {

constexpr size_t kUnlimited = SIZE_MAX;

// "name value" lines of the kernel's files; absent files and names give `otherwise`. "max" is not a number: no limit.
size_t number_in(const std::string& file, const std::string& name, size_t otherwise) {
    std::ifstream in(file);
    for (std::string line; std::getline(in, line);) {
        std::istringstream words(line);
        std::string first;
        size_t value;
        if (name.empty() ? bool(words >> value) : bool(words >> first >> value) && (first == name || first == name + ":")) return value;
        if (name.empty()) break;
    }
    return otherwise;
}

// What one control group leaves: its limit less what it holds, where file pages it could drop do not count as held.
size_t left_by_group(const std::string& folder, bool v2) {
    const size_t limit = number_in(folder + (v2 ? "/memory.max" : "/memory.limit_in_bytes"), "", kUnlimited);
    if (limit == kUnlimited) return kUnlimited;
    const size_t held = number_in(folder + (v2 ? "/memory.current" : "/memory.usage_in_bytes"), "", 0);
    size_t droppable = 0;
    for (const char* kind : {"inactive_file", "active_file"}) droppable += number_in(folder + "/memory.stat", (v2 ? "" : "total_") + std::string(kind), 0);
    const size_t kept = held - std::min(held, droppable);
    return limit - std::min(limit, kept);
}

// A group's own limit and those of every group above it. Inside a container the path may belong to the host's tree and not
// exist here; the walk then begins where it does.
size_t left_by_groups(const std::string& root) {
    size_t left = kUnlimited;
    std::ifstream in(root + "/proc/self/cgroup");
    for (std::string line; std::getline(in, line);) {           // "4:memory:/a/b" (v1) or "0::/a/b" (v2)
        const size_t first = line.find(':'), second = first == line.npos ? line.npos : line.find(':', first + 1);
        if (second == line.npos) continue;
        const std::string controllers = concat(",", line.substr(first + 1, second - first - 1), ",");
        const bool v2 = controllers == ",,";
        if (!v2 && controllers.find(",memory,") == controllers.npos) continue;
        const std::string tree = root + "/sys/fs/cgroup" + (v2 ? "" : "/memory");
        for (std::string path = line.substr(second + 1);; path.resize(path.rfind('/'))) {
            if (path == "/") path.clear();
            left = std::min(left, left_by_group(tree + path, v2));
            if (path.rfind('/') == path.npos) break;
        }
    }
    return left;
}

size_t own_limit() {
    const char* text = std::getenv("MERV_MEMORY_LIMIT");
    if (!text || !*text) return kUnlimited;
    char* end;
    const double value = std::strtod(text, &end);
    std::string unit = end;
    if (!unit.empty() && (unit.back() == 'B' || unit.back() == 'b')) unit.pop_back();
    double factor = unit.empty() ? 1 : 0;
    const std::string letters = "KMGT";
    if (const size_t i = unit.empty() ? letters.npos : letters.find(char(std::toupper(static_cast<unsigned char>(unit[0])))); i != letters.npos)
        factor = unit.size() == 1 ? std::pow(1000, double(i + 1)) : unit.substr(1) == "i" ? std::pow(1024, double(i + 1)) : 0;
    if (end == text || factor == 0 || !(value >= 0 && value * factor < 1e18))
        fail(Exit::usage, "MERV_MEMORY_LIMIT is '", text, "'; a number of bytes such as 8Gi is expected");
    return size_t(value * factor);
}

std::string row(const std::string& owner, size_t bytes) {
    char text[160];
    const bool large = bytes >= size_t(1) << 30;
    std::snprintf(text, sizeof text, "\n  %-44.100s %9.2f %s", owner.c_str(), double(bytes) / double(1 << (large ? 30 : 20)), large ? "GiB" : "MiB");
    return text;
}

}

size_t available_memory(const std::string& root) {
    return std::min({number_in(root + "/proc/meminfo", "MemAvailable", kUnlimited / 1024) * 1024, left_by_groups(root), own_limit()});
}

size_t MemoryPlan::sum() const {
    size_t all = 0;
    for (const auto& r : rows) if (__builtin_add_overflow(all, r.second, &all)) return SIZE_MAX;
    return all;
}

void require_memory(const MemoryPlan& plan, const std::string& advice) {
    const size_t available = available_memory();
    if (plan.sum() <= available) return;
    std::string table;
    for (const auto& [owner, bytes] : plan.rows) table += row(owner, bytes);
    fail(Exit::no_memory, "not enough memory:", table, row("in all", plan.sum()), row("available", available), "\n", advice);
}

}
