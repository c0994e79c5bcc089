#include "nn/functional.h"
#include <cmath>
#include <cstring>
#include "kernels/norm.h"
#include "kernels/patchify.h"
#include "kernels/pool.h"
#include "kernels/rope.h"
#include "kernels/rows.h"

namespace merv::nn {
namespace {

bool is_float(const Tensor& t) { return t.dtype() == DType::f32 || t.dtype() == DType::bf16; }
bool is_f32(const Tensor& t) { return t.dtype() == DType::f32; }
bool is_vector(const Tensor& t, int64_t n) { return t.numel() == n && is_float(t); }
Shape with_last(const Shape& s, int64_t last) {
    std::vector<int64_t> dims(s.begin(), s.end());
    dims.back() = last;
    return Shape(std::span<const int64_t>(dims));
}
void check_index(const char* op, const Tensor& index, int64_t rows) {
    CHECK(index.dtype() == DType::i32, op, ": the index is ", index);
    for (int64_t i = 0; i < index.numel(); i++) {
        const int32_t at = index.data<int32_t>()[i];
        CHECK(at >= 0 && at < rows, op, ": index ", at, " of ", rows, " rows");
    }
}

}

Tensor linear(const Tensor& x, const Tensor& w, const Tensor& bias, const LinearExtras& e) {
    CHECK(w.shape().rank() == 2 && x.dtype() == DType::f32 && is_float(w) && x.dim(-1) == w.dim(1), "linear: x ", x, ", w ", w);
    CHECK(!bias || is_vector(bias, w.dim(0)), "linear: w ", w, ", bias ", bias);
    Tensor y(with_last(x.shape(), w.dim(0)));
    CHECK(!e.scale || is_vector(e.scale, w.dim(0)), "linear: w ", w, ", scale ", e.scale);
    CHECK(!e.gate || (is_f32(e.gate) && e.gate.shape() == y.shape()), "linear: y ", y, ", gate ", e.gate);
    CHECK(!e.residual || (is_f32(e.residual) && e.residual.numel() == y.numel()), "linear: y ", y, ", residual ", e.residual);
    kernels::linear({.y = y, .x = x, .w = w, .bias = bias, .act = e.act, .gate = e.gate, .scale = e.scale, .residual = e.residual});
    return record("linear", y, {&x, &w, &bias, &e.gate, &e.scale, &e.residual});
}

Tensor layernorm(const Tensor& x, const Tensor& w, const Tensor& b, float eps) {
    CHECK(x.dtype() == DType::f32 && is_vector(w, x.dim(-1)) && is_vector(b, x.dim(-1)), "layernorm: x ", x, ", w ", w, ", b ", b);
    Tensor y = empty_like(x);
    kernels::layernorm({.y = y, .x = x, .w = w, .b = b, .eps = eps});
    return record("layernorm", y, {&x, &w, &b});
}
Tensor rmsnorm(const Tensor& x, const Tensor& w, float eps) {
    CHECK(x.dtype() == DType::f32 && is_vector(w, x.dim(-1)), "rmsnorm: x ", x, ", w ", w);
    Tensor y = empty_like(x);
    kernels::rmsnorm({.y = y, .x = x, .w = w, .eps = eps});
    return record("rmsnorm", y, {&x, &w});
}

Tensor attention(const AttentionArgs& a) {
    const int64_t D = a.head_dim, width = a.heads * D, kv_width = a.kv_heads * D;
    auto rows = [](const Tensor& t, const Layout& l, int64_t column) {
        const int64_t ld = t.dim(-1);
        return kernels::Rows{t, column, l.inner, l.outer * ld, l.inner_step * ld, l.token_step * ld};
    };
    auto fits = [](const Tensor& t, const Layout& l, int64_t column, int64_t width) {
        const int64_t last = (l.sequences - 1) / l.inner * l.outer + (l.inner - 1) * l.inner_step + (l.tokens - 1) * l.token_step;
        return is_f32(t) && last < t.rows() && column >= 0 && column + width <= t.dim(-1);
    };
    CHECK(D % 4 == 0 && D > 0 && D <= 128, "attention: head dimension ", D, "; multiples of 4 up to 128 are supported");
    CHECK(a.kv_heads > 0 && a.heads % a.kv_heads == 0, "attention: ", a.heads, " heads over ", a.kv_heads, " key/value heads");
    CHECK(a.queries.sequences == a.keys.sequences && fits(a.q, a.queries, a.q_column, width) && fits(a.k, a.keys, a.k_column, kv_width) &&
          fits(a.v, a.keys, a.v_column, kv_width), "attention: q ", a.q, ", k ", a.k, ", v ", a.v, " do not hold ", a.queries.sequences, " sequences of ",
          a.queries.tokens, " queries and ", a.keys.tokens, " keys of ", a.heads, "/", a.kv_heads, " heads of ", D);
    CHECK(!a.k_len || (a.k_len.dtype() == DType::i32 && a.k_len.numel() == a.keys.sequences), "attention: k_len ", a.k_len, " for ", a.keys.sequences, " sequences");
    for (int64_t s = 0; a.k_len && s < a.keys.sequences; s++)
        CHECK(a.k_len.data<int32_t>()[s] >= 0 && a.k_len.data<int32_t>()[s] <= a.keys.tokens, "attention: sequence ", s, " has ", a.k_len.data<int32_t>()[s], " keys of ", a.keys.tokens);
    Tensor o = a.queries.sequences * a.queries.tokens == a.q.rows() ? Tensor({a.q.rows(), width}) : zeros({a.q.rows(), width});
    kernels::attention({.o = rows(o, a.queries, 0), .q = rows(a.q, a.queries, a.q_column), .k = rows(a.k, a.keys, a.k_column),
                        .v = rows(a.v, a.keys, a.v_column), .S = a.queries.sequences, .Nq = a.queries.tokens, .Nk = a.keys.tokens,
                        .H = a.heads, .Hkv = a.kv_heads, .D = D, .scale = 1.0f / std::sqrt(float(D)), .mask = a.mask, .k_len = a.k_len});
    return record("attention", o, {&a.q, &a.k, &a.v});
}

Tensor rope(const Tensor& x, const Tensor& cos, const Tensor& sin, int64_t start) {
    CHECK(x.shape().rank() == 3 && is_f32(x) && is_f32(cos) && is_f32(sin) && x.dim(2) % 2 == 0 && cos.shape() == sin.shape() && cos.dim(-1) == x.dim(2) / 2, "rope: x ", x, ", cos ", cos, ", sin ", sin);
    CHECK(start >= 0 && start + x.dim(0) <= cos.dim(0), "rope: positions ", start, " to ", start + x.dim(0), " of a table of ", cos.dim(0));
    Tensor y = empty_like(x);
    kernels::rope({.y = y, .x = x, .cos = cos, .sin = sin, .start = start});
    return record("rope", y, {&x});
}

Tensor gather_rows(const Tensor& x, const Tensor& index) {
    CHECK(x.shape().rank() == 2 && is_float(x), "gather_rows: x ", x);
    check_index("gather_rows", index, x.dim(0));
    Tensor y({index.numel(), x.dim(1)});
    kernels::gather_rows({.y = y, .x = x, .index = index});
    return record("gather_rows", y, {&x});
}
Tensor scatter_rows(int64_t rows, const std::vector<std::pair<Tensor, Tensor>>& parts) {
    CHECK(!parts.empty(), "scatter_rows: nothing to scatter");
    Tensor y = zeros({rows, parts[0].first.dim(-1)});
    for (const auto& [x, index] : parts) {
        CHECK(x.dtype() == DType::f32 && x.dim(-1) == y.dim(1) && x.rows() == index.numel(), "scatter_rows: x ", x, ", index ", index, " into ", y);
        check_index("scatter_rows", index, rows);
        std::vector<bool> taken(size_t(rows), false);
        for (int64_t i = 0; i < index.numel(); i++) {
            const size_t at = size_t(index.data<int32_t>()[i]);
            CHECK(!taken[at], "scatter_rows: index ", at, " twice");
            taken[at] = true;
        }
        kernels::scatter_rows({.y = y, .x = x, .index = index});
        y = record("scatter_rows", y, {&x, &y});
    }
    return y;
}
Tensor drop_tokens(const Tensor& x, int64_t n) {
    CHECK(x.shape().rank() == 3 && n >= 0 && n <= x.dim(1), "drop_tokens: ", n, " of x ", x);
    if (n == 0) return x;
    const int64_t S = x.dim(0), N = x.dim(1), C = x.dim(2);
    std::vector<int32_t> index;
    for (int64_t s = 0; s < S; s++) for (int64_t i = n; i < N; i++) index.push_back(int32_t(s * N + i));
    return gather_rows(x.reshape({S * N, C}), from_ints(index)).reshape({S, N - n, C});
}
Tensor add_rows(const Tensor& x, const Tensor& table, int64_t inner) {
    CHECK(x.dtype() == DType::f32 && is_float(table) && table.dim(-1) == x.dim(-1) && table.rows() > 0 && inner > 0, "add_rows: x ", x, ", table ", table);
    Tensor y = empty_like(x);
    kernels::add_rows({.y = y, .x = x, .table = table, .inner = inner});
    return record("add_rows", y, {&x, &table});
}
Tensor prepend_tokens(const Tensor& x, const Tensor& tokens) {
    CHECK(x.shape().rank() == 3 && is_f32(x) && is_float(tokens) && tokens.dim(-1) == x.dim(2), "prepend_tokens: x ", x, ", tokens ", tokens);
    Tensor y({x.dim(0), tokens.rows() + x.dim(1), x.dim(2)});
    kernels::prepend_tokens({.y = y, .x = x, .tokens = tokens});
    return record("prepend_tokens", y, {&x, &tokens});
}

Tensor patchify(const Pixels& x, int64_t patch, int64_t tubelet) {
    const Tensor& v = x.values;
    CHECK(v.shape().rank() == 4 && v.dim(1) == 3 && patch > 0 && tubelet > 0 && v.dim(2) % patch == 0 && v.dim(3) % patch == 0 && v.dim(0) % tubelet == 0 &&
          (v.dtype() == DType::u8 || v.dtype() == DType::f32), "patchify: pixels ", v, " in tubelets of ", tubelet, " x ", patch, " x ", patch);
    Tensor y({v.dim(0) / tubelet, (v.dim(2) / patch) * (v.dim(3) / patch), 3 * tubelet * patch * patch});
    kernels::patchify({.y = y, .x = v, .patch = patch, .tubelet = tubelet, .mean = x.mean, .std = x.std});
    return record("patchify", y, {&v});
}

Tensor adaptive_pool(const Tensor& x, int64_t t, int64_t y, int64_t z) {
    CHECK(x.shape().rank() == 5 && x.dtype() == DType::f32 && x.numel() > 0 && t > 0 && y > 0 && z > 0, "adaptive_pool: x ", x, " to ", t, " x ", y, " x ", z);
    Tensor out({x.dim(0), t, y, z, x.dim(4)});
    kernels::adaptive_pool({.y = out, .x = x});
    return record("adaptive_pool", out, {&x});
}
Tensor token_mean(const Tensor& x) {
    CHECK(x.shape().rank() == 3 && x.dtype() == DType::f32 && x.dim(1) > 0, "token_mean: x ", x);
    Tensor y({x.dim(0), x.dim(2)});
    kernels::token_mean({.y = y, .x = x});
    return record("token_mean", y, {&x});
}
Tensor mix(const std::vector<Tensor>& x, const Tensor& weights) {
    CHECK(!x.empty() && is_f32(weights) && weights.shape() == (Shape{x[0].dim(0), int64_t(x.size())}), "mix: ", x.size(), " inputs, weights ", weights);
    for (const Tensor& t : x) CHECK(t.shape() == x[0].shape() && t.dtype() == DType::f32, "mix: ", t, " beside ", x[0]);
    Tensor y = empty_like(x[0]);
    kernels::mix({.y = y, .x = x, .weights = weights});
    for (const Tensor& t : x) if (t.needs_grad()) return record("mix", y, {&t});
    return record("mix", y, {&weights});
}
Tensor softmax_rows(const Tensor& x, float scale) {
    CHECK(x.dtype() == DType::f32 && x.dim(-1) > 0, "softmax_rows: x ", x);
    Tensor y = empty_like(x);
    kernels::softmax_rows({.y = y, .x = x, .scale = scale});
    return record("softmax_rows", y, {&x});
}

}
