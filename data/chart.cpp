#include "data/chart.h"
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include "core/log.h"

#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STB_IMAGE_WRITE_STATIC
#define STBI_WRITE_NO_STDIO
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#include <stb/stb_image_write.h>
#pragma GCC diagnostic pop

namespace merv {

namespace {

// Okabe and Ito's colours (2008), which stay apart for most kinds of colour vision.
constexpr const char* kColours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#f0e442"};
const char* colour(size_t i) { return kColours[i % std::size(kColours)]; }

std::string number(double v) {                  // for people: the shortest of %g
    char text[32];
    std::snprintf(text, sizeof text, "%.6g", v == 0 ? 0.0 : v);
    return text;
}
std::string at(double v) {                      // a coordinate
    char text[32];
    std::snprintf(text, sizeof text, "%.2f", v);
    return text;
}

struct Canvas {
    std::string svg;
    Canvas(int width, int height, const std::string& title)
        : svg(concat("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"", width, "\" height=\"", height, "\" viewBox=\"0 0 ", width, " ", height,
                     "\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n")) {
        text(width / 2.0, 22, "middle", title, " font-size=\"15\"");
    }
    void text(double x, double y, const char* anchor, const std::string& s, const std::string& more = "") {
        svg += concat("<text x=\"", at(x), "\" y=\"", at(y), "\" text-anchor=\"", anchor, "\"", more, ">", svg_text(s), "</text>\n");
    }
    void line(double x1, double y1, double x2, double y2, const char* stroke) {
        svg += concat("<line x1=\"", at(x1), "\" y1=\"", at(y1), "\" x2=\"", at(x2), "\" y2=\"", at(y2), "\" stroke=\"", stroke, "\"/>\n");
    }
    void box(double x, double y, double w, double h, const std::string& fill, const std::string& hint = "") {
        svg += concat("<rect x=\"", at(x), "\" y=\"", at(y), "\" width=\"", at(w), "\" height=\"", at(h), "\" fill=\"", fill, "\">",
                      hint.empty() ? "" : concat("<title>", svg_text(hint), "</title>"), "</rect>\n");
    }
    std::string done() { return svg + "</svg>\n"; }
};

// The frame that line and bar charts draw into, and its scales.
struct Plot {
    static constexpr double left = 70, right = 730, top = 40, bottom = 350;
    double x0 = 0, x1 = 1, y0 = 0, y1 = 1;
    double x(double v) const { return left + (right - left) * (v - x0) / (x1 - x0); }
    double y(double v) const { return bottom - (bottom - top) * (v - y0) / (y1 - y0); }
    void grid_y(Canvas& c, const std::string& label) const {
        for (double t : axis_ticks(y0, y1)) {
            if (t < y0 - 1e-9 * (y1 - y0) || t > y1 + 1e-9 * (y1 - y0)) continue;
            c.line(left, y(t), right, y(t), "#dddddd");
            c.text(left - 6, y(t) + 4, "end", number(t));
        }
        c.text(18, (top + bottom) / 2, "middle", label, concat(" transform=\"rotate(-90 18 ", at((top + bottom) / 2), ")\""));
    }
};

void legend(Canvas& c, const std::vector<std::string>& names, double y) {
    double x = Plot::left;
    for (size_t i = 0; i < names.size(); i++) {
        const double width = 30 + 7.0 * double(std::min<size_t>(names[i].size(), 40));
        if (x + width > Plot::right && x > Plot::left) x = Plot::left, y += 18;
        c.box(x, y - 9, 10, 10, colour(i));
        c.text(x + 14, y, "start", names[i]);
        x += width;
    }
}

// Smallest and largest of what is finite, apart from each other; 0 to 1 if nothing is.
struct Span { double low = INFINITY, high = -INFINITY; };
void widen(Span& s, double v) { if (std::isfinite(v)) s.low = std::min(s.low, v), s.high = std::max(s.high, v); }
Span settled(Span s) {
    if (s.low > s.high) return {0, 1};
    if (s.low == s.high) return {s.low - std::max(1e-9, std::abs(s.low) * 0.1), s.high + std::max(1e-9, std::abs(s.high) * 0.1)};
    return s;
}

}

std::vector<double> axis_ticks(double low, double high, int n) {
    if (!(high > low) || !std::isfinite(low) || !std::isfinite(high) || n < 1) return {low};
    const double rough = (high - low) / n, power = std::pow(10, std::floor(std::log10(rough)));
    const double step = power * (rough / power <= 1 ? 1 : rough / power <= 2 ? 2 : rough / power <= 5 ? 5 : 10);
    std::vector<double> ticks;
    for (double i = std::floor(low / step + 1e-9); ticks.size() < 64; i++) {
        ticks.push_back(i * step);
        if (i * step >= high - 1e-9 * step) break;
    }
    return ticks;
}

std::string svg_text(std::string_view text) {
    std::string out;
    for (char c : printable(text)) {
        if (c == '&') out += "&amp;";
        else if (c == '<') out += "&lt;";
        else if (c == '>') out += "&gt;";
        else if (c == '"') out += "&quot;";
        else out += c == '\n' || c == '\t' ? ' ' : c;
    }
    return out;
}

std::string line_chart(const std::string& title, const std::string& x_label, const std::string& y_label, const std::vector<Series>& series) {
    Span xs, ys;
    std::vector<std::string> names;
    for (const Series& s : series) {
        CHECK(s.x.size() == s.y.size(), "line_chart: ", s.name, " has ", s.x.size(), " x and ", s.y.size(), " y");
        names.push_back(s.name);
        for (size_t i = 0; i < s.x.size(); i++) if (std::isfinite(s.x[i]) && std::isfinite(s.y[i])) widen(xs, s.x[i]), widen(ys, s.y[i]);
    }
    xs = settled(xs), ys = settled(ys);
    const std::vector<double> ticks = axis_ticks(ys.low, ys.high);
    const Plot p{.x0 = xs.low, .x1 = xs.high, .y0 = std::min(ys.low, ticks.front()), .y1 = std::max(ys.high, ticks.back())};
    Canvas c(760, 420, title);
    p.grid_y(c, y_label);
    for (double t : axis_ticks(xs.low, xs.high))
        if (t >= xs.low && t <= xs.high) c.line(p.x(t), p.bottom, p.x(t), p.bottom + 4, "#444444"), c.text(p.x(t), p.bottom + 17, "middle", number(t));
    c.text((p.left + p.right) / 2, p.bottom + 34, "middle", x_label);
    for (size_t k = 0; k < series.size(); k++) {
        std::string path;
        bool pen_down = false;
        for (size_t i = 0; i < series[k].x.size(); i++) {
            const double x = series[k].x[i], y = series[k].y[i];
            if (!std::isfinite(x) || !std::isfinite(y)) { pen_down = false; continue; }
            path += concat(pen_down ? "L" : "M", at(p.x(x)), " ", at(p.y(y)));
            pen_down = true;
        }
        if (!path.empty()) c.svg += concat("<path d=\"", path, "\" fill=\"none\" stroke-linecap=\"round\" stroke-width=\"1.5\" stroke=\"", colour(k), "\"/>\n");
    }
    c.line(p.left, p.bottom, p.right, p.bottom, "#444444");
    legend(c, names, p.bottom + 54);
    return c.done();
}

std::string bar_chart(const std::string& title, const std::string& y_label, const Bars& bars) {
    CHECK(bars.values.size() == bars.series.size() && (bars.errors.empty() || bars.errors.size() == bars.series.size()), "bar_chart: a row of values per series");
    auto error = [&](size_t s, size_t g) { return bars.errors.empty() || !std::isfinite(bars.errors[s][g]) ? 0.0 : bars.errors[s][g]; };
    Span ys{0, 0};
    for (size_t s = 0; s < bars.series.size(); s++) {
        CHECK(bars.values[s].size() == bars.groups.size(), "bar_chart: ", bars.series[s], " has ", bars.values[s].size(), " values for ", bars.groups.size(), " groups");
        for (size_t g = 0; g < bars.groups.size(); g++) widen(ys, bars.values[s][g] + error(s, g)), widen(ys, bars.values[s][g] - error(s, g));
    }
    if (ys.high == ys.low) ys.high = ys.low + 1;
    const std::vector<double> ticks = axis_ticks(ys.low, ys.high);
    const Plot p{.x0 = 0, .x1 = std::max(1.0, double(bars.groups.size())), .y0 = std::min(ys.low, ticks.front()), .y1 = std::max(ys.high, ticks.back())};
    Canvas c(760, 420, title);
    p.grid_y(c, y_label);
    const double width = 0.8 / std::max(1.0, double(bars.series.size()));
    const bool slanted = bars.groups.size() > 8;
    for (size_t g = 0; g < bars.groups.size(); g++) {
        for (size_t s = 0; s < bars.series.size(); s++) {
            const double v = bars.values[s][g], x = double(g) + 0.1 + width * double(s);
            if (!std::isfinite(v)) continue;
            c.box(p.x(x), std::min(p.y(v), p.y(0)), p.x(x + width) - p.x(x), std::abs(p.y(v) - p.y(0)), colour(s), concat(bars.groups[g], ", ", bars.series[s], ": ", number(v)));
            if (const double e = error(s, g)) c.line(p.x(x + width / 2), p.y(v - e), p.x(x + width / 2), p.y(v + e), "#444444");
        }
        const double x = p.x(double(g) + 0.5), y = p.bottom + 17;
        c.text(x, y, slanted ? "end" : "middle", bars.groups[g], slanted ? concat(" transform=\"rotate(-30 ", at(x), " ", at(y), ")\" font-size=\"10\"") : "");
    }
    c.line(p.left, p.y(0), p.right, p.y(0), "#444444");
    if (bars.series.size() > 1) legend(c, bars.series, p.bottom + 54);
    return c.done();
}

std::string difference_chart(const std::string& title, const std::string& x_label, const std::vector<std::string>& names, const std::vector<double>& values) {
    CHECK(names.size() == values.size(), "difference_chart: ", names.size(), " names and ", values.size(), " values");
    const double left = 330, right = 740, row = 16, top = 44, bottom = top + row * double(names.size());
    Span xs{0, 0};
    for (double v : values) widen(xs, v);
    if (xs.low == xs.high) xs.high = 1;
    const std::vector<double> ticks = axis_ticks(xs.low, xs.high);
    const double low = std::min(xs.low, ticks.front()), high = std::max(xs.high, ticks.back());
    auto x = [&](double v) { return left + (right - left) * (v - low) / (high - low); };
    Canvas c(760, int(bottom) + 46, title);
    for (double t : ticks) c.line(x(t), top - 4, x(t), bottom, "#dddddd"), c.text(x(t), bottom + 15, "middle", number(t));
    for (size_t i = 0; i < names.size(); i++) {
        const double y = top + row * double(i);
        c.text(left - 6, y + 11, "end", names[i], " font-size=\"10\"");
        if (std::isfinite(values[i])) c.box(std::min(x(0), x(values[i])), y + 2, std::abs(x(values[i]) - x(0)), row - 4, colour(values[i] < 0), concat(names[i], ": ", number(values[i])));
    }
    c.line(x(0), top - 4, x(0), bottom, "#444444");
    c.text((left + right) / 2, bottom + 34, "middle", x_label);
    return c.done();
}

std::string picture_sheet(const std::string& title, const std::vector<PictureRow>& rows) {
    const double side = 170, gap = 12, row_height = side + 62;
    size_t most = 1;
    for (const PictureRow& r : rows) most = std::max(most, r.pictures.size());
    Canvas c(int(gap + double(most) * (side + gap)), int(40 + double(rows.size()) * row_height), title);
    for (size_t i = 0; i < rows.size(); i++) {
        const double y = 40 + row_height * double(i);
        c.text(gap, y + 14, "start", rows[i].heading, " font-weight=\"bold\"");
        for (size_t k = 0; k < rows[i].pictures.size(); k++) {
            const double x = gap + double(k) * (side + gap);
            c.svg += concat("<image x=\"", at(x), "\" y=\"", at(y + 22), "\" width=\"", at(side), "\" height=\"", at(side), "\" href=\"data:image/png;base64,",
                            base64(encode_png(rows[i].pictures[k].rgb)), "\"/>\n");
            c.text(x, y + 36 + side, "start", rows[i].pictures[k].caption, " font-size=\"10\"");
        }
    }
    return c.done();
}

std::string encode_png(const Tensor& rgb) {
    CHECK(rgb.dtype() == DType::u8 && rgb.shape().rank() == 3 && rgb.dim(2) == 3 && rgb.numel() > 0, "encode_png: u8 (H, W, 3) is expected, got ", rgb.describe());
    int bytes = 0;
    unsigned char* png = stbi_write_png_to_mem(rgb.data<uint8_t>(), int(rgb.dim(1) * 3), int(rgb.dim(1)), int(rgb.dim(0)), 3, &bytes);
    if (!png) fail(Exit::runtime, "a picture of ", rgb.dim(1), "x", rgb.dim(0), " could not be encoded: out of memory");
    std::string out(reinterpret_cast<char*>(png), size_t(bytes));
    std::free(png);
    return out;
}

std::string base64(std::string_view bytes) {
    constexpr char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string out;
    for (size_t i = 0; i < bytes.size(); i += 3) {
        uint32_t v = 0;
        for (size_t k = 0; k < 3; k++) v = v << 8 | (i + k < bytes.size() ? uint8_t(bytes[i + k]) : 0);
        for (size_t k = 0; k < 4; k++) out += i + k <= bytes.size() ? alphabet[v >> (18 - 6 * k) & 63] : '=';
    }
    return out;
}

Tensor mean_frame(const Tensor& frames) {
    CHECK(frames.dtype() == DType::u8 && frames.shape().rank() == 4 && frames.dim(0) > 0, "mean_frame: u8 (F, H, W, 3) is expected, got ", frames.describe());
    Tensor mean({frames.dim(1), frames.dim(2), frames.dim(3)}, DType::u8);
    const int64_t f = frames.dim(0), n = mean.numel();
    const uint8_t* from = frames.data<uint8_t>();
    for (int64_t i = 0; i < n; i++) {
        int64_t sum = f / 2;
        for (int64_t k = 0; k < f; k++) sum += from[k * n + i];
        mean.data<uint8_t>()[i] = uint8_t(sum / f);
    }
    return mean;
}

}
