#include "kernels/cuda/host/self_test.h"
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include "core/cuda.h"
#include "core/log.h"
#include "core/rng.h"
#include "core/version.h"
#include "kernels/device.h"

namespace merv {
namespace {

namespace fs = std::filesystem;
using kernels::Answer;
using kernels::Question;
using Result = Verdict::Result;

constexpr const char* kWords[] = {"right", "by another way", "wrong", "crashed"};
constexpr const char *kAsked = "asked", *kEnd = "complete";

std::string line_of(const std::string& op, const std::string& way, const std::string& word) { return concat(op, "\t", way, "\t", word, "\n"); }
void append(const std::string& path, const std::string& line) {
    if (path.empty()) return;
    std::ofstream file(path, std::ios::app);
    file << line << std::flush;
}
// op and way -> last word about them; "" -> kEnd if the file was finished
std::map<std::pair<std::string, std::string>, std::string> read_record(const std::string& path) {
    std::map<std::pair<std::string, std::string>, std::string> all;
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        std::istringstream in(line);
        std::string op, way, word;
        if (line == kEnd) all[{"", ""}] = kEnd;
        else if (std::getline(in, op, '\t') && std::getline(in, way, '\t') && std::getline(in, word, '\t')) all[{op, way}] = word;
    }
    return all;
}

void apply(const Question& q, Result result) {
    if (result == Result::by_another_way && q.special) *q.special = false;
    if (result == Result::wrong || result == Result::crashed) *q.replaced = kernels::anything_replaced = true;
}
void say_what(const Verdict& v) {
    if (v.result == Result::right) return;
    const std::string why = v.result == Result::crashed ? "ended the program last time" : v.error > 0 ? concat("is off by ", v.error, " (limit ", v.limit, ")") : "was wrong";
    log_text(Level::normal, concat("self-test: ", v.op, " (", v.way, ") ", why, "; ", v.result == Result::by_another_way ? "its plain kernels are used" : "it runs on the CPU", " from now on"));
}

Answer ask(const Question& q) {
    Answer a = q.ask();
    cuda().synchronize();
    return a;
}

}

std::vector<Verdict> self_test(const std::string& record, const std::vector<Question>& questions) {
    const auto before = read_record(record);
    std::vector<Verdict> verdicts;
    for (const Question& q : questions) {
        Verdict v{.op = q.op, .way = q.way};
        const auto known = before.find({q.op, q.way});
        if (known != before.end() && (known->second == kAsked || known->second == kWords[int(Result::crashed)])) v.result = Result::crashed;
        else {
            append(record, line_of(q.op, q.way, kAsked));
            Answer a = ask(q);                  // an error that the device does not recover from ends the program here, and the record says where
            v.error = a.error, v.limit = a.limit;
            if (!(a.error <= a.limit)) {
                v.result = Result::wrong;
                if (q.special && *q.special) {
                    *q.special = false;
                    a = ask(q);
                    if (a.error <= a.limit) v.result = Result::by_another_way;
                    else *q.special = true;
                }
            }
        }
        append(record, line_of(q.op, q.way, kWords[int(v.result)]));
        apply(q, v.result);
        verdicts.push_back(v);
    }
    append(record, std::string(kEnd) + "\n");
    return verdicts;
}

void test_device(const std::string& device, const std::string& uuid, int driver, const std::vector<Question>& questions) {
    const char* const wish = std::getenv("MERV_SELF_TEST");
    const std::string how = wish ? wish : "";
    if (how == "0" || (how != "always" && device.find("emulated") != device.npos)) return;
    const char *cache = std::getenv("XDG_CACHE_HOME"), *home = std::getenv("HOME");
    std::error_code error;
    const fs::path folder = cache && *cache ? fs::path(cache) / "merv" : home && *home ? fs::path(home) / ".cache/merv" : fs::path();
    std::string record;
    if (!folder.empty()) {
        const auto program = fs::canonical("/proc/self/exe", error);
        const std::string key = concat(device, "|", uuid, "|", driver, "|", kVersion, "|", commit(), "|", fs::file_size(program, error), "|", fs::last_write_time(program, error).time_since_epoch().count());
        const Rng name(1, key);                 // a hash of the key is all that is wanted
        char text[48];
        std::snprintf(text, sizeof text, "self-test-%08x%08x.txt", name.bits(0)[0], name.bits(1)[0]);
        fs::create_directories(folder, error);
        record = (folder / text).string();
        if (std::ofstream file(record, std::ios::app); !file) record.clear(), say_verbose("self-test: ", folder.string(), " cannot be written, so every start asks again");
    }
    if (how == "always" && !record.empty()) fs::remove(record, error);
    const auto before = read_record(record);
    if (before.count({"", ""})) {               // all asked, by an earlier start
        std::map<std::string, int> words;
        for (int i = 0; i < 4; i++) words[kWords[i]] = i;
        for (const Question& q : questions) {
            const auto found = before.find({q.op, q.way});
            const auto word = found == before.end() ? words.end() : words.find(found->second);
            if (word == words.end()) continue;
            apply(q, Result(word->second));
            say_what({.op = q.op, .way = q.way, .result = Result(word->second)});
        }
        return;
    }
    say_verbose("self-test: the first use of ", device, " by this build");
    for (const Verdict& v : self_test(record, questions)) say_what(v);
}

}
