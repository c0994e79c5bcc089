// The trainer's step: ten of them against PyTorch's (tests/golden/training.py), and the choices that must not change a bit.
#include "tests/vectors.h"
#include "core/autograd.h"
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
