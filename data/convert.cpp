#include "data/convert.h"
#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include "core/json.h"
#include "core/log.h"
#include "core/rng.h"
#include "data/benchmarks.h"

namespace merv {
namespace fs = std::filesystem;

namespace {

constexpr size_t kMost = size_t(1) << 30;
constexpr JsonLimits kLimits{.bytes = kMost};

Json load_json(const std::string& path) { return parse_json(null_for_nan(read_text(path, kMost, Exit::bad_data)), path, kLimits, Exit::bad_data); }

std::vector<std::string> lines_of(const std::string& path) {            // without \r and empty ones
    std::vector<std::string> lines;
    std::istringstream text(read_text(path, kMost, Exit::bad_data));
    for (std::string line; std::getline(text, line);) {
        while (!line.empty() && std::isspace(uint8_t(line.back()))) line.pop_back();
        if (!line.empty()) lines.push_back(line);
    }
    return lines;
}

// One row of a benchmark's file, from JSON or a table, with texts by name.
struct Row {
    std::string where;
    Json json;
    template <class... A> [[noreturn]] void wrong(const A&... parts) const { fail(Exit::bad_data, where, ": ", parts...); }
    const Json& at(const char* key) const {
        const auto found = json.find(key);
        if (found == json.end() || found->is_null()) wrong("no \"", key, "\"");
        return *found;
    }
    bool has(const char* key) const { return json.contains(key) && !json[key].is_null(); }
    std::string text(const char* key) const {
        const Json& v = at(key);
        if (v.is_string()) return v.get<std::string>();
        if (v.is_number_integer()) return std::to_string(v.get<int64_t>());
        wrong("\"", key, "\" is neither a text nor a whole number");
    }
    int index(const char* key, size_t below) const {        // of an option; a table has it as text
        const std::string t = text(key);
        char* end = nullptr;
        const long v = std::strtol(t.c_str(), &end, 10);
        if (t.empty() || *end || v < 0 || size_t(v) >= below) wrong("\"", key, "\" is ", brief(t), "; an option from 0 to ", below - 1, " is expected");
        return int(v);
    }
    std::vector<std::string> options(const std::string& prefix, int count) const {
        std::vector<std::string> out;
        for (int i = 0; i < count; i++) out.push_back(text(concat(prefix, i).c_str()));
        return out;
    }
};

std::vector<Row> rows_of(const Json& list, const std::string& path) {
    if (!list.is_array()) fail(Exit::bad_data, path, ": a list of records is expected");
    std::vector<Row> rows;
    for (const Json& r : list) {
        if (!r.is_object()) fail(Exit::bad_data, path, ": record ", rows.size(), " is not an object");
        rows.push_back({concat(path, ": record ", rows.size()), r});
    }
    return rows;
}

// A JSON list, JSON lines, or a table, by the name's end.
std::vector<Row> read_rows(const std::string& path) {
    std::vector<Row> rows;
    if (path.ends_with(".jsonl")) {
        for (const std::string& line : lines_of(path)) {
            const std::string where = concat(path, ": line ", rows.size() + 1);
            rows.push_back({where, parse_json(null_for_nan(line), where, kLimits, Exit::bad_data)});
            if (!rows.back().json.is_object()) rows.back().wrong("not an object");
        }
    } else if (path.ends_with(".csv") || path.ends_with(".tsv")) {
        const std::string text = read_text(path, kMost, Exit::bad_data);
        const auto table = parse_table(text, text.substr(0, text.find('\n')).find('\t') != text.npos ? '\t' : ',', path);      // TGIF-QA's .csv has tabs
        for (size_t r = 1; r < table.size(); r++) {
            rows.push_back({concat(path, ": row ", r), Json::object()});
            if (table[r].size() != table[0].size()) rows.back().wrong(table[r].size(), " fields under ", table[0].size(), " headings");
            for (size_t i = 0; i < table[r].size(); i++) rows.back().json[table[0][i]] = valid_utf8(table[r][i]);
        }
    } else return rows_of(load_json(path), path);
    return rows;
}

// What the converters write, a record at a time.
struct Out {
    Json questions = Json::array(), answers = Json::array();
    Json& add(const std::string& video, const std::string& id, const std::string& question) {
        questions.push_back({{"video_name", video}, {"question_id", id}, {"question", question}});
        return questions.back();
    }
    void answer(const std::string& text) { answers.push_back({{"question_id", questions.back()["question_id"]}, {"answer", text}}); }
    void choice(const std::vector<std::string>& options, std::optional<int> right) {
        Json& q = questions.back();
        q["options"] = options, q["num_option"] = options.size();
        if (right) answers.push_back({{"video_name", q["video_name"]}, {"question_id", q["question_id"]}, {"answer_id", *right}, {"answer", options[size_t(*right)]}});
    }
    void category(const std::string& name) { questions.back()["category"] = name; }
};

void msvd(const Convert& c, Out& out) {
    std::map<std::string, std::string> names;              // vid1451 -> the clip's name on YouTube
    if (!c.mapping.empty())
        for (const std::string& line : lines_of(c.mapping)) {
            const size_t space = line.find(' ');
            if (space == line.npos) fail(Exit::bad_data, c.mapping, ": '", brief(line), "' is not \"NAME vidN\"");
            names[line.substr(space + 1)] = line.substr(0, space);
        }
    for (const Row& r : read_rows(c.in)) {
        std::string video = "vid" + r.text("video_id");
        if (!names.empty()) {
            if (!names.contains(video)) r.wrong(c.mapping, " has no ", video);
            video = names[video];
        }
        out.add(video, r.text("id"), r.text("question")), out.answer(r.text("answer"));
    }
}

void msrvtt(const Convert& c, Out& out) {                   // test_qa.json, or the table in which it is passed on
    for (const Row& r : read_rows(c.in)) {
        const bool table = r.has("qid");
        out.add("video" + r.text(table ? "video" : "video_id"), r.text(table ? "qid" : "id"), r.text("question")), out.answer(r.text("answer"));
    }
}

void tgif(const Convert& c, Out& out) {
    const char* kinds[] = {"object", "number", "color", "location"};
    for (const Row& r : read_rows(c.in)) {
        out.add(r.text("gif_name"), r.text("vid_id"), r.text("question")), out.answer(r.text("answer"));
        out.category(kinds[r.index("type", 4)]);
    }
}

void activitynet(const Convert& c, Out& out) {
    const char* kinds[] = {"motion", "spatial relation", "temporal relation", "yes/no", "color", "object", "location", "number", "other"};
    std::string path = c.answers;
    if (path.empty()) {
        const size_t q = c.in.rfind("_q");
        if (q == c.in.npos) fail(Exit::usage, "--answers FILE is missing: ActivityNet-QA's test_a.json");
        path = c.in.substr(0, q) + "_a" + c.in.substr(q + 2);
    }
    std::map<std::string, const Row*> by_id;
    const std::vector<Row> answers = read_rows(path);
    for (const Row& a : answers) by_id[a.text("question_id")] = &a;
    for (const Row& r : read_rows(c.in)) {
        const std::string id = r.text("question_id"), video = r.text("video_name");
        if (!by_id.contains(id)) r.wrong(path, " has no answer to ", brief(id));
        out.add(video.starts_with("v_") ? video : "v_" + video, id, r.text("question"));        // the files are called v_NAME.mp4
        out.answer(by_id[id]->text("answer")), out.category(kinds[by_id[id]->index("type", 9)]);
    }
}

void perception(const Convert& c, Out& out) {               // mc_question_valid.json or all_valid.json: an object by video
    const Json videos = load_json(c.in), cuts = c.mapping.empty() ? Json::object() : load_json(c.mapping);
    if (!videos.is_object() || !cuts.is_object()) fail(Exit::bad_data, c.in, ": an object with a key per video is expected");
    for (const auto& [video, entry] : videos.items()) {
        const std::string where = c.in + ": " + brief(video);
        if (!entry.is_object() || !entry.contains("mc_question")) continue;                     // has tracks or sounds only
        for (Row r : rows_of(entry["mc_question"], where)) {
            const Json& options = r.at("options");
            std::vector<std::string> texts;
            for (const Json& o : options) texts.push_back(o.is_string() ? o.get<std::string>() : (r.wrong("an option is not a text"), ""));
            if (texts.empty() || texts.size() > kMostOptions) r.wrong(texts.size(), " options");
            Json& q = out.add(video, concat("mcvqa_", video.starts_with("video_") ? video.substr(6) : video, "_", r.text("id")), r.text("question"));
            if (const auto cut = cuts.find(video); cut != cuts.end()) q["end_frame"] = *cut;
            out.choice(texts, r.has("answer_id") ? std::optional(r.index("answer_id", texts.size())) : std::nullopt);
            if (r.has("area")) out.category(r.text("area"));
        }
    }
}

void nextqa(const Convert& c, Out& out) {                   // ids begin with the type, by which the reference groups
    for (const Row& r : read_rows(c.in)) {
        const std::string type = r.text("type");
        if (type.empty() || std::string_view("CTD").find(type[0]) == std::string_view::npos) r.wrong("the type '", brief(type), "' begins with none of C, T and D");
        out.add(r.text("video"), concat(type, "_", r.text("video"), "_", r.text("qid")), r.text("question"));
        out.choice(r.options("a", 5), r.has("answer") && !r.text("answer").empty() ? std::optional(r.index("answer", 5)) : std::nullopt);
        out.category(type == "TP" ? "TN" : type);           // merged, as the reference does; C, T and D are its larger groups
        out.questions.back()["subset"] = type[0] == 'C' ? "causal" : type[0] == 'T' ? "temporal" : "descriptive";
    }
}

void vlep(const Convert& c, Out& out) {
    for (const Row& r : read_rows(c.in)) {
        std::vector<std::string> events;
        for (const Json& e : r.at("events")) events.push_back(e.is_string() ? e.get<std::string>() : (r.wrong("an event is not a text"), ""));
        if (events.size() != 2) r.wrong(events.size(), " events instead of 2");
        out.add(r.text("vid_name"), r.text("example_id"), "Which event is more likely to happen right after?")["time"] = r.at("ts");
        out.choice(events, r.has("answer") ? std::optional(r.index("answer", 2)) : std::nullopt);
    }
}

void tvqa(const Convert& c, Out& out) {
    for (const Row& r : read_rows(c.in)) {
        const std::string ts = r.text("ts");
        Json time = Json::array({nullptr, nullptr});        // some are "nan-nan"
        double start = 0, end = 0;
        if (std::sscanf(ts.c_str(), "%lf-%lf", &start, &end) != 2) r.wrong("\"ts\" is '", brief(ts), "'; START-END is expected");
        if (start == start && end == end) time = {start, end};
        out.add(r.text("vid_name"), r.text("qid"), r.text("q"))["time"] = time;
        out.choice(r.options("a", 5), r.has("answer_idx") ? std::optional(r.index("answer_idx", 5)) : std::nullopt);
        if (r.has("show_name")) out.category(r.text("show_name"));
    }
}

std::string without_brackets(const std::string& s) {
    std::string out;
    for (char c : s) if (c != '[' && c != ']') out += c;
    return out;
}

// A choice of five: the clip's class and four others, drawn and ordered by (seed, clip id) alone. Classes are those of the labels file where one is given, else
// all that occur, brackets as they are written there.
void ssv2(const Convert& c, Out& out) {
    const std::vector<Row> rows = read_rows(c.in);
    std::map<std::string, std::string> classes;             // without brackets -> as shown
    if (c.mapping.empty())
        for (const Row& r : rows) classes[without_brackets(r.text("template"))] = r.text("template");
    else if (c.mapping.ends_with(".json")) for (const auto& [name, id] : load_json(c.mapping).items()) classes[without_brackets(name)] = name;
    else for (const std::string& name : lines_of(c.mapping)) classes[without_brackets(name)] = name;
    std::vector<std::string> names;
    for (const auto& [plain, shown] : classes) names.push_back(shown);
    if (!c.open && names.size() < 5) fail(Exit::bad_data, c.in, ": has ", names.size(), " classes, and a choice needs 5; give all labels with --mapping FILE");
    const std::vector<std::string> listed = c.temporal.empty() ? temporal_classes() : lines_of(c.temporal);
    std::set<std::string> temporal;
    for (const std::string& t : listed) {
        temporal.insert(without_brackets(t));
        if (!c.temporal.empty() && !classes.contains(without_brackets(t))) fail(Exit::bad_data, c.temporal, ": '", brief(t), "' is none of the ", classes.size(), " classes");
    }
    for (const Row& r : rows) {
        const std::string id = r.text("id"), plain = without_brackets(r.text("template"));
        if (!classes.contains(plain)) r.wrong("'", brief(plain), "' is not among the labels of ", c.mapping);
        const std::string& right = classes[plain];
        out.add(id, id, "How is the object in the video being interacted with?");
        if (c.open) out.answer(right);
        else {
            const Rng rng(c.seed, "ssv2-mcq " + id);
            std::vector<std::string> options{right};
            for (uint64_t draw = 0; options.size() < 5; draw++) {
                const std::string& other = names[size_t(rng.uniform(draw) * double(names.size()))];
                if (std::find(options.begin(), options.end(), other) == options.end()) options.push_back(other);
            }
            for (size_t i = 4; i > 0; i--) std::swap(options[i], options[size_t(rng.uniform((uint64_t(1) << 32) + i) * double(i + 1))]);
            out.choice(options, int(std::find(options.begin(), options.end(), right) - options.begin()));
        }
        out.category(right);
        if (temporal.contains(plain)) out.questions.back()["subset"] = "temporal";
    }
}

struct Converter { const char* name; void (*run)(const Convert&, Out&); };
constexpr Converter kConverters[] = {{"msvd-qa", msvd}, {"msrvtt-qa", msrvtt}, {"tgif-frameqa", tgif}, {"activitynet-qa", activitynet}, {"perception-test", perception},
                                     {"next-qa", nextqa}, {"vlep", vlep}, {"tvqa", tvqa}, {"ssv2", ssv2}};

}

std::vector<std::string> convertible() {
    std::vector<std::string> names;
    for (const Converter& c : kConverters) names.push_back(c.name);
    return names;
}

const std::vector<std::string>& temporal_classes() {
    static const std::vector<std::string> classes = {
        "Approaching something with your camera", "Moving away from something with your camera", "Moving something up", "Moving something down",
        "Moving something closer to something", "Moving something away from something", "Pulling something from left to right", "Pulling something from right to left",
        "Pushing something from left to right", "Pushing something from right to left", "Turning the camera left while filming something", "Turning the camera right while filming something"};
    return classes;
}

std::vector<std::vector<std::string>> parse_table(const std::string& text, char separator, const std::string& where) {
    std::vector<std::vector<std::string>> rows;
    std::vector<std::string> row{""};
    bool quoted = false, any = false;
    auto end_row = [&] {
        if (any) rows.push_back(std::move(row));
        row = {""}, any = false;
    };
    for (size_t i = 0; i < text.size(); i++) {
        const char c = text[i];
        if (quoted) {
            if (c != '"') row.back() += c;
            else if (i + 1 < text.size() && text[i + 1] == '"') row.back() += c, i++;
            else quoted = false;
        } else if (c == '"' && row.back().empty()) quoted = any = true;
        else if (c == separator) row.emplace_back(), any = true;
        else if (c == '\n') end_row();
        else if (c != '\r' || (i + 1 < text.size() && text[i + 1] != '\n')) row.back() += c, any = true;
    }
    if (quoted) fail(Exit::bad_data, where, ": a quoted field of row ", rows.size(), " has no end");
    end_row();
    if (rows.empty()) fail(Exit::bad_data, where, ": holds no heading");
    return rows;
}

Converted convert(const Convert& c) {
    const auto found = std::find_if(std::begin(kConverters), std::end(kConverters), [&](const Converter& k) { return k.name == c.benchmark; });
    if (found == std::end(kConverters)) {
        std::string names;
        for (const std::string& n : convertible()) names += (names.empty() ? "" : ", ") + n;
        fail(Exit::usage, c.benchmark.empty() ? "which benchmark?" : concat("no benchmark '", c.benchmark, "';"), " they are ", names);
    }
    if (c.in.empty()) fail(Exit::usage, "--in FILE is missing: the benchmark's own file of questions (docs/evaluation.md says which)");
    Out out;
    found->run(c, out);
    if (out.questions.empty()) fail(Exit::bad_data, c.in, ": holds no question");
    std::set<std::string> ids;
    for (const Json& q : out.questions)
        if (!ids.insert(q["question_id"].get<std::string>()).second) fail(Exit::bad_data, c.in, ": the question ", brief(q["question_id"].get<std::string>()), " is there twice");
    Converted done{.questions = out.questions.dump(1) + "\n", .answers = {}, .count = out.questions.size(), .answered = out.answers.size()};
    if (!out.answers.empty() && done.answered < done.count) fail(Exit::bad_data, c.in, ": only ", done.answered, " of ", done.count, " questions have an answer");
    if (!out.answers.empty()) done.answers = out.answers.dump(1) + "\n";
    return done;
}

std::vector<const char*> convert_flags() { return {"in", "out", "answers", "mapping", "temporal-classes", "open-ended", "seed", "force"}; }

int convert_main(const Flags& flags) {
    const Convert c{.benchmark = flags.positionals().empty() ? "" : flags.positionals()[0], .in = flags.text("in"), .answers = flags.text("answers"), .mapping = flags.text("mapping"),
                    .temporal = flags.text("temporal-classes"), .open = flags.on("open-ended"), .seed = uint64_t(flags.integer("seed"))};
    const std::string out = flags.text("out");
    const Converted done = convert(c);
    if (out.empty()) fail(Exit::usage, "--out DIR is missing: the benchmark's new folder, such as eval_data/MSVD");
    std::error_code error;
    fs::create_directories(out + "/videos", error);
    if (error) fail(Exit::runtime, out, "/videos: cannot be made (", error.message(), ")");
    for (const auto& [name, text] : {std::pair{"test_q.json", done.questions}, std::pair{"test_a.json", done.answers}}) {
        const std::string path = out + "/" + name;
        if (exists(path) && !flags.on("force")) fail(Exit::usage, path, " is there already; --force overwrites it");
        if (text.empty()) { fs::remove(path, error); continue; }
        std::ofstream file(path + ".tmp", std::ios::binary | std::ios::trunc);
        file << text << std::flush;
        if (!file) fail(Exit::runtime, path, ": cannot be written; is the disk full?");
        file.close();
        fs::rename(path + ".tmp", path);
    }
    say(out, ": ", done.count, " questions, ", done.answered, " answers; the videos belong into ", out, "/videos");
    return 0;
}

}
