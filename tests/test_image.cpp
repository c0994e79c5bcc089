// data/image: PNG exactly as Pillow reads it, JPEG nearly, everything else refused with one line.
#include "tests/media.h"
#include <sys/stat.h>
#include "data/image.h"

using namespace merv;
using namespace merv::test;

static Tensor decode(const std::string& bytes) { return decode_image(std::as_bytes(std::span(bytes)), "picture"); }
static std::string refusal(const std::string& bytes) { return error_of(Exit::bad_data, [&] { decode(bytes); }); }

TEST_CASE("images: colour, grey, palette, alpha, 16 bit and 1 bit as Pillow's convert('RGB')") {
    for (const auto& c : read_json(golden("video_frames.json")).at("images")) {
        const std::string name = c.at("name"), expected = from_base64(c.at("rgb_base64"));
        INFO(name);
        const Tensor image = decode(from_base64(c.at("base64")));
        REQUIRE_EQ(image.bytes(), expected.size());
        EXPECT(image.shape() == Shape{c.at("height"), c.at("width"), 3});
        int worst = 0;
        for (size_t i = 0; i < expected.size(); i++) worst = std::max(worst, std::abs(int(image.data<uint8_t>()[i]) - int(uint8_t(expected[i]))));
        if (name.ends_with(".png")) EXPECT_EQ(worst, 0);
        else EXPECT_LE(worst, 4);               // stb's inverse DCT, colour conversion and up-sampling are its own
    }
}

TEST_CASE("images: what is no image is refused") {
    const std::string png = read_file("tests/fuzz/corpus/image/rgba.png"), jpeg = read_file("tests/fuzz/corpus/image/rgb_444.jpg");
    REQUIRE(png.size() > 100);
    REQUIRE(jpeg.size() > 100);
    EXPECT_EQ(refusal("I am a text"), "picture: is no PNG or JPEG image (unknown image type); give a PNG or JPEG file");
    EXPECT_NE(refusal(""), "");
    EXPECT_NE(refusal(png.substr(0, png.size() / 2)), "");
    EXPECT_NE(refusal(png.substr(0, 20)), "");
    EXPECT_NE(refusal(jpeg.substr(0, 30)), "");
    std::string tables = jpeg;                  // 16 x 255 codes in a Huffman table that has room for 256
    std::memset(tables.data() + tables.find("\xff\xc4") + 5, 255, 16);
    EXPECT(refusal(tables).find("Huffman tables are damaged") != std::string::npos);
    std::string huge = png;                     // width and height stand in the first chunk, bytes 16 to 23, big endian
    huge[16] = 0, huge[17] = 0, huge[18] = char(0x27), huge[19] = 0x10;
    huge[20] = 0, huge[21] = 0, huge[22] = char(0x27), huge[23] = 0x10;
    EXPECT_EQ(refusal(huge), "picture: has 10000 x 10000 pixels, more than 64 Mi; scale it down");
}

TEST_CASE("images: files that are not there, not files, empty") {
    TempDir dir;
    auto refused = [](const std::string& path) { return error_of(Exit::bad_data, [&] { read_image(path); }); };
    EXPECT_EQ(refused(dir / "nothing.png"), (dir / "nothing.png") + ": no such file; check the path");
    EXPECT_EQ(refused(dir.path.string()), dir.path.string() + ": is a folder, not a file; give a file");
    write_file(dir / "empty.png", "");
    EXPECT_EQ(refused(dir / "empty.png"), (dir / "empty.png") + ": is an empty file; copy or download it again");
    REQUIRE_EQ(mkfifo((dir / "pipe.png").c_str(), 0600), 0);        // must not wait for a writer
    EXPECT_EQ(refused(dir / "pipe.png"), (dir / "pipe.png") + ": is a device or pipe, not a file; give a file");
    write_file(dir / "good.png", read_file("tests/fuzz/corpus/image/rgba.png"));
    EXPECT(read_image(dir / "good.png").shape() == Shape{11, 14, 3});
}
