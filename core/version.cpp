#include "core/version.h"

#ifndef MERV_COMMIT
#define MERV_COMMIT "unknown"
#endif

namespace merv {

std::string commit() { return MERV_COMMIT; }
std::string compiler() {
#ifdef __clang__
    return "clang " + std::to_string(__clang_major__) + "." + std::to_string(__clang_minor__);
#else
    return "g++ " + std::to_string(__GNUC__) + "." + std::to_string(__GNUC_MINOR__) + "." + std::to_string(__GNUC_PATCHLEVEL__);
#endif
}
std::string isa() {
#if defined(__AVX512F__)
    return "avx512";
#elif defined(__AVX2__) && defined(__FMA__)
    return "avx2";
#else
    return "baseline";
#endif
}
std::string version_text(const std::string& program) {
    return program + " (merv.cpp) " + kVersion + ", commit " + commit() + ", " + compiler() + ", " + isa();
}

}
