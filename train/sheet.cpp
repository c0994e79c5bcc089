#include "train/sheet.h"
#include <algorithm>
#include <cmath>
#include <cstring>
#include "data/transform.h"

namespace merv::train {
namespace {

constexpr int kGap = 4, kScale = 2, kGlyph = 4 * kScale, kLine = 5 * kScale + 4;       // pixels; a letter is 3 x 5 dots and a dot's gap

// Letters and digits as five rows of three dots, an octal digit each.
const char* glyph(char c) {
    static constexpr const char* digits[] = {"75557", "26227", "71747", "71717", "55711", "74717", "74757", "71111", "75757", "75717"};
    static constexpr const char* letters[] = {"25755", "65656", "34443", "65556", "74647", "74644", "34553", "55755", "72227", "11152", "55655", "44447", "57755",
                                              "65555", "25552", "65644", "25563", "65655", "34216", "72222", "55557", "55552", "55775", "55255", "55222", "71247"};
    if (c >= '0' && c <= '9') return digits[c - '0'];
    if (c >= 'a' && c <= 'z') return letters[c - 'a'];
    return c == '-' ? "00700" : "00000";
}

class Canvas {
  public:
    Canvas(int64_t height, int64_t width) : pixels({height, width, 3}, DType::u8) { std::memset(pixels.data<uint8_t>(), 0x20, pixels.bytes()); }
    // u8 (h, w, 3) at row y, column x
    void picture(const uint8_t* from, int64_t h, int64_t w, int64_t y, int64_t x) {
        for (int64_t r = 0; r < h; r++) std::memcpy(at(y + r, x), from + r * w * 3, size_t(w) * 3);
    }
    void text(std::string_view text, int64_t y, int64_t x) {
        for (size_t i = 0; i < text.size(); i++)
            for (int r = 0; r < 5 * kScale; r++)
                for (int c = 0; c < 3 * kScale; c++) {
                    const int64_t column = x + int64_t(i) * kGlyph + c;
                    if (column < pixels.dim(1) && (glyph(text[i])[r / kScale] - '0') >> (2 - c / kScale) & 1) std::memset(at(y + r, column), 0xE0, 3);
                }
    }
    Tensor pixels;

  private:
    uint8_t* at(int64_t y, int64_t x) { return pixels.data<uint8_t>() + (y * pixels.dim(1) + x) * 3; }
};

struct Row { std::string label; Tensor frames; std::vector<int32_t> index; std::vector<int64_t> numbers; };        // u8 (U, h, w, 3); which, and their numbers in the source

// Nothing wider or higher than `side`; what is smaller stays, so that its pixels are those of the encoder.
Tensor fitted(const Tensor& frames, int side) {
    const int h = int(frames.dim(1)), w = int(frames.dim(2));
    if (h <= side && w <= side) return frames;
    const double scale = double(side) / std::max(h, w);
    return resize(frames, std::max(1, int(std::lround(h * scale))), std::max(1, int(std::lround(w * scale))), Filter::bilinear);
}

}

Tensor visible(const Tensor& pixels) {
    const int64_t F = pixels.dim(0), S = pixels.dim(2), plane = S * S;
    Tensor out({F, S, S, 3}, DType::u8);
    uint8_t* to = out.data<uint8_t>();
    for (int64_t f = 0; f < F; f++)
        for (int64_t i = 0; i < plane; i++)
            for (int64_t c = 0; c < 3; c++) {
                const int64_t from = (f * 3 + c) * plane + i;
                if (pixels.dtype() == DType::u8) *to++ = pixels.data<uint8_t>()[from];
                else *to++ = uint8_t(std::lround(std::clamp((pixels.data<float>()[from] * kClipStd[size_t(c)] + kClipMean[size_t(c)]) * 255, 0.0f, 255.0f)));
            }
    return out;
}

Tensor contact_sheet(const Clip& clip, const Merv& merv, const std::vector<Shown>& shown, const SheetOptions& options) {
    std::vector<Row> rows;
    Row source{.label = concat("source ", clip.frames.dim(2), "x", clip.frames.dim(1)), .frames = clip.frames, .index = {}, .numbers = {}};
    for (size_t i = 0; i < clip.grid.size(); i++)                   // its different frames, in order
        if (clip.grid[i] == int32_t(source.index.size())) source.index.push_back(clip.grid[i]), source.numbers.push_back(clip.indices[i]);
    rows.push_back(std::move(source));
    for (size_t e = 0; e < shown.size(); e++) {
        const Encoder& encoder = merv.encoders[e];
        Row row{.label = concat(encoder.name, " ", encoder.frames, " frames ", encoder.image, "x", encoder.image), .frames = visible(shown[e].pixels), .index = shown[e].frames, .numbers = {}};
        for (size_t f = 0; f < row.index.size(); f++) row.numbers.push_back(clip.indices[f * (clip.grid.size() / row.index.size())]);
        rows.push_back(std::move(row));
    }
    int64_t height = kGap, width = kGap;
    for (Row& row : rows) {
        row.frames = fitted(row.frames, options.side);
        const int64_t n = int64_t(row.index.size()), lines = (n + options.per_line - 1) / options.per_line, step = std::max<int64_t>(row.frames.dim(2), 5 * kGlyph) + kGap;
        height += kLine + lines * (kLine + row.frames.dim(1) + kGap);
        width = std::max({width, kGap + std::min<int64_t>(n, options.per_line) * step, 2 * kGap + int64_t(row.label.size()) * kGlyph});
    }
    Canvas sheet(height, width);
    int64_t y = kGap;
    for (const Row& row : rows) {
        const int64_t h = row.frames.dim(1), w = row.frames.dim(2), step = std::max<int64_t>(w, 5 * kGlyph) + kGap;
        sheet.text(row.label, y, kGap);
        y += kLine;
        for (size_t i = 0; i < row.index.size(); i++) {
            const int64_t column = kGap + int64_t(i) % options.per_line * step, line = y + int64_t(i) / options.per_line * (kLine + h + kGap);
            sheet.text(std::to_string(row.numbers[i]), line, column);
            sheet.picture(row.frames.data<uint8_t>() + row.index[i] * h * w * 3, h, w, line + kLine, column);
        }
        y += (int64_t(row.index.size()) + options.per_line - 1) / options.per_line * (kLine + h + kGap);
    }
    return sheet.pixels;
}

}
