// loader: the same samples in the same order whatever the number of threads; bounded, stoppable, and steadfast against bad samples.
#include "tests/media.h"
#include <atomic>
#include <dirent.h>
#include <numeric>
#include <set>
#include "data/conversations.h"
#include "data/loader.h"
#include "data/video.h"

using namespace merv;
using namespace std::chrono_literals;
using test::error_of;

namespace {

struct Silence {                                // the notes on bad samples are not what is tested
    Silence() { set_log_level(Level::quiet); }
    ~Silence() { set_log_level(Level::normal); }
};

using Indices = std::vector<int64_t>;
using Numbers = Loader<int64_t>;

Indices counted(int64_t n) {
    Indices order(static_cast<size_t>(n));
    std::iota(order.begin(), order.end(), 0);
    return order;
}
int64_t square(int64_t i) { return i * i; }
int64_t slow_square(int64_t i) {                // later samples are often done before earlier ones
    std::this_thread::sleep_for(std::chrono::microseconds(i * 7919 % 13 * 100));
    return square(i);
}
int64_t bad_at_thirds(int64_t i) {
    if (i % 3 == 1) fail(Exit::bad_data, "file ", i, " is damaged");
    return slow_square(i);
}

// index, value (-1: skipped), substituted
using Outcome = std::vector<std::array<int64_t, 3>>;
Outcome all_of(Numbers::Read read, const Indices& order, LoaderOptions options) {
    options.samples = int64_t(order.size());
    Numbers loader(std::move(read), order, options);
    Outcome outcome;
    for (size_t i = 0; i < order.size(); i++) {
        const auto l = loader.next();
        outcome.push_back({l.index, l.item ? *l.item : -1, l.substituted});
    }
    return outcome;
}

int threads_now() {
    int n = 0;
    DIR* folder = opendir("/proc/self/task");
    while (const dirent* entry = readdir(folder)) n += entry->d_name[0] != '.';
    closedir(folder);
    return n;
}
template <class F> bool comes_true(F f) {       // within 20 s, which is only waited for where it fails
    for (int i = 0; i < 20000 && !f(); i++) std::this_thread::sleep_for(1ms);
    return f();
}

// A file that never ends, until the test does.
struct Gate {
    std::atomic<bool> open = false;
    std::atomic<int> waiting = 0;
    void wait() {
        waiting++;
        while (!open) std::this_thread::sleep_for(1ms);
        waiting--;
    }
};
struct Stuck {                                  // `stuck` samples wait at the gate; all threads are gone when it is destroyed
    std::set<int64_t> stuck;
    std::shared_ptr<Gate> gate = std::make_shared<Gate>();
    Numbers::Read read() const {
        return [stuck = stuck, gate = gate](int64_t i) {
            if (stuck.contains(i)) gate->wait();
            return square(i);
        };
    }
    explicit Stuck(std::set<int64_t> samples) : stuck(std::move(samples)) {}
    ~Stuck() {
        gate->open = true;
        EXPECT(comes_true([&] { return gate->waiting == 0; }));
    }
};

}

TEST_CASE("loader: the order given, by any number of threads") {
    Indices order;
    for (int64_t i = 0; i < 120; i++) order.push_back(i * 37 % 101);        // some twice
    for (int64_t workers : {0, 1, 2, 4, 9})
        for (int64_t ahead : {1, 3, 500}) {
            CAPTURE(workers);
            const Outcome outcome = all_of(slow_square, order, {.workers = workers, .ahead = ahead});
            for (size_t i = 0; i < order.size(); i++) EXPECT(outcome[i] == std::array<int64_t, 3>{order[i], square(order[i]), 0});
        }
}

TEST_CASE("loader: no more than `ahead` samples are read before they are wanted, and as many as that") {
    for (int64_t workers : {1, 4}) {
        std::atomic<int64_t> started = 0, handed = 0, most = 0;
        Numbers loader([&](int64_t i) {
            const int64_t waiting = ++started - handed;
            for (int64_t m = most; waiting > m && !most.compare_exchange_weak(m, waiting);) {}
            return i;
        }, counted(300), {.workers = workers, .ahead = 5});
        EXPECT(comes_true([&] { return started == 5; }));
        std::this_thread::sleep_for(20ms);
        EXPECT_EQ(started, 5);
        for (int64_t i = 0; i < 300; i++, handed++) EXPECT_EQ(loader.next().index, i);
        EXPECT_LE(most, 6);                     // one of them is on its way out
    }
}

TEST_CASE("loader: what is asked of it beyond its order, or without a place for a sample, is a caller's mistake") {
    Numbers loader(square, counted(1), {.workers = 1});
    loader.next();
    EXPECT_THROWS_AS(loader.next(), std::logic_error);
    EXPECT_THROWS_AS(Numbers(square, counted(1), {.workers = 1, .ahead = 0}), std::logic_error);
    EXPECT_THROWS_AS(Numbers(square, counted(1), {.workers = 1, .on_bad = OnBadSample::substitute}), std::logic_error);      // of how many?
    Numbers nothing(square, {}, {.workers = 3});
    EXPECT_THROWS_AS(nothing.next(), std::logic_error);
}

TEST_CASE("loader: a bad sample ends the run at its place, unless told otherwise") {
    for (int64_t workers : {0, 1, 4}) {
        Numbers loader(bad_at_thirds, counted(9), {.workers = workers});
        EXPECT_EQ(loader.next().index, 0);
        EXPECT_EQ(error_of(Exit::bad_data, [&] { loader.next(); }), "file 1 is damaged");
        EXPECT_EQ(*loader.next().item, 4);      // whoever catches may go on
    }
}

TEST_CASE("loader: skipped samples leave a gap, substitutes are a pure function of seed and index") {
    const Silence silence;
    const Indices order = counted(60);
    const Outcome skipped = all_of(bad_at_thirds, order, {.workers = 0, .on_bad = OnBadSample::skip});
    const Outcome replaced = all_of(bad_at_thirds, order, {.workers = 0, .on_bad = OnBadSample::substitute, .seed = 3});
    for (int64_t i : order) {
        EXPECT(skipped[size_t(i)] == (i % 3 == 1 ? std::array<int64_t, 3>{i, -1, 0} : std::array<int64_t, 3>{i, square(i), 0}));
        int64_t instead = i, attempt = 0;
        while (instead % 3 == 1) instead = substitute_for(3, i, attempt++, 60);
        EXPECT(replaced[size_t(i)] == std::array<int64_t, 3>{instead, square(instead), instead != i});
    }
    for (int64_t workers : {1, 4}) {
        EXPECT(all_of(bad_at_thirds, order, {.workers = workers, .on_bad = OnBadSample::skip}) == skipped);
        EXPECT(all_of(bad_at_thirds, order, {.workers = workers, .on_bad = OnBadSample::substitute, .seed = 3}) == replaced);
    }
    EXPECT(all_of(bad_at_thirds, order, {.on_bad = OnBadSample::substitute, .seed = 4}) != replaced);
}

TEST_CASE("loader: substitutes are of the kind that may replace, and are drawn from all samples") {
    const Silence silence;
    auto same_parity = [](int64_t wanted, int64_t instead) { return wanted % 2 == instead % 2; };
    for (int64_t workers : {0, 4}) {
        std::set<int64_t> used;
        for (const auto& [index, value, substituted] : all_of([](int64_t i) { return i < 20 ? fail(Exit::bad_data, "bad"), i : i; }, counted(40),
                                                              {.workers = workers, .on_bad = OnBadSample::substitute, .may_replace = same_parity})) {
            EXPECT_EQ(index, value);
            if (substituted) used.insert(index);
        }
        EXPECT_GE(used.size(), 10);             // of 20 possible ones, 20 times
    }
    std::array<int, 10> drawn{};
    for (int64_t i = 0; i < 1000; i++) drawn[size_t(substitute_for(7, i, 0, 10))]++;
    for (int n : drawn) EXPECT(std::abs(n - 100) < 50);         // five standard deviations
}

TEST_CASE("loader: where nothing can be read there is an error, not a search without end") {
    const Silence silence;
    auto none = [](int64_t i) -> int64_t { fail(Exit::bad_data, "file ", i, " is damaged"); };
    for (int64_t workers : {0, 2}) {
        Numbers loader(none, counted(5), {.workers = workers, .on_bad = OnBadSample::substitute, .samples = 5, .name = [](int64_t i) { return concat("clip ", i); }});
        const std::string why = error_of(Exit::bad_data, [&] { loader.next(); });
        EXPECT_SAYS(why, "clip 0: file 0 is damaged");
        EXPECT_SAYS(why, "no sample could be read in its place");
        Numbers one(none, counted(1), {.workers = workers, .on_bad = OnBadSample::substitute, .samples = 1});
        EXPECT_SAYS(error_of(Exit::bad_data, [&] { one.next(); }), "no sample could be read in its place");
    }
}

TEST_CASE("loader: what is no bad sample ends the run whatever the policy") {
    for (const OnBadSample policy : {OnBadSample::fail, OnBadSample::skip, OnBadSample::substitute})
        for (int64_t workers : {0, 2}) {
            Numbers memory([](int64_t) -> int64_t { throw std::bad_alloc(); }, counted(5), {.workers = workers, .on_bad = policy, .samples = 5});
            EXPECT_THROWS_AS(memory.next(), std::bad_alloc);
            Numbers weights([](int64_t) -> int64_t { fail(Exit::bad_weights, "another matter"); }, counted(5), {.workers = workers, .on_bad = policy, .samples = 5});
            EXPECT_EQ(error_of(Exit::bad_weights, [&] { weights.next(); }), "another matter");
        }
}

TEST_CASE("loader: a sample that takes for ever is given up, and the file is named") {
    for (int64_t workers : {1, 3}) {
        Stuck stuck({2});
        Numbers loader(stuck.read(), counted(6), {.workers = workers, .timeout = 0.2, .name = [](int64_t i) { return concat("clip ", i, ".mp4"); }});
        EXPECT_EQ(*loader.next().item, 0);
        EXPECT_EQ(*loader.next().item, 1);
        EXPECT_EQ(error_of(Exit::bad_data, [&] { loader.next(); }), "clip 2.mp4: took longer than 0.2 s to read; check the file, or raise decode_timeout");
        for (int64_t i = 3; i < 6; i++) EXPECT_EQ(*loader.next().item, i * i);         // another thread goes on
    }
}

TEST_CASE("loader: samples that take for ever are skipped or replaced as others are, also where their substitute takes for ever") {
    const Silence silence;
    const int64_t first = substitute_for(7, 2, 0, 40), second = substitute_for(7, 2, 1, 40);
    REQUIRE(std::set<int64_t>{2, 3, 4, first, second}.size() == 5);
    for (int64_t workers : {1, 3}) {
        Stuck stuck({2, 3, first});
        const Indices order = {0, 1, 2, 3, 4};
        Numbers skipping(stuck.read(), order, {.workers = workers, .timeout = 0.1, .on_bad = OnBadSample::skip});
        Numbers replacing(stuck.read(), order, {.workers = workers, .timeout = 0.1, .on_bad = OnBadSample::substitute, .samples = 40});
        for (int64_t i : order) {
            const auto skipped = skipping.next(), replaced = replacing.next();
            EXPECT_EQ(skipped.item.has_value(), i != 2 && i != 3);
            EXPECT_EQ(replaced.substituted, i == 2 || i == 3);
            if (i == 2) EXPECT_EQ(replaced.index, second);
            EXPECT_EQ(replaced.item.value_or(-1), square(replaced.index));
        }
    }
}

TEST_CASE("loader: it stops at any moment, and its threads with it") {
    const int before = threads_now();
    for (int64_t taken : {0, 1, 7})
        for (int64_t workers : {1, 4}) {
            Numbers loader(slow_square, counted(1000), {.workers = workers, .ahead = 8});
            for (int64_t i = 0; i < taken; i++) loader.next();
        }
    EXPECT_LE(threads_now(), before);
    {   // one that is stuck in a sample that nobody waited for
        Stuck stuck({1});
        { Numbers loader(stuck.read(), counted(5), {.workers = 2, .timeout = 0.1}); loader.next(); }
    }
    EXPECT(comes_true([&] { return threads_now() <= before; }));
}

TEST_CASE("loader: clips, whole and damaged, decoded by any number of threads") {
    const Silence silence;
    test::TempDir dir;
    const std::string whole = test::read_file("data/samples/nasa_jwst.mp4");
    test::write_file(dir / "whole.mp4", whole);
    test::write_file(dir / "cut.mp4", whole.substr(0, whole.size() / 3));
    test::write_file(dir / "noise.mp4", std::string(5000, 'x'));
    test::write_file(dir / "empty.mp4", "");
    std::string damaged = whole;
    for (size_t i = damaged.size() / 2; i < damaged.size() / 2 + 2000; i++) damaged[i] = char(i * 131);
    test::write_file(dir / "damaged.mp4", damaged);
    const std::vector<std::string> names = {"whole.mp4", "cut.mp4", "noise.mp4", "missing.mp4", "../outside.mp4", "empty.mp4", "whole.mp4", "damaged.mp4"};
    auto read = [&](int64_t i) {
        const Clip clip = read_clip(media_path(dir.path.string(), {.id = "", .media = names[size_t(i)], .turns = {}}), 4, {}, {.seconds = 30, .threads = 1});
        return test::crc32(clip.frames);
    };
    std::vector<std::vector<uint32_t>> seen;
    for (int64_t workers : {0, 1, 4}) {
        Loader<uint32_t> loader(read, counted(8), {.workers = workers, .on_bad = OnBadSample::substitute, .samples = 8});
        seen.emplace_back();
        for (size_t i = 0; i < names.size(); i++) {
            const auto l = loader.next();
            if (i < 7) EXPECT_EQ(l.substituted, names[i] != "whole.mp4");      // what FFmpeg makes of damage within a clip is its own affair, but always the same
            seen.back().push_back(l.item.value());
        }
        EXPECT(seen.back() == seen.front());
    }
    EXPECT_EQ(seen[0][0], seen[0][6]);
}

// MERV_TEST_SOAK=1: some minutes.
TEST_CASE("loader: 3,000 clips, a third of them damaged, and memory stays flat") {
    if (!std::getenv("MERV_TEST_SOAK")) return test::skip("MERV_TEST_SOAK is not set");
    const Silence silence;
    test::TempDir dir;
    std::vector<std::string> paths;
    for (const std::string& name : {std::string("nasa_jwst"), std::string("square_right"), std::string("square_left"), std::string("ball")}) {
        const std::string whole = "data/samples/" + name + ".mp4", bytes = test::read_file(whole), cut = dir / (name + "-cut.mp4"), hit = dir / (name + "-hit.mp4");
        std::string damaged = bytes;
        for (size_t i = damaged.size() / 3; i < damaged.size(); i += 97) damaged[i] = char(damaged[i] ^ 0x5a);      // in pictures and tables
        test::write_file(cut, bytes.substr(0, bytes.size() * 2 / 3));
        test::write_file(hit, damaged);
        paths.insert(paths.end(), {whole, whole, whole, whole, cut, hit});
    }
    auto resident = [] {                        // MiB
        long pages = 0;
        std::ifstream("/proc/self/statm") >> pages >> pages;
        return double(pages) * 4096 / (1 << 20);
    };
    const int64_t n = 3000;
    Loader<Clip> loader([&](int64_t i) { return read_clip(paths[size_t(i) % paths.size()], 32, {}, {.seconds = 30, .threads = 1}); }, counted(n),
                        {.workers = 2, .ahead = 8, .timeout = 61, .on_bad = OnBadSample::skip});
    double early = 0, late = 0;
    int64_t bad = 0;
    const auto began = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < n; i++) {
        bad += !loader.next().item;
        double& most = i < n / 3 ? early : late;
        most = std::max(most, resident());
        if (i % 500 == 499) MESSAGE("", i + 1, " loads, ", resident(), " MiB resident");
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
    MESSAGE(n, " loads, ", bad, " of them bad, ", double(n) / seconds, " a second; at most ", early, " MiB resident in the first third, ", late, " MiB after it");
    EXPECT_GE(bad, n / 6);                      // every cut file; what decoders make of the others is theirs
    EXPECT_LE(late, early + 8);
}
