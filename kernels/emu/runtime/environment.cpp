// MERV_CUDA_POLICY=late, eager or random:SEED: how work runs in a whole program, until it says something else itself.
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include "core/check.h"
#include "kernels/emu/runtime/runtime.h"

namespace merv::emulated_runtime {
namespace {

const bool chosen = [] {
    const char* text = std::getenv("MERV_CUDA_POLICY");
    const std::string policy = text ? text : "late", digits = policy.starts_with("random:") ? policy.substr(7) : "";
    unsigned seed = 1;
    if (policy == "late") configure(Policy::late);
    else if (policy == "eager") configure(Policy::eager);
    else if (!digits.empty() && std::from_chars(digits.data(), digits.data() + digits.size(), seed).ptr == digits.data() + digits.size()) configure(Policy::random, seed);
    else {                                      // before main: nobody would catch an Error
        std::fprintf(stderr, "error: MERV_CUDA_POLICY=%s: late, eager or random:SEED\n", text);
        std::_Exit(int(Exit::usage));
    }
    return true;
}();

}
}
