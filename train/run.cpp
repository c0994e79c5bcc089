#include "train/run.h"
#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <unistd.h>
#include "core/autograd.h"
#include "core/json.h"
#include "core/log.h"
#include "core/profile.h"
#include "core/rng.h"
#include "data/loader.h"
#include "data/sampler.h"
#include "train/plan.h"
#include "train/report.h"
#include "train/samples.h"
#include "weights/file.h"
#include "weights/safetensors.h"

namespace merv::train {
namespace {

namespace fs = std::filesystem;

// ---- signals: the step in progress is finished

volatile std::sig_atomic_t caught = 0;
struct Signals {
    Signals() { caught = 0, old_term_ = std::signal(SIGTERM, note), old_int_ = std::signal(SIGINT, note); }
    ~Signals() { std::signal(SIGTERM, old_term_), std::signal(SIGINT, old_int_); }
    static void note(int signal) {
        if (caught == SIGINT && signal == SIGINT) _exit(130);       // asked twice: at once
        caught = signal;
    }
    static int code() { return caught == SIGTERM ? 75 : 130; }

  private:
    void (*old_term_)(int);
    void (*old_int_)(int);
};

// ---- data

struct Dataset {
    std::vector<Conversation> samples;
    std::string media_root;
};
Dataset read_dataset(const std::vector<std::string>& paths, const std::string& media_root) {
    Dataset d{.samples = {}, .media_root = media_root};
    for (const std::string& path : paths) {
        std::vector<Conversation> more = read_conversations(path);
        std::move(more.begin(), more.end(), std::back_inserter(d.samples));
    }
    if (d.samples.empty()) fail(Exit::bad_data, paths.empty() ? "dataset" : paths[0], ": holds no samples");
    return d;
}

// From a sample of the dataset to what the trainer takes. Thread-safe: only reads.
class Reader {
  public:
    Reader(const RunConfig& config, const Dataset& data, const LoadedModel& loaded, const FeatureCache& cache)
        : config_(config), data_(data), merv_(loaded.merv), cache_(cache), format_(text_format(loaded)) {}
    Example operator()(int64_t index) const {
        const Conversation& c = data_.samples[size_t(index)];
        const Tokenized t = config_.aligns() ? tokenize_caption(c, format_) : tokenize_dialogue(c, format_);
        Example e{.index = index, .id = c.id.empty() ? std::to_string(index) : c.id, .clip_key = "", .ids = t.ids, .labels = t.labels, .multimodal = c.multimodal()};
        if (!e.multimodal) return e;
        e.flip = config_.quirk("lb-flip") && Rng(uint64_t(config_.seed), "lb-flip").uniform(uint64_t(index)) < 0.5;
        const std::string path = media_path(data_.media_root, c);
        if (cache_.on()) {
            if (!exists(path)) fail(Exit::bad_data, path, ": no such file");
            e.clip_key = cache_.key(path, {}, e.flip);
            e.encoded = cache_.find(e.clip_key);
        }
        if (!e.encoded) {
            const int frames = merv_.config.most_frames();
            const Clip clip = c.is_image ? still_clip(path, frames) : read_clip(path, frames, {}, {.seconds = config_.decode_timeout, .threads = config_.workers > 0 ? 1 : 0});
            e.shown = merv_.look(clip, {.flip = e.flip});
        }
        return e;
    }
    std::string name(int64_t index) const {
        const Conversation& c = data_.samples[size_t(index)];
        return concat("sample ", index, c.id.empty() ? "" : concat(" ('", brief(c.id), "')"), c.media.empty() ? "" : concat(", ", c.media));
    }

  private:
    const RunConfig& config_;
    const Dataset& data_;
    const Merv& merv_;
    const FeatureCache& cache_;
    const TextFormat format_;
};

// ---- parameters of an earlier stage

void carry_over(const RunConfig& config, Trainer& trainer) {
    if (config.pretrained_checkpoint.empty()) return;
    const std::string& path = config.pretrained_checkpoint;
    std::map<std::string, Tensor> values;
    std::string from = path;
    if (exists(path + "/config.json") && exists(path + "/llm") && !exists(path + "/checkpoints")) {     // a MERV folder
        Checkpoint own = Checkpoint::open(path);
        for (const std::string& name : own.names()) values[name] = own.take(name);
        Checkpoint llm = Checkpoint::open(path + "/llm");
        for (const std::string& name : llm.names()) values["llm." + name] = llm.take(name);
    } else {
        from = find_checkpoint(path, path).folder;
        values = read_trained(from);
    }
    size_t carried = 0;
    std::vector<std::string> missing;
    for (Parameter& p : trainer.optimizer.parameters) {
        if (config.quirk("drop-stage1") && !p.name.starts_with("projectors.")) continue;
        const auto found = values.find(p.name);
        if (found == values.end()) { missing.push_back(p.name); continue; }
        if (!(found->second.shape() == p.value.shape())) fail(Exit::bad_weights, from, ": '", p.name, "' is ", found->second, ", this model's is ", p.value);
        trainer.optimizer.set(p, found->second);
        carried++;
    }
    // an align stage trains no language model: it goes on as it was
    for (const std::string& name : missing) if (!name.starts_with("llm.")) fail(Exit::bad_weights, from, ": has no '", name, "', which this stage trains; is it of another model?");
    if (carried == 0) fail(Exit::bad_weights, from, ": has none of the parameters that this stage trains");
    say("start    ", carried, " of ", trainer.optimizer.parameters.size(), " parameters from ", from, config.quirk("drop-stage1") ? " (drop-stage1: projectors alone)" : "");
}

// ---- a bad step

void save_bad_step(const std::string& run, const StepReport& r, const std::vector<int64_t>& indices, const Reader& read, Trainer& trainer) {
    char name[48];
    std::snprintf(name, sizeof name, "/bad-step-%06lld", static_cast<long long>(r.step));
    std::vector<Example> examples;
    Json ids = Json::array();
    for (int64_t i : indices) {
        try {
            examples.push_back(read(i));
        } catch (const Error&) { continue; }    // it was left out of the step too
        ids.push_back({{"index", i}, {"id", examples.back().id}});
    }
    const std::optional<Trainer::Bad> bad = trainer.first_bad(examples);
    Json j{{"step", r.step}, {"why", r.bad}, {"batch", ids}};
    if (bad) {
        j["first_bad"] = bad->op, j["shape"] = bad->value.describe();
        write_safetensors(run + name + ".safetensors", {{"value", bad->value}}, {{"op", bad->op}});
    }
    write_text(run + name + ".json", j.dump(2) + "\n");
    say("bad step ", r.step, ": ", r.bad, bad ? concat("; the first value that is not finite is of ", bad->op, ", ", bad->value) : "", "; ", run, name, ".json names the samples");
}

// ---- answers on fixed clips

void answer_samples(const RunConfig& config, const std::string& run, const Dataset& data, const LoadedModel& loaded, const Reader& read, Trainer& trainer, int64_t step) {
    const NoGrad inference;
    MemTag tag("activations");
    const Merv& m = loaded.merv;
    const TextFormat format = text_format(loaded);
    for (int64_t i = 0, n = 0; i < int64_t(data.samples.size()) && n < config.samples; i++) {
        const Conversation& c = data.samples[size_t(i)];
        if (!c.multimodal()) continue;
        n++;
        Example e = read(i);
        const Visual visual = trainer.see(e);
        std::vector<int32_t> ids = m.tokenizer.encode(wrap_question(format.builder, c.turns[0].text));
        if (format.bos >= 0) ids.insert(ids.begin(), format.bos);
        const Tensor x = m.splice(ids, &visual);
        KvCache cache = m.llm.cache(std::min<int64_t>(m.llm.config.max_positions, x.dim(0) + config.sample_tokens));
        const Tensor hidden = m.llm.forward(x, cache);
        const GenerateOptions options{.max_tokens = config.sample_tokens, .sampling = {}, .stop = !m.llm.config.eos.empty() ? m.llm.config.eos : std::vector<int>{m.tokenizer.eos()}};
        const std::string text(strip(m.tokenizer.decode(generate(m.llm, cache, m.llm.logits(hidden.slice(hidden.dim(0) - 1, hidden.dim(0))), options))));
        say("sample   ", c.media, ": ", printable(text));
        Json j{{"step", step}, {"id", e.id}, {"question", c.turns[0].text}, {"answer", text}};
        const std::string path = run + "/samples.jsonl";
        write_text(path, (exists(path) ? read_text(path, size_t(1) << 30, Exit::runtime) : "") + j.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
    }
}

double validate(const Reader& read, size_t samples, Trainer& trainer, int64_t* labels) {
    const profile::Range range("validation");
    double sum = 0;
    *labels = 0;
    for (size_t i = 0; i < samples; i++) {
        Example e = read(int64_t(i));
        int64_t n = 0;
        sum += trainer.loss(e, &n);
        *labels += n;
    }
    return *labels ? sum / double(*labels) : 0;
}

}

int run(const RunConfig& given, const RunOptions& options) {
    RunConfig config = given;
    if (config.model_dir.empty()) fail(Exit::usage, "setting model_dir is missing: the MERV folder to start from");
    if (config.dataset.empty()) fail(Exit::usage, "setting dataset is missing: a LLaVA conversation file (docs/training.md)");
    const Dataset data = read_dataset(config.dataset, config.media_root);
    Dataset held_out;
    if (!config.val_dataset.empty()) held_out = read_dataset({config.val_dataset}, config.media_root);
    if (config.val_every > 0 && config.val_dataset.empty()) fail(Exit::usage, "val_every is ", config.val_every, ", but there is no val_dataset");

    LoadedModel loaded = load_model(config.model_dir, {.num_frames = config.num_frames, .dtype = config.dtype == "auto" ? std::optional<DType>() : config.dtype == "bf16" ? DType::bf16 : DType::f32, .tokens = 64});
    if (loaded.merv.encoders.empty()) fail(Exit::bad_weights, config.model_dir, ": a language model alone; a MERV folder is needed");
    config.dtype = name_of(loaded.merv.dtype());

    // ---- how many steps of what
    std::vector<SampleSize> sizes;
    for (const Conversation& c : data.samples) sizes.push_back({count_words(c), c.multimodal()});
    const int64_t g = config.global_batch_size;
    const Sampler sampler({.global_batch = g, .seed = config.seed, .buckets = config.buckets, .shuffle = config.shuffle, .by_modality = !config.aligns()}, sizes);
    const int64_t steps = config.max_steps > 0 ? config.max_steps : sampler.batches() * config.epochs;
    if (config.run_id.empty()) config.run_id = concat(config.dataset_id, "+", loaded.merv.config.model_id, "+stage-", config.stage, "+x", config.seed);
    if (config.run_id.find('/') != config.run_id.npos || config.run_id.starts_with(".")) fail(Exit::usage, "run_id '", brief(config.run_id), "' is no name of a folder");
    const std::string folder = config.run_root + "/" + config.run_id;

    // ---- the plan, before anything large is made
    const double peak = current_device() == Device::cpu && profile::measure_peaks ? (loaded.merv.dtype() == DType::bf16 ? profile::measure_peaks().bf16 : profile::measure_peaks().f32) : 0;
    const TextFormat format = text_format(loaded);
    int64_t longest = 1;                        // of a few: reading them all takes minutes
    for (size_t i = 0; i < data.samples.size(); i += std::max<size_t>(1, data.samples.size() / 256)) {
        int64_t bytes = 0;
        for (const Turn& t : data.samples[i].turns) bytes += int64_t(t.text.size());
        longest = std::max(longest, std::min(format.longest, bytes / 3 + 16));
    }
    for (const std::string& line : plan_table(loaded.merv, config, longest, steps, peak)) log_text(options.dry_run ? Level::quiet : Level::normal, line);
    require_memory(memory_plan(loaded.merv, config, longest), "lower per_device_batch_size, set recompute=full or dtype=bf16, or use a smaller model");
    if (options.dry_run) return 0;

    const std::string resume = options.resume;
    const Saved saved = resume == "none" ? Saved{} : find_checkpoint(resume, folder);
    if (resume == "none" && exists(folder + "/checkpoints")) fail(Exit::usage, folder, ": holds checkpoints of a run; give --resume auto to go on, or another run_id");

    Trainer trainer(config, loaded.merv, steps);
    Progress progress;
    if (saved.folder.empty()) carry_over(config, trainer);
    else load_checkpoint(saved, trainer.optimizer), progress = saved.progress, say("resume   ", saved.folder, ": ", progress.step, " of ", steps, " steps done");
    std::error_code error;
    fs::create_directories(folder, error);
    if (error) fail(Exit::runtime, folder, ": cannot be made: ", error.message(), "; set run_root to a folder that is writable");
    const std::string settings = to_json(config);
    write_text(folder + "/config.json", settings);
    say("settings ", Json::parse(settings).dump());
    say("run      ", folder, ", ", data.samples.size(), " samples, ", sampler.batches(), " steps an epoch");
    Report report(folder, config.run_id, config, steps, progress.step, peak);

    // ---- the rest of the order, read ahead
    std::vector<int64_t> order;
    int64_t batch = progress.batch, epoch = progress.epoch;
    for (int64_t s = progress.step; s < steps; epoch++, batch = 0) {
        const std::vector<int64_t> all = sampler.order(epoch);
        const int64_t take = std::min(sampler.batches() - batch, steps - s);
        order.insert(order.end(), all.begin() + batch * g, all.begin() + (batch + take) * g);
        s += take;
    }
    const Reader reader(config, data, loaded, trainer.cache), validation(config, held_out, loaded, trainer.cache);
    Loader<Example> loader(reader, order, {.workers = config.workers, .ahead = config.prefetch, .timeout = config.decode_timeout > 0 ? config.decode_timeout * 2 + 1 : 0,
                                           .on_bad = config.on_bad_sample == "fail" ? OnBadSample::fail : config.on_bad_sample == "skip" ? OnBadSample::skip : OnBadSample::substitute,
                                           .seed = uint64_t(config.seed), .samples = int64_t(data.samples.size()),
                                           .may_replace = [&](int64_t a, int64_t b) { return data.samples[size_t(a)].multimodal() == data.samples[size_t(b)].multimodal(); },
                                           .name = [&](int64_t i) { return reader.name(i); }});
    const Signals signals;
    auto save = [&] {
        const std::string at = save_checkpoint(folder, trainer.optimizer, progress, settings, config.model_dir, config.keep);
        say("saved    ", at);
    };
    while (progress.step < steps && !caught) {
        std::vector<int64_t> indices;
        const StepReport r = trainer.step(progress.step, [&]() -> std::optional<Example> {
            Loader<Example>::Loaded l = loader.next();
            progress.substituted += l.substituted;
            if (!l.item) progress.skipped++;
            else indices.push_back(l.index);
            return std::move(l.item);
        }, progress.updates >= 10 ? progress.running_loss : 0);
        if (!r.bad.empty()) {
            save_bad_step(folder, r, indices, reader, trainer);
            if (config.on_bad_step == "stop") {
                if (progress.step > 0) save();                          // as it was before this step
                fail(Exit::numerics, "step ", r.step, ": ", r.bad, "; nothing was changed by it. Lower learning_rate, look at the samples that ", folder, " names, or set on_bad_step=skip");
            }
        }
        progress.step++, progress.samples += r.samples;
        if (++progress.batch == sampler.batches()) progress.batch = 0, progress.epoch++;
        if (!r.skipped) {
            progress.updates++;
            progress.running_loss = progress.running_loss == 0 ? r.loss : 0.9 * progress.running_loss + 0.1 * r.loss;
            progress.recent.insert(progress.recent.end(), r.micro_losses.begin(), r.micro_losses.end());
            if (progress.recent.size() > 128) progress.recent.erase(progress.recent.begin(), progress.recent.end() - 128);
        }
        report.step(r, progress, config.learning_rate * (config.lr_scheduler_type == "constant" ? 1 : cosine_with_warmup(progress.step, steps, config.warmup_ratio)));
        auto due = [&](int64_t every) { return every > 0 && progress.step % every == 0; };
        if (due(config.val_every)) {
            int64_t labels = 0;
            const double loss = validate(validation, held_out.samples.size(), trainer, &labels);
            report.validation(progress.step, loss, labels);
        }
        if (due(config.sample_every)) answer_samples(config, folder, data, loaded, reader, trainer, progress.step);
        if (due(config.save_every) || progress.step == steps || caught) save();
    }
    report.finish();
    if (!caught) return 0;
    say("stopped by a signal after step ", progress.step, "; the same command goes on from there");
    return Signals::code();
}

}
