// From decoded frames to what an encoder is fed, value for value what the reference's transforms compute.
//   resize                 Pillow's 8-bit resize: the filter widens when shrinking, weights are 22-bit fixed point, and the
//                          horizontal pass is rounded to bytes before the vertical one (from Pillow 12.2 on, tall pictures
//                          go the other way round; MERV was trained before)
//   prepare + normalize    every encoder but LanguageBind: resize in bytes, then (x/255 - mean)/std
//   languagebind_pixels    normalises first, then resizes in floats without antialiasing, then crops
// Bytes stay bytes until normalize, so encoders that share a resize share its result. Shapes that do not fit throw.
#pragma once
#include "core/tensor.h"

namespace merv {

enum class Filter { bilinear, bicubic };                // Pillow's: triangle, and cubic with a = -0.5
enum class Resize {                                     // image_resize_strategy of the configuration
    naive,                                              // resize-naive: straight to the square, whatever the aspect
    crop,                                               // resize-crop: short side to the size, centre crop
    letterbox,                                          // pad to a square, then as crop
};

// u8 (F, H, W, 3) -> u8 (F, height, width, 3), bit for bit PIL.Image.resize up to Pillow 12.1. A side that keeps its size is not filtered.
Tensor resize(const Tensor& frames, int height, int width, Filter filter);

// u8 (F, H, W, 3) -> u8 (F, 3, size, size), planar. `mean` gives the letterbox colour, int(mean * 255). crop and letterbox
// scale the short side to short_side (0: to size); the reference does 256 for ViViT's 224.
Tensor prepare(const Tensor& frames, int size, Filter filter, Resize strategy, std::array<float, 3> mean, int short_side = 0);

// u8 (F, 3, S, S) -> f32, (x/255 - mean)/std with true divisions in f32, as ToTensor and Normalize do.
Tensor normalize(const Tensor& pixels, std::array<float, 3> mean, std::array<float, 3> std);

inline constexpr std::array<float, 3> kClipMean = {0.48145466f, 0.4578275f, 0.40821073f}, kClipStd = {0.26862954f, 0.26130258f, 0.27577711f};
// u8 (F, H, W, 3) -> f32 (F, 3, size, size): normalise with CLIP's mean and std, short side to `size` by torch's bilinear
// interpolation (align_corners=False, no antialias), centre crop; within an ulp or two of torch. The reference's random flip is the caller's business.
Tensor languagebind_pixels(const Tensor& frames, int size);

}
