// merv-bench: how fast the ops are on this machine, at the shapes MERV runs them with. Bytes and flops are what an ideal
// kernel needs, so GB/s and GFLOP/s say how far an op is from the machine's limits, whatever it does inside.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <omp.h>
#include <nlohmann/json.hpp>
#include "core/program.h"
#include "core/rng.h"
#include "core/version.h"
#include "data/transform.h"
#include "nn/functional.h"

using namespace merv;

namespace {

struct Row {
    std::string op, shape;
    double bytes, flops;
    std::function<std::function<void()>()> prepare;     // allocates the inputs, returns the op to time
};
struct Result { const Row* row; double median, fastest; int runs; };

Tensor random(Shape s, DType type = DType::f32) {
    const Rng rng(7, "bench");
    std::vector<float> v(size_t(s.numel()));
    for (size_t i = 0; i < v.size(); i++) v[i] = float(rng.uniform(i) - 0.5);
    return from_floats(v, s, type);
}

Row linear(int64_t M, int64_t N, int64_t K, DType type) {
    return {"linear", concat(M, "x", N, "x", K, " ", name_of(type), " weights"), double(4 * M * (K + N) + size_of(type) * N * K), 2.0 * double(M) * double(N) * double(K), [=] {
        const Tensor x = random({M, K}), w = random({N, K}, type);
        return [=] { nn::linear(x, w, {}); };
    }};
}
Row attention(const char* what, int64_t S, int64_t N, int64_t H, int64_t D, nn::Mask mask) {
    const double pairs = mask == nn::Mask::causal ? double(N) * double(N + 1) / 2 : double(N) * double(N);
    return {"attention", concat(what, ": ", S, " x ", N, " tokens, ", H, " heads of ", D), double(16 * S * N * H * D), 4.0 * double(S) * pairs * double(H * D), [=] {
        const Tensor qkv = random({S * N, 3 * H * D});
        return [=] {
            nn::attention({.q = qkv, .k = qkv, .v = qkv, .k_column = H * D, .v_column = 2 * H * D, .queries = nn::Layout::contiguous(S, N),
                           .keys = nn::Layout::contiguous(S, N), .heads = H, .kv_heads = H, .head_dim = D, .mask = mask});
        };
    }};
}
Row rows(const char* op, int64_t M, int64_t C, double flops, std::function<void(const Tensor&, const Tensor&)> f) {
    return {op, concat(M, "x", C), 8.0 * double(M) * double(C), flops * double(M) * double(C), [=] {
        const Tensor x = random({M, C}), w = random({C});
        return [=] { f(x, w); };
    }};
}

Row resize(int64_t frames, int64_t height, int64_t width, int side) {
    return {"resize", concat(frames, " frames of ", width, "x", height, " to ", side, "x", side, ", bicubic"), double(frames * 3 * (height * width + side * side)), 0, [=] {
        const Tensor x = zeros({frames, height, width, 3}, DType::u8);
        return [=] { prepare(x, side, Filter::bicubic, Resize::naive, {}); };
    }};
}

std::vector<Row> table() {
    return {
        linear(4176, 3072, 1024, DType::f32),           // DINOv2's qkv, 16 frames
        linear(4176, 4096, 1024, DType::f32),           // its fc1
        linear(4176, 1024, 4096, DType::f32),           // its fc2
        linear(3136, 768, 768, DType::f32),             // SigLIP's and ViViT's projections
        linear(1100, 4096, 4096, DType::bf16),          // LLaMA-2 7B's q, prefill
        linear(1100, 11008, 4096, DType::bf16),         // its gate
        linear(1, 4096, 4096, DType::bf16),             // decode
        linear(1, 11008, 4096, DType::bf16),
        attention("DINOv2", 16, 261, 16, 64, nn::Mask::none),
        attention("ViViT", 1, 3137, 12, 64, nn::Mask::none),
        attention("LLaMA prefill", 1, 1100, 32, 128, nn::Mask::causal),
        rows("layernorm", 4176, 1024, 8, [](const Tensor& x, const Tensor& w) { nn::layernorm(x, w, w, 1e-6f); }),
        rows("rmsnorm", 1100, 4096, 4, [](const Tensor& x, const Tensor& w) { nn::rmsnorm(x, w, 1e-5f); }),
        resize(32, 720, 1280, 224),                     // what an encoder is shown
    };
}

Result time(const Row& row, double seconds) {
    const std::function<void()> op = row.prepare();
    op();                                       // warm
    std::vector<double> times;
    for (double total = 0; total < seconds || times.size() < 3;) {
        const auto start = std::chrono::steady_clock::now();
        op();
        times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
        total += times.back();
    }
    std::sort(times.begin(), times.end());
    return {&row, times[times.size() / 2], times.front(), int(times.size())};
}

int bench(const Flags& flags) {
    const std::vector<std::string>& words = flags.positionals();
    if (words.empty() || words[0] != "ops") fail(Exit::usage, "say what to measure: merv-bench ops [OP]");
    const int threads = int(flags.integer("threads"));
    if (threads) omp_set_num_threads(threads);
    const std::vector<Row> all = table();
    nlohmann::ordered_json out = nlohmann::ordered_json::array();
    std::string known;
    bool found = false;
    for (const Row& row : all) {
        if (known.find(row.op) == std::string::npos) known += " " + row.op;
        if (words.size() > 1 && row.op != words[1]) continue;
        if (!found && !flags.on("json")) std::printf("| op | shape | median ms | GB/s | GFLOP/s | runs |\n|---|---|---|---|---|---|\n");
        found = true;
        const Result r = time(row, 0.5);
        if (flags.on("json"))
            out.push_back({{"op", row.op}, {"shape", row.shape}, {"median_ms", r.median * 1e3}, {"min_ms", r.fastest * 1e3}, {"bytes", row.bytes}, {"flops", row.flops}, {"runs", r.runs}});
        else
            std::printf("| %s | %s | %.3f | %.1f | %.1f | %d |\n", row.op.c_str(), row.shape.c_str(), r.median * 1e3, row.bytes / r.median * 1e-9, row.flops / r.median * 1e-9, r.runs);
        std::fflush(stdout);
    }
    if (!found) fail(Exit::usage, "no op '", words[1], "' in the table; there are", known);
    if (flags.on("json")) std::printf("%s\n", nlohmann::ordered_json{{"rows", out}, {"threads", omp_get_max_threads()}, {"isa", kernels::cpu::name_of(kernels::cpu::isa())}, {"compiler", compiler()}, {"commit", commit()}}.dump().c_str());
    else std::printf("\n%d threads, %s\n", omp_get_max_threads(), (kernels::cpu::name_of(kernels::cpu::isa()) + std::string(", ") + version_text("merv-bench")).c_str());
    return 0;
}

}

int main(int argc, char** argv) {
    Flags flags("merv-bench", "merv-bench ops [OP]", {"threads", "json"}, 2);
    return run_program(flags, argc, argv, [&] { return bench(flags); });
}
