#include "kernels/device.h"
#include <cstdlib>
#include <string>
#include "core/check.h"

namespace merv::kernels {
namespace {

bool& checks() {
    static bool on = [] {
        const char* text = std::getenv("MERV_EMU");
        const std::string mode = text ? text : "";
        if (!mode.empty() && mode != "fast" && mode != "checked") fail(Exit::usage, "MERV_EMU=", mode, ": fast or checked");
        return mode == "checked";
    }();
    return on;
}

}

bool emulator_checks() { return checks(); }
void use_checks(bool on) { checks() = on; }

}
