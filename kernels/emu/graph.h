// A kernel's control flow graph, as far as lanes have run through it, and the order in which a warp's lanes go on (count.cpp).
#pragma once
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace merv::emu {

// The order is a weak topological one (Bourdoncle 1993): along every edge but those back to a loop's head, and a loop's blocks lie
// together. A lane that goes back to the head waits at the loop's end, so that all lanes still in the loop's body come first and
// the next round is made together. By addresses it would not do: compilers put else-blocks behind the join.
class Graph {
  public:
    uint32_t node(const void* block);           // 1, 2, ..; 0: before a function's first block
    void edge(uint32_t from, uint32_t to) {
        for (uint32_t known : nodes_[from].next) if (known == to) return;
        nodes_[from].next.push_back(to);
        changed_ = true;
    }
    void order();                               // again if an edge is new
    uint64_t position(uint32_t node) const { return nodes_[node].position; }
    uint64_t position(uint32_t from, uint32_t to) const {       // of a lane about to go from one to the other
        const Node &f = nodes_[from], &t = nodes_[to];
        return f.position >= t.position && f.position < t.end ? t.end : t.position;
    }

  private:
    struct Node {
        std::vector<uint32_t> next;
        uint32_t position = 0, end = 0;         // end: of the loop whose head it is; 0: of none
        uint32_t set = 0, index = 0, low = 0;   // of order's depth-first search
        bool open = false;
    };
    void number(const std::vector<uint32_t>& roots, uint32_t set);
    std::vector<std::vector<uint32_t>> components(const std::vector<uint32_t>& roots, uint32_t set);

    std::vector<Node> nodes_ = std::vector<Node>(1);
    std::unordered_map<const void*, uint32_t> numbers_;
    struct { const void* block = nullptr; uint32_t number = 0; } recent_[256];
    bool changed_ = false;
    uint32_t last_ = 0, sets_ = 0;
};

}
