// Any text as a benchmark's files, as what a converter reads, as an answer, a judge's reply and a file of predictions: refused with an Error, or within limits.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include "core/json.h"
#include "data/benchmarks.h"
#include "data/convert.h"
#include "train/judge.h"
#include "train/predictions.h"
#include "train/scoring.h"

using namespace merv;
namespace fs = std::filesystem;

// A folder for the files, removed at the end.
struct Scratch {
    std::string path = (fs::exists("/dev/shm") ? "/dev/shm" : fs::temp_directory_path().string()) + "/merv-fuzz-XXXXXX";
    Scratch() {
        if (!mkdtemp(path.data())) std::abort();
        fs::create_directories(path + "/B");
    }
    ~Scratch() {
        std::error_code ignored;
        fs::remove_all(path, ignored);
    }
};
static const std::string& scratch() {
    static const Scratch s;
    return s.path;
}
static std::string file(const std::string& name, const std::string& text) {
    const std::string path = scratch() + "/" + name;
    std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
    return path;
}

static void benchmark(const std::string& text) {        // the questions, and behind a form feed the answers
    const size_t cut = text.find('\f');
    file("B/test_q.json", text.substr(0, cut));
    if (cut == text.npos) fs::remove(scratch() + "/B/test_a.json");
    else file("B/test_a.json", text.substr(cut + 1));
    for (const Question& q : read_benchmark(scratch(), "B").questions) {
        if (q.letters > kMostOptions || q.answer_id >= int(q.options.size()) || (q.choice() && q.answered && q.answer_id < 0)) std::abort();
        if (question_prompt(q).find(q.text) == std::string::npos) std::abort();
    }
}

static void converter(const std::string& text) {        // the first byte chooses it, the second the kind of file
    static const std::vector<std::string> names = convertible();
    if (text.size() < 2) return;
    const char* kinds[] = {".json", ".jsonl", ".csv"};
    const Convert c{.benchmark = names[uint8_t(text[0]) % names.size()], .in = file(std::string("in_q") + kinds[uint8_t(text[1]) % 3], text.substr(2)), .answers = file("a.json", text.substr(2))};
    const Converted done = convert(c);
    file("B/test_q.json", done.questions);
    if (done.answers.empty()) fs::remove(scratch() + "/B/test_a.json");
    else file("B/test_a.json", done.answers);
    try {
        if (read_benchmark(scratch(), "B").questions.size() != done.count) std::abort();
    } catch (const Error& e) {                          // VLEP's times and Perception Test's cuts are passed on as they are
        if (std::string(e.what()).find("time") == std::string::npos && std::string(e.what()).find("nested") == std::string::npos) std::abort();
    }
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size == 0) return 0;
    const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
    try {
        switch (data[0] % 6) {
        case 0: benchmark(text); break;
        case 1: converter(text); break;
        case 2: {
            const size_t cut = text.find('\n');
            const int option = parse_choice(text.substr(0, cut), {"a dog", cut == text.npos ? "two" : text.substr(cut + 1), "", "dog"});
            if (option < -1 || option > 3) std::abort();
            degenerate(text), first_word(text);
            if (normalised(normalised(text)) != normalised(text)) std::abort();
            break;
        }
        case 3: {
            const auto reply = tolerant_reply(text);
            if (reply && !(reply->score >= 0 && reply->score <= 5)) std::abort();
            literal_reply(text);
            break;
        }
        case 4: read_batch_line(text, "fuzz"); break;
        default:
            for (const Verdict& v : read_verdicts(file(size % 2 ? "p.json" : "p.jsonl", text))) if (v.by.size() > 4) std::abort();
        }
    } catch (const Error&) {
    }
    return 0;
}
