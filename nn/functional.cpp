#include "nn/functional.h"
#include <cmath>
#include "kernels/elementwise.h"
#include "kernels/norm.h"
#include "kernels/patchify.h"
#include "kernels/pool.h"
#include "kernels/reduce.h"
#include "kernels/rope.h"
#include "kernels/rows.h"
#include "nn/unit.h"

namespace merv::nn {
namespace {

bool is_float(const Tensor& t) { return t.dtype() == DType::f32 || t.dtype() == DType::bf16; }
bool is_f32(const Tensor& t) { return t.dtype() == DType::f32; }
bool is_vector(const Tensor& t, int64_t n) { return t.numel() == n && is_float(t); }
Tensor here(const Tensor& t) { return t.to(current_device()); }      // indices and labels are the host's, which checks them
Shape with_last(const Shape& s, int64_t last) {
    std::vector<int64_t> dims(s.begin(), s.end());
    dims.back() = last;
    return Shape(std::span<const int64_t>(dims));
}
// f(first row, end row) of each sequence
void each_sequence(const Lengths& lengths, int64_t rows, const auto& f) {
    if (lengths.empty()) return f(int64_t(0), rows);
    int64_t at = 0;
    for (int64_t n : lengths) f(at, at + n), at += n;
}
void check_lengths(const char* op, const Lengths& lengths, int64_t rows) {
    int64_t sum = 0;
    for (int64_t n : lengths) {
        CHECK(n > 0, op, ": a sequence of ", n, " rows");
        sum += n;
    }
    CHECK(lengths.empty() || sum == rows, op, ": sequences of ", sum, " rows in all, given ", rows);
}
Tensor rows_of(const Tensor& t, int64_t begin, int64_t end) { return t ? t.detach().reshape({t.rows(), t.dim(-1)}).slice(begin, end) : Tensor(); }
void check_index(const char* op, const Tensor& index, int64_t rows) {
    CHECK(index.dtype() == DType::i32, op, ": the index is ", index);
    for (int64_t i = 0; i < index.numel() && index.device() != Device::cuda; i++) {      // there it is a token that was sampled: core/cuda.h's RepeatedStep
        const int32_t at = index.data<int32_t>()[i];
        CHECK(at >= 0 && at < rows, op, ": index ", at, " of ", rows, " rows");
    }
}

}

void add_gradient(const Slot& slot, const Tensor& contribution) {
    if (!slot) return;
    const Tensor g = contribution.detach().reshape(slot->shape);
    std::shared_ptr<Tensor>& grad = slot->grad;
    if (!grad) {
        grad = std::make_shared<Tensor>(g);
        return;
    }
    CHECK(g.dtype() == grad->dtype(), "gradient ", g, " added to ", *grad);
    const Tensor sum = slot->own || grad->unique() ? *grad : empty_like(g);        // somebody else may hold the first contribution
    kernels::add({.y = sum, .a = *grad, .b = g});
    *grad = sum;
}

Tensor grad_buffer(const Tensor& p) {
    if (!p || !p.needs_grad()) return {};
    GradSlot& slot = *p.slot();
    if (!slot.grad) {
        MemTag tag("gradients");
        slot.grad = std::make_shared<Tensor>(zeros(slot.shape));
    } else if (!slot.own) {                     // a contribution by add(), which somebody else may hold
        MemTag tag("gradients");
        const Tensor sum(slot.shape);
        kernels::convert({.y = sum, .x = *slot.grad});
        *slot.grad = sum;
    }
    slot.own = true;
    return slot.grad->reshape(p.shape());
}

Tensor add(const Tensor& a, const Tensor& b) {
    CHECK(a.shape() == b.shape() && a.dtype() == b.dtype() && is_float(a), "add: ", a, " and ", b);
    Tensor y = empty_like(a);
    kernels::add({.y = y, .a = a, .b = b});
    return record("add", y, {&a, &b}, [da = a.slot(), db = b.slot()](const Tensor& dy) { add_gradient(da, dy), add_gradient(db, dy); });
}

Tensor convert(const Tensor& x, DType dtype) {
    if (x.dtype() == dtype) return x;
    auto converted = [](const Tensor& from, DType to) {
        const Tensor y(from.shape(), to);
        kernels::convert({.y = y, .x = from});
        return y;
    };
    CHECK(is_float(x), "convert: ", x, " to ", name_of(dtype));
    return record("convert", converted(x, dtype), {&x}, [slot = x.slot(), from = x.dtype(), converted](const Tensor& dy) { add_gradient(slot, converted(dy, from)); });
}

Tensor linear(const Tensor& x, const Tensor& w, const Tensor& bias, const LinearExtras& e) {
    CHECK(w.shape().rank() == 2 && is_float(x) && is_float(w) && x.dim(-1) == w.dim(1), "linear: x ", x, ", w ", w);
    CHECK(!bias || is_vector(bias, w.dim(0)), "linear: w ", w, ", bias ", bias);
    Tensor y(with_last(x.shape(), w.dim(0)), x.dtype());
    CHECK(!e.scale || is_vector(e.scale, w.dim(0)), "linear: w ", w, ", scale ", e.scale);
    CHECK(!e.gate || (e.gate.shape() == y.shape() && e.gate.dtype() == y.dtype()), "linear: y ", y, ", gate ", e.gate);
    CHECK(!e.residual || (e.residual.numel() == y.numel() && e.residual.dtype() == y.dtype()), "linear: y ", y, ", residual ", e.residual);
    check_lengths("linear", e.lengths, x.rows());
    const bool plain = e.act == Act::none && !e.gate && !e.scale, recorded = wants_grad({&x, &w, &bias, &e.gate, &e.scale, &e.residual});
    const bool reads_z = e.act != Act::none || (e.gate && e.gate.needs_grad()) || (e.scale && e.scale.needs_grad());
    const Tensor z = recorded && reads_z ? empty_like(y) : Tensor();
    kernels::linear({.y = y, .z = z, .x = x, .w = w, .bias = bias, .act = e.act, .gate = e.gate, .scale = e.scale, .residual = e.residual});
    if (!recorded) return y;
    if (e.act != Act::none && !e.scale && !e.residual)
        can_refill(y, [z, gate = e.gate.detach(), act = e.act](const Tensor& y) { kernels::linear_refill({.y = y, .z = z, .gate = gate, .act = act}); });
    const Tensor kept = w.needs_grad() ? x.detach() : Tensor();             // the input is read for dw alone
    return record("linear", y, {&x, &w, &bias, &e.gate, &e.scale, &e.residual},
                  [kept, w, bias, z, act = e.act, gate = e.gate, scale = e.scale, lengths = e.lengths, plain, x_shape = x.shape(), dx_slot = x.slot(), dr_slot = e.residual ? e.residual.slot() : Slot(),
                   r_shape = e.residual ? e.residual.shape() : Shape()](Tensor dy) {
        if (dr_slot) add_gradient(dr_slot, dy.reshape(r_shape));
        const bool wants_dz = dx_slot || kept, reuse = plain || dy.unique();    // dz may take dy's place
        const Tensor dz = reuse ? dy : wants_dz ? empty_like(dy) : Tensor(), dgate = gate && gate.needs_grad() ? empty_like(gate) : Tensor();
        const Tensor dscale = grad_buffer(scale), dbias = grad_buffer(bias);
        const Tensor dw = kept ? grad_buffer(w) : Tensor();
        each_sequence(lengths, dy.rows(), [&](int64_t begin, int64_t end) {
            auto part = [&](const Tensor& t) { return rows_of(t, begin, end); };
            if (!plain || dbias)
                kernels::linear({.dz = plain ? Tensor() : part(dz), .dgate = part(dgate), .dscale = dscale, .dbias = dbias, .dy = part(dy), .z = part(z), .gate = part(gate), .scale = scale, .act = act});
            if (kept) kernels::linear({.dw = dw, .dz = part(dz), .x = part(kept)});
        });
        dy = {};
        if (dgate) add_gradient(gate.slot(), dgate);
        if (dx_slot) {
            const Tensor dx(x_shape, dz.dtype());
            kernels::linear({.dx = dx, .dz = dz, .w = w});
            add_gradient(dx_slot, dx);
        }
    });
}

Tensor layernorm(const Tensor& x, const Tensor& w, const Tensor& b, float eps) {
    CHECK(is_float(x) && is_vector(w, x.dim(-1)) && is_vector(b, x.dim(-1)), "layernorm: x ", x, ", w ", w, ", b ", b);
    Tensor y = empty_like(x);
    kernels::layernorm({.y = y, .x = x, .w = w, .b = b, .eps = eps});
    if (wants_grad({&x, &w, &b}))
        can_refill(y, [x = x.detach(), w, b, eps](const Tensor& y) { kernels::layernorm({.y = y, .x = x, .w = w, .b = b, .eps = eps}); });
    return record("layernorm", y, {&x, &w, &b}, [x = x.detach(), slot = x.slot(), w, b, eps](const Tensor& dy) {
        const Tensor dx = slot ? empty_like(x) : Tensor();
        kernels::layernorm({.dx = dx, .dw = grad_buffer(w), .db = grad_buffer(b), .dy = dy, .x = x, .w = w, .eps = eps});
        add_gradient(slot, dx);
    });
}
Tensor rmsnorm(const Tensor& x, const Tensor& w, float eps, const Lengths& lengths) {
    CHECK(is_float(x) && is_vector(w, x.dim(-1)), "rmsnorm: x ", x, ", w ", w);
    check_lengths("rmsnorm", lengths, x.rows());
    Tensor y = empty_like(x);
    kernels::rmsnorm({.y = y, .x = x, .w = w, .eps = eps});
    if (wants_grad({&x, &w})) can_refill(y, [x = x.detach(), w, eps](const Tensor& y) { kernels::rmsnorm({.y = y, .x = x, .w = w, .eps = eps}); });
    return record("rmsnorm", y, {&x, &w}, [x = x.detach(), slot = x.slot(), w, eps, lengths](const Tensor& dy) {
        const Tensor dx = slot ? empty_like(x) : Tensor(), dw = grad_buffer(w);
        each_sequence(lengths, x.rows(), [&](int64_t begin, int64_t end) {
            kernels::rmsnorm({.dx = rows_of(dx, begin, end), .dw = dw, .dy = rows_of(dy, begin, end), .x = rows_of(x, begin, end), .w = w, .eps = eps});
        });
        add_gradient(slot, dx);
    });
}

namespace {

// Runs of equal lengths go to the kernel together.
std::vector<Layout> layouts(const Lengths& lengths) {
    std::vector<Layout> runs;
    int64_t first = 0;
    for (int64_t n : lengths) {
        if (!runs.empty() && runs.back().tokens == n) runs.back().sequences++;
        else runs.push_back(Layout::contiguous(1, n, first));
        first += n;
    }
    return runs;
}

}

Tensor attention(const AttentionArgs& a) {
    const int64_t D = a.head_dim, width = a.heads * D, kv_width = a.kv_heads * D;
    auto rows = [](const Tensor& t, const Layout& l, int64_t column) {
        const int64_t ld = t.dim(-1);
        return kernels::Rows{t, column + l.first * ld, l.inner, l.outer * ld, l.inner_step * ld, l.token_step * ld};
    };
    auto fits = [&](const Tensor& t, const Layout& l, int64_t column, int64_t width) {
        const int64_t last = l.first + (l.sequences - 1) / l.inner * l.outer + (l.inner - 1) * l.inner_step + (l.tokens - 1) * l.token_step;
        return is_float(t) && t.dtype() == a.q.dtype() && last < t.rows() && column >= 0 && column + width <= t.dim(-1);
    };
    CHECK(D % 4 == 0 && D > 0 && D <= 128, "attention: head dimension ", D, "; multiples of 4 up to 128 are supported");
    CHECK(a.kv_heads > 0 && a.heads % a.kv_heads == 0, "attention: ", a.heads, " heads over ", a.kv_heads, " key/value heads");
    check_lengths("attention", a.lengths, a.q.rows());
    std::vector<std::pair<Layout, Layout>> runs;                                    // queries and keys of one kernel call each
    if (a.lengths.empty()) runs.emplace_back(a.queries, a.keys);
    for (const Layout& l : layouts(a.lengths)) runs.emplace_back(l, l);
    for (const auto& [queries, keys] : runs)
        CHECK(queries.sequences == keys.sequences && fits(a.q, queries, a.q_column, width) && fits(a.k, keys, a.k_column, kv_width) && fits(a.v, keys, a.v_column, kv_width),
              "attention: q ", a.q, ", k ", a.k, ", v ", a.v, " do not hold ", queries.sequences, " sequences of ", queries.tokens, " queries and ", keys.tokens, " keys of ",
              a.heads, "/", a.kv_heads, " heads of ", D);
    CHECK(!a.k_len || a.lengths.empty(), "attention: k_len beside lengths");
    CHECK(!a.k_len || (a.k_len.dtype() == DType::i32 && a.k_len.numel() == a.keys.sequences), "attention: k_len ", a.k_len, " for ", a.keys.sequences, " sequences");
    for (int64_t s = 0; a.k_len && s < a.keys.sequences; s++)
        CHECK(a.k_len.data<int32_t>()[s] >= 0 && a.k_len.data<int32_t>()[s] <= a.keys.tokens, "attention: sequence ", s, " has ", a.k_len.data<int32_t>()[s], " keys of ", a.keys.tokens);
    const bool covered = !a.lengths.empty() || a.queries.sequences * a.queries.tokens == a.q.rows();      // rows of no sequence are zero
    const Tensor o = covered ? Tensor({a.q.rows(), width}, a.q.dtype()) : zeros({a.q.rows(), width}, a.q.dtype());
    const bool recorded = wants_grad({&a.q, &a.k, &a.v});
    std::vector<kernels::AttentionFwd> calls;
    for (const auto& [queries, keys] : runs) {
        calls.push_back({.o = rows(o, queries, 0), .lse = recorded ? Tensor({queries.sequences, a.heads, queries.tokens}) : Tensor(),
                         .q = rows(a.q.detach(), queries, a.q_column), .k = rows(a.k.detach(), keys, a.k_column), .v = rows(a.v.detach(), keys, a.v_column),
                         .S = queries.sequences, .Nq = queries.tokens, .Nk = keys.tokens, .H = a.heads, .Hkv = a.kv_heads, .D = D,
                         .scale = 1.0f / std::sqrt(float(D)), .mask = a.mask, .k_len = here(a.k_len)});
        kernels::attention(calls.back());
    }
    return record("attention", o, {&a.q, &a.k, &a.v}, [a, calls, runs, rows](const Tensor& dy) {
        // q, k, v may be columns of one tensor, whose gradient then is one tensor too; rows no sequence holds get zeros
        struct Made { Slot slot; Tensor sum; std::vector<int64_t> columns; };
        std::vector<Made> made;
        auto gradient = [&](const Tensor& t, int64_t column, int64_t width) {
            for (Made& m : made) {
                bool free = t.slot() && m.slot == t.slot() && m.sum.shape() == t.shape();
                for (size_t i = 0; i < m.columns.size(); i += 2) free &= column + width <= m.columns[i] || column >= m.columns[i + 1];
                if (!free) continue;
                m.columns.insert(m.columns.end(), {column, column + width});
                return m.sum;
            }
            made.push_back({t.slot(), zeros(t.shape(), t.dtype()), {column, column + width}});
            return made.back().sum;
        };
        const Tensor dq = gradient(a.q, a.q_column, a.heads * a.head_dim), dk = gradient(a.k, a.k_column, a.kv_heads * a.head_dim), dv = gradient(a.v, a.v_column, a.kv_heads * a.head_dim);
        for (size_t i = 0; i < calls.size(); i++) {
            const auto& [queries, keys] = runs[i];
            kernels::attention({.dq = rows(dq, queries, a.q_column), .dk = rows(dk, keys, a.k_column), .dv = rows(dv, keys, a.v_column), .dout = rows(dy, queries, 0), .fwd = calls[i]});
        }
        for (const Made& m : made) add_gradient(m.slot, m.sum);
    });
}

Tensor rope(const Tensor& x, const Tensor& cos, const Tensor& sin, int64_t start) {
    CHECK(x.shape().rank() >= 3 && is_float(x) && is_f32(cos) && is_f32(sin) && x.dim(-1) % 2 == 0 && cos.shape() == sin.shape() && cos.dim(-1) == x.dim(-1) / 2, "rope: x ", x, ", cos ", cos, ", sin ", sin);
    CHECK(start >= 0 && start + x.dim(-3) <= cos.dim(0), "rope: positions ", start, " to ", start + x.dim(-3), " of a table of ", cos.dim(0));
    Tensor y = empty_like(x);
    kernels::rope({.y = y, .x = x, .cos = cos, .sin = sin, .start = start});
    return record("rope", y, {&x}, [slot = x.slot(), cos, sin, start](const Tensor& dy) {
        const Tensor dx = empty_like(dy);
        kernels::rope({.y = dx, .x = dy, .cos = cos, .sin = sin, .start = start, .inverse = true});
        add_gradient(slot, dx);
    });
}

Tensor rope(const Tensor& x, const Tensor& cos, const Tensor& sin, const Lengths& lengths) {
    CHECK(x.shape().rank() == 3 && !lengths.empty() && is_float(x) && x.dim(-1) % 2 == 0 && cos.shape() == sin.shape() && cos.dim(-1) == x.dim(-1) / 2, "rope: x ", x, ", cos ", cos, ", sin ", sin);
    check_lengths("rope", lengths, x.dim(0));
    for (int64_t n : lengths) CHECK(n <= cos.dim(0), "rope: ", n, " positions of a table of ", cos.dim(0));
    auto turned = [cos, sin, lengths](const Tensor& x, bool inverse) {
        const Tensor y = empty_like(x);
        each_sequence(lengths, x.dim(0), [&](int64_t begin, int64_t end) {
            kernels::rope({.y = y.slice(begin, end), .x = x.detach().slice(begin, end), .cos = cos, .sin = sin, .inverse = inverse});
        });
        return y;
    };
    return record("rope", turned(x, false), {&x}, [slot = x.slot(), turned](const Tensor& dy) { add_gradient(slot, turned(dy, true)); });
}

Tensor rope_append(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& cos, const Tensor& sin, int64_t start, const Tensor& k_cache, const Tensor& v_cache) {
    const int64_t N = k.dim(0), D = k.dim(-1);
    CHECK(k.shape().rank() == 3 && v.shape() == k.shape() && q.shape() == (Shape{N, q.dim(1), D}) && is_float(q) && k.dtype() == q.dtype() && v.dtype() == q.dtype() && D % 2 == 0, "rope_append: q ", q, ", k ", k, ", v ", v);
    CHECK(is_f32(cos) && is_f32(sin) && cos.shape() == sin.shape() && cos.dim(-1) == D / 2 && start >= 0 && start + N <= cos.dim(0), "rope_append: positions ", start, " to ", start + N, ", cos ", cos, ", sin ", sin);
    for (const Tensor& c : {k_cache, v_cache})
        CHECK(c.shape().rank() == 2 && c.dtype() == q.dtype() && start + N <= c.dim(0) && c.dim(1) == k.dim(1) * D, "rope_append: rows ", start, " to ", start + N, " of cache ", c);
    CHECK(!wants_grad({&q, &k, &v}), "rope_append: passes no gradient on");
    const Tensor y = empty_like(q);
    kernels::rope({.q_out = y, .k_out = k_cache.slice(start, start + N).reshape(k.shape()), .v_out = v_cache.slice(start, start + N).reshape(v.shape()), .q = q, .k = k, .v = v, .cos = cos, .sin = sin, .start = start});
    return y;
}

Tensor gather_rows(const Tensor& x, const Tensor& index) {
    CHECK(x.shape().rank() == 2 && is_float(x), "gather_rows: x ", x);
    check_index("gather_rows", index, x.dim(0));
    Tensor y({index.numel(), x.dim(1)}, x.dtype());
    kernels::gather_rows({.y = y, .x = x, .index = here(index)});
    return record("gather_rows", y, {&x}, [slot = x.slot(), shape = x.shape(), index](const Tensor& dy) {
        const Tensor sum = zeros(shape), dx = dy.dtype() == DType::f32 ? sum : Tensor(shape, dy.dtype());
        kernels::gather_rows({.dx = sum, .dy = dy, .index = here(index)});
        if (dy.dtype() != DType::f32) kernels::convert({.y = dx, .x = sum});
        add_gradient(slot, dx);
    });
}
Tensor embedding(const Tensor& table, const Tensor& index, DType dtype) {
    CHECK(table.shape().rank() == 2 && is_float(table) && (dtype == DType::f32 || dtype == DType::bf16), "embedding: table ", table, " to ", name_of(dtype));
    check_index("embedding", index, table.dim(0));
    Tensor y({index.numel(), table.dim(1)}, dtype);
    kernels::gather_rows({.y = y, .x = table, .index = here(index)});
    return record("embedding", y, {&table}, [table, index](const Tensor& dy) { kernels::gather_rows({.dx = grad_buffer(table), .dy = dy, .index = here(index)}); });
}
Tensor scatter_rows(int64_t rows, const std::vector<std::pair<Tensor, Tensor>>& parts) {
    CHECK(!parts.empty(), "scatter_rows: nothing to scatter");
    const Tensor& first = parts[0].first;
    Tensor y = zeros({rows, first.dim(-1)}, first.dtype());
    bool recorded = false;
    for (const auto& [x, index] : parts) {
        CHECK(is_float(x) && x.dtype() == y.dtype() && x.dim(-1) == y.dim(1) && x.rows() == index.numel(), "scatter_rows: x ", x, ", index ", index, " into ", y);
        check_index("scatter_rows", index, rows);
        std::vector<bool> taken(size_t(rows), false);
        for (int64_t i = 0; i < index.numel(); i++) {
            const size_t at = size_t(index.data<int32_t>()[i]);
            CHECK(!taken[at], "scatter_rows: index ", at, " twice");
            taken[at] = true;
        }
        kernels::scatter_rows({.y = y, .x = x, .index = here(index)});
        recorded |= wants_grad({&x});
    }
    if (!recorded) return y;
    Tensor any;
    for (const auto& part : parts) if (part.first.needs_grad()) any = part.first;
    std::vector<std::tuple<Slot, Shape, Tensor>> outs;
    for (const auto& [x, index] : parts) outs.emplace_back(x.slot(), x.shape(), index);
    return record("scatter_rows", y, {&any}, [outs](const Tensor& dy) {
        for (const auto& [slot, shape, index] : outs) {
            if (!slot) continue;
            const Tensor dx({index.numel(), dy.dim(1)}, dy.dtype());
            kernels::gather_rows({.y = dx, .x = dy, .index = here(index)});
            add_gradient(slot, dx.reshape(shape));
        }
    });
}
Tensor slice_rows(const Tensor& x, int64_t begin, int64_t end) {
    const Tensor y = x.detach().slice(begin, end);
    return record("slice_rows", y, {&x}, [slot = x.slot(), shape = x.shape(), begin, end](const Tensor& dy) {
        const Tensor dx = zeros(shape, dy.dtype());
        dx.slice(begin, end).copy_from(dy);
        add_gradient(slot, dx);
    });
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
    CHECK(is_float(x) && is_float(table) && table.dim(-1) == x.dim(-1) && table.rows() > 0 && inner > 0, "add_rows: x ", x, ", table ", table);
    Tensor y = empty_like(x);
    kernels::add_rows({.y = y, .x = x, .table = table, .inner = inner});
    return record("add_rows", y, {&x, &table}, [slot = x.slot(), table, inner](const Tensor& dy) {
        if (const Tensor dtable = grad_buffer(table)) kernels::add_rows({.dtable = dtable, .dy = dy, .inner = inner});
        add_gradient(slot, dy);
    });
}
Tensor prepend_tokens(const Tensor& x, const Tensor& tokens) {
    CHECK(x.shape().rank() == 3 && is_float(x) && is_float(tokens) && tokens.dim(-1) == x.dim(2), "prepend_tokens: x ", x, ", tokens ", tokens);
    Tensor y({x.dim(0), tokens.rows() + x.dim(1), x.dim(2)}, x.dtype());
    kernels::prepend_tokens({.y = y, .x = x, .tokens = tokens});
    return record("prepend_tokens", y, {&x, &tokens}, [slot = x.slot(), shape = x.shape(), tokens](const Tensor& dy) {
        const Tensor dx = slot ? Tensor(shape, dy.dtype()) : Tensor(), dtokens = grad_buffer(tokens);
        if (dx || dtokens) kernels::prepend_tokens({.dx = dx, .dtokens = dtokens, .dy = dy});
        add_gradient(slot, dx);
    });
}

Tensor patchify(const Pixels& x, int64_t patch, int64_t tubelet) {
    const Tensor& v = x.values;
    CHECK(v.shape().rank() == 4 && v.dim(1) == 3 && patch > 0 && tubelet > 0 && v.dim(2) % patch == 0 && v.dim(3) % patch == 0 && v.dim(0) % tubelet == 0 &&
          (v.dtype() == DType::u8 || v.dtype() == DType::f32), "patchify: pixels ", v, " in tubelets of ", tubelet, " x ", patch, " x ", patch);
    Tensor y({v.dim(0) / tubelet, (v.dim(2) / patch) * (v.dim(3) / patch), 3 * tubelet * patch * patch}, x.dtype);
    kernels::patchify({.y = y, .x = v, .patch = patch, .tubelet = tubelet, .mean = x.mean, .std = x.std});
    return record("patchify", y, {&v});         // pixels take no gradient
}

Tensor adaptive_pool(const Tensor& x, int64_t t, int64_t y, int64_t z) {
    CHECK(x.shape().rank() == 5 && is_float(x) && x.numel() > 0 && t > 0 && y > 0 && z > 0, "adaptive_pool: x ", x, " to ", t, " x ", y, " x ", z);
    Tensor out({x.dim(0), t, y, z, x.dim(4)}, x.dtype());
    kernels::adaptive_pool({.y = out, .x = x});
    return record("adaptive_pool", out, {&x}, [slot = x.slot(), shape = x.shape()](const Tensor& dy) {
        const Tensor dx(shape, dy.dtype());
        kernels::adaptive_pool({.dx = dx, .dy = dy});
        add_gradient(slot, dx);
    });
}
Tensor token_mean(const Tensor& x) {
    CHECK(x.shape().rank() == 3 && is_float(x) && x.dim(1) > 0, "token_mean: x ", x);
    Tensor y({x.dim(0), x.dim(2)}, x.dtype());
    kernels::token_mean({.y = y, .x = x});
    return record("token_mean", y, {&x}, [slot = x.slot(), shape = x.shape()](const Tensor& dy) {
        const Tensor dx(shape, dy.dtype());
        kernels::token_mean({.dx = dx, .dy = dy});
        add_gradient(slot, dx);
    });
}
Tensor mix(const std::vector<Tensor>& x, const Tensor& weights) {
    CHECK(!x.empty() && (is_f32(weights) || weights.dtype() == x[0].dtype()) && weights.shape() == (Shape{x[0].dim(0), int64_t(x.size())}), "mix: ", x.size(), " inputs, weights ", weights);
    for (const Tensor& t : x) CHECK(t.shape() == x[0].shape() && is_float(t) && t.dtype() == x[0].dtype(), "mix: ", t, " beside ", x[0]);
    Tensor y = empty_like(x[0]);
    kernels::mix({.y = y, .x = x, .weights = weights});
    Tensor any = weights;
    for (const Tensor& t : x) if (t.needs_grad()) any = t;
    std::vector<Tensor> kept;                   // the inputs are read for dweights alone
    std::vector<Slot> slots;
    for (const Tensor& t : x) kept.push_back(weights.needs_grad() ? t.detach() : Tensor()), slots.push_back(t.slot());
    return record("mix", y, {&any}, [kept, slots, weights](const Tensor& dy) {
        std::vector<Tensor> dx;
        for (const Slot& s : slots) dx.push_back(s ? empty_like(dy) : Tensor());
        const Tensor dweights = weights.needs_grad() ? empty_like(weights) : Tensor();
        kernels::mix({.dx = dx, .dweights = dweights, .dy = dy, .x = kept, .weights = weights});
        for (size_t e = 0; e < slots.size(); e++) add_gradient(slots[e], dx[e]);
        add_gradient(weights.slot(), dweights);
    });
}
Tensor softmax_rows(const Tensor& x, float scale) {
    CHECK(is_float(x) && x.dim(-1) > 0, "softmax_rows: x ", x);
    Tensor y = empty_like(x);
    kernels::softmax_rows({.y = y, .x = x, .scale = scale});
    return record("softmax_rows", y, {&x}, [slot = x.slot(), y, scale](const Tensor& dy) {
        const Tensor dx = empty_like(dy);
        kernels::softmax_rows({.dx = dx, .dy = dy, .y = y, .scale = scale});
        add_gradient(slot, dx);
    });
}

namespace {

// The rows that count; or `count`, if the caller knows how many there are in all.
int64_t count_labels(const char* op, const Tensor& labels, int64_t rows, int64_t classes, int64_t count) {
    CHECK(labels.dtype() == DType::i32 && labels.numel() == rows, op, ": labels ", labels, " for ", rows, " rows");
    int64_t n = 0;
    for (int64_t i = 0; i < rows; i++) {
        const int32_t label = labels.data<int32_t>()[i];
        CHECK(label == kIgnore || (label >= 0 && label < classes), op, ": label ", label, " of ", classes, " classes");
        n += label != kIgnore;
    }
    CHECK(count ? count >= n : n > 0, op, ": ", n, " labels, divided by ", count);
    return count ? count : n;
}
Tensor mean_loss(const Tensor& losses, int64_t count) {
    const float mean = float(kernels::sum(losses) / double(count));
    return from_floats(std::span(&mean, 1), {1});
}

}

Tensor cross_entropy(const Tensor& logits, const Tensor& labels, int64_t count) {
    CHECK(logits.shape().rank() == 2 && is_float(logits), "cross_entropy: logits ", logits);
    count = count_labels("cross_entropy", labels, logits.dim(0), logits.dim(1), count);
    const Tensor losses({logits.dim(0)});
    kernels::cross_entropy({.loss = losses, .x = logits, .labels = here(labels)});
    return record("cross_entropy", mean_loss(losses, count), {&logits}, [x = logits.detach(), slot = logits.slot(), labels, count](const Tensor& dy) {
        const Tensor dx = empty_like(x);
        kernels::cross_entropy({.dx = dx, .x = x, .labels = here(labels), .scale = to_floats(dy)[0] / float(count)});
        add_gradient(slot, dx);
    });
}

Tensor linear_cross_entropy(const Tensor& x, const Tensor& w, const Tensor& labels, int64_t count, int64_t chunk) {
    CHECK(x.shape().rank() == 2 && w.shape().rank() == 2 && is_float(x) && is_float(w) && x.dim(1) == w.dim(1), "linear_cross_entropy: x ", x, ", w ", w);
    CHECK(chunk > 0 && chunk % kLossChunk == 0, "linear_cross_entropy: chunks of ", chunk, " rows; a multiple of ", kLossChunk, " is needed");
    const int64_t M = x.dim(0), V = w.dim(0), fold = x.dtype() == DType::bf16 ? 512 : 256;      // rows in a chunk of dw's sum (kernels/linear.h)
    count = count_labels("linear_cross_entropy", labels, M, V, count);
    // f(first row, end row, logits), logits in one buffer that serves every chunk
    auto each_chunk = [=](const Tensor& x, const Tensor& w, const auto& f) {
        const Tensor buffer({std::min(M, chunk), V}, x.dtype());
        for (int64_t m = 0; m < M; m += chunk) {
            const int64_t end = std::min(M, m + chunk);
            const Tensor logits = buffer.slice(0, end - m);
            kernels::linear({.y = logits, .x = x.slice(m, end), .w = w});
            f(m, end, logits);
        }
    };
    const Tensor losses({M});
    each_chunk(x.detach(), w.detach(), [&](int64_t m, int64_t end, const Tensor& logits) {
        kernels::cross_entropy({.loss = losses.slice(m, end), .x = logits, .labels = here(labels.slice(m, end))});
    });
    return record("linear_cross_entropy", mean_loss(losses, count), {&x, &w}, [=, x = x.detach(), slot = x.slot()](const Tensor& dy) {
        const Tensor dx = slot ? empty_like(x) : Tensor(), dw = grad_buffer(w);
        each_chunk(x, w, [&](int64_t m, int64_t end, const Tensor& logits) {
            kernels::cross_entropy({.dx = logits, .x = logits, .labels = here(labels.slice(m, end)), .scale = to_floats(dy)[0] / float(count)});
            if (dx) kernels::linear({.dx = dx.slice(m, end), .dz = logits, .w = w});
            for (int64_t i = m; dw && i < end; i += fold) {
                const int64_t stop = std::min(end, i + fold);
                kernels::linear({.dw = dw, .dz = logits.slice(i - m, stop - m), .x = x.slice(i, stop)});
            }
        });
        add_gradient(slot, dx);
    });
}

}
