#include "train/plan.h"
#include <algorithm>
#include <cmath>
#include "train/trainer.h"

namespace merv::train {
namespace {

// Multiply-adds of `rows` rows through blocks of attention and MLP: 2 flops each.
double block_flops(double rows, double keys, double width, double mlp) { return rows * (2 * (4 * width * width + 2 * width * mlp) + 4 * keys * width); }

double encoder_flops(const Encoder& e) {
    if (const auto* v = std::get_if<Vivit>(&e.model)) {
        const VivitConfig& c = v->config;
        const double patches = double(v->positions.dim(1)) - 1;
        return c.layers * block_flops(patches + 1, patches + 1, c.width, c.mlp) + patches * 2 * 3 * c.tubelet[0] * c.tubelet[1] * c.tubelet[2] * c.width;
    }
    const VitConfig& c = std::get<Vit>(e.model).config;
    const double F = e.frames, patches = double(c.grid()) * c.grid(), tokens = patches + c.prefix();
    double block = block_flops(F * tokens, tokens, c.width, c.mlp);
    if (c.temporal_frames) block += F * tokens * (2 * 4 * double(c.width) * c.width + 4.0 * c.temporal_frames * c.width);
    return (c.depth - 1) * block + F * patches * 2 * 3 * c.patch * c.patch * c.width;
}

double llm_flops(const LlamaConfig& c, double rows, double labels) {
    const double q = double(c.heads) * c.head_dim, kv = double(c.kv_heads) * c.head_dim;
    const double layer = rows * 2 * (c.width * (q + 2 * kv) + q * c.width + 3.0 * c.width * c.mlp) + 4 * q * rows * (rows + 1) / 2;      // causal: half the keys
    return c.layers * layer + labels * 2 * double(c.width) * c.vocab;
}

std::string in_gib(double bytes) {
    char text[32];
    std::snprintf(text, sizeof text, bytes < 0x1p30 ? "%8.1f MiB" : "%8.2f GiB", bytes < 0x1p30 ? bytes / 0x1p20 : bytes / 0x1p30);
    return text;
}

}

Flops forward_flops(const Merv& m, int64_t text, int64_t labels, bool visual) {
    Flops f;
    const int64_t L = visual ? m.visual_tokens() : 0;
    for (const Encoder& e : m.encoders) f.encoders += visual ? encoder_flops(e) : 0;
    for (const Projector& p : m.projectors) for (const nn::Linear& l : p.layers) f.projectors += 2.0 * double(L) * double(l.weight.numel());
    f.llm = llm_flops(m.llm.config, double(text + L), double(labels));
    return f;
}

double step_flops(const Merv& m, const RunConfig& config, const StepReport& r) {
    if (r.samples == 0) return 0;
    const int64_t text = std::max<int64_t>(1, (r.tokens - r.clips * m.visual_tokens()) / r.samples);
    const Flops seen = forward_flops(m, text, r.labels / r.samples, true), read = forward_flops(m, text, r.labels / r.samples, false);
    // backward: gradients of what a layer read and of its weights; a frozen language model passes the former on alone
    const double passes = config.trains_llm() ? 3 : 2;
    return double(r.encoded_clips) * seen.encoders + double(r.clips) * (2 * seen.projectors + passes * seen.llm) + double(r.samples - r.clips) * passes * read.llm;
}

MemoryPlan memory_plan(const Merv& m, const RunConfig& config, int64_t text) {
    const LlamaConfig& c = m.llm.config;
    const double size = size_of(m.dtype());
    double weights = 0, trained = 0;
    auto parts = [&](auto& module) { nn::for_each_parameter(module, [&](const std::string&, Tensor& t) { weights += double(t.bytes()); }); };
    Merv& model = const_cast<Merv&>(m);         // visiting names needs no change
    for (Encoder& e : model.encoders) std::visit(parts, e.model);
    parts(model), parts(model.llm);
    for (const auto& [name, t] : trained_parameters(model, config)) trained += double(t->numel()), weights += double(t->numel()) * size - double(t->bytes());
    const double rows = double(config.per_device_batch_size) * double(text + m.visual_tokens());
    const double width = c.width, kv = double(c.kv_heads) * c.head_dim;
    const double all = rows * ((6 * width + 2 * kv + 3.0 * c.mlp) * size + 4.0 * c.heads), kept[] = {all, all - rows * (2 * width + c.mlp) * size, rows * width * size};      // tests/test_recompute.cpp
    double encoder = 0, pixels = 0, features = 0;
    for (size_t i = 0; i < m.encoders.size(); i++) {
        const Encoder& e = m.encoders[i];
        const double image = 3.0 * e.image * e.image, tokens = std::holds_alternative<Vivit>(e.model) ? double(std::get<Vivit>(e.model).positions.dim(1))
                                                       : e.frames * (double(std::get<Vit>(e.model).config.grid()) * std::get<Vit>(e.model).config.grid() + std::get<Vit>(e.model).config.prefix());
        encoder = std::max(encoder, tokens * 11 * e.width() * size);            // x, norm, fc1 (4 wide), sum; q k v, heads
        pixels += e.frames * image * (e.normalises_first ? 4 : 1);
        features += double(m.visual_tokens()) * e.width() * size;
    }
    const double logits = double(std::min<int64_t>(nn::kLossChunk, config.per_device_batch_size * text)) * c.vocab * size;
    const double gradients = 4 * trained, optimizer = trained * (m.dtype() == DType::f32 ? 8 : 12);
    const double activations = c.layers * kept[size_t(config.recomputation())] + all + rows * (2 * width + c.mlp) * size + logits +
                               double(config.per_device_batch_size) * double(m.visual_tokens()) * double(m.encoders.size() + 2) * width * size + encoder;
    MemoryPlan p;
    for (const auto& [owner, bytes] : {std::pair{"weights", weights}, {"gradients", gradients}, {"optimizer", optimizer}, {"activations", activations},
                                       {"encoder features", double(config.per_device_batch_size) * features}, {"pixels", double(config.prefetch + config.per_device_batch_size) * pixels}})
        p.rows.emplace_back(owner, size_t(bytes));
    return p;
}

std::vector<std::string> plan_table(const Merv& m, const RunConfig& config, int64_t text, int64_t steps, double peak) {
    std::vector<std::string> lines;
    int64_t trained = 0;
    for (const auto& [name, t] : trained_parameters(const_cast<Merv&>(m), config)) trained += t->numel();
    const Flops f = forward_flops(m, text, text, true);
    char line[200];
    const double step = double(config.global_batch_size) * ((config.feature_cache.empty() ? f.encoders : 0) + 2 * f.projectors + f.llm * (config.trains_llm() ? 3 : 2));
    std::snprintf(line, sizeof line, "plan     %lld steps of %lld samples (micro-batches of %lld), %lld parameters trained in %s", static_cast<long long>(steps), static_cast<long long>(config.global_batch_size),
                  static_cast<long long>(config.per_device_batch_size), static_cast<long long>(trained), name_of(m.dtype()));
    lines.push_back(line);
    std::snprintf(line, sizeof line, "         a sample of %lld text tokens, forward: %.3f TFLOP (%.3f TMAC): encoders %.3f, projectors %.3f, language model %.3f", static_cast<long long>(text), f.all() * 1e-12,
                  f.all() * 0.5e-12, f.encoders * 1e-12, f.projectors * 1e-12, f.llm * 1e-12);
    lines.push_back(line);
    std::snprintf(line, sizeof line, "         a step: %.3f TFLOP", step * 1e-12);
    lines.push_back(line + (peak > 0 ? concat(", at least ", std::round(step / peak * 1e4) / 1e4, " s at this machine's ", std::round(peak * 1e-9), " GFLOP/s") : ""));
    const MemoryPlan memory = memory_plan(m, config, text);
    for (const auto& [owner, bytes] : memory.rows) lines.push_back("         " + in_gib(double(bytes)) + "  " + owner);
    lines.push_back("         " + in_gib(double(memory.sum())) + "  in all");
    return lines;
}

}
