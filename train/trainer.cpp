#include "train/trainer.h"
#include <chrono>
#include <cmath>
#include "core/autograd.h"
#include "core/profile.h"
#include "nn/unit.h"
#include "train/plan.h"

namespace merv::train {
namespace {

// Gradients are those of the sum over labels / 2^20, an exact scaling, until the number of labels in the global batch is known.
constexpr int64_t kUnit = int64_t(1) << 20;

using Clock = std::chrono::steady_clock;
double ms_since(Clock::time_point start) { return std::chrono::duration<double, std::milli>(Clock::now() - start).count(); }

int64_t count_labels(const Example& e) {        // the first token is never asked for
    int64_t n = 0;
    for (size_t i = 1; i < e.labels.size(); i++) n += e.labels[i] != nn::kIgnore;
    return n;
}
bool finite(const Tensor& t) {
    if (!t || (t.dtype() != DType::f32 && t.dtype() != DType::bf16)) return true;
    for (float v : to_floats(t)) if (!std::isfinite(v)) return false;
    return true;
}

}

std::vector<std::pair<std::string, Tensor*>> trained_parameters(Merv& merv, const RunConfig& config) {
    std::vector<std::pair<std::string, Tensor*>> all;
    nn::for_each_parameter(merv, [&](const std::string& name, Tensor& t) { if (name.starts_with("projectors.")) all.emplace_back(name, &t); });
    if (config.trains_llm()) nn::for_each_parameter(merv.llm, [&](const std::string& name, Tensor& t) { all.emplace_back("llm." + name, &t); });
    if (merv.projectors.size() > 1)
        nn::for_each_parameter(merv.fusion, [&](const std::string& name, Tensor& t) { if (merv.fusion.uses(name)) all.emplace_back("feature_fusion." + name, &t); });
    return all;
}

Trainer::Trainer(const RunConfig& config, Merv& merv, int64_t steps)
    : optimizer(trained_parameters(merv, config), merv.dtype(), config.quirk("weight-decay") ? 0 : config.weight_decay), cache(config.feature_cache, merv), config_(config), merv_(merv), steps_(steps) {}

Visual Trainer::see(Example& e) {
    const Merv::SeeOptions options{.flip = e.flip, .dedupe = config_.saves("image-dedupe")};
    if (!e.encoded) {
        const NoGrad frozen;
        MemTag tag("encoder features");
        e.encoded = merv_.encode(e.shown, options);
        e.shown.clear();
        if (!e.clip_key.empty()) cache.keep(e.clip_key, *e.encoded);
    }
    for (Tensor& t : e.encoded->pooled) t = t.to(current_device());         // the loader's threads read a cache to the host
    return merv_.fuse(*e.encoded, options);
}

Tensor Trainer::micro_loss(std::span<Example> examples, StepReport& report, int64_t count) {
    std::vector<Visual> visuals(examples.size());
    std::vector<Merv::Sample> samples;
    for (size_t i = 0; i < examples.size(); i++) {
        Example& e = examples[i];
        report.clips += e.multimodal, report.encoded_clips += e.multimodal && !e.encoded;
        if (e.multimodal) visuals[i] = see(e);
        report.tokens += int64_t(e.ids.size()) + (e.multimodal ? visuals[i].tokens.dim(0) : 0);
        samples.push_back({e.ids, e.labels, e.multimodal ? &visuals[i] : nullptr});
    }
    const nn::RecomputeScope recompute(config_.recomputation());
    return merv_.loss(samples, {.count = count, .padded = !config_.saves("packed-rows"), .every_row = !config_.saves("label-rows")});
}

StepReport Trainer::step(int64_t number, const std::function<std::optional<Example>()>& next, double expected_loss) {
    const profile::Range range("step");
    MemTag tag("activations");
    const auto start = Clock::now();
    StepReport r;
    r.step = number + 1;
    r.learning_rate = config_.learning_rate * (config_.lr_scheduler_type == "constant" ? 1 : cosine_with_warmup(number, steps_, config_.warmup_ratio));
    const int64_t micro_batches = config_.global_batch_size / config_.per_device_batch_size;
    const bool mean_of_means = config_.quirk("accumulation");
    double sum = 0;
    for (int64_t m = 0; m < micro_batches; m++) {
        std::vector<Example> examples;
        const auto waiting = Clock::now();
        for (int64_t i = 0; i < config_.per_device_batch_size; i++)
            if (std::optional<Example> e = next()) examples.push_back(std::move(*e));
        r.data_ms += ms_since(waiting);
        int64_t labels = 0;
        for (const Example& e : examples) labels += count_labels(e);
        r.samples += int64_t(examples.size()), r.labels += labels;
        if (labels == 0) continue;
        profile::Range stage("forward");
        const int64_t count = mean_of_means ? labels * micro_batches : kUnit;
        CHECK(labels <= kUnit, "a micro-batch of ", labels, " labels");
        const Tensor loss = micro_loss(examples, r, count);
        const double total = double(to_floats(loss)[0]) * double(count);                        // over the labels
        r.micro_losses.push_back(total / double(labels));
        sum += mean_of_means ? total / double(count) : total;
        if (!std::isfinite(total)) {                                                            // backward would only spread it
            Tape::current().clear();
            r.bad = concat("loss is ", total);
            continue;
        }
        stage.next("backward");
        Tape::current().backward(loss);
    }
    r.skipped = r.labels == 0;
    if (r.skipped) return r.ms = ms_since(start), r;
    const double scale = mean_of_means ? 1 : double(kUnit) / double(r.labels);
    r.loss = mean_of_means ? sum : sum / double(r.labels);
    r.norm = optimizer.gradient_norm() * scale;
    if (r.bad.empty() && !std::isfinite(r.norm)) r.bad = concat("gradient norm is ", r.norm);
    if (r.bad.empty() && config_.spike_factor > 0 && expected_loss > 0 && r.loss > config_.spike_factor * expected_loss)
        r.bad = concat("loss ", r.loss, " is above ", config_.spike_factor, " times its running mean, ", expected_loss);
    if (r.bad.empty()) optimizer.step(r.learning_rate, r.norm, config_.max_grad_norm, scale);
    else optimizer.forget_gradients(), r.skipped = true;
    r.flops = step_flops(merv_, config_, r);
    r.ms = ms_since(start);
    return r;
}

double Trainer::loss(Example& e, int64_t* labels) {
    const NoGrad none;
    MemTag tag("activations");
    StepReport ignored;
    *labels = count_labels(e);
    return *labels ? double(to_floats(micro_loss(std::span(&e, 1), ignored, kUnit))[0]) * double(kUnit) : 0;
}

std::optional<Trainer::Bad> Trainer::first_bad(std::vector<Example>& examples) {
    std::optional<Bad> bad;
    optimizer.forget_gradients();
    for (Example& e : examples) {
        const WatchOps watch([&](const char* op, const Tensor& value, bool gradient) {
            if (!bad && !finite(value)) bad = Bad{concat(gradient ? "gradient of " : "", op), value.detach().to(Device::cpu)};
        });
        StepReport ignored;
        if (count_labels(e) == 0) continue;
        const Tensor loss = micro_loss(std::span(&e, 1), ignored, kUnit);
        if (bad) Tape::current().clear();
        else Tape::current().backward(loss);
        if (bad) break;
    }
    for (const Parameter& p : optimizer.parameters) {
        if (!bad && !finite(p.value)) bad = Bad{"parameter " + p.name, p.value.detach().to(Device::cpu)};
        if (!bad && !finite(p.value.grad())) bad = Bad{"gradient of parameter " + p.name, p.value.grad().to(Device::cpu)};
    }
    optimizer.forget_gradients();
    return bad;
}

}
