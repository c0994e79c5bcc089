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

void no_kernel(const char* call) {
    const std::string text = call, name = text.substr(text.find("Args = ") + 7);
    fail(Exit::device, name.substr(name.rfind("::") + 2, name.rfind(']') - name.rfind("::") - 2), " has no GPU kernel yet; use --device cpu");
}

}
