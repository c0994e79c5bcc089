// merv-weights: what it finds in files, the models it makes up, and the writers beneath it.
#include "tests/weights_program.h"
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include "core/rng.h"
#include "models/random.h"
#include "weights/checkpoint.h"

using namespace merv;
using namespace merv::test;
namespace fs = std::filesystem;

namespace {

const std::string kTiny = golden("merv-tiny"), kTokenizer = golden("merv-tiny/llm/tokenizer.model");

// One random model of each type, made once by the program.
struct Made {
    TempDir dir;
    std::string f32 = dir / "f32", bf16 = dir / "bf16";
    Made() {
        good({"random", "--config", "tiny", "--seed", "5", "--out", f32, "--tokenizer", kTokenizer});
        good({"random", "--config", "tiny", "--seed", "5", "--out", bf16, "--dtype", "bf16", "--tokenizer", kTokenizer});
    }
};
const Made& made() {
    static const Made m;
    return m;
}

}

TEST_CASE("merv-base's parameters are the reference's to the digit, counted without memory") {
    const auto before = memory_by_tag();
    const Preset p = preset("merv-base", DType::bf16);
    Merv m = build(p.parts);
    const std::vector<std::pair<std::string, int64_t>> want = {
        {"languagebind", 404'187'136}, {"dinov2", 303'230'976}, {"vivit", 88'646'400}, {"siglip", 92'884'224}, {"projectors.0", 4'198'400},
        {"projectors.1", 4'198'400}, {"projectors.2", 3'149'824}, {"projectors.3", 3'149'824}, {"feature_fusion", 44'055'552}, {"llm", 6'738'939'904}};
    std::vector<std::pair<std::string, int64_t>> got;
    int64_t all = 0;
    for (const ModelPart& part : model_parts(m)) got.emplace_back(part.name, part.parameters()), all += part.parameters();
    EXPECT(got == want);
    EXPECT_EQ(all, 7'686'640'640);
    EXPECT_EQ(nn::count_parameters(m.llm), 6'738'939'904);
    EXPECT(memory_by_tag() == before);
    EXPECT_EQ(m.visual_tokens(), 1024);

    const Run r = good({"random", "--config", "merv-base", "--dtype", "bf16", "--dry-run"});
    EXPECT_SAYS(r.out, "7,686,640,640");
    EXPECT_SAYS(r.out, "15,373,281,280");
    const Json j = good({"random", "--config", "merv-base", "--dry-run", "--json"}).json();
    EXPECT_EQ(j["parameters"].get<int64_t>(), 7'686'640'640);
    EXPECT_EQ(j["bytes"].get<int64_t>(), 4 * 7'686'640'640);
    EXPECT_EQ(j["parts"].size(), 10);
    for (size_t i = 0; i < want.size(); i++) EXPECT_EQ(j["parts"][i]["parameters"].get<int64_t>(), want[i].second);
}

TEST_CASE("the names that are written are those of the real checkpoints") {
    Merv m = build(preset("merv-base", DType::f32).parts);
    std::map<std::string, std::string> shapes;
    for (const ModelPart& part : model_parts(m)) for (const auto& [name, t] : part.tensors) shapes[part.folder + ":" + name] = concat(t.shape());
    const std::string lb = "encoders/languagebind-video-noclass:vision_model.", dino = "encoders/dinov2-video-all-tokens:";
    const std::string vivit = "encoders/vivit-google-b-all-no-cls-16frames:vivit.", siglip = "encoders/siglip-vit-b16-224px-all-no-cls:";
    const std::vector<std::pair<std::string, std::string>> want = {
        {lb + "embeddings.position_embedding.weight", "(257, 1024)"}, {lb + "pre_layrnorm.bias", "(1024)"}, {lb + "encoder.layers.23.temporal_embedding", "(1, 8, 1024)"},
        {lb + "encoder.layers.23.temporal_attn.out_proj.weight", "(1024, 1024)"}, {lb + "encoder.layers.0.self_attn.q_proj.bias", "(1024)"}, {lb + "post_layernorm.weight", "(1024)"},
        {dino + "pos_embed", "(1, 256, 1024)"}, {dino + "reg_token", "(1, 4, 1024)"}, {dino + "blocks.23.attn.qkv.weight", "(3072, 1024)"}, {dino + "blocks.0.ls1.gamma", "(1024)"},
        {dino + "patch_embed.proj.weight", "(1024, 3, 14, 14)"}, {vivit + "embeddings.position_embeddings", "(1, 3137, 768)"},
        {vivit + "embeddings.patch_embeddings.projection.weight", "(768, 3, 2, 16, 16)"}, {vivit + "encoder.layer.11.attention.attention.query.weight", "(768, 768)"},
        {siglip + "attn_pool.latent", "(1, 1, 768)"}, {siglip + "attn_pool.kv.weight", "(1536, 768)"}, {siglip + "pos_embed", "(1, 196, 768)"},
        {":projectors.3.projector.projector.weight", "(4096, 768)"}, {":feature_fusion.Q", "(1, 3072)"}, {":feature_fusion.attention.k_proj_weight", "(3072, 4096)"},
        {"llm:model.embed_tokens.weight", "(32064, 4096)"}, {"llm:model.layers.31.mlp.down_proj.weight", "(4096, 11008)"}, {"llm:lm_head.weight", "(32064, 4096)"}};
    for (const auto& [name, shape] : want) {
        CAPTURE(name);
        EXPECT_EQ(shapes[name], shape);
    }
}

TEST_CASE("random values: any piece alone is the same, the scale is right, bf16 is the rounded f32") {
    const Spread s = initial_spread("model.layers.0.mlp.down_proj.weight", {64, 300});
    EXPECT_LT(std::abs(s.radius - std::sqrt(3.0 / 300)), 1e-7);
    const int64_t n = 20003;
    std::vector<float> all(n), piece(5000);
    fill_random(7, "llm", "x", s, DType::f32, 0, n, all.data());
    fill_random(7, "llm", "x", s, DType::f32, 12000, 5000, piece.data());
    EXPECT_EQ(std::memcmp(piece.data(), all.data() + 12000, 5000 * sizeof(float)), 0);
    double sum = 0, squares = 0;
    for (float v : all) sum += v, squares += double(v) * v;
    EXPECT_LE(std::abs(*std::max_element(all.begin(), all.end(), [](float a, float b) { return std::abs(a) < std::abs(b); })), s.radius);
    EXPECT_LT(std::abs(sum / n), 4 / std::sqrt(300.0 * n));             // four standard errors
    EXPECT_LT(std::abs(squares / n * 300 - 1), 4 * std::sqrt(0.8 / n)); // a uniform's fourth moment is 1.8 variance^2
    const uint32_t bits = Rng(7, "weights/llm/x").bits(4999)[3];
    EXPECT_EQ(all[19999], s.radius * 0x1p-31f * float(int32_t(bits)));
    std::vector<bf16> halves(n);
    fill_random(7, "llm", "x", s, DType::bf16, 0, n, halves.data());
    size_t different = 0;
    for (size_t i = 0; i < all.size(); i++) different += halves[i].bits != bf16(all[i]).bits;
    EXPECT_EQ(different, 0);
    fill_random(7, "llm", "y", s, DType::f32, 0, 5000, piece.data());
    EXPECT_NE(piece[0], all[0]);

    auto is = [](const char* name, const Shape& shape, float centre, double radius) {
        CAPTURE(name);
        const Spread got = initial_spread(name, shape);
        EXPECT_EQ(got.centre, centre);
        EXPECT_LT(std::abs(got.radius - radius), 1e-6);
    };
    const double small = 0.02 * std::sqrt(3.0);
    is("vision_model.pre_layrnorm.weight", {64}, 1, 0);
    is("model.layers.0.input_layernorm.weight", {64}, 1, 0);
    is("blocks.0.norm1.bias", {64}, 0, small);
    is("blocks.0.ls2.gamma", {64}, 0.1f, 0);
    is("pos_embed", {1, 256, 64}, 0, small);
    is("vivit.embeddings.cls_token", {1, 1, 64}, 0, small);
    is("patch_embed.proj.weight", {64, 3, 14, 14}, 0, std::sqrt(3.0 / 588));
    is("model.embed_tokens.weight", {576, 64}, 0, std::sqrt(3.0 / 64));
    is("feature_fusion.Q", {1, 3072}, 0, std::sqrt(6.0 / 3073));
    is("feature_fusion.attention.k_proj_weight", {3072, 4096}, 0, std::sqrt(6.0 / 7168));
    is("feature_fusion.attention.out_proj.weight", {3072, 3072}, 0, 1 / std::sqrt(3072.0));
    is("feature_fusion.attention.in_proj_bias", {9216}, 0, 0);
}

TEST_CASE("safetensors: written piece by piece equals written from memory, and a failure leaves nothing") {
    TempDir dir;
    const int64_t n = int64_t(kWritePiece) / 4 + 1000;          // two pieces
    const Tensor big({n}), small = from_floats(std::vector<float>{1, 2, 3}, {3}, DType::bf16), none(Shape{0, 4});
    for (int64_t i = 0; i < n; i++) big.data<float>()[i] = float(i);
    const std::vector<std::pair<std::string, Tensor>> tensors = {{"small", small}, {"big", big}, {"none", none}};
    std::vector<TensorSpec> specs;
    for (const auto& [name, t] : tensors) specs.push_back({name, t.dtype(), t.shape()});
    write_safetensors(dir / "whole", tensors, {{"format", "pt"}});
    std::vector<std::byte> piece(kWritePiece);
    size_t calls = 0;
    write_safetensors(dir / "pieces", specs, [&](size_t i, size_t begin, size_t end) {
        calls++;
        REQUIRE(end - begin <= kWritePiece);
        EXPECT_EQ(begin % kWritePiece, 0);
        std::memcpy(piece.data(), tensors[i].second.raw() + begin, end - begin);
        return piece.data();
    }, {{"format", "pt"}});
    EXPECT_EQ(calls, 3);
    EXPECT(read_file(dir / "whole") == read_file(dir / "pieces"));
    EXPECT_THROWS_AS(write_safetensors(dir / "failed", specs, [](size_t, size_t, size_t) -> const std::byte* { throw std::runtime_error("no"); }), std::runtime_error);
    EXPECT_EQ(std::distance(fs::directory_iterator(dir.path), {}), 2);
    EXPECT_THROWS_WITH_AS(write_safetensors(dir / "no/folder", specs, [&](size_t, size_t, size_t) { return piece.data(); }), doctest::Contains("cannot be written"), Error);
}

TEST_CASE("checkpoint: written whole or in shards with an index, and read back") {
    TempDir dir;
    std::vector<std::pair<std::string, Tensor>> tensors;
    for (int i = 0; i < 5; i++) tensors.emplace_back(concat("t", i), from_floats(std::vector<float>(size_t(10 + i), float(i)), {10 + i}));
    std::vector<TensorSpec> specs;
    for (const auto& [name, t] : tensors) specs.push_back({name, t.dtype(), t.shape()});
    auto values = [&](size_t i, size_t begin, size_t) { return tensors[i].second.raw() + begin; };
    auto names = [&] {
        std::vector<std::string> all;
        for (const auto& entry : fs::directory_iterator(dir.path)) all.push_back(entry.path().filename());
        return std::sort(all.begin(), all.end()), all;
    };
    const std::vector<std::string> shards = {"model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors", "model.safetensors.index.json"};
    write_checkpoint(dir.path, specs, values, {{"format", "pt"}}, 100);         // 40 + 44, 48 + 52, 56 bytes
    EXPECT(names() == shards);
    const Json index = read_json(dir / "model.safetensors.index.json");
    EXPECT_EQ(index["metadata"]["total_size"].get<int>(), 240);
    EXPECT_EQ(index["weight_map"]["t3"].get<std::string>(), shards[1]);
    for (const std::string& path : {dir.path.string(), dir / "model.safetensors.index.json"}) {
        Checkpoint c = Checkpoint::open(path);
        EXPECT_EQ(c.bytes(), 240);
        for (const auto& [name, t] : tensors) EXPECT(to_floats(c.take(name)) == to_floats(t));
    }
    const Json j = good({"inspect", dir / "model.safetensors.index.json", "--json"}).json();
    EXPECT_EQ(j["file"]["bytes"].get<int>(), 240);
    EXPECT_EQ(j["file"]["tensors"].size(), 5);
    EXPECT_SAYS(good({"inspect", dir.path}).out, "5 tensors  60 elements  240 bytes (240 B)  F32\n");
    EXPECT_SAYS(good({"inspect", dir.path, "-v"}).out, "\nt4  F32  (14)  56\n");

    write_checkpoint(dir.path, specs, values, {}, 40);          // a tensor above the limit has a shard to itself
    EXPECT_EQ(names().size(), 6);
    write_file(dir / "model-of-mine.safetensors", "");          // no shard's name: it stays
    write_checkpoint(dir.path, specs, values);
    EXPECT(names() == std::vector<std::string>{"model-of-mine.safetensors", "model.safetensors"});
    EXPECT_EQ(Checkpoint::open(dir.path).bytes(), 240);
}

TEST_CASE("random: the same seed gives the same bytes with any number of threads, another seed others") {
    TempDir dir;
    const Run r = good({"random", "--config", "tiny", "--seed", "5", "--out", dir / "again", "--tokenizer", kTokenizer}, "MERV_ARG_THREADS=2");
    EXPECT_SAYS(r.err, "write    siglip: ");
    EXPECT_FALSE(contains(r.err, "tokenizer"));
    const auto first = files_of(made().f32), again = files_of(dir / "again");
    EXPECT_EQ(first.size(), 6 + 7 + 1);                         // 6 weights, 6 configs and the generation's, the tokenizer
    EXPECT(first == again);
    EXPECT(first.at("llm/tokenizer.model") == read_file(kTokenizer));
    good({"random", "--config", "tiny", "--seed", "6", "--out", dir / "other"});
    const auto other = files_of(dir / "other");
    for (const auto& [name, bytes] : other) {
        CAPTURE(name);
        if (!name.ends_with(".safetensors")) EXPECT(bytes == first.at(name));
        else EXPECT(bytes.substr(bytes.size() / 2) != first.at(name).substr(bytes.size() / 2));
    }
    const auto file = SafeTensors::open(made().bf16 + "/model.safetensors");
    EXPECT_EQ(file->metadata().at("merv_cpp"), "0.1.0");
    EXPECT_EQ(file->metadata().at("source"), "merv-weights random --config tiny --dtype bf16 --seed 5");
    const Tensor a = file->tensor("projectors.1.projector.projector.weight"), b = SafeTensors::open(made().f32 + "/model.safetensors")->tensor("projectors.1.projector.projector.weight");
    EXPECT_EQ(a.dtype(), DType::bf16);
    EXPECT(to_floats(a) == to_floats(from_floats(to_floats(b), b.shape(), DType::bf16)));
}

TEST_CASE("random: the folder loads, and answers through merv-ask") {
    for (const std::string& folder : {made().f32, made().bf16}) {
        const LoadedModel loaded = load_model(folder);
        Merv m = build(preset("tiny", DType::f32).parts);
        int64_t all = 0, unused = 0;
        for (const ModelPart& part : model_parts(m)) all += part.parameters();
        for (Encoder& e : m.encoders)
            if (auto* vit = std::get_if<Vit>(&e.model)) nn::for_each_parameter(*vit, [&](const std::string& name, const Tensor& t) { unused += vit->uses(name) ? 0 : t.numel(); });
        nn::for_each_parameter(m.fusion, [&](const std::string& name, const Tensor& t) { unused += m.fusion.uses(name) ? 0 : t.numel(); });
        EXPECT_EQ(loaded.parameters, all - unused);
        const Run text = run_program(built("merv-ask"), {"-m", folder, "--prompt", "Who are you?", "-n", "8", "--json"});
        CAPTURE(text.err);
        REQUIRE_EQ(text.code, 0);
        EXPECT_GT(text.json()["answers"][0]["tokens"].size(), 0);
    }
    TempDir dir;
    const Run r = run_program(built("merv-ask"), {"-m", made().bf16, "--video", "data/samples/nasa_jwst.mp4", "--prompt", "What is this?", "-n", "8", "--json", "--dump", dir / "a.safetensors"});
    CAPTURE(r.err);
    REQUIRE_EQ(r.code, 0);
    EXPECT_EQ(r.json()["fusion_weights"].size(), 4);
    const auto dump = SafeTensors::open(dir / "a.safetensors");
    for (const auto& [name, entry] : dump->entries()) {         // activations neither vanish nor explode
        double squares = 0;
        const std::vector<float> v = to_floats(dump->tensor(name));
        for (float x : v) squares += double(x) * x;
        CAPTURE(name);
        EXPECT_GT(std::sqrt(squares / double(v.size())), 1e-3);
        EXPECT_LT(std::sqrt(squares / double(v.size())), 100);
    }
}

TEST_CASE("random: without a tokenizer it says so, and merv-ask too") {
    TempDir dir;
    const Run r = good({"random", "--config", "tiny", "--dtype", "bf16", "--out", dir / "m", "--json"});
    EXPECT_EQ(r.json()["parameters"].get<int64_t>(), 1'144'360);
    EXPECT_SAYS(r.err, "note: " + (dir / "m/llm") + " has no tokenizer.model; ");
    const Run ask = run_program(built("merv-ask"), {"-m", dir / "m", "--prompt", "?"});
    EXPECT_EQ(ask.code, 4);
    EXPECT_SAYS(ask.err, "no tokenizer.model");

    expect_error({"random", "--config", "tiny", "--out", dir / "m"}, 2, "is not empty; give a new folder, or --force");
    fs::copy_file(kTokenizer, dir / "m/llm/tokenizer.model");
    write_file(dir / "m/notes.txt", "mine");
    write_file(dir / "m/llm/model-00001-of-00002.safetensors", "of an earlier model");
    EXPECT_FALSE(contains(good({"random", "--config", "tiny", "--seed", "5", "--out", dir / "m", "--force"}).err, "note: "));
    auto files = files_of(dir / "m");
    EXPECT_EQ(files["notes.txt"], "mine");
    files.erase("notes.txt");
    EXPECT(files == files_of(made().f32));
    const std::string elsewhere = dir / "elsewhere";            // a linked part is somebody's own: it is not written into
    fs::rename(dir / "m/llm", elsewhere);
    fs::create_symlink(elsewhere, dir / "m/llm");
    const auto before = files_of(elsewhere);
    expect_error({"random", "--config", "tiny", "--out", dir / "m", "--force"}, 2, "/m/llm is a link");
    EXPECT(files_of(elsewhere) == before);
    EXPECT(fs::exists(dir / "m/config.json"));
}

TEST_CASE("random: mistakes") {
    TempDir dir;
    expect_error({"random", "--config", "huge", "--out", dir / "m"}, 2, "--config 'huge' is unknown; the choices are merv-base, tiny");
    expect_error({"random", "--out", dir / "m"}, 2, "--config NAME is missing: merv-base or tiny");
    expect_error({"random", "--config", "tiny"}, 2, "--out DIR is missing");
    expect_error({"random", "--config", "tiny", "--out", dir / "m", "--dtype", "f16"}, 2, "--dtype takes f32 or bf16, not 'f16'");
    expect_error({"random", "--config", "tiny", dir / "m"}, 2, "unexpected argument");
    expect_error({"random", "--config", "tiny", "--out", dir / "m", "--tokenizer", dir / "none"}, 4, "none");
    write_file(dir / "file", "");
    expect_error({"random", "--config", "tiny", "--out", dir / "file"}, 2, "is not a folder");
    expect_error({"random", "--config", "merv-base", "--out", "/proc/merv/model"}, 1, "30.8 GB are needed, the disk has 0 B left");
    good({"random", "--config", "tiny", "--out", dir / "m", "--dry-run"});
    EXPECT_FALSE(fs::exists(dir / "m"));
    for (const Words& words : {Words{}, Words{"nosuch"}, Words{"--seed", "1"}, Words{"inspect"}, Words{"inspect", ""}, Words{"inspect", "a", "b"}, Words{"inspect", kTiny, "--seed", "1"}}) expect_error(words, 2, "");
    EXPECT_EQ(weights({"--help"}).code, 0);
    EXPECT_SAYS(weights({"--version"}).out, "merv-weights (merv.cpp) ");
    EXPECT_SAYS(weights({"random", "--help"}).out, "--tokenizer FILE");
}

TEST_CASE("inspect: a MERV folder by parts, the model's parameters beside what lies in the files") {
    const Run r = good({"inspect", kTiny + "/"});
    EXPECT_EQ(r.err, "");
    EXPECT_SAYS(r.out, "merv-tiny (no-align+3davg+linear)\n");
    for (const char* part : {"\nlanguagebind ", "\ndinov2 ", "\nvivit ", "\nsiglip ", "\nprojectors.3 ", "\nfeature_fusion ", "\nllm "}) EXPECT_SAYS(r.out, part);
    EXPECT_SAYS(r.out, "\nin all           1,180,222 ");
    EXPECT_SAYS(r.out, "F32 90, I64 1\n");
    EXPECT_FALSE(contains(r.out, "blocks.0.attn.qkv.weight"));
    const Json j = good({"inspect", kTiny, "--json"}).json();
    EXPECT_EQ(j["model_id"].get<std::string>(), "merv-tiny");
    EXPECT_EQ(j["parameters"].get<int>(), 1'180'222);           // grid 16x16 for DINOv2; no head, no buffer
    EXPECT_EQ(j["file"]["elements"].get<int>(), 1'187'077);
    EXPECT_EQ(j["file"]["bytes"].get<int>(), 3'623'928);
    int64_t sum = 0;
    for (const Json& part : j["parts"]) {
        sum += part["parameters"].get<int64_t>();
        EXPECT_FALSE(part["file"].contains("tensors"));
    }
    EXPECT_EQ(sum, 1'180'222);
    EXPECT_EQ(j["parts"][1]["parameters"].get<int>() + 68 * 72, j["parts"][1]["file"]["elements"].get<int>());   // 18x18 in the file
    EXPECT_EQ(j["parts"][3]["file"]["dtypes"]["BF16"].get<int>(), 54);

    const Run all = good({"inspect", kTiny, "-v"});
    EXPECT_SAYS(all.out, "blocks.0.attn.qkv.weight");
    EXPECT_SAYS(all.out, "\nin all ");
    EXPECT_EQ(good({"inspect", kTiny, "-v", "--json"}).json()["parts"][9]["file"]["tensors"].size(), 21);
    EXPECT_EQ(good({"inspect", made().f32, "--json"}).json()["parameters"].get<int64_t>(), 1'144'360);
}

TEST_CASE("inspect: one file; a folder of Hugging Face's") {
    const Run r = good({"inspect", kTiny + "/model.safetensors"});
    EXPECT_SAYS(r.out, "metadata  source: tests/golden/make.py\n");
    EXPECT_SAYS(r.out, "\nprojectors.0.projector.projector.weight   F32  (96, 64)  24,576\n");
    EXPECT(r.out.ends_with("\n15 tensors  41,496 elements  165,984 bytes (166.0 kB)  F32\n"));
    const Json j = good({"inspect", kTiny + "/model.safetensors", "--json"}).json();
    EXPECT_EQ(j["metadata"]["format"].get<std::string>(), "pt");
    EXPECT_EQ(j["file"]["count"].get<int>(), 15);
    EXPECT(j["file"]["tensors"][0] == Json({{"name", "feature_fusion.Q"}, {"dtype", "F32"}, {"shape", {1, 56}}, {"bytes", 224}}));
    EXPECT_SAYS(good({"inspect", golden("stories260k")}).out, " elements ");

    TempDir dir;
    write_safetensors(dir / "a.safetensors", {{"\x1b[31m\nred", from_floats(std::vector<float>{1}, {})}});
    EXPECT_SAYS(good({"inspect", dir / "a.safetensors"}).out, "\xEF\xBF\xBD[31m red  F32  ()  4\n");
    EXPECT_EQ(good({"inspect", dir / "a.safetensors", "--json"}).json()["file"]["tensors"][0]["name"].get<std::string>(), "\x1b[31m\nred");
}

TEST_CASE("inspect: mistakes are exit 4") {
    TempDir dir;
    write_file(dir / "x.safetensors", "these are no tensors");
    write_file(dir / "x.bin", "");
    expect_error({"inspect", dir / "none"}, 4, "no such file or folder");
    expect_error({"inspect", dir / "x.safetensors"}, 4, "damaged or not a safetensors file");
    expect_error({"inspect", dir / "x.bin"}, 4, "x.bin: the file is empty; get it again");
    expect_error({"inspect", dir.path}, 4, "holds neither model.safetensors nor");
    fs::copy(kTiny, dir / "m", fs::copy_options::recursive);
    fs::remove(dir / "m/encoders/dinov2-video-all-tokens/model.safetensors");
    expect_error({"inspect", dir / "m"}, 4, "dinov2-video-all-tokens: holds neither model.safetensors nor");
    write_file(dir / "m/config.json", "{}");
    expect_error({"inspect", dir / "m"}, 4, "config.json: model_id is missing");
}
