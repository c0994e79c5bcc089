#include <chrono>
#include <cmath>
#include <cstdio>
#include "bench/device.h"
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
Merv random_model(const Sizes& s, DType dtype) {
    MervParts parts = preset(s.config, dtype).parts;
    if (s.layers > 0) parts.llm.layers = int(s.layers);
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
    for (const std::string& line : results.table(profile::Peaks{})) std::printf("%s\n", line.c_str());
    std::sort(seconds.begin(), seconds.end());
    const double median = seconds[seconds.size() / 2];
    const bool on_card = current_device() == Device::cuda;
    const profile::Peaks p = on_card ? results.device_peaks : profile::measure_peaks ? profile::measure_peaks() : profile::Peaks{};
    const double peak = dtype == DType::bf16 ? p.bf16 : p.f32;
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
