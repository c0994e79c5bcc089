#include "kernels/cpu.h"
#include <algorithm>
#include <cstdlib>
#include <string>
#include "core/check.h"

namespace merv::kernels::cpu {
namespace {

Isa choose() {
    const char* wanted = std::getenv("MERV_ISA");
    const std::vector<Isa> all = available();
    if (!wanted || !*wanted) return all.back();
    std::string names;
    for (Isa i : all) {
        if (name_of(i) == std::string(wanted)) return i;
        names += std::string(" ") + name_of(i);
    }
    fail(Exit::usage, "MERV_ISA=", wanted, ": this machine and build have", names);
}
Isa& chosen() {
    static Isa i = choose();
    return i;
}

}

const char* name_of(Isa i) {
    constexpr const char* names[] = {"portable", "avx2", "avx512", "avx512_bf16"};
    return names[int(i)];
}

std::vector<Isa> available() {
    std::vector<Isa> all{Isa::portable};
#ifdef __x86_64__
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd");
    if (avx2) all.push_back(Isa::avx2);
    if (avx512) all.push_back(Isa::avx512);
    if (avx512 && __builtin_cpu_supports("avx512bf16")) all.push_back(Isa::avx512_bf16);
#endif
    return all;
}

Isa isa() { return chosen(); }
void use(Isa i) {
    const std::vector<Isa> all = available();
    CHECK(std::find(all.begin(), all.end(), i) != all.end(), "this machine has no ", name_of(i));
    chosen() = i;
}

}
