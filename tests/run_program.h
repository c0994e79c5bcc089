// Runs a program of this project as a user would: arguments and environment in, exit code, stdout and stderr out.
#pragma once
#include "tests/test.h"
#include <fstream>
#include <sstream>
#include <utility>
#include <vector>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>
#include "core/json.h"

namespace merv::test {

inline std::string read_file(const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path, std::ios::binary).rdbuf();
    return text.str();
}
inline void write_file(const std::string& path, std::string_view text) { std::ofstream(path, std::ios::binary | std::ios::trunc) << text; }

using Words = std::vector<std::string>;          // of a command line

struct Run {
    int code = -1;                              // 124: it ran too long; 128 + n: killed by signal n
    std::string out, err;
    Json json() const {                         // stdout must be one JSON value, a newline, and nothing else
        EXPECT(out.ends_with("}\n"));
        return parse_json(out, "stdout");
    }
};

inline Run succeeded(const Run& r) {            // what a run must have done
    CAPTURE(r.err);
    REQUIRE_EQ(r.code, 0);
    return r;
}

inline std::string built(const std::string& program) {         // its absolute path
    const char* folder = std::getenv("MERV_BIN");
    return (std::filesystem::absolute(folder ? folder : "build/bin") / program).string();
}

// `path` arguments, with the NAME=VALUE words of `environment` set. One thread unless told otherwise: the tests' models are so
// small that threads only wait for each other. merv-ask computes in f32 unless told otherwise, as the golden outputs were.
inline Run run_program(const std::string& path, const Words& arguments, const std::string& environment = "") {
    auto quoted = [](const std::string& s) {
        std::string q = "'";
        for (char c : s) q += c == '\'' ? "'\\''" : std::string(1, c);
        return q += "'";
    };
    TempDir dir;
    std::string command = concat("MERV_ARG_THREADS=1 ", path.ends_with("merv-ask") ? "MERV_ARG_DTYPE=f32 " : "", environment, " timeout 300 ", quoted(path));
    for (const std::string& a : arguments) command += concat(" ", quoted(a));
    const int status = std::system(concat(command, " </dev/null >", quoted(dir / "out"), " 2>", quoted(dir / "err")).c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(dir / "out"), read_file(dir / "err")};
}

// A program on a terminal of its own, typed at and read as a person would.
class Terminal {
  public:
    // Containers may have no /dev/pts. Marks the case as skipped then.
    static bool there_is() {
        int master = -1, slave = -1;
        const bool yes = openpty(&master, &slave, nullptr, nullptr, nullptr) == 0;
        if (yes) close(master), close(slave);
        else skip("no pseudo-terminal here (is /dev/pts mounted?)");
        return yes;
    }
    Terminal(const std::string& path, const Words& arguments) {
        pid_ = forkpty(&fd_, nullptr, nullptr, nullptr);
        if (pid_ == 0) {
            setenv("MERV_ARG_THREADS", "1", 0), setenv("MERV_ARG_DTYPE", "f32", 0);
            std::vector<char*> argv{const_cast<char*>(path.c_str())};
            for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
            argv.push_back(nullptr);
            execv(path.c_str(), argv.data());
            _exit(127);
        }
        termios settings{};                     // what is typed is not shown: the output is then the program's alone
        tcgetattr(fd_, &settings);
        settings.c_lflag &= tcflag_t(~ECHO);
        tcsetattr(fd_, TCSANOW, &settings);
    }
    ~Terminal() {
        if (pid_ > 0) kill(pid_, SIGKILL), waitpid(pid_, nullptr, 0);
        close(fd_);
    }
    Terminal(const Terminal&) = delete;
    void type(const std::string& text) { EXPECT_EQ(write(fd_, text.data(), text.size()), ssize_t(text.size())); }
    // What comes until `mark` has come (or the program ended, or a minute passed), without the carriage returns.
    std::string until(const std::string& mark) {
        for (size_t at; (at = unread_.find(mark)) == unread_.npos;)
            if (!more()) { FAIL_CHECK("did not come: " << mark << "; but: " << unread_); return std::exchange(unread_, ""); }
        const size_t end = unread_.find(mark) + mark.size();
        const std::string head = unread_.substr(0, end);
        unread_.erase(0, end);
        return head;
    }
    std::string rest() {                        // until the program closes the terminal
        while (more()) {}
        return std::exchange(unread_, "");
    }
    int code() {                                // its exit code; 128 + n: killed by signal n
        rest();
        int status = 0;
        waitpid(std::exchange(pid_, -1), &status, 0);
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }

  private:
    bool more() {
        pollfd wait{fd_, POLLIN, 0};
        char block[4096];
        const ssize_t n = poll(&wait, 1, 60'000) > 0 ? read(fd_, block, sizeof block) : 0;
        for (ssize_t i = 0; i < n; i++) if (block[i] != '\r') unread_ += block[i];
        return n > 0;
    }
    int fd_ = -1;
    pid_t pid_ = -1;
    std::string unread_;
};

}
