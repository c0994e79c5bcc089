// GGUF files (llama.cpp's): magic, version 2 or 3, counts, metadata as typed key-value pairs, tensor descriptions, then the
// values. A file is mapped read-only; every count, length, type and offset is checked against its size before anything is
// built on it. Format: https://github.com/ggml-org/ggml (docs/gguf.md).
#pragma once
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>
#include "weights/safetensors.h"

namespace merv {

bool is_gguf(const std::string& path);          // a file whose name says so

class Gguf {
  public:
    static std::shared_ptr<Gguf> open(const std::string& path);     // Error(Exit::bad_weights): "<path>: what; what to do"
    // The same from bytes that may hold anything and must outlive the result; `name` stands for the path in messages.
    static Gguf parse(std::span<const std::byte> bytes, const std::string& name);

    const std::string& path() const { return path_; }
    // dtype is ggml's name of the type ("Q4_1"); the slowest dimension comes first, as everywhere here.
    const std::map<std::string, TensorEntry>& tensors() const { return tensors_; }

    // Metadata. Error(Exit::bad_weights) naming the key if it is there with another type or outside the limits.
    bool has(std::string_view key) const { return fields_.count(key) != 0; }
    int64_t integer(const std::string& key, int64_t least, int64_t most, std::optional<int64_t> fallback = {}) const;
    double number(const std::string& key, double least, double most, std::optional<double> fallback = {}) const;
    bool boolean(const std::string& key, bool fallback) const;
    std::string text(const std::string& key, std::optional<std::string> fallback = {}) const;
    std::vector<std::string_view> texts(const std::string& key) const;      // arrays; empty if absent
    std::vector<float> numbers(const std::string& key) const;
    std::vector<int32_t> integers(const std::string& key) const;

    // F32 and BF16 in place (copied if the address is not aligned); F16, Q8_0, Q4_0 and Q4_1 as an f32 copy. Other types:
    // Error naming them.
    Tensor tensor(const std::string& name) const;
    size_t bytes_read(const std::string& name) const;       // that it takes
    std::map<std::string, std::string> metadata() const;    // every key and its value, to be shown

  private:
    struct Value { uint32_t type = 0, element = 0; uint64_t count = 1; std::span<const std::byte> bytes = {}; };      // element, count: of arrays
    const Value* find(const std::string& key, const char* wanted, bool (*fits)(const Value&)) const;
    template <class... A> [[noreturn]] void bad(const std::string& key, const A&... what) const;

    std::string path_;
    std::map<std::string, Value, std::less<>> fields_;
    std::map<std::string, TensorEntry> tensors_;
    std::span<const std::byte> data_;           // the tensors' values
    std::shared_ptr<const void> keep_;          // the mapping
};

}
