// A step of work as a CUDA graph (core/cuda.h: CudaGraph), and the memory its tensors lie in.
#pragma once
#include <cstddef>
#include <map>
#include <mutex>
#include <vector>
#include "core/cuda.h"
#include "kernels/cuda/host/stream.h"

namespace merv {

// Memory for steps that are captured: cudaMallocAsync in a capture would become a node of the graph, at an address of the graph's. What is freed here is
// given to the next tensor at once, which is right because all steps run in one stream; and since it is given by address, a step that allocates in the same
// order gets the same addresses. It grows by cudaMalloc, while nothing is captured, and never shrinks: a step's activations are few.
class Arena {
  public:
    static constexpr size_t kChunk = size_t(4) << 20;       // bytes by which it grows, or what is asked for, twice
    std::byte* take(size_t bytes, bool may_grow);           // 256-byte aligned; null: no room
    bool give_back(std::byte* p);                           // false: it is not from here

  private:
    struct Block { size_t bytes; bool free, chunk; };       // chunk: the first of its chunk, which does not merge with the one before
    std::mutex mutex_;
    std::map<std::byte*, Block> blocks_;
};

// For RuntimeDevice::allocate and release, of this thread
enum class Serving { pool, arena, capture };
Serving serving();
struct ArenaFull {};                            // thrown out of a step that is captured; the next one runs plainly, and lets the arena grow
Arena& arena();
void keep_until_launched(std::byte* p);         // freed within a capture, but not from the arena: what was captured may read it

std::unique_ptr<CudaGraph> make_graph();        // null: MERV_GRAPH=0 or SYNC=1

}
