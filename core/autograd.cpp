#include "core/autograd.h"
#include <algorithm>
#include "kernels/elementwise.h"                // the one look upward: gradients are summed by a kernel

namespace merv {
namespace {
thread_local bool record_ops = true;
thread_local Tape* current_tape = nullptr;      // null: the thread's own
}

bool recording() { return record_ops; }
NoGrad::NoGrad() : saved_(record_ops) { record_ops = false; }
NoGrad::~NoGrad() { record_ops = saved_; }

void GradSlot::add(const Tensor& contribution) {
    const Tensor g = contribution.detach().reshape(shape);
    if (!grad) {
        grad = std::make_shared<Tensor>(g);
        return;
    }
    CHECK(g.dtype() == grad->dtype(), "gradient ", g, " added to ", *grad);
    const Tensor sum = grad->unique() ? *grad : empty_like(g);      // somebody else may hold the first contribution
    kernels::add({.y = sum, .a = *grad, .b = g});
    *grad = sum;
}

Tape& Tape::current() {
    static thread_local Tape tape;
    return current_tape ? *current_tape : tape;
}

void Tape::mark(std::function<void()> passed) {
    if (record_ops) nodes_.push_back({"mark", nullptr, [passed = std::move(passed)](const Tensor&) { passed(); }});
}

void Tape::backward(const Tensor& y, const Tensor& dy) {
    CHECK(y.needs_grad(), "backward from ", y, ", which no tensor that needs a gradient reaches");
    CHECK(dy.shape() == y.shape() && dy.dtype() == y.dtype(), "backward: the gradient of ", y, " is given as ", dy);
    y.slot()->add(dy);
    NoGrad no_grad;                             // the backward of a backward is not recorded
    while (!nodes_.empty()) {
        Node node = std::move(nodes_.back());
        nodes_.pop_back();
        if (!node.out) {
            node.backward({});
            continue;
        }
        if (!node.out->grad) continue;          // nothing downstream of this op reached the loss
        CHECK(node.backward, "backward reached ", node.op, ", which has no gradient");
        const Tensor dout = *node.out->grad;
        node.out->grad = nullptr;
        node.backward(dout);
    }
}
void Tape::backward(const Tensor& loss) {
    CHECK(loss.numel() == 1, "backward() starts from one number, not ", loss);
    const float one = 1;
    backward(loss, from_floats(std::span(&one, 1), loss.shape(), loss.dtype()));
}

bool wants_grad(std::initializer_list<const Tensor*> inputs) {
    return record_ops && std::any_of(inputs.begin(), inputs.end(), [](const Tensor* t) { return t->needs_grad(); });
}
Tensor record(const char* op, Tensor y, std::initializer_list<const Tensor*> inputs, Tape::Backward backward) {
    if (!wants_grad(inputs)) return y;
    y.set_needs_grad();
    Tape::current().record(op, y.slot(), std::move(backward));
    return y;
}

Tensor recompute(const std::function<Tensor(const Tensor&)>& f, const Tensor& x) {
    if (!record_ops) return f(x);
    Tensor y;
    {
        NoGrad no_grad;
        y = f(x.detach());
    }
    y.set_needs_grad();                         // parameters inside f may want gradients even if x does not
    Tape::current().record("recompute", y.slot(), [f, x = x.detach(), slot = x.slot()](const Tensor& dy) {
        Tape inner, *outer = current_tape;
        Tensor again = x;
        again.set_needs_grad(slot != nullptr);
        current_tape = &inner, record_ops = true;
        const Tensor y = f(again);
        record_ops = false;
        if (y.needs_grad()) inner.backward(y, dy);
        current_tape = outer;
        if (slot && again.slot()->grad) slot->add(*again.slot()->grad);
    });
    return y;
}

}
