// From a path to the frames that the encoders are shown: a video file, a GIF, a folder of numbered pictures, or one image.
//
// Which frames: F positions spread evenly over the clip, with the arithmetic of the reference (numpy's linspace in doubles,
// floored). "Frame n" is what decord 0.6.0 calls so: the packets of FFmpeg's best video stream, sorted by presentation time.
// How: packets are listed once, then decoding starts at the last key frame that leaves the wanted frame whole and every
// picture is matched by its timestamp, so each frame is the one a player shows, rotated as the file says. Files without
// usable timestamps are counted through from the start. RGB24 is swscale's with bilinear chroma, as decord has it and
// `ffmpeg -vf scale=flags=bilinear -pix_fmt rgb24` writes it; with ffmpeg's own default, bicubic, 8-bit video of even height
// comes out the same, 10-bit and odd heights do not.
//
// What the user can get wrong (no file, no video, damage, a clip outside it) throws Error(Exit::bad_data), one line that
// names the file. Only the file itself is read: no other protocol, no playlist, no reference to a second file.
#pragma once
#include <optional>
#include <string>
#include <vector>
#include "core/tensor.h"

namespace merv {

struct Clip {
    Tensor frames;                              // u8 (U, H, W, 3) RGB: the distinct frames, in order of time
    std::vector<int32_t> grid;                  // F positions into frames, repeating where the clip is short or still
    std::vector<int64_t> indices;               // F source frame numbers; all 0 for an image
    double fps = 0;                             // average rate of the source; 0 for an image, or a folder of unknown rate
    int64_t total_frames = 1;                   // of the source
};

struct ClipRange {
    std::optional<double> start{}, end{};       // seconds; an end past the last frame is clamped, with a note
    std::optional<int64_t> end_frame{};         // if >= 0: frames 0 to this one, and start and end are ignored
    std::optional<double> frames_fps{};         // rate of a folder of frames, which has none of its own
};

// Seconds from the call on after which decoding a video is given up, as Error(Exit::bad_data); 0: never. Threads of the decoder; 0: as many as there are cores.
struct DecodeLimits { double seconds = 0; int threads = 0; };

// A video file or GIF; or a folder, whose *.jpg, *.jpeg and *.png are its frames in byte order of their names.
Clip read_clip(const std::string& path, int frames, const ClipRange& range = {}, const DecodeLimits& limits = {0, 0});

// A PNG or JPEG as a clip that stands still.
Clip still_clip(const std::string& path, int frames);

std::string ffmpeg_version();                   // of the libraries in use

// The F frame numbers for a source of `total` frames at `fps`; an fps of 0 means unknown and allows no start or end.
std::vector<int64_t> sample_indices(int64_t total, double fps, int frames, const ClipRange& range);

}
