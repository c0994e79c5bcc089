#include "core/flags.h"
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include "core/check.h"
#include "core/version.h"

namespace merv {
namespace {

std::string normal(std::string name) {
    std::replace(name.begin(), name.end(), '_', '-');
    return name;
}
std::string variable(const FlagSpec& flag) {    // MERV_ARG_CLIP_START
    std::string v = "MERV_ARG_";
    for (const char* c = flag.name; *c; c++) v += *c == '-' ? '_' : char(std::toupper(static_cast<unsigned char>(*c)));
    return v;
}

size_t edit_distance(const std::string& a, const std::string& b) {
    std::vector<size_t> row(b.size() + 1);
    for (size_t j = 0; j <= b.size(); j++) row[j] = j;
    for (size_t i = 1; i <= a.size(); i++) {
        size_t diagonal = row[0]++;
        for (size_t j = 1; j <= b.size(); j++) {
            const size_t here = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
            diagonal = row[j];
            row[j] = here;
        }
    }
    return row[b.size()];
}

// "16", "1.5k", "2Mi": the number with its unit applied; false if it is no number.
bool parse_number(std::string text, double& out) {
    double unit = 1;
    const bool binary = text.ends_with("i");
    if (binary) text.pop_back();
    if (!text.empty()) {
        const size_t power = std::string("kMG").find(text.back() == 'K' ? 'k' : text.back());
        if (power != std::string::npos) unit = std::pow(binary ? 1024.0 : 1000.0, double(power + 1)), text.pop_back();
        else if (binary) return false;
    }
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, out);
    out *= unit;
    return error == std::errc() && stop == end && std::isfinite(out);
}
bool parse_integer(const std::string& text, int64_t& out) {
    const char* end = text.data() + text.size();
    if (const auto [stop, error] = std::from_chars(text.data(), end, out); error == std::errc() && stop == end) return true;     // all 64 bits
    double d;
    if (!parse_number(text, d) || d != std::floor(d) || std::abs(d) > 0x1p53) return false;
    out = int64_t(d);
    return true;
}
bool parse_integers(std::string text, std::vector<int64_t>& out) {
    if (text.size() >= 2 && text.front() == '[' && text.back() == ']') text = text.substr(1, text.size() - 2);
    for (size_t begin = 0; begin <= text.size();) {
        const size_t end = std::min(text.find(',', begin), text.size());
        std::string part = text.substr(begin, end - begin);
        part.erase(std::remove(part.begin(), part.end(), ' '), part.end());
        if (!parse_integer(part, out.emplace_back())) return false;
        begin = end + 1;
    }
    return true;
}
bool parse_boolean(const std::string& text, bool& out) {
    for (const char* yes : {"true", "1", "yes", "on"}) if (text == yes) return out = true;
    for (const char* no : {"false", "0", "no", "off"}) if (text == no) return out = false, true;
    return false;
}

}

Flags::Flags(std::string program, std::string usage, std::vector<const char*> accepted, size_t most_positionals)
    : program_(std::move(program)), usage_(std::move(usage)), most_positionals_(most_positionals) {
    for (const char* name : {"help", "version", "verbose", "quiet", "print-config", "profile", "trace"}) accepted.push_back(name);
    for (const FlagSpec& flag : flag_table())
        if (std::any_of(accepted.begin(), accepted.end(), [&](const char* a) { return std::string(a) == flag.name; })) accepted_.push_back(&flag);
    CHECK(accepted_.size() == accepted.size(), program_, " accepts a flag that is not in the table, or one twice");
}

const FlagSpec* Flags::find(const std::string& name) const {
    for (const FlagSpec* f : accepted_) {
        if (name == f->name) return f;
        for (const char* alias : f->aliases) if (name == alias) return f;
    }
    return nullptr;
}
const FlagSpec& Flags::spec(const std::string& name) const {
    const FlagSpec* f = find(name);
    CHECK(f, program_, " does not accept --", name);
    return *f;
}

void Flags::unknown(const std::string& name) const {
    const FlagSpec* nearest = accepted_.front();
    size_t best = SIZE_MAX;
    for (const FlagSpec* f : accepted_)
        if (size_t d = edit_distance(name, f->name); d < best) best = d, nearest = f;
    fail(Exit::usage, "unknown flag --", name, best <= 3 ? concat("; did you mean --", nearest->name, "?") : concat("; `", program_, " --help` lists them"));
}

void Flags::set(const FlagSpec& flag, const std::string& value, const char* source) {
    bool b;
    int64_t i;
    double d;
    std::vector<int64_t> list;
    const bool good = flag.kind == FlagSpec::boolean ? parse_boolean(value, b) : flag.kind == FlagSpec::integer ? parse_integer(value, i)
        : flag.kind == FlagSpec::number ? parse_number(value, d) : flag.kind == FlagSpec::integers ? parse_integers(value, list) : true;
    static constexpr const char* wanted[] = {"true or false", "text", "a whole number", "a number", "whole numbers separated by commas"};
    if (!good) fail(Exit::usage, "--", flag.name, " takes ", wanted[flag.kind], ", not '", value, "'", std::string(source) == "environment" ? concat(" (from ", variable(flag), ")") : "");
    Value& v = values_[flag.name];
    if (!v.texts.empty() && !flag.repeats) fail(Exit::usage, "--", flag.name, " is given twice");
    v.texts.push_back(value);
    v.source = source;
}

bool Flags::parse(int argc, const char* const* argv) {
    for (int i = 1; i < argc; i++) {
        std::string arg = argv[i], value;
        if (arg == "--") {
            positionals_.insert(positionals_.end(), argv + i + 1, argv + argc);
            break;
        }
        if (arg.size() < 2 || arg[0] != '-') {
            positionals_.push_back(arg);
            continue;
        }
        const FlagSpec* flag = nullptr;
        bool has_value = false, negated = false;
        if (arg[1] != '-') {                    // -m DIR, -mDIR
            for (const FlagSpec* f : accepted_) if (f->letter && f->letter == arg[1]) flag = f;
            if (!flag) fail(Exit::usage, "unknown flag ", arg, "; `", program_, " --help` lists them");
            if (arg.size() > 2) has_value = true, value = arg.substr(arg[2] == '=' ? 3 : 2);
        } else {
            const size_t equals = arg.find('=');
            has_value = equals != std::string::npos;
            if (has_value) value = arg.substr(equals + 1);
            const std::string name = normal(arg.substr(2, has_value ? equals - 2 : std::string::npos));
            flag = find(name);
            if (!flag && name.starts_with("no-")) {
                flag = find(name.substr(3));
                if (flag && (flag->kind != FlagSpec::boolean || has_value)) flag = nullptr;
                negated = flag;
            }
            if (!flag) unknown(name);
        }
        if (flag->kind == FlagSpec::boolean) { if (!has_value) value = negated ? "false" : "true"; }
        else if (!has_value) {
            if (++i >= argc) fail(Exit::usage, "--", flag->name, " needs a value: ", flag->value);
            value = argv[i];
        }
        set(*flag, value, "command line");
    }
    if (positionals_.size() > most_positionals_) fail(Exit::usage, "unexpected argument '", positionals_[most_positionals_], "'; `", program_, " --help` shows the usage");
    for (const FlagSpec* f : accepted_)
        if (const char* v = std::getenv(variable(*f).c_str()); v && !values_.count(f->name)) set(*f, v, "environment");

    if (on("help")) return std::fputs(help().c_str(), stdout), false;
    if (on("version")) return std::puts(version_text(program_).c_str()), false;
    if (on("print-config")) {
        for (const FlagSpec* f : accepted_) {
            const auto given = values_.find(f->name);
            std::string shown;
            for (const std::string& t : texts(f->name)) shown += (shown.empty() ? "" : " | ") + t;
            std::printf("%-16s %-30s %s\n", f->name, shown.c_str(), given != values_.end() ? given->second.source : f->fallback ? "default" : "not set");
        }
        return false;
    }
    return true;
}

std::string Flags::help() const {
    std::string out = "usage: " + usage_ + "\n\n";
    for (const FlagSpec* f : accepted_) {
        std::string left = f->letter ? concat("  -", f->letter, ", --", f->name) : concat("      --", f->name);
        if (*f->value) left += concat(" ", f->value);
        left.resize(std::max<size_t>(left.size() + 1, 32), ' ');
        out += left + f->help;
        if (f->fallback && f->kind != FlagSpec::boolean) out += concat(" [", f->fallback, "]");
        out += "\n";
    }
    return out + "\nEvery flag can also be set as MERV_ARG_<FLAG> in the environment. Exit codes: docs/errors.md.\n";
}

bool Flags::has(const std::string& name) const { return values_.count(spec(name).name) > 0; }
std::vector<std::string> Flags::texts(const std::string& name) const {
    const FlagSpec& f = spec(name);
    if (auto v = values_.find(f.name); v != values_.end()) return v->second.texts;
    return f.fallback ? std::vector<std::string>{f.fallback} : std::vector<std::string>{};
}
std::string Flags::text(const std::string& name) const {
    const auto all = texts(name);
    return all.empty() ? "" : all.back();
}
bool Flags::on(const std::string& name) const {
    bool b = false;
    return parse_boolean(text(name), b) && b;
}
int64_t Flags::integer(const std::string& name) const {
    int64_t i = 0;
    CHECK(parse_integer(text(name), i), "--", name, " has no value");
    return i;
}
double Flags::number(const std::string& name) const {
    double d = 0;
    CHECK(parse_number(text(name), d), "--", name, " has no value");
    return d;
}
std::vector<int64_t> Flags::integers(const std::string& name) const {
    std::vector<int64_t> list;
    CHECK(parse_integers(text(name), list), "--", name, " has no value");
    return list;
}

}
