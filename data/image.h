// Still images: PNG and JPEG, decoded by stb_image.
//   PNG: exact. Palette, grey, 16-bit (the upper byte, as in a conversion to 8 bits by truncation) and interlaced files come
//        out as RGB; alpha is dropped, not composited, as PIL's convert('RGB') does.
//   JPEG: stb's inverse DCT and chroma up-sampling round otherwise than libjpeg's, so values differ from PIL's by a few steps.
//   EXIF orientation is not applied, as PIL's Image.open does not apply it.
// A file that is missing, unreadable, larger than 64 megapixels or no PNG or JPEG throws Error(Exit::bad_data).
#pragma once
#include <cstddef>
#include <span>
#include <string>
#include "core/tensor.h"

namespace merv {

inline constexpr int64_t kMaxPixels = int64_t(64) << 20;            // of one image or one video frame

Tensor read_image(const std::string& path);                         // u8 (H, W, 3), RGB
Tensor decode_image(std::span<const std::byte> bytes, const std::string& name);    // the same from memory; `name` is for errors
void check_regular_file(const std::string& path);                   // throws if it is not there, no file, unreadable or empty

}
