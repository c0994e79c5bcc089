// The command line of every program. One table (core/flag_table.cpp) holds each flag once: name, aliases, value, default,
// help; a program lists the names it accepts. Rules: `-` and `_` are the same; `--x`, `--no-x` and `--x=false` for
// booleans; numbers take k, M, G, Ki, Mi, Gi; an unknown flag is an error that names the nearest one; a value not given is
// taken from MERV_ARG_<FLAG>, else from the table. Bad usage throws Error(Exit::usage).
#pragma once
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace merv {

struct FlagSpec {
    enum Kind { boolean, text, integer, number, integers };
    const char* name;                           // long name, with dashes
    Kind kind;
    const char* fallback;                       // default; nullptr: none
    const char* value;                          // placeholder in --help
    const char* help;
    char letter = 0;                            // -m
    std::vector<const char*> aliases = {};      // other long names
    bool repeats = false;                       // may be given more than once
};
std::span<const FlagSpec> flag_table();

class Flags {
  public:
    // usage: the lines after "usage: " in --help. `accepted` are names from the table; common ones (help, version, verbose,
    // quiet, print-config, profile, trace) need not be listed.
    Flags(std::string program, std::string usage, std::vector<const char*> accepted, size_t most_positionals = 0);

    // Reads the command line and the environment. False when --help, --version or --print-config was answered on stdout.
    bool parse(int argc, const char* const* argv);

    bool has(const std::string& name) const;                    // given on the command line or in the environment
    bool on(const std::string& name) const;
    std::string text(const std::string& name) const;            // empty if not given and without default
    std::vector<std::string> texts(const std::string& name) const;
    int64_t integer(const std::string& name) const;
    double number(const std::string& name) const;
    std::vector<int64_t> integers(const std::string& name) const;       // N[,N..], brackets allowed
    const std::vector<std::string>& positionals() const { return positionals_; }
    const std::string& program() const { return program_; }

  private:
    struct Value { std::vector<std::string> texts; const char* source; };
    const FlagSpec& spec(const std::string& name) const;
    const FlagSpec* find(const std::string& name) const;
    void set(const FlagSpec& flag, const std::string& value, const char* source);
    [[noreturn]] void unknown(const std::string& name) const;
    std::string help() const;

    std::string program_, usage_;
    std::vector<const FlagSpec*> accepted_;
    size_t most_positionals_;
    std::map<std::string, Value> values_;
    std::vector<std::string> positionals_;
};

}
