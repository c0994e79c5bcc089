// Gradients of whole models against PyTorch's f64 run (tests/golden/gradients.py), parameter by parameter. A limit is 2.5 times
// what PyTorch's own f32 (or bf16) run is away from that.
#include "tests/vectors.h"
#include "core/cuda.h"
#include "kernels/optim.h"
#include "kernels/reduce.h"
#include "models/load.h"
#include "nn/unit.h"
#include "tests/runtime_reports.h"
#include "tests/sketch.h"

using namespace merv;
using namespace merv::test;
using nn::Recompute;

namespace {

using Gradients = std::map<std::string, Tensor>;

template <class M> void train(M& module) {
    nn::for_each_parameter(module, [](const std::string&, Tensor& t) { t.set_needs_grad(); });
}
// What backward left in the module's parameters, taken out of them.
template <class M> Gradients take_gradients(M& module, const std::string& prefix = "") {
    Gradients all;
    nn::for_each_parameter(module, [&](const std::string& name, Tensor& t) {
        if (t.grad()) all[prefix + name] = t.grad();
        if (t.needs_grad()) t.set_needs_grad();
    });
    return all;
}
void backward_of_squares(const Tensor& y) {     // d sum(y^2) = 2 y
    std::vector<float> dy = to_floats(y);
    for (float& v : dy) v *= 2;
    Tape::current().backward(y, from_floats(dy, y.shape(), y.dtype()));
}

struct Golden {
    std::shared_ptr<SafeTensors> file = SafeTensors::open(golden("gradients.safetensors"));
    std::vector<int32_t> ints(const std::string& name) const {
        const Tensor t = file->tensor(name);
        return {t.data<int32_t>(), t.data<int32_t>() + t.numel()};
    }
    // PyTorch may be lucky with one parameter. So its error there counts as at least the gradient's share of its error in all
    // of the part that the parameter belongs to ("merv-tiny/dinov2/"). Where the true gradient is zero (an attention's key
    // bias), both runs give noise; ours may be 2.5 times the loudest that PyTorch makes in that part.
    double limit(const std::string& key, bool half = false) const {
        struct Size { double norm, error; };
        auto size = [&](const std::string& name) {
            const float* g = file->tensor(name).data<float>();
            return Size{double(g[0]), double(g[half ? 2 : 1])};
        };
        double norms = 0, errors = 0, noise = 0;
        const std::string part = key.substr(0, key.rfind('/') + 1);
        for (const auto& [name, entry] : file->entries()) {
            if (!name.starts_with(part) || name.find('/', part.size()) != name.npos) continue;
            const auto [norm, error] = size(name);
            norms += norm * norm, errors += error * error;
            if (norm < error) noise = std::max(noise, error);
        }
        const auto [norm, error] = size(key);
        // without a fused multiply-add each product's rounding comes on top of the sum's
        const double allowed = kernels::cpu::isa() == kernels::cpu::Isa::portable ? 2.5 * std::sqrt(2.0) : 2.5;
        return allowed * (norm < error ? noise : std::max(error, norm * std::sqrt(errors / norms))) + 0x1p-24 * norm;      // and the golden numbers' own rounding
    }
    double norm(const std::string& model) const {       // of all its gradients together
        double squares = 0;
        for (const auto& [key, entry] : file->entries()) if (key.starts_with(model + "/")) squares += std::pow(double(file->tensor(key).data<float>()[0]), 2);
        return std::sqrt(squares);
    }
    // Prints the gradient that comes nearest to its limit. Every golden gradient must have ours, and ours a golden one.
    void expect(const std::string& model, const Gradients& ours, bool half = false) const {
        double worst = 0, error = 0, bound = 0;
        std::string where;
        size_t n = 0;
        for (const auto& [key, entry] : file->entries()) {
            if (!key.starts_with(model + "/")) continue;
            n++;
            const std::string name = key.substr(model.size() + 1);
            const auto found = ours.find(name);
            if (found == ours.end()) { if (!name.starts_with("input")) FAIL_CHECK(key << " got no gradient"); continue; }
            const Tensor want = file->tensor(key);
            const double distance = test::distance(found->second, want);
            EXPECT_MESSAGE(distance <= limit(key, half), key, ": error ", distance, ", limit ", limit(key, half), ", norm ", want.data<float>()[0]);
            if (distance / limit(key, half) > worst) worst = distance / limit(key, half), error = distance, bound = limit(key, half), where = name;
        }
        EXPECT_GT(n, 0);
        for (const auto& [name, g] : ours) EXPECT_MESSAGE(file->entries().count(model + "/" + name), name, " has a gradient, PyTorch's has none");
        std::printf("  %-32s %3zu gradients, worst error %.2e limit %.2e (%.0f%%) at %s\n", model.c_str(), n, error, bound, 100 * worst, where.c_str());
    }
};

void expect_near(const char* what, const Tensor& ours, const Tensor& want, double limit) {
    double distance = 0;
    const std::vector<float> a = to_floats(ours), b = to_floats(want);
    REQUIRE_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); i++) distance += std::pow(double(a[i]) - double(b[i]), 2);
    EXPECT_MESSAGE(std::sqrt(distance) <= limit, std::string(what), ": error ", std::sqrt(distance), ", limit ", limit);
}

void expect_same(const Gradients& a, const Gradients& b) {
    REQUIRE_EQ(a.size(), b.size());
    for (const auto& [name, g] : a) {
        INFO(name);
        expect_same_bits(g, b.at(name));
    }
}

// The gradients of sum(y^2), y = f() of the module, which are the same bits with every choice of what is kept.
template <class M, class F> Gradients gradients_of_squares(M& module, const F& f) {
    train(module);
    Gradients first;
    for (Recompute r : {Recompute::none, Recompute::norms_and_gates, Recompute::full}) {
        {
            const nn::RecomputeScope scope(r);
            backward_of_squares(f());
        }
        const Gradients all = take_gradients(module);
        if (r == Recompute::none) first = all;
        else expect_same(all, first);
    }
    return first;
}

}

TEST_CASE("gradients: CLIP, DINOv2 with registers and resampled positions, SigLIP") {
    const Golden golden;
    for (const auto& [name, file, build] : {std::tuple{"clip", "clip_openai_visual_tiny", &clip_tiny}, std::tuple{"dinov2", "vit_reg4_dinov2_tiny_fbnames", &dinov2_tiny},
                                            std::tuple{"siglip", "vit_siglip_tiny", &siglip_tiny}}) {
        const Vectors v(file);
        Vit vit = build(v);
        golden.expect(name, gradients_of_squares(vit, [&] { return vit.features({.values = v["test.input"]}); }));
    }
}

TEST_CASE("gradients: LanguageBind, attention across frames included") {
    const Golden golden;
    const Vectors v("languagebind_tiny");
    Vit vit = languagebind_tiny(v);
    const nn::Pixels x{.values = frames_first(v["input"])};
    const Gradients ours = gradients_of_squares(vit, [&] { return vit.tokens(x, 2); });
    golden.expect("languagebind", ours);
    for (const std::string name : {"layers.0.temporal_embedding", "layers.1.temporal_attn.q_proj.weight"})
        expect_near(name.c_str(), ours.at("encoder." + name), v["grad." + name], golden.limit("languagebind/encoder." + name));
}

TEST_CASE("gradients: ViViT") {
    const Golden golden;
    const Vectors v("vivit_tiny");
    Vivit vivit = vivit_tiny(v);
    const Gradients ours = gradients_of_squares(vivit, [&] { return vivit.tokens({.values = v["input"].reshape({16, 3, 48, 48})}); });
    golden.expect("vivit", ours);
    for (const auto& [name, g] : ours) expect_near(name.c_str(), g, v["grad." + name], golden.limit("vivit/" + name));
}

TEST_CASE("gradients: averaging projectors, and of their input") {
    const Golden golden;
    for (const AveragingProjector& c : kAveragingProjectors) {
        const Vectors v(c.file);
        Projector p(c.mapping, c.frames, c.side, 24, 40);
        v.bind_all(p, "param.");
        train(p);
        Tensor dx(v["input"].shape());
        for (int64_t b = 0; b < 2; b++) {       // a clip at a time, as Merv runs it; parameters add up
            Tensor x({4, 36, 24});
            x.copy_from(v["input"].slice(b, b + 1).reshape(x.shape()));
            x.set_needs_grad();
            backward_of_squares(p(p.pool(x)));
            dx.slice(b, b + 1).copy_from(x.grad().reshape({1, 4, 36, 24}));
        }
        Gradients ours = take_gradients(p);
        ours["input"] = dx;
        golden.expect(c.file, ours);
        for (const auto& [name, g] : ours) expect_near(name.c_str(), g, v["grad." + name], golden.limit(concat(c.file, "/", name)));
    }
}

TEST_CASE("gradients: cross-attention mixing; parameters that are computed with nowhere get none") {
    const Golden golden;
    const std::string file = "fusion_cross_attention_avg";
    const Vectors v(file);
    Fusion fusion(24, 40);
    v.bind(fusion, [&](const std::string& name) { return fusion.uses(name) ? v["param." + name] : Tensor(); });
    train(fusion);
    std::vector<Tensor> x = {v["input.0"], v["input.1"], v["input.2"]};
    for (Tensor& t : x) t.set_needs_grad();
    backward_of_squares(nn::mix(x, fusion.weights(x, Fusion::Formula::code)));
    Gradients ours = take_gradients(fusion);
    for (size_t e = 0; e < 3; e++) ours["input." + std::to_string(e)] = x[e].grad();
    golden.expect(file, ours);
    for (const auto& [name, g] : ours) expect_near(name.c_str(), g, v["grad." + name], golden.limit(file + "/" + name));
}

TEST_CASE("gradients: mixing with one in_proj_weight, and the paper's equation 2, are those of the separate matrices") {
    const int64_t D = 8, L = 5, E = 3;
    auto filled = [](Shape s, double step) {
        Tensor t(s);
        for (int64_t i = 0; i < t.numel(); i++) t.data<float>()[i] = float(std::sin(step * double(i + 1)));
        return t;
    };
    Fusion one(D, D), apart(D, D + 1);          // the second gets its matrices in the shapes of the first
    const Tensor in_proj = filled({3 * D, D}, 0.31);
    one.query.bind(filled({1, D}, 0.7)), one.in_proj.bind(in_proj), one.in_bias.bind(filled({3 * D}, 1.1));
    apart.query = one.query, apart.in_bias = one.in_bias;
    apart.q_proj = in_proj.slice(0, D), apart.k_proj = in_proj.slice(D, 2 * D), apart.v_proj = in_proj.slice(2 * D, 3 * D);
    for (const auto formula : {Fusion::Formula::code, Fusion::Formula::paper}) {
        std::vector<Gradients> all;
        for (Fusion* f : {&one, &apart}) {
            train(*f);
            std::vector<Tensor> x;
            for (int64_t e = 0; e < E; e++) x.push_back(filled({1, L, D}, 0.4 + 0.1 * double(e)).set_needs_grad());
            backward_of_squares(nn::mix(x, f->weights(x, formula)));
            all.push_back(take_gradients(*f));
            for (int64_t e = 0; e < E; e++) all.back()["input." + std::to_string(e)] = x[size_t(e)].grad();
        }
        for (const auto& [name, g] : all[1]) {
            INFO(name);
            if (name == "attention.q_proj_weight") expect_same_bits(g, all[0].at("attention.in_proj_weight").slice(0, D));
            else if (name == "attention.k_proj_weight") expect_same_bits(g, all[0].at("attention.in_proj_weight").slice(D, 2 * D));
            else expect_same_bits(g, all[0].at(name));
        }
        EXPECT_EQ(all[0].count("Q"), 1);
        EXPECT_EQ(all[0].count("attention.in_proj_weight"), formula == Fusion::Formula::code);
    }
}

namespace {

// The loss of two sequences, the second three tokens shorter: the answer's labels behind three tokens of prompt.
Tensor llama_loss(const Llama& llm, const Tensor& ids, DType dtype) {
    std::vector<int32_t> labels(ids.data<int32_t>(), ids.data<int32_t>() + 22);
    for (int i : {0, 1, 2, 11, 12, 13, 19, 20, 21}) labels[size_t(i)] = nn::kIgnore;
    const Tensor x = nn::embedding(llm.embed_tokens, ids.reshape({22}), dtype);
    return llm.loss(llm.forward(x, {11, 11}), {11, 11}, labels);
}

}

TEST_CASE("gradients: LLaMA with grouped heads and tied embeddings, two padded sequences") {
    const Golden golden;
    const Vectors v("llama_gqa_tied_tiny_hfnames");
    for (const DType dtype : {DType::f32, DType::bf16}) {
        const bool half = dtype == DType::bf16;
        const std::string name = half ? "llama_bf16" : "llama";
        Llama llm = llama_tiny(v);
        if (half) nn::for_each_parameter(llm, [](const std::string&, Tensor& t) { t.bind(from_floats(to_floats(t), t.shape(), DType::bf16)); });
        train(llm);
        Gradients first;
        for (Recompute r : {Recompute::none, Recompute::norms_and_gates, Recompute::full}) {
            const nn::RecomputeScope scope(r);
            const Tensor loss = llama_loss(llm, v["test.input_ids"], dtype);
            const float* want = golden.file->tensor(name + ".loss").data<float>();
            EXPECT_LE(std::fabs(loss.data<float>()[0] - want[0]), 2.5f * want[half ? 2 : 1] + 0x1p-23f * want[0]);
            Tape::current().backward(loss);
            const Gradients all = take_gradients(llm);
            if (r == Recompute::none) first = all;
            else expect_same(all, first);
        }
        golden.expect(name, first, half);
    }
}

namespace {

void each_part(Merv& m, auto f) {
    for (Encoder& e : m.encoders) std::visit([&](auto& encoder) { f(encoder, e.name + "/"); }, e.model);
    f(m, std::string()), f(m.llm, std::string("llm/"));
}

}

TEST_CASE("gradients: merv-tiny on a clip, every parameter of every part, from the loss on an answer") {
    const Golden golden;
    LoadedModel loaded = load_model(merv::test::golden("merv-tiny"), {.dtype = DType::f32});
    Merv& m = loaded.merv;
    const Clip clip = read_clip("data/samples/nasa_jwst.mp4", 32);
    each_part(m, [](auto& module, const std::string&) { train(module); });
    Gradients first;
    for (Recompute r : {Recompute::none, Recompute::norms_and_gates}) {
        const nn::RecomputeScope scope(r);
        const Visual visual = m.see(clip, {});
        const Merv::Sample sample{golden.ints("merv-tiny.ids"), golden.ints("merv-tiny.labels"), &visual};
        const Tensor loss = m.loss(std::span(&sample, 1));
        const float* want = golden.file->tensor("merv-tiny.loss").data<float>();
        EXPECT_LE(std::fabs(loss.data<float>()[0] - want[0]), 2.5f * want[1] + 0x1p-23f * want[0]);
        Tape::current().backward(loss);
        Gradients all;
        each_part(m, [&](auto& module, const std::string& prefix) { all.merge(take_gradients(module, prefix)); });
        if (r == Recompute::none) first = all;
        else expect_same(all, first);
    }
    golden.expect("merv-tiny", first);
}

namespace {

// The first step of AdamW on every parameter, as a trainer takes it: the gradients' norm is clipped to half of what PyTorch's have, and the host waits
// for nothing meanwhile. What it leaves is the formula's in double, of the same gradients.
void expect_first_step(Merv& m, const Gradients& gradients, double norm) {
    struct Step { std::string name; Tensor param, grad, master, m, v; };
    std::vector<Step> steps;
    int64_t chunks = 0;
    each_part(m, [&](auto& module, const std::string& prefix) {
        nn::for_each_parameter(module, [&](const std::string& name, Tensor& t) {
            const auto found = gradients.find(prefix + name);
            if (found == gradients.end()) return;
            const Tensor param(t.shape(), t.dtype());       // t may lie in the file
            param.copy_from(t.detach());
            steps.push_back({prefix + name, param, found->second, from_floats(to_floats(param), {param.numel()}), zeros({param.numel()}), zeros({param.numel()})});
            chunks += (param.numel() + kernels::kSumChunk - 1) / kernels::kSumChunk;
        });
    });
    EXPECT_EQ(steps.size(), gradients.size());
    std::vector<std::vector<float>> before;
    for (const Step& s : steps) before.push_back(to_floats(s.master));
    const Tensor sums({chunks}), factor({1});
    int64_t chunk = 0;
    for (const Step& s : steps) {
        const int64_t end = chunk + (s.grad.numel() + kernels::kSumChunk - 1) / kernels::kSumChunk;
        kernels::chunk_sums({.sums = sums.slice(chunk, end), .x = s.grad, .squares = true});
        chunk = end;
    }
    const double lr = 0.01, decay = 0.1, beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
    kernels::clip_factor({.factor = factor, .sums = sums, .limit = norm / 2});
    for (const Step& s : steps) kernels::adamw({.master = s.master, .m = s.m, .v = s.v, .param = s.param, .grad = s.grad, .lr = lr, .beta1 = beta1, .beta2 = beta2, .eps = eps, .decay = decay, .clip = factor});
    const double clip = double(to_floats(factor)[0]);
    EXPECT_LE(std::fabs(clip - 0.5), 1e-4);
    for (size_t i = 0; i < steps.size(); i++) {
        const Step& s = steps[i];
        const std::vector<float> grad = to_floats(s.grad), p = to_floats(s.master), m1 = to_floats(s.m), m2 = to_floats(s.v), rounded = to_floats(s.param);
        size_t wrong = 0;
        for (size_t k = 0; k < p.size(); k++) {
            const double g = clip * double(grad[k]), old = double(before[i][k]);
            const double want = old * (1 - lr * decay) - lr * g / (std::fabs(g) + eps);        // m / (1 - beta1) is g, and v / (1 - beta2) its square
            const bool right = std::fabs(double(p[k]) - want) <= 0x1p-22 * std::fabs(old) + 1e-6 * lr && std::fabs(double(m1[k]) - (1 - beta1) * g) <= 0x1p-21 * std::fabs(g) &&
                               std::fabs(double(m2[k]) - (1 - beta2) * g * g) <= 0x1p-20 * g * g + 1e-44;
            wrong += !right || rounded[k] != (s.param.dtype() == DType::bf16 ? float(bf16(p[k])) : p[k]);
        }
        EXPECT_MESSAGE(wrong == 0, s.name, ": ", wrong, " of ", p.size(), " values of the first step are not AdamW's");
    }
}

}

// The whole of MERV through the GPU kernels, every access checked: PyTorch's tokens, loss and gradients (tests/golden/micro.py), and a step of AdamW.
// tests/run.sh runs it with several policies of the emulated CUDA runtime.
TEST_CASE("gradients: merv-micro on the CPU and on the emulated GPU, or on a CUDA device, its tokens and a step of AdamW") {
    const Golden golden{SafeTensors::open(merv::test::golden("micro.safetensors"))};
    Clip clip;
    clip.frames = golden.file->tensor("clip");
    for (int32_t i = 0; i < 16; i++) clip.grid.push_back(i);
    for (const Device device : has_cuda_backend() ? std::vector{Device::cuda} : std::vector{Device::cpu, Device::emu}) {
        kernels::use_checks(true);
        if (device == Device::cuda) open_cuda(0);
        const OnDevice on(device);
        LoadedModel loaded = load_model(merv::test::golden("merv-micro"), {.dtype = DType::f32});
        Merv& m = loaded.merv;
        each_part(m, [](auto& module, const std::string&) { train(module); });
        const Visual visual = m.see(clip, {});
        {
            const NoGrad inference;
            const std::vector<int32_t> prompt = golden.ints("prompt_tokens"), tokens = golden.ints("tokens");
            const Tensor embeds = m.splice(prompt, &visual);
            KvCache cache = m.llm.cache(embeds.dim(0) + int64_t(tokens.size()));
            const Tensor hidden = m.llm.forward(embeds, cache);
            EXPECT(generate(m.llm, cache, m.llm.logits(hidden.slice(hidden.dim(0) - 1, hidden.dim(0))), {.max_tokens = int64_t(tokens.size()), .sampling = {}, .stop = {}}) == tokens);
        }
        const Merv::Sample sample{golden.ints("merv-micro.ids"), golden.ints("merv-micro.labels"), &visual};
        const Tensor loss = m.loss(std::span(&sample, 1));
        const float* want = golden.file->tensor("merv-micro.loss").data<float>();
        EXPECT_LE(std::fabs(to_floats(loss)[0] - want[0]), 2.5f * want[1] + 0x1p-23f * want[0]);
        Tape::current().backward(loss);
        Gradients all;
        each_part(m, [&](auto& module, const std::string& prefix) { all.merge(take_gradients(module, prefix)); });
        golden.expect("merv-micro", all);
        expect_first_step(m, all, golden.norm("merv-micro"));
        EXPECT_EQ(runtime_reports(), 0);
    }
}

TEST_CASE("gradients: a still image encoded once gives those of its 32 copies") {
    LoadedModel loaded = load_model(merv::test::golden("merv-tiny"), {.dtype = DType::f32});
    Merv& m = loaded.merv;
    const Tensor frame = read_clip("data/samples/nasa_jwst.mp4", 1).frames;
    std::vector<Gradients> all;
    std::vector<std::vector<int64_t>> encoded;
    for (const bool copies : {false, true}) {
        Clip clip;
        clip.frames = copies ? select_frames(frame, std::vector<int32_t>(32, 0)) : frame;
        for (int32_t i = 0; i < 32; i++) clip.grid.push_back(copies ? i : 0);
        train(std::get<Vit>(m.encoders[1].model)), train(m);
        const Visual visual = m.see(clip, {});
        encoded.push_back(visual.frames_encoded);
        backward_of_squares(visual.tokens);
        all.push_back(take_gradients(m)), all.back().merge(take_gradients(std::get<Vit>(m.encoders[1].model), "dinov2/"));
    }
    EXPECT(encoded == std::vector<std::vector<int64_t>>{{16, 1, 32, 1}, {16, 16, 32, 16}});
    for (const auto& [name, g] : all[0]) {      // the sums over frames run in another order
        INFO(name);
        EXPECT_LE(relative_error(g, all[1].at(name)), 0x1p-19);
    }
}

TEST_CASE("training: twenty steps of AdamW teach a tiny LLaMA its batch, in f32 and in bf16") {
    const Vectors v("llama_gqa_tied_tiny_hfnames");
    for (const DType dtype : {DType::f32, DType::bf16}) {
        Llama llm = llama_tiny(v);
        struct State { Tensor master, m, v; };
        std::vector<State> states;
        nn::for_each_parameter(llm, [&](const std::string&, Tensor& t) {
            states.push_back({from_floats(to_floats(t), {t.numel()}), zeros({t.numel()}), zeros({t.numel()})});
            t.bind(from_floats(to_floats(t), t.shape(), dtype));
        });
        float first = 0, last = 0;
        for (int64_t step = 1; step <= 20; step++) {
            train(llm);
            const nn::RecomputeScope scope(Recompute::norms_and_gates);
            const Tensor loss = llama_loss(llm, v["test.input_ids"], dtype);
            last = loss.data<float>()[0];
            if (step == 1) first = last;
            Tape::current().backward(loss);
            std::vector<Tensor*> parameters;
            double squares = 0;
            nn::for_each_parameter(llm, [&](const std::string&, Tensor& t) { parameters.push_back(&t), squares += kernels::sum_of_squares(t.grad()); });
            for (size_t i = 0; i < parameters.size(); i++)
                kernels::adamw({.master = states[i].master, .m = states[i].m, .v = states[i].v, .param = parameters[i]->detach(), .grad = parameters[i]->grad(), .step = step,
                                .lr = 3e-3, .decay = 0.01, .grad_scale = kernels::clip_scale(std::sqrt(squares), 1)});
        }
        std::printf("  %s: loss %.3f, after 20 steps %.4f\n", name_of(dtype), double(first), double(last));
        EXPECT_LT(last, 0.1f * first);
    }
}

TEST_CASE("loss: a batch of samples is the mean over all labels; padding and company change nothing") {
    LoadedModel loaded = load_model(merv::test::golden("merv-tiny"), {.dtype = DType::f32});
    const Merv& m = loaded.merv;
    NoGrad inference;
    Visual visual;
    visual.tokens = Tensor({5, m.llm.config.width});
    for (int64_t i = 0; i < visual.tokens.numel(); i++) visual.tokens.data<float>()[i] = float(std::sin(double(i)));
    const int32_t no = nn::kIgnore;
    const std::vector<Merv::Sample> samples = {{{1, 20, 30, 40}, {no, no, 30, 40}, nullptr}, {{1, 50, 60}, {no, 50, 60}, &visual}, {{1, 70}, {no, 70}, nullptr}};
    double sum = 0;
    for (const Merv::Sample& s : samples) sum += double(m.loss(std::span(&s, 1), {.count = 1000}).data<float>()[0]) * 1000;
    const double together = double(m.loss(samples).data<float>()[0]);
    EXPECT_LT(std::fabs(together - sum / 5) / together, 3e-7);
    // what stands where: the loss from logits of the spliced rows
    const Tensor rows = m.splice(samples[1].ids, &visual);      // BOS, five visual tokens, 50, 60
    const Tensor logits = m.llm.logits(m.llm.forward(rows, {8}));
    const Tensor want = nn::cross_entropy(logits, from_ints(std::vector<int32_t>{no, no, no, no, no, 50, 60, no}));
    EXPECT_EQ(want.data<float>()[0], m.loss(std::span(&samples[1], 1)).data<float>()[0]);
}
