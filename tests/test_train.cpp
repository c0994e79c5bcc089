// The trainer's step: ten of them against PyTorch's (tests/golden/training.py), and the choices that must not change a bit.
#include "tests/vectors.h"
#include "core/autograd.h"
#include "tests/run_program.h"
#include "tests/sketch.h"
#include "train/trainer.h"

using namespace merv;
using namespace merv::test;
using namespace merv::train;

namespace {

struct Golden {
    std::shared_ptr<SafeTensors> file = SafeTensors::open(golden("training.safetensors"));
    std::vector<int32_t> ints(const std::string& name) const {
        const Tensor t = file->tensor(name);
        return {t.data<int32_t>(), t.data<int32_t>() + t.numel()};
    }
    std::pair<double, double> step(const std::string& name, int64_t i) const {      // f64's value, f32's error
        const float* v = file->tensor(name).data<float>() + 2 * i;
        return {double(v[0]), double(v[1])};
    }
    double worst(const std::string& name, int64_t steps) const {                    // f32's largest relative error so far: at one step PyTorch may be lucky
        double most = 0;
        for (int64_t i = 0; i <= steps; i++) most = std::max(most, step(name, i).second / std::max(1e-30, std::fabs(step(name, i).first)));
        return most;
    }
};

struct Tiny {
    LoadedModel loaded = load_model(golden("merv-tiny"), {.dtype = DType::f32});
    Clip clip = read_clip("data/samples/nasa_jwst.mp4", 32);
    std::vector<Shown> shown = loaded.merv.look(clip, {});
    bool encodes = false;                       // by the trainer; else once for all of them
    Golden want;
    const Encoded& encoded() const {
        static const Encoded made = loaded.merv.encode(shown, {});
        return made;
    }
    Example sample(int64_t i) const {
        Example e{.index = i, .id = std::to_string(i), .clip_key = "", .ids = want.ints(concat("sample.", i, ".ids")), .labels = want.ints(concat("sample.", i, ".labels")), .multimodal = i != 2 && i != 4};
        if (e.multimodal && encodes) e.shown = shown;
        else if (e.multimodal) e.encoded = encoded();
        return e;
    }
    // Steps 0 .. steps - 1 of a fresh trainer, four samples each
    std::vector<StepReport> run(Trainer& trainer, int64_t steps, int64_t first = 0) const {
        std::vector<StepReport> all;
        for (int64_t s = first; s < steps; s++) {
            int64_t i = 0;
            all.push_back(trainer.step(s, [&] { return std::optional(sample((4 * s + i++) % 6)); }));
        }
        return all;
    }
};
RunConfig settings(const std::vector<std::string>& more = {}) {
    std::vector<std::string> all = {"stage=finetune", "dtype=f32", "global_batch_size=4", "per_device_batch_size=2", "learning_rate=1e-4", "weight_decay=0.1", "warmup_ratio=0.2", "buckets=2"};
    all.insert(all.end(), more.begin(), more.end());
    return read_run_config("", all);
}
std::map<std::string, Tensor> parameters(const Trainer& t) {
    std::map<std::string, Tensor> all;
    for (const Parameter& p : t.optimizer.parameters) {
        Tensor copy(p.value.shape());
        copy.copy_from(p.master.reshape(p.value.shape()));
        all[p.name] = copy;
    }
    return all;
}

}

TEST_CASE("training: ten steps of merv-tiny are PyTorch's, exact and as the reference counts") {
    const Golden want;
    for (const std::string way : {"exact", "reference"}) {
        Tiny tiny;
        const RunConfig config = settings(way == "exact" ? std::vector<std::string>{} : std::vector<std::string>{"reference_quirks=[accumulation,weight-decay]"});
        Trainer trainer(config, tiny.loaded.merv, 10);
        const std::vector<StepReport> steps = tiny.run(trainer, 10);
        for (int64_t i = 0; i < 10; i++) {
            const StepReport& s = steps[size_t(i)];
            INFO(way << ", step " << i);
            const auto [loss, ignored] = want.step(way + ".loss", i);
            const auto [norm, also] = want.step(way + ".norm", i);
            EXPECT_LE(std::fabs(s.loss - loss) / loss, 1e-5);
            EXPECT_LE(std::fabs(s.norm - norm) / norm, std::max(1e-5, 2 * want.worst(way + ".norm", i)));
            EXPECT_LE(std::fabs(s.learning_rate - want.step(way + ".rate", i).first), 1e-11);       // the golden number is f32's
        }
        double worst = 0;
        std::string where;
        size_t n = 0;
        for (const auto& [name, p] : parameters(trainer)) {
            const Tensor g = want.file->tensor(way + "/" + name), gradient = want.file->tensor("first/" + name);
            const double size = double(g.data<float>()[0]), error = double(g.data<float>()[1]);
            const bool dead = gradient.data<float>()[0] <= gradient.data<float>()[1] * 10;          // zero by mathematics: AdamW makes noise into steps of its rate
            const double limit = std::max({2 * error, 1e-5 * size, dead ? 10 * 1e-4 * std::sqrt(double(p.numel())) : 0});
            const double off = distance(p, g);
            EXPECT_MESSAGE(off <= limit, way, " ", name, ": off by ", off, ", limit ", limit);
            if (off / limit > worst) worst = off / limit, where = name;
            n++;
        }
        EXPECT_EQ(n, 33);                       // and three that nothing depends on
        for (const auto& [key, entry] : want.file->entries()) if (key.starts_with("first/")) n -= !(want.file->tensor(key).data<float>()[0] == 0);
        EXPECT_EQ(n, 0);
        std::printf("  %-9s last loss %.6f, worst parameter at %.0f%% of its limit: %s\n", way.c_str(), steps.back().loss, 100 * worst, where.c_str());
    }
}

TEST_CASE("training: padding, company, recomputation and repeated frames do not change a bit") {
    std::map<std::string, Tensor> first;
    std::vector<StepReport> reports;
    for (const std::vector<std::string>& more : {std::vector<std::string>{}, {"without=packed-rows"}, {"recompute=none"}, {"recompute=norms"}, {"without=image-dedupe"}}) {
        Tiny tiny;
        tiny.encodes = more == std::vector<std::string>{"without=image-dedupe"};
        const RunConfig config = settings(more);
        Trainer trainer(config, tiny.loaded.merv, 10);
        const std::vector<StepReport> steps = tiny.run(trainer, 2);
        const auto now = parameters(trainer);
        if (first.empty()) first = now, reports = steps;
        INFO((more.empty() ? "" : more[0]));
        for (size_t i = 0; i < steps.size(); i++) {
            EXPECT_EQ(steps[i].loss, reports[i].loss);
            EXPECT_EQ(steps[i].norm, reports[i].norm);
        }
        for (const auto& [name, p] : now) expect_same_bits(p, first.at(name));
    }
}

TEST_CASE("training: a run from a checkpoint goes on with the same bits, at every step") {
    const TempDir folder;
    const std::string run = folder / "run";
    Tiny whole;
    const RunConfig config = settings();
    Trainer uninterrupted(config, whole.loaded.merv, 10);
    for (int64_t s = 0; s < 4; s++) {
        whole.run(uninterrupted, s + 1, s);
        Progress p;
        p.step = p.updates = s + 1;
        save_checkpoint(run, uninterrupted.optimizer, p, to_json(config), golden("merv-tiny"), 0);
    }
    for (int64_t s = 1; s < 4; s++) {
        Tiny again;
        Trainer resumed(config, again.loaded.merv, 10);
        const Saved saved = find_checkpoint(concat(run, "/checkpoints/step-00000", s), run);
        EXPECT_EQ(saved.progress.step, s);
        load_checkpoint(saved, resumed.optimizer);
        again.run(resumed, 4, s);
        const auto want = parameters(uninterrupted);
        for (const auto& [name, p] : parameters(resumed)) expect_same_bits(p, want.at(name));
    }
    EXPECT(find_checkpoint("auto", run).folder.ends_with("step-000004"));
}

TEST_CASE("training: the learning rate at the beginning, at the end of the warmup, in the middle and at the end") {
    // merv.md 6.3: 765k samples in batches of 128 are 5977 steps, the warmup of 0.03 is 179
    const int64_t steps = 5977, warmup = 179;
    EXPECT_EQ(cosine_with_warmup(0, steps, 0.03), 0);
    EXPECT_EQ(cosine_with_warmup(1, steps, 0.03), 1.0 / double(warmup));
    EXPECT_EQ(cosine_with_warmup(warmup - 1, steps, 0.03), double(warmup - 1) / double(warmup));
    EXPECT_EQ(cosine_with_warmup(warmup, steps, 0.03), 1);
    EXPECT_LT(std::fabs(cosine_with_warmup((steps + warmup) / 2, steps, 0.03) - 0.5), 1e-15);
    EXPECT_LT(std::fabs(cosine_with_warmup(steps - 1, steps, 0.03) - 0.5 * (1 - std::cos(3.141592653589793 / double(steps - warmup)))), 1e-15);
    EXPECT_LT(cosine_with_warmup(steps, steps, 0.03), 1e-15);
    EXPECT_EQ(cosine_with_warmup(0, 10, 0), 1); // no warmup
}

TEST_CASE("feature cache: the features have their bits, a damaged file is computed afresh, other settings have other keys") {
    const TempDir dir;
    Tiny tiny;
    const std::string clip = dir / "clip.mp4";
    std::filesystem::copy_file("data/samples/nasa_jwst.mp4", clip);
    const FeatureCache cache(dir / "cache", tiny.loaded.merv);
    const std::string key = cache.key(clip, {}, false);
    EXPECT_FALSE(cache.find(key).has_value());
    cache.keep(key, tiny.encoded());
    const auto found = cache.find(key);
    REQUIRE(found.has_value());
    for (size_t i = 0; i < found->pooled.size(); i++) expect_same_bits(found->pooled[i], tiny.encoded().pooled[i]);
    // the key: the clip's bytes and range, the flip, the model; not the clip's name
    std::filesystem::copy_file(clip, dir / "other.mp4");
    EXPECT_EQ(cache.key(dir / "other.mp4", {}, false), key);
    EXPECT_NE(cache.key(clip, {}, true), key);
    EXPECT_NE(cache.key(clip, {.end = 1.0}, false), key);
    LoadedModel half = load_model(golden("merv-tiny"), {.dtype = DType::bf16});
    EXPECT_NE(FeatureCache(dir / "cache", half.merv).key(clip, {}, false), key);
    Tiny changed;
    Tensor& weight = std::get<Vit>(changed.loaded.merv.encoders[1].model).blocks[0].fc1.weight;
    Tensor own(weight.shape(), weight.dtype());
    own.copy_from(weight);
    own.data<float>()[0] += 1;
    weight = own;
    EXPECT_NE(FeatureCache(dir / "cache", changed.loaded.merv).key(clip, {}, false), key);
    const std::string path = concat(dir / "cache", "/", key.substr(0, 2), "/", key, ".safetensors");
    std::string bytes = read_file(path);
    bytes[bytes.size() - 100] ^= 1;
    write_file(path, bytes);
    EXPECT_FALSE(cache.find(key).has_value());
    EXPECT_FALSE(std::filesystem::exists(path));
}

TEST_CASE("WatchOps: sees what each op makes and each gradient on its way, in its scope alone") {
    std::vector<std::string> seen;
    Tensor x = from_floats(std::vector<float>{1, 2}, {2}), y;
    x.set_needs_grad();
    {
        const WatchOps watch([&](const char* op, const Tensor& v, bool gradient) { seen.push_back(concat(op, gradient ? "' " : " ", to_floats(v)[0])); });
        y = nn::add(nn::add(x, x), x);
        Tape::current().backward(y, y.detach());
    }
    nn::add(x, x);
    EXPECT(seen == std::vector<std::string>{"add 2", "add 3", "add' 3", "add' 3"});
    Tape::current().clear();
}
