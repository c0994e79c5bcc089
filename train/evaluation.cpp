#include "train/evaluation.h"
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <future>
#include <map>
#include "core/json.h"
#include "core/log.h"
#include "core/rng.h"
#include "core/version.h"
#include "train/features.h"
#include "weights/hash.h"

namespace merv {
namespace fs = std::filesystem;

namespace {

using Clock = std::chrono::steady_clock;

// log softmax of a row of logits at one id, in double.
double log_probability(const Tensor& logits, int64_t row, int32_t id) {
    const Tensor host = logits.to(Device::cpu);
    const int64_t vocab = host.dim(1);
    const float* x = host.data<float>() + row * vocab;
    const double most = *std::max_element(x, x + vocab);
    double sum = 0;
    for (int64_t i = 0; i < vocab; i++) sum += std::exp(double(x[i]) - most);
    return double(x[id]) - most - std::log(sum);
}

std::string duration(double seconds) {
    const long s = long(seconds);
    char text[32];
    if (s >= 3600) std::snprintf(text, sizeof text, "%ld h %02ld min", s / 3600, s / 60 % 60);
    else if (s >= 60) std::snprintf(text, sizeof text, "%ld min %02ld s", s / 60, s % 60);
    else std::snprintf(text, sizeof text, "%ld s", s);
    return text;
}

}

Answerer::Answerer(const Merv& merv, const Options& options) : merv_(merv), options_(options) {
    const LlamaConfig& llm = merv.llm.config;
    if (merv.encoders.empty()) fail(Exit::bad_weights, "a language model alone cannot see; give a MERV folder");
    bos_ = !merv.tokenizer.adds_bos() ? -1 : llm.bos >= 0 ? llm.bos : merv.tokenizer.bos();
    if (merv.tokenizer.adds_bos() && (bos_ < 0 || bos_ >= llm.vocab)) fail(Exit::bad_weights, "neither the configs nor the tokenizer name a BOS token that the model has");
    options_.generate.stop = !llm.eos.empty() ? llm.eos : std::vector<int>{merv.tokenizer.eos()};
    cache_ = merv.llm.cache(std::min<int64_t>(llm.max_positions, merv.visual_tokens() + merv.config.llm_max_length + options_.generate.max_tokens));
}

std::vector<int32_t> Answerer::encode(const std::string& text) const {
    std::vector<int32_t> ids = merv_.tokenizer.encode(text);
    if (bos_ >= 0) ids.insert(ids.begin(), bos_);
    return ids;
}

void Answerer::look(const Encoded& clip) {
    visual_ = merv_.fuse(clip, {});
    cache_.length = prefix_ = 0;
    prefix_hidden_ = {};
}

// The logits of every row from `from` on, ids and clip spliced; the prefix, the first id and the clip, is computed once per clip and first id.
Tensor Answerer::logits_after(const std::vector<int32_t>& ids, size_t from) {
    const Tensor embeds = merv_.splice(ids, &visual_);
    const int64_t prefix = embeds.dim(0) - int64_t(ids.size()) + 1;
    if (!prefix_hidden_ || bos_ < 0) {                  // without BOS the first token is the question's own
        cache_.length = 0;
        prefix_hidden_ = merv_.llm.forward(embeds.slice(0, prefix), cache_), prefix_ = prefix;
    }
    cache_.length = prefix_;
    if (ids.size() == 1) return merv_.llm.logits(prefix_hidden_.slice(prefix - 1, prefix));
    const Tensor hidden = merv_.llm.forward(embeds.slice(prefix, embeds.dim(0)), cache_);
    return merv_.llm.logits(hidden.slice(int64_t(from) - 1, hidden.dim(0)));
}

// What training would have made of the letter: the tokens of the turn with the answer, behind those of the question.
double Answerer::likelihood(const std::string& question, const std::vector<int32_t>& prompt, const Tensor& logits, char letter) {
    Dialogue d(options_.builder);
    d.add_turn(Role::human, question);
    const std::string before = d.get_prompt();
    d.add_turn(Role::gpt, std::string(1, letter));
    const std::string after = d.get_prompt();
    const size_t at = after.find(letter, before.size());
    std::vector<int32_t> full = at == after.npos ? std::vector<int32_t>() : encode(after.substr(0, at + 1));
    if (full.size() <= prompt.size() || !std::equal(prompt.begin(), prompt.end(), full.begin())) {
        full = prompt;
        for (int32_t id : merv_.tokenizer.encode(std::string(1, letter))) full.push_back(id);
    }
    double sum = log_probability(logits, 0, full[prompt.size()]);
    if (full.size() > prompt.size() + 1) {
        const Tensor more = logits_after(full, prompt.size());
        for (size_t i = prompt.size() + 1; i < full.size(); i++) sum += log_probability(more, int64_t(i - prompt.size() - 1), full[i]);
    }
    return sum;
}

Answerer::Answer Answerer::answer(const std::string& question, int options) {
    const std::string text = valid_utf8(question);
    const std::vector<int32_t> ids = encode(valid_utf8(wrap_question(options_.builder, text)));
    const int64_t n = int64_t(ids.size()), most = merv_.config.llm_max_length;
    if (n == 0) fail(Exit::bad_data, "the question is empty");
    if (n > most) fail(Exit::bad_data, "the question has ", n, " tokens; this model reads at most ", most);
    if (n + merv_.visual_tokens() >= merv_.llm.config.max_positions) fail(Exit::bad_data, "the question has ", n, " tokens and the clip ", merv_.visual_tokens(), "; the context is ", merv_.llm.config.max_positions);
    Answer a;
    const Tensor logits = logits_after(ids, ids.size() - 1);
    const Tensor last = logits.slice(logits.dim(0) - 1, logits.dim(0));
    const int64_t length = cache_.length;
    if (options_.likelihoods)
        for (int i = 0; i < options; i++) a.likelihoods.push_back(likelihood(text, ids, last, letter(i)));
    cache_.length = length;                             // letters of several tokens were put behind the question
    const std::vector<int32_t> out = generate(merv_.llm, cache_, last, options_.generate);
    a.tokens = int64_t(out.size());
    a.ended = std::find(options_.generate.stop.begin(), options_.generate.stop.end(), out.back()) != options_.generate.stop.end();
    a.text = std::string(strip(merv_.tokenizer.decode(out)));
    return a;
}

ResultNames result_names(const Benchmark& b, const std::string& name, const std::string& out) {
    const auto choices = size_t(std::count_if(b.questions.begin(), b.questions.end(), [](const Question& q) { return q.choice(); }));
    if (choices != 0 && choices != b.questions.size()) fail(Exit::bad_data, b.question_file, ": ", choices, " of ", b.questions.size(), " questions have options; a benchmark has either choices or open questions");
    return {out, name + (choices ? "_naive" : "")};
}

std::string model_fingerprint(const std::string& folder) {
    std::vector<std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(folder, fs::directory_options::follow_directory_symlink))
        if (entry.is_regular_file()) files.push_back(entry.path());
    std::sort(files.begin(), files.end());
    Sha256 h;
    constexpr size_t mib = size_t(1) << 20;
    std::vector<char> block(mib);
    for (const std::string& path : files) {
        const size_t size = fs::file_size(path);
        const std::string head = concat(fs::relative(path, folder).string(), " ", size, "\n");
        h.add(std::as_bytes(std::span(head.data(), head.size())));
        std::ifstream file(path, std::ios::binary);
        for (size_t at : {size_t(0), size > mib ? std::max(mib, size - mib) : size}) {
            file.clear(), file.seekg(std::streamoff(at)), file.read(block.data(), std::streamsize(std::min(mib, size - at)));
            h.add(std::as_bytes(std::span(block.data(), size_t(std::max<std::streamsize>(0, file.gcount())))));
        }
    }
    return h.hex();
}

namespace {

std::string base_name(const std::string& benchmark) {           // the reference's `_token` variants read the benchmark without it
    std::string name = benchmark;
    for (size_t at; (at = name.find("_token")) != name.npos;) name.erase(at, 6);
    return name;
}

Benchmark load(const EvaluationOptions& o) {
    Benchmark b = read_benchmark(o.data, base_name(o.benchmark), o.questions, o.answers);
    if (o.limit > 0 && size_t(o.limit) < b.questions.size()) b.questions.resize(size_t(o.limit));
    return b;
}

std::string file_hash(const std::string& path) { return path.empty() || !exists(path) ? "" : sha256_of(read_text(path, size_t(1) << 30, Exit::bad_data)); }

// What decides the predictions of a chunk. A run that is taken up again must have the same.
Json settings_of(const Benchmark& b, const EvaluationOptions& o) {
    Json s{{"benchmark", o.benchmark}, {"questions_sha256", file_hash(b.question_file)}, {"answers_sha256", file_hash(b.answer_file)}, {"limit", o.limit},
           {"video_token", o.video_token}, {"dump_fusion", o.dump_fusion}, {"frames_fps", o.frames_fps}, {"lb_flip", o.flip}, {"seed", o.seed}, {"model_fingerprint", model_fingerprint(o.model)}};
    if (o.settings) s.update(*o.settings);
    return s;
}

void same_settings(const std::string& path, const Json& mine) {
    const Json theirs = read_json(path, {}, Exit::bad_data);
    for (const auto& [key, value] : mine.items())
        if (!theirs.contains(key) || theirs[key] != value)
            fail(Exit::usage, path, ": this chunk was begun with another ", key, " (", theirs.contains(key) ? brief(theirs[key].dump()) : "none", ", now ", brief(value.dump()), "); --force begins anew, --out DIR keeps both");
}

// A record as the reference writes it: the question's keys, what was predicted, the answer's keys; ours behind.
std::string record_of(const Question& q, const std::string& prompt, const Answerer::Answer& a, const Json& fusion) {
    Json r = Json::parse(q.question_json);
    r["pred"] = a.text;
    if (!q.choice()) r["message"] = prompt;
    if (q.answered) r.update(Json::parse(q.answer_json));
    if (!q.category.empty() && !r.contains("category")) r["category"] = q.category;
    if (q.choice()) {
        r["question_text"] = prompt;
        if (q.answered) r["answer_char"] = std::string(1, letter(q.answer_id));
        if (!a.likelihoods.empty()) r["likelihoods"] = a.likelihoods;
    }
    r["pred_tokens"] = a.tokens, r["pred_ended"] = a.ended;
    if (!fusion.is_null()) r["fusion_weights"] = fusion;
    return python_json(r);
}

bool flipped(const std::string& video, const EvaluationOptions& o) { return o.flip && Rng(o.seed, "lb-flip " + video).uniform(0) < 0.5; }

// The questions about one part of one video.
struct Group { std::string video; ClipRange range; std::vector<const Question*> questions; };
std::vector<Group> groups_of(std::span<const Question> questions, const std::set<std::string>& done) {
    std::vector<Group> groups;
    std::map<std::string, size_t> known;
    for (const Question& q : questions) {
        if (done.contains(q.id)) continue;
        auto part = [](const auto& v) { return v ? concat(*v) : std::string("-"); };
        const auto [at, is_new] = known.emplace(concat(q.video, '\n', part(q.range.start), ' ', part(q.range.end), ' ', part(q.range.end_frame)), groups.size());
        if (is_new) groups.push_back({q.video, q.range, {}});
        groups[at->second].questions.push_back(&q);
    }
    return groups;
}

// What a clip's thread makes of it: its features from the cache, or what the encoders are to be shown.
struct Decoded { std::string key; std::optional<Encoded> encoded; std::vector<Shown> shown; };
Decoded decode(VideoFolder& videos, const Group& g, const Merv& merv, const train::FeatureCache& cache, const EvaluationOptions& o) {
    const std::string path = videos.find(g.video);
    ClipRange range = g.range;
    if (fs::is_directory(path) && (range.start || range.end)) range.frames_fps = o.frames_fps;
    Decoded d;
    const bool flip = flipped(g.video, o);
    if (cache.on()) d.key = cache.key(path, range, flip), d.encoded = cache.find(d.key);
    if (!d.encoded) d.shown = merv.look(read_clip(path, merv.config.most_frames(), range, {.seconds = o.decode_timeout, .threads = 0}), {.flip = flip});
    return d;
}

// Predictions of other chunkings of this benchmark with the same settings are taken over: n may change between runs.
void adopt(PredictionLog& log, const ResultNames& names, const EvaluationOptions& o, const Json& settings, std::span<const Question> mine) {
    std::set<std::string> wanted;
    for (const Question& q : mine) if (!log.ids().contains(q.id)) wanted.insert(q.id);
    for (const auto& c : names.chunks()) {
        if (wanted.empty() || (c.n == o.chunks && c.i == o.chunk) || !exists(names.settings(c.n, c.i)) || read_json(names.settings(c.n, c.i), {}, Exit::bad_data) != settings) continue;
        for (const StoredRecord& r : read_records(c.path)) if (wanted.erase(r.id)) log.append(r.id, r.line);
    }
}

}

int evaluate(Answerer& answerer, const Merv& merv, const EvaluationOptions& o) {
    const Benchmark b = load(o);
    const ResultNames names = result_names(b, o.benchmark, o.out);
    const auto [begin, end] = chunk(b.questions.size(), o.chunks, o.chunk);
    const std::span<const Question> mine(b.questions.data() + begin, end - begin);
    const std::string part = names.part(o.chunks, o.chunk), done = names.done(o.chunks, o.chunk), failed = names.failed(o.chunks, o.chunk), kept = names.settings(o.chunks, o.chunk);
    std::error_code error;
    fs::create_directories(names.folder, error);
    if (error) fail(Exit::runtime, names.folder, ": cannot be made (", error.message(), ")");
    if (o.force) for (const std::string& path : {part, done, failed, kept}) fs::remove(path, error);
    const Json settings = settings_of(b, o);
    if (exists(kept)) same_settings(kept, settings);
    else if (exists(part) || exists(done)) fail(Exit::usage, exists(part) ? part : done, ": it is not said what these predictions were made with (", kept, " is missing); --force begins anew");
    write_whole(kept, settings.dump(1) + "\n");
    if (exists(done) && !exists(part)) fs::rename(done, part);
    PredictionLog log(part);
    adopt(log, names, o, settings, mine);

    const std::vector<Group> groups = groups_of(mine, log.ids());
    size_t left = 0, failures = 0, answered = 0;
    for (const Group& g : groups) left += g.questions.size();
    say("eval     ", o.benchmark, " ", o.chunk, "/", o.chunks, ": ", mine.size(), " questions, ", mine.size() - left, " answered before, ", groups.size(), " clips to see");
    VideoFolder videos(b.folder + "/videos");
    const train::FeatureCache cache(groups.empty() ? "" : o.feature_cache, merv);
    std::string failure_lines;
    auto fails = [&](const Question& q, const std::string& what) {
        failures++;
        failure_lines += python_json({{"question_id", q.id}, {"video_name", q.video}, {"error", what}}) + "\n";
        write_whole(failed, failure_lines);
    };
    fs::remove(failed, error);
    auto start_decoding = [&](size_t i) { return std::async(std::launch::async, [&, i] { return decode(videos, groups[i], merv, cache, o); }); };
    std::future<Decoded> next;
    if (!groups.empty()) next = start_decoding(0);
    const auto start = Clock::now();
    auto last_line = start - std::chrono::hours(1);
    double waited = 0;
    for (size_t i = 0; i < groups.size(); i++) {
        const Group& g = groups[i];
        Json fusion;
        try {
            const auto waiting = Clock::now();
            std::future<Decoded> current = std::move(next);
            current.wait();
            waited += std::chrono::duration<double>(Clock::now() - waiting).count();
            if (i + 1 < groups.size()) next = start_decoding(i + 1);
            Decoded d = current.get();
            if (!d.encoded) {
                d.encoded = merv.encode(d.shown, {.flip = flipped(g.video, o)});
                if (cache.on()) cache.keep(d.key, *d.encoded);
            } else for (Tensor& t : d.encoded->pooled) t = t.to(current_device());
            answerer.look(*d.encoded);
            if (o.dump_fusion)
                for (size_t e = 0; e < answerer.fusion().size(); e++) fusion[merv.encoders[e].name] = answerer.fusion()[e];
        } catch (const Error& e) {
            if (e.code != Exit::bad_data) throw;
            warn(e.what());
            for (const Question* q : g.questions) fails(*q, e.what());
            continue;
        }
        for (const Question* q : g.questions) {
            const std::string prompt = question_prompt(*q, o.video_token);
            try {
                const Answerer::Answer a = answerer.answer(prompt, int(q->options.size()));
                log.append(q->id, record_of(*q, prompt, a, fusion));
                answered++;
            } catch (const Error& e) {
                if (e.code != Exit::bad_data) throw;
                warn("question ", brief(q->id), ": ", e.what());
                fails(*q, e.what());
            }
        }
        const double spent = std::chrono::duration<double>(Clock::now() - start).count();
        const size_t through = answered + failures;
        if (Clock::now() - last_line > std::chrono::seconds(2) || i + 1 == groups.size()) {
            last_line = Clock::now();
            char line[160];
            std::snprintf(line, sizeof line, "eval     %zu/%zu  %.2f questions/s  waited for decoding %.0f %%  failed %zu  left %s", mine.size() - left + through, mine.size(), double(through) / spent,
                          100 * waited / spent, failures, duration(spent / double(through) * double(left - through)).c_str());
            say(line);
        }
    }
    fs::rename(part, done);
    // ---- the last chunk to end joins them all
    std::set<std::string> through;
    for (const auto& c : names.chunks()) if (c.n == o.chunks) for (const StoredRecord& r : read_records(c.path)) through.insert(r.id);
    for (const std::string& path : names.failures())
        if (path.starts_with(concat(names.folder, "/", names.stem, "_failed_", o.chunks, "_"))) for (const StoredRecord& r : read_records(path)) through.insert(r.id);
    const auto missing = std::count_if(b.questions.begin(), b.questions.end(), [&](const Question& q) { return !through.contains(q.id); });
    if (missing == 0) return merge(o);
    say("eval     ", missing, " questions belong to chunks that are not through yet");
    return failures ? int(Exit::some_failed) : 0;
}

int merge(const EvaluationOptions& o) {
    const Benchmark b = load(o);
    const ResultNames names = result_names(b, o.benchmark, o.out);
    std::map<std::string, std::string> lines, settings_seen;    // id -> record; settings -> a file that has them
    for (const auto& c : names.chunks()) {
        const std::string kept = names.settings(c.n, c.i);
        const std::string settings = exists(kept) ? read_json(kept, {}, Exit::bad_data).dump() : "";
        settings_seen.emplace(settings, c.path);
        for (const StoredRecord& r : read_records(c.path)) lines.emplace(r.id, r.line);
    }
    if (settings_seen.size() > 1) fail(Exit::usage, settings_seen.begin()->second, " and ", settings_seen.rbegin()->second, " were made with different settings and do not belong together; remove one");
    std::map<std::string, std::string> failed;
    for (const std::string& path : names.failures())
        for (const StoredRecord& r : read_records(path)) if (!lines.contains(r.id)) failed[r.id] = r.line;
    std::string merged, judged = "{";
    size_t left = 0, count = 0, unfinished = 0, degenerates = 0, unparsed = 0;
    Json failures = Json::array();
    std::vector<Verdict> verdicts;
    for (const Question& q : b.questions) {
        const auto found = lines.find(q.id);
        if (found == lines.end()) {
            if (failed.contains(q.id)) failures.push_back(parse_json(failed[q.id], q.id, {}, Exit::bad_data));
            else left++;
            continue;
        }
        const Json r = parse_json(null_for_nan(found->second), q.id, {}, Exit::bad_data);
        merged += found->second + "\n", count++;
        verdicts.push_back(verdict_of(r));
        unfinished += r.contains("pred_ended") && r["pred_ended"] == false;
        degenerates += r.contains("pred") && r["pred"].is_string() && degenerate(r["pred"].get<std::string>());
        unparsed += verdicts.back().unparsed;
        if (!q.choice() || !q.answered) continue;
        judged += concat(judged.size() > 1 ? ", " : "", python_json(q.id), ": [{\"pred\": \"", verdicts.back().by["reference"] == Outcome::right ? "yes" : "no", "\", \"score\": 0}, ", found->second, "]");
    }
    if (left) fail(Exit::bad_data, names.folder, ": ", left, " of ", b.questions.size(), " questions of ", o.benchmark, " have no prediction yet; run the chunks that are missing");
    write_whole(names.merged(), merged);
    const bool scored = !b.answer_file.empty();
    if (scored && b.questions[0].choice()) write_whole(names.judged(), judged + "}\n");
    Json results{{"benchmark", o.benchmark}, {"counts", {{"questions", b.questions.size()}, {"answered", count}, {"failed", failures.size()}, {"unparsed", unparsed}, {"degenerate", degenerates}, {"cut_at_max_tokens", unfinished}}}};
    if (scored) results.update(rates_json(verdicts));
    results["failures"] = failures;
    results["sha256"] = {{"questions", file_hash(b.question_file)}, {"answers", file_hash(b.answer_file)}, {"predictions", sha256_of(merged)}};
    results["settings"] = settings_seen.empty() || settings_seen.begin()->first.empty() ? Json() : Json::parse(settings_seen.begin()->first);
    results["merged_by"] = {{"version", kVersion}, {"commit", commit()}};
    write_whole(names.results(), results.dump(1) + "\n");
    if (scored) std::printf("%s", rates_table(verdicts).c_str());
    say("eval     ", names.merged(), ": ", count, " predictions, ", failures.size(), " failed");
    return failures.empty() ? 0 : int(Exit::some_failed);
}

}
