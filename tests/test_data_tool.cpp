// merv-data: planted faults are found and named, samples are shown as training sees them, and the sheet holds the encoders' own pixels.
#include "tests/run_program.h"
#include <cstring>
#include "data/image.h"
#include "data/transform.h"
#include "data/video.h"
#include "models/load.h"
#include "train/sheet.h"

using namespace merv;
using namespace merv::test;

namespace {

const std::string kTrain = "data/samples/train.json", kTiny = golden("merv-tiny");

Run data(const Words& arguments) { return run_program(built("merv-data"), arguments); }
std::vector<Json> lines(const std::string& text) {
    std::vector<Json> all;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) all.push_back(parse_json(line, "stdout"));
    return all;
}
std::string record(const std::string& id, const std::string& media, const std::string& question = "q", const std::string& answer = "a") {
    return concat("{", id.empty() ? "" : concat("\"id\": \"", id, "\", "), media.empty() ? "" : media + ", ", "\"conversations\": [{\"from\": \"human\", \"value\": \"", question,
                  "\"}, {\"from\": \"gpt\", \"value\": \"", answer, "\"}]}");
}
std::string fault_of(const Json& line) {        // of a line that has one
    REQUIRE_EQ(line["faults"].size(), 1);
    return line["faults"][0].get<std::string>();
}

}

TEST_CASE("merv-data check: the bundled samples are sound") {
    const Run r = succeeded(data({"check", kTrain, "-m", kTiny}));
    const auto all = lines(r.out);
    REQUIRE_EQ(all.size(), 8);
    int64_t tokens = 0, labels = 0;
    for (const Json& l : all) {
        EXPECT(l["faults"].empty());
        tokens += l["tokens"].get<int64_t>(), labels += l["labels"].get<int64_t>();
    }
    EXPECT_EQ(all[0]["frames"], 36);
    EXPECT_EQ(all[0]["fps"], 12.0);
    EXPECT_EQ(all[5]["width"], 480);
    EXPECT_EQ(all[6]["kind"], "image");
    EXPECT_EQ(all[7]["kind"], "text");
    EXPECT_FALSE(all[7].contains("media"));
    EXPECT_SAYS(r.err, "samples  8 (1 image, 1 text, 6 video), 5 files");
    EXPECT_SAYS(r.err, concat("tokens   ", tokens, ", ", labels, " of them learnt"));
    EXPECT_EQ(data({"check", kTrain, "-m", kTiny, "--set", "workers=0"}).out, r.out);          // whoever reads the files
    EXPECT_EQ(data({"check", kTrain, "-m", kTiny, "--set", "workers=4"}).out, r.out);
    const Run bare = succeeded(data({"check", kTrain}));
    EXPECT_FALSE(lines(bare.out)[0].contains("tokens"));
    EXPECT_SAYS(bare.err, "without -m DIR, the MERV folder, tokens are not counted");
}

TEST_CASE("merv-data check: every planted fault is in the line of its sample") {
    TempDir dir;
    std::filesystem::create_directory(dir / "media");
    const std::string clip = read_file("data/samples/ball.mp4");
    write_file(dir / "media/good.mp4", clip);
    write_file(dir / "media/cut.mp4", std::string_view(clip).substr(0, clip.size() / 2));
    write_file(dir / "media/empty.mp4", "");
    write_file(dir / "media/text.png", "no picture");
    write_file(dir / "outside.mp4", clip);
    std::filesystem::create_symlink("../outside.mp4", dir / "media/link.mp4");
    std::string deep(10000, '[');
    deep += std::string(10000, ']');
    const std::vector<std::pair<std::string, std::string>> planted = {
        {record("a", "\"video\": \"good.mp4\""), ""},
        {record("b", "\"video\": \"missing.mp4\""), "missing.mp4: no such file"},
        {record("c", "\"video\": \"cut.mp4\""), "cut.mp4: "},
        {record("d", "\"video\": \"empty.mp4\""), "empty.mp4: "},
        {record("e", "\"image\": \"text.png\""), "text.png: "},
        {record("f", "\"video\": \"../outside.mp4\""), "lies outside the media root"},
        {record("g", "\"video\": \"link.mp4\""), "lies outside the media root"},
        {record("", ""), "has no id"},
        {record("a", ""), "its id is that of sample 0, too"},
        {"{\"id\": \"h\", \"conversations\": [{\"from\": \"gpt\", \"value\": \"a\"}]}", "turn 1 is from \"gpt\""},
        {"{\"id\": \"i\", \"x\": " + deep + "}", "nested deeper than"},
        {"17", "is no object"},
        {record("j", "", std::string(6000, 'x')), "no token of its 2048 is learnt; its text was cut to 2048"},
        {record("k", "\"video\": \"cut.mp4\""), "cut.mp4: "},              // read once, told twice
        {record("l", ""), ""},
    };
    std::string text = "[";
    for (const auto& [json, why] : planted) text += (text.size() > 1 ? ",\n" : "") + json;
    write_file(dir / "data.json", text + "]");
    for (const char* workers : {"workers=0", "workers=3"}) {
        const Run r = data({"check", dir / "data.json", "--media-root", dir / "media", "-m", kTiny, "--set", workers});
        EXPECT_EQ(r.code, 3);
        EXPECT_SAYS(r.err, "13 of 15 samples have faults");
        EXPECT_SAYS(r.err, "fault    file: 5");
        const auto all = lines(r.out);
        REQUIRE_EQ(all.size(), planted.size());
        for (size_t i = 0; i < all.size(); i++) {
            CAPTURE(all[i].dump());
            EXPECT_EQ(all[i]["index"], i);
            if (planted[i].second.empty()) EXPECT(all[i]["faults"].empty());
            else EXPECT_SAYS(fault_of(all[i]), planted[i].second);
        }
    }
    const Run align = data({"check", kTrain, "-m", kTiny, "--stage", "align"});                    // the telescope has four turns
    EXPECT_EQ(align.code, 3);
    EXPECT_SAYS(fault_of(lines(align.out)[5]), "4 turns; the align stages take one question and one caption");
    write_file(dir / "cut.json", text);
    const Run cut = data({"check", dir / "cut.json"});
    EXPECT_EQ(cut.code, 3);
    EXPECT_SAYS(cut.err, "the file is cut off");
    write_file(dir / "none.json", "[]");
    EXPECT_EQ(data({"check", dir / "none.json"}).code, 3);
}

TEST_CASE("merv-data show: tokens and labels of a sample") {
    const Json j = succeeded(data({"show", kTrain, "-m", kTiny, "--sample", "telescope", "--json"})).json();
    EXPECT_EQ(j["index"], 5);
    EXPECT_EQ(j["visual_tokens"], 576);
    EXPECT_EQ(j["frame_indices"].size(), 32);
    std::string everything, learnt;
    for (const Json& t : j["tokens"]) {
        everything += t["text"].get<std::string>();
        if (t["learnt"]) learnt += t["text"].get<std::string>();
    }
    // as the reference has it: a turn is tokenised alone, behind a space of its own, and `<video>` stays text
    EXPECT_EQ(everything, "<bos> In: <video>\nWhat is shown?\nOut: The mirrors of a telescope.<eos> In: What colour are they?\nOut: Gold.<eos>");
    EXPECT_EQ(learnt, " The mirrors of a telescope.<eos> Gold.<eos>");

    const Run text = succeeded(data({"show", kTrain, "-m", kTiny, "--sample", "7"}));
    EXPECT_SAYS(text.out, "sample 7 encoders: text, 2 turns, stage finetune, pure; 37 tokens, 6 learnt\n    0      1         \"<bos>\"\n    1    359         \" I\"\n");
    EXPECT_FALSE(contains(text.out, "visual tokens"));
    EXPECT_SAYS(succeeded(data({"show", kTrain, "-m", kTiny})).out, "\"<bos>\"\n      576 visual tokens\n");
    EXPECT_EQ(data({"show", kTrain, "-m", kTiny, "--sample", "8"}).code, 2);
    EXPECT_EQ(data({"show", kTrain, "-m", kTiny, "--sample", "nobody"}).code, 2);
    EXPECT_EQ(data({"show", kTrain}).code, 2);
    EXPECT_EQ(data({"show"}).code, 2);
    EXPECT_EQ(data({"shwo"}).code, 2);
}

TEST_CASE("merv-data show: the sheet holds what the encoders are shown, pixel for pixel") {
    TempDir dir;
    succeeded(data({"show", kTrain, "-m", kTiny, "--sample", "ball", "--out", dir / "sheet.png"}));
    const Tensor from_program = read_image(dir / "sheet.png");
    const LoadedModel loaded = load_model(kTiny, {.weights = false});
    const Merv& m = loaded.merv;
    const Clip clip = read_clip("data/samples/ball.mp4", m.config.most_frames());
    const auto shown = m.look(clip, {});
    const Tensor small = train::contact_sheet(clip, m, shown), large = train::contact_sheet(clip, m, shown, {.per_line = 16, .side = 224});
    REQUIRE(small.shape() == from_program.shape());
    EXPECT_EQ(std::memcmp(small.raw(), from_program.raw(), small.bytes()), 0);

    // Where frames are not made smaller, each stands on the sheet as it is; a row is told by its place from below.
    int64_t bottom = large.dim(0);
    for (size_t e = m.encoders.size(); e-- > 0;) {
        const Tensor frames = train::visible(shown[e].pixels);
        const int64_t side = frames.dim(1), lines = (m.encoders[e].frames + 15) / 16;
        const int64_t first = bottom - lines * (14 + side + 4) + 14;
        int64_t different = 0;
        for (int f = 0; f < m.encoders[e].frames; f++)
            for (int64_t y = 0; y < side; y++) {
                const std::byte* on_sheet = large.raw() + ((first + f / 16 * (14 + side + 4) + y) * large.dim(1) + 4 + f % 16 * (side + 4)) * 3;
                different += std::memcmp(on_sheet, frames.raw() + (shown[e].frames[size_t(f)] * side + y) * side * 3, size_t(side) * 3) != 0;
            }
        EXPECT_EQ(different, 0);
        bottom -= lines * (14 + side + 4) + 14;
    }
    // what is visible of bytes are the bytes, and of normalised ones the bytes they were made of
    const Tensor& planar = shown[1].pixels;
    const Tensor seen = train::visible(planar);
    const int64_t side = planar.dim(2);
    for (int64_t i = 0; i < side * side; i += 97)
        for (int64_t c = 0; c < 3; c++) EXPECT_EQ(seen.data<uint8_t>()[i * 3 + c], planar.data<uint8_t>()[c * side * side + i]);
    const Tensor undone = train::visible(normalize(planar, kClipMean, kClipStd));
    EXPECT_EQ(std::memcmp(undone.raw(), seen.raw(), seen.bytes()), 0);
    // a text has no picture
    const Run text = succeeded(data({"show", kTrain, "-m", kTiny, "--sample", "7", "--out", dir / "text.png"}));
    EXPECT_SAYS(text.err, "has no picture");
    EXPECT_FALSE(std::filesystem::exists(dir / "text.png"));
}
