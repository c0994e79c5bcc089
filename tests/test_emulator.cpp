// The emulator: right kernels give right values and no report, wrong ones the report they deserve, in every schedule.
#include "tests/emu/programs.h"
#include "core/check.h"
#include "tests/test.h"

using namespace merv;
using namespace merv::test;

namespace merv::test {
namespace emu_fast { std::vector<Program> programs(), hopper_programs(), linear_programs(); }
namespace emu_checked { std::vector<Program> programs(), hopper_programs(), linear_programs(); }
std::vector<Program> programs(emu::Mode mode) {
    const bool fast = mode == emu::Mode::fast;
    std::vector<Program> all = fast ? emu_fast::programs() : emu_checked::programs();
    for (auto& more : fast ? std::array{emu_fast::hopper_programs(), emu_fast::linear_programs()} : std::array{emu_checked::hopper_programs(), emu_checked::linear_programs()}) all.insert(all.end(), more.begin(), more.end());
    return all;
}
}

namespace {

void judge(emu::Mode mode, const char* name) {
    int wrong = 0, right = 0;
    for (const Program& p : programs(mode)) {
        const std::string& expected = mode == emu::Mode::fast ? p.in_fast : p.in_checked;
        const bool faulty = !p.in_checked.empty() || !p.in_fast.empty();
        (faulty ? wrong : right)++;
        emu::Collect collected;
        const bool values = p.run();
        std::string kinds;
        for (const emu::Report& r : collected.reports) kinds += r.kind + ": " + r.text + "\n";
        if (!values && collected.reports.empty()) collected.reports.push_back({"WRONG", "wrong values"});
        if (expected.empty()) EXPECT_MESSAGE(kinds.empty(), p.name, " (", name, ") was reported: ", kinds);
        else EXPECT_MESSAGE(std::any_of(collected.reports.begin(), collected.reports.end(), [&](const emu::Report& r) { return expected.find(r.kind) != expected.npos; }), p.name, " (", name, ") wants ", expected, ", got: ", kinds);
        if (!faulty) EXPECT_MESSAGE(values, p.name, " (", name, "): wrong values");
        if (std::getenv("MERV_TEST_VERBOSE")) std::printf("  %-50s %s\n", p.name.c_str(), kinds.substr(0, kinds.find('\n')).c_str());
    }
    std::printf("  %s: %d wrong programs, %d right ones\n", name, wrong, right);
}

}

TEST_CASE("emulator: checked mode") { judge(emu::Mode::checked, "checked"); }
TEST_CASE("emulator: fast mode") { judge(emu::Mode::fast, "fast"); }
TEST_CASE("emulator: other schedules") {
    emu::set_schedule(emu::Order::lifo);
    judge(emu::Mode::checked, "checked, last in first out");
    for (unsigned seed = 1; seed <= 5; seed++) {
        emu::set_schedule(emu::Order::seeded, seed);
        judge(emu::Mode::checked, "checked, seeded");
    }
    emu::set_schedule(emu::Order::fifo);
}
