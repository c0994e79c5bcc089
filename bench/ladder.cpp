// What each rung of kernels/ladder asks of a GPU: `make ladder`.
#include <cstdio>
#include "core/rng.h"
#include "bench/kernels.h"
#include "kernels/ladder/ladder.h"

namespace merv::bench {
namespace {

using emu::Counted;
namespace ladder = kernels::ladder;

constexpr int64_t kRows = 512, kColumns = 1024, kTokens = 320, kHeads = 2;

double megabytes(uint64_t sectors) { return double(sectors) * 32e-6; }
std::string in_thousands(uint64_t n) {
    char text[32];
    std::snprintf(text, sizeof text, n < 10'000 ? "%.0f" : "%.0fk", n < 10'000 ? double(n) : double(n) / 1000);
    return text;
}

template <class Op> void report(const char* title, const std::vector<ladder::Rung<Op>>& rungs, const Op& op) {
    std::printf("\n**%s**\n\n", title);
    std::printf("| rung | idea | requests to memory | MB of sectors | MB from L2 | MB from DRAM | shared wavefronts | of them conflicts | barriers | shuffles | mma | H100 at least |\n");
    std::printf("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|\n");
    for (const auto& rung : rungs) {
        emu::Count counted;
        rung.run(op);
        emu::Traffic global, shared;
        uint64_t dram = 0, l2 = 0, barriers = 0, shuffles = 0, mma = 0;
        double seconds = 0, longest = 0;
        std::string limiter;
        const Gpu& h100 = gpus()[1];
        for (const emu::Counters& c : counted.launches) {
            global += c.global(), shared += c.shared(), dram += c.unique_sectors, l2 += c.block_sectors;
            barriers += c[Counted::barrier].requests, shuffles += c[Counted::shuffle].requests, mma += c[Counted::mma].requests;
            const Prediction p = predict(h100, c);
            seconds += p.seconds;
            if (p.seconds > longest) longest = p.seconds, limiter = p.limiter;
        }
        const bool file = rung.name.find('/') != rung.name.npos;
        std::printf("| %s | %s | %s | %.2f | %.2f | %.2f | %s | %s | %s | %s | %s | %.1f us, %s |\n", file ? ("[" + rung.name + "](../../" + rung.name + ")").c_str() : rung.name.c_str(), rung.idea.c_str(),
                    in_thousands(global.requests).c_str(), megabytes(global.sectors), megabytes(l2), megabytes(dram), in_thousands(shared.wavefronts).c_str(), in_thousands(shared.bank_conflicts()).c_str(),
                    in_thousands(barriers).c_str(), in_thousands(shuffles).c_str(), in_thousands(mma).c_str(), seconds * 1e6, limiter.c_str());
    }
}

}

void report_ladders() {
    const OnDevice emulated(Device::emu);
    kernels::use_emulator(emu::Mode::counted);
    auto random = [](Shape shape, DType dtype) {
        const Rng rng(7, "ladder");
        std::vector<float> v(size_t(shape.numel()));
        for (size_t i = 0; i < v.size(); i++) v[i] = float(rng.normal(i));
        return from_floats(v, shape, dtype);
    };
    const Shape rows{kRows, kColumns}, heads{kTokens, kHeads * 64};
    char title[160];
    std::snprintf(title, sizeof title, "layernorm of %lld rows of %lld, f32: an ideal kernel moves %.2f MB", (long long)kRows, (long long)kColumns, double(kRows * kColumns) * 8e-6);
    report(title, ladder::layernorm_rungs(), ladder::LayerNorm{.y = Tensor(rows), .x = random(rows, DType::f32), .w = random({kColumns}, DType::f32), .b = random({kColumns}, DType::f32)});
    std::snprintf(title, sizeof title, "attention of %lld queries and keys, %lld heads of 64, bf16: an ideal kernel moves %.2f MB", (long long)kTokens, (long long)kHeads, double(kTokens * kHeads * 64) * 8e-6);
    report(title, ladder::attention_rungs(), ladder::Attention{.o = Tensor(heads, DType::bf16), .q = random(heads, DType::bf16), .k = random(heads, DType::bf16), .v = random(heads, DType::bf16)});
    std::printf("\n");
}

}
