// What the files of the emulated runtime share. One mutex guards all of it; a thread that waits for the device hands the state to the
// device thread, which alone runs queued work, and takes it back.
#pragma once
#include <cuda_runtime_api.h>
#include <deque>
#include <map>
#include <memory>
#include <utility>
#include "core/check.h"
#include "kernels/emu/runtime/accesses.h"
#include "kernels/emu/runtime/runtime.h"

namespace merv::emulated_runtime {

// ---- order.cpp: what lies before what, by the program's own synchronisation
//
// Actors are the host, 0, and each stream. All host threads are one actor: whether they are ordered among themselves is for TSan to say.
// A record is an operation in a stream, or what the host does between two calls of CUDA. Records are numbered as the host issues them.
using Clock = std::vector<uint32_t>;            // per actor: how much of its work is known to be done
uint32_t at(const Clock&, size_t actor);
void raise(Clock&, size_t actor, uint32_t to);
void join(Clock& to, const Clock& from);

RecordId new_record(uint32_t actor, uint32_t clock, const Clock& knows, const std::string& name);
RecordId last_record();
const std::string& name_of(RecordId);
bool before(RecordId a, RecordId b);
bool known(RecordId, const Clock& to);          // whether it lies before what knows this much

struct Host {
    uint32_t clock = 1;
    Clock knows{1};
    RecordId record = 0;                        // of what it does now, once that matters
};
extern Host host;
RecordId host_record();
void next_host_record();                        // what the host does from here on is not part of what was issued before
void host_learns(const Clock&);

unsigned random_bits();
void seed_random(unsigned);

// ---- report.cpp
void report(const std::string& kind, const std::string& cause, const std::string& text);      // cause: one report per kind and cause

// ---- memory.cpp
enum class Where { device, pinned, registered };
struct Life { RecordId allocated, freed; size_t bytes; };      // records from `allocated` on may use it that lie before `freed`
struct Cell { RecordId write, reads; };         // of two bytes, the last ones; reads: one record, or kMany + the number of a set of them
constexpr RecordId kMany = 1u << 31;
constexpr size_t kCellBytes = 2;
struct Allocation {
    char* begin = nullptr;
    size_t capacity = 0;                        // bytes
    Where where = Where::device;
    bool pool = false, live = true;
    bool open = false;                          // readable
    std::vector<Life> lives;                    // a pool uses blocks again
    Cell* cells = nullptr;
    size_t cell_bytes = 0;
};
Allocation* find(const void*);                  // the one it points into, or just past; null: ordinary host memory
inline bool on_device(const Allocation* a) { return a && a->where == Where::device; }
std::string describe(const Allocation&, const void*);
bool fits(const void*, size_t bytes, const std::string& what);          // else reported
cudaError_t allocate(void** p, size_t bytes, Where);                    // cudaErrorMemoryAllocation
cudaError_t allocate_from_pool(void** p, size_t bytes, CUstream_st*);
cudaError_t free_now(void* p, Where, const char* function);
cudaError_t free_in_stream(void* p, CUstream_st*);
cudaError_t register_host(void* p, size_t bytes);
cudaError_t unregister_host(void* p);
void trim_pool(size_t keep_bytes);              // of blocks whose freeing has come to pass
void open_device_memory(bool);
struct Usage { size_t allocated = 0, in_pool = 0, limit = 80ull << 30; };        // bytes; in_pool: free, and kept
extern Usage usage;
extern uint64_t release_threshold;              // of the memory pool

// ---- streams.cpp
struct Operation {
    RecordId record = 0;
    CUstream_st* stream = nullptr;
    uint64_t number = 0;                        // in its stream, from 1 on
    std::vector<std::shared_ptr<Operation>> after;      // in other streams
    std::function<void()> run;
    bool done = false;
    bool queried = false;
    double seconds = 0;                         // when it ran
};
CUstream_st* stream_of(cudaStream_t);           // the default stream for null
CUstream_st* new_stream(bool non_blocking);
std::shared_ptr<Operation> issue(CUstream_st*, const std::string& name, std::function<void()> run, const std::shared_ptr<Operation>& after = nullptr, const Clock* knows = nullptr);
cudaError_t wait_for(const std::vector<std::shared_ptr<Operation>>&);
cudaError_t synchronize(CUstream_st*);
cudaError_t synchronize_all(bool host_knows);
Clock all_work();                               // what is known when everything issued so far is done
bool idle();                                    // nothing is queued
void run_one_towards(const std::shared_ptr<Operation>&);        // a query: else a program that polls would never see it done
void run_host_function(cudaHostFn_t, void* argument);
void set_sticky(cudaError_t);                   // a kernel failed: what waits for it fails

// ---- graphs.cpp
struct Capture;
struct Program;
extern RecordId captured_at;                    // when what runs was captured; 0: it was issued
cudaError_t refused_in_capture(const char* function);
void invalidate(CUstream_st*, const std::string& cause, const std::string& text);       // its capture
void default_stream_is_used();
void forget_captures();
std::shared_ptr<Operation> add_node(CUstream_st*, const std::string& name, std::function<void()> run);
void record_captured(CUevent_st*, CUstream_st*);
cudaError_t wait_captured(CUstream_st*, CUevent_st*);

// ---- around each function of the API (api.cpp)
cudaError_t injected(const char* function);
cudaError_t note(cudaError_t);                  // for cudaGetLastError
template <class F> auto api(const char* function, decltype(std::declval<F>()()) refused, F&& f) -> decltype(f()) {
    if (is_device_thread) {
        report("HOSTFN", function, concat(function, " is called in a function of cudaLaunchHostFunc, which must not call CUDA"));
        return refused;
    }
    const std::lock_guard lock(state_mutex());
    if (const cudaError_t e = injected(function)) return decltype(f())(e);
    if (const cudaError_t e = refused_in_capture(function)) return decltype(f())(e);
    return f();
}

}

struct CUstream_st {
    uint32_t actor = 0, clock = 0;
    merv::emulated_runtime::Clock knows;
    std::deque<std::shared_ptr<merv::emulated_runtime::Operation>> queue;
    std::shared_ptr<merv::emulated_runtime::Operation> last;
    std::string name;
    bool non_blocking = false, is_default = false, destroyed = false;
    unsigned priority = 0;                      // random, for the policy of that name
    uint64_t issued = 0, needed = 0;            // numbers of operations: somebody waits for those up to `needed`
    std::shared_ptr<merv::emulated_runtime::Capture> capture;
    std::vector<size_t> tips;                   // nodes that the next one captured follows
};
struct CUevent_st {
    std::shared_ptr<merv::emulated_runtime::Operation> operation;      // that records it; null: never recorded
    merv::emulated_runtime::Clock knows;
    bool timed = true, destroyed = false;
    std::shared_ptr<merv::emulated_runtime::Capture> capture;          // that it was recorded in, behind these nodes
    std::vector<size_t> nodes;
};
struct CUgraph_st {
    std::shared_ptr<const merv::emulated_runtime::Program> program;
    bool destroyed = false;
};
struct CUgraphExec_st {
    std::shared_ptr<const merv::emulated_runtime::Program> program;
    std::vector<CUstream_st*> lanes;            // for forks; [0] is not used
    std::shared_ptr<merv::emulated_runtime::Operation> launched;        // the last of the launch before, which the next one follows
    merv::emulated_runtime::Clock knows;
    bool destroyed = false;
};
