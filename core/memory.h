// Whether a model fits, decided before it is loaded.
#pragma once
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace merv {

// Bytes this process can still get without swapping: the least of the kernel's MemAvailable, what the limits of its control
// groups (v1 and v2) leave, and MERV_MEMORY_LIMIT (bytes; k, M, G, Ki, Mi, Gi are understood). `root`: where /proc and /sys are.
size_t available_memory(const std::string& root = "");

struct MemoryPlan {
    std::vector<std::pair<std::string, size_t>> rows;       // owner, bytes
    size_t sum() const;
};
// Error(Exit::no_memory) with the table, what there is, and the advice, unless the plan fits what is available.
void require_memory(const MemoryPlan& plan, const std::string& advice);

}
