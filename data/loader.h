// Samples read ahead by threads and handed over in order. What comes out does not depend on the number of threads.
#pragma once
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>
#include <omp.h>
#include "core/check.h"
#include "core/log.h"
#include "core/rng.h"

namespace merv {

enum class OnBadSample { fail, skip, substitute };

struct LoaderOptions {
    int64_t workers = 2;                        // threads; 0: next() reads
    int64_t ahead = 16;                         // samples read and not yet handed over, at most
    double timeout = 0;                         // seconds for reading one, after which its thread is given up; 0: none, as without threads
    OnBadSample on_bad = OnBadSample::fail;
    uint64_t seed = 7;
    int64_t samples = 0;                        // in the dataset: substitutes are drawn from all of them
    std::function<bool(int64_t wanted, int64_t instead)> may_replace = {};     // none: any may
    std::function<std::string(int64_t index)> name = {};                       // of a sample, for messages
};

// The sample read in place of `index`, try 0, 1, ..: a pure function of seed and index.
inline int64_t substitute_for(uint64_t seed, int64_t index, int64_t attempt, int64_t samples) {
    return int64_t(Rng(seed, "substitute").uniform(uint64_t(index) * 64 + uint64_t(attempt)) * double(samples));
}

// What read() refers to has to outlive threads that were given up.
template <class Item> class Loader {
  public:
    using Read = std::function<Item(int64_t index)>;            // thread-safe. Error(Exit::bad_data): a bad sample; anything else ends the run
    struct Loaded {
        int64_t index = 0;                      // of the sample that was read
        std::optional<Item> item{};             // none: skipped
        bool substituted = false;
        std::string why{};                      // it is skipped or substituted
        std::exception_ptr error{};
    };

    Loader(Read read, std::vector<int64_t> order, LoaderOptions options) : shared_(std::make_shared<Shared>()) {
        CHECK(options.ahead > 0 && (options.on_bad != OnBadSample::substitute || options.samples > 0), "loader: ", options.ahead, " samples ahead, substitutes from ", options.samples);
        shared_->read = std::move(read), shared_->order = std::move(order), shared_->options = std::move(options);
        for (int64_t i = 0; i < shared_->options.workers; i++) start();
    }
    ~Loader() {
        std::unique_lock lock(shared_->mutex);
        shared_->stop = true;
        shared_->changed.notify_all();
        // a thread that is stuck in a sample nobody has waited for yet gets the same time
        const auto idle = [&] { return std::all_of(workers_.begin(), workers_.end(), [](const Worker& w) { return w.state->finished || w.state->abandoned; }); };
        if (shared_->options.timeout > 0) shared_->changed.wait_for(lock, std::chrono::duration<double>(shared_->options.timeout), idle);
        else shared_->changed.wait(lock, idle);
        for (Worker& w : workers_) w.state->abandoned = !w.state->finished;
        lock.unlock();
        for (Worker& w : workers_) {
            if (w.state->abandoned) w.thread.detach();
            else w.thread.join();
        }
    }
    Loader(const Loader&) = delete;
    Loader& operator=(const Loader&) = delete;

    // The next of the order; throws what reading it threw, unless bad samples are skipped or substituted, which is logged here. CHECKs that there is one.
    Loaded next() {
        Shared& s = *shared_;
        const size_t position = s.taken;
        CHECK(position < s.order.size(), "loader: ", s.order.size(), " samples, no more");
        Loaded l;
        if (s.options.workers == 0) {
            s.taken++;
            l = load(s, {.position = position}, nullptr);
        } else {
            std::unique_lock lock(s.mutex);
            while (s.slots.empty() || !s.slots.front().done) {
                if (s.options.timeout <= 0) s.changed.wait(lock);
                else if (s.changed.wait_for(lock, std::chrono::milliseconds(100)), !s.slots.empty() && !s.slots.front().done && late(s.slots.front())) give_up(s.slots.front());
            }
            l = std::move(s.slots.front().loaded);
            s.slots.pop_front();
            s.taken++;
            lock.unlock();
            s.changed.notify_all();
        }
        if (l.error) std::rethrow_exception(l.error);
        if (!l.item) warn(called(s.options, l.index), " is skipped: ", l.why);
        if (l.substituted) warn(called(s.options, s.order[position]), " is replaced by ", called(s.options, l.index), ": ", l.why);
        return l;
    }

  private:
    using Clock = std::chrono::steady_clock;
    struct State { bool abandoned = false, finished = false; };         // of a thread
    struct Job {                                // to read a position's sample (attempt -1), or another in its place
        size_t position = 0;
        int64_t attempt = -1;
        std::string why{};                      // another
    };
    struct Slot {                               // a position between its beginning and next()
        Job job{};                              // being done now
        Clock::time_point began = Clock::now();
        std::shared_ptr<State> thread{};
        Loaded loaded{};
        bool done = false;
    };
    struct Shared {                             // outlives the loader where a thread was given up
        Read read;
        std::vector<int64_t> order;
        LoaderOptions options;
        std::mutex mutex;
        std::condition_variable changed;
        std::deque<Slot> slots;                 // of positions taken .. begun - 1
        size_t taken = 0, begun = 0;
        bool stop = false;
    };
    struct Worker { std::thread thread; std::shared_ptr<State> state; };

    bool late(const Slot& slot) const { return std::chrono::duration<double>(Clock::now() - slot.began).count() > shared_->options.timeout; }
    static std::string called(const LoaderOptions& o, int64_t index) { return o.name ? o.name(index) : concat("sample ", index); }

    static Loaded load(Shared& s, Job job, const State* state) {
        const LoaderOptions& o = s.options;
        const int64_t wanted = s.order[job.position];
        for (; job.attempt < 64; job.attempt++) {
            const bool other = job.attempt >= 0;
            const int64_t index = other ? substitute_for(o.seed, wanted, job.attempt, o.samples) : wanted;
            if (other && (index == wanted || (o.may_replace && !o.may_replace(wanted, index)))) continue;
            if (state) {                        // each read has the whole time
                const std::lock_guard lock(s.mutex);
                if (s.stop || state->abandoned) return {};
                Slot& slot = s.slots[job.position - s.taken];
                slot.job = job, slot.began = Clock::now();
            }
            try {
                return {.index = index, .item = s.read(index), .substituted = other, .why = job.why};
            } catch (const Error& e) {
                if (e.code != Exit::bad_data || o.on_bad == OnBadSample::fail) return {.index = index, .error = std::current_exception()};
                if (!other) job.why = e.what();
            } catch (...) {
                return {.index = index, .error = std::current_exception()};
            }
            if (o.on_bad == OnBadSample::skip) return {.index = wanted, .why = job.why};
        }
        return {.index = wanted, .error = std::make_exception_ptr(Error(Exit::bad_data, concat(called(o, wanted), ": ", job.why, "; and no sample could be read in its place")))};
    }

    // With the lock held: the front slot's thread is left to itself, and the sample counts as bad.
    void give_up(Slot& slot) {
        const Shared& s = *shared_;
        slot.thread->abandoned = true;
        const int64_t wanted = s.order[slot.job.position];
        const std::string why = concat("took longer than ", s.options.timeout, " s to read");
        if (s.options.on_bad == OnBadSample::substitute) {
            Job job{.position = slot.job.position, .attempt = slot.job.attempt + 1, .why = slot.job.attempt < 0 ? why : slot.job.why};
            slot.began = Clock::now();
            slot.thread = start(std::move(job));
            return;
        }
        slot.loaded = {.index = wanted, .why = why};
        if (s.options.on_bad == OnBadSample::fail)
            slot.loaded.error = std::make_exception_ptr(Error(Exit::bad_data, concat(called(s.options, wanted), ": ", why, "; check the file, or raise decode_timeout")));
        slot.done = true;
        start();                                // another thread in its place
    }

    std::shared_ptr<State> start(std::optional<Job> first = {}) {
        auto state = std::make_shared<State>();
        workers_.push_back({std::thread(work, shared_, state, std::move(first)), state});
        return state;
    }
    static void work(const std::shared_ptr<Shared>& shared, const std::shared_ptr<State>& state, std::optional<Job> job) {
        omp_set_num_threads(1);                 // of this thread: the others have work of their own
        Shared& s = *shared;
        std::unique_lock lock(s.mutex);
        while (!state->abandoned) {
            if (!job) {
                s.changed.wait(lock, [&] { return s.stop || (s.begun < s.order.size() && int64_t(s.begun - s.taken) < s.options.ahead); });
                if (s.stop) break;
                job = Job{.position = s.begun++};
                s.slots.push_back({.job = *job, .thread = state});
            }
            const size_t position = job->position;
            lock.unlock();
            Loaded loaded = load(s, std::move(*job), state.get());
            lock.lock();
            job.reset();
            if (s.stop || state->abandoned) break;
            Slot& slot = s.slots[position - s.taken];
            slot.loaded = std::move(loaded), slot.done = true;
            s.changed.notify_all();
        }
        state->finished = true;
        s.changed.notify_all();
    }

    std::shared_ptr<Shared> shared_;
    std::vector<Worker> workers_;
};

}
