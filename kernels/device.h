// Where an op runs: on the current device (core/storage.h), where its tensors must lie.
//
// kernels/<op>.h calls run(args). For the CPU that is kernels/cpu/<op>.cpp, for GPUs kernels/cuda/<op>.cu, which g++ compiles for
// the emulator, once per mode. An op without a kernel is a link error; kernels/resample.h and peak.h are the CPU's alone.
#pragma once
#include "core/storage.h"
#include "kernels/cpu.h"

namespace merv::kernels {

namespace emu_fast { template <class Args> void run(const Args&); }
namespace emu_checked { template <class Args> void run(const Args&); }
namespace cuda { template <class Args> void run(const Args&); }
bool emulator_checks();                         // MERV_EMU=checked, or use_checks
void use_checks(bool);

template <class Args> void run(const Args& a) {
    if (current_device() == Device::cpu) return cpu::run(a);
    if (emulator_checks()) emu_checked::run(a);
    else emu_fast::run(a);
}

}
