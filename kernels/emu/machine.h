// The emulator's state: blocks of threads, what they wait for, and what is under way for them. Internal to kernels/emu.
#pragma once
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>
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
using Clocks = std::vector<uint32_t>;           // per thread of the block
struct Record {
    uint32_t block = 0;                         // Block::serial; 0: none
    uint32_t clock = 0, epoch = 0;
    uint32_t where = 0;                         // index of a place in the source
    uint16_t thread = 0;
    uint8_t bytes = 0;                          // which of the cell's two
    uint8_t atomic = 0;
};
constexpr uint32_t kUnderWay = ~0u;             // clock of an asynchronous access nobody has waited for
struct Cell { Record write, reads[3]; };        // of two bytes
constexpr size_t kCellBytes = 2;
struct Learned { uint32_t epoch; Clocks clocks; };                              // what is known of another block
using Remote = std::map<uint32_t, std::shared_ptr<const Learned>>;              // by Block::serial

// ---- threads
enum class Wait { none, barrier, warp, spin };
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

    std::vector<Copy> copies;                   // not committed yet
    std::deque<std::vector<Copy>> groups;       // committed, oldest first

    uint32_t clock = 1;
    Clocks heard;                               // of the other threads
    Remote remote, offered;                     // of other blocks: heard; read by an atomic, heard after the next fence
    uint32_t fenced_clock = 0, fenced_epoch = 0;    // at its last fence
    Clocks fenced_heard;

    Trace* trace = nullptr;                     // counted mode: what it did since its warp last stood together
};

struct Barrier { int threads = 0; std::vector<Thread*> in, waiting; Site first{}; };
struct WarpGroup { unsigned mask, in; WarpOp op; Site site; };                  // lanes that wait for each other
struct WarpState { unsigned done = 0; std::vector<WarpGroup> groups; };

struct Block {
    uint32_t serial = 0;
    uint3 index{};
    int live = 0;
    std::vector<Thread*> threads;
    std::deque<Thread*> ready;
    std::vector<Thread*> spinning;
    Barrier barriers[16];
    WarpState warps[32];
    char *dynamic = nullptr, *dynamic_end = nullptr;    // dynamic_end: an unreadable page
    std::vector<char> statics;                  // its static shared memory while another block runs
    uint32_t epoch = 1;
    Remote remote;                              // what all its threads have heard of other blocks
    std::vector<Cell> dynamic_cells, static_cells;
};

// ---- fiber.cpp: stacks, and changing from one to another
constexpr size_t kStack = 128 << 10;
char* new_stack();                              // an unreadable page below
void prepare(Thread&, void (*entry)());
void switch_stacks(void** save, void* to);

// ---- run.cpp: launches and schedules
extern Thread* current;                         // null: the host
extern const Call* launched;
void wait_for(Wait, Site);                      // lets others run; returns once woken
void wake(Thread&);
unsigned random_bits();
Order order();
void abandon();                                 // the launch: back to the host, from inside a kernel

// ---- memory.cpp: what addresses mean
constexpr size_t kMostShared = 232448, kReserved = 1024;        // sm_90: dynamic and static; what each block loses to the system
struct Place {                                  // of a byte
    enum Kind { stack, arguments, dynamic_shared, static_shared, global, program, unknown } kind = unknown;
    uintptr_t begin = 0, end = 0;               // of the object it lies in, or just misses by less than a page
    std::string name() const;
};
Place place_of(uintptr_t address);
Cell* cells_of(const Place&, uintptr_t address);
void find_statics();                            // in the program's symbol table
void open_shared(Block&, size_t dynamic_bytes); // NaN everywhere
void close_shared(Block&);
void enter_statics(Block&);
void leave_statics(Block&);
std::string describe(uintptr_t address);

// ---- collective.cpp
void leave_collectives(Thread&);                // it exits: barriers no longer wait for it

// ---- copy.cpp
void finish_copies(Thread&);

// ---- report.cpp
void report(const std::string& kind, const std::string& cause, const std::string& what);      // cause: one report per kind and cause
std::string name_of(const Thread&);
std::string name_of(Site);                      // file:line
uint32_t where_is(Site);
uint32_t where_is(const void* instruction);
std::string place_name(uint32_t where);
struct Source { std::string function, line; };  // function: not inlined; line: "norm.cu:57", of the functions inlined there the innermost's of a .cu file
std::vector<Source> sources(const std::vector<const void*>& instructions);      // return addresses
void prepare_place_names(const std::vector<uint32_t>& places);                  // all at once: much faster than one by one

// ---- check.cpp; no-ops unless the launch is checked
enum : unsigned { kRead = 0, kWrite = 1, kAtomic = 2, kCopy = 4 };
bool checking();
void begin_checks(Block&);
void access(uintptr_t address, size_t bytes, unsigned kind, uint32_t where);
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
