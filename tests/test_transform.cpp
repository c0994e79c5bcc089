// data/transform against Pillow, torchvision and torch (tests/golden/transform.json, vectors/pillow_resize.json).
#include "tests/media.h"
#include "data/transform.h"

using namespace merv;
using namespace merv::test;

static Filter filter_of(const nlohmann::json& c) { return c.at("filter") == "bicubic" ? Filter::bicubic : Filter::bilinear; }

TEST_CASE("resize equals Pillow bit for bit") {
    for (const auto& c : read_json(golden("vectors/pillow_resize.json")).at("cases")) {
        const Tensor in = pattern(1, c.at("in_hw")[0], c.at("in_hw")[1]);
        REQUIRE_EQ(crc32(in), c.at("crc32_in").get<uint32_t>());
        const Tensor out = resize(in, c.at("out_hw")[0], c.at("out_hw")[1], filter_of(c));
        INFO(c.dump());
        EXPECT_EQ(crc32(out), c.at("crc32_out").get<uint32_t>());
    }
    for (const auto& c : read_json(golden("transform.json")).at("resize")) {      // one pixel, one axis only, enlarging, identity
        const Tensor out = resize(pattern(1, c.at("in")[0], c.at("in")[1]), c.at("out")[0], c.at("out")[1], filter_of(c));
        INFO(c.dump());
        EXPECT_EQ(crc32(out), c.at("crc32").get<uint32_t>());
    }
}

TEST_CASE("resize: a flat picture stays flat, and every frame is treated alike") {
    Tensor flat({2, 31, 17, 3}, DType::u8);
    std::memset(flat.raw(), 200, flat.bytes());
    for (Filter filter : {Filter::bilinear, Filter::bicubic})
        for (auto [h, w] : {std::pair{1, 1}, {14, 14}, {31, 9}, {80, 17}, {64, 90}}) {
            const Tensor out = resize(flat, h, w, filter);
            EXPECT_EQ(std::count(out.data<uint8_t>(), out.data<uint8_t>() + out.numel(), 200), out.numel());
        }
    const Tensor frames = pattern(3, 40, 52), all = resize(frames, 24, 20, Filter::bicubic);
    for (int f = 0; f < 3; f++) EXPECT_EQ(crc32(all.slice(f, f + 1)), crc32(resize(frames.slice(f, f + 1), 24, 20, Filter::bicubic)));
    EXPECT_THROWS_AS(resize(zeros({1, 4, 4, 3}), 2, 2, Filter::bicubic), std::logic_error);
    EXPECT_THROWS_AS(resize(frames, 0, 2, Filter::bicubic), std::logic_error);
}

TEST_CASE("prepare and normalize equal torchvision bit for bit") {
    constexpr std::array<float, 3> mean = {0.485f, 0.456f, 0.406f}, std = {0.229f, 0.224f, 0.225f};
    for (const auto& c : read_json(golden("transform.json")).at("prepare")) {
        const std::string strategy = c.at("strategy");
        const Resize how = strategy == "letterbox" ? Resize::letterbox : strategy == "resize-crop" ? Resize::crop : Resize::naive;
        const Tensor pixels = prepare(pattern(1, c.at("in")[0], c.at("in")[1]), c.at("size"), filter_of(c), how, mean, c.at("short_side"));
        INFO(c.dump());
        EXPECT_EQ(crc32(pixels), c.at("crc32").get<uint32_t>());
        EXPECT_EQ(crc32(normalize(pixels, mean, std)), c.at("crc32_normalized").get<uint32_t>());
    }
}

TEST_CASE("LanguageBind's pixels equal torch's to a rounding or two") {
    double worst = 0;
    for (const auto& c : read_json(golden("transform.json")).at("languagebind")) {
        const Tensor x = languagebind_pixels(pattern(c.at("frames"), c.at("in")[0], c.at("in")[1]), c.at("size"));
        const std::string expected = from_base64(c.at("f32_base64"));
        REQUIRE_EQ(expected.size(), x.bytes());
        for (int64_t i = 0; i < x.numel(); i++) {
            float e;
            std::memcpy(&e, expected.data() + i * 4, 4);
            worst = std::max(worst, double(std::abs(x.data<float>()[i] - e)));
        }
    }
    std::printf("  %-34s error %.2e  limit %.2e\n", "languagebind_pixels", worst, 1e-6);
    EXPECT_GT(worst, 0);                        // the loops above ran
    EXPECT_LE(worst, 1e-6);                     // values reach 2.6, where an ulp is 2.4e-7
}
