// A file of tensors by name, whatever its format: safetensors.h and torch_pickle.h read one each, and another format is another
// class like them plus a line in TensorFile::open. Headers are checked when a file is opened; values are read when asked for.
#pragma once
#include <functional>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>
#include "core/tensor.h"

namespace merv {

class MappedFile;

struct TensorEntry {
    std::string dtype;                          // as safetensors calls it: "F32", "BF16", "I64", ...
    std::vector<int64_t> shape;                 // at most Shape::max_rank dimensions
    size_t begin = 0, end = 0;                  // bytes: safetensors counts them from the end of the header, others from 0
};
float from_f16(uint16_t bits);                  // exact
bool is_float_dtype(const std::string& dtype);  // F64, F32, F16, BF16, F8_*; the others are integers, BOOL or complex
size_t dtype_bytes(const std::string& dtype);   // of one element; 0: no such dtype

// `count` values from one float dtype of files to another of f32 and bf16, rounding to nearest even. `from` is F32, BF16 or F16.
void convert_floats(const std::string& from, const std::byte* in, int64_t count, DType to, std::byte* out);

class TensorFile {
  public:
    // The format is told by the first bytes, not by the name. Error(Exit::bad_weights): "<path>: what; what to do".
    static std::shared_ptr<const TensorFile> open(const std::string& path);
    virtual ~TensorFile() = default;

    const std::string& path() const { return path_; }
    const std::map<std::string, TensorEntry>& entries() const { return entries_; }
    const std::map<std::string, std::string>& metadata() const { return metadata_; }

    // F32, BF16, U8 and I32 in place where the file has them packed and aligned (the tensor keeps the mapping alive), else a
    // copy. F16 becomes an f32 copy (exact), I64 an i32 copy if every value fits. Other dtypes: Error naming them.
    Tensor tensor(const std::string& name) const;
    // Bytes [begin, end) of the packed row-major values, in the file's dtype, to `out`. Both are multiples of the element's size.
    void read(const std::string& name, size_t begin, size_t end, std::byte* out) const;
    // Compares the values with the checksum that the file has for them, if it has one. Error(Exit::bad_weights).
    virtual void check(const std::string&) const {}
    // Gives the memory of the pages read for this tensor back: reading a file larger than memory stays possible.
    void forget(const std::string& name) const;

  protected:
    const TensorEntry& entry(const std::string& name) const;
    // The values as they lie in memory; no data() if they do not lie packed, then gather() packs them.
    virtual std::span<const std::byte> place(const std::string& name) const = 0;
    virtual void gather(const std::string& name, size_t begin, size_t end, std::byte* out) const;
    virtual std::span<const std::byte> pages(const std::string& name) const { return place(name); }    // all that gather() reads

    std::string path_;
    std::map<std::string, TensorEntry> entries_;
    std::map<std::string, std::string> metadata_;
    std::shared_ptr<const MappedFile> file_;    // none: the values are not in a file
};

// Tensors in memory as a file: what takes the place of a file's tensor after a calculation.
std::shared_ptr<const TensorFile> memory_file(const std::string& path, const std::string& name, const Tensor& values);

}
