#include "kernels/cuda/host/graph.h"
#include <algorithm>
#include <cstdlib>
#include <exception>
#include <string>
#include "core/check.h"
#include "core/profile.h"

namespace merv {
namespace {

constexpr size_t kAlignment = 256;

thread_local Serving now_serving = Serving::pool;
thread_local std::vector<std::byte*>* kept = nullptr;
struct Serve {
    explicit Serve(Serving s, std::vector<std::byte*>* keep = nullptr) : saved_(now_serving), saved_kept_(kept) { now_serving = s, kept = keep; }
    ~Serve() { now_serving = saved_, kept = saved_kept_; }
    Serve(const Serve&) = delete;
    Serve& operator=(const Serve&) = delete;

  private:
    Serving saved_;
    std::vector<std::byte*>* saved_kept_;
};

class RuntimeGraph final : public CudaGraph {
  public:
    ~RuntimeGraph() override {
        if (exec_) cudaGraphExecDestroy(exec_);             // what runs goes on
        free_kept();
    }
    void run(const std::function<void()>& step) override {
        const Serve from(Serving::arena);
        step();
    }
    bool capture(const std::function<void()>& step) override {
        free_kept();
        const cudaStream_t stream = current_stream();
        must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capturing a graph");
        bool fits = true;
        std::exception_ptr failure;
        try {
            const Serve from(Serving::capture, &kept_);
            step();
        } catch (const ArenaFull&) {
            fits = false;
        } catch (...) {
            failure = std::current_exception();
        }
        Captured graph;
        const cudaError_t e = cudaStreamEndCapture(stream, &graph.made);
        if (failure) cudaGetLastError(), std::rethrow_exception(failure);
        if (!fits) return cudaGetLastError(), false;
        must(e, "capturing a graph");
        cudaGraphExecUpdateResultInfo why{};
        if (exec_ && cudaGraphExecUpdate(exec_, graph.made, &why) == cudaSuccess) return true;
        if (exec_) cudaGetLastError(), cudaGraphExecDestroy(exec_), exec_ = nullptr;      // other kernels than before: made anew
        must(cudaGraphInstantiate(&exec_, graph.made, 0), "making a graph");
        return true;
    }
    void launch() override {
        CHECK(exec_, "a graph is launched before it is captured");
        profile::count_launch();
        launched({"a captured step", __FILE__, __LINE__}, cudaGraphLaunch(exec_, current_stream()));
    }

  private:
    struct Captured {
        cudaGraph_t made = nullptr;
        ~Captured() { if (made) cudaGraphDestroy(made); }
    };
    void free_kept() noexcept {
        for (std::byte* p : kept_) cudaFreeAsync(p, current_stream());
        kept_.clear();
    }
    cudaGraphExec_t exec_ = nullptr;
    std::vector<std::byte*> kept_;
};

}

std::byte* Arena::take(size_t bytes, bool may_grow) {
    const std::lock_guard lock(mutex_);
    bytes = (std::max<size_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
    auto fits = [&] { return std::find_if(blocks_.begin(), blocks_.end(), [&](const auto& b) { return b.second.free && b.second.bytes >= bytes; }); };
    auto at = fits();
    if (at == blocks_.end()) {
        const size_t chunk = std::max(kChunk, 2 * bytes);
        void* p = nullptr;
        if (!may_grow) return nullptr;
        if (const cudaError_t e = cudaMalloc(&p, chunk); e == cudaErrorMemoryAllocation) return cudaGetLastError(), nullptr;
        else must(e, "memory");
        at = blocks_.emplace(static_cast<std::byte*>(p), Block{chunk, true, true}).first;
    }
    const size_t rest = at->second.bytes - bytes;
    if (rest) blocks_.emplace(at->first + bytes, Block{rest, true, false});
    at->second.bytes = bytes, at->second.free = false;
    return at->first;
}

bool Arena::give_back(std::byte* p) {
    const std::lock_guard lock(mutex_);
    auto at = blocks_.find(p);
    if (at == blocks_.end()) return false;
    at->second.free = true;
    auto swallow = [&](auto block) {            // the one behind it, if free and of the same chunk
        const auto next = std::next(block);
        if (next != blocks_.end() && next->second.free && !next->second.chunk) block->second.bytes += next->second.bytes, blocks_.erase(next);
    };
    swallow(at);
    if (!at->second.chunk && std::prev(at)->second.free) swallow(std::prev(at));
    return true;
}

Serving serving() { return now_serving; }
Arena& arena() {
    static Arena* a = new Arena;                // never destroyed: tensors may outlive static destructors
    return *a;
}
void keep_until_launched(std::byte* p) { kept->push_back(p); }

std::unique_ptr<CudaGraph> make_graph() {
    auto is = [](const char* name, const char* value) { const char* text = std::getenv(name); return text && std::string(text) == value; };
    if (is("MERV_GRAPH", "0") || is("SYNC", "1")) return nullptr;
    return std::make_unique<RuntimeGraph>();
}

}
