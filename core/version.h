// What was built, from what, for which machine.
#pragma once
#include <string>

namespace merv {

inline constexpr const char* kVersion = "0.1.0";
std::string commit();                           // git commit of the build, "-dirty" appended if the tree had changes
std::string compiler();                         // "g++ 12.2.0"
std::string version_text(const std::string& program);

}
