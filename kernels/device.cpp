#include "kernels/device.h"
#include <cstdlib>
#include <string>
#include "core/check.h"

namespace merv::kernels {
namespace {

emu::Mode& mode() {
    static emu::Mode chosen = [] {
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
