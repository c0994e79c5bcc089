// Any bytes as a GGUF file: refused with an Error, or every tensor lies inside the file and reads; settings and tokenizer
// are refused or usable.
#include <cstdlib>
#include "core/check.h"
#include "core/log.h"
#include "models/gguf_model.h"

using namespace merv;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    try {
        const Gguf g = Gguf::parse(std::as_bytes(std::span(data, size)), "fuzz");
        size_t bytes = 0;
        for (const auto& [name, e] : g.tensors()) {
            if (e.begin > e.end || e.end > size) std::abort();
            bytes += e.end - e.begin;
            try { g.tensor(name); } catch (const Error&) {}
        }
        if (bytes > size) std::abort();
        g.metadata();
        try {
            const LlamaConfig c = gguf_config(g);
            if (c.heads % c.kv_heads || c.head_dim % 4 || c.head_dim > 128 || c.rope_divisors.size() > 64) std::abort();
        } catch (const Error&) {
        }
        const Tokenizer t = gguf_tokenizer(g);
        const std::vector<int32_t> ids = t.encode("Hi <|im_end|> you\xff\n\n  12");
        for (int32_t id : ids) if (id < 0 || id >= t.size()) std::abort();
        const std::string text = t.decode(ids);
        if (valid_utf8(text) != text) std::abort();
    } catch (const Error&) {
    }
    return 0;
}
