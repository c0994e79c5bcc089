// Where an op runs: on the current device (core/storage.h), where its tensors must lie.
//
// kernels/<op>.h calls run(args). For the CPU that is kernels/cpu/<op>.cpp, for GPUs kernels/cuda/<op>.cu, which g++ compiles for
// the emulator, once per mode. An op without a kernel is a link error; kernels/resample.h and peak.h are the CPU's alone.
#pragma once
#include "core/storage.h"
#include "kernels/cpu.h"
#include "kernels/emu/mode.h"
#include "kernels/work.h"

namespace merv::kernels {

namespace emu_fast { template <class Args> void run(const Args&); }
namespace emu_checked { template <class Args> void run(const Args&); }
namespace emu_counted { template <class Args> void run(const Args&); }
namespace cuda { template <class Args> [[gnu::weak]] void run(const Args&); }        // linked by `make CUDA=1` and `make emu-cuda`: core/cuda.h
emu::Mode emulator_mode();                      // MERV_EMU=fast, checked or counted; fast if not set
void use_emulator(emu::Mode);
inline void use_checks(bool on) { use_emulator(on ? emu::Mode::checked : emu::Mode::fast); }


// Set by the self-test of a card (kernels/known_answers.h). An op whose kernels gave a wrong answer runs on the host, its tensors copied there and back (kernels/replace.cpp);
// before that the special ways are left: cuBLASLt, and attention on tensor cores, which have plain kernels beside them.
extern bool anything_replaced;
template <class Args> bool& replaced();
template <class Args> void run_on_host(const Args& a);
struct SpecialWays { bool cublaslt = true, attention = true; };
extern SpecialWays special_ways;

template <class Args> void run_on_gpu(const Args& a) {
    if (current_device() == Device::cuda) return anything_replaced && replaced<Args>() ? run_on_host(a) : cuda::run(a);
    switch (emulator_mode()) {
        case emu::Mode::fast: return emu_fast::run(a);
        case emu::Mode::checked: return emu_checked::run(a);
        case emu::Mode::counted: return emu_counted::run(a);
    }
}
template <class Args> void run(const Args& a) { profiled(a, current_device(), [&] { current_device() == Device::cpu ? cpu::run(a) : run_on_gpu(a); }); }

}
