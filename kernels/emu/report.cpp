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

// The line of a kernel that an instruction belongs to: of the functions inlined there, the innermost of a .cu file
std::string line_of(const void* instruction) {
    static std::map<const void*, std::string> lines;
    std::string& line = lines[instruction];
    if (!line.empty()) return line;
    line = "?";
    Dl_info info;
    if (!dladdr(instruction, &info)) return line;
    const size_t offset = size_t(static_cast<const char*>(instruction) - static_cast<const char*>(info.dli_fbase)) - 1;
    if (FILE* f = popen(concat("addr2line -i -e /proc/", getpid(), "/exe 0x", std::hex, offset, " 2>/dev/null").c_str(), "r")) {
        char row[1024];
        std::string first;
        while (std::fgets(row, sizeof row, f)) {
            std::string s = row;
            s = s.substr(0, s.find_first_of(" \n"));
            if (first.empty()) first = s;
            if (s.find(".cu:") != s.npos) { first = s; break; }
        }
        pclose(f);
        if (!first.empty()) line = first.substr(first.rfind('/') + 1);
    }
    return line;
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
    const auto [at, added] = instruction_numbers.try_emplace(instruction, uint32_t(instructions.size()));
    if (added) instructions.push_back(instruction);
    return at->second * 2;
}
std::string place_name(uint32_t where) { return where & 1 ? name_of(sites[where / 2]) : line_of(instructions[where / 2]); }

}
