// The CPU backend is compiled once for each instruction set this project has code for, and the widest one that the machine
// has is chosen when the program starts. MERV_ISA=portable|avx2|avx512|avx512_bf16 forces one.
//
// kernels/<op>.h calls cpu::run(args); kernels/cpu/<op>.cpp defines `template <> void run(const Args&)` in the namespace its
// instruction set gives it (MERV_ISA). An op without a kernel is a link error.
#pragma once
#include <vector>

namespace merv::kernels::cpu {

enum class Isa { portable, avx2, avx512, avx512_bf16 };     // avx2 includes fused multiply-add; avx512 is F, BW, DQ, VL
const char* name_of(Isa);
std::vector<Isa> available();                   // on this machine and in this build, narrowest first
Isa isa();                                      // the one in use
void use(Isa);                                  // from now on, in every thread; must be available

namespace portable { template <class Args> void run(const Args&); }
namespace avx2 { template <class Args> void run(const Args&); }
namespace avx512 { template <class Args> void run(const Args&); }
namespace avx512_bf16 { template <class Args> void run(const Args&); }

template <class Args> void run(const Args& a) {
    switch (isa()) {
#ifdef __x86_64__
        case Isa::avx512_bf16: return avx512_bf16::run(a);
        case Isa::avx512: return avx512::run(a);
        case Isa::avx2: return avx2::run(a);
#endif
        default: return portable::run(a);
    }
}

}
