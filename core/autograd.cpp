#include "core/autograd.h"
#include <algorithm>
#include <utility>

namespace merv {
namespace {
thread_local bool record_ops = true;
thread_local bool grad_met = false;             // an op met an input that wants a gradient, whether recorded or not
thread_local const WatchOps::See* watcher = nullptr;
thread_local Tape* current_tape = nullptr;      // null: the thread's own
}

WatchOps::WatchOps(See see) : see_(std::move(see)), saved_(std::exchange(watcher, &see_)) {}
WatchOps::~WatchOps() { watcher = saved_; }

bool recording() { return record_ops; }
NoGrad::NoGrad() : recorded_(std::exchange(record_ops, false)), met_(std::exchange(grad_met, false)) {}
NoGrad::~NoGrad() { record_ops = recorded_, grad_met |= met_; }
bool NoGrad::met() const { return grad_met; }
RecordOn::RecordOn(Tape& tape) : tape_(std::exchange(current_tape, &tape)), recorded_(std::exchange(record_ops, true)) {}
RecordOn::~RecordOn() { current_tape = tape_, record_ops = recorded_; }

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
    backward(y.slot(), dy);
}
void Tape::backward(const Slot& of, Tensor dy) {
    CHECK(!of->grad, "backward from a leaf that has a gradient already, ", *of->grad);
    of->grad = std::make_shared<Tensor>(dy.detach().reshape(of->shape));
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
        if (watcher) (*watcher)(node.op, dout, true);
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
    if (watcher) (*watcher)(op, y, false);
    if (!wants_grad(inputs)) return y;
    y.set_needs_grad();
    Tape::current().record(op, y.slot(), std::move(backward));
    return y;
}

}
