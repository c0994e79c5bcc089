// Streams are queues of operations. One thread, the device, runs what the policy and the waiting host ask for.
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <thread>
#include "kernels/emu/runtime/state.h"

namespace merv::emulated_runtime {

thread_local bool is_device_thread = false;
RecordId running = 0;
bool in_host_function = false;

namespace {

Policy policy = Policy::late;
unsigned spare = 0;                             // operations that may run although nobody waits for them
cudaError_t sticky = cudaSuccess;
std::atomic<double> hang_seconds = 600;

std::vector<CUstream_st*>& streams() {          // never destroyed: events and late calls may name them
    static auto* all = new std::vector<CUstream_st*>;
    return *all;
}
CUstream_st* default_stream = nullptr;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// ---- the device thread: given work by one thread at a time, which holds the state's mutex and waits

class DeviceThread {
  public:
    DeviceThread() { std::thread([this] { loop(); }).detach(); }
    void run(const std::function<void()>& work) {
        std::unique_lock lock(mutex_);
        work_ = &work;
        changed_.notify_all();
        const auto limit = std::chrono::duration<double>(hang_seconds.load());
        if (changed_.wait_for(lock, limit, [&] { return !work_; })) return;
        report("HANG", name_of(running), concat("the host has waited ", hang_seconds.load(), " seconds for ", name_of(running)));
        changed_.wait(lock, [&] { return !work_; });
    }

  private:
    void loop() {
        is_device_thread = true;
        std::unique_lock lock(mutex_);
        for (;;) {
            changed_.wait(lock, [&] { return work_; });
            const auto* work = work_;
            lock.unlock();
            (*work)();
            lock.lock();
            work_ = nullptr;
            changed_.notify_all();
        }
    }
    std::mutex mutex_;
    std::condition_variable changed_;
    const std::function<void()>* work_ = nullptr;
};

void on_device(const std::function<void()>& work) {
    static auto* device = new DeviceThread;     // never destroyed, as the thread never ends
    open_device_memory(true);
    device->run(work);
    open_device_memory(false);
}

// ---- what may run, and what runs next

bool is_needed(const Operation& o) { return o.number <= o.stream->needed; }
bool can_run(const Operation& o) { return std::all_of(o.after.begin(), o.after.end(), [](const auto& x) { return x->done; }); }

// Marks it and all that lies before it. Each stream remembers how far, so that each operation is looked at once.
void need(Operation* first) {
    std::vector<Operation*> todo{first};
    while (!todo.empty()) {
        Operation* o = todo.back();
        todo.pop_back();
        CUstream_st& s = *o->stream;
        if (o->done || is_needed(*o)) continue;
        const uint64_t front = s.queue.front()->number;
        for (uint64_t n = std::max(s.needed + 1, front); n <= o->number; n++)
            for (const auto& x : s.queue[n - front]->after) todo.push_back(x.get());
        s.needed = o->number;
    }
}

bool eager(const CUstream_st& s) { return policy == Policy::eager || (policy == Policy::random && s.priority % 2); }

Operation* choose() {
    std::vector<Operation*> ready;
    for (CUstream_st* s : streams()) {
        if (s->queue.empty()) continue;
        Operation* o = s->queue.front().get();
        if ((is_needed(*o) || (spare && eager(*s))) && can_run(*o)) ready.push_back(o);
    }
    if (ready.empty()) return nullptr;
    if (policy == Policy::eager) return ready.front();
    Operation* one = ready[random_bits() % ready.size()];
    if (policy == Policy::random && random_bits() % 8)
        for (Operation* o : ready) if (o->stream->priority > one->stream->priority) one = o;
    return one;
}

void carry_out(Operation* o) {
    if (spare && !is_needed(*o)) spare--;
    running = o->record;
    try {
        if (o->run) o->run();
    } catch (const std::exception& e) {         // emu::run's reports, where nobody collects them
        report("KERNEL", e.what(), e.what());
        sticky = cudaErrorLaunchFailure;
    }
    running = 0;
    o->seconds = now();
    const auto kept = o->stream->queue.front();
    o->stream->queue.pop_front();
    o->done = true;
    o->after.clear();
    o->run = nullptr;
}

void run_ready() {
    if (!choose()) return;
    on_device([] { while (Operation* o = choose()) carry_out(o); });
}

}

std::recursive_mutex& state_mutex() {
    static auto* m = new std::recursive_mutex;
    return *m;
}

CUstream_st* new_stream(bool non_blocking) {
    auto* s = new CUstream_st;
    s->actor = uint32_t(streams().size() + 1);
    s->non_blocking = non_blocking;
    s->priority = random_bits();
    s->name = concat("stream ", s->actor);
    streams().push_back(s);
    return s;
}
CUstream_st* stream_of(cudaStream_t s) {
    if (s && s != cudaStreamLegacy && s != cudaStreamPerThread) {
        if (s->destroyed) report("STREAM", s->name, s->name + " is used after it was destroyed");
        return s;
    }
    default_stream_is_used();
    if (!default_stream) default_stream = new_stream(false), default_stream->is_default = true, default_stream->name = "the default stream";
    return default_stream;
}

std::shared_ptr<Operation> issue(CUstream_st* s, const std::string& name, std::function<void()> run, const std::shared_ptr<Operation>& after, const Clock* knows) {
    if (s->capture) return add_node(s, name, std::move(run));
    const auto o = std::make_shared<Operation>();
    join(s->knows, host.knows);
    auto follow = [&](const std::shared_ptr<Operation>& other, const Clock& what_it_knows) {
        if (other && !other->done) o->after.push_back(other);
        join(s->knows, what_it_knows);
    };
    if (after) follow(after, *knows);
    // The default stream and the others wait for each other, but for those created with cudaStreamNonBlocking
    for (CUstream_st* other : streams())
        if (other != s && other->last && !other->non_blocking && !s->non_blocking && (s->is_default || other->is_default)) follow(other->last, other->knows);
    raise(s->knows, s->actor, ++s->clock);
    o->stream = s;
    o->number = ++s->issued;
    o->run = std::move(run);
    o->record = new_record(s->actor, s->clock, s->knows, concat(name, " on ", s->name));
    s->queue.push_back(o);
    s->last = o;
    next_host_record();
    if (policy == Policy::eager) spare = ~0u;
    if (policy == Policy::random) spare += random_bits() % 8;
    run_ready();
    return o;
}

cudaError_t wait_for(const std::vector<std::shared_ptr<Operation>>& operations) {
    for (const auto& o : operations) if (o) need(o.get());
    run_ready();
    return sticky;
}
cudaError_t synchronize(CUstream_st* s) {
    const cudaError_t e = wait_for({s->last});
    host_learns(s->knows);
    trim_pool(release_threshold);
    return e;
}
cudaError_t synchronize_all(bool host_knows) {
    std::vector<std::shared_ptr<Operation>> all;
    for (const CUstream_st* s : streams()) all.push_back(s->last);
    const cudaError_t e = wait_for(all);
    if (host_knows) host_learns(all_work()), trim_pool(release_threshold);
    return e;
}
Clock all_work() {
    Clock all;
    for (const CUstream_st* s : streams()) join(all, s->knows);
    return all;
}
bool idle() { return std::all_of(streams().begin(), streams().end(), [](const CUstream_st* s) { return s->queue.empty(); }); }

void run_one_towards(const std::shared_ptr<Operation>& wanted) {
    need(wanted.get());
    Operation* o = choose();
    if (o) on_device([o] { carry_out(o); });
}

void run_host_function(cudaHostFn_t f, void* argument) {
    open_device_memory(false);
    in_host_function = true;
    f(argument);
    in_host_function = false;
    open_device_memory(true);
}

void set_sticky(cudaError_t e) { sticky = e; }

// ---- control

void forget_injected();

void configure(Policy p, unsigned seed) {
    finish();
    const std::lock_guard lock(state_mutex());
    policy = p;
    seed_random(seed);
    for (CUstream_st* s : streams()) s->priority = random_bits();
    spare = 0;
    sticky = cudaSuccess;
    forget_injected(), forget_captures();
    fail_allocations_after(~size_t(0));
}
void finish() {
    const std::lock_guard lock(state_mutex());
    synchronize_all(false);
}
int submit(CUstream_st* stream, std::string name, std::function<void()> run) {
    return note(api("cudaLaunchKernel", cudaErrorNotPermitted, [&] {
        issue(stream_of(stream), "kernel " + name, std::move(run));
        return cudaSuccess;
    }));
}
void set_hang_seconds(double seconds) { hang_seconds = seconds; }

}
