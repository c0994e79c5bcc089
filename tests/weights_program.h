// merv-weights as the tests run it.
#pragma once
#include <map>
#include "tests/run_program.h"

namespace merv::test {

inline Run weights(const Words& arguments, const std::string& environment = "") { return run_program(built("merv-weights"), arguments, environment); }
inline Run good(const Words& arguments, const std::string& environment = "") { return succeeded(weights(arguments, environment)); }
inline void expect_error(const Words& arguments, int code, const std::string& part, const std::string& environment = "") {
    const Run r = weights(arguments, environment);
    CAPTURE(part);
    EXPECT_EQ(r.code, code);
    EXPECT_EQ(r.out, "");
    const size_t last = r.err.rfind("merv-weights: ");         // import reports its progress before
    EXPECT_MESSAGE((last != r.err.npos && r.err.compare(last, 21, "merv-weights: error: ") == 0), "got '", r.err, "'");
    EXPECT_SAYS(r.err, part);
}
inline std::map<std::string, std::string> files_of(const std::string& folder) {        // path in the folder -> contents
    namespace fs = std::filesystem;
    std::map<std::string, std::string> all;
    for (const auto& entry : fs::recursive_directory_iterator(folder))
        if (entry.is_regular_file()) all[fs::relative(entry.path(), folder).string()] = read_file(entry.path().string());
    return all;
}

}
