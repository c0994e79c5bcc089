// LLaMA (Touvron et al. 2023), as Hugging Face's LlamaForCausalLM: RMSNorm, rotary positions, grouped key/value heads, SwiGLU.
//
//   per layer:  h = x + Wo attention(rope(Wq n), rope(Wk n), Wv n),  n = RMSNorm(x)
//               x = h + Wdown (silu(Wgate m) * Wup m),               m = RMSNorm(h)
#pragma once
#include <functional>
#include "models/config.h"
#include "models/sampling.h"
#include "nn/layers.h"
#include "nn/unit.h"

namespace merv {

// Keys (after rope) and values of the tokens seen so far. `length` may be lowered to forget the last ones.
struct KvCache {
    std::vector<Tensor> k, v;                   // per layer: (capacity, Hkv D)
    Tensor cos, sin;                            // (capacity, D/2): the rotation at each position
    int64_t length = 0;
    int64_t capacity() const { return cos.dim(0); }
};

struct LlamaLayer {
    nn::RmsNorm input_norm, post_norm;
    nn::Linear q, k, v, o, gate, up, down;
    int heads = 0, kv_heads = 0, head_dim = 0;
    LlamaLayer() = default;
    LlamaLayer(const LlamaConfig&);
    // (M, C) -> (M, C): sequences of these lengths, each from position 0; or with a cache one, at the positions that follow it, appended to it.
    Tensor operator()(const Tensor& x, const Tensor& cos, const Tensor& sin, const nn::Lengths& lengths, KvCache* cache = nullptr, size_t layer = 0) const;
    void visit(auto&& f) {
        f("self_attn.q_proj", q), f("self_attn.k_proj", k), f("self_attn.v_proj", v), f("self_attn.o_proj", o);
        f("mlp.gate_proj", gate), f("mlp.up_proj", up), f("mlp.down_proj", down);
        f("input_layernorm", input_norm), f("post_attention_layernorm", post_norm);
    }
};

struct Llama {
    LlamaConfig config;
    DType dtype = DType::f32;                   // of activations and cache
    Tensor embed_tokens;                        // (V, C)
    std::vector<LlamaLayer> layers;
    nn::RmsNorm norm;
    nn::Linear lm_head;                         // none when tied to embed_tokens

    Llama() = default;
    explicit Llama(const LlamaConfig&);
    KvCache cache(int64_t capacity) const;
    Tensor embed(std::span<const int32_t> ids) const;           // (N, C)
    Tensor forward(const Tensor& x, KvCache& cache) const;      // (N, C) -> (N, C); positions follow on from the cache
    // (M, C) -> (M, C): whole sequences of these lengths, one behind the other, for training. A sequence's hidden states and its share of every gradient
    // of the layers have the same bits whatever stands beside it.
    Tensor forward(const Tensor& x, const nn::Lengths& lengths) const;
    Tensor logits(const Tensor& hidden) const;                  // (N, C) -> (N, V) f32: final norm and head, for the rows that are needed
    // Cross-entropy of hidden (M, C), sequences of these lengths, against labels (M), kIgnore where nothing is to be learnt: position i is asked for the
    // label of i + 1. The mean over labels, or their sum divided by `count`. The head runs on the rows that have a label, or on every row.
    Tensor loss(const Tensor& hidden, const nn::Lengths& lengths, std::span<const int32_t> labels, int64_t count = 0, bool every_row = false) const;
    void visit(auto&& f) { f("model.embed_tokens.weight", embed_tokens), f("model.layers", layers), f("model.norm", norm), f("lm_head", lm_head); }
};

// Rotation tables for positions 0 .. positions - 1: cos and sin, each (positions, D/2) f32, scaled as the config says.
std::pair<Tensor, Tensor> rope_tables(const LlamaConfig&, int64_t positions);

struct GenerateOptions {
    int64_t max_tokens = 512;
    Sampling sampling;
    std::vector<int> stop;                      // generation ends with any of these ids, which is part of the result
};
// Continues from `logits` (1, V), those of the last token in the cache, until a stop id, max_tokens or a full cache.
// on_token sees each new id as it comes; returning false ends generation.
std::vector<int32_t> generate(const Llama&, KvCache&, Tensor logits, const GenerateOptions&, const std::function<bool(int32_t)>& on_token = {});

}
