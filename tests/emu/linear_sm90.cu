// kernels/cuda/linear_sm90.cu against its formula in double, and with one fault each, which is chosen at run time.
#include "kernels/gpu.h"
#include "kernels/linear_sm90.h"
#include "tests/emu/programs.h"

static int the_fault;
#undef BUG
#define BUG the_fault
#include "kernels/cuda/linear_sm90.cu"

namespace merv::test::MERV_GPU {
namespace {

bool right(int fault, size_t M, size_t N, size_t K) {
    the_fault = fault;
    auto whole = [](size_t n) { return (n + 63) / 64 * 64; };           // so that the tensors are 128-byte aligned
    Buffer<bf16> x(whole(M * K), [](size_t i) { return bf16(float(int(i * 7 % 31) - 15) / 16); }), w(whole(N * K), [](size_t i) { return bf16(float(int(i * 11 % 29) - 14) / 8); }), y(whole(M * N));
    kernels::MERV_GPU::linear_sm90(y.get(), x.get(), w.get(), int64_t(M), int64_t(N), int64_t(K));
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
    auto faulty = [](int n, const char* what, const char* fast, const char* checked) { return Program{what, fast, checked, [n] { return right(n, 128, 128, 64 * 10); }}; };
    return {
        {"linear_sm90, one step", "", "", [] { return right(0, 128, 128, 64); }},
        {"linear_sm90, more steps than stages", "", "", [] { return right(0, 128, 128, 64 * 10); }},
        {"linear_sm90, ragged", "", "", [] { return right(0, 197, 136, 64 * 5 + 24); }},
        {"linear_sm90, small", "", "", [] { return right(0, 3, 8, 8); }},
        faulty(1, "linear_sm90 1, no fence behind mbarrier.init", "MBARRIER", "MBARRIER"),
        faulty(2, "linear_sm90 2, wrong parity of full", "MBARRIER ASYNC DEADLOCK WRONG", "RACE MBARRIER DEADLOCK"),
        faulty(3, "linear_sm90 3, producer does not wait", "MBARRIER", "RACE"),
        faulty(4, "linear_sm90 4, fewer bytes expected", "MBARRIER DEADLOCK", "MBARRIER DEADLOCK"),
        faulty(5, "linear_sm90 5, no expect_tx", "MBARRIER", "MBARRIER RACE"),
        faulty(6, "linear_sm90 6, wrong swizzle", "WGMMA WRONG", "WGMMA WRONG"),
        faulty(7, "linear_sm90 7, no wgmma.fence", "WGMMA", "WGMMA"),
        faulty(8, "linear_sm90 8, stage released while it is read", "", "RACE"),
        faulty(9, "linear_sm90 9, last group not waited for", "WGMMA", "WGMMA"),
        faulty(10, "linear_sm90 10, wrong stride", "WGMMA", "WGMMA"),
        faulty(11, "linear_sm90 11, wrong arrival count", "DEADLOCK", "DEADLOCK"),
        faulty(12, "linear_sm90 12, no proxy fence", "", "PROXY"),
        faulty(13, "linear_sm90 13, no barrier before the store", "", "RACE UNINIT"),
        faulty(14, "linear_sm90 14, store not waited for", "ASYNC", "ASYNC"),
        faulty(15, "linear_sm90 15, two warps arrive for four", "", "RACE"),
        faulty(16, "linear_sm90 16, no barrier behind mbarrier.init", "", "RACE MBARRIER"),
        faulty(17, "linear_sm90 17, no commit", "WGMMA", "WGMMA"),
        faulty(18, "linear_sm90 18, y not swizzled", "WRONG", "WRONG"),
        faulty(19, "linear_sm90 19, sums do not start at zero", "WRONG", "WRONG"),
        faulty(20, "linear_sm90 20, wrong parity of empty", "DEADLOCK", "DEADLOCK"),
        faulty(21, "linear_sm90 21, accumulator changed in flight", "WGMMA", "WGMMA"),
    };
}

}
