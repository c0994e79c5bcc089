// merv-bench: how fast this machine is, and how much of that the ops and models reach.
#include <cstdio>
#include <omp.h>
#include "bench/cases.h"
#include "bench/device.h"
#include "bench/kernels.h"
#include "core/program.h"

using namespace merv;
using namespace merv::bench;

namespace {

void show_peaks() {
    const Peaks p = measure_peaks(1);
    std::printf("read %.1f GB/s, copy %.1f GB/s, f32 %.1f GFLOP/s, bf16 %.1f GFLOP/s\n", p.read * 1e-9, p.copy * 1e-9, p.f32 * 1e-9, p.bf16 * 1e-9);
}

int run(const Flags& flags) {
    constexpr const char* kTests = "peak, ops, encode, prefill, decode, preprocess, block, step, profile, device, self-test or wrappers";
    const std::vector<std::string>& words = flags.positionals();
    if (flags.on("compare")) {
        if (words.size() != 2) fail(Exit::usage, "--compare takes two files of results");
        compare(words[0], words[1]);
        return 0;
    }
    const std::string test = words.empty() ? "" : words[0], type = flags.text("dtype");
    if (words.size() > 1 && test != "ops") fail(Exit::usage, "'", words[1], "': only ops takes a second word");
    if (type != "auto" && type != "f32" && type != "bf16") fail(Exit::usage, "--dtype takes f32 or bf16, not '", type, "'");
    if (flags.integer("threads") < 0 || flags.integer("threads") > 4096) fail(Exit::usage, "--threads takes 0 to 4096");
    if (flags.integer("threads")) omp_set_num_threads(int(flags.integer("threads")));
    for (const char* size : {"layers", "tokens", "rows"})
        if (flags.integer(size) < 1 || flags.integer(size) > 1 << 20) fail(Exit::usage, "--", size, " must be at least 1");
    if (flags.on("counters")) {
        if (test != "ops" || flags.text("device") != "emu") fail(Exit::usage, "--counters counts what kernels do: merv-bench ops [KERNEL] --device emu --counters");
        report_kernels({words.size() > 1 ? words[1] : "", flags.text("output")});
        return 0;
    }
    if (test == "ladder") {
        if (flags.text("device") != "emu") fail(Exit::usage, "ladder counts what kernels do: merv-bench ladder --device emu");
        return report_ladders(), 0;
    }

    const OnDevice device(flags.text("device") == "auto" ? Device::cpu : choose_device(flags));       // of benches the CPU is the default
    const bool on_card = current_device() == Device::cuda;
    if (test == "device" && !on_card) fail(Exit::usage, "device reports a card: merv-bench device --device cuda");
    if (test == "device") return device_report(flags.text("output")), 0;
    if (test == "self-test") return self_test_report(flags.text("output"));
    if (test == "wrappers") return wrappers_report(flags.text("output"), flags.integer("repetitions") ? int(flags.integer("repetitions")) : 20);
    if (test == "ops" && on_card) return device_ops({words.size() > 1 ? words[1] : "", flags.text("output"), flags.on("small"), int(flags.integer("repetitions"))}), 0;
    const Sizes sizes{flags.has("config") ? flags.text("config") : "merv-base", flags.text("encoder"), flags.integer("layers"), flags.integer("tokens"), flags.integer("rows"), flags.on("all-blocks")};
    const DType dtype = type == "bf16" ? DType::bf16 : DType::f32;
    if (test == "step") {
        Sizes whole = sizes;
        if (!flags.has("layers")) whole.layers = 0;
        if (!flags.has("tokens")) whole.tokens = 64;
        return whole_step(whole, type == "auto" && on_card ? DType::bf16 : dtype, flags.on("train"), std::max<int64_t>(1, flags.integer("repetitions") ? flags.integer("repetitions") : 3));
    }
    if (test == "profile") {
        std::vector<Case> all = decode_cases(sizes, dtype);
        for (auto* more : {prefill_cases, encode_cases}) for (const Case& c : more(sizes, dtype)) all.push_back(c);
        return report_overhead(all, flags.number("seconds")), 0;
    }
    Table table(flags.text("output"));
    std::vector<Case> cases;
    if (test == "peak") return show_peaks(), 0;
    else if (test == "ops") cases = op_cases(words.size() > 1 ? words[1] : "", flags.text("shape"), type == "auto" ? std::optional<DType>() : dtype);
    else if (test == "encode") cases = encode_cases(sizes, dtype);
    else if (test == "prefill") cases = prefill_cases(sizes, dtype);
    else if (test == "decode") cases = decode_cases(sizes, dtype);
    else if (test == "block") cases = block_cases(sizes, dtype);
    else if (test == "preprocess") cases = preprocess_cases(flags.text("video"), flags.text("image"));
    else fail(Exit::usage, "say what to measure: ", kTests);

    const Options options{int(flags.integer("repetitions")), flags.number("seconds"), flags.on("lockstep")};
    if (options.lockstep && cases.size() != 1) fail(Exit::usage, "--lockstep repeats one measurement; this asks for ", cases.size());
    for (const Case& c : cases) {
        const Result r = time(c, options);
        if (!options.lockstep) table.add(r);
    }
    if (!options.lockstep) table.finish();
    return 0;
}

}

int main(int argc, char** argv) {
    Flags flags("merv-bench", "merv-bench peak | ops [OP [--shape AxBxC]] | encode | prefill | decode | preprocess | block | step [--train] | profile\n       merv-bench device | self-test | wrappers | ops [OP] [--small] --device cuda\n       merv-bench --compare BEFORE AFTER\n       merv-bench ops [KERNEL] --device emu --counters\n       merv-bench ladder --device emu",
                {"shape", "dtype", "config", "encoder", "all-blocks", "layers", "tokens", "rows", "video", "image", "output", "repetitions", "seconds", "lockstep", "compare", "threads", "device", "counters", "small", "train"}, 2);
    return run_program(flags, argc, argv, [&] { return run(flags); });
}
