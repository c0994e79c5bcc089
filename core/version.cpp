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
std::string version_text(const std::string& program) {
    return program + " (merv.cpp) " + kVersion + ", commit " + commit() + ", " + compiler();
}

}
