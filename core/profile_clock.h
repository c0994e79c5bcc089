// The profiler's clock: a reading takes a third of std::chrono::steady_clock's where the system itself keeps time by the processor's counter
// (x86's TSC), and is steady_clock's elsewhere. Its rate is measured once, at the first profile::start(), to some 4 millionths.
#pragma once
#include <chrono>
#include <cstdint>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

namespace merv::profile {

inline int64_t steady_now() { return std::chrono::steady_clock::now().time_since_epoch().count(); }

struct TickRate { double ns_per_tick = 0; uint64_t tick = 0; int64_t ns = 0; };       // 0: steady_clock; else at `tick` it was `ns`
extern TickRate tick_rate;
void set_clock();                               // takes 5 ms the first time

inline int64_t now() {                          // ns; of all threads and, since a timer of a device asks here, of devices
#if defined(__x86_64__)
    if (tick_rate.ns_per_tick > 0) return tick_rate.ns + int64_t(double(__rdtsc() - tick_rate.tick) * tick_rate.ns_per_tick);
#endif
    return steady_now();
}

}
