// Runs a program of this project as a user would: arguments and environment in, exit code, stdout and stderr out.
#pragma once
#include "tests/test.h"
#include <fstream>
#include <sstream>
#include <vector>
#include <sys/wait.h>
#include "core/json.h"

namespace merv::test {

inline std::string read_file(const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path, std::ios::binary).rdbuf();
    return text.str();
}
inline void write_file(const std::string& path, std::string_view text) { std::ofstream(path, std::ios::binary | std::ios::trunc) << text; }

struct Run {
    int code = -1;                              // 124: it ran too long; 128 + n: killed by signal n
    std::string out, err;
    Json json() const {                         // stdout must be one JSON value, a newline, and nothing else
        EXPECT(out.ends_with("}\n"));
        return parse_json(out, "stdout");
    }
};

inline std::string built(const std::string& program) {         // its absolute path
    const char* folder = std::getenv("MERV_BIN");
    return (std::filesystem::absolute(folder ? folder : "build/bin") / program).string();
}

// `path` arguments, with the NAME=VALUE words of `environment` set. One thread unless told otherwise: the tests' models are so
// small that threads only wait for each other.
inline Run run_program(const std::string& path, const std::vector<std::string>& arguments, const std::string& environment = "") {
    auto quoted = [](const std::string& s) {
        std::string q = "'";
        for (char c : s) q += c == '\'' ? "'\\''" : std::string(1, c);
        return q += "'";
    };
    TempDir dir;
    std::string command = concat("MERV_ARG_THREADS=1 ", environment, " timeout 300 ", quoted(path));
    for (const std::string& a : arguments) command += concat(" ", quoted(a));
    const int status = std::system(concat(command, " </dev/null >", quoted(dir / "out"), " 2>", quoted(dir / "err")).c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(dir / "out"), read_file(dir / "err")};
}

}
