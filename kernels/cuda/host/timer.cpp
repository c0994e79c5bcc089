#include "kernels/cuda/host/timer.h"
#include <algorithm>
#include <functional>
#include <utility>
#include <nvtx3/nvToolsExt.h>
#include "core/check.h"
#include "core/profile_clock.h"
#include "core/rng.h"
#include "core/tensor.h"
#include "kernels/cuda/host/gemm.h"
#include "kernels/random.h"

namespace merv {
namespace {

constexpr size_t kMostRaw = size_t(1) << 20;    // then the host waits once, to calibrate: 32 MiB, at most some seconds of small kernels

thread_local std::vector<void*> open_pairs;    // of this thread's ops, the innermost last; null: not measured

double ms_of(const std::function<void()>& work) {            // the least of five
    const Event from(true), to(true);
    work();
    float best = 1e30f;
    for (int i = 0; i < 5; i++) {
        from.record(), work(), to.record(), to.synchronize();
        best = std::min(best, to.ms_since(from));
    }
    return std::max(double(best), 1e-6);
}
Tensor random(int64_t n, DType t) {
    const Tensor x({n}, t);
    kernels::fill_random({.y = x, .rng = Rng(1, "peaks")});
    return x;
}
// Larger and larger until it takes 2 ms, or `most`: units per second
template <class F> double rate(int64_t first, int64_t most, F&& measure) {
    for (int64_t n = first;; n *= 2)
        if (const auto [units, ms] = measure(n); ms > 2 || n >= most) return units / ms * 1e3;
}

}

// All streams of a device have one clock. An event on a queue that is empty happens between the two readings around it: the closest of a few.
CudaTimer::Calibration CudaTimer::calibrate() {
    const cudaStream_t s = current_stream();
    must(cudaStreamSynchronize(s), "waiting for the device");
    Calibration best{};
    int64_t least = INT64_MAX;
    const SharedEvent before = calibrated_;
    SharedEvent chosen;
    for (int i = 0; i < 5; i++) {
        const auto e = std::make_shared<Event>(true);
        const int64_t from = profile::now();
        e->record(s), e->synchronize();
        const int64_t took = profile::now() - from;
        if (took < least) least = took, best.host = from + took / 2, chosen = e;
    }
    best.device = before ? last_.device + double(chosen->ms_since(*before)) * 1e6 : 0;
    calibrated_ = chosen;
    for (auto& [stream, r] : rings_) if (r.first == r.next) r.anchor = chosen, r.anchor_ns = best.device;
    return best;
}

CudaTimer::Ring& CudaTimer::ring() {
    if (!calibrated_) last_ = calibrate();
    const auto [at, fresh] = rings_.try_emplace(current_stream());
    Ring& r = at->second;
    if (fresh) r.stream = int(rings_.size()) - 1, r.pairs.resize(kPairs), r.anchor = calibrated_, r.anchor_ns = last_.device;
    return r;
}

// Called around ops, of which one is a destructor: what fails here is not measured, and the next call that can will say what failed.
void CudaTimer::begin(uint32_t row, const char* name) {
    nvtxRangePushA(name);
    const std::lock_guard lock(mutex_);
    open_pairs.push_back(nullptr);
    try {
        Ring& r = ring();
        if (r.next - r.first == kPairs) wait_for(r, r.first + kPairs / 2);
        if (r.next - r.first == kPairs) return;
        Pair& p = r.pairs[r.next % kPairs];
        if (!p.begin) p.begin = std::make_shared<Event>(true);
        if (!p.end) p.end = std::make_shared<Event>(true);
        p.row = row, p.open = p.failed = true;
        r.next++, open_pairs.back() = &p;
        p.begin->record();
        p.failed = false;
    } catch (const Error&) {}
}
void CudaTimer::end(uint32_t) {
    const std::lock_guard lock(mutex_);
    if (auto* p = static_cast<Pair*>(open_pairs.back())) {
        p->open = false;
        if (!std::exchange(p->failed, true)) try { p->end->record(), p->failed = false; } catch (const Error&) {}
    }
    open_pairs.pop_back();
    nvtxRangePop();
}

void CudaTimer::harvest(Ring& r, uint64_t until) {
    for (; r.first < until && !r.pairs[r.first % kPairs].open; r.first++) {
        Pair& p = r.pairs[r.first % kPairs];
        if (p.failed) continue;
        const double begin = r.anchor_ns + double(p.begin->ms_since(*r.anchor)) * 1e6, end = r.anchor_ns + double(p.end->ms_since(*r.anchor)) * 1e6;
        raw_.push_back({p.row, r.stream, begin, std::max(begin, end)});
        if (r.first % 64) continue;
        r.anchor = std::move(p.end), r.anchor_ns = end;
    }
}
void CudaTimer::wait_for(Ring& r, uint64_t until) {
    while (until > r.first && (r.pairs[(until - 1) % kPairs].open || r.pairs[(until - 1) % kPairs].failed)) until--;
    if (until == r.first) return;
    r.pairs[(until - 1) % kPairs].end->synchronize();
    harvest(r, until);
}

std::vector<CudaTimer::Interval> CudaTimer::converted() {
    const Calibration from = last_, to = last_ = calibrate();
    const double passed = to.device - from.device, rate = passed > 1e6 ? double(to.host - from.host) / passed : 1;
    std::vector<Interval> all;
    auto host = [&](double device) { return from.host + int64_t((device - from.device) * rate); };
    for (const Raw& x : raw_) all.push_back({x.row, x.stream, host(x.begin), host(x.end)});
    raw_.clear();
    return all;
}

std::vector<CudaTimer::Interval> CudaTimer::finished(bool wait) {
    const std::lock_guard lock(mutex_);
    try {
        for (auto& [stream, r] : rings_) {
            if (wait) wait_for(r, r.next);
            else if (r.next - r.first >= kPairs / 2) {
                const uint64_t middle = r.first + kPairs / 4;
                const Pair& p = r.pairs[(middle - 1) % kPairs];
                if (!p.open && p.end->done()) harvest(r, middle);
            }
        }
        if ((wait && calibrated_) || raw_.size() >= kMostRaw) return converted();
    } catch (const Error&) {                    // the device has failed, of which its user hears elsewhere: a profile may not hide that
        raw_.clear();
        for (auto& [stream, r] : rings_) if (wait) r.first = r.next;
    }
    return {};
}

profile::Peaks CudaTimer::peaks() {
    if (std::exchange(measured_, true)) return peaks_;
    const OnDevice on(Device::cuda);
    const MemTag tag("peaks");
    try {
        auto flops = [](DType t) {
            return rate(256, 8192, [&](int64_t n) {
                const Tensor a = random(n * n, t), b = random(n * n, t), y({n, n}, t);
                const Gemm g{.name = "peak", .file = __FILE__, .line = __LINE__, .type = t, .y_type = t, .a = a.raw(), .b = b.raw(), .lda = n, .ldb = n, .a_along_k = true, .b_along_k = true, .M = n, .N = n, .K = n, .y = y.raw()};
                return std::pair(2.0 * double(n) * double(n) * double(n), ms_of([&] { cublaslt_gemm(g); }));
            });
        };
        profile::Peaks p;
        p.bytes = rate(int64_t(1) << 20, int64_t(1) << 27, [&](int64_t n) {
            const Tensor x = random(n, DType::f32), y({n});
            return std::pair(2.0 * double(x.bytes()), ms_of([&] { y.copy_from(x); }));
        });
        p.f32 = flops(DType::f32), p.bf16 = flops(DType::bf16);
        peaks_ = p;
    } catch (const Error&) { cudaGetLastError(); }
    return peaks_;
}

}
