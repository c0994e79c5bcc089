// Errors. CHECK guards what a caller of the library can get wrong and names the op and the shapes; what a *user* can get
// wrong (a file, a flag) is reported by throwing Error, which carries the exit code of the program.
#pragma once
#include <sstream>
#include <stdexcept>
#include <string>

namespace merv {

// Exit codes of every program, documented in docs/errors.md.
enum class Exit { ok = 0, runtime = 1, usage = 2, bad_data = 3, bad_weights = 4, no_memory = 5, numerics = 6, device = 7, some_failed = 8 };

struct Error : std::runtime_error {
    Error(Exit code, const std::string& what) : std::runtime_error(what), code(code) {}
    Exit code;
};

template <class... A> std::string concat(const A&... parts) {
    std::ostringstream s;
    (s << ... << parts);
    return s.str();
}
// fail(Exit::bad_data, path, ": holds no video stream; ...")
template <class... A> [[noreturn]] void fail(Exit code, const A&... parts) { throw Error(code, concat(parts...)); }

template <class... A> [[noreturn]] void check_failed(const char* file, int line, const char* condition, const A&... parts) {
    throw std::logic_error(concat(parts..., "  [", condition, "] ", file, ":", line));
}
#define CHECK(condition, ...) \
    do { if (!(condition)) ::merv::check_failed(__FILE__, __LINE__, #condition, __VA_ARGS__); } while (0)

}
