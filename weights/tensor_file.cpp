#include "weights/tensor_file.h"
#include <algorithm>
#include <climits>
#include <cstring>
#include "core/json.h"
#include "weights/file.h"
#include "weights/safetensors.h"
#include "weights/torch_pickle.h"

namespace merv {
namespace {

struct KnownDType { const char* name; size_t bytes; bool is_float; };
constexpr KnownDType kDTypes[] = {{"F32", 4, true}, {"BF16", 2, true}, {"F16", 2, true}, {"F64", 8, true}, {"F8_E4M3", 1, true}, {"F8_E5M2", 1, true},
                                  {"I64", 8, false}, {"I32", 4, false}, {"I16", 2, false}, {"I8", 1, false}, {"U64", 8, false}, {"U32", 4, false},
                                  {"U16", 2, false}, {"U8", 1, false}, {"BOOL", 1, false}, {"C64", 8, false}};
const KnownDType* known(const std::string& dtype) {
    for (const KnownDType& d : kDTypes) if (dtype == d.name) return &d;
    return nullptr;
}

template <class To, class From> void each(const std::byte* in, int64_t count, std::byte* out, From value) {
    To* y = reinterpret_cast<To*>(out);
    #pragma omp parallel for simd if (count > 1 << 16)
    for (int64_t i = 0; i < count; i++) y[i] = To(value(in, i));
}

class MemoryFile final : public TensorFile {
  public:
    MemoryFile(const std::string& path, const std::string& name, const Tensor& values) : values_(values) {
        CHECK(values.dtype() == DType::f32 || values.dtype() == DType::bf16, "memory_file: ", values);
        path_ = path;
        entries_[name] = {values.dtype() == DType::f32 ? "F32" : "BF16", {values.shape().begin(), values.shape().end()}, 0, values.bytes()};
    }

  private:
    std::span<const std::byte> place(const std::string&) const override { return {values_.raw(), values_.bytes()}; }
    Tensor values_;
};

}

// Exact: an f16 is an f32 with a shorter exponent. Multiplying by 2^112 moves the exponent and normalises subnormals;
// infinities and NaNs get their all-ones exponent back.
float from_f16(uint16_t h) {
    const float scaled = std::bit_cast<float>(uint32_t(h & 0x7fff) << 13) * 0x1p112f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(scaled) | ((h & 0x7c00) == 0x7c00 ? 0x7f800000u : 0u) | uint32_t(h & 0x8000) << 16);
}

bool is_float_dtype(const std::string& dtype) {
    const KnownDType* d = known(dtype);
    return d && d->is_float;
}
size_t dtype_bytes(const std::string& dtype) {
    const KnownDType* d = known(dtype);
    return d ? d->bytes : 0;
}

void convert_floats(const std::string& from, const std::byte* in, int64_t count, DType to, std::byte* out) {
    auto f32 = [](const std::byte* p, int64_t i) { return load_unaligned<float>(p + 4 * i); };
    auto f16 = [](const std::byte* p, int64_t i) { return from_f16(load_unaligned<uint16_t>(p + 2 * i)); };
    auto b16 = [](const std::byte* p, int64_t i) { return std::bit_cast<float>(uint32_t(load_unaligned<uint16_t>(p + 2 * i)) << 16); };
    if (from == (to == DType::f32 ? "F32" : "BF16")) {         // the bits of a NaN too
        if (count) std::memcpy(out, in, size_t(count) * size_t(size_of(to)));
        return;
    }
    with_float_type(to, [&]<class T>() {
        if (from == "F32") each<T>(in, count, out, f32);
        else if (from == "F16") each<T>(in, count, out, f16);
        else if (from == "BF16") each<T>(in, count, out, b16);
        else CHECK(false, "convert_floats from ", from);
    });
}

std::shared_ptr<const TensorFile> memory_file(const std::string& path, const std::string& name, const Tensor& values) {
    return std::make_shared<MemoryFile>(path, name, values);
}

std::shared_ptr<const TensorFile> TensorFile::open(const std::string& path) {
    const bool torch_name = path.ends_with(".bin") || path.ends_with(".pt") || path.ends_with(".pth");
    if (torch_name || TorchFile::recognises(first_bytes(path, 512))) return TorchFile::open(path);
    return SafeTensors::open(path);
}

const TensorEntry& TensorFile::entry(const std::string& name) const {
    const auto found = entries_.find(name);
    CHECK(found != entries_.end(), path_, ": no tensor ", brief(name));
    return found->second;
}
void TensorFile::gather(const std::string& name, size_t, size_t, std::byte*) const { CHECK(false, path_, ": ", brief(name), " lies nowhere"); }

void TensorFile::read(const std::string& name, size_t begin, size_t end, std::byte* out) const {
    const TensorEntry& e = entry(name);
    CHECK(begin <= end && end <= e.end - e.begin, path_, ": bytes ", begin, " to ", end, " of ", brief(name));
    if (begin == end) return;
    const auto at = place(name);
    if (at.data()) std::memcpy(out, at.data() + begin, end - begin);
    else gather(name, begin, end, out);
}
void TensorFile::forget(const std::string& name) const {
    if (file_) file_->forget(pages(name));
}

Tensor TensorFile::tensor(const std::string& name) const {
    const TensorEntry& e = entry(name);
    const Shape shape{std::span<const int64_t>(e.shape)};
    const int64_t n = shape.numel();
    auto packed = [&](const std::byte* at, const auto& use) {   // the values wherever they are, for the ones that are changed
        if (at || !n) return use(at);
        const Tensor copy(Shape{int64_t(e.end - e.begin)}, DType::u8);
        gather(name, 0, copy.bytes(), copy.raw());
        use(copy.raw());
    };
    if (e.dtype == "F16") {
        Tensor t(shape);
        packed(place(name).data(), [&](const std::byte* at) { convert_floats(e.dtype, at, n, DType::f32, t.raw()); });
        return t;
    }
    if (e.dtype == "I64") {
        Tensor t(shape, DType::i32);
        packed(place(name).data(), [&](const std::byte* at) {
            for (int64_t i = 0; i < n; i++) {
                const auto v = load_unaligned<int64_t>(at + 8 * i);
                if (v < INT32_MIN || v > INT32_MAX) fail(Exit::bad_weights, path_, ": tensor ", brief(name), " holds ", v, ", which does not fit 32 bits");
                t.data<int32_t>()[i] = int32_t(v);
            }
        });
        return t;
    }
    constexpr std::pair<const char*, DType> in_place[] = {{"F32", DType::f32}, {"BF16", DType::bf16}, {"U8", DType::u8}, {"I32", DType::i32}};
    for (auto [text, dtype] : in_place) {
        if (e.dtype != text) continue;
        const auto at = place(name);
        if (file_ && at.data() && reinterpret_cast<uintptr_t>(at.data()) % size_t(size_of(dtype)) == 0)
            return Tensor::view(Storage::borrow(const_cast<std::byte*>(at.data()), at.size(), file_), shape, dtype);
        Tensor t(shape, dtype);
        read(name, 0, t.bytes(), t.raw());
        return t;
    }
    fail(Exit::bad_weights, path_, ": tensor ", brief(name), " has the dtype ", e.dtype, "; F32, BF16, F16, U8, I32 and I64 can be read");
}

}
