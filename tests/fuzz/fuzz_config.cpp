// Any text as each of the JSON files of a model folder: refused with an Error, or settings within their limits.
#include <cstdlib>
#include <string>
#include "core/check.h"
#include "models/config.h"

using namespace merv;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size == 0) return 0;
    const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
    try {
        switch (data[0] % 6) {              // the first byte chooses the file
        case 0: {
            const MervConfig c = parse_merv_config(text, "fuzz");
            if (c.num_frames.size() != c.video_backbone_ids.size() || c.grid() * c.grid() != c.projector_token_length) std::abort();
            for (size_t i = 0; i < c.num_frames.size(); i++) {
                if (c.most_frames() % c.num_frames[i]) std::abort();
                require_fit(c, i, VivitConfig());
            }
            break;
        }
        case 1: {
            const TimmConfig c = parse_timm_config(text, "fuzz");
            if (c.width % c.heads || c.image % c.patch) std::abort();
            break;
        }
        case 2: {
            const VivitConfig c = parse_vivit_config(text, "fuzz");
            if (c.width % c.heads || c.frames % c.tubelet[0]) std::abort();
            break;
        }
        case 3: parse_languagebind_config(text, "fuzz"); break;
        case 4: {
            const LlamaConfig c = parse_llama_config(text, "fuzz");
            if (c.heads % c.kv_heads || c.head_dim % 4 || c.head_dim > 128) std::abort();
            break;
        }
        default: parse_arch(text, "fuzz");
        }
    } catch (const Error&) {
    }
    return 0;
}
