// The frame around every main(): flags, log level, threads, and errors turned into one line and the documented exit code.
#pragma once
#include <functional>
#include "core/flags.h"
#include "core/storage.h"

namespace merv {

// Parses, runs `body`, prints "PROGRAM: error: ..." on stderr if it throws, and returns the exit code.
int run_program(Flags& flags, int argc, const char* const* argv, const std::function<int()>& body);

// `--device auto|cpu|emu`: the device to use; emu runs the CUDA kernels on an emulated GPU, slowly. Anything else throws Error(Exit::device) or Error(Exit::usage).
Device choose_device(const Flags& flags);

}
