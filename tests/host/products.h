// Matrix products by the engine's wrapper of cuBLASLt (kernels/cuda/host/gemm.h), and its formula in double.
#pragma once
#include <cmath>
#include <string>
#include <vector>
#include "core/check.h"
#include "core/rng.h"
#include "core/tensor.h"
#include "kernels/cuda/host/gemm.h"

namespace merv::test {

struct Product {
    DType type = DType::f32, y_type = DType::f32;
    bool a_along_k = true, b_along_k = true, bias = false, gelu = false, z = false;
    enum class Add { none, other, in_place } add = Add::none;
    int64_t M = 24, N = 16, K = 40, gap_a = 0, gap_b = 0;   // gaps: elements between the rows of a and b
    int64_t shift = 0;                                      // elements by which a lies behind its allocation's begin
};
inline std::string name_of(const Product& p) {
    return concat(name_of(p.type), " -> ", name_of(p.y_type), ", ", p.M, " x ", p.N, " x ", p.K, p.a_along_k ? ", a along k" : ", a across k", p.b_along_k ? ", b along k" : ", b across k", p.gap_a ? ", gaps in a" : "",
                  p.gap_b ? ", gaps in b" : "", p.bias ? ", bias" : "", p.gelu ? ", gelu" : "", p.z ? ", z" : "", p.add == Product::Add::none ? "" : p.add == Product::Add::other ? ", add" : ", add in place");
}

// A queued product, and what it must give
class RunningProduct {
  public:
    explicit RunningProduct(const Product& p, uint64_t seed = 1) : p_(p), rng_(seed, "product") {
        const OnDevice on(Device::cuda);
        const int64_t lda = (p.a_along_k ? p.K : p.M) + p.gap_a, ldb = (p.b_along_k ? p.K : p.N) + p.gap_b;
        const std::vector<float> a = values((p.a_along_k ? p.M : p.K) * lda, p.type), b = values((p.b_along_k ? p.N : p.K) * ldb, p.type);
        const std::vector<float> bias = values(p.N, p.y_type), c = values(p.M * p.N, p.y_type);
        std::vector<float> shifted(size_t(p.shift), NAN);
        shifted.insert(shifted.end(), a.begin(), a.end());
        a_ = upload(with_gaps(shifted, p.shift, p.a_along_k ? p.K : p.M, lda), p.type), b_ = upload(with_gaps(b, 0, p.b_along_k ? p.K : p.N, ldb), p.type);
        bias_ = upload(bias, p.y_type), c_ = upload(c, p.y_type);
        y_ = p.add == Product::Add::in_place ? c_ : upload(std::vector<float>(size_t(p.M * p.N), NAN), p.y_type);
        z_ = upload(std::vector<float>(size_t(p.M * p.N), NAN), p.y_type);
        for (int64_t m = 0; m < p.M; m++)
            for (int64_t n = 0; n < p.N; n++) {
                double v = p.bias ? double(bias[size_t(n)]) : 0;
                for (int64_t k = 0; k < p.K; k++) v += double(a[size_t(p.a_along_k ? m * lda + k : k * lda + m)]) * double(b[size_t(p.b_along_k ? n * ldb + k : k * ldb + n)]);
                want_z_.push_back(v);
                if (p.gelu) v = 0.5 * v * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (v + 0.044715 * v * v * v)));
                want_.push_back(p.add == Product::Add::none ? v : v + double(c[size_t(m * p.N + n)]));
            }
        const Gemm g{.name = "product", .type = p.type, .y_type = p.y_type, .a = a_.raw() + p.shift * int64_t(size_of(p.type)), .b = b_.raw(), .lda = lda, .ldb = ldb,
                     .a_along_k = p.a_along_k, .b_along_k = p.b_along_k, .M = p.M, .N = p.N, .K = p.K, .y = y_.raw(), .bias = p.bias ? bias_.raw() : nullptr,
                     .add = p.add == Product::Add::none ? nullptr : c_.raw(), .gelu_tanh = p.gelu, .z = p.z ? z_.raw() : nullptr};
        done = cublaslt_gemm(g);
    }
    // Whether y and z are the formula's within a rounding of their type and of sums in f32; call it in the stream that made them.
    bool is_right() const { return done && near(y_, want_) && (!p_.z || near(z_, want_z_)); }
    bool is_untouched() const {                 // of a refused one
        for (float v : to_floats(y_)) if (p_.add != Product::Add::in_place && !std::isnan(v)) return false;
        for (float v : to_floats(z_)) if (!std::isnan(v)) return false;
        return !done;
    }
    bool done = false;

  private:
    std::vector<float> values(int64_t n, DType type) {       // exact in `type`
        std::vector<float> v;
        for (int64_t i = 0; i < n; i++, next_++) v.push_back(type == DType::bf16 ? float(bf16(rng_.normal(next_))) : float(rng_.normal(next_)));
        return v;
    }
    static std::vector<float> with_gaps(std::vector<float> v, int64_t first, int64_t row, int64_t ld) {
        for (size_t i = size_t(first); i < v.size(); i++) if (int64_t(i - size_t(first)) % ld >= row) v[i] = NAN;
        return v;
    }
    static Tensor upload(const std::vector<float>& v, DType type) { return from_floats(v, {int64_t(v.size())}, type); }
    bool near(const Tensor& t, const std::vector<double>& want) const {
        const std::vector<float> got = to_floats(t);
        const double rounding = t.dtype() == DType::bf16 ? 0x1p-8 : 0x1p-22;
        for (size_t i = 0; i < want.size(); i++) if (!(std::abs(double(got[i]) - want[i]) <= rounding * std::abs(want[i]) + double(p_.K) * 0x1p-20)) return false;
        return true;
    }
    Product p_;
    Rng rng_;
    uint64_t next_ = 0;
    Tensor a_, b_, bias_, c_, y_, z_;
    std::vector<double> want_, want_z_;
};

}
