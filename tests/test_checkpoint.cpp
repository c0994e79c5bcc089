// weights/checkpoint: folders of weights, prefixes, and loading that is strict both ways.
#include "tests/test.h"
#include <fstream>
#include "weights/checkpoint.h"

using namespace merv;
using test::TempDir;

static void write(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }
static std::string opening(const std::string& folder) {
    try { Checkpoint::open(folder); } catch (const Error& e) { EXPECT(e.code == Exit::bad_weights); return e.what(); }
    return "";
}
static Tensor value(float v) { return from_floats(std::vector<float>{v}, {1}); }

TEST_CASE("checkpoint: one file, and which file is chosen") {
    TempDir dir;
    EXPECT_SAYS(opening(dir / "none"), "none: no such folder; check the path");
    EXPECT_SAYS(opening(dir.path.string()), "holds neither model.safetensors nor model.safetensors.index.json");
    write(dir / "a.pth", "");
    EXPECT_SAYS(opening(dir.path.string()), "a.pth: the file is empty; get it again");          // the only one
    write(dir / "b.pt", "");
    EXPECT_SAYS(opening(dir.path.string()), "holds a.pth and 1 more; say which file");
    write(dir / "pytorch_model.bin", "no pickle");
    EXPECT_SAYS(opening(dir.path.string()), "pytorch_model.bin: neither torch.save's zip archive nor its older format");
    EXPECT_SAYS(opening("/dev/null"), "a model folder or a file of weights is expected");
    std::filesystem::copy_file(test::golden("torch/zip.pt"), dir / "model.bin");
    EXPECT_EQ(Checkpoint::open(dir / "model.bin").take("model.scalar").data<float>()[0], 3.25f);
    write_safetensors(dir / "open_clip_model.safetensors", {{"x", value(1)}});
    EXPECT_EQ(Checkpoint::open(dir.path.string()).take("x").data<float>()[0], 1);
    write_safetensors(dir / "model.safetensors", {{"x", value(2)}, {"h", value(3)}});
    Checkpoint c = Checkpoint::open(dir.path.string());
    EXPECT_EQ(c.bytes(), 8);
    EXPECT(c.names() == std::vector<std::string>{"h", "x"});
    EXPECT_EQ(c.take("x").data<float>()[0], 2);
    EXPECT(c.unused() == std::vector<std::string>{"h"});
    EXPECT_EQ(Checkpoint::open(dir / "open_clip_model.safetensors").take("x").data<float>()[0], 1);
    write(dir / "model.safetensors", "garbage");
    EXPECT_SAYS(opening(dir.path.string()), "model.safetensors: only 7 bytes");
}

TEST_CASE("checkpoint: shards with an index") {
    TempDir dir;
    write_safetensors(dir / "a.safetensors", {{"x", value(1)}, {"y", value(2)}});
    write_safetensors(dir / "b.safetensors", {{"z", value(3)}});
    auto with = [&](const std::string& index) {
        write(dir / "model.safetensors.index.json", index);
        return opening(dir.path.string());
    };
    auto map = [](const std::string& rest) { return R"({"weight_map":{"x":"a.safetensors","y":"a.safetensors")" + rest + "}}"; };
    EXPECT_EQ(with(map(R"(,"z":"b.safetensors")")), "");
    Checkpoint c = Checkpoint::open(dir.path.string());
    EXPECT_EQ(c.names().size(), 3);
    EXPECT_EQ(c.take("z").data<float>()[0], 3);
    EXPECT_EQ(c.bytes(), 12);

    EXPECT_EQ(with(map("")), "");                                        // a shard that nothing names is not opened
    EXPECT_SAYS(with(map(R"(,"z":"c.safetensors")")), "the shard c.safetensors is not in the folder");
    EXPECT_SAYS(with(map(R"(,"w":"b.safetensors")")), "the tensor w is not in b.safetensors");
    EXPECT_SAYS(with(R"({"weight_map":{"x":"a.safetensors"}})"), "lacks the tensor y of a.safetensors");
    for (const char* path : {"../a.safetensors", "/etc/passwd", "sub/a.safetensors", "..\\\\a", ".", "..", ".hidden", "", "a\\u0000b"})
        EXPECT_SAYS(with(std::string(R"({"weight_map":{"x":")") + path + "\"}}"), "is not a plain file name");
    EXPECT_SAYS(with(R"({"weight_map":{"x":1}})"), "the file name of x is not a string");
    EXPECT_SAYS(with(R"({"weight_map":{}})"), "\"weight_map\" must be an object");
    EXPECT_SAYS(with("[]"), "\"weight_map\" must be an object");
    EXPECT_SAYS(with(R"({"weight_map":{"x":"a.safetensors","x":"a.safetensors"}})"), "the key \"x\" is there twice");
    EXPECT_SAYS(with(std::string(100, '[')), "nested deeper than 64 levels");
    EXPECT_SAYS(with(""), "not JSON");

    write_safetensors(dir / "b.safetensors", {{"z", value(3)}, {"x", value(4)}});
    EXPECT_SAYS(with(map(R"(,"z":"b.safetensors")")), "lacks the tensor x of b.safetensors");      // x is mapped to a.safetensors only
}

TEST_CASE("checkpoint: a wrapper around the names is taken off, once, and only where it stands") {
    TempDir dir;
    auto with = [&](std::vector<std::string> names) {
        std::vector<std::pair<std::string, Tensor>> tensors;
        for (const auto& n : names) tensors.emplace_back(n, value(1));
        write_safetensors(dir / "model.safetensors", tensors);
        return Checkpoint::open(dir.path.string());
    };
    const std::vector<std::string> wrappers = {"vision_model.", "visual.trunk."};
    Checkpoint wrapped = with({"visual.trunk.norm.weight", "visual.trunk.pos", "text.pos", "logit_scale"});
    EXPECT_EQ(wrapped.strip_prefix(wrappers, "pos"), "visual.trunk.");
    EXPECT(wrapped.names() == std::vector<std::string>{"logit_scale", "norm.weight", "pos", "text.pos"});
    EXPECT_EQ(wrapped.take("pos").data<float>()[0], 1);
    Checkpoint bare = with({"pos", "vision_model.head"});
    EXPECT_EQ(bare.strip_prefix(wrappers, "pos"), "");                   // recognised by the wanted name, not by any name
    EXPECT(bare.has("vision_model.head"));
    Checkpoint other = with({"model.pos"});
    EXPECT_EQ(other.strip_prefix(wrappers, "pos"), "");
    EXPECT(other.has("model.pos"));
    Checkpoint both = with({"vision_model.pos", "vision_model.w", "w"});
    EXPECT_THROWS_WITH_AS(both.strip_prefix(wrappers, "pos"), doctest::Contains("holds both w and vision_model.w"), Error);
}

TEST_CASE("checkpoint: renamed, left out and replaced; read in pieces") {
    TempDir dir;
    write_safetensors(dir / "a.safetensors", {{"w", from_floats(std::vector<float>{1, 2, 3}, {3})}, {"old", value(4)}, {"text.x", value(5)}});
    Checkpoint c = Checkpoint::open(dir / "a.safetensors");
    c.rename([](const std::string& name) { return name == "old" ? "now" : name.starts_with("text.") ? "" : name; });
    EXPECT(c.names() == std::vector<std::string>{"now", "w"});
    EXPECT_EQ(c.stored("now"), "old");
    c.replace("now", from_floats(std::vector<float>{7, 8}, {2}));
    EXPECT(c.entry("now").shape == std::vector<int64_t>{2});
    EXPECT_EQ(c.take("now").data<float>()[1], 8);
    float part = 0;
    c.read("w", 4, 8, reinterpret_cast<std::byte*>(&part));
    EXPECT_EQ(part, 2);
    c.read("now", 0, 4, reinterpret_cast<std::byte*>(&part));
    EXPECT_EQ(part, 7);
    c.forget("w"), c.forget("now"), c.check("w");
    EXPECT_EQ(c.take("w").data<float>()[2], 3);
    EXPECT_THROWS_WITH_AS(c.rename([](const std::string&) { return "same"; }), doctest::Contains("holds both w and now; which one is meant"), Error);
}

TEST_CASE("load_strict: binds every tensor, keeps the file's dtype and books it as weights") {
    TempDir dir;
    write_safetensors(dir / "model.safetensors", {{"a", value(1)}, {"b", from_floats(std::vector<float>{2}, {1}, DType::bf16)}, {"head.w", value(3)},
                                                  {"position_ids", from_ints(std::vector<int32_t>{0, 1})}});
    Checkpoint c = Checkpoint::open(dir.path.string());
    Tensor a = Tensor::declare({1}), b = Tensor::declare({1});
    const size_t before = memory_by_tag()["weights"];
    load_strict(c, {{"a", &a}, {"b", &b}}, {"head.*"}, "the test model");
    EXPECT_EQ(a.data<float>()[0], 1);
    EXPECT_EQ(float(b.data<bf16>()[0]), 2);
    EXPECT_EQ(memory_by_tag()["weights"], before + 6);
}

TEST_CASE("load_strict: names missing and left over are listed, ten of each, and nothing is bound") {
    TempDir dir;
    std::vector<std::pair<std::string, Tensor>> tensors = {{"there", value(1)}};
    std::vector<Tensor> declared(12, Tensor::declare({1}));
    std::vector<Wanted> wanted;
    for (int i = 10; i < 22; i++) {
        tensors.emplace_back("extra" + std::to_string(i), value(1));
        wanted.push_back({"gone" + std::to_string(i), &declared[size_t(i - 10)]});
    }
    Tensor there = Tensor::declare({1});
    wanted.push_back({"there", &there});
    write_safetensors(dir / "model.safetensors", tensors);
    Checkpoint c = Checkpoint::open(dir.path.string());
    std::string message;
    try { load_strict(c, wanted, {}, "the test model"); } catch (const Error& e) { message = e.what(); EXPECT(e.code == Exit::bad_weights); }
    EXPECT_SAYS(message, "model.safetensors: does not hold the test model");
    EXPECT_SAYS(message, "missing (12): gone10, gone11, gone12, gone13, gone14, gone15, gone16, gone17, gone18, gone19, ...");
    EXPECT_SAYS(message, "unexpected (12): extra10, extra11, extra12, extra13, extra14, extra15, extra16, extra17, extra18, extra19, ...");
    EXPECT_EQ(message.find("there"), std::string::npos);
    EXPECT(there.is_declared());
    EXPECT_EQ(c.unused().size(), 13);
}

TEST_CASE("load_strict: shapes and dtypes that differ are named with both sides") {
    TempDir dir;
    Tensor flags({2}, DType::u8);
    flags.copy_from(zeros({2}, DType::u8));
    write_safetensors(dir / "model.safetensors", {{"a", zeros({2, 3})}, {"i", from_ints(std::vector<int32_t>{1})}, {"f", value(1)}, {"mask", flags}});
    Checkpoint c = Checkpoint::open(dir.path.string());
    Tensor a = Tensor::declare({3, 2}), i = Tensor::declare({1}), f = Tensor::declare({1}, DType::i32);
    std::string message;
    try { load_strict(c, {{"a", &a}, {"i", &i}, {"f", &f}}, {}, "it"); } catch (const Error& e) { message = e.what(); }
    EXPECT_SAYS(message, "shapes that differ (1): a (2, 3) instead of (3, 2)");
    EXPECT_SAYS(message, "dtypes that cannot be used (2): i I32 instead of F32, BF16 or F16, f F32 instead of i32");
    EXPECT_EQ(message.find("mask"), std::string::npos);                  // integer buffers nobody wants are ignored
}

TEST_CASE("load_strict: patterns of names that are known and not used") {
    TempDir dir;
    auto unexpected = [&](const std::string& name, std::vector<std::string> known) -> bool {
        write_safetensors(dir / "model.safetensors", {{name, value(1)}});
        Checkpoint c = Checkpoint::open(dir.path.string());
        try { load_strict(c, {}, known, "it"); } catch (const Error&) { return true; }
        return false;
    };
    EXPECT_FALSE(unexpected("head.weight", {"head.weight"}));
    EXPECT_FALSE(unexpected("head.weight", {"norm.*", "head.*"}));
    EXPECT_FALSE(unexpected("layers.3.rotary_emb.inv_freq", {"*.inv_freq"}));
    EXPECT_FALSE(unexpected("layers.3.inv_freq", {"layers.*.inv_freq"}));
    EXPECT(unexpected("head", {"head.*"}));
    EXPECT(unexpected("overhead.weight", {"head.*"}));
    EXPECT(unexpected("inv_freq.weight", {"*.inv_freq"}));
    EXPECT(unexpected("layers.inv_freq", {"layers.*.inv_freq"}));       // the two ends may not overlap
}
