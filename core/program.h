// The frame around every main(): flags, log level, threads, and errors turned into one line and the documented exit code.
#pragma once
#include <functional>
#include "core/flags.h"
#include "core/storage.h"

namespace merv {

// Parses, runs `body`, prints "PROGRAM: error: ..." on stderr if it throws, and returns the exit code.
int run_program(Flags& flags, int argc, const char* const* argv, const std::function<int()>& body);

// `--device auto|cpu|cuda|cuda:N|emu`: the device to use, opened. auto: cuda:0 where there is a usable one, else the CPU, and says which and why. emu runs
// the CUDA kernels on an emulated GPU, slowly. Error(Exit::device): no such device can be used, with the reason; Error(Exit::usage): anything else.
Device choose_device(const Flags& flags);

}
