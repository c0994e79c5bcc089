#include <csignal>
#include <memory>
#include <ucontext.h>
#include "kernels/emu/machine.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace merv::emu {

Thread* current;
const Call* launched;

namespace {

constexpr size_t kResident = 108;               // blocks at once: one per multiprocessor of an A100

Order the_order = Order::fifo;
unsigned seed = 1;
void* host_stack;
bool abandoned;
Block* running;                                 // whose static shared memory is in place
uint64_t happened;                              // counts what a spinning thread may be waiting for
uint32_t serial;
std::vector<std::unique_ptr<Thread>> spare;     // stacks are kept
std::vector<std::unique_ptr<Block>> resident, retired;

template <class T> std::unique_ptr<T> take(std::vector<std::unique_ptr<T>>& from) {
    if (from.empty()) return std::make_unique<T>();
    auto one = std::move(from.back());
    from.pop_back();
    return one;
}
Thread* new_thread() {
    Thread* t = take(spare).release();
    char* stack = t->stack ? t->stack : new_stack();
    *t = Thread{};
    t->stack = stack;
    return t;
}
Block* new_block() {
    resident.push_back(take(retired));
    Block& b = *resident.back();
    Shared shared = std::move(b.shared);
    b = Block{};
    b.shared = std::move(shared);
    return &b;
}

void go_to(Thread* t) {                         // null: the host
    void** save = current ? &current->stack_pointer : &host_stack;
    current = t;
    if (t) t->wait = Wait::none, threadIdx = t->index;
    switch_stacks(save, t ? t->stack_pointer : host_stack);
}

Thread* next_ready(Block& b) {
    if (the_order == Order::seeded && !b.loads.empty() && random_bits() % 4 == 0) carry_out_load(b);
    while (b.ready.empty()) if (!carry_out_load(b)) return nullptr;
    if (the_order == Order::seeded) std::swap(b.ready.front(), b.ready[random_bits() % b.ready.size()]);
    Thread* t;
    if (the_order == Order::lifo) t = b.ready.back(), b.ready.pop_back();
    else t = b.ready.front(), b.ready.pop_front();
    return t;
}

// The current thread cannot go on: another of its block, or the host, which looks at other blocks.
void leave() {
    Thread* t = abandoned ? nullptr : next_ready(*current->block);
    if (t == current) current->wait = Wait::none;
    else go_to(t);
}

void thread_main() {
    launched->run(launched->arguments);
    Thread& t = *current;
    t.done = true;
    t.block->live--;
    happened++;
    finish_copies(t);
    finish_async(t);
    leave_collectives(t);
    leave_cluster(t);
    if (t.block->live == 0) finish_mbarriers(*t.block), finish_products(*t.block), finish_registers(*t.block);
    leave();
    __builtin_unreachable();
}

std::string waiting(const std::vector<Block*>& blocks) {
    struct Group { int count = 0; std::string first; };
    std::map<std::string, Group> groups;
    for (Block* b : blocks)
        for (Thread* t : b->threads) {
            if (t->done) continue;
            std::string what[] = {"nothing", "a barrier", "", "a value in memory that does not come", "", "wgmma, which not all of the warpgroup have issued,", "the cluster's barrier"};
            if (t->wait == Wait::warp) what[int(Wait::warp)] = concat(name_of(t->op), " of lanes ", std::hex, "0x", t->mask);
            if (t->wait == Wait::mbarrier) what[int(Wait::mbarrier)] = describe_mbarrier(*t);
            Group& g = groups[concat("wait for ", what[int(t->wait)], " at ", name_of(t->site))];
            if (g.count++ == 0) g.first = name_of(*t);
        }
    std::string all;
    for (const auto& [what, g] : groups) all += concat("\n    ", g.count, " threads ", what, ", the first: ", g.first);
    return all;
}

void start_block(uint3 index, const std::shared_ptr<Cluster>& cluster) {
    Block* b = new_block();
    const int n = int(blockDim.x * blockDim.y * blockDim.z);
    b->serial = ++serial;
    b->index = index;
    b->live = n;
    if (cluster->blocks.empty()) cluster->first = serial;
    b->cluster = cluster;
    b->rank = unsigned(cluster->blocks.size());
    cluster->blocks.push_back(b);
    cluster->live += n;
    for (int i = 0; i < n; i++) {
        Thread& t = *new_thread();
        t.block = b;
        t.number = i;
        const unsigned u = unsigned(i);
        t.index = {u % blockDim.x, u / blockDim.x % blockDim.y, u / (blockDim.x * blockDim.y)};
        prepare(t, thread_main);
        b->threads.push_back(&t);
        b->ready.push_back(&t);
    }
    open_shared(*b, launched->smem);
    begin_checks(*b);
    if (counting()) begin_counts(*b);
}

// The blocks of the i-th cluster in the grid, x fastest. They are resident together.
void start_cluster(uint64_t i) {
    const dim3 c = launched->cluster, n{gridDim.x / c.x, gridDim.y / c.y, gridDim.z / c.z};
    const uint3 corner{unsigned(i % n.x) * c.x, unsigned(i / n.x % n.y) * c.y, unsigned(i / n.x / n.y) * c.z};
    const auto cluster = std::make_shared<Cluster>();
    for (unsigned k = 0; k < c.x * c.y * c.z; k++) start_block({corner.x + k % c.x, corner.y + k / c.x % c.y, corner.z + k / c.x / c.y}, cluster);
}

void retire(size_t i) {
    Block& b = *resident[i];
    if (running == &b) running = nullptr;
    if (counting()) end_counts(b);
    for (Thread* t : b.threads) spare.emplace_back(t);
    retired.push_back(std::move(resident[i]));
    resident.erase(resident.begin() + long(i));
}

// Until no thread of the block can go on by itself
void run_block(Block& b) {
    if (running != &b) {
        exchange_statics(running, &b);
        running = &b;
    }
    blockIdx = b.index;
    for (Thread* t : b.spinning) b.ready.push_back(t);
    b.spinning.clear();
    if (Thread* t = next_ready(b)) go_to(t);
}

void run_grid() {
    const uint64_t together = uint64_t(launched->cluster.x) * launched->cluster.y * launched->cluster.z;
    const uint64_t blocks = uint64_t(gridDim.x) * gridDim.y * gridDim.z;
    uint64_t started = 0, last_change = happened;
    auto deadlock = [](const std::vector<Block*>& blocks, const std::string& what) {
        for (Block* b : blocks) finish_products(*b);
        report("DEADLOCK", "", what + waiting(blocks));
        abandoned = true;
    };
    size_t turn = 0, idle = 0;                  // idle: blocks that have been tried since something happened
    while (!abandoned && (started < blocks || !resident.empty())) {
        if (resident.empty() || (idle >= resident.size() && started < blocks && resident.size() < kResident)) {
            turn = resident.size();
            start_cluster(started / together);
            started += together, idle = 0;
        } else if (idle >= resident.size()) {
            std::vector<Block*> all;
            for (const auto& b : resident) all.push_back(b.get());
            deadlock(all, concat("no thread can go on, ", started, " of ", blocks, " blocks have started:"));
            break;
        }
        turn %= resident.size();
        Block& b = *resident[turn];
        run_block(b);
        if (abandoned) break;
        if (b.cluster->live == 0) {      // its blocks' shared memory stays until the last of them exits
            const Cluster* done = b.cluster.get();
            for (size_t i = resident.size(); i-- > 0;) if (resident[i]->cluster.get() == done) retire(i);
            idle = 0;
        } else if (together == 1 && b.spinning.empty() && b.ready.empty()) {
            deadlock({&b}, "no thread of the block can go on:");
        } else {
            idle = happened == last_change ? idle + 1 : 0;
            turn++;
        }
        last_change = happened;
    }
    while (!resident.empty()) retire(resident.size() - 1);
}

// ---- faults of the host process inside a kernel

char signal_stack[64 << 10];
std::string fault;

void after_fault() {                            // on the fiber's stack, which goes on no further
    report(fault.substr(0, fault.find(':')), fault, fault.substr(fault.find(':') + 2));
    abandon();
}
void on_signal(int number, siginfo_t* info, void* context) {
    auto* machine = static_cast<ucontext_t*>(context);
    if (!current) {                             // not ours
        std::signal(number, SIG_DFL);
        return;
    }
#ifdef __x86_64__
    auto& registers = machine->uc_mcontext.gregs;
    const std::string where = place_name(where_is(reinterpret_cast<const void*>(registers[REG_RIP] + 1)));
    if (number == SIGILL) fault = concat("ALIGN: misaligned access, or a local array overrun, by ", name_of(*current), " at ", where);
    else fault = concat("ACCESS: ", name_of(*current), " touches ", describe(uintptr_t(info->si_addr)), " at ", where);
    registers[REG_RSP] = (registers[REG_RSP] - 4096) / 16 * 16 - 8;
    if (uintptr_t(registers[REG_RSP]) < uintptr_t(current->stack)) registers[REG_RSP] = greg_t(uintptr_t(current->stack) + kStack / 2) - 8;     // it overflowed
    registers[REG_RIP] = greg_t(&after_fault);
#else
    (void)info, (void)machine;
    std::signal(number, SIG_DFL);
#endif
}

struct Signals {                                // caught in scope
    struct sigaction old[3];
    stack_t old_stack;
    static constexpr int numbers[] = {SIGSEGV, SIGBUS, SIGILL};
    Signals() {
        stack_t s{};
        s.ss_sp = signal_stack, s.ss_size = sizeof signal_stack;
        sigaltstack(&s, &old_stack);
        struct sigaction a{};
        a.sa_sigaction = on_signal;
        a.sa_flags = SA_SIGINFO | SA_ONSTACK;
        for (int i = 0; i < 3; i++) sigaction(numbers[i], &a, &old[i]);
    }
    ~Signals() {
        for (int i = 0; i < 3; i++) sigaction(numbers[i], &old[i], nullptr);
        sigaltstack(&old_stack, nullptr);
    }
};

bool launchable(const Call& c) {
    const uint64_t threads = uint64_t(c.block.x) * c.block.y * c.block.z;
    auto refuse = [](const auto&... why) { report("LAUNCH", concat(why...), concat(why...)); return false; };
    auto size = [](dim3 d) { return concat("(", d.x, ", ", d.y, ", ", d.z, ")"); };
    if (!c.grid.x || !c.grid.y || !c.grid.z || !threads) return refuse("an empty grid or block: grid ", size(c.grid), ", block ", size(c.block));
    if (threads > 1024 || c.block.z > 64) return refuse("a block has at most 1024 threads and 64 in z, not ", size(c.block));
    if (c.grid.x > 0x7fffffffu || c.grid.y > 65535 || c.grid.z > 65535) return refuse("a grid has at most 2^31 - 1, 65535 and 65535 blocks, not ", size(c.grid));
    if (!c.cluster.x || !c.cluster.y || !c.cluster.z || c.cluster.x * c.cluster.y * c.cluster.z > 8) return refuse("a cluster has 1 to 8 blocks, not ", size(c.cluster));
    if (c.grid.x % c.cluster.x || c.grid.y % c.cluster.y || c.grid.z % c.cluster.z) return refuse("the grid ", size(c.grid), " is not made of whole clusters ", size(c.cluster));
    if (c.argument_bytes > 32764) return refuse("a kernel takes at most 32764 bytes of arguments, not ", c.argument_bytes);
    const size_t fixed = static_bytes(*static_cast<void**>(c.arguments)), all = c.smem ? (fixed + 1023) / 1024 * 1024 + c.smem : fixed;   // dynamic memory is 1024-byte aligned
    if (fixed > kMostStatic) return refuse("static shared memory is at most ", kMostStatic, " bytes, not ", fixed);
    if (all > kMostShared) return refuse("a block has at most ", kMostShared, " bytes of shared memory, not ", all);
    return true;
}

}

Order order() { return the_order; }
unsigned random_bits() {
    seed ^= seed << 13, seed ^= seed >> 17, seed ^= seed << 5;
    return seed;
}
void set_schedule(Order o, unsigned s) { the_order = o, seed = s ? s : 1; }

void wait_for(Wait why, Site site) {
    current->wait = why;
    current->site = site;
    leave();
}
void wake(Thread& t) {
    happened++;
    t.wait = Wait::none;
    t.block->ready.push_back(&t);
}
void abandon() {
    abandoned = true;
    go_to(nullptr);
}
void spin(Site site) {
    current->block->spinning.push_back(current);
    wait_for(Wait::spin, site);
}
void spun() { happened++; }
void fence() { if (checking()) fence_clocks(*current); }
void trap(const char* what, Site site) {
    report("TRAP", name_of(site), concat(what, ", by ", name_of(*current), " at ", name_of(site)));
    abandon();
}

void run(const Call& call) {
    CHECK(!current && !launched, "a kernel is launched from the host");
    find_statics();
    launched = &call;
    if (launchable(call) && !note_dry()) {
        gridDim = call.grid, blockDim = call.block;
        abandoned = false;
        const Signals caught;
        if (counting()) begin_counts();
        run_grid();
        current = nullptr, running = nullptr;
        if (counting()) end_counts();
    }
    launched = nullptr;
    throw_reports();
}

}
