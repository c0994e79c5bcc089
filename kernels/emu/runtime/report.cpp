#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <unistd.h>
#include <set>
#include <utility>
#include "kernels/emu/runtime/state.h"

namespace merv::emulated_runtime {
namespace {

struct Reports {
    std::mutex mutex;
    std::vector<Report> kept;
    std::set<std::string> known;                // kinds and causes
    bool collecting = false;
};
Reports& reports() {
    static auto* all = new Reports;
    return *all;
}
std::atomic<int> count;

// A program that was reported has failed, whatever it returns
void fail_at_exit() {
    static const bool once = [] {
        return on_exit([](int status, void*) {
            if (status) return;
            std::fprintf(stderr, "emulated CUDA runtime: the program was reported, and exits with %d instead of 0\n", int(Exit::device));
            std::fflush(nullptr);
            _exit(int(Exit::device));
        }, nullptr) == 0;
    }();
    (void)once;
}

}

void report(const std::string& kind, const std::string& cause, const std::string& text) {
    Reports& r = reports();
    const std::lock_guard lock(r.mutex);
    if (!r.known.insert(kind + " " + cause).second) return;
    count++;
    if (r.collecting) r.kept.push_back({kind, text});
    else fail_at_exit(), std::fprintf(stderr, "emulated CUDA runtime: %s: %s\n", kind.c_str(), text.c_str());
}

std::vector<Report> take_reports() {
    Reports& r = reports();
    const std::lock_guard lock(r.mutex);
    r.collecting = true;
    r.known.clear();
    return std::exchange(r.kept, {});
}
void collect(bool on) {
    const std::lock_guard lock(reports().mutex);
    reports().collecting = on;
}
int reports_so_far() { return count; }

}
