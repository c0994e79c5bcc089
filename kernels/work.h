// What an ideal kernel of each op moves and computes, and the hook through which --profile sees ops (core/profile.h).
#pragma once
#include "core/profile.h"

namespace merv::kernels {

// Of an op's argument struct: every input read once, every output written once, no work done twice. Where an op is one launch these
// are the numbers kernels/cuda/<op>.cu gives that launch; tests/test_profile.cpp compares them. kernels/work.cpp; an op without is a link error.
template <class Args> profile::OpCall work(const Args&);

template <class Args, class F> void profiled(const Args& a, Device device, F&& f) {
    if (!profile::on()) return f();
    profile::OpCall call = work(a);
    call.device = device;
    const profile::Op op(call);
    f();
}

}
