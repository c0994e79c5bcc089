#include "core/tensor.h"
#include <cstring>
#include <ostream>
#include "core/cuda.h"

namespace merv {

Shape::Shape(std::span<const int64_t> dims) {
    CHECK(dims.size() <= max_rank, "a shape of rank ", dims.size(), "; at most ", max_rank, " are supported");
    int64_t n = 1;
    for (int64_t d : dims) {
        CHECK(d >= 0, "negative dimension ", d);
        CHECK(!__builtin_mul_overflow(n, d, &n) && n <= int64_t(1) << 62, "a shape with more than 2^62 elements");
        dims_[size_t(rank_++)] = d;
    }
}
int64_t Shape::numel() const {
    int64_t n = 1;
    for (int64_t d : *this) n *= d;
    return n;
}
std::ostream& operator<<(std::ostream& o, const Shape& s) {
    o << '(';
    for (int i = 0; i < s.rank(); i++) o << (i ? ", " : "") << s[i];
    return o << ')';
}

Tensor::Tensor(Shape shape, DType dtype, Device device) : shape_(shape), dtype_(dtype) { storage_ = Storage::allocate(bytes(), device); }

Tensor Tensor::view(std::shared_ptr<Storage> storage, Shape shape, DType dtype, size_t offset_bytes) {
    Tensor t;
    t.storage_ = std::move(storage), t.shape_ = shape, t.dtype_ = dtype, t.offset_ = offset_bytes;
    CHECK(offset_bytes <= t.storage_->bytes() && t.bytes() <= t.storage_->bytes() - offset_bytes,
          "view ", t, " at byte ", offset_bytes, " of ", t.storage_->bytes());
    return t;
}
Tensor Tensor::declare(Shape shape, DType dtype) {
    return view(Storage::closed(size_t(shape.numel()) * size_t(size_of(dtype))), shape, dtype);
}

std::string Tensor::describe() const { return storage_ ? concat(name_of(dtype_), shape_, device() == Device::cpu ? "" : concat("@", name_of(device()))) : "<none>"; }

Tensor Tensor::reshape(Shape shape) const {
    CHECK(shape.numel() == numel(), "reshape ", *this, " to ", shape);
    Tensor t = *this;
    t.shape_ = shape;
    return t;
}
Tensor Tensor::slice(int64_t begin, int64_t end) const {
    CHECK(shape_.rank() > 0 && 0 <= begin && begin <= end && end <= dim(0), "slice [", begin, ", ", end, ") of ", *this);
    CHECK(!slot_, "slice of ", *this, ", which wants a gradient; use nn::slice_rows");
    Tensor t = *this;
    std::vector<int64_t> dims(shape_.begin(), shape_.end());
    t.offset_ += dim(0) ? size_t(begin) * (bytes() / size_t(dim(0))) : 0;
    dims[0] = end - begin;
    t.shape_ = Shape(std::span<const int64_t>(dims));
    return t;
}
void Tensor::copy_from(const Tensor& source) const {
    CHECK(source.shape_ == shape_ && source.dtype_ == dtype_, "copy of ", source, " into ", *this);
    if (bytes() == 0) return;
    if (device() == Device::cuda || source.device() == Device::cuda) cuda().copy(raw(), device(), source.raw(), source.device(), bytes());
    else std::memcpy(raw(), source.raw(), bytes());             // the emulated device's memory is the host's too
}
Tensor Tensor::to(Device d) const {
    if (!storage_ || device() == d) return *this;
    const Tensor t(shape_, dtype_, d);
    t.copy_from(*this);
    return t;
}
void Tensor::bind(const Tensor& values) {
    CHECK(values.shape_ == shape_, "bind ", values, " to ", *this);
    const Tensor here = values.to(device());
    storage_ = here.storage_, offset_ = here.offset_, dtype_ = here.dtype_;
}

Tensor zeros(Shape shape, DType dtype) {
    Tensor t(shape, dtype);
    if (t.device() == Device::cuda) cuda().fill(t.raw(), 0, t.bytes());
    else std::memset(t.raw(), 0, t.bytes());
    return t;
}
Tensor empty_like(const Tensor& x) { return Tensor(x.shape(), x.dtype(), x.device()); }

Tensor from_floats(std::span<const float> values, Shape shape, DType dtype) {
    CHECK(int64_t(values.size()) == shape.numel(), values.size(), " values for shape ", shape);
    const Tensor t(shape, dtype, Device::cpu);
    with_float_type(dtype, [&]<class T>() { for (size_t i = 0; i < values.size(); i++) t.data<T>()[i] = T(values[i]); });
    return t.to(current_device());
}
Tensor from_ints(std::span<const int32_t> values) {
    const Tensor t({int64_t(values.size())}, DType::i32, Device::cpu);
    std::copy(values.begin(), values.end(), t.data<int32_t>());
    return t;
}
std::vector<float> to_floats(const Tensor& t) {
    const Tensor x = t.to(Device::cpu);
    std::vector<float> v(size_t(x.numel()));
    if (x.dtype() == DType::u8) for (size_t i = 0; i < v.size(); i++) v[i] = float(x.data<uint8_t>()[i]);
    else with_float_type(x.dtype(), [&]<class T>() { for (size_t i = 0; i < v.size(); i++) v[i] = float(x.data<T>()[i]); });
    return v;
}

}
