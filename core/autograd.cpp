#include "core/autograd.h"
#include <algorithm>
#include <utility>
#include "kernels/elementwise.h"                // the one look upward: gradients are summed by a kernel

namespace merv {
namespace {
thread_local bool record_ops = true;
thread_local bool grad_met = false;             // an op met an input that wants a gradient, whether recorded or not
thread_local Tape* current_tape = nullptr;      // null: the thread's own

struct RecordOn {                               // ops are recorded on this tape, in scope
    explicit RecordOn(Tape& tape) : tape_(std::exchange(current_tape, &tape)), record_(std::exchange(record_ops, true)) {}
    ~RecordOn() { current_tape = tape_, record_ops = record_; }
    RecordOn(const RecordOn&) = delete;
    RecordOn& operator=(const RecordOn&) = delete;

  private:
    Tape* tape_;
    bool record_;
};
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
    const Tensor sum = own || grad->unique() ? *grad : empty_like(g);      // somebody else may hold the first contribution
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
    run(y.slot(), dy);
}
void Tape::run(const Slot& from, Tensor dy) {
    from->add(dy);
    dy = {};
    NoGrad no_grad;                             // the backward of a backward is not recorded
    std::vector<Node> nodes = std::exchange(nodes_, {});        // the tape is empty afterwards, even if a node throws
    while (!nodes.empty()) {
        Node node = std::move(nodes.back());
        nodes.pop_back();
        if (!node.out) {
            node.backward({});
            continue;
        }
        if (!node.out->grad) continue;          // nothing downstream of this op reached the loss
        CHECK(node.backward, "backward reached ", node.op, ", which has no gradient");
        Tensor dout = *node.out->grad;
        node.out->grad = nullptr;
        node.backward(std::move(dout));         // the only handle, unless somebody else was given the same gradient
    }
}
void Tape::backward(const Tensor& loss) {
    CHECK(loss.numel() == 1, "backward() starts from one number, not ", loss);
    const float one = 1;
    backward(loss, from_floats(std::span(&one, 1), loss.shape(), loss.dtype()));
}

bool wants_grad(std::initializer_list<const Tensor*> inputs) {
    if (!std::any_of(inputs.begin(), inputs.end(), [](const Tensor* t) { return t->needs_grad(); })) return false;
    grad_met = true;
    return record_ops;
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
    const bool met = std::exchange(grad_met, false);
    {
        NoGrad no_grad;
        y = f(x.detach());
    }
    const bool wanted = x.needs_grad() || grad_met;     // a parameter inside f may want one even if x does not
    grad_met |= met;
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
        if (out) inner.run(out, std::move(dy));
        if (slot && again.slot()->grad) slot->add(*again.slot()->grad);
    });
    return y;
}

}
