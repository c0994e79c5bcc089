// The emulator's state: blocks of threads, what they wait for, and what is under way for them. Internal to kernels/emu.
#pragma once
#include <bit>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>
#include "core/check.h"
#include "kernels/emu/cuda.h"

namespace merv::emu {

struct Thread;
struct Block;
struct Trace;

// ---- who did what, when: checked mode (check.cpp)
//
// A thread's clock counts the events others can learn of. A Record is an access; it lies before what thread t does now if t
// has heard of its clock. __syncthreads is the common case, so it only advances the block's epoch: records of an earlier
// epoch lie before everything now done in the block.
//
// Asynchronous work is done by actors, which count as further threads of the block: an mbarrier's loads, whose clock is the
// barrier's phase; a thread's stores, whose clock is the bulk group; and a warpgroup's wgmma, whose clock counts them. A thread that
// waits for the work hears of that clock. __syncthreads does not wait for actors, so their records have no epoch.
using Clocks = std::vector<uint32_t>;           // per thread and actor of the block
struct Record {
    uint32_t block = 0;                         // Block::serial; 0: none
    uint32_t clock = 0, epoch = 0;
    uint32_t where = 0;                         // index of a place in the source
    uint16_t thread = 0;                        // or actor
    uint8_t bytes : 2 = 0;                      // which of the cell's two
    uint8_t atomic : 1 = 0;
    uint8_t async : 1 = 0;                      // by an actor, through the async proxy
    uint8_t four : 1 = 0;                       // it is over when four actors' clocks have come: a warpgroup's warps
};
constexpr uint32_t kUnderWay = ~0u;             // clock of an asynchronous access nobody has waited for
constexpr uint32_t kNoEpoch = ~0u;              // of an actor's record
struct Cell { Record write, reads[3]; };        // of two bytes
constexpr size_t kCellBytes = 2;
struct Learned {                                // what is known of a block
    uint32_t epoch = 0;
    Clocks clocks, proxied;                     // proxied: up to there a thread's writes are visible to the async proxy
};
using Remote = std::map<uint32_t, std::shared_ptr<const Learned>>;              // by Block::serial

// ---- threads
enum class Wait { none, barrier, warp, spin, mbarrier, wgmma, cluster };
struct MBarrier;
// Blocks of a cluster see each other's shared memory, at other addresses than its owner does; shared addresses are the same for all.
struct Local { Block* block = nullptr; uint32_t address = 0; };                 // no block: not in shared memory
struct Segment { char *shared, *global; int first, last; };                     // bytes of 16 that lie in the tensor: [first, last)
struct Transfer {                               // TMA, under way
    enum Kind { load, store, add_f32, add_bf16 } kind;
    std::vector<Segment> segments;
    Local barrier;                              // of a load
    uint32_t phase;
    std::vector<char> taken;                    // of a store: what it has read
};
struct InFlight {                               // registers of wgmma up to number `last`
    const void* at;
    uint32_t last;
    std::vector<uint32_t> held;                 // until it is waited for: A, or NaN in an accumulator
    std::vector<float> sums;                    // an accumulator's
};
struct Touched { uintptr_t begin, end; };
struct Copy { char* to; const char* from; int bytes, valid; uint32_t where; };  // cp.async
struct Thread {
    void* stack_pointer = nullptr;
    char* stack = nullptr;                      // kStack bytes
    Block* block = nullptr;
    uint3 index{};
    int number = 0;                             // in the block
    bool done = false;

    Wait wait = Wait::none;
    Site site{};                                // where it waits
    WarpOp op{};
    unsigned mask = 0;
    void* lane = nullptr;                       // its part of a warp operation

    uint32_t mbarrier = 0;                      // it waits for, and its ...
    uint32_t parity = 0;
    bool at_cluster_barrier = false;            // arrived, and has not waited yet, in ...
    uint32_t cluster_phase = 0;
    std::vector<Transfer> stores;               // not committed yet
    std::deque<std::vector<Transfer>> store_groups;
    uint32_t stores_committed = 0, stores_read = 0, stores_done = 0;            // groups
    uint16_t reader = 0, writer = 0;            // actors: its stores' reading of shared, writing of global memory

    uint32_t products = 0, products_waited = 0; // wgmma
    std::vector<uint32_t> product_groups;       // committed: how many products there were
    bool registers_fenced = false;              // wgmma.fence since the last wait
    std::vector<InFlight> in_flight;
    std::vector<Touched> touched;               // its stack, since wgmma.fence
    std::vector<std::pair<int, Site>> register_limits;      // by setmaxnreg

    std::vector<Copy> copies;                   // not committed yet
    std::deque<std::vector<Copy>> groups;       // committed, oldest first

    uint32_t clock = 1;
    Learned knows;                              // of its own block; clocks of the other threads and of actors
    Remote remote, offered;                     // of other blocks: heard; read by an atomic, heard after the next fence
    bool has_fenced = false;
    Learned fenced;                             // what it knew at its last fence

    Trace* trace = nullptr;                     // counted mode: what it did since its warp last stood together
};

struct Barrier { int threads = 0; std::vector<Thread*> in, waiting; Site first{}; };
struct WarpGroup { unsigned mask, in; WarpOp op; Site site; };                  // lanes that wait for each other
struct WarpState { unsigned done = 0; std::vector<WarpGroup> groups; };

struct MBarrier {
    uint32_t count = 0, pending = 0;            // arrivals
    uint32_t phase = 0;                         // phases completed
    int64_t bytes = 0;                          // expected and not yet come
    int loads = 0;                              // under way in this phase
    uint32_t loaded = 0, seen = 0;              // the last phase with a load, and the last one a thread has waited for, from 1 on
    bool fenced = false;                        // visible to TMA and to the cluster
    uint16_t actor = 0;
    Record init;
    Remote arrived, completed;                  // what those who arrived knew
};
struct Product {                                // one wgmma of a warpgroup
    Wgmma what;
    Site site;
    bool sound = true;                          // its descriptors are
    unsigned threads = 0, warps = 0;            // that have issued it
    float* d[128] = {};
    uint32_t a[128][4] = {};                    // A where it lies in registers
};
struct Warpgroup {
    std::deque<Product> products;
    uint32_t done = 0;                          // products computed: the number of the one before products.front()
    uint16_t actor = 0;                         // of its first warp
};
struct Cluster {
    uint32_t first = 0;                         // serial of its first block
    std::vector<Block*> blocks;                 // by rank
    int live = 0, arrived = 0;                  // threads, of all its blocks
    uint32_t phase = 0;
    Remote offered, heard;
};

struct Shared {                                 // what a block needs for its shared memory, and the next in its place too
    char* dynamic_end = nullptr;                // an unreadable page
    std::vector<char> statics;                  // its static variables while another block runs
    std::vector<Cell> dynamic_cells, static_cells;
};
struct Block {
    uint32_t serial = 0;
    std::shared_ptr<Cluster> cluster;
    unsigned rank = 0;                          // in the cluster
    std::map<uint32_t, MBarrier> mbarriers;    // by shared address
    std::deque<Transfer> loads;                 // under way
    Warpgroup warpgroups[8];
    uint16_t actors = 0;
    bool uses_proxies = false;                  // or has actors
    Learned common;                             // what all threads have heard by __syncthreads: of actors, and of proxies
    uint3 index{};
    int live = 0;
    std::vector<Thread*> threads;
    std::deque<Thread*> ready;
    std::vector<Thread*> spinning;
    Barrier barriers[16];
    WarpState warps[32];
    char* dynamic = nullptr;                    // in ...
    Shared shared;
    uint32_t epoch = 1;
    Remote remote;                              // what all its threads have heard of other blocks
};

// ---- fiber.cpp: stacks, and changing from one to another
constexpr size_t kStack = 128 << 10;
char* new_stack();                              // an unreadable page on both sides
void prepare(Thread&, void (*entry)());
extern "C" void switch_stacks(void** save, void* to);

// ---- run.cpp: launches and schedules
extern Thread* current;                         // null: the host
extern const Call* launched;
void wait_for(Wait, Site);                      // lets others run; returns once woken
void wake(Thread&);
unsigned random_bits();
Order order();
void abandon();                                 // the launch: back to the host, from inside a kernel

// ---- memory.cpp: what addresses mean
constexpr size_t kMostStatic = 49152, kMostShared = 232448, kReserved = 1024;        // sm_90: dynamic and static; what each block loses to the system
struct Place {                                  // of a byte
    enum Kind { unknown, stack, arguments, dynamic_shared, static_shared, global, program } kind = unknown;
    uintptr_t begin = 0, end = 0;               // of the object it lies in, or just misses by less than a page
    Block* owner = nullptr;                     // of shared memory
    std::string name() const;
};
Place place_of(uintptr_t address);
Cell* cells_of(const Place&, uintptr_t address);
Local local_of(const void*);
char* from_here(const Local&);                  // as the running block sees it
char* shared_pointer(uint32_t shared_address);  // of the running block; not checked
void find_statics();                            // in the program's symbol table
size_t static_bytes(const void* kernel);        // of shared memory; without those of functions it calls. Once per launch.
void open_shared(Block&, size_t dynamic_bytes); // NaN everywhere
void exchange_statics(Block* leaves, Block* enters);    // leaves: may be null
std::string describe(uintptr_t address);

// ---- collective.cpp
void leave_collectives(Thread&);                // it exits: barriers no longer wait for it
void leave_cluster(Thread&);

// ---- copy.cpp
void finish_copies(Thread&);

// ---- asynchronous work of sm_90
bool carry_out_load(Block&);                    // one of those under way, if there are any (tma.cpp)
void arrive_bytes(const Local& mbarrier, uint32_t phase, int64_t bytes);        // a load's (mbarrier.cpp)
MBarrier* mbarrier_at(const Local&, const char* what, Site);                    // null, and reported: there is none
std::string describe_mbarrier(const Thread&);   // what it waits for there
void finish_async(Thread&);                     // the thread exits: reports what it has not waited for
void finish_mbarriers(Block&);                  // the block exits
void finish_products(Block&);                   // reports those that not all have issued
void finish_registers(Block&);
void throw_reports();                           // unless they are collected (report.cpp)
void saw_registers(uintptr_t address, size_t bytes, const void* instruction);   // checked: the running thread's stack (wgmma.cpp)

// ---- report.cpp
void report(const std::string& kind, const std::string& cause, const std::string& what);      // cause: one report per kind and cause
std::string name_of(const Thread&);
const char* name_of(WarpOp);
inline float float_of(uint32_t pair, int half) { return std::bit_cast<float>(half ? pair & 0xffff0000 : pair << 16); }      // of two bf16
std::string name_of(Site);                      // file:line
template <class... A> void wrong(const char* kind, Site site, const A&... what) {      // of what the running thread does
    report(kind, name_of(site), concat(what..., ", by ", name_of(*current), " at ", name_of(site)));
}
inline bool operator==(Site a, Site b) { return a.line == b.line && a.file == b.file; }
uint32_t where_is(Site);
uint32_t where_is(const void* instruction);
std::string place_name(uint32_t where);
struct Source { std::string function, line; };  // function: not inlined; line: "norm.cu:57", of the functions inlined there the innermost's of a .cu file
std::vector<Source> sources(const std::vector<const void*>& instructions);      // return addresses
void prepare_place_names(const std::vector<uint32_t>& places);                  // all at once: much faster than one by one

// ---- check.cpp; no-ops unless the launch is checked
enum : unsigned { kRead = 0, kWrite = 1, kAtomic = 2, kCopy = 4 };
struct Hooks { void (*host)(uintptr_t, size_t, bool write, const void* instruction), (*global)(uintptr_t, size_t, bool write, uint32_t where); };
inline Hooks hooks{[](uintptr_t, size_t, bool, const void*) {}, nullptr};       // of kernels/emu/runtime: sees host code's accesses, and kernels' to global memory
bool checking();
void begin_checks(Block&);
void access(uintptr_t address, size_t bytes, unsigned kind, uint32_t where, const Record* as = nullptr);     // as: an actor's record
void see(uintptr_t address, size_t bytes, unsigned kind, uint32_t where);        // access or count_access
Record record(unsigned kind, uint32_t where);   // of an access by the running thread
bool before_now(const Record&);                 // by the program's own synchronisation
uint16_t new_actors(Block&, int n);             // the first of n
Record record_of(const Block&, uint16_t actor, uint32_t clock, uint32_t where, unsigned kind);
void hear(Thread&, size_t actor, uint32_t clock);       // its work has been waited for
uint32_t heard_of(const Thread&, size_t actor);
void fence_proxy(Thread&);
void offer_clocks(Remote& to);
void hear_clocks(const Remote& from);
void begin_copy(uintptr_t shared, size_t bytes, uint32_t where);        // its bytes belong to the copy ...
void end_copy(uintptr_t shared, size_t bytes, uint32_t where);          // ... until this thread has waited for it
void meet_all(Block&);                          // __syncthreads
void meet(const std::vector<Thread*>&);         // those threads, whatever they are
void fence_clocks(Thread&);
void release_clocks(const void* p);
void acquire_clocks(const void* p);

// ---- count.cpp; called for counted launches only, but for the first three
bool counting();
bool note_dry();                                // whether the launch is only to be noted
std::vector<const void*> counted_kernels();     // so far, in this program
void begin_counts();                            // of the launch
void begin_counts(Block&);
void end_counts(Block&);
void end_counts();
void count_access(uintptr_t address, size_t bytes, unsigned kind, uint32_t where);
void count_warp(WarpOp, unsigned mask, Thread* const (&lanes)[32], Site);       // a warp operation, when its last lane has come
void count_barrier(const std::vector<Thread*>& waiting, Site);                  // likewise
void count_together(const std::vector<Thread*>&);                               // whole warps that stand together: what they did is replayed and forgotten
void count_tensor(Counted what, double flops, size_t shared_bytes, Site);       // a wgmma: once per warpgroup; operands it reads from shared memory
void count_bulk(uintptr_t global, size_t bytes, bool store, Site);              // a row of a TMA copy; its other end by count_wavefronts
void count_wavefronts(Counted what, size_t bytes, Site);                        // conflict-free, 128 bytes each

}
