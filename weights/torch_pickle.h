// What torch.save and torch.jit.save write (.bin, .pt, .pth): a zip archive or, before torch 1.6, pickles one after the other,
// with the tensors' bytes beside them. The pickle is read by weights/pickle.h, so nothing in the file is run. Dicts inside dicts
// and a TorchScript module's attributes become dotted names: {"model": {"w": tensor}} is "model.w". What is no tensor is left out.
#pragma once
#include <string_view>
#include "weights/tensor_file.h"

namespace merv {

class TorchFile final : public TensorFile {
  public:
    // Error(Exit::bad_weights) for a global that tensors do not need (by its full name), a tensor that leaves its storage, and
    // everything else that is not what torch writes. Every size is compared with the bytes that are there before it is used.
    static std::shared_ptr<TorchFile> open(const std::string& path);
    static std::shared_ptr<TorchFile> parse(std::span<const std::byte> bytes, const std::string& name);    // `bytes` must outlive it
    static bool recognises(std::string_view first_bytes);       // at least 262 of them, or all

    void check(const std::string& name) const override;         // against the archive's CRC-32, once per storage

  private:
    friend class TorchReader;
    struct Data {                               // one storage
        std::span<const std::byte> bytes;
        uint32_t crc;
        bool unchecked;                         // it has a crc that was not compared yet
    };
    struct View {                               // a tensor in its storage, counted in elements
        size_t data;
        size_t offset, element;                 // element: its bytes
        std::vector<int64_t> strides;
        bool packed;                            // row-major without gaps
    };
    std::span<const std::byte> place(const std::string& name) const override;
    void gather(const std::string& name, size_t begin, size_t end, std::byte* out) const override;
    std::span<const std::byte> pages(const std::string& name) const override { return data_[views_.at(name).data].bytes; }

    mutable std::vector<Data> data_;
    std::map<std::string, View> views_;
};

}
