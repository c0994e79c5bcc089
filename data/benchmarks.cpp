#include "data/benchmarks.h"
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include "core/json.h"
#include "core/log.h"

namespace merv {
namespace fs = std::filesystem;

namespace {

constexpr JsonLimits kLimits{.bytes = size_t(256) << 20};

// One record of a file, for messages: "test_q.json: record 17: ..."
struct Record {
    const Json& json;
    std::string where;
    template <class... A> [[noreturn]] void wrong(const A&... parts) const { fail(Exit::bad_data, where, ": ", parts...); }
    const Json* get(const char* key) const {
        const auto found = json.find(key);
        return found == json.end() || found->is_null() ? nullptr : &*found;
    }
    std::string text(const char* key, bool needed = true) const {
        const Json* v = get(key);
        if (!v && !needed) return "";
        if (!v) wrong("no \"", key, "\"");
        if (v->is_string()) return v->get<std::string>();
        if (v->is_number_integer()) return std::to_string(v->get<int64_t>());
        wrong("\"", key, "\" is neither a text nor a whole number");
    }
    std::optional<int64_t> integer(const char* key, int64_t least, int64_t most) const {
        const Json* v = get(key);
        if (!v) return std::nullopt;
        if (!v->is_number_integer() || v->get<int64_t>() < least || v->get<int64_t>() > most) wrong("\"", key, "\" is ", brief(v->dump()), "; a whole number from ", least, " to ", most, " is expected");
        return v->get<int64_t>();
    }
};

std::vector<Record> records(const Json& list, const std::string& path) {
    if (!list.is_array()) fail(Exit::bad_data, path, ": a list of records is expected");
    std::vector<Record> out;
    for (const Json& r : list) {
        out.push_back({r, concat(path, ": record ", out.size())});
        if (!r.is_object()) out.back().wrong("not an object");
    }
    return out;
}

ClipRange range_of(const Record& r) {
    ClipRange range;
    if (const Json* t = r.get("time")) {
        if (!t->is_array() || t->size() != 2) r.wrong("\"time\" is ", brief(t->dump()), "; [first second, last second] is expected");
        for (size_t i = 0; i < 2; i++) {
            const Json& v = (*t)[i];
            if (v.is_null()) continue;
            if (!v.is_number() || v.get<double>() < 0) r.wrong("\"time\" is ", brief(t->dump()), "; two seconds from 0 on are expected");
            (i ? range.end : range.start) = v.get<double>();
        }
    }
    if (const auto end = r.integer("end_frame", INT32_MIN, INT32_MAX); end && *end >= 0) range.end_frame = *end;
    return range;
}

Question question_of(const Record& r) {
    Question q{.id = r.text("question_id"), .video = r.text("video_name"), .text = r.text("question"), .range = range_of(r), .category = r.text("category", false),
               .subset = r.text("subset", false), .question_json = r.json.dump()};
    if (const Json* options = r.get("options")) {
        if (!options->is_array() || options->empty() || options->size() > kMostOptions) r.wrong("\"options\" is no list of 1 to ", kMostOptions, " texts");
        for (const Json& o : *options) {
            if (!o.is_string()) r.wrong("option ", q.options.size(), " is not a text");
            q.options.push_back(o.get<std::string>());
        }
        q.letters = int(r.integer("num_option", 1, kMostOptions).value_or(int64_t(q.options.size())));
    }
    return q;
}

void answer(Question& q, const Record& r) {
    q.answered = true, q.answer_json = r.json.dump();
    if (q.choice()) {
        const auto id = r.integer("answer_id", 0, int64_t(q.options.size()) - 1);
        if (!id) r.wrong("no \"answer_id\" for question ", brief(q.id), ", which has options");
        q.answer_id = int(*id);
        q.answer = q.options[size_t(*id)];
    } else q.answer = r.text("answer");
    if (q.category.empty()) q.category = r.text("category", false);
    if (q.category.empty()) q.category = r.text("type", false);
}

}

std::string null_for_nan(std::string_view json) {
    std::string out;
    bool in_text = false;
    for (size_t i = 0; i < json.size();) {
        if (!in_text)
            for (std::string_view word : {"-Infinity", "Infinity", "NaN"})
                if (json.substr(i).starts_with(word)) { out += "null", i += word.size(); goto next; }
        if (json[i] == '\\' && in_text && i + 1 < json.size()) out += json[i++];
        else if (json[i] == '"') in_text = !in_text;
        out += json[i++];
    next:;
    }
    return out;
}

Benchmark read_benchmark(const std::string& root, const std::string& name, const std::string& question_file, const std::string& answer_file) {
    Benchmark b{.name = name, .folder = root + "/" + name, .question_file = {}, .answer_file = {}, .questions = {}};
    if (name.empty() || name.find("..") != name.npos || name[0] == '/') fail(Exit::usage, "'", name, "' is no name of a benchmark: it is a folder in ", root);
    if (!exists(b.folder)) fail(Exit::bad_data, b.folder, ": no such folder; it should hold test_q.json, test_a.json and videos/ (docs/evaluation.md)");
    auto load = [](const std::string& path) { return parse_json(null_for_nan(read_text(path, kLimits.bytes, Exit::bad_data)), path, kLimits, Exit::bad_data); };
    b.question_file = concat(b.folder, "/", question_file, ".json");
    const Json questions = load(b.question_file);
    std::map<std::string, size_t> by_id;
    for (const Record& r : records(questions, b.question_file)) {
        b.questions.push_back(question_of(r));
        if (!by_id.emplace(b.questions.back().id, b.questions.size() - 1).second) r.wrong("the question_id ", brief(b.questions.back().id), " is there twice");
    }
    if (b.questions.empty()) fail(Exit::bad_data, b.question_file, ": holds no question");
    if (const std::string path = concat(b.folder, "/", answer_file, ".json"); exists(path)) {
        b.answer_file = path;
        const Json answers = load(path);
        for (const Record& r : records(answers, path))
            if (const auto found = by_id.find(r.text("question_id")); found != by_id.end()) answer(b.questions[found->second], r);
        for (const Question& q : b.questions)
            if (!q.answered) fail(Exit::bad_data, path, ": no answer to question ", brief(q.id), "; for a test set whose answers are secret leave the file out");
    }
    return b;
}

std::pair<size_t, size_t> chunk(size_t size, int64_t n, int64_t k) {
    CHECK(n > 0 && k >= 0 && k < n, "chunk ", k, " of ", n);
    const size_t piece = (size + size_t(n) - 1) / size_t(n);
    return {std::min(size, piece * size_t(k)), std::min(size, piece * size_t(k + 1))};
}

std::string VideoFolder::find(const std::string& name) {
    for (const fs::path& part : fs::path(name))
        if (part == "..") fail(Exit::bad_data, "the video name '", brief(name), "' leads out of ", path_);
    if (name.empty() || name[0] == '/' || name.find('\0') != name.npos) fail(Exit::bad_data, "'", brief(name), "' is no video name below ", path_);
    const std::string full = path_ + "/" + name, folder = full.substr(0, full.rfind('/')), file = full.substr(full.rfind('/') + 1);
    auto known = std::find_if(listed_.begin(), listed_.end(), [&](const auto& l) { return l.first == folder; });
    if (known == listed_.end()) {
        std::vector<std::string> entries;
        std::error_code error;
        for (fs::directory_iterator i(folder, error), end; !error && i != end; i.increment(error)) entries.push_back(i->path().filename());
        if (error) fail(Exit::bad_data, folder, ": cannot be listed (", error.message(), "); the videos belong there");
        std::sort(entries.begin(), entries.end());
        known = listed_.insert(listed_.end(), {folder, std::move(entries)});
    }
    const auto& entries = known->second;
    std::error_code ignored;
    if (std::binary_search(entries.begin(), entries.end(), file) && fs::is_directory(full, ignored)) return full;
    const auto first = std::lower_bound(entries.begin(), entries.end(), file + ".");
    if (first != entries.end() && first->starts_with(file + ".")) return folder + "/" + *first;
    fail(Exit::bad_data, folder, ": no video ", brief(file), ".* and no folder of that name");
}

}
