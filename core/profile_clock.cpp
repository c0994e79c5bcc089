#include "core/profile_clock.h"
#include <fstream>
#include <string>

namespace merv::profile {

TickRate tick_rate;

#if defined(__x86_64__)
namespace {
struct Reading { uint64_t tick; int64_t ns; };
Reading read_both() {                           // the closest together of a few
    Reading best{};
    uint64_t least = ~uint64_t(0);
    for (int i = 0; i < 50; i++) {
        const uint64_t before = __rdtsc();
        const int64_t ns = steady_now();
        const uint64_t after = __rdtsc();
        if (after - before < least) least = after - before, best = {before + least / 2, ns};
    }
    return best;
}
bool counter_keeps_time() {                     // the kernel has found it steady, and the same on all cores
    std::string source;
    std::ifstream("/sys/devices/system/clocksource/clocksource0/current_clocksource") >> source;
    return source == "tsc";
}
}

void set_clock() {
    static const bool once = [] {
        if (!counter_keeps_time()) return true;
        const Reading begin = read_both();
        while (steady_now() - begin.ns < 5'000'000) {}
        const Reading end = read_both();
        tick_rate = {double(end.ns - begin.ns) / double(end.tick - begin.tick), end.tick, end.ns};
        return true;
    }();
    (void)once;
}
#else
void set_clock() {}
#endif

}
