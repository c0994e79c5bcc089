#include "train/report.h"
#include <cmath>
#include <filesystem>
#include <fstream>
#include <numeric>
#include "core/json.h"
#include "core/log.h"
#include "core/storage.h"
#include "data/chart.h"
#include "train/run.h"
#include "weights/file.h"

namespace merv::train {
namespace {

std::string format(const char* how, double v) {
    char text[64];
    std::snprintf(text, sizeof text, how, v);
    return text;
}
std::string duration(double seconds) {
    const int64_t s = int64_t(seconds);
    char text[32];
    if (s >= 3600) std::snprintf(text, sizeof text, "%lld:%02lld:%02lld", static_cast<long long>(s / 3600), static_cast<long long>(s / 60 % 60), static_cast<long long>(s % 60));
    else std::snprintf(text, sizeof text, "%lld:%02lld", static_cast<long long>(s / 60), static_cast<long long>(s % 60));
    return text;
}
size_t memory_now() {
    size_t n = 0;
    for (const auto& [tag, bytes] : memory_by_tag()) n += bytes;
    return n;
}
Json number(double v) { return std::isfinite(v) ? Json(v) : Json(nullptr); }        // JSON has no NaN

}

Report::Report(const std::string& folder, const std::string& run_id, const RunConfig& config, int64_t steps, int64_t resumed, double peak)
    : folder_(folder), path_(folder + "/" + run_id + ".jsonl"), prefix_(config.stage), config_(config), steps_(steps), peak_(peak) {
    prefix_[0] = char(std::toupper(static_cast<unsigned char>(prefix_[0])));
    std::string kept;
    if (exists(path_)) {
        std::ifstream old(path_);
        for (std::string line; std::getline(old, line);) {
            const Json j = Json::parse(line, nullptr, false);
            if (j.is_object() && j.contains("step") && j["step"].is_number() && j["step"].get<int64_t>() <= resumed) kept += line + "\n";
        }
    }
    write_text(path_, kept);
    Json run;
    run["run_id"] = run_id, run["hparams"] = Json::parse(to_json(config));
    write_text(folder + "/run-metrics.jsonl", run.dump() + "\n");
}

void Report::append(const std::string& line) const {
    std::ofstream to(path_, std::ios::app);
    to << line << "\n";
    if (!to.flush()) fail(Exit::runtime, path_, ": cannot be written; is the disk full?");
}

void Report::step(const StepReport& r, const Progress& p, double next_learning_rate) {
    all_ms_ += r.ms, data_ms_ += r.data_ms;
    seconds_.push_back(r.ms / 1000);
    if (seconds_.size() > 128) seconds_.pop_front();
    const double mean_seconds = std::accumulate(seconds_.begin(), seconds_.end(), 0.0) / double(seconds_.size());
    const double mean_loss = p.recent.empty() ? 0 : std::accumulate(p.recent.begin(), p.recent.end(), 0.0) / double(p.recent.size());
    const double left = mean_seconds * double(steps_ - r.step), seconds = r.ms / 1000;
    const double shown_rate = config_.quirk("lr-align") ? next_learning_rate : r.learning_rate;
    Json j;
    j["step"] = r.step;
    j[prefix_ + "/Step"] = r.step, j[prefix_ + "/Loss"] = number(mean_loss), j[prefix_ + "/Loss (Raw)"] = number(r.loss), j[prefix_ + "/Learning Rate"] = shown_rate;
    j[prefix_ + "/Step Time"] = mean_seconds, j[prefix_ + "/Left Time"] = left / 3600;
    j["loss"] = number(r.loss), j["grad_norm"] = number(r.norm), j["lr"] = r.learning_rate, j["ms"] = r.ms, j["data_ms"] = r.data_ms, j["samples"] = r.samples, j["label_tokens"] = r.labels;
    j["tokens"] = r.tokens, j["encoded_clips"] = r.encoded_clips, j["samples_per_s"] = double(r.samples) / seconds, j["tokens_per_s"] = double(r.tokens) / seconds, j["flops"] = r.flops;
    if (peak_ > 0) j["peak_share"] = r.flops / seconds / peak_;
    j["memory"] = memory_now(), j["epoch"] = p.epoch, j["skipped_samples"] = p.skipped, j["substituted_samples"] = p.substituted;
    if (r.skipped) j["skipped"] = true;
    if (!r.bad.empty()) j["bad"] = r.bad;
    append(j.dump());
    say("step ", r.step, "/", steps_, "  loss ", format("%.4f", r.loss), "  norm ", format("%.3f", r.norm), "  lr ", format("%.2e", shown_rate), "  ", format(r.ms < 10000 ? "%.0f ms" : "%.3g ms", r.ms),
        " (data ", format("%.0f", r.data_ms), ")  ", format("%.3g", double(r.samples) / seconds), " samples/s  ", format("%.4g", double(r.tokens) / seconds), " tokens/s",
        peak_ > 0 ? format("  %.0f %% of peak", 100 * r.flops / seconds / peak_) : "", "  ", format("%.2f GiB", double(memory_now()) / 0x1p30), "  left ", duration(left), r.skipped ? "  (skipped)" : "");
}

void Report::validation(int64_t step, double loss, int64_t labels) {
    Json j;
    j["step"] = step, j["validation_loss"] = number(loss), j["label_tokens"] = labels;
    append(j.dump());
    say("validation after step ", step, ": loss ", format("%.4f", loss), " over ", labels, " label tokens");
}

void Report::finish() const {
    write_loss_curve(path_, folder_ + "/loss.svg");
    if (all_ms_ > 0 && data_ms_ > 0.05 * all_ms_) say("data     the steps waited ", format("%.0f %%", 100 * data_ms_ / all_ms_), " of their time for samples: more workers, or a feature cache, would help");
}

void write_loss_curve(const std::string& metrics, const std::string& svg) {
    Series raw{"loss", {}, {}}, mean{"mean of 128 micro-batches", {}, {}}, validation{"validation", {}, {}};
    std::ifstream lines(metrics);
    for (std::string line; std::getline(lines, line);) {
        const Json j = Json::parse(line, nullptr, false);
        if (!j.is_object() || !j.contains("step")) continue;
        const double step = j["step"].get<double>();
        for (const auto& [key, value] : j.items()) {
            if (!value.is_number()) continue;
            Series* to = key == "loss" ? &raw : key == "validation_loss" ? &validation : key.ends_with("/Loss") ? &mean : nullptr;
            if (to) to->x.push_back(step), to->y.push_back(value.get<double>());
        }
    }
    std::vector<Series> all = {raw, mean};
    if (!validation.x.empty()) all.push_back(validation);
    write_text(svg, line_chart("Loss", "step", "loss", all));
}

}
