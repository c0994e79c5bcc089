// Reverse mode on a tape. Ops run when called and append one node each; execution order is a topological order, so
// backward pops nodes in reverse and each saved activation is released the moment its node has run.
#pragma once
#include <functional>
#include <vector>
#include "core/tensor.h"

namespace merv {

class Tape {
  public:
    using Backward = std::function<void(Tensor dy)>;            // dy may be overwritten if it is unique()
    static Tape& current();                     // of this thread
    void record(const char* op, Slot out, Backward backward) { nodes_.push_back({op, std::move(out), std::move(backward)}); }
    void mark(std::function<void()> passed);    // called when backward passes this point
    void backward(const Tensor& y, const Tensor& dy);   // d loss / d y = dy; empties the tape
    void backward(const Tensor& loss);          // one element; d loss = 1
    void backward(const Slot& of, Tensor dy);   // of the tensor that had this slot, which nobody needs to hold any more
    size_t size() const { return nodes_.size(); }
    void clear() { nodes_.clear(); }

  private:
    struct Node { const char* op; Slot out; Backward backward; };       // out is null for a mark
    std::vector<Node> nodes_;
};

bool recording();                               // off in inference: nothing is kept
struct NoGrad {                                 // recording is off in scope
    NoGrad();
    ~NoGrad();
    NoGrad(const NoGrad&) = delete;
    NoGrad& operator=(const NoGrad&) = delete;
    bool met() const;                           // has an op in scope had an input that wants a gradient?

  private:
    bool recorded_, met_;
};
struct RecordOn {                               // ops are recorded, on this tape, in scope
    explicit RecordOn(Tape&);
    ~RecordOn();
    RecordOn(const RecordOn&) = delete;
    RecordOn& operator=(const RecordOn&) = delete;

  private:
    Tape* tape_;
    bool recorded_;
};

// This thread's ops in scope are shown to `see`: what each makes, and in backward the gradient of that before it is passed on. To find the first value that is not finite.
struct WatchOps {
    using See = std::function<void(const char* op, const Tensor& value, bool gradient)>;
    explicit WatchOps(See see);
    ~WatchOps();
    WatchOps(const WatchOps&) = delete;
    WatchOps& operator=(const WatchOps&) = delete;

  private:
    See see_;
    const See* saved_;
};

// Will an op on these inputs be recorded? Ops ask before they save anything for backward.
bool wants_grad(std::initializer_list<const Tensor*> inputs);

// The one call every op ends with: if recording and any input wants a gradient, y gets a slot and the tape a node. An
// empty `backward` marks an op that has no gradient; a backward pass that reaches it throws and names it.
Tensor record(const char* op, Tensor y, std::initializer_list<const Tensor*> inputs, Tape::Backward backward = {});

}
