#include "train/checkpoint.h"
#include <algorithm>
#include <filesystem>
#include "core/json.h"
#include "core/version.h"
#include "weights/file.h"
#include "weights/hash.h"
#include "weights/safetensors.h"

namespace merv::train {
namespace {

namespace fs = std::filesystem;
const std::string kModel = "model.safetensors", kOptimizer = "optimizer.safetensors";

std::string sha256_of(const std::string& path) {
    Sha256 sum;
    sum.add(MappedFile::open(path, "a checkpoint's file")->bytes());
    return sum.hex();
}

std::string step_name(int64_t step) {
    char name[32];
    std::snprintf(name, sizeof name, "step-%06lld", static_cast<long long>(step));
    return name;
}

// Complete checkpoints, the oldest first.
std::vector<std::pair<int64_t, std::string>> complete(const std::string& checkpoints) {
    std::vector<std::pair<int64_t, std::string>> all;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(checkpoints, error)) {
        const std::string name = entry.path().filename().string();
        if (name.starts_with("step-") && name.find_first_not_of("0123456789", 5) == name.npos && name.size() > 5 && exists(entry.path().string() + "/DONE"))
            all.emplace_back(std::stoll(name.substr(5)), entry.path().string());
    }
    std::sort(all.begin(), all.end());
    return all;
}

std::string trimmed(std::string text) {
    while (!text.empty() && (text.back() == '\n' || text.back() == '\r' || text.back() == ' ')) text.pop_back();
    return text;
}
std::string pointed_at(const std::string& checkpoints) {        // the folder that `latest` names; "" without one
    const std::string latest = checkpoints + "/latest";
    if (!exists(latest)) return "";
    const std::string name = trimmed(read_text(latest, 4096, Exit::bad_weights));
    if (name.empty() || name.find('/') != name.npos || !exists(checkpoints + "/" + name + "/DONE"))
        fail(Exit::bad_weights, latest, ": names '", brief(name), "', which is no complete checkpoint there; write the name of one that is into it, or give --resume PATH");
    return checkpoints + "/" + name;
}

}

std::string save_checkpoint(const std::string& run, const Optimizer& optimizer, const Progress& p, const std::string& config_json, const std::string& model_dir, int64_t keep) {
    const std::string checkpoints = run + "/checkpoints", folder = checkpoints + "/" + step_name(p.step);
    std::error_code error;
    fs::create_directories(checkpoints, error);
    if (error) fail(Exit::runtime, checkpoints, ": cannot be made: ", error.message());
    if (exists(folder + "/DONE") && exists(checkpoints + "/latest") && pointed_at(checkpoints) == folder) return folder;     // this very state
    fs::remove_all(folder, error);              // of a run that was killed before `latest` named it
    NewFolder made(folder);
    std::vector<std::pair<std::string, Tensor>> model, moments;
    for (auto& [name, tensor] : optimizer.state()) {
        if (name.starts_with("master/")) model.emplace_back(name.substr(7), tensor.to(Device::cpu));
        else moments.emplace_back(name, tensor.to(Device::cpu));
    }
    write_safetensors(made.path() + "/" + kModel, model, {{"format", "pt"}});
    write_safetensors(made.path() + "/" + kOptimizer, moments, {{"format", "pt"}});
    Json state;
    state["format"] = 1;
    state["step"] = p.step, state["updates"] = p.updates, state["epoch"] = p.epoch, state["batch"] = p.batch;
    state["samples"] = p.samples, state["skipped"] = p.skipped, state["substituted"] = p.substituted;
    state["running_loss"] = p.running_loss, state["recent"] = p.recent;
    state["model_dir"] = model_dir;
    state["config"] = Json::parse(config_json);
    state["merv_cpp"] = kVersion;
    state["sha256"] = {{kModel, sha256_of(made.path() + "/" + kModel)}, {kOptimizer, sha256_of(made.path() + "/" + kOptimizer)}};
    const std::string text = state.dump(2) + "\n";
    write_text(made.path() + "/state.json", text);
    Sha256 sum;
    sum.add(std::as_bytes(std::span(text.data(), text.size())));
    write_text(made.path() + "/DONE", sum.hex() + "  state.json\n");
    made.commit();
    write_text(checkpoints + "/latest", step_name(p.step) + "\n");
    if (keep > 0) {
        const auto all = complete(checkpoints);
        for (size_t i = 0; i + size_t(keep) < all.size(); i++) if (all[i].second != folder) fs::remove_all(all[i].second, error);
    }
    return folder;
}

Saved find_checkpoint(const std::string& which, const std::string& run) {
    Saved saved;
    saved.folder = which == "auto" ? pointed_at(run + "/checkpoints") : exists(which + "/checkpoints") ? pointed_at(which + "/checkpoints") : exists(which + "/latest") ? pointed_at(which) : which;
    if (saved.folder.empty() && which == "auto") return saved;
    const std::string& folder = saved.folder;
    if (folder.empty() || !exists(folder + "/state.json")) fail(Exit::bad_weights, which, ": is no checkpoint; give a folder like RUN/checkpoints/step-000512, or the run's");
    if (!exists(folder + "/DONE")) fail(Exit::bad_weights, folder, ": is incomplete (no DONE); give an earlier one");
    const std::string text = read_text(folder + "/state.json");
    Sha256 sum;
    sum.add(std::as_bytes(std::span(text.data(), text.size())));
    if (!read_text(folder + "/DONE", 4096).starts_with(sum.hex())) fail(Exit::bad_weights, folder, "/state.json: is not what was written (its sha256 differs from the one in DONE); give an earlier checkpoint");
    const Json state = parse_json(text, folder + "/state.json");
    try {
        if (state.at("format") != 1) fail(Exit::bad_weights, folder, "/state.json: format ", state.at("format").dump(), "; this program reads 1");
        for (const auto& [file, hash] : state.at("sha256").items()) {
            if (!exists(folder + "/" + file)) fail(Exit::bad_weights, folder, "/", file, ": is missing; give an earlier checkpoint");
            if (sha256_of(folder + "/" + file) != hash.get<std::string>()) fail(Exit::bad_weights, folder, "/", file, ": is damaged (its sha256 differs from the one in state.json); give an earlier checkpoint");
        }
        Progress& p = saved.progress;
        p.step = state.at("step"), p.updates = state.at("updates"), p.epoch = state.at("epoch"), p.batch = state.at("batch"), p.samples = state.at("samples"), p.skipped = state.at("skipped");
        p.substituted = state.at("substituted"), p.running_loss = state.at("running_loss"), p.recent = state.at("recent").get<std::vector<double>>();
        saved.config_json = state.at("config").dump(2) + "\n";
        saved.model_dir = state.at("model_dir");
    } catch (const Json::exception& e) {
        fail(Exit::bad_weights, folder, "/state.json: ", json_syntax_error(e));
    }
    return saved;
}

std::map<std::string, Tensor> read_trained(const std::string& folder) {
    std::map<std::string, Tensor> all;
    const auto file = SafeTensors::open(folder + "/" + kModel);
    for (const auto& [name, entry] : file->entries()) all[name] = file->tensor(name);
    return all;
}

void load_checkpoint(const Saved& saved, Optimizer& optimizer) {
    std::map<std::string, Tensor> state;
    for (const auto& [name, tensor] : read_trained(saved.folder)) state["master/" + name] = tensor;
    const auto moments = SafeTensors::open(saved.folder + "/" + kOptimizer);
    for (const auto& [name, entry] : moments->entries()) state[name] = moments->tensor(name);
    std::vector<std::string> wrong;
    for (const auto& [name, tensor] : optimizer.state()) {
        const auto found = state.find(name);
        if (found == state.end() || !(found->second.shape() == tensor.shape()) || found->second.dtype() != DType::f32) wrong.push_back(name);
    }
    if (!wrong.empty() || state.size() != optimizer.state().size())
        fail(Exit::bad_weights, saved.folder, ": holds ", state.size(), " tensors, this run trains ", optimizer.state().size(), wrong.empty() ? "" : concat("; '", brief(wrong[0]), "' is missing or of another shape"),
             "; resume with the stage and model that it was made with");
    optimizer.restore(state);
    optimizer.steps = saved.progress.updates;
}

}
