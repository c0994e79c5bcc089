#include "models/merv.h"
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

namespace merv {
namespace {

struct Timer {
    std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
    double ms() const { return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count(); }
};

// (T, 3, S, S) -> (3, T, S, S): how the reference hands clips to LanguageBind
Tensor channels_first(const Tensor& x) {
    const int64_t T = x.dim(0), plane = x.dim(2) * x.dim(3);
    Tensor y({3, T, x.dim(2), x.dim(3)});
    for (int64_t c = 0; c < 3; c++)
        for (int64_t t = 0; t < T; t++) std::copy_n(x.data<float>() + (t * 3 + c) * plane, plane, y.data<float>() + (c * T + t) * plane);
    return y;
}
void mirror(const Tensor& x) {                  // f32 (F, 3, S, S), left to right, in place
    const int64_t S = x.dim(3);
    for (float* row = x.data<float>(); row < x.data<float>() + x.numel(); row += S) std::reverse(row, row + S);
}

}

Tensor select_frames(const Tensor& frames, std::span<const int32_t> index) {
    std::vector<int64_t> dims(frames.shape().begin(), frames.shape().end());
    dims[0] = int64_t(index.size());
    Tensor out(Shape(std::span<const int64_t>(dims)), frames.dtype());
    for (size_t i = 0; i < index.size(); i++) out.slice(int64_t(i), int64_t(i) + 1).copy_from(frames.slice(index[i], index[i] + 1));
    return out;
}

int Encoder::width() const { return std::visit([](const auto& m) { return m.config.width; }, model); }
int Encoder::times() const {
    if (const auto* v = std::get_if<Vivit>(&model)) return v->config.frames / v->config.tubelet[0];
    return frames;
}
int Encoder::side() const {
    if (const auto* v = std::get_if<Vivit>(&model)) return v->config.image / v->config.tubelet[1];
    return std::get<Vit>(model).config.grid();
}
Tensor Encoder::features(const nn::Pixels& x) const { return std::visit([&](const auto& m) { return m.features(x); }, model); }

Projector::Projector(Arch::Mapping mapping, int frames, int side, int64_t in, int64_t out) : frames(frames), side(side) {
    switch (mapping) {
        case Arch::Mapping::linear: layers = {{in, out}}; break;
        case Arch::Mapping::gelu_mlp: layers = {{in, out}, {out, out}}; break;
        case Arch::Mapping::fused_gelu_mlp: layers = {{in, 4 * in}, {4 * in, out}, {out, out}}; break;
    }
}
Tensor Projector::pool(const Tensor& features) const {
    const int64_t T = features.dim(0), Y = std::llround(std::sqrt(double(features.dim(1)))), C = features.dim(2);
    CHECK(Y * Y == features.dim(1), "projector: features ", features, " are not on a square grid");
    return nn::adaptive_pool(features.reshape({1, T, Y, Y, C}), frames, side, side).reshape({int64_t(frames) * side * side, C});
}
Tensor Projector::operator()(const Tensor& pooled) const {
    Tensor x = pooled;
    for (size_t i = 0; i < layers.size(); i++) x = layers[i](x, {.act = i + 1 < layers.size() ? nn::Act::gelu : nn::Act::none});
    return x;                                                                                   // (t s s, D)
}

Fusion::Fusion(int64_t W, int64_t D) : query(Tensor::declare({1, W})), in_bias(Tensor::declare({3 * W})), out_proj(W, W) {
    if (W == D) in_proj = Tensor::declare({3 * W, D});
    else q_proj = Tensor::declare({W, W}), k_proj = Tensor::declare({W, D}), v_proj = Tensor::declare({W, D});
}
bool Fusion::uses(const std::string& p) const { return p != "attention.v_proj_weight" && !p.starts_with("attention.out_proj."); }

Tensor Fusion::weights(const std::vector<Tensor>& x, Formula formula) const {
    const int64_t E = int64_t(x.size()), B = x[0].dim(0), D = x[0].dim(2), W = query.dim(1);
    std::vector<std::pair<Tensor, Tensor>> means;
    for (int64_t e = 0; e < E; e++) {
        std::vector<int32_t> rows;
        for (int64_t b = 0; b < B; b++) rows.push_back(int32_t(b * E + e));
        means.emplace_back(nn::convert(nn::token_mean(x[size_t(e)]), DType::f32), from_ints(rows));      // few numbers: the rest in f32
    }
    Tensor k = nn::scatter_rows(B * E, means), q;                                               // (B E, D)
    if (formula == Formula::paper) {
        if (W != D) fail(Exit::bad_weights, "--fusion paper: the paper's equation 2 needs a query as wide as the language model (", D,
                         "), this model's is ", W, "; use --fusion code");
        q = query;
    } else {
        const Tensor wq = in_proj ? nn::slice_rows(in_proj, 0, W) : q_proj, wk = in_proj ? nn::slice_rows(in_proj, W, 2 * W) : k_proj;
        q = nn::linear(nn::embedding(query, from_ints(std::array{0}), DType::f32), wq, nn::slice_rows(in_bias, 0, W));     // (1, W)
        k = nn::linear(k, wk, nn::slice_rows(in_bias, W, 2 * W));                               // (B E, W)
    }
    return nn::softmax_rows(nn::linear(k, q, {}).reshape({B, E}), 1.0f / std::sqrt(float(W)));  // (B, E)
}

int64_t Merv::visual_tokens() const {
    return projectors.empty() ? 0 : int64_t(projectors[0].frames) * projectors[0].side * projectors[0].side;
}

std::vector<Shown> Merv::look(const Clip& clip, const SeeOptions& options, const Watcher& watch) const {
    MemTag tag("pixels");
    const OnDevice host(Device::cpu);
    const Resize strategy = config.image_resize_strategy == "resize-crop" ? Resize::crop : config.image_resize_strategy == "letterbox" ? Resize::letterbox : Resize::naive;
    struct Looked { const Encoder* encoder; std::vector<int32_t> distinct; Tensor pixels; };
    std::vector<Looked> looked;                 // encoders that resize alike share the result
    std::vector<Shown> all;
    for (const Encoder& e : encoders) {
        const profile::Range encoder(e.name), stage("pixels");
        Timer preparing;
        std::vector<int32_t> grid, distinct;                        // source frame of each frame shown; the different ones
        const int stride = int(clip.grid.size()) / e.frames;
        for (int f = 0; f < e.frames; f++) grid.push_back(clip.grid[size_t(f * stride)]);
        distinct = grid;
        std::sort(distinct.begin(), distinct.end());
        distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
        Shown shown;
        for (int32_t g : grid) shown.frames.push_back(int32_t(std::lower_bound(distinct.begin(), distinct.end(), g) - distinct.begin()));
        for (const Looked& l : looked)
            if (!e.normalises_first && !l.encoder->normalises_first && l.distinct == distinct && l.encoder->filter == e.filter && l.encoder->image == e.image &&
                (strategy != Resize::letterbox || l.encoder->mean == e.mean)) shown.pixels = l.pixels;
        if (!shown.pixels) {
            const Tensor frames = select_frames(clip.frames, distinct);
            shown.pixels = e.normalises_first ? languagebind_pixels(frames, e.image) : prepare(frames, e.image, e.filter, strategy, e.mean, e.name == "vivit" && strategy != Resize::naive ? 256 * e.image / 224 : 0);
            if (e.normalises_first && options.flip) mirror(shown.pixels);
            looked.push_back({&e, distinct, shown.pixels});
        }
        if (watch.wants_pixels) {
            const Tensor every = select_frames(shown.pixels, shown.frames);
            watch("pixels." + e.name, e.normalises_first ? channels_first(every) : normalize(every, e.mean, e.std), preparing.ms(), "data/transform.cpp");
        } else {
            watch("pixels." + e.name, shown.pixels, preparing.ms(), "data/transform.cpp");
        }
        all.push_back(std::move(shown));
    }
    return all;
}

Encoded Merv::encode(const std::vector<Shown>& shown, const SeeOptions& options, const Watcher& watch) const {
    CHECK(shown.size() == encoders.size(), "merv: ", shown.size(), " encoders' frames for ", encoders.size(), " encoders");
    Encoded encoded;
    for (size_t i = 0; i < encoders.size(); i++) {
        const Encoder& e = encoders[i];
        const auto& [pixels, frames] = shown[i];
        const profile::Range encoder(e.name);
        profile::Range stage("encode");
        Timer encoding;
        const bool once = e.per_frame && options.dedupe;
        const Tensor seen = once ? pixels.to(current_device()) : select_frames(pixels, frames);
        Tensor features = e.features({seen, e.mean, e.std, dtype()});                           // (F or different ones, N, C)
        encoded.frames_encoded.push_back(seen.dim(0));
        if (once && size_t(pixels.dim(0)) < frames.size()) {
            const int64_t N = features.dim(1), C = features.dim(2);
            features = nn::gather_rows(features.reshape({features.dim(0), N * C}), from_ints(frames)).reshape({int64_t(frames.size()), N, C});
        }
        watch("features." + e.name, features.reshape({features.dim(0) * features.dim(1), features.dim(2)}), encoding.ms(),
              std::holds_alternative<Vit>(e.model) ? "models/vit.cpp" : "models/vivit.cpp");
        stage.next("pool");
        encoded.pooled.push_back(projectors[i].pool(features));                                 // (L, C)
    }
    return encoded;
}

Visual Merv::fuse(const Encoded& encoded, const SeeOptions& options, const Watcher& watch) const {
    Visual visual{.tokens = {}, .weights = {1.0f}, .frames_encoded = encoded.frames_encoded};
    std::vector<Tensor> projected;
    for (size_t i = 0; i < encoders.size(); i++) {
        const profile::Range encoder(encoders[i].name), stage("project");
        Timer projecting;
        projected.push_back(projectors[i](encoded.pooled[i]));                                  // (L, D), Eq. 1
        watch("projected." + encoders[i].name, projected.back(), projecting.ms(), "models/merv.cpp");
    }
    const profile::Range fuse("fuse");
    Timer fusing;
    visual.tokens = projected[0];
    if (fusion.query && projected.size() > 1) {
        for (Tensor& x : projected) x = x.reshape({1, x.dim(0), x.dim(1)});
        const Tensor w = fusion.weights(projected, options.formula);                            // (1, E)
        visual.weights = to_floats(w);
        visual.tokens = nn::mix(projected, w).reshape({projected[0].dim(1), projected[0].dim(2)});      // (L, D), Eq. 2
    }
    watch("fused", visual.tokens, fusing.ms(), "models/merv.cpp");
    return visual;
}

namespace {

// Where a sample's rows go, from row `first` on: the text around the visual tokens, which come behind BOS.
struct Places { std::vector<int32_t> text, visual; };
Places places(int64_t first, int64_t ids, int64_t visual) {
    Places p;
    for (int64_t i = 0; i < ids; i++) p.text.push_back(int32_t(first + i + (i > 0 ? visual : 0)));
    for (int64_t i = 0; i < visual; i++) p.visual.push_back(int32_t(first + 1 + i));
    return p;
}
int64_t length(size_t ids, const Visual* visual) { return int64_t(ids) + (visual ? visual->tokens.dim(0) : 0); }

}

Tensor Merv::splice(std::span<const int32_t> ids, const Visual* visual) const {
    const Tensor text = llm.embed(ids);                                                         // (N, D)
    if (!visual) return text;
    const Places p = places(0, text.dim(0), visual->tokens.dim(0));
    return nn::scatter_rows(length(ids.size(), visual), {{text, from_ints(p.text)}, {visual->tokens, from_ints(p.visual)}});      // (L + N, D)
}

Tensor Merv::loss(std::span<const Sample> samples, const LossOptions& options) const {
    nn::Lengths lengths;
    for (const Sample& s : samples) lengths.push_back(length(s.ids.size(), s.visual));
    if (options.padded) std::fill(lengths.begin(), lengths.end(), *std::max_element(lengths.begin(), lengths.end()));
    std::vector<int32_t> ids, rows, labels;
    std::vector<std::pair<Tensor, Tensor>> parts;
    for (size_t b = 0; b < samples.size(); b++) {
        const Sample& s = samples[b];
        CHECK(!s.ids.empty() && s.labels.size() == s.ids.size(), "merv: ", s.labels.size(), " labels for ", s.ids.size(), " ids");
        const Places p = places(int64_t(labels.size()), int64_t(s.ids.size()), s.visual ? s.visual->tokens.dim(0) : 0);
        labels.resize(labels.size() + size_t(lengths[b]), nn::kIgnore);
        for (size_t i = 0; i < s.ids.size(); i++) labels[size_t(p.text[i])] = s.labels[i];
        ids.insert(ids.end(), s.ids.begin(), s.ids.end()), rows.insert(rows.end(), p.text.begin(), p.text.end());
        if (s.visual) parts.emplace_back(s.visual->tokens, from_ints(p.visual));
    }
    parts.emplace_back(llm.embed(ids), from_ints(rows));
    const Tensor x = nn::scatter_rows(int64_t(labels.size()), parts);                           // (all lengths, D)
    return llm.loss(llm.forward(x, lengths), lengths, labels, options.count, options.every_row);
}

}
