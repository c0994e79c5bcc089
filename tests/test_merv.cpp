// The whole model, stage by stage, against PyTorch's run of the reference's classes: merv-tiny on two real clips and a still
// image (tests/golden/make.py). Each golden file also holds how far PyTorch's f32 run was from its own f64 run.
#include "tests/compare.h"
#include "core/cuda.h"
#include "core/log.h"
#include "models/load.h"
#include "models/prompt.h"
#include "tests/runtime_reports.h"
#include "weights/safetensors.h"

using namespace merv;
using namespace merv::test;

namespace {

Tensor every(const Tensor& x, int64_t step) {   // every step-th row
    std::vector<int32_t> index;
    for (int64_t i = 0; i < x.dim(0); i += step) index.push_back(int32_t(i));
    return select_frames(x, index);
}

// Two f32 runs, each as far from the truth as PyTorch's was, lie at most twice that apart; ours may be half as far again.
double rounding(const SafeTensors& expected, const std::string& stage) { return 2.5 * std::stod(expected.metadata().at("err.f32." + stage)); }

struct Run {
    std::map<std::string, Tensor> stages;
    Visual visual;
    std::vector<int32_t> prompt_tokens, tokens;
    Tensor logits;
};

Run run(const Merv& m, const Clip& clip, size_t longest) {
    Run r;
    r.visual = m.see(clip, {}, {.on_stage = [&](const Stage& s) { r.stages[s.name] = s.value; }, .wants_pixels = true});
    r.prompt_tokens = {1};
    for (int32_t id : m.tokenizer.encode(wrap_question(PromptBuilder::pure, "What is happening in the video?"))) r.prompt_tokens.push_back(id);
    const Tensor embeds = r.stages["embeds"] = m.splice(r.prompt_tokens, &r.visual);
    KvCache cache = m.llm.cache(embeds.dim(0) + int64_t(longest));
    const Tensor hidden = m.llm.forward(embeds, cache);
    r.logits = m.llm.logits(hidden.slice(hidden.dim(0) - 1, hidden.dim(0)));
    r.tokens = generate(m.llm, cache, r.logits, {.max_tokens = int64_t(longest), .sampling = {}, .stop = {2}});
    return r;
}

void compare(const Merv& m, const Clip& clip, const std::string& name) {
    NoGrad inference;
    const auto want = SafeTensors::open(golden("merv-tiny-expected/" + name + ".safetensors"));
    const Tensor tokens = want->tensor("tokens"), indices = want->tensor("frame_indices");
    const Run r = run(m, clip, 48);
    std::printf("%s\n", name.c_str());
    for (int64_t i = 0; i < indices.numel(); i++) EXPECT_EQ(clip.indices[size_t(i)], indices.data<int32_t>()[i]);
    for (const char* e : {"languagebind", "dinov2", "vivit", "siglip"}) {
        const std::string E = e;
        const Tensor pixels = r.stages.at("pixels." + E), sampled = every(pixels.reshape({pixels.numel(), 1}), 1009), golden_pixels = want->tensor("pixels." + E + ".every1009");
        if (E == "languagebind") expect_close("pixels.languagebind", sampled, golden_pixels, 1e-6);     // torch's float resize (encoders.md 9.3)
        else expect_same_bits(sampled, golden_pixels);
        for (const std::string& stage : {"features." + E, "projected." + E})
            expect_close(stage.c_str(), every(r.stages.at(stage), 16), want->tensor(stage + ".every16"), rounding(*want, stage));
    }
    for (const std::string stage : {"fused", "embeds"}) {
        const Tensor x = r.stages.at(stage);
        expect_close(stage.c_str(), every(x, 16), want->tensor(stage + ".every16"), rounding(*want, stage));
    }
    expect_close("fusion weights", from_floats(r.visual.weights, {4}), want->tensor("fusion_weights"), rounding(*want, "fusion_weights"));
    expect_close("logits", r.logits, want->tensor("logits"), rounding(*want, "logits"));
    const Tensor prompt = want->tensor("prompt_tokens");
    EXPECT(r.prompt_tokens == std::vector<int32_t>(prompt.data<int32_t>(), prompt.data<int32_t>() + prompt.numel()));
    EXPECT(r.tokens == std::vector<int32_t>(tokens.data<int32_t>(), tokens.data<int32_t>() + tokens.numel()));
}

const Merv& tiny() {
    static const LoadedModel loaded = load_model(golden("merv-tiny"), {.dtype = DType::f32});
    return loaded.merv;
}

}

TEST_CASE("merv-tiny on a clip of NASA's: every stage and every token equal PyTorch's") {
    compare(tiny(), read_clip("data/samples/nasa_jwst.mp4", 32), "nasa_jwst");
}
TEST_CASE("merv-tiny on another clip: other tokens, PyTorch's") {
    if (const std::string path = shared("data/video/bikes.mp4"); !path.empty()) compare(tiny(), read_clip(path, 32), "bikes");
}
TEST_CASE("merv-tiny on a still image equals PyTorch's run on 32 copies, encoding one frame where that is exact") {
    const std::string path = shared("data/images/chelsea.png");
    if (path.empty()) return;
    const Clip clip = still_clip(path, 32);
    compare(tiny(), clip, "chelsea");
    NoGrad inference;
    EXPECT(tiny().see(clip, {}).frames_encoded == std::vector<int64_t>{16, 1, 32, 1});
}

// Half a minute of one core with kernels in fast mode on the emulated CUDA runtime, many more in checked mode; so only in `make soak`
TEST_CASE("merv-tiny on a CUDA device: PyTorch's first twelve tokens" * doctest::skip(!std::getenv("MERV_TEST_SOAK"))) {
    if (!has_cuda_backend()) return skip("no CUDA backend");
    open_cuda(0);
    const OnDevice on(Device::cuda);
    const NoGrad inference;
    const auto want = SafeTensors::open(golden("merv-tiny-expected/nasa_jwst.safetensors"));
    const LoadedModel loaded = load_model(golden("merv-tiny"), {.dtype = DType::f32});
    const Merv& m = loaded.merv;
    const Visual visual = m.see(read_clip("data/samples/nasa_jwst.mp4", 32), {});
    const Tensor prompt = want->tensor("prompt_tokens"), tokens = want->tensor("tokens");
    const Tensor embeds = m.splice({prompt.data<int32_t>(), prompt.data<int32_t>() + prompt.numel()}, &visual);
    KvCache cache = m.llm.cache(embeds.dim(0) + 12);
    const Tensor hidden = m.llm.forward(embeds, cache);
    const std::vector<int32_t> ours = generate(m.llm, cache, m.llm.logits(hidden.slice(hidden.dim(0) - 1, hidden.dim(0))), {.max_tokens = 12, .sampling = {}, .stop = {}});
    EXPECT(ours == std::vector<int32_t>(tokens.data<int32_t>(), tokens.data<int32_t>() + 12));
    EXPECT_EQ(runtime_reports(), 0);
}

TEST_CASE("LanguageBind's flip mirrors its pixels and nothing else") {
    NoGrad inference;
    const Clip clip = read_clip("data/samples/nasa_jwst.mp4", 32);
    std::map<std::string, Tensor> plain, flipped;
    auto see = [&](bool flip, std::map<std::string, Tensor>& to) {
        tiny().see(clip, {.flip = flip}, {.on_stage = [&](const Stage& s) { if (s.name.starts_with("pixels.")) to[s.name] = s.value; }, .wants_pixels = true});
    };
    see(false, plain), see(true, flipped);
    for (const char* e : {"pixels.dinov2", "pixels.vivit", "pixels.siglip"}) expect_same_bits(plain[e], flipped[e]);
    const float *a = plain["pixels.languagebind"].data<float>(), *b = flipped["pixels.languagebind"].data<float>();
    bool mirrored = true;
    for (int64_t row = 0; row < 3 * 16 * 224; row++)
        for (int64_t x = 0; x < 224; x++) mirrored &= a[row * 224 + x] == b[row * 224 + 223 - x];
    EXPECT(mirrored);
}
