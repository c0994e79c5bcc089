// Any bytes as a safetensors file: refused with an Error, or every tensor lies inside the file and none overlaps.
#include <cstdlib>
#include "core/check.h"
#include "weights/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    try {
        std::map<std::string, std::string> metadata;
        const auto entries = merv::parse_safetensors_header(std::as_bytes(std::span(data, size)), size, "fuzz", &metadata);
        size_t bytes = 0;
        for (const auto& [name, e] : entries) {
            if (e.begin > e.end || e.end > size) std::abort();
            bytes += e.end - e.begin;
        }
        if (bytes > size) std::abort();
    } catch (const merv::Error&) {
    }
    return 0;
}
