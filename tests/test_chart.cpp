// data/chart: pictures say what the numbers say. PNG is read back by our own reader, SVG is taken apart as text.
#include "tests/test.h"
#include <algorithm>
#include <cmath>
#include "core/rng.h"
#include "data/chart.h"
#include "data/image.h"

using namespace merv;
using namespace merv::test;

namespace {

size_t count(const std::string& text, const std::string& part) {
    size_t n = 0;
    for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) n++;
    return n;
}
// Every tag that opens is closed in order, and & begins an entity: what an XML reader would insist on.
bool well_formed(const std::string& svg) {
    std::vector<std::string> open;
    for (size_t i = 0; i < svg.size(); i++) {
        if (svg[i] == '&' && svg.compare(i, 5, "&amp;") && svg.compare(i, 4, "&lt;") && svg.compare(i, 4, "&gt;") && svg.compare(i, 6, "&quot;")) return false;
        if (svg[i] == '>') return false;
        if (svg[i] != '<') continue;
        const size_t end = svg.find('>', i);
        if (end == svg.npos) return false;
        const std::string tag = svg.substr(i + 1, end - i - 1);
        if (count(tag, "\"") % 2 || tag.find('<') != tag.npos) return false;
        if (tag[0] == '/') {
            if (open.empty() || open.back() != tag.substr(1)) return false;
            open.pop_back();
        } else if (!tag.ends_with("/")) open.push_back(tag.substr(0, tag.find(' ')));
        i = end;
    }
    return open.empty();
}
double attribute(const std::string& svg, const std::string& name, size_t from) { return std::stod(svg.substr(svg.find(name + "=\"", from) + name.size() + 2)); }

}

TEST_CASE("chart: ticks are round numbers around the range") {
    EXPECT(axis_ticks(0, 1, 5) == std::vector<double>{0, 0.2, 0.4, 0.6000000000000001, 0.8, 1});
    EXPECT(axis_ticks(3, 97) == std::vector<double>{0, 20, 40, 60, 80, 100});
    EXPECT(axis_ticks(5, 5) == std::vector<double>{5});
    for (uint64_t i = 0; i < 300; i++) {
        const Rng rng(i, "ticks");
        const double low = rng.normal(0) * std::pow(10, rng.uniform(1) * 12 - 6), high = low + std::pow(10, rng.uniform(2) * 12 - 6);
        const std::vector<double> t = axis_ticks(low, high);
        EXPECT_LE(t.front(), low + 1e-6 * (high - low)); EXPECT_GE(t.back(), high - 1e-6 * (high - low));
        EXPECT_LE(t.size(), 9u); EXPECT_GE(t.size(), 3u);
    }
}

TEST_CASE("chart: lines lie where their values say, break at NaN, and names are no markup") {
    const std::string svg = line_chart("loss <of> \"a & b\"", "step", "loss", {{"train\x1b[31m", {0, 1, 2, 3, 4}, {4, 2, NAN, 2, 0}}, {"val", {0, 4}, {0, 4}}});
    EXPECT(well_formed(svg));
    EXPECT_SAYS(svg, "loss &lt;of&gt; &quot;a &amp; b&quot;");
    EXPECT_EQ(svg.find('\x1b'), svg.npos);
    EXPECT_SAYS(svg, "d=\"M70.00 40.00L235.00 195.00M565.00 195.00L730.00 350.00\"");      // 70..730 by 350..40
    EXPECT_SAYS(svg, "d=\"M70.00 350.00L730.00 40.00\"");
    EXPECT(well_formed(line_chart("", "", "", {})));
    EXPECT(well_formed(line_chart("one", "x", "y", {{"point", {7}, {7}}, {"none", {NAN}, {NAN}}})));
    EXPECT_EQ(line_chart("a", "b", "c", {{"d", {1, 2}, {3, 4}}}), line_chart("a", "b", "c", {{"d", {1, 2}, {3, 4}}}));
    EXPECT_THROWS_AS(line_chart("", "", "", {{"d", {1, 2}, {3}}}), std::logic_error);
}

TEST_CASE("chart: bars are as high as their values") {
    const std::string svg = bar_chart("accuracy", "%", {.groups = {"all", "temporal"}, .series = {"one", "two"}, .values = {{50, 100}, {25, NAN}}, .errors = {{5, 0}, {0, 0}}});
    EXPECT(well_formed(svg));
    EXPECT_EQ(count(svg, "<title>"), 3u);
    const size_t half = svg.find("all, one: 50"), full = svg.find("temporal, one: 100"), quarter = svg.find("all, two: 25");
    REQUIRE(std::max({half, full, quarter}) != svg.npos);
    auto height = [&](size_t title) { return attribute(svg, "height", svg.rfind("<rect", title)); };
    EXPECT_EQ(height(full), 310); EXPECT_EQ(height(half), 155); EXPECT_EQ(height(quarter), 77.5);
    EXPECT_EQ(attribute(svg, "y", svg.rfind("<rect", half)) + height(half), 350);                 // all stand on the axis
    EXPECT(well_formed(bar_chart("", "", {})));
    const std::string down = difference_chart("b - a", "points", {"up", "down", "same"}, {10, -5, 0});
    EXPECT(well_formed(down));
    const size_t up = down.find("up: 10"), sunk = down.find("down: -5");
    EXPECT_EQ(attribute(down, "width", down.rfind("<rect", up)), doctest::Approx(2 * attribute(down, "width", down.rfind("<rect", sunk))).epsilon(1e-3));
    EXPECT_LT(attribute(down, " x", down.rfind("<rect", sunk)), attribute(down, " x", down.rfind("<rect", up)));
}

TEST_CASE("chart: PNG and base64 come back as they were") {
    EXPECT_EQ(base64(""), ""); EXPECT_EQ(base64("f"), "Zg=="); EXPECT_EQ(base64("fo"), "Zm8="); EXPECT_EQ(base64("foo"), "Zm9v"); EXPECT_EQ(base64("foobar"), "Zm9vYmFy");     // RFC 4648
    Tensor t({7, 13, 3}, DType::u8);
    for (int64_t i = 0; i < t.numel(); i++) t.data<uint8_t>()[i] = uint8_t(i * 37);
    const std::string png = encode_png(t);
    const Tensor back = decode_image({reinterpret_cast<const std::byte*>(png.data()), png.size()}, "png");
    REQUIRE(back.shape() == t.shape());
    EXPECT(std::equal(t.data<uint8_t>(), t.data<uint8_t>() + t.numel(), back.data<uint8_t>()));
    Tensor frames({3, 1, 1, 3}, DType::u8);
    const uint8_t values[] = {0, 10, 255, 0, 11, 255, 1, 11, 255};
    std::copy(values, values + 9, frames.data<uint8_t>());
    const Tensor mean = mean_frame(frames);
    EXPECT_EQ(mean.data<uint8_t>()[0], 0); EXPECT_EQ(mean.data<uint8_t>()[1], 11); EXPECT_EQ(mean.data<uint8_t>()[2], 255);
    const std::string sheet = picture_sheet("clips", {{"vivit", {{"a <b>", t}, {"c", t}}}, {"none", {}}});
    EXPECT(well_formed(sheet));
    EXPECT_EQ(count(sheet, base64(png)), 2u);
}
