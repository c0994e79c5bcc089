// merv-ask: a question about a clip, answered.
#include <algorithm>
#include <chrono>
#include <climits>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <set>
#include <omp.h>
#include <unistd.h>
#include <nlohmann/json.hpp>
#include "core/log.h"
#include "core/program.h"
#include "core/rng.h"
#include "core/version.h"
#include "models/chat.h"
#include "models/load.h"
#include "models/prompt.h"
#include "models/streamer.h"
#include "weights/safetensors.h"

using namespace merv;

namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;
double ms_since(Clock::time_point start) { return std::chrono::duration<double, std::milli>(Clock::now() - start).count(); }

std::string in_ms(double ms) {
    char text[32];
    if (ms < 10000) std::snprintf(text, sizeof text, ms < 10 ? "%.1f ms" : "%.0f ms", ms);
    else std::snprintf(text, sizeof text, "%.1f s", ms / 1000);
    return text;
}

// Everything the flags ask to be shown about the stages on the way.
class Report {
  public:
    explicit Report(const Flags& flags) : shapes_(flags.on("shapes")), dump_(flags.text("dump")) {
        if (!flags.has("dump")) return;         // told now, not after minutes of work
        const auto folder = std::filesystem::path(dump_).parent_path();
        std::error_code ignored;
        if (dump_.empty() || std::filesystem::is_directory(dump_, ignored) || access(folder.empty() ? "." : folder.c_str(), W_OK | X_OK) != 0)
            fail(Exit::usage, "--dump '", dump_, "' cannot be written; give a file's name in a folder that exists");
    }
    Watcher watcher() {
        return {.on_stage = [this](const Stage& s) { stage(s); }, .wants_pixels = !dump_.empty()};
    }
    void stage(const Stage& s) {
        ms[s.name] += s.ms;
        if (shapes_) {
            char line[160];
            std::snprintf(line, sizeof line, "%-22s %-24s %9.1f ms  %s", s.name.c_str(), s.value ? s.value.describe().c_str() : "", s.ms, s.source);
            log_text(Level::quiet, line);
        } else if (s.name.starts_with("features.")) {
            say("encode   ", s.name.substr(9), ": ", s.value.dim(0), " tokens of width ", s.value.dim(1), ", ", in_ms(s.ms));
        }
        if (!dump_.empty() && !dumped_.count(s.name)) dumped_.insert(s.name), tensors_.emplace_back(s.name, s.value.to(Device::cpu));
    }
    void write_dump() const {
        if (dump_.empty()) return;
        write_safetensors(dump_, tensors_, {{"format", "pt"}, {"merv_cpp", kVersion}, {"source", "merv-ask --dump"}});
        say("dump     ", dump_);
    }
    std::map<std::string, double> ms;

  private:
    bool shapes_;
    std::string dump_;
    std::set<std::string> dumped_;
    std::vector<std::pair<std::string, Tensor>> tensors_;
};

void show_fusion(const Merv& m, const Visual& v) {
    for (size_t i = 0; i < v.weights.size(); i++) {
        std::string bar;
        for (int j = 0; j < int(std::lround(v.weights[i] * 40)); j++) bar += "█";
        char line[64];
        std::snprintf(line, sizeof line, "%-12s %5.1f %%  ", m.encoders[i].name.c_str(), double(v.weights[i]) * 100);
        log_text(Level::quiet, line + bar);
    }
}

ClipRange clip_range(const Flags& flags) {
    ClipRange r;
    if (flags.has("clip-start")) r.start = flags.number("clip-start");
    if (flags.has("clip-end")) r.end = flags.number("clip-end");
    if (flags.has("end-frame")) r.end_frame = flags.integer("end-frame");
    if (flags.has("frames-fps")) r.frames_fps = flags.number("frames-fps");
    if (r.frames_fps && *r.frames_fps <= 0) fail(Exit::usage, "--frames-fps must be above 0");
    if (r.start && *r.start < 0) fail(Exit::usage, "--clip-start must not be negative");
    for (const char* part : {"clip-start", "clip-end", "end-frame", "frames-fps"})
        if (flags.has(part) && !flags.has("video")) warn("--", part, " belongs to --video: it is not used");
    return r;
}

Sampling sampling(const Flags& flags) {
    Sampling s{.temperature = flags.number("temperature"), .top_k = int(std::clamp<int64_t>(flags.integer("top-k"), -1, INT_MAX)), .top_p = flags.number("top-p"),
               .min_p = flags.number("min-p"), .seed = uint64_t(flags.integer("seed"))};
    check(s);
    return s;
}

struct Question { std::string text; std::vector<int32_t> ids; };

int ask(const Flags& flags) {
    // ---- what is wanted; mistakes are found before anything is loaded
    if (flags.text("model").empty()) fail(Exit::usage, "-m DIR is missing: the model folder; `make demo` shows one that comes with this project");
    const std::string folder = flags.text("model"), video = flags.text("video"), image = flags.text("image");
    const std::vector<std::string> prompts = flags.texts("prompt");
    const bool chatting = prompts.empty();
    if (chatting && !(isatty(STDIN_FILENO) && isatty(STDOUT_FILENO))) fail(Exit::usage, "--prompt TEXT is missing: the question (only a terminal is asked for it)");
    if (chatting && (flags.on("json") || flags.has("dump"))) fail(Exit::usage, "--json and --dump need --prompt TEXT: the question");
    if (flags.has("video") && flags.has("image")) fail(Exit::usage, "--video and --image exclude each other; give one of them");
    if ((flags.has("video") && video.empty()) || (flags.has("image") && image.empty())) fail(Exit::usage, "--video and --image need a file's name");
    const std::string dtype = flags.text("dtype");
    if (dtype != "auto" && dtype != "f32" && dtype != "bf16") fail(Exit::usage, "--dtype takes auto, f32 or bf16, not '", dtype, "'");
    const std::string formula = flags.text("fusion");
    if (formula != "code" && formula != "paper") fail(Exit::usage, "--fusion takes code or paper, not '", formula, "'");
    if (flags.integer("max-tokens") < 1) fail(Exit::usage, "--max-tokens must be at least 1");
    if (flags.integer("threads") < 0 || flags.integer("threads") > 4096) fail(Exit::usage, "--threads takes 0 to 4096");
    const std::string builder_name = flags.text("prompt-builder");
    if (builder_name != "auto") parse_builder(builder_name);
    const ClipRange range = clip_range(flags);
    const bool sees = !video.empty() || !image.empty();
    GenerateOptions options{.max_tokens = std::min<int64_t>(flags.integer("max-tokens"), INT_MAX), .sampling = sampling(flags), .stop = {}};
    const OnDevice device(choose_device(flags));
    if (flags.integer("threads")) omp_set_num_threads(int(flags.integer("threads")));
    NoGrad inference;
    Report report(flags);

    // ---- the model
    auto start = Clock::now();
    size_t longest = 0;
    for (const std::string& p : prompts) longest = std::max(longest, p.size());
    const LoadedModel loaded = load_model(folder, {.num_frames = flags.has("num-frames") ? flags.integers("num-frames") : std::vector<int64_t>{},
                                                   .dtype = dtype == "auto" ? std::optional<DType>() : dtype == "bf16" ? DType::bf16 : DType::f32,
                                                   .tokens = chatting ? kChatTokens : int64_t(std::min<size_t>(longest, 1 << 20)) + 256 + options.max_tokens, .vision = sees || chatting});
    const Merv& m = loaded.merv;
    const LlamaConfig& llm = m.llm.config;
    if (sees && m.encoders.empty()) fail(Exit::bad_weights, folder, ": a language model alone; it cannot see. Ask without --video and --image, or give a MERV folder");
    if (sees && formula == "paper" && m.fusion.query && m.fusion.query.dim(1) != llm.width)
        fail(Exit::usage, "--fusion paper needs a query as wide as the language model, ", llm.width, "; this model's has ", m.fusion.query.dim(1), ": use --fusion code");
    report.ms["load"] = ms_since(start);
    say("load     ", folder, ": ", loaded.parameters, " parameters, ", loaded.weight_bytes >> 20, " MiB, computed in ", name_of(m.dtype()), ", ", in_ms(report.ms["load"]));

    // ---- the questions as tokens, behind BOS where the tokenizer puts one
    const int bos = !m.tokenizer.adds_bos() ? -1 : llm.bos >= 0 ? llm.bos : m.tokenizer.bos();
    if (m.tokenizer.adds_bos() && (bos < 0 || bos >= llm.vocab)) fail(Exit::bad_weights, folder, ": neither the configs nor the tokenizer name a BOS token that the model has");
    options.stop = !llm.eos.empty() ? llm.eos : std::vector<int>{m.tokenizer.eos()};
    const PromptBuilder builder = builder_name != "auto" ? parse_builder(builder_name) : builder_of(loaded);
    const int64_t visual_tokens = sees ? m.visual_tokens() : 0, most_text = m.encoders.empty() ? llm.max_positions : m.config.llm_max_length;
    std::vector<Question> questions;
    int64_t longest_ids = 0;
    for (const std::string& p : prompts) {
        Question q{valid_utf8(wrap_question(builder, valid_utf8(p))), {}};
        q.ids = m.tokenizer.encode(q.text);
        if (bos >= 0) q.ids.insert(q.ids.begin(), bos);
        const int64_t n = int64_t(q.ids.size());
        if (n == 0) fail(Exit::usage, "the prompt is empty, and this model's texts begin with nothing else: give a question");
        if (n > most_text) fail(Exit::usage, "the prompt has ", n, " tokens; this model reads at most ", most_text, ": shorten it");
        if (n + visual_tokens >= llm.max_positions)
            fail(Exit::usage, "the prompt has ", n, " tokens and the clip ", visual_tokens, "; the language model's context is ", llm.max_positions, ": shorten the prompt");
        longest_ids = std::max(longest_ids, n);
        questions.push_back(std::move(q));
    }

    // ---- the clip, once for all questions
    Clip clip;
    auto look = [&](const std::string& path, bool is_video) {
        if (m.encoders.empty()) fail(Exit::bad_data, folder, ": a language model alone; it cannot see");
        const auto start = Clock::now();
        clip = is_video ? read_clip(path, m.config.most_frames(), range) : still_clip(path, m.config.most_frames());
        report.ms["decode"] = ms_since(start);
        say("decode   ", path, ": ", clip.frames.dim(0), " of ", clip.total_frames, " frames, ", clip.frames.dim(2), "x", clip.frames.dim(1), ", ", in_ms(report.ms["decode"]));
        MemTag tag("activations");
        const double flip = Rng(options.sampling.seed, "lb-flip").uniform(0);
        Visual v = m.see(clip, {.formula = formula == "paper" ? Fusion::Formula::paper : Fusion::Formula::code, .flip = flags.on("lb-flip") && flip < 0.5}, report.watcher());
        clip.frames = {};
        if (flags.on("show-fusion")) show_fusion(m, v);
        return v;
    };
    Visual visual;
    if (sees) visual = look(video.empty() ? image : video, !video.empty());
    if (chatting) {
        MemTag tag("activations");
        return chat(m, sees ? std::optional(visual) : std::nullopt, {.builder = builder, .bos = bos, .generate = options, .look = look}), 0;
    }

    // ---- the first token (BOS) and the clip are prefilled once; each question then continues from there
    MemTag tag("activations");
    KvCache cache = m.llm.cache(std::min<int64_t>(llm.max_positions, visual_tokens + longest_ids + options.max_tokens));
    const int64_t prefix = 1 + visual_tokens;
    int64_t prefilled = 0;
    int32_t first = -1;
    Tensor prefix_hidden;
    Json answers = Json::array();
    for (const Question& q : questions) {
        start = Clock::now();
        const Tensor embeds = m.splice(q.ids, sees ? &visual : nullptr);
        if (prefilled == 0) report.stage({"embeds", embeds, ms_since(start), "models/merv.cpp"});
        if (q.ids[0] != first) {
            start = Clock::now();
            first = q.ids[0], cache.length = 0;
            prefix_hidden = m.llm.forward(embeds.slice(0, prefix), cache);
            prefilled += prefix;
        }
        cache.length = prefix;
        Tensor hidden = prefix_hidden;
        if (embeds.dim(0) > prefix) hidden = m.llm.forward(embeds.slice(prefix, embeds.dim(0)), cache), prefilled += embeds.dim(0) - prefix;
        const Tensor logits = m.llm.logits(hidden.slice(hidden.dim(0) - 1, hidden.dim(0)));
        const double prefill_ms = ms_since(start);
        report.stage({"logits", logits.reshape({logits.numel()}), prefill_ms, "models/llama.cpp"});
        say("prefill  ", embeds.dim(0), " tokens, ", in_ms(prefill_ms));
        report.ms["prefill"] += prefill_ms;

        start = Clock::now();
        Streamer streamer(m.tokenizer);
        const std::vector<int32_t> ids = generate(m.llm, cache, logits, options, [&](int32_t id) {
            if (!flags.on("json")) streamer.add(id);
            return true;
        });
        if (!flags.on("json")) streamer.finish();
        const double generate_ms = ms_since(start);
        report.ms["generate"] += generate_ms;
        const bool ended = std::find(options.stop.begin(), options.stop.end(), ids.back()) != options.stop.end();
        if (!ended && int64_t(ids.size()) < options.max_tokens) warn("the answer ends where the language model's context of ", llm.max_positions, " tokens is full");
        say("answer   ", ids.size(), " tokens, ", in_ms(generate_ms), ", ", in_ms(generate_ms / double(ids.size())), " each");
        answers.push_back({{"prompt", q.text}, {"text", strip(m.tokenizer.decode(ids))}, {"tokens", ids}, {"prompt_tokens", q.ids}});
    }
    report.write_dump();

    if (flags.on("json")) {
        Json out{{"answers", answers}, {"frame_indices", clip.indices}, {"fps", clip.fps}, {"dtype", name_of(m.dtype())}, {"device", name_of(current_device())}, {"fusion_weights", Json::object()}, {"ms", report.ms},
                 {"memory", peak_memory_by_tag()}, {"counts", {{"frames_encoded", Json::object()}, {"prefilled_tokens", prefilled}}},
                 {"versions", {{"commit", commit()}, {"compiler", compiler()}, {"isa", kernels::cpu::name_of(kernels::cpu::isa())}, {"ffmpeg", ffmpeg_version()}}}};
        for (size_t i = 0; i < visual.weights.size(); i++) out["fusion_weights"][m.encoders[i].name] = visual.weights[i];
        for (size_t i = 0; i < visual.frames_encoded.size(); i++) out["counts"]["frames_encoded"][m.encoders[i].name] = visual.frames_encoded[i];
        std::printf("%s\n", out.dump(-1, ' ', true, Json::error_handler_t::replace).c_str());        // ASCII: no control character of any kind is left
    }
    return 0;
}

}

int main(int argc, char** argv) {
    Flags flags("merv-ask", "merv-ask -m DIR [--video FILE | --image FILE] [--prompt TEXT] [...]",
                {"model", "video", "image", "prompt", "prompt-builder", "num-frames", "clip-start", "clip-end", "end-frame", "frames-fps", "max-tokens", "temperature",
                 "top-k", "top-p", "min-p", "seed", "dtype", "device", "threads", "fusion", "lb-flip", "json", "dump", "show-fusion", "shapes"});
    return run_program(flags, argc, argv, [&] { return ask(flags); });
}
