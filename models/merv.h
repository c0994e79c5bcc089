// MERV (Chung, Zhu et al. 2025, arXiv 2501.01426): several frozen vision encoders see the same clip, their features are
// pooled to one grid, projected to the language model's width, mixed, and spliced behind BOS.
//
//   Eq. 1   x_e = Linear_e(AdaptiveAvgPool(encoder_e(frames)))                       (L, D) each, L = t s s tokens
//   Eq. 2   w = softmax_e(q . k_e / sqrt(W)), k_e = W_k mean_L(x_e) + b_k            (E)
//           O = sum_e w_e x_e                                                        (L, D)
//
// q = W_q Q + b_q in the reference's code; the paper has q = Q and k_e = mean_L(x_e), W = D.
#pragma once
#include <functional>
#include <map>
#include <variant>
#include "data/transform.h"
#include "data/video.h"
#include "models/config.h"
#include "models/llama.h"
#include "models/tokenizer.h"
#include "models/vit.h"
#include "models/vivit.h"

namespace merv {

struct Encoder {
    std::string id, name;                       // "dinov2-video-all-tokens", "dinov2"
    std::variant<Vit, Vivit> model;
    int frames = 16, image = 224;               // frames it is shown, their side
    Filter filter = Filter::bicubic;
    std::array<float, 3> mean{}, std{1, 1, 1};
    bool per_frame = false;                     // a frame's features do not depend on the others, so repeats need no second run
    bool normalises_first = false;              // LanguageBind: resized as floats

    int width() const;                          // C
    int times() const;                          // frames of its output
    int side() const;                           // of its token grid
    Tensor features(const nn::Pixels& frames) const;    // (F, 3, S, S) -> (times, side^2, C)
};

// Average pooling to t x s x s, then Linear, or Linear-GELU-Linear, or Linear-GELU-Linear-GELU-Linear.
struct Projector {
    std::vector<nn::Linear> layers;
    int frames = 16, side = 8;                  // t, s
    Projector() = default;
    Projector(Arch::Mapping, int frames, int side, int64_t in, int64_t out);
    Tensor pool(const Tensor& features) const;          // (T, N, C) -> (t s s, C), frame-major
    Tensor operator()(const Tensor& pooled) const;      // (t s s, C) -> (t s s, D)
    void visit(auto&& f) {                      // the reference wraps twice: AveragePooling*Projector.projector.projector
        for (size_t i = 0; i < layers.size(); i++) f(layers.size() == 1 ? "projector.projector" : "projector.projector." + std::to_string(2 * i), layers[i]);
    }
};

// Cross-attention mixing over encoders, `cross_attention_avg_lq`. torch's MultiheadAttention also computes values and an
// output projection that the reference throws away: they load and save here, and are never computed.
struct Fusion {
    enum class Formula { code, paper };
    Tensor query;                               // (1, W)
    Tensor q_proj, k_proj, v_proj;              // (W, W), (W, D), (W, D); absent when W = D,
    Tensor in_proj;                             // then (3 W, D): q over k over v
    Tensor in_bias;                             // (3 W)
    nn::Linear out_proj;                        // (W, W)
    Fusion() = default;
    Fusion(int64_t width, int64_t dim);
    Tensor weights(const std::vector<Tensor>& x, Formula formula) const;    // E of (B, L, D) -> (B, E)
    bool uses(const std::string& parameter) const;
    void visit(auto&& f) {
        f("Q", query), f("attention.q_proj_weight", q_proj), f("attention.k_proj_weight", k_proj), f("attention.v_proj_weight", v_proj);
        f("attention.in_proj_weight", in_proj), f("attention.in_proj_bias", in_bias), f("attention.out_proj", out_proj);
    }
};

// Tells a watcher what was computed: `value` may be empty where nobody asked for it.
struct Stage { std::string name; Tensor value; double ms; const char* source; };
struct Watcher {
    std::function<void(const Stage&)> on_stage;
    bool wants_pixels = false;                  // normalised pixels are only made for a watcher
    void operator()(const std::string& name, const Tensor& value, double ms, const char* source) const { if (on_stage) on_stage({name, value, ms, source}); }
};

struct Shown {                                  // what one encoder is shown of a clip, on the host
    Tensor pixels;                              // (different frames, 3, S, S): u8, or f32 already normalised
    std::vector<int32_t> frames;                // for each frame, which of them
};
struct Encoded {                                // what the frozen part makes of a clip
    std::vector<Tensor> pooled;                 // per encoder: (L, C_e)
    std::vector<int64_t> frames_encoded;        // per encoder
};
struct Visual {                                 // gradients flow through tokens to whatever was trained of their making
    Tensor tokens;                              // (L, D)
    std::vector<float> weights;                 // per encoder; empty without fusion
    std::vector<int64_t> frames_encoded;        // per encoder
};

struct Merv {
    MervConfig config;
    std::vector<Encoder> encoders;
    std::vector<Projector> projectors;
    Fusion fusion;                              // no parameters when there is nothing to mix
    Llama llm;
    Tokenizer tokenizer;
    DType dtype() const { return llm.dtype; }   // of all activations

    struct SeeOptions {
        Fusion::Formula formula = Fusion::Formula::code;
        bool flip = false;                      // LanguageBind's frames, left to right
        bool dedupe = true;                     // per-frame encoders run each different frame once
    };
    std::vector<Shown> look(const Clip& clip, const SeeOptions& options, const Watcher& watch = {}) const;
    Encoded encode(const std::vector<Shown>& shown, const SeeOptions& options, const Watcher& watch = {}) const;
    Visual fuse(const Encoded& encoded, const SeeOptions& options, const Watcher& watch = {}) const;
    Visual see(const Clip& clip, const SeeOptions& options, const Watcher& watch = {}) const { return fuse(encode(look(clip, options, watch), options, watch), options, watch); }
    int64_t visual_tokens() const;              // L

    // [BOS, visual tokens, rest of the text]: (L + ids, D). Without a visual just the text.
    Tensor splice(std::span<const int32_t> ids, const Visual* visual) const;

    // What training minimises: the cross-entropy of the samples' labels, their mean or their sum divided by `count`.
    struct Sample { std::vector<int32_t> ids, labels; const Visual* visual = nullptr; };       // a label per id, kIgnore where nothing is learnt
    struct LossOptions {
        int64_t count = 0;
        bool padded = false;                    // shorter samples get rows on the right that no token before them sees: the same bits, more work
        bool every_row = false;                 // the head runs on rows without a label too
    };
    Tensor loss(std::span<const Sample> samples, const LossOptions& options = {0, false, false}) const;

    // What model.safetensors holds; the encoders and the language model have folders of their own.
    void visit(auto&& f) { f("projectors", projectors), f("feature_fusion", fusion); }
};

// Frame i of the result is frame index[i] of the input; u8 or f32, (F, ..) -> (index.size(), ..).
Tensor select_frames(const Tensor& frames, std::span<const int32_t> index);

}
