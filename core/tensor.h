// Tensor: a contiguous row-major view of a Storage. There are no strides: reshape and slices of the first dimension are
// free, every other change of layout is an op. Copying a Tensor copies the handle, like a pointer.
//
// Shape letters used in comments throughout: B batch, F frames, Y X patch grid, N tokens, C width, H heads, D head
// dimension, V vocabulary, M rows.
#pragma once
#include <array>
#include <initializer_list>
#include <iosfwd>
#include <memory>
#include <span>
#include <vector>
#include "core/dtype.h"
#include "core/storage.h"

namespace merv {

class Shape {
  public:
    static constexpr int max_rank = 6;
    Shape() = default;                          // rank 0: a scalar
    Shape(std::initializer_list<int64_t> dims) : Shape(std::span(dims.begin(), dims.size())) {}
    explicit Shape(std::span<const int64_t> dims);      // throws on a negative dimension or more than 2^62 elements

    int rank() const { return rank_; }
    int64_t operator[](int i) const { return dims_[size_t(i < 0 ? i + rank_ : i)]; }    // -1 is the last dimension
    int64_t numel() const;
    const int64_t* begin() const { return dims_.data(); }
    const int64_t* end() const { return dims_.data() + rank_; }
    bool operator==(const Shape&) const = default;
    friend std::ostream& operator<<(std::ostream&, const Shape&);      // "(4, 197, 1024)"

  private:
    std::array<int64_t, max_rank> dims_{};
    int rank_ = 0;
};

class Tensor;

// Where the gradient of one tensor is delivered (nn::add_gradient). Backward closures hold the slot of a tensor whose values they do not
// read, so an activation is freed as soon as no backward needs it.
struct GradSlot {
    Shape shape;                                // of the tensor; its reshaped views share the slot
    std::shared_ptr<Tensor> grad = nullptr;     // null until the first contribution
    bool own = false;                           // grad is a sum made for this slot (nn::grad_buffer), always added to in place
};
using Slot = std::shared_ptr<GradSlot>;         // null: no gradient wanted

class Tensor {
  public:
    Tensor() = default;                         // "no tensor": optional arguments
    explicit Tensor(Shape shape, DType dtype = DType::f32, Device device = current_device());    // contents undefined
    static Tensor view(std::shared_ptr<Storage> storage, Shape shape, DType dtype, size_t offset_bytes = 0);
    static Tensor declare(Shape shape, DType dtype = DType::f32);      // shape and current device only; bytes come with bind()

    explicit operator bool() const { return storage_ != nullptr; }
    const Shape& shape() const { return shape_; }
    int64_t dim(int i) const { return shape_[i]; }
    int64_t numel() const { return shape_.numel(); }
    int64_t rows() const { return shape_.rank() == 0 || shape_[-1] == 0 ? 0 : numel() / shape_[-1]; }   // all dims but the last
    size_t bytes() const { return size_t(numel()) * size_t(size_of(dtype_)); }
    DType dtype() const { return dtype_; }
    Device device() const { return storage_->device(); }
    bool is_declared() const { return storage_ && !storage_->data(); }

    // Checked: data<float>() on a bf16 tensor throws, and so does a parameter that was never loaded, or another device's memory.
    // "No tensor" gives null.
    template <class T> T* data() const { return pointer<T>(Device::cpu); }
    template <class T> T* pointer(Device on) const {        // for that device's kernels
        if (!storage_) return nullptr;
        CHECK(dtype_of<T>() == dtype_, "data<", name_of(dtype_of<T>()), ">() on ", describe());
        CHECK(storage_->data(), describe(), " is used before its values were loaded, or after they were dropped");
        CHECK(device() == on, describe(), " is used on ", name_of(on));
        return reinterpret_cast<T*>(storage_->data() + offset_);
    }
    std::byte* raw() const { return storage_ && storage_->data() ? storage_->data() + offset_ : nullptr; }

    Tensor reshape(Shape shape) const;                      // free; same number of elements
    Tensor slice(int64_t begin, int64_t end) const;         // free; rows [begin, end) of the first dimension. Takes no gradient: nn::slice_rows does
    void copy_from(const Tensor& source) const;             // same shape and dtype; from any device to any
    Tensor to(Device) const;                                // itself if it is there already, else a copy, without slot
    void bind(const Tensor& values);                        // a declared tensor takes these bytes (and their dtype), or on another device a copy; same shape

    bool unique() const { return storage_.use_count() == 1; }      // nobody else holds these bytes
    bool shares(const Tensor& t) const { return storage_ == t.storage_; }
    void drop() const { storage_->drop(); }                 // the bytes of every handle (core/storage.h), for recomputation
    void restore() const { storage_->restore(); }
    const Slot& slot() const { return slot_; }
    bool needs_grad() const { return slot_ != nullptr; }
    Tensor& set_needs_grad(bool on = true) { slot_ = on ? std::make_shared<GradSlot>(GradSlot{shape_}) : nullptr; return *this; }
    Tensor grad() const { return slot_ && slot_->grad ? *slot_->grad : Tensor(); }
    Tensor detach() const { Tensor t = *this; t.slot_ = nullptr; return t; }

    std::string describe() const;                           // "bf16(4, 197, 1024)"
    friend std::ostream& operator<<(std::ostream& o, const Tensor& t) { return o << t.describe(); }

  private:
    std::shared_ptr<Storage> storage_;
    Shape shape_;
    size_t offset_ = 0;                         // bytes
    DType dtype_ = DType::f32;
    Slot slot_;
};

Tensor zeros(Shape, DType = DType::f32);
Tensor empty_like(const Tensor&);
Tensor from_floats(std::span<const float>, Shape, DType = DType::f32);     // rounds to the dtype
Tensor from_ints(std::span<const int32_t>);                                // i32, one dimension; on the host, which reads it
std::vector<float> to_floats(const Tensor&);                               // f32, bf16 or u8

}
