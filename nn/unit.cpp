#include "nn/unit.h"
#include <utility>
#include "nn/functional.h"

namespace merv::nn {
namespace {

struct Refill { Tensor y; std::function<void(const Tensor&)> fill; };

thread_local Recompute policy = Recompute::none;
thread_local std::vector<Refill>* refills_of_unit = nullptr;        // null: nothing is dropped

struct Collect {                                // can_refill() fills this list, in scope
    explicit Collect(std::vector<Refill>* list) : saved_(std::exchange(refills_of_unit, list)) {}
    ~Collect() { refills_of_unit = saved_; }
    std::vector<Refill>* saved_;
};

}

RecomputeScope::RecomputeScope(Recompute r) : saved_(std::exchange(policy, r)) {}
RecomputeScope::~RecomputeScope() { policy = saved_; }

void can_refill(const Tensor& y, std::function<void(const Tensor&)> fill) {
    if (refills_of_unit) refills_of_unit->push_back({y.detach(), std::move(fill)});
}

Tensor recompute(const std::function<Tensor(const Tensor&)>& f, const Tensor& x) {
    if (!recording()) return f(x);
    Tensor y;
    bool wanted = x.needs_grad();
    {
        const NoGrad no_grad;
        y = f(x.detach());
        wanted |= no_grad.met();                // a parameter inside f may want a gradient even if x does not
    }
    if (!wanted) return y;
    y.set_needs_grad();
    Tape::current().record("recompute", y.slot(), [f, x = x.detach(), slot = x.slot()](Tensor dy) {
        Tape inner;
        Tensor again = x;
        again.set_needs_grad(slot != nullptr);
        Slot out;                               // the second y is not kept: only its slot is needed
        {
            const RecordOn scope(inner);
            out = f(again).slot();
        }
        if (out) inner.backward(out, std::move(dy));
        if (const Tensor dx = again.grad()) add_gradient(slot, dx);
    });
    return y;
}

Tensor run_unit(const Tensor& x, const std::function<Tensor(const Tensor&)>& f) {
    const profile::Range range("unit");
    if (!recording() || policy == Recompute::none) return f(x);
    if (policy == Recompute::full) return recompute(f, x);
    std::vector<Refill> refills;
    Tensor y;
    {
        const Collect scope(&refills);
        y = f(x);
    }
    // what nobody else holds is gone anyway, and the unit's own output is needed by the next
    std::erase_if(refills, [&](const Refill& r) { return r.y.unique() || r.y.shares(y); });
    if (refills.empty()) return y;
    for (const Refill& r : refills) r.y.drop();
    Tape::current().mark([refills = std::move(refills)] {
        for (const Refill& r : refills) r.y.restore(), r.fill(r.y);
    });
    return y;
}

}
