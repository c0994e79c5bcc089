// merv-data: is a dataset fit to be trained on, what does a sample look like, and benchmarks' files in our layout.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <map>
#include <numeric>
#include "core/json.h"
#include "core/log.h"
#include "core/program.h"
#include "data/chart.h"
#include "data/convert.h"
#include "data/loader.h"
#include "nn/functional.h"
#include "train/config.h"
#include "train/samples.h"
#include "train/sheet.h"
#include "weights/file.h"

using namespace merv;
using namespace merv::train;

namespace {

using Clock = std::chrono::steady_clock;

// A run's settings, with the flags' own in place of the file's.
RunConfig settings(const Flags& flags) {
    std::vector<std::string> overrides = flags.texts("set");
    const std::vector<std::string>& datasets = flags.positionals();
    if (!datasets.empty()) overrides.push_back("dataset=" + Json(datasets).dump());
    for (auto [flag, key] : {std::pair{"model", "model_dir"}, {"media-root", "media_root"}, {"stage", "stage"}})
        if (flags.has(flag)) overrides.push_back(concat(key, "=", Json(flags.text(flag)).dump()));
    RunConfig config = read_run_config(flags.text("config"), overrides);
    if (config.dataset.empty()) fail(Exit::usage, "which dataset? Give a conversation file (docs/training.md, Data), or --config FILE");
    return config;
}
std::optional<LoadedModel> model_of(const RunConfig& config) {
    if (config.model_dir.empty()) return {};
    return load_model(config.model_dir, {.num_frames = config.num_frames, .weights = false});
}
Tokenized tokenized(const RunConfig& config, const Conversation& c, TextFormat format) { return config.aligns() ? tokenize_caption(c, format) : tokenize_dialogue(c, format); }

Clip read_media(const RunConfig& config, const std::string& path, bool is_image, int frames) {
    return is_image ? still_clip(path, frames) : read_clip(path, frames, {}, {.seconds = config.decode_timeout, .threads = config.workers > 0 ? 1 : 0});
}

std::string kind_of(const Conversation& c) { return c.media.empty() ? "text" : c.is_image ? "image" : "video"; }

void print_json(const Json& j) { std::printf("%s\n", j.dump(-1, ' ', false, Json::error_handler_t::replace).c_str()); }

// ---- check

struct Media {                                  // what one file turned out to be
    int64_t frames = 0, width = 0, height = 0;
    double fps = 0;
    std::string fault;
};

class Progress {
  public:
    explicit Progress(size_t files) : files_(files) {}
    void file(size_t faults) {                  // one more was read
        done_++;
        const double now = std::chrono::duration<double>(Clock::now() - start_).count();
        if (now < next_ || done_ == files_) return;
        next_ = now + 5;
        const int64_t left = int64_t(now / double(done_) * double(files_ - done_));
        char text[160];
        std::snprintf(text, sizeof text, "check    %zu of %zu files, %zu samples with faults, %.1f files/s, left %lld:%02lld", done_, files_, faults, double(done_) / now,
                      static_cast<long long>(left / 60), static_cast<long long>(left % 60));
        say(text);
    }

  private:
    size_t files_, done_ = 0;
    double next_ = 1;
    Clock::time_point start_ = Clock::now();
};

struct Fault { std::string kind, text; };
struct Sample {
    Conversation conversation;
    std::vector<Fault> faults = {};
    int64_t file = -1;                          // its media's place in Survey::files
};
struct File { std::string path; bool is_image; };
struct Survey { std::vector<Sample> samples; std::vector<File> files; };        // each file once, in the order of the samples

Survey survey(const RunConfig& config) {
    Survey all;
    std::map<std::pair<std::string, bool>, int64_t> known;
    std::map<std::string, size_t> ids;
    auto look_at = [&](Sample& s) {
        const Conversation& c = s.conversation;
        if (c.id.empty()) s.faults.push_back({"missing id", "has no id"});
        else if (const auto [first, is_new] = ids.emplace(c.id, all.samples.size() - 1); !is_new) s.faults.push_back({"duplicate id", concat("its id is that of sample ", first->second, ", too")});
        if (!c.multimodal()) return;
        try {
            const File file{media_path(config.media_root, c), c.is_image};
            const auto [at, is_new] = known.emplace(std::pair{file.path, file.is_image}, int64_t(all.files.size()));
            if (is_new) all.files.push_back(file);
            s.file = at->second;
        } catch (const Error& e) { s.faults.push_back({"path", e.what()}); }
    };
    for (const std::string& path : config.dataset) {
        std::map<size_t, std::string> wrong;
        std::vector<Conversation> records = read_conversations(path, [&](size_t record, const std::string& why) { wrong[record] = why; });
        for (size_t i = 0; i < records.size(); i++) {
            all.samples.push_back({std::move(records[i])});
            if (wrong.contains(i)) all.samples.back().faults.push_back({"record", wrong[i]});
            else look_at(all.samples.back());
        }
    }
    return all;
}

struct Totals {
    int64_t samples = 0, faulty = 0, tokens = 0, labels = 0, longest = 0, cut = 0;
    std::map<std::string, int64_t> kinds, faults;
    void print(size_t files, bool counted) const {
        std::string text;
        for (const auto& [kind, n] : kinds) text += concat(text.empty() ? "" : ", ", n, " ", kind);
        say("samples  ", samples, " (", text, "), ", files, " files");
        if (counted) say("tokens   ", tokens, ", ", labels, " of them learnt; longest sample ", longest, cut ? concat("; ", cut, " are cut") : "");
        for (const auto& [what, n] : faults) say("fault    ", what, ": ", n);
    }
};

void count_tokens(const RunConfig& config, const LoadedModel& loaded, Sample& s, Json& line, Totals& totals) {
    TextFormat format = text_format(loaded);
    const int64_t longest = std::exchange(format.longest, INT64_MAX);
    try {
        const Tokenized t = tokenized(config, s.conversation, format);
        const int64_t n = int64_t(t.ids.size()), kept = std::min(n, longest), labels = kept - std::count(t.labels.begin(), t.labels.begin() + kept, nn::kIgnore);
        line["tokens"] = n, line["labels"] = labels;
        totals.tokens += kept, totals.labels += labels, totals.longest = std::max(totals.longest, n), totals.cut += n > longest;
        if (n > longest) line["cut"] = longest;
        if (!labels) s.faults.push_back({"nothing to learn", concat("no token of its ", kept, " is learnt", n > longest ? concat("; its text was cut to ", longest) : "")});
    } catch (const Error& e) { s.faults.push_back({"conversation", e.what()}); }
}

// A line of JSON per sample, as soon as its file is read.
int check(const Flags& flags) {
    const RunConfig config = settings(flags);
    const std::optional<LoadedModel> loaded = model_of(config);
    if (!loaded) say("note: without -m DIR, the MERV folder, tokens are not counted");
    const int frames = loaded && !loaded->merv.encoders.empty() ? loaded->merv.config.most_frames() : 32;
    Survey all = survey(config);
    std::vector<int64_t> order(all.files.size());
    std::iota(order.begin(), order.end(), 0);
    auto read = [&](int64_t i) {
        const File& file = all.files[size_t(i)];
        const Clip clip = read_media(config, file.path, file.is_image, file.is_image ? 1 : frames);
        return Media{.frames = clip.total_frames, .width = clip.frames.dim(2), .height = clip.frames.dim(1), .fps = clip.fps, .fault = ""};
    };
    const Level level = log_level();
    Loader<Media> loader(read, order, {.workers = config.workers, .ahead = config.prefetch, .timeout = config.decode_timeout > 0 ? config.decode_timeout * 2 + 1 : 0,
                                       .on_bad = OnBadSample::skip, .name = [&](int64_t i) { return all.files[size_t(i)].path; }});
    std::vector<Media> media;
    Progress progress(all.files.size());
    Totals totals;
    for (size_t i = 0; i < all.samples.size(); i++) {
        Sample& s = all.samples[i];
        const Conversation& c = s.conversation;
        while (s.file >= int64_t(media.size())) {
            set_log_level(Level::quiet);        // what the loader would say is in the sample's line
            Loader<Media>::Loaded l = loader.next();
            set_log_level(level);
            media.push_back(l.item ? *l.item : Media{.fault = l.why});
            progress.file(size_t(totals.faulty));
        }
        Json line{{"index", i}, {"id", c.id}, {"kind", c.turns.empty() ? "none" : kind_of(c)}};
        if (s.file >= 0) {
            const Media& m = media[size_t(s.file)];
            line["media"] = c.media;
            if (m.fault.empty()) line.update({{"frames", m.frames}, {"fps", m.fps}, {"width", m.width}, {"height", m.height}});
            else s.faults.push_back({"file", m.fault});
        }
        line["turns"] = c.turns.size();
        if (loaded && !c.turns.empty()) count_tokens(config, *loaded, s, line, totals);
        line["faults"] = Json::array();
        for (const Fault& f : s.faults) line["faults"].push_back(f.text), totals.faults[f.kind]++;
        print_json(line);
        totals.samples++, totals.faulty += !s.faults.empty(), totals.kinds[line["kind"]]++;
    }
    totals.print(all.files.size(), loaded.has_value());
    if (all.samples.empty()) fail(Exit::bad_data, config.dataset[0], ": holds no samples");
    if (totals.faulty) fail(Exit::bad_data, totals.faulty, " of ", totals.samples, " samples have faults; the lines on stdout name them");
    return 0;
}

// ---- show

// By id, else by number
size_t find_sample(const std::vector<Conversation>& samples, const std::string& wanted) {
    for (size_t i = 0; i < samples.size(); i++) if (samples[i].id == wanted) return i;
    size_t n = 0;
    const auto [end, error] = std::from_chars(wanted.data(), wanted.data() + wanted.size(), n);
    if (error == std::errc() && end == wanted.data() + wanted.size() && n < samples.size()) return n;
    fail(Exit::usage, "--sample '", brief(wanted), "': no id of the dataset, and no number below ", samples.size());
}

int show(const Flags& flags) {
    const RunConfig config = settings(flags);
    if (config.model_dir.empty()) fail(Exit::usage, "-m DIR is missing: the MERV folder, whose tokenizer and encoders say how a sample is seen");
    std::vector<Conversation> samples;
    for (const std::string& path : config.dataset)
        for (Conversation& c : read_conversations(path)) samples.push_back(std::move(c));
    if (samples.empty()) fail(Exit::bad_data, config.dataset[0], ": holds no samples");
    const size_t at = flags.has("sample") ? find_sample(samples, flags.text("sample")) : 0;
    const Conversation& c = samples[at];
    const std::optional<LoadedModel> loaded = model_of(config);
    const Merv& m = loaded->merv;
    const TextFormat format = text_format(*loaded);
    const Tokenized t = tokenized(config, c, format);
    Json out{{"index", at}, {"id", c.id}, {"kind", kind_of(c)}, {"stage", config.stage}, {"prompt_builder", name_of(format.builder)}};

    if (c.multimodal()) {
        if (m.encoders.empty()) fail(Exit::bad_weights, config.model_dir, ": a language model alone; it cannot see ", c.media, ". Give a MERV folder");
        const Clip clip = read_media(config, media_path(config.media_root, c), c.is_image, m.config.most_frames());
        out.update({{"media", c.media}, {"frames", clip.total_frames}, {"fps", clip.fps}, {"frame_indices", clip.indices}, {"visual_tokens", m.visual_tokens()}});
        if (flags.has("out")) write_text(flags.text("out"), encode_png(contact_sheet(clip, m, m.look(clip, {}))));
    } else if (flags.has("out")) warn("a sample of text alone has no picture: ", flags.text("out"), " is not written");

    int64_t learnt = 0;
    out["tokens"] = Json::array();
    const int32_t letter = m.tokenizer.encode("a").back();          // in front, so that a token's own space is kept
    auto text_of = [&](int32_t id) -> std::string {
        if (id == format.bos) return "<bos>";
        if (id == format.eos) return "<eos>";
        return m.tokenizer.decode(std::vector<int32_t>{letter, id}).substr(m.tokenizer.decode(std::span(&letter, 1)).size());
    };
    for (size_t i = 0; i < t.ids.size(); i++) {
        const bool label = t.labels[i] != nn::kIgnore;
        learnt += label;
        out["tokens"].push_back({{"id", t.ids[i]}, {"text", text_of(t.ids[i])}, {"learnt", label}});
    }
    if (flags.on("json")) return print_json(out), 0;
    std::printf("sample %zu%s: %s%s, %zu turns, stage %s, %s; %zu tokens, %lld learnt\n", at, c.id.empty() ? "" : concat(" ", printable(c.id)).c_str(), kind_of(c).c_str(),
                c.media.empty() ? "" : concat(" ", printable(c.media)).c_str(), c.turns.size(), config.stage.c_str(), name_of(format.builder), t.ids.size(), static_cast<long long>(learnt));
    const size_t behind = format.bos >= 0 ? 1 : 0;      // what is seen goes behind BOS
    for (size_t i = 0; i < t.ids.size(); i++) {
        if (i == behind && c.multimodal()) std::printf("      %lld visual tokens\n", static_cast<long long>(m.visual_tokens()));
        const Json& token = out["tokens"][i];
        std::printf("%5zu %6d  %s %s\n", i, t.ids[i], token["learnt"] ? "learnt" : "      ", token["text"].dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
    }
    return 0;
}

}

int main(int argc, char** argv) {
    struct Command { const char *name, *usage; std::vector<const char*> flags; size_t positionals; int (*run)(const Flags&); };
    const Command commands[] = {
        {"check", "merv-data check DATASET.. [-m DIR] [--media-root DIR] [--stage NAME] [--config FILE] [--set KEY=VALUE ..]", {"model", "media-root", "stage", "config", "set"}, 64, check},
        {"show", "merv-data show DATASET.. -m DIR [--sample ID|N] [--out FILE.png] [--json] [--media-root DIR] [--stage NAME] [--config FILE] [--set KEY=VALUE ..]",
         {"model", "sample", "out", "json", "media-root", "stage", "config", "set"}, 64, show},
        {"convert", "merv-data convert BENCHMARK --in FILE --out DIR [...]", convert_flags(), 1, convert_main},
    };
    const std::string command = argc > 1 ? argv[1] : "";
    std::string all, names;
    for (const Command& c : commands) {
        if (command == c.name) {
            Flags flags("merv-data", c.usage, c.flags, c.positionals);
            return run_program(flags, argc - 1, argv + 1, [&] { return c.run(flags); });
        }
        all += concat(all.empty() ? "" : "\n       ", c.usage), names += concat(names.empty() ? "" : ", ", c.name);
    }
    Flags flags("merv-data", all, {}, 1);
    return run_program(flags, argc, argv, [&]() -> int { fail(Exit::usage, command.empty() ? "what to do?" : concat("no command '", command, "';"), " the commands are ", names); });
}
