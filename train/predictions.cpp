#include "train/predictions.h"
#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>
#include "core/json.h"
#include "core/log.h"
#include "weights/hash.h"

namespace merv {
namespace fs = std::filesystem;

namespace {

constexpr JsonLimits kLimits{.bytes = size_t(1) << 30};

std::string id_of(const Json& record, const std::string& where) {
    const auto id = record.is_object() ? record.find("question_id") : record.end();
    if (!record.is_object() || id == record.end()) fail(Exit::bad_data, where, ": not a prediction: it has no question_id");
    return id->is_string() ? id->get<std::string>() : id->dump();
}
std::string text_of(const Json& r, const char* key) {
    const auto v = r.find(key);
    return v == r.end() || v->is_null() ? "" : v->is_string() ? v->get<std::string>() : v->dump();
}
Outcome outcome(bool right) { return right ? Outcome::right : Outcome::wrong; }

void write_all(int fd, std::string_view text, const std::string& path) {
    while (!text.empty()) {
        const ssize_t n = write(fd, text.data(), text.size());
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) fail(Exit::runtime, path, ": cannot be written (", std::strerror(errno), "); what was answered before is kept");
        text.remove_prefix(size_t(n));
    }
    if (fdatasync(fd) != 0 && errno != EINVAL) fail(Exit::runtime, path, ": cannot be written (", std::strerror(errno), ")");
}

}

std::string python_json(const Json& j) {
    if (!j.is_structured()) return j.dump(-1, ' ', true, Json::error_handler_t::replace);
    std::string out(1, j.is_object() ? '{' : '[');
    for (const auto& [key, value] : j.items()) {
        if (out.size() > 1) out += ", ";
        if (j.is_object()) out += Json(key).dump(-1, ' ', true, Json::error_handler_t::replace) + ": ";
        out += python_json(value);
    }
    return out += j.is_object() ? '}' : ']';
}

std::string sha256_of(std::string_view text) {
    Sha256 h;
    h.add(std::as_bytes(std::span(text.data(), text.size())));
    return h.hex();
}

void write_whole(const std::string& path, std::string_view text) {
    const std::string part = concat(path, ".tmp", getpid());
    const int fd = open(part.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) fail(Exit::runtime, path, ": cannot be written (", std::strerror(errno), ")");
    try {
        write_all(fd, text, path);
    } catch (...) {
        close(fd), unlink(part.c_str());
        throw;
    }
    close(fd);
    if (rename(part.c_str(), path.c_str()) != 0) fail(Exit::runtime, path, ": cannot be written (", std::strerror(errno), ")");
}

std::vector<ResultNames::Chunk> ResultNames::chunks() const {
    std::vector<Chunk> found;
    std::error_code error;
    for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
        const std::string name = at->path().filename(), head = stem + "_pred_";
        long long n = 0, i = 0;
        if (!name.starts_with(head) || std::sscanf(name.c_str() + head.size(), "%lld_%lld", &n, &i) != 2) continue;
        if (at->path() == part(n, i) || at->path() == done(n, i)) found.push_back({at->path(), n, i});
    }
    std::sort(found.begin(), found.end(), [](const Chunk& a, const Chunk& b) { return a.path < b.path; });
    return found;
}

std::vector<std::string> ResultNames::failures() const {
    std::vector<std::string> found;
    std::error_code error;
    for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error))
        if (const std::string name = at->path().filename(); name.starts_with(stem + "_failed_") && name.ends_with(".jsonl")) found.push_back(at->path());
    std::sort(found.begin(), found.end());
    return found;
}

std::vector<StoredRecord> read_records(const std::string& path) {
    const std::string text = read_text(path, kLimits.bytes, Exit::bad_data);
    std::vector<StoredRecord> out;
    for (size_t at = 0, end; (end = text.find('\n', at)) != text.npos; at = end + 1) {
        const std::string line = text.substr(at, end - at), where = concat(path, ": line ", out.size() + 1);
        if (line.find_first_not_of(" \r\t") == line.npos) continue;
        out.push_back({id_of(parse_json(null_for_nan(line), where, kLimits, Exit::bad_data), where), line});
    }
    return out;
}

PredictionLog::PredictionLog(const std::string& path) : path_(path) {
    fd_ = open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd_ < 0) fail(Exit::runtime, path, ": cannot be written (", std::strerror(errno), ")");
    try {
        if (flock(fd_, LOCK_EX | LOCK_NB) != 0) fail(Exit::usage, path, ": another merv-eval is working on this chunk; give another --chunk-idx");
        const std::string text = lseek(fd_, 0, SEEK_END) > 0 ? read_text(path, kLimits.bytes, Exit::bad_data) : "";
        const size_t whole = text.rfind('\n') == text.npos ? 0 : text.rfind('\n') + 1;
        if (whole < text.size()) {
            warn(path, ": its last record was cut off and is made again");
            if (ftruncate(fd_, off_t(whole)) != 0) fail(Exit::runtime, path, ": cannot be written (", std::strerror(errno), ")");
        }
        if (whole) for (const StoredRecord& r : read_records(path)) ids_.insert(r.id);
    } catch (...) {
        close(fd_);
        throw;
    }
}
PredictionLog::~PredictionLog() { close(fd_); }

void PredictionLog::append(const std::string& id, const std::string& line) {
    write_all(fd_, line + "\n", path_);
    ids_.insert(id);
}

Verdict verdict_of(const Json& r) {
    Verdict v{.id = id_of(r, "a record"), .category = text_of(r, "category"), .word = first_word(text_of(r, "question")), .subset = text_of(r, "subset")};
    if (v.category.empty()) v.category = text_of(r, "type");
    const std::string prediction = text_of(r, "pred");
    if (!r.contains("options")) {
        if (r.contains("answer")) v.by["exact"] = outcome(normalised(prediction) == normalised(text_of(r, "answer")));
        return v;
    }
    try {
        const auto options = r["options"].get<std::vector<std::string>>();
        if (!r.contains("answer_id")) return v;
        const int right = r["answer_id"].get<int>(), parsed = parse_choice(prediction, options);
        v.by["reference"] = outcome(reference_correct(prediction, letter(right)));
        v.by["parser"] = outcome(parsed == right), v.unparsed = parsed < 0;
        if (r.contains("likelihoods")) {
            const auto l = r["likelihoods"].get<std::vector<double>>();
            v.by["likelihood"] = outcome(!l.empty() && std::max_element(l.begin(), l.end()) - l.begin() == right);
        }
    } catch (const nlohmann::json::exception&) {
        fail(Exit::bad_data, "the record of question ", brief(v.id), " is damaged: its options, answer_id or likelihoods are not what they should be");
    }
    return v;
}

std::vector<Verdict> read_verdicts(const std::string& path) {
    std::vector<Verdict> out;
    if (path.ends_with(".jsonl")) {
        for (const StoredRecord& r : read_records(path)) out.push_back(verdict_of(parse_json(null_for_nan(r.line), path, kLimits, Exit::bad_data)));
        return out;
    }
    const Json all = parse_json(null_for_nan(read_text(path, kLimits.bytes, Exit::bad_data)), path, kLimits, Exit::bad_data);
    if (!all.is_object()) fail(Exit::bad_data, path, ": {question_id: [verdict, record]} is expected");
    for (const auto& [id, entry] : all.items()) {
        if (!entry.is_array() || entry.size() != 2 || !entry[0].is_object() || !entry[1].is_object()) fail(Exit::bad_data, path, ": the entry of ", brief(id), " is not [verdict, record]");
        Json record = entry[1];
        for (const auto& [mine, full] : {std::pair{"q", "question"}, std::pair{"a", "answer"}}) if (record.contains(mine) && !record.contains(full)) record[full] = record[mine];
        record["question_id"] = id;
        out.push_back(verdict_of(record));
        if (record.contains("options")) continue;
        const std::string pred = text_of(entry[0], "pred");
        out.back().by["judge"] = pred == "yes" ? Outcome::right : pred == "no" ? Outcome::wrong : Outcome::none;
        if (entry[0].contains("score") && entry[0]["score"].is_number() && out.back().by["judge"] != Outcome::none) out.back().score = entry[0]["score"].get<double>();
    }
    return out;
}

namespace {

Json rate_json(const Rate& r) {
    const double e = r.standard_error();
    return {{"n", r.n}, {"right", r.right}, {"accuracy", r.n ? Json(r.accuracy()) : Json()}, {"standard_error", std::isfinite(e) ? Json(e) : Json()}, {"without_verdict", r.none}};
}
Json by_method(const std::map<std::string, Rate>& rates) {
    Json out = Json::object();
    for (const auto& [method, rate] : rates) out[method] = rate_json(rate);
    return out;
}
Json by_group(const std::map<std::string, std::map<std::string, Rate>>& groups) {
    Json out = Json::object();
    for (const auto& [name, rates] : groups) out[name] = by_method(rates);
    return out;
}
void row(std::string& table, const std::string& name, const std::map<std::string, Rate>& rates, const std::map<std::string, Rate>& all) {
    table += "| " + printable(name) + " |";
    for (const auto& [method, ignored] : all) {
        const auto found = rates.find(method);
        char text[64] = "";
        if (found != rates.end() && found->second.n) {
            const double e = found->second.standard_error();
            if (std::isfinite(e)) std::snprintf(text, sizeof text, " %.2f ± %.2f (%zu)", 100 * found->second.accuracy(), 100 * e, found->second.n);
            else std::snprintf(text, sizeof text, " %.2f (%zu)", 100 * found->second.accuracy(), found->second.n);
        }
        table += std::string(text) + " |";
    }
    table += "\n";
}

}

Json rates_json(const std::vector<Verdict>& verdicts) {
    Json out{{"scores", by_method(rates(verdicts))}, {"by_category", by_group(rates_by(verdicts, &Verdict::category))}, {"by_first_word", by_group(rates_by(verdicts, &Verdict::word))},
             {"by_subset", by_group(rates_by(verdicts, &Verdict::subset))}};
    double sum = 0;
    size_t n = 0;
    for (const Verdict& v : verdicts) if (v.score) sum += *v.score, n++;
    if (n) out["mean_judge_score"] = sum / double(n);
    return out;
}

std::string rates_table(const std::vector<Verdict>& verdicts) {
    const auto all = rates(verdicts);
    std::string table = "| accuracy in %, its standard error, questions |";
    for (const auto& [method, ignored] : all) table += " " + method + " |";
    table += "\n|---|";
    for (size_t i = 0; i < all.size(); i++) table += "---:|";
    table += "\n";
    row(table, "all", all, all);
    for (const auto& [key, what] : {std::pair{&Verdict::subset, "subset "}, std::pair{&Verdict::category, ""}, std::pair{&Verdict::word, "word "}})
        for (const auto& [name, group] : rates_by(verdicts, key)) row(table, what + name, group, all);
    return table;
}

}
