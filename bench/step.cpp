#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <map>
#include "bench/device.h"
#include "data/chart.h"
#include "weights/file.h"
#include "core/autograd.h"
#include "core/cuda.h"
#include "core/profile.h"
#include "core/rng.h"
#include "kernels/random.h"
#include "models/random.h"
#include "train/plan.h"
#include "train/trainer.h"

namespace merv::bench {
namespace {

using Clock = std::chrono::steady_clock;

// Random values in every place, made where they lie.
template <class M> void fill(M& module, DType dtype) {
    nn::for_each_parameter(module, [&](const std::string& name, Tensor& t) {
        const Spread s = initial_spread(name, t.shape());
        const Tensor values(t.shape(), dtype);
        kernels::fill_random({.y = values, .rng = Rng(7, name), .kind = kernels::FillRandom::Kind::uniform, .a = s.centre - s.radius, .b = s.centre + s.radius});
        t.bind(values);
    });
}
Merv random_model(const Sizes& s, DType dtype, const std::vector<std::string>& only = {}) {      // only: names of encoders; none: all
    MervParts parts = preset(s.config, dtype).parts;
    if (s.layers > 0) parts.llm.layers = int(s.layers);
    if (!only.empty()) {
        MervParts some = parts;
        some.encoders.clear(), some.config.video_backbone_ids.clear(), some.config.num_frames.clear(), some.config.image_size.clear();
        for (size_t i = 0; i < parts.encoders.size(); i++) {
            const std::string& id = parts.config.video_backbone_ids[i];
            if (std::find(only.begin(), only.end(), encoder_name(id)) == only.end()) continue;
            some.encoders.push_back(parts.encoders[i]), some.config.video_backbone_ids.push_back(id);
            some.config.num_frames.push_back(parts.config.num_frames[i]), some.config.image_size.push_back(parts.config.image_size[i]);
        }
        if (only.size() == 1) some.fusion_width = 0;
        parts = some;
    }
    Merv m = build(parts);
    m.llm.dtype = dtype;
    MemTag tag("weights");
    for (Encoder& e : m.encoders) {
        std::visit([&](auto& model) { fill(model, dtype); }, e.model);
        if (auto* vit = std::get_if<Vit>(&e.model)) vit->prepare();
    }
    fill(m, dtype), fill(m.llm, dtype);
    return m;
}
Clip moving_clip(int frames) {                  // every frame another
    Clip c;
    c.frames = Tensor({frames, 240, 320, 3}, DType::u8, Device::cpu);
    for (int64_t i = 0; i < c.frames.numel(); i++) c.frames.data<uint8_t>()[i] = uint8_t((i * 2654435761u) >> 13);
    for (int i = 0; i < frames; i++) c.grid.push_back(i), c.indices.push_back(i);
    c.total_frames = frames;
    return c;
}
std::vector<int32_t> some_ids(int64_t n, int vocab) {
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < n; i++) ids.push_back(int32_t((i * 7919 + 5) % vocab));
    return ids;
}

void finish_device() { if (current_device() == Device::cuda) cuda().synchronize(); }

}

std::vector<Case> train_cases(const Sizes& s, DType dtype) {
    MervParts parts = preset(s.config, dtype).parts;
    parts.llm.layers = int(s.layers), parts.llm.vocab = 4096;
    const Merv declared = build(parts);
    const train::Flops f = train::forward_flops(declared, s.tokens, s.tokens / 2, true);
    return {{"train", s.config, concat(s.tokens, " tokens, ", s.layers, " layers"), dtype, 0, 2 * f.projectors + 3 * f.llm, [=]() -> std::function<void()> {
        struct State {
            Merv merv;
            train::RunConfig config;
            std::unique_ptr<train::Trainer> trainer;
            train::Example example{};
            int64_t step = 0;
        };
        auto state = std::make_shared<State>(State{build(parts), train::read_run_config("", {"model_dir=random", "dataset=random", "global_batch_size=1", "per_device_batch_size=1", "buckets=1", "recompute=none",
                                                                                             concat("dtype=", name_of(dtype))}), nullptr});
        Merv& m = state->merv;
        m.llm.dtype = dtype;
        fill(m, DType::f32), fill(m.llm, DType::f32);
        state->trainer = std::make_unique<train::Trainer>(state->config, m, 1000);
        train::Example& e = state->example;
        e.ids = e.labels = some_ids(s.tokens, parts.llm.vocab), e.multimodal = true, e.encoded.emplace();
        for (size_t i = 0; i < e.labels.size() / 2; i++) e.labels[i] = nn::kIgnore;
        for (const Encoder& encoder : m.encoders) {
            const Tensor pooled({m.visual_tokens(), encoder.width()}, dtype);
            kernels::fill_random({.y = pooled, .rng = Rng(7, encoder.name)});
            e.encoded->pooled.push_back(pooled), e.encoded->frames_encoded.push_back(0);
        }
        return [state] { state->trainer->step(500 + state->step++, [&] { return std::optional(state->example); }); };
    }}};
}

namespace {

// The median of `steps` optimizer steps on one sample, after one to warm up.
double step_seconds(const Sizes& sizes, DType dtype, int64_t steps, const std::vector<std::string>& encoders, const std::vector<std::string>& settings, bool still) {
    Merv m = random_model(sizes, dtype, encoders);
    std::vector<std::string> all = {"model_dir=random", "dataset=random", "global_batch_size=1", "per_device_batch_size=1", "buckets=1", concat("dtype=", name_of(dtype))};
    all.insert(all.end(), settings.begin(), settings.end());
    const train::RunConfig config = train::read_run_config("", all);
    train::Trainer trainer(config, m, 1000);
    Clip clip = moving_clip(m.config.most_frames());
    if (still) clip.frames = clip.frames.slice(0, 1), std::fill(clip.grid.begin(), clip.grid.end(), 0);
    train::Example example{.index = 0, .id = "random", .clip_key = "", .ids = some_ids(sizes.tokens, m.llm.config.vocab), .labels = {}, .multimodal = true, .shown = m.look(clip, {})};
    example.labels = example.ids;
    for (size_t i = 0; i < example.labels.size() / 2; i++) example.labels[i] = nn::kIgnore;
    std::vector<double> seconds;
    for (int64_t i = 0; i <= steps; i++) {
        const auto start = Clock::now();
        trainer.step(500 + i, [&] { return std::optional(example); });
        finish_device();
        if (i > 0) seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
    }
    std::sort(seconds.begin(), seconds.end());
    return seconds[seconds.size() / 2];
}

}

int encoders_figure(const Sizes& sizes, DType dtype, int64_t steps, const std::string& svg) {
    const std::vector<std::string> order = {"dinov2", "languagebind", "siglip", "vivit"};       // as the paper adds them
    std::map<std::string, double> single;
    for (const std::string& e : order) single[e] = step_seconds(sizes, dtype, steps, {e}, {}, false);
    Bars bars{.groups = {}, .series = {"encoders together", "slowest of them alone"}, .values = {{}, {}}, .errors = {}};
    std::printf("| encoders | s a step | slowest single | s a step | ratio |\n|---|---|---|---|---|\n");
    for (size_t n = 1; n <= order.size(); n++) {
        const std::vector<std::string> some(order.begin(), order.begin() + int64_t(n));
        const double together = n == 1 ? single[order[0]] : step_seconds(sizes, dtype, steps, some, {}, false);
        const auto slowest = *std::max_element(some.begin(), some.end(), [&](const auto& a, const auto& b) { return single[a] < single[b]; });
        const std::string name = concat(n == 1 ? "" : "+ ", order[n - 1]);
        bars.groups.push_back(name), bars.values[0].push_back(together), bars.values[1].push_back(single[slowest]);
        std::printf("| %s | %.3f | %s | %.3f | %.2f |\n", name.c_str(), together, slowest.c_str(), single[slowest], together / single[slowest]);
        std::fflush(stdout);
    }
    std::printf("\n| saving | with it, s | without, s | ratio |\n|---|---|---|---|\n");
    auto saving = [&](const char* what, const std::vector<std::string>& without, bool still) {
        const double with = step_seconds(sizes, dtype, steps, order, {}, still), other = step_seconds(sizes, dtype, steps, order, without, still);
        std::printf("| %s | %.3f | %.3f | %.2f |\n", what, with, other, other / with);
        std::fflush(stdout);
    };
    saving("image dedupe, of a still image", {"without=image-dedupe"}, true);
    saving("label rows", {"without=label-rows"}, false);
        if (!svg.empty()) write_text(svg, bar_chart(concat("Seconds of an optimizer step, ", sizes.config, ", ", sizes.layers ? concat(sizes.layers, " layers, ") : "", name_of(dtype)), "s", bars));
    return 0;
}

int whole_step(const Sizes& sizes, DType dtype, bool train, int64_t steps) {
    if (profile::on()) fail(Exit::usage, "step is profiled in any case: leave --profile and --trace away");
    Merv m = random_model(sizes, dtype);
    const Clip clip = moving_clip(m.config.most_frames());
    const std::vector<int32_t> ids = some_ids(sizes.tokens, m.llm.config.vocab);
    std::vector<double> seconds;
    double flops = 0;
    profile::Results results;
    auto timed = [&](const std::function<void()>& f) {
        finish_device();
        const auto start = Clock::now();
        f();
        finish_device();
        seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
    };
    if (train) {
        train::RunConfig config = train::read_run_config("", {"model_dir=random", "dataset=random", "global_batch_size=1", "per_device_batch_size=1", "buckets=1", "max_steps=1000", concat("dtype=", name_of(dtype))});
        for (const std::string& line : train::plan_table(m, config, sizes.tokens, steps, 0)) std::printf("%s\n", line.c_str());
        train::Trainer trainer(config, m, 1000);
        const std::vector<Shown> shown = m.look(clip, {});
        std::vector<int32_t> labels(ids);
        for (size_t i = 0; i < labels.size() / 2; i++) labels[i] = nn::kIgnore;
        auto example = [&]() -> std::optional<train::Example> { return train::Example{.index = 0, .id = "random", .clip_key = "", .ids = ids, .labels = labels, .multimodal = true, .shown = shown}; };
        auto step = [&](int64_t i) { flops = trainer.step(i + 500, example).flops; };
        step(0);                                // warm
        profile::start();
        for (int64_t i = 1; i <= steps; i++) timed([&] { step(i); });
    } else {
        const NoGrad inference;
        auto answer = [&](int64_t tokens) {
            const Visual visual = m.see(clip, {});
            const Tensor x = m.splice(ids, &visual);
            KvCache cache = m.llm.cache(x.dim(0) + tokens);
            const Tensor h = m.llm.forward(x, cache);
            generate(m.llm, cache, m.llm.logits(h.slice(h.dim(0) - 1, h.dim(0))), {.max_tokens = tokens, .sampling = {}, .stop = {-1}});
        };
        answer(2);                              // warm
        const train::Flops f = train::forward_flops(m, sizes.tokens, 1, true);
        flops = f.all();
        profile::start();
        for (int64_t i = 0; i < steps; i++) timed([&] { answer(32); });
    }
    results = profile::stop();
    std::sort(seconds.begin(), seconds.end());
    const double median = seconds[seconds.size() / 2];
    const bool on_card = current_device() == Device::cuda;
    const profile::Peaks p = on_card ? results.device_peaks : profile::measure_peaks ? profile::measure_peaks() : profile::Peaks{};
    const double peak = dtype == DType::bf16 ? p.bf16 : p.f32;
    for (const std::string& line : results.table(on_card ? profile::Peaks{} : p)) std::printf("%s\n", line.c_str());
    std::printf("\nmeasured: %.3f s a step, median of %zu; predicted at the measured peak: at least %.3f s (%.3f TFLOP%s)\n", median, seconds.size(), peak > 0 ? flops / peak : 0, flops * 1e-12,
                train ? ", without what recomputation repeats" : ", encode and prefill");
    if (train) {
        double stage[3] = {0, 0, 0};
        const char* names[] = {"forward", "backward", "optimizer"};
        for (const profile::StageTotal& s : results.stages) for (int i = 0; i < 3; i++) if (s.name == names[i]) stage[i] += double(s.ns) * 1e-9;
        for (int i = 0; i < 3; i++) std::printf("%-10s %.3f s a step\n", names[i], stage[i] / double(seconds.size()));
    }
    return 0;
}

}
