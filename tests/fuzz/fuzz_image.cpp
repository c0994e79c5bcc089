// A PNG or JPEG from anywhere: decodes to a picture of sane size or reports.
#include <cstdint>
#include <cstdlib>
#include "core/check.h"
#include "data/image.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    try {
        const merv::Tensor image = merv::decode_image(std::as_bytes(std::span(data, size)), "fuzz");
        if (image.dim(0) * image.dim(1) > merv::kMaxPixels || image.dim(2) != 3) std::abort();
    } catch (const merv::Error&) {
    }
    return 0;
}
