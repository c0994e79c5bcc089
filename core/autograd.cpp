#include "core/autograd.h"
#include <algorithm>

namespace merv {
namespace {
thread_local bool record_ops = true;
}

bool recording() { return record_ops; }
NoGrad::NoGrad() : saved_(record_ops) { record_ops = false; }
NoGrad::~NoGrad() { record_ops = saved_; }

Tape& Tape::current() {
    static thread_local Tape tape;
    return tape;
}

void Tape::backward(const Tensor& y, const Tensor& dy) {
    CHECK(y.needs_grad(), "backward from ", y, ", which no tensor that needs a gradient reaches");
    CHECK(dy.shape() == y.shape(), "backward: the gradient of ", y, " is given as ", dy);
    y.slot()->grad = std::make_shared<Tensor>(dy.detach());
    NoGrad no_grad;                             // the backward of a backward is not recorded
    while (!nodes_.empty()) {
        Node node = std::move(nodes_.back());
        nodes_.pop_back();
        if (!node.out->grad) continue;          // nothing downstream of this op reached the loss
        CHECK(node.backward, "backward reached ", node.op, ", which has no gradient yet");
        Tensor dout = *node.out->grad;
        node.out->grad = nullptr;
        node.backward(dout);
    }
}

Tensor record(const char* op, Tensor y, std::initializer_list<const Tensor*> inputs, Tape::Backward backward) {
    if (!record_ops || std::none_of(inputs.begin(), inputs.end(), [](const Tensor* t) { return t->needs_grad(); })) return y;
    y.set_needs_grad();
    Tape::current().record(op, y.slot(), std::move(backward));
    return y;
}

}
