// merv-eval: a model answers a benchmark; what it answered is scored, judged, compared and drawn (docs/evaluation.md).
#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <omp.h>
#include "core/json.h"
#include "core/log.h"
#include "core/program.h"
#include "data/chart.h"
#include "train/evaluation.h"
#include "train/judge.h"

using namespace merv;
namespace fs = std::filesystem;

namespace {

std::string file_name(const std::string& path) {
    const fs::path p = fs::absolute(path).lexically_normal();
    return p.has_filename() ? p.filename() : p.parent_path().filename();
}

EvaluationOptions options_of(const Flags& flags) {
    EvaluationOptions o{.data = flags.text("eval-data"), .benchmark = flags.text("eval-dataset"), .questions = flags.text("filename-question"), .answers = flags.text("filename-answer"),
                        .out = flags.text("out"), .chunks = flags.integer("num-chunks"), .chunk = flags.integer("chunk-idx"), .limit = flags.integer("limit"), .model = ""};
    if (o.benchmark.empty()) fail(Exit::usage, "--eval-dataset NAME is missing: a folder in ", o.data);
    if (o.chunks < 1 || o.chunk < 0 || o.chunk >= o.chunks) fail(Exit::usage, "--num-chunks ", o.chunks, " --chunk-idx ", o.chunk, ": the index runs from 0 to the number of chunks less one");
    if (o.limit < 0) fail(Exit::usage, "--limit must not be negative");
    o.video_token = o.benchmark.find("_token") != o.benchmark.npos;
    return o;
}

int run(const Flags& flags) {
    EvaluationOptions o = options_of(flags);
    o.model = flags.text("model");
    if (o.model.empty()) fail(Exit::usage, "-m DIR is missing: the MERV folder to evaluate");
    if (o.out.empty()) o.out = "eval_result/" + file_name(o.model);
    o.dump_fusion = flags.on("dump-fusion"), o.force = flags.on("force"), o.flip = flags.on("lb-flip"), o.seed = uint64_t(flags.integer("seed"));
    o.decode_timeout = flags.number("decode-timeout"), o.feature_cache = flags.text("feature-cache");
    if (!(o.decode_timeout >= 0)) fail(Exit::usage, "--decode-timeout must not be negative");
    if (flags.has("frames-fps")) o.frames_fps = flags.number("frames-fps");
    if (!(o.frames_fps > 0)) fail(Exit::usage, "--frames-fps must be above 0");
    if (flags.integer("max-tokens") < 1) fail(Exit::usage, "--max-tokens must be at least 1");
    const std::string dtype = flags.text("dtype"), builder = flags.text("prompt-builder");
    if (dtype != "auto" && dtype != "f32" && dtype != "bf16") fail(Exit::usage, "--dtype takes auto, f32 or bf16, not '", dtype, "'");
    Answerer::Options options{.likelihoods = flags.on("likelihood")};
    options.generate.max_tokens = std::min<int64_t>(flags.integer("max-tokens"), INT_MAX);
    options.generate.sampling = {.temperature = flags.number("temperature"), .top_p = flags.number("top-p"), .seed = uint64_t(flags.integer("seed"))};
    check(options.generate.sampling);
    if (builder != "auto") options.builder = parse_builder(builder);
    read_benchmark(o.data, o.benchmark.substr(0, o.benchmark.find("_token")), o.questions, o.answers);      // mistakes in it are found before the model is loaded

    const OnDevice device(choose_device(flags));
    if (flags.integer("threads")) omp_set_num_threads(int(flags.integer("threads")));
    NoGrad inference;
    const LoadedModel loaded = load_model(o.model, {.num_frames = flags.has("num-frames") ? flags.integers("num-frames") : std::vector<int64_t>{},
                                                    .dtype = dtype == "auto" ? std::optional<DType>() : dtype == "bf16" ? DType::bf16 : DType::f32, .tokens = 1024 + options.generate.max_tokens});
    const Merv& m = loaded.merv;
    if (builder == "auto" && !m.config.llm_backbone_id.empty()) options.builder = builder_for(m.config.llm_backbone_id);
    say("load     ", o.model, ": ", loaded.parameters, " parameters, computed in ", name_of(m.dtype()));
    Json settings{{"model", file_name(o.model)}, {"dtype", name_of(m.dtype())}, {"device", name_of(current_device())}, {"num_frames", m.config.num_frames}, {"prompt_builder", name_of(options.builder)},
                  {"max_tokens", options.generate.max_tokens}, {"temperature", options.generate.sampling.temperature}, {"top_p", options.generate.sampling.top_p},
                  {"likelihood", options.likelihoods}};
    o.settings = &settings;
    MemTag tag("activations");
    Answerer answerer(m, options);
    return evaluate(answerer, m, o);
}

int merge_chunks(const Flags& flags) {
    EvaluationOptions o = options_of(flags);
    if (o.out.empty()) fail(Exit::usage, "--out DIR is missing: the folder with the chunks, such as eval_result/merv-full");
    return merge(o);
}

std::string positional(const Flags& flags, size_t i, const char* what) {
    if (flags.positionals().size() <= i) fail(Exit::usage, what);
    return flags.positionals()[i];
}

int score(const Flags& flags) {
    const std::vector<Verdict> verdicts = read_verdicts(positional(flags, 0, "which predictions? give a _pred_merge.jsonl or a _gpt.json"));
    if (flags.on("json")) std::printf("%s\n", rates_json(verdicts).dump().c_str());
    else std::printf("%s", rates_table(verdicts).c_str());
    return 0;
}

// The method to look at: the one asked for, else the first that the verdicts have.
std::string method_of(const Flags& flags, const std::vector<Verdict>& verdicts) {
    const auto all = rates(verdicts);
    std::string method = flags.text("method"), names;
    for (const auto& [name, rate] : all) names += (names.empty() ? "" : ", ") + name;
    if (method.empty()) for (const char* first : {"judge", "reference", "exact"}) if (method.empty() && all.contains(first)) method = first;
    if (!all.contains(method)) fail(Exit::usage, "--method ", method.empty() ? "" : concat("'", method, "' "), "is not in the file; it has ", names.empty() ? "no scores" : names);
    return method;
}

int compare(const Flags& flags) {
    const char* usage = "give two files of predictions of the same benchmark: FIRST SECOND";
    const auto a = read_verdicts(positional(flags, 0, usage)), b = read_verdicts(positional(flags, 1, usage));
    const std::string method = method_of(flags, a);
    const Comparison c = compare_runs(a, b, method, 10000, uint64_t(flags.integer("seed")));
    if (c.n == 0) fail(Exit::bad_data, "the two files have no question in common that both have a verdict for by '", method, "'");
    if (flags.on("json")) {
        std::printf("%s\n", Json{{"method", method}, {"n", c.n}, {"only_first", c.only_first}, {"only_second", c.only_second}, {"difference", c.difference}, {"low", c.low}, {"high", c.high}, {"p", c.p}}.dump().c_str());
        return 0;
    }
    std::printf("%s, %zu questions: second - first = %+.2f points, 95 %% interval %+.2f to %+.2f, p = %.4f; right in one alone: first %zu, second %zu\n", method.c_str(), c.n, 100 * c.difference, 100 * c.low,
                100 * c.high, c.p, c.only_first, c.only_second);
    return 0;
}

// ---- the judge's files

struct Replies { std::map<std::string, BatchReply> by_id; Json files = Json::array(); std::string model; };
Replies read_replies(const std::vector<std::string>& paths) {
    Replies r;
    for (const std::string& path : paths) {
        const std::string text = read_text(path, size_t(1) << 30, Exit::bad_data);
        size_t number = 0;
        for (size_t at = 0; at < text.size();) {
            const size_t end = std::min(text.find('\n', at), text.size());
            const std::string line = text.substr(at, end - at);
            at = end + 1, number++;
            if (line.find_first_not_of(" \r\t") == line.npos) continue;
            BatchReply b = read_batch_line(line, concat(path, ": line ", number));
            if (!b.model.empty()) r.model = b.model;
            const auto known = r.by_id.find(b.id);
            if (known == r.by_id.end() || known->second.state != ReplyState::valid) r.by_id[b.id] = std::move(b);      // a valid one stays; a later one replaces what failed
        }
        r.files.push_back({{"file", path}, {"sha256", sha256_of(text)}});
    }
    return r;
}

std::vector<Judged> open_predictions(const std::string& path, std::vector<Json>* records = nullptr) {
    std::vector<Judged> out;
    for (const StoredRecord& s : read_records(path)) {
        const Json r = parse_json(null_for_nan(s.line), path, {}, Exit::bad_data);
        if (r.contains("options")) fail(Exit::usage, path, ": holds choices, which need no judge; merv-eval score scores them");
        auto text = [&](const char* key) {
            if (!r.contains(key) || r[key].is_null()) fail(Exit::bad_data, path, ": question ", brief(s.id), " has no \"", key, "\"");
            return r[key].is_string() ? r[key].get<std::string>() : r[key].dump();
        };
        out.push_back({s.id, text("question"), text("answer"), text("pred")});
        if (records) records->push_back(r);
    }
    if (out.empty()) fail(Exit::bad_data, path, ": holds no prediction");
    return out;
}

std::string stem_of(const std::string& path) {          // DIR/MSVD_pred_merge.jsonl -> DIR/MSVD
    const std::string end = "_pred_merge.jsonl";
    return path.ends_with(end) ? path.substr(0, path.size() - end.size()) : path.substr(0, path.rfind('.'));
}

int judge_requests(const Flags& flags) {
    const std::string path = positional(flags, 0, "which predictions? give a _pred_merge.jsonl of open questions"), out = flags.text("out").empty() ? stem_of(path) + "_requests" : flags.text("out");
    const Replies replies = read_replies(flags.texts("replies"));
    std::vector<std::string> lines;
    std::vector<size_t> sizes;
    for (const Judged& j : open_predictions(path)) {
        const auto known = replies.by_id.find(j.id);
        if (known != replies.by_id.end() && known->second.state == ReplyState::valid) continue;
        lines.push_back(judge_request(j, flags.text("judge-model"))), sizes.push_back(lines.back().size());
    }
    const std::vector<size_t> first = batch_files(sizes);
    for (size_t f = 0; f < first.size(); f++) {
        std::string text;
        for (size_t i = first[f]; i < (f + 1 < first.size() ? first[f + 1] : lines.size()); i++) text += (i > first[f] ? "\n" : "") + lines[i];
        write_whole(concat(out, "_", f, ".jsonl"), text);
        std::printf("%s_%zu.jsonl\n", out.c_str(), f);
    }
    say(lines.size(), " requests to ", flags.text("judge-model"), " in ", first.size(), " files");
    return 0;
}

int judge_merge(const Flags& flags) {
    const std::string path = positional(flags, 0, "which predictions? give the _pred_merge.jsonl that the requests were made from"), stem = flags.text("out").empty() ? stem_of(path) : flags.text("out");
    if (flags.texts("replies").empty()) fail(Exit::usage, "--replies FILE is missing: the judge's output");
    const Replies replies = read_replies(flags.texts("replies"));
    std::vector<Json> records;
    const std::vector<Judged> items = open_predictions(path, &records);
    size_t yes = 0, no = 0, malformed = 0, missing = 0, reference_yes = 0, foreign = replies.by_id.size();
    double score = 0, reference_score = 0;
    Json judged = Json::object();
    for (size_t i = 0; i < items.size(); i++) {
        const Judged& j = items[i];
        Json record{{"q", j.question}, {"a", j.answer}, {"pred", j.prediction}};
        for (const char* key : {"category", "type", "subset"}) if (records[i].contains(key)) record[key] = records[i][key];
        Json verdict{{"pred", "missing"}, {"score", nullptr}};
        if (const auto found = replies.by_id.find(j.id); found != replies.by_id.end()) {
            const BatchReply& b = found->second;
            foreign--;
            if (b.state == ReplyState::valid) verdict = {{"pred", b.reply->yes ? "yes" : "no"}, {"score", b.reply->score}}, (b.reply->yes ? yes : no)++, score += b.reply->score;
            else if (b.state == ReplyState::malformed) verdict["pred"] = "malformed", record["reply"] = b.content, malformed++;
            else missing++;
            if (b.literal) reference_yes += b.literal->yes, reference_score += b.literal->score;
        } else missing++;
        judged[j.id] = Json::array({verdict, record});
    }
    if (foreign) warn(foreign, " replies are to questions that ", path, " does not have");
    write_whole(stem + "_gpt.json", python_json(judged));
    const std::vector<Verdict> verdicts = read_verdicts(stem + "_gpt.json");
    Json results{{"counts", {{"questions", items.size()}, {"yes", yes}, {"no", no}, {"malformed", malformed}, {"missing", missing}}}};
    results.update(rates_json(verdicts));
    results["reference"] = {{"accuracy", double(reference_yes) / double(items.size())}, {"mean_score", reference_score / double(items.size())}, {"note", "what the reference's script says: no and 0 where there is no verdict"}};
    results["judge"] = {{"model", replies.model}, {"prompt_sha256", judge_prompt_hash()}, {"replies", replies.files}, {"predictions_sha256", sha256_of(read_text(path, size_t(1) << 30, Exit::bad_data))}};
    write_whole(stem + "_judge_results.json", results.dump(1) + "\n");
    std::printf("%s", rates_table(verdicts).c_str());
    std::printf("yes %zu, no %zu, malformed %zu, missing %zu; mean score %.4f; the reference's script: accuracy %.4f, score %.4f\n", yes, no, malformed, missing, yes + no ? score / double(yes + no) : NAN,
                double(reference_yes) / double(items.size()), reference_score / double(items.size()));
    return malformed + missing ? int(Exit::some_failed) : 0;
}

// ---- pictures

std::string run_name(const std::string& path) { return fs::absolute(path).lexically_normal().parent_path().filename(); }      // eval_result/<model>/<file>

using Grouped = std::map<std::string, std::map<std::string, Rate>>;
double percent(const Grouped& groups, const std::string& group, const std::string& method, size_t least, double* error = nullptr) {
    const auto g = groups.find(group);
    const auto r = g == groups.end() ? decltype(g->second.begin()){} : g->second.find(method);
    if (g == groups.end() || r == g->second.end() || r->second.n < std::max<size_t>(1, least)) return NAN;
    if (error) *error = 100 * r->second.standard_error();
    return 100 * r->second.accuracy();
}

// Bars per file: over categories (the paper's Fig. 6), all against subsets (4b), or first words.
std::string bars_of(const Flags& flags, const std::string& kind, const std::vector<std::string>& files) {
    Bars bars;
    std::vector<Grouped> runs;
    std::map<std::string, size_t> most;
    std::string method;
    for (const std::string& path : files) {
        const auto verdicts = read_verdicts(path);
        method = method_of(flags, verdicts);
        runs.push_back(rates_by(verdicts, kind == "categories" ? &Verdict::category : kind == "subset" ? &Verdict::subset : &Verdict::word));
        if (kind == "subset") runs.back()["all"] = rates(verdicts);
        for (const auto& [name, rates] : runs.back()) if (rates.contains(method)) most[name] = std::max(most[name], rates.at(method).n);
        bars.series.push_back(run_name(path));
    }
    const auto least = size_t(std::max<int64_t>(1, flags.integer("min-count")));
    for (const auto& [name, n] : most) if (n >= least) bars.groups.push_back(name);
    if (bars.groups.empty()) fail(Exit::bad_data, files[0], ": has no ", kind == "subset" ? "subset" : kind == "words" ? "first words" : "categories", " of ", least, " questions or more");
    for (const Grouped& run : runs) {
        bars.values.emplace_back(), bars.errors.emplace_back();
        for (const std::string& g : bars.groups) {
            double error = NAN;
            bars.values.back().push_back(percent(run, g, method, least, &error)), bars.errors.back().push_back(error);
        }
    }
    return bar_chart(concat("Accuracy by ", kind == "subset" ? "subset" : kind == "words" ? "first word" : "category", " (", method, ")"), "accuracy in %", bars);
}

std::string difference_of(const Flags& flags, const std::vector<std::string>& files) {         // Fig. 7
    if (files.size() != 2) fail(Exit::usage, "chart difference takes two files: FIRST SECOND");
    const auto a = read_verdicts(files[0]), b = read_verdicts(files[1]);
    const std::string method = method_of(flags, a);
    const Grouped first = rates_by(a, &Verdict::category), second = rates_by(b, &Verdict::category);
    std::vector<std::pair<double, std::string>> rows;
    for (const auto& [name, ignored] : first)
        if (const double d = percent(second, name, method, size_t(flags.integer("min-count"))) - percent(first, name, method, size_t(flags.integer("min-count"))); std::isfinite(d)) rows.emplace_back(-d, name);
    if (rows.empty()) fail(Exit::bad_data, files[0], " and ", files[1], " have no category in common");
    std::sort(rows.begin(), rows.end());
    std::vector<std::string> names;
    std::vector<double> values;
    for (const auto& [value, name] : rows) names.push_back(name), values.push_back(-value);
    return difference_chart(concat(run_name(files[1]), " less ", run_name(files[0]), ", class by class"), "points of accuracy (" + method + ")", names, values);
}

// The clips for which each encoder counted most, as their mean frames (Fig. 5 and 11), from predictions made with --dump-fusion.
std::string clips_of(const Flags& flags, const std::vector<std::string>& files) {
    const std::string benchmark = flags.text("eval-dataset");
    if (benchmark.empty()) fail(Exit::usage, "--eval-dataset NAME is missing: the benchmark whose videos are to be shown");
    VideoFolder videos(concat(flags.text("eval-data"), "/", benchmark, "/videos"));
    std::map<std::string, std::map<std::string, double>> weights;                              // encoder -> video -> weight
    for (const StoredRecord& s : read_records(files[0])) {
        const Json r = parse_json(null_for_nan(s.line), files[0], {}, Exit::bad_data);
        if (!r.contains("fusion_weights") || !r["fusion_weights"].is_object() || !r.contains("video_name")) continue;
        for (const auto& [encoder, w] : r["fusion_weights"].items()) if (w.is_number()) weights[encoder].emplace(r["video_name"].get<std::string>(), w.get<double>());
    }
    if (weights.empty()) fail(Exit::bad_data, files[0], ": keeps no fusion weights; run merv-eval run with --dump-fusion");
    std::vector<PictureRow> rows;
    for (const auto& [encoder, by_video] : weights) {
        std::vector<std::pair<double, std::string>> order;
        for (const auto& [video, w] : by_video) order.emplace_back(-w, video);
        std::sort(order.begin(), order.end());
        rows.push_back({encoder, {}});
        for (size_t i = 0; i < order.size() && rows.back().pictures.size() < size_t(std::max<int64_t>(1, flags.integer("clips"))); i++) try {
            char caption[32];
            std::snprintf(caption, sizeof caption, "%.1f %%  ", -100 * order[i].first);
            rows.back().pictures.push_back({caption + order[i].second, mean_frame(read_clip(videos.find(order[i].second), 16).frames)});
        } catch (const Error& e) { warn(e.what()); }
    }
    return picture_sheet("Clips for which each encoder counts most", rows);
}

int chart(const Flags& flags) {
    const std::string kind = positional(flags, 0, "which picture? categories, subset, words, difference or clips"), out = flags.text("out");
    const std::vector<std::string> files(flags.positionals().begin() + 1, flags.positionals().end());
    if (files.empty()) fail(Exit::usage, "chart ", kind, " needs files of predictions: _pred_merge.jsonl or _gpt.json");
    if (flags.integer("min-count") < 0) fail(Exit::usage, "--min-count must not be negative");
    std::string svg;
    if (kind == "categories" || kind == "subset" || kind == "words") svg = bars_of(flags, kind, files);
    else if (kind == "difference") svg = difference_of(flags, files);
    else if (kind == "clips") svg = clips_of(flags, files);
    else fail(Exit::usage, "no picture '", kind, "'; they are categories, subset, words, difference and clips");
    if (out.empty()) std::printf("%s", svg.c_str());
    else write_whole(out, svg);
    return 0;
}

}

int main(int argc, char** argv) {
    struct Command { const char *name, *usage; std::vector<const char*> flags; size_t positionals; int (*run)(const Flags&); };
    const Command commands[] = {
        {"run", "merv-eval run -m DIR --eval-dataset NAME [--num-chunks N --chunk-idx I] [...]",
         {"model", "eval-dataset", "eval-data", "filename-question", "filename-answer", "num-chunks", "chunk-idx", "limit", "out", "force", "likelihood", "dump-fusion", "prompt-builder", "num-frames",
          "frames-fps", "decode-timeout", "feature-cache", "max-tokens", "temperature", "top-p", "seed", "lb-flip", "dtype", "device", "threads"}, 0, run},
        {"merge", "merv-eval merge --eval-dataset NAME --out DIR [...]",
         {"eval-dataset", "eval-data", "filename-question", "filename-answer", "num-chunks", "chunk-idx", "limit", "out"}, 0, merge_chunks},
        {"score", "merv-eval score FILE [--json]", {"json"}, 1, score},
        {"compare", "merv-eval compare FIRST SECOND [--method NAME] [--json]", {"method", "seed", "json"}, 2, compare},
        {"judge-requests", "merv-eval judge-requests PREDICTIONS [--out STEM] [--judge-model NAME] [--replies FILE]", {"out", "judge-model", "replies"}, 1, judge_requests},
        {"judge-merge", "merv-eval judge-merge PREDICTIONS --replies FILE [--out STEM]", {"out", "replies"}, 1, judge_merge},
        {"chart", "merv-eval chart categories|subset|words|difference|clips FILE.. [--out FILE.svg] [...]",
         {"out", "method", "min-count", "clips", "eval-dataset", "eval-data"}, 32, chart},
    };
    const std::string command = argc > 1 ? argv[1] : "";
    std::string all, names;
    for (const Command& c : commands) {
        if (command == c.name) {
            Flags flags("merv-eval", c.usage, c.flags, c.positionals);
            return run_program(flags, argc - 1, argv + 1, [&] { return c.run(flags); });
        }
        all += concat(all.empty() ? "" : "\n       ", c.usage), names += concat(names.empty() ? "" : ", ", c.name);
    }
    Flags flags("merv-eval", all, {}, 1);
    return run_program(flags, argc, argv, [&]() -> int { fail(Exit::usage, command.empty() ? "what to do?" : concat("no command '", command, "';"), " the commands are ", names); });
}
