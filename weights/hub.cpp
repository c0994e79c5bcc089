#include "weights/hub.h"
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include "core/json.h"

namespace merv {
namespace {
namespace fs = std::filesystem;

std::string variable(const char* name) {
    const char* value = std::getenv(name);
    return value ? value : "";
}
bool is_plain(const std::string& part) {        // an organisation's, a model's or a commit's name
    return !part.empty() && part[0] != '.' && part.size() <= 200 &&
           std::all_of(part.begin(), part.end(), [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '_' || c == '.'; });
}

}

std::string hub_cache() {
    if (const std::string s = variable("HF_HUB_CACHE"); !s.empty()) return s;
    if (const std::string s = variable("HF_HOME"); !s.empty()) return s + "/hub";
    if (const std::string s = variable("XDG_CACHE_HOME"); !s.empty()) return s + "/huggingface/hub";
    return variable("HOME") + "/.cache/huggingface/hub";
}

std::string find_model(const std::string& given, const std::string& what) {
    if (exists(given)) return given;
    const size_t first = given.find('/'), second = first == given.npos ? first : given.find('/', first + 1);
    const std::string org = given.substr(0, first), name = first == given.npos ? "" : given.substr(first + 1, second - first - 1);
    const std::string inner = second == given.npos ? "" : given.substr(second);
    if (!is_plain(org) || !is_plain(name) || inner.find("..") != inner.npos) fail(Exit::bad_weights, what, " ", given, ": no such file or folder; check the path");

    const std::string repository = concat(hub_cache(), "/models--", org, "--", name), id = org + "/" + name;
    if (!exists(repository))
        fail(Exit::bad_weights, what, " ", given, ": neither a path here nor in Hugging Face's cache (", repository, "); `huggingface-cli download ", id, "` puts it there, or give its folder");
    const std::string ref = repository + "/refs/main";
    if (!exists(ref)) fail(Exit::bad_weights, what, " ", given, ": ", ref, " is missing; `huggingface-cli download ", id, "` completes it, or give the folder of a snapshot");
    std::string commit = read_text(ref, 1000);
    commit.erase(std::min(commit.find_last_not_of(" \r\n") + 1, commit.size()));
    if (!is_plain(commit)) fail(Exit::bad_weights, ref, ": \"", brief(commit, 60), "\" is no commit; download the model again");
    const std::string folder = repository + "/snapshots/" + commit + inner;
    if (!exists(folder)) fail(Exit::bad_weights, what, " ", given, ": ", folder, " is missing; `huggingface-cli download ", id, "` completes it");
    return folder;
}

}
