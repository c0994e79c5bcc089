#include "kernels/emu/graph.h"
#include <algorithm>

namespace merv::emu {

uint32_t Graph::node(const void* block) {
    auto& recent = recent_[uintptr_t(block) / 4 % 256];
    if (recent.block != block) {
        const auto [at, added] = numbers_.try_emplace(block, uint32_t(nodes_.size()));
        if (added) nodes_.emplace_back();
        recent = {block, at->second};
    }
    return recent.number;
}

void Graph::order() {
    if (!changed_) return;
    changed_ = false;
    last_ = 0, sets_ = 1;
    for (Node& n : nodes_) n = {std::move(n.next), 0, 0, 1, 0, 0, false};
    number({0}, 1);
}

// Numbers the nodes of a set that the roots lead to: its strongly connected components in topological order; one with a cycle
// is a loop, whose head is the node first reached, and whose other nodes are numbered likewise.
void Graph::number(const std::vector<uint32_t>& roots, uint32_t set) {
    std::vector<std::vector<uint32_t>> found = components(roots, set);
    for (auto c = found.rbegin(); c != found.rend(); ++c) {
        const uint32_t head = c->back();
        const std::vector<uint32_t>& next = nodes_[head].next;
        nodes_[head].position = ++last_;
        if (c->size() == 1 && std::find(next.begin(), next.end(), head) == next.end()) continue;
        const uint32_t inner = ++sets_;
        for (uint32_t v : *c) nodes_[v].set = v == head ? 0 : inner, nodes_[v].index = 0;
        number(next, inner);
        nodes_[head].end = ++last_;
    }
}

// Tarjan's, with a stack of its own: this runs on a fiber. Each component ends with its first node; successors come before
// predecessors.
std::vector<std::vector<uint32_t>> Graph::components(const std::vector<uint32_t>& roots, uint32_t set) {
    struct Visit { uint32_t node; size_t next; };
    std::vector<std::vector<uint32_t>> found;
    std::vector<Visit> path;
    std::vector<uint32_t> open;
    uint32_t count = 0;
    auto enter = [&](uint32_t v) {
        nodes_[v].index = nodes_[v].low = ++count;
        nodes_[v].open = true;
        open.push_back(v);
        path.push_back({v, 0});
    };
    for (uint32_t root : roots) {
        if (nodes_[root].set == set && !nodes_[root].index) enter(root);
        while (!path.empty()) {
            const uint32_t v = path.back().node;
            if (path.back().next < nodes_[v].next.size()) {
                const uint32_t w = nodes_[v].next[path.back().next++];
                if (nodes_[w].set != set) continue;
                if (!nodes_[w].index) enter(w);
                else if (nodes_[w].open) nodes_[v].low = std::min(nodes_[v].low, nodes_[w].index);
                continue;
            }
            path.pop_back();
            if (!path.empty()) nodes_[path.back().node].low = std::min(nodes_[path.back().node].low, nodes_[v].low);
            if (nodes_[v].low != nodes_[v].index) continue;
            std::vector<uint32_t>& component = found.emplace_back();
            do {
                component.push_back(open.back());
                nodes_[open.back()].open = false;
                open.pop_back();
            } while (component.back() != v);
        }
    }
    return found;
}

}
