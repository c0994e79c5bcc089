// The number the formulas of tests/cases are written in: a double that remembers, while a Recording is in scope, what it was
// computed from. A formula thus yields its exact derivative as it stands (reverse mode by operator overloading), with nothing
// in common with the product's tape.
#pragma once
#include <cmath>
#include <cstdint>
#include <vector>
#include "core/dtype.h"

namespace merv::test {

struct Real {
    double v;
    int32_t node = -1;                          // -1: a constant
    Real(double value = 0) : v(value) {}
    explicit operator double() const { return v; }
    Real with(double value) const { Real r = *this; r.v = value; return r; }        // the same variable at another value: a rounding
};
using Numbers = std::vector<Real>;              // a tensor's elements

inline double to_f32(double v) { return double(float(v)); }
inline double to_type(double v, DType t) { return t == DType::bf16 ? double(float(bf16(float(v)))) : to_f32(v); }

// Exact is double. The other two are plain f32: every step of a sum of products rounded once (fused), or product and sum each.
enum class Arithmetic { exact, f32, f32_fused };
inline double madd(double a, double b, double c, Arithmetic how) {
    return how == Arithmetic::exact ? a * b + c : how == Arithmetic::f32 ? to_f32(to_f32(a * b) + c) : to_f32(a * b + c);
}

// What was computed since this began. In f32, partial derivatives and the sums of adjoints are rounded too.
class Recording {
  public:
    explicit Recording(Arithmetic how) : how_(how) { current() = this, nodes_.clear(), edges_.clear(); }
    ~Recording() { current() = nullptr; }
    Recording(const Recording&) = delete;
    Recording& operator=(const Recording&) = delete;
    static Recording*& current() { static Recording* r = nullptr; return r; }
    static double rounded(double v) { return current() && current()->how_ != Arithmetic::exact ? to_f32(v) : v; }       // as values are now
    static int64_t& operations() { static int64_t n = 0; return n; }        // counted whether recorded or not

    Real variable(double v) {                   // all of them before anything is computed
        Real r(v);
        r.node = add({});
        variables_ = nodes_.size();
        return r;
    }
    // adjoint[x.node] = d sum(dy y) / d x. What reaches a variable is added in the formula's order, as a plain program would.
    std::vector<double> adjoints(const Numbers& y, const std::vector<double>& dy) const {
        std::vector<double> adjoint(nodes_.size());
        for (size_t i = 0; i < y.size(); i++)
            if (y[i].node >= 0) adjoint[size_t(y[i].node)] = madd(1, dy[i], adjoint[size_t(y[i].node)], how_);
        auto pass_on = [&](size_t i, bool to_variables) {
            for (size_t e = i ? nodes_[i - 1].end : 0; e < nodes_[i].end; e++)
                if (const size_t to = size_t(edges_[e].to); (to < variables_) == to_variables) adjoint[to] = madd(adjoint[i], edges_[e].partial, adjoint[to], how_);
        };
        for (size_t i = nodes_.size(); i-- > variables_;) {
            if (nodes_[i].in_bf16) adjoint[i] = to_type(adjoint[i], DType::bf16);
            if (adjoint[i] != 0) pass_on(i, false);
        }
        for (size_t i = variables_; i < nodes_.size(); i++) if (adjoint[i] != 0) pass_on(i, true);
        return adjoint;
    }

    struct Edge { double partial; int32_t to; };
    int32_t add(std::initializer_list<Edge> edges, bool in_bf16 = false) {
        for (const Edge& e : edges) if (e.to >= 0) edges_.push_back({how_ == Arithmetic::exact ? e.partial : to_f32(e.partial), e.to});
        nodes_.push_back({uint32_t(edges_.size()), in_bf16});
        return int32_t(nodes_.size()) - 1;
    }

  private:
    struct Node { uint32_t end : 31, in_bf16 : 1; };      // its edges end there; its adjoint is rounded to bf16 before it goes on
    Arithmetic how_;
    size_t variables_ = 0;
    static inline std::vector<Node> nodes_;     // one recording at a time; the memory is used again
    static inline std::vector<Edge> edges_;
};

// v = f(a, b, c) with these partial derivatives, which a plain program makes of what it has kept
inline Real computed(double v, const Real& a, double da, const Real& b = {}, double db = 0, const Real& c = {}, double dc = 0) {
    Recording::operations()++;
    Real r(v);
    if (a.node >= 0 || b.node >= 0 || c.node >= 0) r.node = Recording::current()->add({{da, a.node}, {db, b.node}, {dc, c.node}});
    return r;
}
inline Real operator+(const Real& a, const Real& b) { return computed(a.v + b.v, a, 1, b, 1); }
inline Real operator-(const Real& a, const Real& b) { return computed(a.v - b.v, a, 1, b, -1); }
inline Real operator*(const Real& a, const Real& b) { return computed(a.v * b.v, a, b.v, b, a.v); }
inline Real operator/(const Real& a, const Real& b) { return computed(a.v / b.v, a, 1 / b.v, b, -Recording::rounded(a.v / b.v) / b.v); }
inline Real operator-(const Real& a) { return computed(-a.v, a, -1); }
inline bool operator<(const Real& a, const Real& b) { return a.v < b.v; }
inline Real max(const Real& a, const Real& b) { return a < b ? b : a; }
inline Real sqrt(const Real& a) { const double r = std::sqrt(a.v); return computed(r, a, 0.5 / Recording::rounded(r)); }
inline Real exp(const Real& a) { const double r = std::exp(a.v); return computed(r, a, r); }
inline Real log(const Real& a) { return computed(std::log(a.v), a, 1 / a.v); }
inline Real erf(const Real& a) { return computed(std::erf(a.v), a, 2 / std::sqrt(M_PI) * std::exp(-a.v * a.v)); }
inline Real tanh(const Real& a) { const double r = std::tanh(a.v), t = Recording::rounded(r); return computed(r, a, 1 - Recording::rounded(t * t)); }

// q of the formulas: identity, or to f32 whatever a plain program would keep in f32. It knows in which types the op runs.
struct Round {
    Arithmetic how = Arithmetic::exact;
    DType activations = DType::f32, parameters = DType::f32;
    bool backward = false;                      // the formula is run for its gradient
    Real operator()(const Real& v) const { return how == Arithmetic::exact ? v : v.with(to_f32(v.v)); }
    // A value in the type of the activations
    Real stored(const Real& v) const { return how == Arithmetic::exact ? v : v.with(to_type(v.v, activations)); }
    // The same, but only backward finds it so: forward went on with more
    Real kept(const Real& v) const { return backward ? stored(v) : v; }
    // A value whose gradient is stored in the type of the activations on its way back
    Real gradient_kept(const Real& v) const {
        if (how == Arithmetic::exact || activations != DType::bf16 || v.node < 0) return v;
        Real r = v;
        r.node = Recording::current()->add({{1, v.node}}, true);
        return r;
    }
};
inline Real madd(const Real& a, const Real& b, const Real& c, const Round& q) { return computed(madd(a.v, b.v, c.v, q.how), a, b.v, b, a.v, c, 1); }

}
