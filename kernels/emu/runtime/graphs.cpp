// Graphs: what a stream is given between cudaStreamBeginCapture and cudaStreamEndCapture becomes nodes instead of operations, and each launch issues
// them as operations: a fork's on streams of the graph's own. So order, races and lives of memory are looked at per launch, as if issued by hand.
#include <algorithm>
#include <thread>
#include "kernels/emu/runtime/state.h"

namespace merv::emulated_runtime {

struct Node {
    std::string name;
    std::function<void()> run;                  // kernels' arguments as they were at capture, and addresses of what copies read
    size_t lane;                                // of Program::lanes
    std::vector<size_t> after;
    RecordId captured;
    std::string kind() const { return name.starts_with("kernel ") ? "kernel" : name; }
};
struct Program {
    std::vector<Node> nodes;
    std::vector<size_t> last;                   // all others lie before these
    size_t lanes = 1;
};
struct Capture {
    CUstream_st* origin = nullptr;
    std::thread::id thread;
    cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
    std::vector<CUstream_st*> streams;          // [0]: the origin; each is a lane
    Program program;
    bool invalid = false, ended = false;
};

RecordId captured_at = 0;

namespace {

std::vector<std::shared_ptr<Capture>>& open_captures() {
    static auto* all = new std::vector<std::shared_ptr<Capture>>;
    return *all;
}
void close(Capture& c) {
    c.ended = true;
    for (CUstream_st* s : c.streams) s->capture = nullptr, s->tips.clear();
    std::erase_if(open_captures(), [&](const auto& other) { return other.get() == &c; });
}
void mistake(const std::string& cause, const std::string& text) { report("CAPTURE", cause, text); }

// What must not be called while a graph is captured by this thread, or by any where the mode is global. Waits for streams that are not captured are
// allowed by CUDA; a capture that needs one waits at each step for what it meant to hide, so it is reported as well.
bool forbidden(const std::string& function) {
    for (const char* f : {"cudaMalloc", "cudaFree", "cudaHostAlloc", "cudaMallocHost", "cudaFreeHost", "cudaHostRegister", "cudaHostUnregister", "cudaMemcpy", "cudaMemset", "cudaDeviceSynchronize",
                          "cudaStreamSynchronize", "cudaStreamQuery", "cudaEventSynchronize", "cudaEventQuery", "cudaMemPoolTrimTo"})
        if (function == f) return true;
    return false;
}

void depend(CUstream_st* s, const std::vector<size_t>& nodes) {
    for (const size_t n : nodes) if (std::find(s->tips.begin(), s->tips.end(), n) == s->tips.end()) s->tips.push_back(n);
}
bool usable(const CUgraph_st* g, const char* function) {
    if (g && !g->destroyed) return true;
    report("GRAPH", function, concat(function, g ? " of a destroyed graph" : " of no graph"));
    return false;
}
bool usable(const CUgraphExec_st* g, const char* function) {
    if (g && !g->destroyed) return true;
    report("GRAPH", function, concat(function, g ? " of a destroyed executable graph" : " of no executable graph"));
    return false;
}

}

// ---- capture

cudaError_t refused_in_capture(const char* function) {
    for (const auto& c : open_captures()) {
        const bool concerned = c->mode == cudaStreamCaptureModeGlobal || (c->mode == cudaStreamCaptureModeThreadLocal && c->thread == std::this_thread::get_id());
        if (!concerned || !forbidden(function)) continue;
        mistake(function, concat(function, " is called while ", c->origin->name, " is captured"));
        c->invalid = true;
        return cudaErrorStreamCaptureUnsupported;
    }
    return cudaSuccess;
}
void invalidate(CUstream_st* s, const std::string& cause, const std::string& text) {
    mistake(cause, text);
    s->capture->invalid = true;
}
void default_stream_is_used() {                 // it waits for every stream that is not non-blocking, which a captured one cannot bear
    for (const auto& c : open_captures())
        for (const CUstream_st* s : c->streams)
            if (!s->non_blocking) return mistake("default stream", concat("the default stream is used while ", s->name, ", which is not non-blocking, is captured")), void(c->invalid = true);
}
void forget_captures() { while (!open_captures().empty()) close(*open_captures().back()); }

std::shared_ptr<Operation> add_node(CUstream_st* s, const std::string& name, std::function<void()> run) {
    Capture& c = *s->capture;
    next_host_record();
    const RecordId captured = new_record(0, host.clock, host.knows, "capture of " + name);      // allocations before it have smaller numbers, those after it none
    next_host_record();
    const size_t lane = size_t(std::find(c.streams.begin(), c.streams.end(), s) - c.streams.begin());
    c.program.nodes.push_back({name, std::move(run), lane, s->tips, captured});
    s->tips = {c.program.nodes.size() - 1};
    const auto never = std::make_shared<Operation>();
    never->record = captured, never->stream = s;
    return never;
}
cudaError_t begin_capture(CUstream_st* s, cudaStreamCaptureMode mode) {
    if (s->is_default) return mistake("default stream", "the default stream cannot be captured"), cudaErrorStreamCaptureUnsupported;
    if (s->capture) return mistake("twice", s->name + " is captured already"), cudaErrorIllegalState;
    const auto c = std::make_shared<Capture>();
    c->origin = s, c->thread = std::this_thread::get_id(), c->mode = mode, c->streams = {s};
    s->capture = c;
    open_captures().push_back(c);
    return cudaSuccess;
}
cudaError_t end_capture(CUstream_st* s, cudaGraph_t* graph) {
    *graph = nullptr;
    const std::shared_ptr<Capture> c = s->capture;
    if (!c) return mistake("end", concat("cudaStreamEndCapture of ", s->name, ", which is not captured")), cudaErrorIllegalState;
    if (c->origin != s) return mistake("unmatched", concat("cudaStreamEndCapture of ", s->name, "; the capture began on ", c->origin->name)), cudaErrorStreamCaptureUnmatched;
    if (c->thread != std::this_thread::get_id() && c->mode != cudaStreamCaptureModeRelaxed) return mistake("thread", "cudaStreamEndCapture by another thread"), cudaErrorStreamCaptureWrongThread;
    std::vector<bool> joined(c->program.nodes.size(), false);
    std::vector<size_t> todo = c->program.last = s->tips;
    while (!todo.empty()) {
        const size_t n = todo.back();
        todo.pop_back();
        if (joined[n]) continue;
        joined[n] = true;
        todo.insert(todo.end(), c->program.nodes[n].after.begin(), c->program.nodes[n].after.end());
    }
    const auto lost = std::find(joined.begin(), joined.end(), false);
    c->program.lanes = c->streams.size();
    close(*c);
    if (c->invalid) return cudaErrorStreamCaptureInvalidated;
    if (lost != joined.end()) {
        const Node& n = c->program.nodes[size_t(lost - joined.begin())];
        mistake("unjoined", concat(n.name, " was captured on another stream, for which ", s->name, " does not wait before the capture ends"));
        return cudaErrorStreamCaptureUnjoined;
    }
    *graph = new CUgraph_st{std::make_shared<Program>(std::move(c->program))};
    return cudaSuccess;
}
void record_captured(CUevent_st* e, CUstream_st* s) { e->operation = nullptr, e->capture = s->capture, e->nodes = s->tips; }
cudaError_t wait_captured(CUstream_st* s, CUevent_st* e) {
    if (!e->capture) {
        invalidate(s, "isolation", concat(s->name, " is captured and waits for an event that was recorded outside the capture"));
        return cudaErrorStreamCaptureIsolation;
    }
    if (e->capture->ended) return mistake("captured event", s->name + " waits for an event of a capture that has ended"), cudaErrorCapturedEvent;
    if (s->capture && s->capture != e->capture) return invalidate(s, "merge", s->name + " waits for an event of another capture"), cudaErrorStreamCaptureMerge;
    if (!s->capture) s->capture = e->capture, s->capture->streams.push_back(s);
    depend(s, e->nodes);
    return cudaSuccess;
}

}

using namespace merv::emulated_runtime;
namespace {
template <class F> cudaError_t call(const char* function, F&& f) { return note(api(function, cudaErrorNotPermitted, [&]() -> cudaError_t { return f(); })); }
}

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode) {
    return call(__func__, [&] { return begin_capture(stream_of(s), mode); });
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t* graph) {
    return call(__func__, [&] { return end_capture(stream_of(s), graph); });
}
cudaError_t cudaStreamIsCapturing(cudaStream_t s, cudaStreamCaptureStatus* status) {
    return call(__func__, [&] {
        const auto& c = stream_of(s)->capture;
        return *status = !c ? cudaStreamCaptureStatusNone : c->invalid ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive, cudaSuccess;
    });
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
    return call(__func__, [&] {
        if (!usable(graph, "cudaGraphInstantiate")) return cudaErrorInvalidValue;
        *exec = new CUgraphExec_st{graph->program, {nullptr}, nullptr, {}};
        for (size_t i = 1; i < graph->program->lanes; i++) (*exec)->lanes.push_back(new_stream(true));
        return cudaSuccess;
    });
}
// What is launched already runs as it was
cudaError_t cudaGraphExecUpdate(cudaGraphExec_t exec, cudaGraph_t graph, cudaGraphExecUpdateResultInfo* info) {
    return call(__func__, [&] {
        if (!usable(exec, "cudaGraphExecUpdate") || !usable(graph, "cudaGraphExecUpdate")) return cudaErrorInvalidValue;
        const auto &was = exec->program->nodes, &is = graph->program->nodes;
        cudaGraphExecUpdateResult result = was.size() == is.size() && exec->program->last == graph->program->last ? cudaGraphExecUpdateSuccess : cudaGraphExecUpdateErrorTopologyChanged;
        for (size_t i = 0; i < is.size() && result == cudaGraphExecUpdateSuccess; i++)
            if (was[i].after != is[i].after || was[i].lane != is[i].lane) result = cudaGraphExecUpdateErrorTopologyChanged;
            else if (was[i].kind() != is[i].kind()) result = cudaGraphExecUpdateErrorNodeTypeChanged;
        if (info) *info = {}, info->result = result;
        if (result != cudaGraphExecUpdateSuccess) return cudaErrorGraphExecUpdateFailure;
        return exec->program = graph->program, cudaSuccess;
    });
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    return call(__func__, [&] {
        CUstream_st* s = stream_of(stream);
        if (!usable(exec, "cudaGraphLaunch")) return cudaErrorInvalidValue;
        if (s->capture) {
            invalidate(s, "nested", "cudaGraphLaunch on a stream that is captured (a child graph) is not emulated");
            return cudaErrorNotSupported;
        }
        const std::shared_ptr<const Program> program = exec->program;
        std::vector<std::pair<std::shared_ptr<Operation>, Clock>> done;
        auto edge = [](CUstream_st* to, const std::shared_ptr<Operation>& o, const Clock& knows) { issue(to, "an edge of a graph", nullptr, o, &knows); };
        if (exec->launched) edge(s, exec->launched, exec->knows);
        for (const Node& n : program->nodes) {
            CUstream_st* lane = n.lane ? exec->lanes[n.lane] : s;
            for (const size_t d : n.after) if (program->nodes[d].lane != n.lane) edge(lane, done[d].first, done[d].second);
            auto run = [f = n.run, captured = n.captured] {
                struct Scope {
                    explicit Scope(RecordId r) { captured_at = r; }
                    ~Scope() { captured_at = 0; }
                } const scope(captured);
                const auto own = f;             // a kernel may change its arguments
                own();
            };
            const auto o = issue(lane, n.name + ", in a graph,", n.run ? std::function<void()>(run) : nullptr);
            done.emplace_back(o, lane->knows);
        }
        for (const size_t d : program->last) if (program->nodes[d].lane) edge(s, done[d].first, done[d].second);
        exec->launched = s->last, exec->knows = s->knows;
        return cudaSuccess;
    });
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
    return call(__func__, [&] {
        if (!usable(graph, "cudaGraphGetNodes")) return cudaErrorInvalidValue;
        if (nodes) return report("API", "cudaGraphGetNodes", "cudaGraphGetNodes tells their number alone"), cudaErrorNotSupported;
        return *count = graph->program->nodes.size(), cudaSuccess;
    });
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {       // what was made of it stays; so does the object, to recognise its late uses
    return call(__func__, [&] { return usable(graph, "cudaGraphDestroy") ? graph->destroyed = true, graph->program = nullptr, cudaSuccess : cudaErrorInvalidValue; });
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    return call(__func__, [&] { return usable(exec, "cudaGraphExecDestroy") ? exec->destroyed = true, exec->program = nullptr, cudaSuccess : cudaErrorInvalidValue; });
}

}
