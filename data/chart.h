// Pictures of results without any other program: SVG text, and PNG for frames. Same input, same bytes.
//
// Values that are not finite leave a gap. Texts are escaped, so that a name out of a file is never markup.
#pragma once
#include <string>
#include <vector>
#include "core/tensor.h"

namespace merv {

// About n round numbers (1, 2 or 5 times a power of ten) from at or below `low` to at or above `high`: an axis' labels.
std::vector<double> axis_ticks(double low, double high, int n = 6);
// A text as it may stand in SVG: & < > " escaped, control characters and broken UTF-8 as U+FFFD.
std::string svg_text(std::string_view text);

struct Series {
    std::string name;
    std::vector<double> x, y;                   // as many of each
};
std::string line_chart(const std::string& title, const std::string& x_label, const std::string& y_label, const std::vector<Series>& series);

struct Bars {
    std::vector<std::string> groups, series;    // along the axis; side by side within a group, one colour each
    std::vector<std::vector<double>> values, errors;        // [series][group]; errors: half the length of a whisker, or none at all
};
std::string bar_chart(const std::string& title, const std::string& y_label, const Bars& bars);
// One bar per name from zero to the right or the left, in the order given.
std::string difference_chart(const std::string& title, const std::string& x_label, const std::vector<std::string>& names, const std::vector<double>& values);

// Pictures in rows, each row with a heading and each picture with a caption.
struct Picture { std::string caption; Tensor rgb; };        // u8 (H, W, 3)
struct PictureRow { std::string heading; std::vector<Picture> pictures; };
std::string picture_sheet(const std::string& title, const std::vector<PictureRow>& rows);

std::string encode_png(const Tensor& rgb);      // u8 (H, W, 3) -> the bytes of a PNG file
std::string base64(std::string_view bytes);
Tensor mean_frame(const Tensor& frames);        // u8 (F, H, W, 3) -> u8 (H, W, 3): rounded averages

}
