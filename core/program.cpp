#include "core/program.h"
#include <charconv>
#include <cstdio>
#include <new>
#include "core/cuda.h"
#include "core/log.h"

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
            code = body();
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

Device choose_device(const Flags& flags) {
    const std::string name = flags.text("device");
    if (name == "cpu") return Device::cpu;
    if (name == "emu") return Device::emu;
    if (name == "auto") {
        try {
            open_cuda(0);
            say("device: ", cuda().name());
            return Device::cuda;
        } catch (const Error& e) {
            if (e.code != Exit::device) throw;
            if (has_cuda_backend()) say("device: cpu (", e.what(), ")");
            else say_verbose("device: cpu (", e.what(), ")");
            return Device::cpu;
        }
    }
    int number = 0;
    const char* digits = name.c_str() + 5;
    if (name == "cuda" || (name.starts_with("cuda:") && std::from_chars(digits, name.c_str() + name.size(), number).ptr == name.c_str() + name.size() && *digits)) {
        open_cuda(number);
        say_verbose("device: ", cuda().name());
        return Device::cuda;
    }
    fail(Exit::usage, "--device takes auto, cpu, cuda, cuda:N or emu, not '", name, "'");
}

}
