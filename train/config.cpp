#include "train/config.h"
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <variant>
#include "core/json.h"

namespace merv::train {
namespace {

constexpr Choice kQuirks[] = {
    {"accumulation", "the mean of each micro-batch's mean loss, instead of the mean over all label tokens"},
    {"weight-decay", "decays nothing, as the reference does on more than one GPU"},
    {"drop-stage1", "carries the projectors alone from the checkpoint of an earlier stage"},
    {"lb-flip", "flips LanguageBind's frames left to right in half of the clips"},
    {"bad-sample", "a sample that cannot be read is replaced by another one"},
    {"sampler-world", "balances a batch over one rank instead of `buckets`, so the order depends on the number of ranks"},
    {"lr-align", "shows the learning rate that the next step will have"},
};
constexpr Choice kSavings[] = {
    {"image-dedupe", "per-frame encoders run each different frame once"},
    {"label-rows", "the language model's head runs on the rows that have a label"},
    {"packed-rows", "sequences lie one behind the other, without padding"},
};

using Member = std::variant<std::string RunConfig::*, int64_t RunConfig::*, double RunConfig::*, bool RunConfig::*, std::vector<std::string> RunConfig::*, std::vector<int64_t> RunConfig::*>;
struct Key { const char* name; Member member; double least = -1e300; };
const Key kKeys[] = {
    {"model_dir", &RunConfig::model_dir}, {"stage", &RunConfig::stage}, {"pretrained_checkpoint", &RunConfig::pretrained_checkpoint}, {"dataset", &RunConfig::dataset},
    {"media_root", &RunConfig::media_root}, {"dataset_id", &RunConfig::dataset_id}, {"model.num_frames", &RunConfig::num_frames, 1}, {"dtype", &RunConfig::dtype},
    {"epochs", &RunConfig::epochs, 1}, {"max_steps", &RunConfig::max_steps, 0}, {"global_batch_size", &RunConfig::global_batch_size, 1},
    {"per_device_batch_size", &RunConfig::per_device_batch_size, 1}, {"learning_rate", &RunConfig::learning_rate, 0}, {"weight_decay", &RunConfig::weight_decay, 0},
    {"max_grad_norm", &RunConfig::max_grad_norm, 0}, {"warmup_ratio", &RunConfig::warmup_ratio, 0}, {"lr_scheduler_type", &RunConfig::lr_scheduler_type},
    {"seed", &RunConfig::seed, 0}, {"buckets", &RunConfig::buckets, 1}, {"shuffle", &RunConfig::shuffle}, {"recompute", &RunConfig::recompute},
    {"reference_quirks", &RunConfig::reference_quirks}, {"without", &RunConfig::without}, {"feature_cache", &RunConfig::feature_cache},
    {"workers", &RunConfig::workers, 0}, {"prefetch", &RunConfig::prefetch, 1}, {"decode_timeout", &RunConfig::decode_timeout, 0}, {"on_bad_sample", &RunConfig::on_bad_sample},
    {"run_root", &RunConfig::run_root}, {"run_id", &RunConfig::run_id}, {"save_every", &RunConfig::save_every, 0}, {"keep", &RunConfig::keep, 0},
    {"val_dataset", &RunConfig::val_dataset}, {"val_every", &RunConfig::val_every, 0}, {"sample_every", &RunConfig::sample_every, 0}, {"samples", &RunConfig::samples, 1},
    {"sample_tokens", &RunConfig::sample_tokens, 1}, {"on_bad_step", &RunConfig::on_bad_step}, {"spike_factor", &RunConfig::spike_factor, 0},
};

int edit_distance(const std::string& a, const std::string& b) {
    std::vector<int> row(b.size() + 1);
    for (size_t j = 0; j <= b.size(); j++) row[j] = int(j);
    for (size_t i = 1; i <= a.size(); i++) {
        int diagonal = row[0]++;
        for (size_t j = 1; j <= b.size(); j++) {
            const int same = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = std::min({row[j] + 1, row[j - 1] + 1, same});
        }
    }
    return row[b.size()];
}

std::string in_words(const Member& m) {
    static const char* const kWords[] = {"a text", "a whole number", "a number", "true or false", "a text or a list of texts", "a whole number or a list of them"};
    return kWords[m.index()];
}
[[noreturn]] void wrong(const std::string& where, const Key& key, const Json& value) {
    fail(Exit::usage, where, ": ", key.name, " is ", brief(value.dump()), "; it takes ", in_words(key.member));
}

void set(RunConfig& c, const Key& key, const Json& value, const std::string& where) {
    auto checked = [&](const Json& v, auto as) {
        using T = decltype(as);
        const bool fits = std::is_same_v<T, bool> ? v.is_boolean() : std::is_same_v<T, std::string> ? v.is_string() : std::is_same_v<T, double> ? v.is_number() : v.is_number_integer();
        if (!fits) wrong(where, key, value);
        if (v.is_number() && !(v.get<double>() >= key.least && std::isfinite(v.get<double>()) && (!std::is_integral_v<T> || v.get<double>() < 1e15))) fail(Exit::usage, where, ": ", key.name, " is ", v.dump(), "; at least ", key.least, " is needed");
        return v.get<T>();
    };
    if (value.is_null()) return;                // the reference's None: the default
    std::visit([&]<class T>(T RunConfig::* member) {
        if constexpr (std::is_same_v<T, std::vector<std::string>> || std::is_same_v<T, std::vector<int64_t>>) {
            (c.*member).clear();
            for (const Json& v : value.is_array() ? value : Json::array({value})) (c.*member).push_back(checked(v, typename T::value_type()));
        } else c.*member = checked(value, T());
    }, key.member);
}

// Keys of the reference whose meaning ours cover
bool set_reference_key(RunConfig& c, const std::string& name, const Json& value, const std::string& where) {
    if (name == "enable_gradient_checkpointing") {
        if (!value.is_boolean()) fail(Exit::usage, where, ": ", name, " is ", brief(value.dump()), "; it takes true or false");
        c.recompute = value.get<bool>() ? "full" : "none";
    } else if (name == "save_checkpoint_after") {
        if (!value.is_number_unsigned()) fail(Exit::usage, where, ": ", name, " is ", brief(value.dump()), "; it takes a whole number");
        c.save_every = value.get<int64_t>();
    } else if (name == "run_root_dir") {
        if (!value.is_string()) fail(Exit::usage, where, ": ", name, " is ", brief(value.dump()), "; it takes a text");
        c.run_root = value.get<std::string>();
    } else return false;
    return true;
}

void assign(RunConfig& c, std::string name, const Json& value, const std::string& where) {
    if (name.starts_with("//")) return;         // a comment
    const std::string given = name;
    std::replace(name.begin(), name.end(), '-', '_');
    if (name == "num_frames") name = "model.num_frames";
    if (set_reference_key(c, name, value, where)) return;
    for (const Key& key : kKeys) if (name == key.name) return set(c, key, value, where);
    const std::string near = nearest_key(name);
    fail(Exit::usage, where, ": there is no setting '", brief(given), "'", near.empty() ? "" : concat("; did you mean '", near, "'?"), "; docs/training.md lists them");
}

void one_of(const char* key, const std::string& value, std::initializer_list<const char*> choices) {
    std::string list;
    for (const char* choice : choices) {
        if (value == choice) return;
        list += concat(list.empty() ? "" : ", ", choice);
    }
    fail(Exit::usage, "setting ", key, " is '", brief(value), "'; it takes one of: ", list);
}
void each_of(const char* key, const std::vector<std::string>& values, std::span<const Choice> choices) {
    for (const std::string& v : values) {
        std::string list;
        for (const Choice& c : choices) list += concat(list.empty() ? "" : ", ", c.name);
        if (std::none_of(choices.begin(), choices.end(), [&](const Choice& c) { return v == c.name; })) fail(Exit::usage, "setting ", key, " has '", brief(v), "'; it takes: ", list);
    }
}

}

std::span<const Choice> reference_quirks() { return kQuirks; }
std::span<const Choice> savings() { return kSavings; }

bool RunConfig::quirk(const std::string& name) const { return std::find(reference_quirks.begin(), reference_quirks.end(), name) != reference_quirks.end(); }
bool RunConfig::saves(const std::string& what) const { return std::find(without.begin(), without.end(), what) == without.end(); }
nn::Recompute RunConfig::recomputation() const { return recompute == "none" ? nn::Recompute::none : recompute == "norms" ? nn::Recompute::norms_and_gates : nn::Recompute::full; }

std::string nearest_key(const std::string& key) {
    std::string best;
    int least = int(key.size()) / 2 + 1;
    for (const Key& k : kKeys) if (const int d = edit_distance(key, k.name); d < least) least = d, best = k.name;
    return best;
}

RunConfig read_run_config(const std::string& path, const std::vector<std::string>& overrides) {
    RunConfig c;
    if (!path.empty()) {
        const Json file = read_json(path, {}, Exit::usage);
        if (!file.is_object()) fail(Exit::usage, path, ": holds no JSON object; a run's settings are {\"key\": value, ..}");
        for (const auto& [key, value] : file.items()) assign(c, key, value, path);
    }
    for (const std::string& o : overrides) {
        const size_t equals = o.find('=');
        if (equals == o.npos || equals == 0) fail(Exit::usage, "--set '", brief(o), "': KEY=VALUE is needed, as in --set max_steps=100");
        const std::string text = o.substr(equals + 1);
        Json value = Json::parse(text, nullptr, false);
        if (value.is_discarded()) value = text;
        if (text.size() > 1 && text.front() == '[' && !value.is_array()) {                              // [a,b] without quotes
            value = Json::array();
            for (size_t at = 1; at < text.size();) {
                const size_t end = std::min(text.find(',', at), text.size() - 1);
                if (end > at) value.push_back(text.substr(at, end - at));
                at = end + 1;
            }
        }
        assign(c, o.substr(0, equals), value, "--set");
    }
    std::replace(c.stage.begin(), c.stage.end(), '-', '_');
    if (c.stage == "full_align") c.stage = "full-align";
    one_of("stage", c.stage, {"align", "full-align", "finetune", "second_finetune"});
    one_of("dtype", c.dtype, {"auto", "bf16", "f32"});
    one_of("recompute", c.recompute, {"none", "norms", "full"});
    one_of("lr_scheduler_type", c.lr_scheduler_type, {"linear-warmup+cosine-decay", "constant"});
    one_of("on_bad_sample", c.on_bad_sample, {"fail", "skip", "substitute"});
    one_of("on_bad_step", c.on_bad_step, {"stop", "skip"});
    each_of("reference_quirks", c.reference_quirks, kQuirks);
    each_of("without", c.without, kSavings);
    if (c.quirk("bad-sample")) c.on_bad_sample = "substitute";
    if (c.quirk("sampler-world")) c.buckets = 1;
    if (c.global_batch_size % c.per_device_batch_size)
        fail(Exit::usage, "global_batch_size ", c.global_batch_size, " is no multiple of per_device_batch_size ", c.per_device_batch_size, "; change one of them");
    if (c.global_batch_size % c.buckets) fail(Exit::usage, "global_batch_size ", c.global_batch_size, " is no multiple of buckets ", c.buckets, "; change one of them");
    if (c.warmup_ratio > 1) fail(Exit::usage, "warmup_ratio is ", c.warmup_ratio, "; it is a share of all steps, 0 to 1");
    if (c.media_root.empty() && !c.dataset.empty()) c.media_root = std::filesystem::path(c.dataset[0]).parent_path().string();
    if (c.media_root.empty()) c.media_root = ".";
    if (c.dataset_id.empty() && !c.dataset.empty()) c.dataset_id = std::filesystem::path(c.dataset[0]).stem().string();
    return c;
}

std::string to_json(const RunConfig& c) {
    Json out;
    for (const Key& key : kKeys) std::visit([&](auto member) { out[key.name] = c.*member; }, key.member);
    return out.dump(2) + "\n";
}

}
