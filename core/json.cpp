#include "core/json.h"
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>

namespace merv {
namespace {

// The library's own parser keeps the last of two equal keys and knows no depth limit; its events let us refuse both.
class Builder final : public nlohmann::json_sax<Json> {
  public:
    Builder(const std::string& where, int depth, Exit code) : where_(where), depth_(size_t(depth)), code_(code) {}
    Json root;

    bool null() override { return put(nullptr); }
    bool boolean(bool v) override { return put(v); }
    bool number_integer(number_integer_t v) override { return put(v); }
    bool number_unsigned(number_unsigned_t v) override {
        if (v > uint64_t(INT64_MAX)) fail(code_, where_, ": ", v, at(), " is beyond 64-bit integers");
        return put(int64_t(v));
    }
    bool number_float(number_float_t v, const string_t& text) override {
        if (text.find_first_of(".eE") == std::string::npos) fail(code_, where_, ": ", brief(text, 40), at(), " is beyond 64-bit integers");
        return put(v);
    }
    bool string(string_t& v) override { return put(std::move(v)); }
    bool binary(binary_t&) override { return false; }           // not in JSON text
    bool start_object(size_t) override { return open(Json::object()); }
    bool start_array(size_t) override { return open(Json::array()); }
    bool end_object() override { open_.pop_back(); return true; }
    bool end_array() override { open_.pop_back(); return true; }
    bool key(string_t& k) override {
        if (!open_.back().keys.insert(k).second) fail(code_, where_, ": the key \"", brief(k), "\" is there twice");
        key_ = std::move(k);
        return true;
    }
    bool parse_error(size_t, const std::string&, const nlohmann::json::exception& e) override { fail(code_, where_, ": not JSON: ", json_syntax_error(e)); }

  private:
    struct Open { Json* value; std::set<std::string> keys; };
    std::string at() const { return !open_.empty() && open_.back().value->is_object() ? concat(" (key \"", brief(key_), "\")") : ""; }
    // Pointers to open containers stay valid: a container grows only while everything inside it is closed.
    Json* place(Json&& v) {
        if (open_.empty()) return &(root = std::move(v));
        Json& parent = *open_.back().value;
        if (parent.is_array()) return &parent.get_ref<Json::array_t&>().emplace_back(std::move(v));
        // ordered_json finds keys by walking; they are known to be new here, so append to its vector.
        auto& members = parent.get_ref<Json::object_t&>();
        members.Json::object_t::Container::emplace_back(key_, std::move(v));
        return &members.back().second;
    }
    bool put(Json&& v) { place(std::move(v)); return true; }
    bool open(Json&& container) {
        if (open_.size() >= depth_) fail(code_, where_, ": nested deeper than ", depth_, " levels");
        open_.push_back({place(std::move(container)), {}});
        return true;
    }
    const std::string& where_;
    size_t depth_;
    Exit code_;
    std::vector<Open> open_;
    std::string key_;
};

}

std::string brief(std::string_view name, size_t most) {
    std::string text(name.substr(0, most));
    for (size_t at; (at = text.find('\0')) != text.npos;) text.replace(at, 1, "\xEF\xBF\xBD");       // it would end the message
    return name.size() <= most ? text : text + "...";
}

std::string json_syntax_error(const nlohmann::json::exception& e) {
    std::string_view text = e.what();
    const size_t tag = text.find("] ");
    return brief(tag == std::string_view::npos ? text : text.substr(tag + 2), 200);
}

bool exists(const std::string& path) {
    std::error_code ignored;
    return std::filesystem::exists(path, ignored);
}
std::string read_text(const std::string& path, size_t most, Exit code) {
    std::error_code error;
    const auto status = std::filesystem::status(path, error);
    if (!std::filesystem::exists(status)) fail(code, path, ": ", status.type() == std::filesystem::file_type::not_found ? "no such file" : error.message());
    if (!std::filesystem::is_regular_file(status))
        fail(code, path, ": a file is expected, this is a ", std::filesystem::is_directory(status) ? "folder" : "special file");
    std::ifstream in(path, std::ios::binary);
    if (!in) fail(code, path, ": cannot be opened: ", std::strerror(errno));
    std::string text;
    char block[1 << 16];
    while (in.read(block, sizeof block), in.gcount() > 0) {
        text.append(block, size_t(in.gcount()));
        if (text.size() > most) fail(code, path, ": larger than ", most, " bytes, the most that is read of such a file");
    }
    if (in.bad()) fail(code, path, ": cannot be read: ", std::strerror(errno));
    return text;
}

Json parse_json(std::string_view text, const std::string& where, JsonLimits limits, Exit code) {
    if (text.size() > limits.bytes) fail(code, where, ": ", text.size(), " bytes of JSON; at most ", limits.bytes, " are read");
    if (text.find('\0') != text.npos) fail(code, where, ": not JSON: a zero byte");      // the library takes it for the end
    Builder builder(where, limits.depth, code);
    Json::sax_parse(text.begin(), text.end(), &builder);
    return std::move(builder.root);
}

Json read_json(const std::string& path, JsonLimits limits, Exit code) { return parse_json(read_text(path, limits.bytes, code), path, limits, code); }

}
