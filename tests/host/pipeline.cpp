// A pipeline as an engine has one: batches are copied in on one stream, worked on by a second, copied out by a third, through two buffers
// each. Right, it is never reported; with any one of the mistakes below, it is.
#include "tests/host/cuda.h"

namespace merv::test {
namespace {

enum class Bug {
    none, no_wait, other_event, event_before_work, host_reads_early, refilled_early, input_overwritten, output_overwritten, copied_out_early, query_ignored,
    freed_early, freed_on_other_stream, allocated_on_other_stream, freed_twice, freed_inside, freed_by_other_function, pinned_freed_early, pinned_used_late, relies_on_free,
    default_stream, pageable_upload, wrong_stream_synchronized, host_function_calls_cuda, host_function_on_other_stream, host_function_waits, device_dereferenced,
    device_dereferenced_in_host_function, copy_too_long, set_too_long, kernel_too_long, host_pointer_to_kernel, host_memory_set, wrong_kind, destroyed_stream, destroyed_event,
};

struct Reduction { float* from; int n; float sum; float* device; Bug bug; int reports; };
void reduce(void* argument) {
    auto& r = *static_cast<Reduction*>(argument);
    r.sum = 0;
    for (int i = 0; i < r.n; i++) r.sum += r.from[i];
    if (r.bug == Bug::host_function_calls_cuda) cudaDeviceSynchronize();
    if (r.bug == Bug::host_function_waits) while (emulated::reports_so_far() == r.reports) {}
    if (r.bug == Bug::device_dereferenced_in_host_function) r.sum += *r.device * 0;
}

// How many values are wrong
int pipeline(Bug bug) {
    constexpr int n = 500, batches = 6;       // 2000 bytes, less than an allocation's granularity
    int wrong = 0;
    auto expect = [&](double got, double want) { wrong += !(std::abs(got - want) <= 1e-3 * (1 + std::abs(want))); };
    const cudaStream_t upload = new_stream(), work = new_stream(), download = new_stream();
    float *in[2], *out[2], *x[2], *y[2], *total = device(n);
    cudaEvent_t uploaded[2], used[2], computed[2], downloaded[2];
    for (int b = 0; b < 2; b++) {
        in[b] = pinned(n), out[b] = pinned(n), x[b] = device(n), y[b] = device(n);
        uploaded[b] = new_event(), used[b] = new_event(), computed[b] = new_event(), downloaded[b] = new_event();
    }
    if (bug == Bug::default_stream) cudaMemset(total, 0, n * sizeof(float));
    else cudaMemsetAsync(total, 0, (n + (bug == Bug::set_too_long)) * sizeof(float), work);
    auto look_at = [&](int batch) {
        const int b = batch % 2;
        if (bug == Bug::query_ignored) (void)cudaEventQuery(downloaded[b]);
        else if (bug == Bug::wrong_stream_synchronized) cudaStreamSynchronize(upload);
        else if (bug != Bug::host_reads_early) cudaEventSynchronize(downloaded[b]);
        for (int i = 0; i < n; i += 37) expect(out[b][i], 6.0 * (batch * 1000 + i));
    };
    for (int batch = 0; batch < batches; batch++) {
        const int b = batch % 2;
        if (batch >= 2 && bug != Bug::refilled_early) cudaEventSynchronize(uploaded[b]);
        for (int i = 0; i < n; i++) in[b][i] = float(batch * 1000 + i);
        if (bug != Bug::input_overwritten) cudaStreamWaitEvent(upload, used[b], 0);
        if (bug == Bug::event_before_work) cudaEventRecord(uploaded[b], upload);
        const size_t bytes = n * sizeof(float);
        if (bug == Bug::pageable_upload) {
            const std::vector<float> copy(in[b], in[b] + n);
            cudaMemcpyAsync(x[b], copy.data(), bytes, cudaMemcpyHostToDevice, upload);
        } else {
            cudaMemcpyAsync(x[b], in[b], bytes + (bug == Bug::copy_too_long ? 64 : 0), bug == Bug::wrong_kind ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice, upload);
        }
        if (bug != Bug::event_before_work) cudaEventRecord(uploaded[b], upload);
        if (bug != Bug::no_wait && bug != Bug::pageable_upload) cudaStreamWaitEvent(work, uploaded[bug == Bug::other_event ? 1 - b : b], 0);

        void* scratch;
        cudaMallocAsync(&scratch, bytes, bug == Bug::allocated_on_other_stream ? upload : work);
        auto* twice = static_cast<float*>(scratch);
        scale(twice, bug == Bug::host_pointer_to_kernel ? std::vector<float>(n).data() : x[b], 2, n, work);
        if (bug == Bug::freed_early) cudaFreeAsync(twice, work);
        if (bug != Bug::output_overwritten) cudaStreamWaitEvent(work, downloaded[b], 0);
        scale(y[b], twice, 3, n + (bug == Bug::kernel_too_long), work);
        add_scaled(total, y[b], 1, n, work);
        if (bug != Bug::freed_early) cudaFreeAsync(twice, bug == Bug::freed_on_other_stream ? upload : work);
        cudaEventRecord(used[b], work);
        cudaEventRecord(computed[b], work);
        if (batch >= 2) look_at(batch - 2);
        if (bug != Bug::copied_out_early) cudaStreamWaitEvent(download, computed[b], 0);
        cudaMemcpyAsync(out[b], y[b], bytes, cudaMemcpyDeviceToHost, download);
        cudaEventRecord(downloaded[b], download);
        if (bug == Bug::pinned_freed_early && batch == 3) cudaFreeHost(out[b]), out[b] = pinned(n);
    }
    if (bug == Bug::relies_on_free) {
        cudaFree(device(n));
        expect(out[1][0], 6.0 * (batches - 1) * 1000);
    }
    if (bug != Bug::pinned_freed_early) for (int batch = batches - 2; batch < batches; batch++) look_at(batch);

    Reduction r{pinned(n), n, 0, total, bug, emulated::reports_so_far()};
    cudaMemcpyAsync(r.from, total, n * sizeof(float), cudaMemcpyDeviceToHost, work);
    cudaLaunchHostFunc(bug == Bug::host_function_on_other_stream ? download : work, reduce, &r);
    cudaDeviceSynchronize();
    double want = 0;
    for (int batch = 0; batch < batches; batch++) for (int i = 0; i < n; i++) want += 6.0 * (batch * 1000 + i);
    expect(r.sum, want);
    std::vector<float> pageable(n);             // a copy to pageable memory has come to pass when the call returns
    cudaMemcpyAsync(pageable.data(), total, n * sizeof(float), cudaMemcpyDeviceToHost, work);
    expect(pageable[1], 6.0 * (15000 + 6));
    float* whole = device(1);
    sum(whole, total, n, work);
    cudaStreamSynchronize(work);
    float s;
    cudaMemcpy(&s, whole, sizeof s, cudaMemcpyDeviceToHost);
    expect(s, want);

    if (bug == Bug::device_dereferenced) expect(total[3], 0);
    if (bug == Bug::freed_twice || bug == Bug::freed_inside) {
        void* p;
        cudaMallocAsync(&p, 64, work);
        cudaFreeAsync(static_cast<char*>(p) + (bug == Bug::freed_inside ? 16 : 0), work);
        cudaFreeAsync(p, work);
    }
    if (bug == Bug::freed_by_other_function) cudaFree(in[0]);
    if (bug == Bug::host_memory_set) cudaMemset(pageable.data(), 0, 16);
    if (bug == Bug::pinned_used_late) cudaFreeHost(in[0]), expect(in[0][0], 0);
    if (bug == Bug::destroyed_stream) cudaStreamDestroy(work), cudaMemsetAsync(total, 0, 4, work);
    if (bug == Bug::destroyed_event) cudaEventDestroy(used[0]), cudaEventRecord(used[0], work);
    cudaDeviceSynchronize();
    if (bug == Bug::none) {
        for (int b = 0; b < 2; b++) {
            cudaFreeHost(in[b]), cudaFreeHost(out[b]), cudaFree(x[b]), cudaFree(y[b]);
            for (const cudaEvent_t e : {uploaded[b], used[b], computed[b], downloaded[b]}) cudaEventDestroy(e);
        }
        cudaFreeHost(r.from), cudaFree(total), cudaFree(whole);
        for (const cudaStream_t s : {upload, work, download}) cudaStreamDestroy(s);
    }
    return wrong;
}

struct Mistake { Bug bug; std::string name, kind; };      // kind: or one of several
const Mistake mistakes[] = {
    {Bug::no_wait, "no wait for the upload", "RACE"},
    {Bug::other_event, "waits for the other buffer's event", "RACE"},
    {Bug::event_before_work, "event recorded before the work", "RACE"},
    {Bug::host_reads_early, "host reads before the download is done", "RACE"},
    {Bug::refilled_early, "pinned buffer refilled under its upload", "RACE"},
    {Bug::input_overwritten, "upload over what a kernel reads", "RACE"},
    {Bug::output_overwritten, "kernel writes what is being downloaded", "RACE"},
    {Bug::copied_out_early, "download does not wait for the kernel", "RACE"},
    {Bug::query_ignored, "cudaEventQuery's answer ignored", "RACE"},
    {Bug::freed_early, "freed before its last use", "UAF"},
    {Bug::freed_on_other_stream, "freed on a stream that does not wait", "UAF"},
    {Bug::allocated_on_other_stream, "allocated on a stream that nobody waits for", "RACE UAF"},
    {Bug::freed_twice, "freed twice", "FREE"},
    {Bug::freed_inside, "free of a pointer into the middle", "FREE"},
    {Bug::freed_by_other_function, "pinned memory freed by cudaFree", "FREE"},
    {Bug::pinned_freed_early, "pinned memory freed under a copy", "UAF"},
    {Bug::pinned_used_late, "host reads freed pinned memory", "UAF"},
    {Bug::relies_on_free, "cudaFree taken for a synchronisation", "RACE"},
    {Bug::default_stream, "default stream and a non-blocking one", "RACE"},
    {Bug::pageable_upload, "upload from pageable memory taken for complete", "RACE"},
    {Bug::wrong_stream_synchronized, "another stream synchronised", "RACE"},
    {Bug::host_function_calls_cuda, "host function calls CUDA", "HOSTFN"},
    {Bug::host_function_on_other_stream, "host function on a stream that does not wait", "RACE"},
    {Bug::host_function_waits, "host function waits for the host that waits for it", "HANG"},
    {Bug::device_dereferenced, "host dereferences a device pointer", "HOSTDEREF"},
    {Bug::device_dereferenced_in_host_function, "host function dereferences a device pointer", "HOSTDEREF"},
    {Bug::copy_too_long, "copy beyond the allocation", "OOB"},
    {Bug::set_too_long, "memset beyond the allocation", "OOB"},
    {Bug::kernel_too_long, "kernel beyond the allocation", "OOB"},
    {Bug::host_pointer_to_kernel, "kernel reads ordinary host memory", "KERNEL"},
    {Bug::host_memory_set, "memset of ordinary host memory", "POINTER"},
    {Bug::wrong_kind, "wrong cudaMemcpyKind", "KIND"},
    {Bug::destroyed_stream, "destroyed stream used", "STREAM"},
    {Bug::destroyed_event, "destroyed event used", "EVENT"},
};

TEST_CASE("emulated runtime: a right pipeline is never reported") {
    auto run = [](Policy policy, unsigned seed) {
        CAPTURE(name_of(policy));
        CAPTURE(seed);
        int wrong = 0;
        const auto reports = reports_of(policy, seed, [&] { wrong = pipeline(Bug::none); });
        EXPECT_MESSAGE(reports.empty(), text_of(reports));
        EXPECT_EQ(wrong, 0);
    };
    run(Policy::late, 1);
    run(Policy::eager, 1);
    for (unsigned seed = 1; seed <= 20; seed++) run(Policy::random, seed);
}

TEST_CASE("emulated runtime: each mistake in a pipeline is reported, in every order") {
    emulated::set_hang_seconds(0.2);
    for (const Mistake& m : mistakes)
        for (const Policy policy : {Policy::late, Policy::eager, Policy::random}) {
            const auto reports = reports_of(policy, 1, [&] { pipeline(m.bug); });
            EXPECT_MESSAGE(has_kind(reports, m.kind), m.name, ", ", name_of(policy), ": not reported as ", m.kind, text_of(reports));
        }
    emulated::set_hang_seconds(600);
}

}
}
