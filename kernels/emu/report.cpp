#include <cstdio>
#include <cxxabi.h>
#include <dlfcn.h>
#include <set>
#include <unistd.h>
#include "core/check.h"
#include "kernels/emu/machine.h"

namespace merv::emu {
namespace {

Collect* collecting;
std::vector<Report> found;                      // when nobody collects
std::set<std::string> known;                    // kinds and causes, per launch

// Places are kept as numbers: even ones are instructions of this program, odd ones lines.
std::vector<const void*> instructions;
std::map<const void*, uint32_t> instruction_numbers;
std::vector<Site> sites;
std::map<std::pair<const char*, int>, uint32_t> site_numbers;

std::map<const void*, Source> known_sources;

// addr2line's answer: per address a line 0x.., then for each function inlined there, innermost first, its name and file:line
void ask_for_sources(const std::vector<const void*>& instructions) {
    std::string command = concat("addr2line -a -i -f -C -e /proc/", getpid(), "/exe");
    std::vector<const void*> asked;
    for (const void* i : instructions) {
        Dl_info info;
        if (!known_sources.try_emplace(i, Source{"?", "?"}).second || !dladdr(i, &info)) continue;
        command += concat(" 0x", std::hex, size_t(static_cast<const char*>(i) - static_cast<const char*>(info.dli_fbase)) - 1);
        asked.push_back(i);
    }
    FILE* f = asked.empty() ? nullptr : popen((command + " 2>/dev/null").c_str(), "r");
    if (!f) return;
    char row[4096];
    bool named = false;                         // the next row is a file's
    Source* to = nullptr;
    for (size_t next = 0; std::fgets(row, sizeof row, f);) {
        std::string s = row;
        while (!s.empty() && s.back() == '\n') s.pop_back();
        if (s.starts_with("0x")) {
            to = next < asked.size() ? &known_sources[asked[next++]] : nullptr;
            named = false;
        } else if (to && !named) {
            to->function = s, named = true;     // the outermost remains
        } else if (to) {
            named = false;
            s = s.substr(0, s.find(' '));
            s = s.substr(s.rfind('/') + 1);
            const bool kernel = s.find(".cu:") != s.npos;
            if (to->line == "?" || (kernel && to->line.find(".cu:") == s.npos)) to->line = s;
        }
    }
    pclose(f);
}

}

__attribute__((noinline)) void on_report() { asm volatile(""); }        // gdb: break merv::emu::on_report

Collect::Collect() : outer_(collecting) { collecting = this; }
Collect::~Collect() { collecting = outer_; }

void report(const std::string& kind, const std::string& cause, const std::string& what) {
    if (!known.insert(kind + " " + cause).second) return;
    std::vector<Report>& to = collecting ? collecting->reports : found;
    if (to.size() >= 20) return;
    to.push_back({kind, launched ? concat(what, ", in kernel ", launched->name, " launched at ", name_of(launched->site)) : what});
    on_report();
}
void throw_reports() {
    known.clear();
    if (found.empty()) return;
    std::string all;
    for (size_t i = 0; i < found.size() && i < 3; i++) all += concat(i ? "\n" : "", found[i].kind, ": ", found[i].text);
    if (found.size() > 3) all += concat("\nand ", found.size() - 3, " more");
    found.clear();
    fail(Exit::device, "emulator: ", all);
}

std::string name_of(const Thread& t) {
    const uint3 i = t.index, b = t.block->index;
    return concat("thread (", i.x, ",", i.y, ",", i.z, ") of block (", b.x, ",", b.y, ",", b.z, ")");
}
std::string name_of(Site s) {
    const std::string file = s.file;
    return concat(file.substr(file.rfind('/') + 1), ":", s.line);
}
uint32_t where_is(Site s) {
    const auto [at, added] = site_numbers.try_emplace({s.file, s.line}, uint32_t(sites.size()));
    if (added) sites.push_back(s);
    return at->second * 2 + 1;
}
uint32_t where_is(const void* instruction) {
    static struct { const void* instruction; uint32_t where; } recent[4096];        // most accesses are a few instructions'
    auto& r = recent[uintptr_t(instruction) / 4 % 4096];
    if (r.instruction == instruction) return r.where;
    const auto [at, added] = instruction_numbers.try_emplace(instruction, uint32_t(instructions.size()));
    if (added) instructions.push_back(instruction);
    r = {instruction, at->second * 2};
    return r.where;
}
std::vector<Source> sources(const std::vector<const void*>& instructions) {
    ask_for_sources(instructions);
    std::vector<Source> all;
    for (const void* i : instructions) all.push_back(known_sources[i]);
    return all;
}
void prepare_place_names(const std::vector<uint32_t>& places) {
    std::vector<const void*> all;
    for (uint32_t where : places) if (!(where & 1)) all.push_back(instructions[where / 2]);
    ask_for_sources(all);
}
std::string place_name(uint32_t where) { return where & 1 ? name_of(sites[where / 2]) : sources({instructions[where / 2]})[0].line; }

}
