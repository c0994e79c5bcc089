// safetensors files: 8 bytes little-endian header length N, N bytes of JSON {name: {dtype, shape, data_offsets}}, then the
// values back to back. A file is mapped read-only and its tensors are used where they lie; every field of the header is
// checked before anything is built on it. Format: https://github.com/huggingface/safetensors (README, "Format").
#pragma once
#include <functional>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>
#include "core/tensor.h"

namespace merv {

struct TensorEntry {
    std::string dtype;                          // as the header says: "F32", "BF16", "I64", ...
    std::vector<int64_t> shape;                 // at most Shape::max_rank dimensions
    size_t begin = 0, end = 0;                  // bytes, counted from the end of the header
};
float from_f16(uint16_t bits);                  // exact
bool is_float_dtype(const std::string& dtype);  // F64, F32, F16, BF16, F8_*; the others are integers, BOOL or complex

// Reads and checks a header. `file_start` holds at least the header; `file_size` is the size of the whole file.
// Error(Exit::bad_weights), beginning with `name`, for every deviation from the format.
std::map<std::string, TensorEntry> parse_safetensors_header(std::span<const std::byte> file_start, uint64_t file_size, const std::string& name,
                                                            std::map<std::string, std::string>* metadata = nullptr);

class SafeTensors {
  public:
    static std::shared_ptr<SafeTensors> open(const std::string& path);      // Error(Exit::bad_weights): "<path>: what; what to do"

    const std::string& path() const { return path_; }
    const std::map<std::string, TensorEntry>& entries() const { return entries_; }
    const std::map<std::string, std::string>& metadata() const { return metadata_; }
    // F32, BF16, U8 and I32 in place (the tensor keeps the mapping alive), copied if the address is not aligned to the element.
    // F16 becomes an f32 copy (exact), I64 an i32 copy if every value fits. Other dtypes: Error naming them.
    Tensor tensor(const std::string& name) const;

  private:
    std::string path_;
    std::map<std::string, TensorEntry> entries_;
    std::map<std::string, std::string> metadata_;
    std::shared_ptr<const std::byte> mapping_;
    size_t data_start_ = 0;                     // bytes from the start of the file
};

// Writes beside `path` under a temporary name, syncs and renames, so `path` never holds half a file. Every tensor starts
// aligned to its element, the first at a multiple of 64. Errors are Exit::runtime.
void write_safetensors(const std::string& path, const std::vector<std::pair<std::string, Tensor>>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

// The same file from tensors that need not be in memory at once: values(i, begin, end) returns the bytes [begin, end) of
// tensor i, which stay as they are until it is called again. It is called in the order of the file, for at most
// kWritePiece bytes of one tensor; begin is a multiple of kWritePiece.
struct TensorSpec { std::string name; DType dtype = DType::f32; Shape shape = {}; size_t bytes() const { return size_t(shape.numel()) * size_t(size_of(dtype)); } };
using TensorValues = std::function<const std::byte*(size_t i, size_t begin, size_t end)>;
inline constexpr size_t kWritePiece = size_t(16) << 20;
void write_safetensors(const std::string& path, std::span<const TensorSpec> tensors, const TensorValues& values,
                       const std::map<std::string, std::string>& metadata = {});

}
