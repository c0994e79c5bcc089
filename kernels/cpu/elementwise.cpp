// Bound by memory.
#include "kernels/elementwise.h"

namespace merv::kernels::cpu::MERV_ISA {

template <> void run(const Add& a) {
    const int64_t n = a.y.numel();
    with_float_type(a.y.dtype(), [&]<class X>() {
        const X *p = a.a.data<X>(), *q = a.b.data<X>();
        X* y = a.y.data<X>();
#pragma omp parallel for if (n > 1 << 14)
        for (int64_t i = 0; i < n; i++) y[i] = X(float(p[i]) + float(q[i]));
    });
}
template <> void run(const Convert& a) {
    const int64_t n = a.y.numel();
    with_float_type(a.y.dtype(), [&]<class Y>() { with_float_type(a.x.dtype(), [&]<class X>() {
        const X* x = a.x.data<X>();
        Y* y = a.y.data<Y>();
#pragma omp parallel for if (n > 1 << 14)
        for (int64_t i = 0; i < n; i++) y[i] = Y(float(x[i]));
    }); });
}

}
