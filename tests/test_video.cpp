// data/video against decord, Pillow and numpy (tests/golden/video_frames.json), and what it says about bad input.
#include "tests/media.h"
#include <algorithm>
#include "core/log.h"
#include "data/video.h"

using namespace merv;
using namespace merv::test;

namespace {

const nlohmann::json& expected() { return read_json(golden("video_frames.json")); }
struct Quiet {                                  // the notes that clamping gives are not for the test's output
    Level saved = log_level();
    Quiet() { set_log_level(Level::quiet); }
    ~Quiet() { set_log_level(saved); }
};
Tensor grid_frames(const Clip& c) {             // u8 (F, H, W, 3), repeats written out
    Tensor t({int64_t(c.grid.size()), c.frames.dim(1), c.frames.dim(2), 3}, DType::u8);
    for (size_t i = 0; i < c.grid.size(); i++) t.slice(int64_t(i), int64_t(i) + 1).copy_from(c.frames.slice(c.grid[i], c.grid[i] + 1));
    return t;
}
uint32_t frame_crc(const Clip& c, size_t i) { return crc32(c.frames.slice(c.grid[i], c.grid[i] + 1)); }
std::string refused(const std::string& path, const ClipRange& range = {}) {
    return error_of(Exit::bad_data, [&] { read_clip(path, 32, range); });
}

void expect_clip(const std::string& path, const nlohmann::json& c) {
    INFO(path);
    const Clip clip = read_clip(path, 32);
    EXPECT_EQ(clip.total_frames, c.at("frames").get<int64_t>());
    EXPECT_EQ(clip.fps, c.at("fps").get<double>());
    EXPECT(clip.frames.shape() == Shape{clip.frames.dim(0), c.at("height"), c.at("width"), 3});
    EXPECT_EQ(crc32(grid_frames(clip)), c.at("crc32").get<uint32_t>());
}

}

TEST_CASE("sample_indices equals numpy's linspace with the reference's ends") {
    Quiet quiet;
    for (const auto& c : expected().at("linspace")) {
        ClipRange range;
        if (!c.at("start").is_null()) range.start = c.at("start");
        if (!c.at("end").is_null()) range.end = c.at("end");
        if (!c.at("end_frame").is_null()) range.end_frame = c.at("end_frame");
        INFO(c.dump());
        EXPECT(sample_indices(c.at("total"), c.at("fps"), c.at("frames"), range) == c.at("indices").get<std::vector<int64_t>>());
    }
    // a clip shorter than a frame at the very start would reach frame -1 in the reference
    EXPECT(sample_indices(100, 25, 3, {.end = 0.01}) == std::vector<int64_t>{0, 0, 0});
    EXPECT(sample_indices(10, 0, 4, {}) == std::vector<int64_t>{0, 3, 6, 9});      // unknown rate: over the frames
    EXPECT(sample_indices(100, 25, 2, {.start = NAN, .end = NAN}) == std::vector<int64_t>{0, 99});
}

TEST_CASE("sample_indices refuses clips that are not in the video") {
    auto message = [](const ClipRange& range, double fps = 25) { return error_of(Exit::bad_data, [&] { sample_indices(100, fps, 32, range); }); };
    EXPECT_EQ(message({.start = 4}), "the clip starts at 4 s, but the video is only 4 s long; give an earlier start");
    EXPECT_EQ(message({.start = 2, .end = 2}), "the clip ends at 2 s, not after its start at 2 s; give a later end");
    EXPECT_EQ(message({.start = 2, .end = 1}), "the clip ends at 1 s, not after its start at 2 s; give a later end");
    EXPECT_EQ(message({.end = -1}), "the clip ends at -1 s, not after its start at 0 s; give a later end");
    EXPECT_EQ(message({.start = -1}), "the clip cannot start at -1 s; give a start of 0 or more");
    EXPECT(contains(message({.start = 1}, 0), "frame rate is not known"));
}

TEST_CASE("video: the bundled clip equals decord's frames") {
    for (const auto& c : expected().at("clips"))
        if (!std::string(c.at("file")).starts_with("shared:")) expect_clip(c.at("file"), c);
}

TEST_CASE("video: H.264, HEVC, MPEG-4, 10 bit, full range and rotated clips equal decord's frames") {
    for (const auto& c : expected().at("clips")) {
        const std::string file = c.at("file");
        if (!file.starts_with("shared:")) continue;
        const std::string path = shared(file.substr(7));
        if (!path.empty()) expect_clip(path, c);
    }
}

TEST_CASE("video: AV1, which decord 0.6.0 cannot read") {
    const std::string path = shared("data/video/edge/torchcodec_av1_video.mkv");
    if (path.empty()) return;
    const Clip c = read_clip(path, 32);
    EXPECT_EQ(c.total_frames, 125);
    EXPECT_EQ(crc32(grid_frames(c)), 4179364160u);      // of ffmpeg 5.1.9 -pix_fmt rgb24, frames numpy.linspace(0, 124, 32)
}

TEST_CASE("video: single frames equal torchcodec's published ones") {
    const std::string path = shared("data/video/nasa_13013.mp4");
    if (path.empty()) return;
    for (const char* number : {"0", "1", "5", "15", "35", "389"}) {
        const std::string name = std::string(6 - std::strlen(number), '0') + number, rgb = shared("data/golden/nasa_13013.stream3.frame" + name + ".480x270.rgb");
        if (rgb.empty()) return;
        INFO(number);
        const double second = (std::atoi(number) + 0.5) * 1001 / 30000;
        const Clip c = read_clip(path, 1, {.start = second});
        REQUIRE(c.indices == std::vector<int64_t>{std::atoi(number)});
        const std::string bytes = read_file(rgb);
        REQUIRE_EQ(c.frames.bytes(), bytes.size());
        EXPECT_EQ(std::memcmp(c.frames.raw(), bytes.data(), bytes.size()), 0);
    }
}

TEST_CASE("video: open groups of pictures, intra refresh, B-frames without timestamps, edit lists, GIF: all frames, and each alone") {
    Quiet quiet;
    TempDir dir;
    for (const auto& c : expected().at("made")) {
        const std::string name = c.at("name"), path = dir / name;
        INFO(name);
        write_file(path, from_base64(c.at("base64")));
        const int total = c.at("frames");
        const std::vector<uint32_t> crc = c.at("crc32");
        const Clip all = read_clip(path, total, {.end_frame = total - 1});
        REQUIRE_EQ(all.total_frames, total);
        if (c.contains("fps")) EXPECT_EQ(all.fps, c.at("fps").get<double>());
        EXPECT(all.frames.shape() == Shape{total, c.at("height"), c.at("width"), 3});
        for (int n = 0; n < total; n++) {
            CAPTURE(n);
            EXPECT_EQ(frame_crc(all, size_t(n)), crc[size_t(n)]);
            const Clip one = read_clip(path, 1, {.start = (n + 0.5) / all.fps});    // sought on its own
            REQUIRE_EQ(one.indices.at(0), n);
            EXPECT_EQ(frame_crc(one, 0), crc[size_t(n)]);
        }
        const Clip few = read_clip(path, 3, {.end_frame = total - 1});              // two jumps
        for (size_t i = 0; i < 3; i++) EXPECT_EQ(frame_crc(few, i), crc[size_t(few.indices[i])]);
    }
}

TEST_CASE("video: a clip shorter than the grid repeats frames, decoded once") {
    TempDir dir;
    for (const auto& c : expected().at("made")) {
        if (c.at("name") != "odd_10_bit.mkv") continue;
        write_file(dir / "x", from_base64(c.at("base64")));                         // no extension: only the content counts
        const Clip clip = read_clip(dir / "x", 32);
        EXPECT_EQ(clip.frames.dim(0), 5);
        EXPECT_EQ(clip.grid.size(), 32);
        EXPECT_EQ(clip.grid.front(), 0);
        EXPECT_EQ(clip.grid.back(), 4);
        EXPECT(std::is_sorted(clip.grid.begin(), clip.grid.end()));
        for (size_t i = 0; i < 32; i++) EXPECT_EQ(clip.grid[i], clip.indices[i]);
    }
}

TEST_CASE("video: what is no video, or a broken one, is refused in one line") {
    Quiet quiet;
    TempDir dir;
    auto made = [&](const std::string& name) {
        for (const auto& c : expected().at("made")) if (c.at("name") == name) return from_base64(c.at("base64"));
        return std::string();
    };
    auto message = [&](const std::string& name, const std::string& bytes) {
        write_file(dir / name, bytes);
        const std::string text = refused(dir / name);
        EXPECT(text.starts_with((dir / name) + ": "));
        EXPECT_FALSE(contains(text, "\n"));
        return text.substr(std::min(text.size(), (dir / name).size() + 2));
    };
    EXPECT_EQ(refused(dir / "nothing.mp4"), (dir / "nothing.mp4") + ": no such file; check the path");
    EXPECT_EQ(refused("http://localhost/video.mp4"), "http://localhost/video.mp4: no such file; check the path");
    EXPECT(contains(refused(dir.path.string()), "is a folder without frames"));
    EXPECT_EQ(message("empty.mp4", ""), "is an empty file; copy or download it again");
    EXPECT(contains(message("text.mp4", "Hello, this is a text about videos.\n"), "is no video that FFmpeg knows"));
    EXPECT(contains(message("zeros.mp4", std::string(5000, '\0')), "is no video that FFmpeg knows"));

    std::string wav("RIFF\x2c\x08\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0data\0\x08\0\0", 44);
    EXPECT(contains(message("sound.mp4", wav + std::string(2048, '\x11')), "holds no video stream"));
    EXPECT(contains(message("list.mp4", "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"), "is a playlist"));
    EXPECT(contains(message("concat.mp4", "ffconcat version 1.0\nfile other.mp4\n"), "is a playlist"));
    EXPECT(contains(message("sdp.mp4", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"), "is a playlist"));

    const std::string mp4 = made("open_gop.mp4");
    EXPECT(contains(message("no_index.mp4", mp4.substr(0, mp4.size() / 2)), "moov atom not found"));
    const size_t mdat = mp4.find("mdat"), moov = mp4.find("moov");
    REQUIRE(mdat < moov);
    std::string damaged = mp4;                  // the slices of the middle frames
    for (size_t i = mdat + (moov - mdat) / 2; i < mdat + (moov - mdat) * 3 / 4; i++) damaged[i] = char(i * 37);
    const std::string text = message("damaged.mp4", damaged);
    EXPECT(contains(text, " of 35 ("));
    EXPECT(contains(text, "s) cannot be decoded"));
    const Clip before = read_clip(dir / "damaged.mp4", 4, {.end = 0.3});            // what lies before the damage is still good
    for (size_t i = 0; i < 4; i++)
        for (const auto& c : expected().at("made"))
            if (c.at("name") == "open_gop.mp4") EXPECT_EQ(frame_crc(before, i), c.at("crc32")[size_t(before.indices[i])].get<uint32_t>());

    int concealed = 0;                          // a few bytes: the decoder patches over what it notices, and flags the picture
    for (size_t at = mdat + 1500; at + 200 < moov; at += 400) {
        std::string scratched = mp4;
        for (size_t i = 0; i < 6; i++) scratched[at + i] = char(i * 37 + 11);
        write_file(dir / "scratched.mp4", scratched);
        concealed += contains(refused(dir / "scratched.mp4"), "unavailable");
    }
    EXPECT_GE(concealed, 1);

    const std::string in_front = made("intra_refresh.mp4");
    REQUIRE(in_front.find("moov") < in_front.find("mdat"));
    EXPECT(contains(message("cut.mp4", in_front.substr(0, in_front.size() / 2)), "is cut off: its frames from number "));

    std::string wide = mp4;                     // the sample description says 65535 x 65535
    const size_t avc1 = wide.find("avc1", moov);
    REQUIRE(avc1 != std::string::npos);
    for (size_t i = 0; i < 4; i++) wide[avc1 + 4 + 24 + i] = '\xff';
    EXPECT(contains(message("wide.mp4", wide), "more than 64 Mi pixels"));

    EXPECT(contains(error_of(Exit::bad_data, [&] { still_clip(dir / "text.mp4", 32); }), "is no PNG or JPEG"));
    const std::string start = error_of(Exit::bad_data, [&] { write_file(dir / "good.mp4", mp4); read_clip(dir / "good.mp4", 32, {.start = 60}); });
    EXPECT_EQ(start, (dir / "good.mp4") + ": the clip starts at 60 s, but the video is only 1.4 s long; give an earlier start");
}

TEST_CASE("video: decord's corrupted clip is refused, as decord refuses it") {
    const std::string path = shared("data/video/edge/decord_corrupted.mp4");
    if (!path.empty()) EXPECT(contains(refused(path), " of 50 ("));
}

TEST_CASE("folders of frames: order of names, rate from outside, one size") {
    TempDir dir;
    for (const auto& c : expected().at("images"))
        if (c.at("name") == "rgb.png" || c.at("name") == "grey.png" || c.at("name") == "rgb_444.jpg")
            write_file(dir / (c.at("name") == "rgb.png" ? "10.png" : c.at("name") == "grey.png" ? "9.PNG" : "11.jpeg"), from_base64(c.at("base64")));
    write_file(dir / "notes.txt", "not a frame");
    const Clip clip = read_clip(dir.path.string(), 5);
    EXPECT_EQ(clip.total_frames, 3);
    EXPECT(clip.indices == std::vector<int64_t>{0, 0, 1, 1, 2});
    EXPECT_EQ(clip.fps, 0);
    const uint8_t* p = clip.frames.slice(2, 3).data<uint8_t>();
    EXPECT(p[0] == p[1]);                                               // "9.PNG", the grey one, sorts behind "10" and "11"
    EXPECT(contains(refused(dir.path.string(), {.start = 1}), "--frames-fps"));
    EXPECT(read_clip(dir.path.string(), 2, {.start = 0.5, .frames_fps = 2}).indices == std::vector<int64_t>{1, 2});
    EXPECT(read_clip(dir.path.string(), 2, {.end_frame = 1}).indices == std::vector<int64_t>{0, 1});
    write_file(dir / "12.jpg", read_file("tests/fuzz/corpus/image/progressive_420.jpg"));
    EXPECT(contains(refused(dir.path.string()), "12.jpg: is 41 x 33 pixels, but the frames before it are 14 x 11"));
}

TEST_CASE("a still image is one frame, shown all the time") {
    const Clip c = still_clip("tests/fuzz/corpus/image/rgba.png", 32);
    EXPECT(c.frames.shape() == Shape{1, 11, 14, 3});
    EXPECT(c.grid == std::vector<int32_t>(32, 0));
    EXPECT(c.indices == std::vector<int64_t>(32, 0));
    EXPECT_EQ(c.total_frames, 1);
    EXPECT_EQ(c.fps, 0);
}
