// Samples read ahead by threads and handed over in order. What comes out does not depend on the number of threads.
#pragma once
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
    double timeout = 0;                         // seconds for one sample, after which its thread is given up; 0: none
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

template <class Item> class Loader {
  public:
    using Read = std::function<Item(int64_t index)>;            // thread-safe. Error(Exit::bad_data): a bad sample; anything else ends the run
    struct Loaded {
        int64_t index = 0;                      // of the sample that was read
        std::optional<Item> item{};             // none: skipped
        bool substituted = false;
        std::exception_ptr error{};
    };

    Loader(Read read, std::vector<int64_t> order, LoaderOptions options) : shared_(std::make_shared<Shared>()) {
        shared_->read = std::move(read), shared_->order = std::move(order), shared_->options = std::move(options);
        for (int64_t i = 0; i < shared_->options.workers; i++) start();
    }
    ~Loader() {
        {
            const std::lock_guard lock(shared_->mutex);
            shared_->stop = true;
        }
        shared_->changed.notify_all();
        for (Worker& w : workers_) {
            if (*w.abandoned) w.thread.detach();
            else w.thread.join();
        }
    }
    Loader(const Loader&) = delete;
    Loader& operator=(const Loader&) = delete;

    // The next of the order; throws what reading it threw, unless bad samples are skipped or substituted. CHECKs that there is one.
    Loaded next() {
        Shared& s = *shared_;
        const size_t position = s.taken;
        CHECK(position < s.order.size(), "loader: ", s.order.size(), " samples, no more");
        Loaded l;
        if (s.options.workers == 0) {
            s.taken++;
            l = load(s, position);
        } else {
            std::unique_lock lock(s.mutex);
            while (s.slots.empty() || !s.slots.front().done) {
                if (s.options.timeout <= 0) s.changed.wait(lock);
                else if (s.changed.wait_for(lock, std::chrono::milliseconds(100)), !s.slots.empty() && !s.slots.front().done && late(s.slots.front())) give_up(s, position);
            }
            l = std::move(s.slots.front().loaded);
            s.slots.pop_front();
            s.taken++;
            lock.unlock();
            s.changed.notify_all();
        }
        if (l.error) std::rethrow_exception(l.error);
        return l;
    }

  private:
    using Clock = std::chrono::steady_clock;
    struct Slot { Loaded loaded{}; bool done = false; Clock::time_point began = Clock::now(); std::shared_ptr<bool> abandoned{}; };
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
    struct Worker { std::thread thread; std::shared_ptr<bool> abandoned; };

    bool late(const Slot& slot) const { return std::chrono::duration<double>(Clock::now() - slot.began).count() > shared_->options.timeout; }

    static std::string called(const Shared& s, int64_t index) { return s.options.name ? s.options.name(index) : concat("sample ", index); }

    static Loaded load(const Shared& s, size_t position) {
        const LoaderOptions& o = s.options;
        const int64_t wanted = s.order[position];
        try {
            return {.index = wanted, .item = s.read(wanted)};
        } catch (const Error& e) {
            if (e.code != Exit::bad_data || o.on_bad == OnBadSample::fail) return {.index = wanted, .error = std::current_exception()};
            return other(s, wanted, e.what());
        } catch (...) {
            return {.index = wanted, .error = std::current_exception()};
        }
    }
    // In place of a sample that could not be read
    static Loaded other(const Shared& s, int64_t wanted, const std::string& why) {
        const LoaderOptions& o = s.options;
        if (o.on_bad == OnBadSample::skip) {
            warn(called(s, wanted), " is skipped: ", why);
            return {.index = wanted};
        }
        for (int64_t attempt = 0; attempt < 64; attempt++) {
            const int64_t instead = substitute_for(o.seed, wanted, attempt, o.samples);
            if (instead == wanted || (o.may_replace && !o.may_replace(wanted, instead))) continue;
            try {
                Loaded l{.index = instead, .item = s.read(instead), .substituted = true};
                warn(called(s, wanted), " is replaced by ", called(s, instead), ": ", why);
                return l;
            } catch (const Error& e) {
                if (e.code != Exit::bad_data) return {.index = instead, .error = std::current_exception()};
            } catch (...) {
                return {.index = instead, .error = std::current_exception()};
            }
        }
        return {.index = wanted, .error = std::make_exception_ptr(Error(Exit::bad_data, concat(called(s, wanted), ": ", why, "; and no sample could be read in its place")))};
    }

    // With the lock held: the front slot's thread is left to itself, and the sample counts as bad.
    void give_up(Shared& s, size_t position) {
        Slot& slot = s.slots.front();
        *slot.abandoned = true;
        const int64_t wanted = s.order[position];
        const std::string why = concat("took longer than ", s.options.timeout, " s to read");
        if (s.options.on_bad == OnBadSample::fail) slot.loaded = {.index = wanted, .error = std::make_exception_ptr(Error(Exit::bad_data, concat(called(s, wanted), ": ", why, "; check the file, or raise decode_timeout")))};
        else slot.loaded = other(s, wanted, why);
        slot.done = true;
        start();                                // another thread in its place
    }

    void start() {
        auto abandoned = std::make_shared<bool>(false);
        workers_.push_back({std::thread(work, shared_, abandoned), abandoned});
    }
    static void work(const std::shared_ptr<Shared>& shared, const std::shared_ptr<bool>& abandoned) {
        omp_set_num_threads(1);                 // of this thread: the others have work of their own
        Shared& s = *shared;
        std::unique_lock lock(s.mutex);
        for (;;) {
            s.changed.wait(lock, [&] { return s.stop || (s.begun < s.order.size() && int64_t(s.begun - s.taken) < s.options.ahead); });
            if (s.stop || *abandoned) return;
            const size_t position = s.begun++;
            s.slots.push_back({.abandoned = abandoned});
            lock.unlock();
            Loaded loaded = load(s, position);
            lock.lock();
            if (s.stop || *abandoned) return;
            Slot& slot = s.slots[position - s.taken];
            slot.loaded = std::move(loaded), slot.done = true;
            s.changed.notify_all();
        }
    }

    std::shared_ptr<Shared> shared_;
    std::vector<Worker> workers_;
};

}
