// conversations: LLaVA's files read record by record, word counts as Python's, paths that stay below the media root.
#include "tests/media.h"
#include <filesystem>
#include <fstream>
#include "core/check.h"
#include "data/conversations.h"

using namespace merv;
using test::error_of;

namespace {

std::string wrong(const std::string& text) {
    return error_of(Exit::bad_data, [&] { parse_conversations(text, "d.json"); });
}
std::string turns(const std::string& question = "q", const std::string& answer = "a") {
    return "\"conversations\": [{\"from\": \"human\", \"value\": \"" + question + "\"}, {\"from\": \"gpt\", \"value\": \"" + answer + "\"}]";
}
std::string nested(size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); }

Conversation asking(const std::string& media) { return {.id = "v", .media = media, .turns = {{true, "q"}, {false, "a"}}}; }

}

TEST_CASE("conversations: records as the reference's dataset reads them") {
    const auto& golden = test::read_json(test::golden("training_data.json"));
    const auto all = parse_conversations(golden["records"].dump(), "golden");
    REQUIRE_EQ(all.size(), golden["records"].size());
    for (size_t i = 0; i < all.size(); i++) {
        const auto& r = golden["records"][i];
        CAPTURE(r.dump());
        EXPECT_EQ(all[i].id, r["id"].get<std::string>());
        EXPECT_EQ(all[i].multimodal(), golden["lengths"][i][0].get<bool>());
        EXPECT_EQ(count_words(all[i]), golden["lengths"][i][1].get<int64_t>());
        EXPECT_EQ(all[i].media, r.contains("video") ? r["video"].get<std::string>() : r.contains("image") ? r["image"].get<std::string>() : "");
        EXPECT_EQ(all[i].is_image, r.contains("image") && !r.contains("video"));       // of both, the video is shown
        REQUIRE_EQ(all[i].turns.size(), r["conversations"].size());
        for (size_t t = 0; t < all[i].turns.size(); t++) {
            EXPECT_EQ(all[i].turns[t].human, t % 2 == 0);
            EXPECT_EQ(all[i].turns[t].text, r["conversations"][t]["value"].get<std::string>());
        }
    }
}

TEST_CASE("conversations: what files of the field hold besides") {
    // keys that nobody reads, a number for an id, no id, null for a path, a byte order mark, white space everywhere
    const auto all = parse_conversations("\xEF\xBB\xBF \n[ {\"id\": 740000, \"model\": \"\", " + turns() + "}\t,\r\n{" + turns("\\u00e9 \\\"]}\\\"", "\\n") +
                                             ", \"video\": null, \"image\": \"a/b.jpg\", \"x\": {\"y\": [1, {}]} } ]\n\n",
                                         "d.json");
    REQUIRE_EQ(all.size(), 2);
    EXPECT_EQ(all[0].id, "740000");
    EXPECT_FALSE(all[0].multimodal());
    EXPECT_EQ(all[1].id, "");
    EXPECT_EQ(all[1].media, "a/b.jpg");
    EXPECT(all[1].is_image);
    EXPECT_EQ(all[1].turns[0].text, "é \"]}\"");
    EXPECT_EQ(all[1].turns[1].text, "\n");
    EXPECT(parse_conversations("[]", "d.json").empty());
    EXPECT(parse_conversations(" [ \n ] ", "d.json").empty());
}

TEST_CASE("conversations: a wrong record is named, with what is wrong") {
    const std::string good = "{" + turns() + "}";
    EXPECT_SAYS(wrong("[" + good + ", 7]"), "d.json: record 1: is no object");
    EXPECT_SAYS(wrong("[{\"id\": [1], " + turns() + "}]"), "record 0: id is [1]; a text or a number is needed");
    EXPECT_SAYS(wrong("[{\"video\": 3, " + turns() + "}]"), "video is 3; a path below the media root is needed");
    EXPECT_SAYS(wrong("[{\"image\": \"\", " + turns() + "}]"), "image is \"\"; a path");
    EXPECT_SAYS(wrong("[{\"image\": \"a\\u0000b\", " + turns() + "}]"), "zero byte");
    EXPECT_SAYS(wrong("[{\"id\": \"x\"}]"), "has no conversations");
    EXPECT_SAYS(wrong("[{\"conversations\": []}]"), "has no conversations");
    EXPECT_SAYS(wrong("[{\"conversations\": {}}]"), "has no conversations");
    EXPECT_SAYS(wrong("[{\"conversations\": [\"q\", \"a\"]}]"), "turn 1 is no {\"from\": text, \"value\": text}");
    EXPECT_SAYS(wrong("[{\"conversations\": [{\"from\": \"human\", \"value\": null}]}]"), "turn 1 is no");
    EXPECT_SAYS(wrong("[{\"conversations\": [{\"from\": \"human\"}]}]"), "turn 1 is no");
    EXPECT_SAYS(wrong("[{\"conversations\": [{\"from\": \"gpt\", \"value\": \"a\"}]}]"), "turn 1 is from \"gpt\"; human and gpt take turns, human first");
    EXPECT_SAYS(wrong("[{\"conversations\": [{\"from\": \"human\", \"value\": \"q\"}, {\"from\": \"human\", \"value\": \"q\"}]}]"), "turn 2 is from \"human\"");
    EXPECT_SAYS(wrong("[{\"conversations\": [{\"from\": \"human\", \"value\": \"q\"}]}]"), "ends with a question");
    EXPECT_SAYS(wrong("[{\"id\": 1, \"id\": 2, " + turns() + "}]"), "record 0");
    EXPECT_SAYS(wrong("[{" + turns("\xff") + "}]"), "record 0");
}

TEST_CASE("conversations: who asks for it gets every wrong record told, and an empty one in its place") {
    std::string told;
    const auto all = parse_conversations("[1, {" + turns() + "}, {\"id\": \"x\"}]", "d.json", [&](size_t record, const std::string& why) { told += std::to_string(record) + " " + why + "\n"; });
    REQUIRE_EQ(all.size(), 3);
    EXPECT(all[0].turns.empty());
    EXPECT_EQ(all[1].turns.size(), 2);
    EXPECT(all[2].turns.empty());
    EXPECT_SAYS(told, "0 d.json: record 0: is no object\n2 d.json: record 2: has no conversations");
    EXPECT_SAYS(error_of(Exit::bad_data, [&] { parse_conversations("[1", "d.json", [](size_t, const std::string&) {}); }), "cut off");
}

TEST_CASE("conversations: what is no JSON list is refused where it ends to be one") {
    for (const char* text : {"", "  ", "{}", "\"[\"", "null", "1"}) EXPECT_SAYS(wrong(text), "d.json: holds no JSON list");
    EXPECT_SAYS(wrong("["), "d.json: ends inside record 0; the file is cut off");
    EXPECT_SAYS(wrong("[{" + turns() + "}"), "cut off");
    EXPECT_SAYS(wrong("[{" + turns() + "}, {\"conv"), "ends inside record 1");
    EXPECT_SAYS(wrong("[{" + turns() + "},]"), "record 1");
    EXPECT_SAYS(wrong("[,{" + turns() + "}]"), "record 0");
    EXPECT_SAYS(wrong("[{" + turns() + "} {" + turns() + "}]"), "record 0");
    EXPECT_SAYS(wrong("[{" + turns() + "}]]"), "something follows the list's end");
    EXPECT_SAYS(wrong("[{" + turns() + "}}]"), "record 0");
    EXPECT_SAYS(wrong("[{]"), "d.json: ");
    EXPECT_SAYS(wrong("[{" + turns() + ", 'x': 1}]"), "record 0");
    EXPECT_SAYS(wrong("[\"\\"), "cut off");
    EXPECT_SAYS(wrong("[{\"x\": NaN, " + turns() + "}]"), "record 0");
}

TEST_CASE("conversations: nesting without end is refused, not followed") {
    for (size_t depth : {100, 10000, 1000000}) {
        EXPECT_SAYS(wrong("[{\"x\": " + nested(depth) + ", " + turns() + "}]"), "record 0");
        EXPECT_SAYS(wrong(nested(depth)), "record 0");
        EXPECT_SAYS(wrong(std::string(depth, '[')), "cut off");
        std::string objects;
        for (size_t i = 0; i < depth; i++) objects += "{\"a\":";
        EXPECT_SAYS(wrong("[" + objects + "1" + std::string(depth, '}') + "]"), "record 0");
    }
}

TEST_CASE("conversations: files that cannot be read") {
    test::TempDir dir;
    EXPECT_SAYS(error_of(Exit::bad_data, [&] { read_conversations(dir / "none.json"); }), dir / "none.json");
    EXPECT_SAYS(error_of(Exit::bad_data, [&] { read_conversations(dir.path.string()); }), dir.path.string());
    test::write_file(dir / "empty.json", "");
    EXPECT_SAYS(error_of(Exit::bad_data, [&] { read_conversations(dir / "empty.json"); }), "empty.json");
    test::write_file(dir / "one.json", "[{" + turns() + "}]");
    EXPECT_EQ(read_conversations(dir / "one.json").size(), 1);
}

TEST_CASE("conversations: a large file needs little more than its own bytes") {
    test::TempDir dir;
    const std::string answer(1000, 'y');
    std::string text = "[";
    for (int i = 0; i < 8000; i++) text += (i ? ",{\"id\":\"" : "{\"id\":\"") + std::to_string(i) + "\"," + turns("x", answer) + "}";
    test::write_file(dir / "large.json", text + "]");
    const size_t bytes = text.size();
    text = {};
    std::ofstream("/proc/self/clear_refs") << 5;         // the peak so far is forgotten
    auto resident = [] {                        // in KiB
        size_t kib = 0;
        std::ifstream status("/proc/self/status");
        for (std::string word; status >> word;) if (word == "VmHWM:") status >> kib;
        return kib;
    };
    const size_t before = resident();
    const auto all = read_conversations(dir / "large.json");
    EXPECT_EQ(all.size(), 8000);
    EXPECT_EQ(all[7999].id, "7999");
    const size_t grown = (resident() - before) * 1024;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    EXPECT_LT(grown, bytes + all.size() * (sizeof(Conversation) + 2 * sizeof(Turn) + answer.size() + 200));
#endif
    (void)grown;
}

TEST_CASE("conversations: media stay below their root") {
    test::TempDir dir;
    namespace fs = std::filesystem;
    fs::create_directories(dir / "root/sub");
    fs::create_directories(dir / "root-beside");
    test::write_file(dir / "root/sub/clip.mp4", "x");
    test::write_file(dir / "root-beside/clip.mp4", "x");
    test::write_file(dir / "outside.mp4", "x");
    const std::string root = dir / "root";
    EXPECT_EQ(media_path(root, asking("sub/clip.mp4")), root + "/sub/clip.mp4");
    EXPECT_EQ(media_path(root + "/", asking("sub/clip.mp4")), root + "/sub/clip.mp4");
    for (const char* inside : {"sub/../sub/clip.mp4", "./sub/./clip.mp4", "not/there.mp4", "sub", "..double.mp4", "sub/...mp4"}) {
        CAPTURE(inside);
        EXPECT_EQ(error_of(Exit::bad_data, [&] { media_path(root, asking(inside)); }), "");
    }
    for (const std::string& outside : {dir / "outside.mp4", std::string("/etc/passwd"), std::string("../outside.mp4"), std::string("sub/../../outside.mp4"), std::string("../root-beside/clip.mp4"),
                                      std::string("not/../../outside.mp4"), std::string(".."), std::string("sub/../..")}) {
        CAPTURE(outside);
        EXPECT_SAYS(error_of(Exit::bad_data, [&] { media_path(root, asking(outside)); }), "of sample v: lies outside the media root");
    }
    // links may lead about inside, not out
    fs::create_symlink("sub/clip.mp4", dir / "root/inner.mp4");
    fs::create_symlink("../outside.mp4", dir / "root/out.mp4");
    fs::create_directory_symlink("..", dir / "root/up");
    fs::create_symlink("loop", dir / "root/loop");
    EXPECT_EQ(media_path(root, asking("inner.mp4")), root + "/inner.mp4");
    for (const char* out : {"out.mp4", "up/outside.mp4", "up/root-beside/clip.mp4"})
        EXPECT_SAYS(error_of(Exit::bad_data, [&] { media_path(root, asking(out)); }), "lies outside the media root");
    EXPECT_EQ(media_path(root, asking("up/root/sub/clip.mp4")), root + "/up/root/sub/clip.mp4");
    EXPECT_SAYS(error_of(Exit::bad_data, [&] { media_path(root, asking("loop")); }), "loop");
    // a root that is itself a link, or relative
    fs::create_directory_symlink("root", dir / "alias");
    EXPECT_EQ(media_path(dir / "alias", asking("sub/clip.mp4")), dir / "alias/sub/clip.mp4");
    EXPECT_SAYS(error_of(Exit::bad_data, [&] { media_path(dir / "alias", asking("../outside.mp4")); }), "outside");
    EXPECT_EQ(media_path("data", asking("samples/nasa_jwst.mp4")), "data/samples/nasa_jwst.mp4");
    EXPECT_EQ(media_path(".", asking("data/samples/nasa_jwst.mp4")), "./data/samples/nasa_jwst.mp4");
    EXPECT_EQ(media_path("", asking("data/samples/nasa_jwst.mp4")), "data/samples/nasa_jwst.mp4");
    EXPECT_SAYS(error_of(Exit::bad_data, [&] { media_path("", asking("../x")); }), "outside");
}
