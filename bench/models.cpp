#include <cmath>
#include "bench/cases.h"
#include "data/video.h"
#include "models/random.h"

namespace merv::bench {
namespace {

// Random values in the weights' places; what is not computed with stays undeclared bytes.
template <class M> void fill(M& module, DType dtype) {
    nn::for_each_parameter(module, [&](const std::string& name, Tensor& t) {
        const Tensor values(t.shape(), dtype);
        fill_random(7, "bench", name, initial_spread(name, t.shape()), dtype, 0, t.numel(), values.raw());
        t.bind(values);
    });
}
Merv built(const std::string& config, DType dtype) {
    Merv m = build(preset(config, dtype).parts);
    m.llm.dtype = dtype;
    return m;
}
double linear_flops(double rows, double in, double out) { return 2 * rows * in * out; }
double block_flops(double sequences, double tokens, double width, double mlp) {         // q, k, v, o, mlp and attention
    return sequences * (linear_flops(tokens, width, 4 * width + 2 * mlp) + 4 * tokens * tokens * width);
}
double llama_layer_flops(const LlamaConfig& c, double tokens, double pairs) {
    const double q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
    return linear_flops(tokens, c.width, 2 * q + 2 * kv + 3.0 * c.mlp) + 4 * pairs * q;
}

double flops_of(const Encoder& e, bool all) {
    if (const auto* v = std::get_if<Vivit>(&e.model)) {
        const VivitConfig& c = v->config;
        const double patches = double(v->positions.dim(1)) - 1, pixels = 3.0 * c.tubelet[0] * c.tubelet[1] * c.tubelet[2];
        return linear_flops(patches, pixels, c.width) + c.layers * block_flops(1, patches + 1, c.width, c.mlp);
    }
    const VitConfig& c = std::get<Vit>(e.model).config;
    const double F = e.frames, tokens = double(c.grid() * c.grid() + c.prefix()), blocks = all ? c.depth : c.depth - 1;
    double per_block = block_flops(F, tokens, c.width, c.mlp);
    if (const Tensor& t = std::get<Vit>(e.model).blocks[0].temporal_embedding) per_block += linear_flops(F * tokens, c.width, 4 * c.width) + 4 * F * double(t.dim(1)) * tokens * c.width;
    return linear_flops(F * c.grid() * c.grid(), 3.0 * c.patch * c.patch, c.width) + blocks * per_block;
}

Llama llama(const Sizes& s, DType dtype) {
    LlamaConfig c = preset(s.config, dtype).parts.llm;
    c.layers = int(s.layers);
    Llama llm(c);
    llm.dtype = dtype;
    return llm;
}
Tensor hidden(int64_t rows, int64_t width, DType dtype) {
    const Tensor x({rows, width}, dtype);
    fill_random(7, "bench", "hidden", {0, 1}, dtype, 0, x.numel(), x.raw());
    return x;
}
double weight_bytes(Llama& llm, DType dtype) { return double(nn::count_parameters(llm.layers[0])) * double(llm.layers.size()) * size_of(dtype); }

}

std::vector<Case> encode_cases(const Sizes& s, DType dtype) {
    std::vector<Case> cases;
    const Merv declared = built(s.config, dtype);
    std::string known;
    for (size_t i = 0; i < declared.encoders.size(); i++) {
        const Encoder& e = declared.encoders[i];
        known += " " + e.name;
        if (!s.encoder.empty() && s.encoder != e.name) continue;
        const bool all = s.all_blocks && std::holds_alternative<Vit>(e.model);
        cases.push_back({"encode", e.name + (all ? ", all blocks" : ""), concat(e.frames, "x", e.image, "x", e.image), dtype, 0, flops_of(e, all), [=]() -> std::function<void()> {
            auto m = std::make_shared<Merv>(built(s.config, dtype));
            Encoder& e = m->encoders[i];
            std::visit([&](auto& model) { fill(model, dtype); }, e.model);
            if (auto* vit = std::get_if<Vit>(&e.model)) vit->prepare();
            const nn::Pixels x{zeros({e.frames, 3, e.image, e.image}, e.normalises_first ? DType::f32 : DType::u8), e.mean, e.std, dtype};
            const int depth = all ? std::get<Vit>(e.model).config.depth : 0;
            return [=] {
                const NoGrad inference;
                if (depth) std::get<Vit>(m->encoders[i].model).tokens(x, depth);
                else m->encoders[i].features(x);
            };
        }});
    }
    if (cases.empty()) fail(Exit::usage, "no encoder '", s.encoder, "' in ", s.config, "; there are", known);
    return cases;
}

std::vector<Case> prefill_cases(const Sizes& s, DType dtype) {
    const LlamaConfig c = llama(s, dtype).config;
    const double N = double(s.tokens), pairs = N * (N + 1) / 2;
    return {{"prefill", s.config, concat(s.tokens, " tokens, ", s.layers, " layers"), dtype, 0, double(s.layers) * llama_layer_flops(c, N, pairs), [=] {
        auto llm = std::make_shared<Llama>(llama(s, dtype));
        for (LlamaLayer& l : llm->layers) fill(l, dtype);
        const Tensor x = hidden(s.tokens, c.width, dtype);
        auto cache = std::make_shared<KvCache>(llm->cache(s.tokens));
        return [=] {
            const NoGrad inference;
            cache->length = 0;
            llm->forward(x, *cache);
        };
    }}};
}

std::vector<Case> decode_cases(const Sizes& s, DType dtype) {
    Llama declared = llama(s, dtype);
    const LlamaConfig& c = declared.config;
    const double context = double(s.tokens) * double(s.layers) * 2 * c.kv_heads * c.head_dim * size_of(dtype);
    return {{"decode", s.config, concat(s.rows, " at once after ", s.tokens, ", ", s.layers, " layers"), dtype, weight_bytes(declared, dtype) + context, 0, [=] {
        auto llm = std::make_shared<Llama>(llama(s, dtype));
        for (LlamaLayer& l : llm->layers) fill(l, dtype);
        auto cache = std::make_shared<KvCache>(llm->cache(s.tokens + s.rows));
        const NoGrad inference;
        llm->forward(hidden(s.tokens, llm->config.width, dtype), *cache);
        const Tensor x = hidden(s.rows, llm->config.width, dtype);
        return [=] {
            const NoGrad inference;
            cache->length = s.tokens;
            llm->forward(x, *cache);
        };
    }}};
}

std::vector<Case> block_cases(const Sizes& s, DType dtype) {
    auto trains = [](auto& module) { nn::for_each_parameter(module, [](const std::string&, Tensor& t) { t.set_needs_grad(); }); };
    auto step = [](const auto& forward, const Tensor& x, const Tensor& dy) {
        Tensor in = x;
        in.set_needs_grad();
        Tape::current().backward(forward(in), dy);
    };
    const Merv declared = built(s.config, dtype);
    const LlamaConfig& l = declared.llm.config;
    const VitConfig v = std::get<Vit>(declared.encoders[1].model).config;
    const double N = double(s.tokens);
    const int64_t F = declared.encoders[1].frames, tokens = v.grid() * v.grid() + v.prefix();
    if (!s.encoder.empty() && s.encoder != "llama" && s.encoder != "vit") fail(Exit::usage, "block takes --encoder llama or vit, not '", s.encoder, "'");
    std::vector<Case> cases;
    if (s.encoder != "vit")
        cases.push_back({"block", "llama layer", concat(s.tokens, "x", l.width), dtype, 0, 3 * llama_layer_flops(l, N, N * (N + 1) / 2), [=] {
            auto layer = std::make_shared<LlamaLayer>(l);
            fill(*layer, dtype), trains(*layer);
            const Tensor x = hidden(s.tokens, l.width, dtype);
            const auto [cos, sin] = rope_tables(l, s.tokens);
            return [=, cos = cos, sin = sin] { step([&](const Tensor& in) { return (*layer)(in, cos, sin, {s.tokens}); }, x, x); };
        }});
    if (s.encoder != "llama")
        cases.push_back({"block", "vit-l block", concat(F, "x", tokens, "x", v.width), dtype, 0, 3 * block_flops(double(F), double(tokens), v.width, v.mlp), [=] {
            auto block = std::make_shared<VitBlock>(v);
            fill(*block, dtype), trains(*block);
            const Tensor x = hidden(F * tokens, v.width, dtype).reshape({F, tokens, v.width});
            return [=] { step(*block, x, x); };
        }});
    return cases;
}

std::vector<Case> preprocess_cases(const std::string& video, const std::string& image) {
    std::vector<Case> cases;
    auto prepared = [](const Clip& clip) { prepare(clip.frames, 224, Filter::bilinear, Resize::naive, {}); };
    if (!video.empty()) cases.push_back({"preprocess", "video", video, DType::u8, 0, 0, [=] { return [=] { prepared(read_clip(video, 32)); }; }});
    if (!image.empty()) cases.push_back({"preprocess", "image", image, DType::u8, 0, 0, [=] { return [=] { prepared(still_clip(image, 32)); }; }});
    if (cases.empty()) fail(Exit::usage, "preprocess needs --video FILE or --image FILE");
    return cases;
}

}
