// merv <command> ...: runs merv-<command>, which lies beside it or on the PATH, as git does.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <vector>
#include <unistd.h>
#include "core/check.h"
#include "core/version.h"

namespace {

std::filesystem::path own_folder() {
    std::error_code ignored;
    return std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path();
}

int list(FILE* to) {
    std::fprintf(to, "usage: merv <command> [...]; `merv <command> --help` explains one. Commands:\n");
    std::vector<std::string> names;
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator(own_folder(), ignored))
        if (const std::string name = entry.path().filename(); name.starts_with("merv-")) names.push_back(name.substr(5));
    std::sort(names.begin(), names.end());
    for (const std::string& name : names) std::fprintf(to, "  %s\n", name.c_str());
    return to == stdout ? 0 : int(merv::Exit::usage);
}

}

int main(int argc, char** argv) {
    if (argc < 2) return list(stderr);
    const std::string command = argv[1];
    if (command == "--help" || command == "-h" || command == "help") return list(stdout);
    if (command == "--version") return std::puts(merv::version_text("merv").c_str()), 0;
    const std::string program = "merv-" + command, beside = (own_folder() / program).string();
    if (command.find('/') == std::string::npos) {
        execv(beside.c_str(), argv + 1);
        execvp(program.c_str(), argv + 1);
    }
    std::fprintf(stderr, "merv: error: no command '%s'; `merv --help` lists them\n", command.c_str());
    return int(merv::Exit::usage);
}
