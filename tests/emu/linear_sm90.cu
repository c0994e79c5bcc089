// kernels/cuda/linear_sm90.cu against its formula in double, and with one fault each. Variant 99 has none.
#include "kernels/gpu.h"
#include "kernels/linear_sm90.h"
#include "tests/emu/programs.h"

#pragma push_macro("MERV_GPU")
#undef MERV_GPU
#define MERV_VARIANT_OF(n) emu_variant_##n
#define MERV_GPU MERV_VARIANT(BUG)
#define MERV_VARIANT(n) MERV_VARIANT_OF(n)
#define BUG 1
#include "kernels/cuda/linear_sm90.cu"
#undef BUG
#define BUG 2
#include "kernels/cuda/linear_sm90.cu"
#undef BUG
#define BUG 3
#include "kernels/cuda/linear_sm90.cu"
#undef BUG
#define BUG 4
#include "kernels/cuda/linear_sm90.cu"
#undef BUG
#define BUG 5
#include "kernels/cuda/linear_sm90.cu"
#undef BUG
#define BUG 6
#include "kernels/cuda/linear_sm90.cu"
#undef BUG
#define BUG 7
#include "kernels/cuda/linear_sm90.cu"
#undef BUG
#define BUG 8
#include "kernels/cuda/linear_sm90.cu"
#undef BUG
#define BUG 9
#include "kernels/cuda/linear_sm90.cu"
#undef BUG
#define BUG 10
#include "kernels/cuda/linear_sm90.cu"
#undef BUG
#define BUG 11
#include "kernels/cuda/linear_sm90.cu"
#undef BUG
#define BUG 12
#include "kernels/cuda/linear_sm90.cu"
#undef BUG
#define BUG 13
#include "kernels/cuda/linear_sm90.cu"
#undef BUG
#define BUG 14
#include "kernels/cuda/linear_sm90.cu"
#undef BUG
#define BUG 15
#include "kernels/cuda/linear_sm90.cu"
#undef BUG
#define BUG 16
#include "kernels/cuda/linear_sm90.cu"
#undef BUG
#define BUG 17
#include "kernels/cuda/linear_sm90.cu"
#undef BUG
#define BUG 18
#include "kernels/cuda/linear_sm90.cu"
#undef BUG
#define BUG 19
#include "kernels/cuda/linear_sm90.cu"
#undef BUG
#define BUG 20
#include "kernels/cuda/linear_sm90.cu"
#undef BUG
#define BUG 21
#include "kernels/cuda/linear_sm90.cu"
#undef BUG
#define BUG 99
#include "kernels/cuda/linear_sm90.cu"
#undef BUG
#pragma pop_macro("MERV_GPU")

namespace merv::test::MERV_GPU {
namespace {

using Linear = void (*)(bf16*, const bf16*, const bf16*, int64_t, int64_t, int64_t);

bool right(Linear linear, size_t M, size_t N, size_t K) {
    auto whole = [](size_t n) { return (n + 63) / 64 * 64; };           // so that the tensors are 128-byte aligned
    Buffer<bf16> x(whole(M * K), [](size_t i) { return bf16(float(int(i * 7 % 31) - 15) / 16); }), w(whole(N * K), [](size_t i) { return bf16(float(int(i * 11 % 29) - 14) / 8); }), y(whole(M * N));
    linear(y.get(), x.get(), w.get(), int64_t(M), int64_t(N), int64_t(K));
    for (size_t m = 0; m < M; m++)
        for (size_t n = 0; n < N; n++) {
            double sum = 0, size = 0;
            for (size_t k = 0; k < K; k++) {
                const double term = double(float(x[m * K + k])) * double(float(w[n * K + k]));
                sum += term, size += std::abs(term);
            }
            if (!(std::abs(double(float(y[m * N + n])) - sum) <= std::abs(sum) / 256 + size * 1e-6)) return false;
        }
    for (size_t i = M * N; i < y.size(); i++) if (y[i].bits != 0xffff) return false;
    return true;
}

}

std::vector<Program> linear_programs() {
    const Linear one = kernels::emu_variant_99::linear_sm90;
    auto faulty = [](const char* name, const char* fast, const char* checked, Linear f) { return Program{name, fast, checked, [f] { return right(f, 128, 128, 64 * 10); }}; };
    return {
        {"linear_sm90, one step", "", "", [=] { return right(one, 128, 128, 64); }},
        {"linear_sm90, more steps than stages", "", "", [=] { return right(one, 128, 128, 64 * 10); }},
        {"linear_sm90, ragged", "", "", [=] { return right(one, 197, 136, 64 * 5 + 24); }},
        {"linear_sm90, small", "", "", [=] { return right(one, 3, 8, 8); }},
        faulty("linear_sm90 1, no fence behind mbarrier.init", "MBARRIER", "MBARRIER", kernels::emu_variant_1::linear_sm90),
        faulty("linear_sm90 2, wrong parity of full", "MBARRIER ASYNC DEADLOCK WRONG", "RACE MBARRIER DEADLOCK", kernels::emu_variant_2::linear_sm90),
        faulty("linear_sm90 3, producer does not wait", "MBARRIER", "RACE", kernels::emu_variant_3::linear_sm90),
        faulty("linear_sm90 4, fewer bytes expected", "MBARRIER DEADLOCK", "MBARRIER DEADLOCK", kernels::emu_variant_4::linear_sm90),
        faulty("linear_sm90 5, no expect_tx", "MBARRIER", "MBARRIER RACE", kernels::emu_variant_5::linear_sm90),
        faulty("linear_sm90 6, wrong swizzle", "WGMMA WRONG", "WGMMA WRONG", kernels::emu_variant_6::linear_sm90),
        faulty("linear_sm90 7, no wgmma.fence", "WGMMA", "WGMMA", kernels::emu_variant_7::linear_sm90),
        faulty("linear_sm90 8, stage released while it is read", "", "RACE", kernels::emu_variant_8::linear_sm90),
        faulty("linear_sm90 9, last group not waited for", "WGMMA", "WGMMA", kernels::emu_variant_9::linear_sm90),
        faulty("linear_sm90 10, wrong stride", "WGMMA", "WGMMA", kernels::emu_variant_10::linear_sm90),
        faulty("linear_sm90 11, wrong arrival count", "DEADLOCK", "DEADLOCK", kernels::emu_variant_11::linear_sm90),
        faulty("linear_sm90 12, no proxy fence", "", "PROXY", kernels::emu_variant_12::linear_sm90),
        faulty("linear_sm90 13, no barrier before the store", "", "RACE UNINIT", kernels::emu_variant_13::linear_sm90),
        faulty("linear_sm90 14, store not waited for", "ASYNC", "ASYNC", kernels::emu_variant_14::linear_sm90),
        faulty("linear_sm90 15, two warps arrive for four", "", "RACE", kernels::emu_variant_15::linear_sm90),
        faulty("linear_sm90 16, no barrier behind mbarrier.init", "", "RACE MBARRIER", kernels::emu_variant_16::linear_sm90),
        faulty("linear_sm90 17, no commit", "WGMMA", "WGMMA", kernels::emu_variant_17::linear_sm90),
        faulty("linear_sm90 18, y not swizzled", "WRONG", "WRONG", kernels::emu_variant_18::linear_sm90),
        faulty("linear_sm90 19, sums do not start at zero", "WRONG", "WRONG", kernels::emu_variant_19::linear_sm90),
        faulty("linear_sm90 20, wrong parity of empty", "DEADLOCK", "DEADLOCK", kernels::emu_variant_20::linear_sm90),
        faulty("linear_sm90 21, accumulator changed in flight", "WGMMA", "WGMMA", kernels::emu_variant_21::linear_sm90),
    };
}

}
