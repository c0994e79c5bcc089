#include "kernels/device.h"
#include <cstdlib>
#include <string>
#include "core/check.h"
#include "kernels/emu/emulator.h"

namespace merv::kernels {
namespace {

void choose_schedule() {                        // MERV_EMU_SCHEDULE=fifo, lifo or a seed: repeats a run exactly
    const char* text = std::getenv("MERV_EMU_SCHEDULE");
    const std::string order = text ? text : "";
    if (order == "lifo") emu::set_schedule(emu::Order::lifo);
    else if (!order.empty() && order.size() < 10 && order.find_first_not_of("0123456789") == order.npos) emu::set_schedule(emu::Order::seeded, unsigned(std::stoul(order)));
    else if (!order.empty() && order != "fifo") fail(Exit::usage, "MERV_EMU_SCHEDULE=", order, ": fifo, lifo or a number, the seed");
}
emu::Mode& mode() {
    static emu::Mode chosen = [] {
        choose_schedule();
        const char* text = std::getenv("MERV_EMU");
        const std::string name = text ? text : "fast";
        if (name == "checked") return emu::Mode::checked;
        if (name == "counted") return emu::Mode::counted;
        if (!name.empty() && name != "fast") fail(Exit::usage, "MERV_EMU=", name, ": fast, checked or counted");
        return emu::Mode::fast;
    }();
    return chosen;
}

}

emu::Mode emulator_mode() { return mode(); }
void use_emulator(emu::Mode m) { mode() = m; }

}
