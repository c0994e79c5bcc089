#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <set>
#include <unistd.h>
#include "kernels/emu/machine.h"

namespace merv::emu {
namespace {

Collect* collecting;
std::vector<Report> found;                      // when nobody collects
std::set<std::string> known;                    // kinds and causes, per launch

// Places are kept as numbers: even ones are instructions of this program, odd ones lines.
template <class T> struct Numbered {
    std::vector<T> all;
    std::map<T, uint32_t> numbers;
    uint32_t operator()(const T& x) {
        const auto [at, added] = numbers.try_emplace(x, uint32_t(all.size()));
        if (added) all.push_back(x);
        return at->second;
    }
};
Numbered<const void*> instructions;
Numbered<std::pair<const char*, int>> sites;

std::map<const void*, Source> known_sources;

// addr2line's answer: per address a row "0x..: function at file:line", then " (inlined by) .." for those it was inlined into
void ask_for_sources(const std::vector<const void*>& instructions) {
    std::string command = concat("addr2line -a -p -i -f -C -e /proc/", getpid(), "/exe");
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
    Source* to = nullptr;
    for (size_t next = 0; std::fgets(row, sizeof row, f);) {
        const std::string s = row;
        const bool first = s.starts_with("0x");
        if (first) to = next < asked.size() ? &known_sources[asked[next++]] : nullptr;
        const size_t name = first ? s.find(": ") + 2 : std::strlen(" (inlined by) "), at = s.rfind(" at ");
        if (!to || at == s.npos) continue;
        to->function = s.substr(name, at - name);       // the outermost remains
        const size_t file = std::max(s.rfind('/') + 1, at + 4);
        const std::string line = s.substr(file, s.find_first_of(" \n", file) - file);
        const bool kernel = line.find(".cu:") != line.npos;
        if (to->line == "?" || (kernel && to->line.find(".cu:") == s.npos)) to->line = line;
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
uint32_t where_is(Site s) { return sites({s.file, s.line}) * 2 + 1; }
uint32_t where_is(const void* instruction) {
    static struct { const void* instruction; uint32_t where; } recent[4096];        // most accesses are a few instructions'
    auto& r = recent[uintptr_t(instruction) / 4 % 4096];
    if (r.instruction != instruction) r = {instruction, instructions(instruction) * 2};
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
    for (uint32_t where : places) if (!(where & 1)) all.push_back(instructions.all[where / 2]);
    ask_for_sources(all);
}
std::string place_name(uint32_t where) { return where & 1 ? name_of(Site{sites.all[where / 2].first, sites.all[where / 2].second}) : sources({instructions.all[where / 2]})[0].line; }

}
