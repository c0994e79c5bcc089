#include "core/program.h"
#include <cstdio>
#include <new>
#include "core/cuda.h"
#include "core/log.h"
#include "core/profile.h"

namespace merv {
namespace {
int report(const Flags& flags, Exit code, const std::string& what) {
    log_text(Level::quiet, concat(flags.program(), ": error: ", what));
    return int(code);
}
}

int run_program(Flags& flags, int argc, const char* const* argv, const std::function<int()>& body) {
    try {
        int code = 0;
        if (flags.parse(argc, argv)) {
            set_log_level(flags.on("quiet") ? Level::quiet : flags.on("verbose") ? Level::verbose : Level::normal);
            code = profile::run(flags, body);
        }
        if (std::fflush(stdout) != 0 || std::ferror(stdout)) fail(Exit::runtime, "stdout cannot be written; is the disk full?");
        return code;
    } catch (const Error& e) {
        return report(flags, e.code, e.what());
    } catch (const std::bad_alloc&) {
        return report(flags, Exit::no_memory, "out of memory");
    } catch (const std::exception& e) {
        return report(flags, Exit::runtime, e.what());
    }
}

Device choose_device(const Flags& flags) { return open_device(flags.text("device")); }

}
