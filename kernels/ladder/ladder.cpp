#include "kernels/ladder/ladder.h"
#include "kernels/attention.h"
#include "kernels/norm.h"

namespace merv::kernels::ladder {
namespace {

template <int n> void layernorm_rung(const LayerNorm& a) { run_on_gpu(LayerNormRung<n>{a}); }
template <int n> void attention_rung(const Attention& a) { run_on_gpu(AttentionRung<n>{a}); }
void production(const LayerNorm& a) { run_on_gpu(LayerNormFwd{.y = a.y, .x = a.x, .w = a.w, .b = a.b, .eps = a.eps}); }
void production(const Attention& a) {
    const int64_t N = a.q.dim(0), width = a.q.dim(1);
    auto rows = [&](const Tensor& t) { return Rows{.t = t, .token_stride = width}; };
    run_on_gpu(AttentionFwd{.o = rows(a.o), .q = rows(a.q), .k = rows(a.k), .v = rows(a.v), .Nq = N, .Nk = N, .H = a.heads(), .Hkv = a.heads(), .D = 64, .scale = 0.125f});
}

}

const std::vector<Rung<LayerNorm>>& layernorm_rungs() {
    static const std::vector<Rung<LayerNorm>> all = {
        {"v1_thread_per_row", "one thread per row, as a loop on a CPU would be written", layernorm_rung<1>},
        {"v2_block_per_row", "neighbouring threads read neighbouring elements; sums meet in shared memory", layernorm_rung<2>},
        {"v3_warp_per_row", "a warp has the row, and sums meet by shuffles: no barrier", layernorm_rung<3>},
        {"v4_registers", "the row stays in registers, so x is read once", layernorm_rung<4>},
        {"v5_wide", "16 bytes per access", layernorm_rung<5>},
        {"kernels/cuda/norm.cu", "any length, alignment and type; backward", production},
    };
    return all;
}
const std::vector<Rung<Attention>>& attention_rungs() {
    static const std::vector<Rung<Attention>> all = {
        {"v1_score_matrix", "the formula: scores in memory, softmax of rows, product with v", attention_rung<1>},
        {"v2_online", "a thread per query and a running maximum: no score matrix", attention_rung<2>},
        {"v3_tiles", "a block's queries share tiles of keys and values in shared memory", attention_rung<3>},
        {"v4_tensor_cores", "a warp has 16 queries; both products by mma.sync", attention_rung<4>},
        {"v5_padding", "16 bytes more per row of a tile: no bank conflicts", attention_rung<5>},
        {"v6_pipeline", "the next tile comes by cp.async while this one is worked on", attention_rung<6>},
        {"kernels/cuda/attention.cu", "masks, any lengths, head dimensions and layouts; kernels for short and for single queries", production},
    };
    return all;
}

}
