// merv-weights import, export, verify: published parts become a MERV folder, and the folder those parts, bit for bit.
#include "tests/weights_program.h"
#include <algorithm>
#include <map>
#include <sys/resource.h>
#include "models/import.h"
#include "models/random.h"
#include "weights/hash.h"
#include "weights/hub.h"

using namespace merv;
using namespace merv::test;
namespace fs = std::filesystem;

namespace {

const std::string kTiny = golden("merv-tiny"), kParts = golden("published");
const std::map<std::string, std::string> kBackbones = {{"languagebind", "languagebind-video-noclass"}, {"dinov2", "dinov2-video-all-tokens"},
                                                       {"vivit", "vivit-google-b-all-no-cls-16frames"}, {"siglip", "siglip-vit-b16-224px-all-no-cls"}};

// import's words for parts below `from`; `changed` replaces some, "" leaves one out.
Words import(const std::string& from, const std::string& out, const std::map<std::string, std::string>& changed = {}) {
    Words words = {"import", "--out", out};
    for (const char* part : {"merv", "llm", "languagebind", "dinov2", "vivit", "siglip"}) {
        const auto other = changed.find(part);
        const std::string path = other == changed.end() ? from + "/" + part : other->second;
        if (!path.empty()) words.push_back(concat("--", part)), words.push_back(path);
    }
    return words;
}
Words with(Words words, const Words& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
}
std::vector<std::string> names_in(const std::string& folder) {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
    return names;
}
std::string sha256(std::string_view text) {
    Sha256 hash;
    hash.add(std::as_bytes(std::span(text)));
    return hash.hex();
}

// One bit of the largest entry of a zip archive.
std::string damaged(std::string archive) {
    size_t begin = 0, bytes = 0;
    for (size_t at = 0, next; at != archive.npos; at = next) {
        next = archive.find("PK\x03\x04", at + 1);
        if (next != archive.npos && next - at > bytes) begin = at, bytes = next - at;
    }
    archive[begin + bytes / 2] ^= 1;
    return archive;
}

// Every tensor that the libraries made is in the checkpoint, in its shape and to the bit; floats as f32.
void expect_published(const std::string& folder, const Json& want) {
    const Checkpoint c = Checkpoint::open(folder);
    size_t found = 0;
    for (const auto& [name, what] : want.items()) {
        CAPTURE(name);
        REQUIRE(c.has(name));
        const TensorEntry& e = c.entry(name);
        EXPECT(Json(e.shape) == what[0]);
        std::string raw(e.end - e.begin, '\0'), text(size_t(Shape(e.shape).numel()) * 4, '\0');
        c.read(name, 0, raw.size(), reinterpret_cast<std::byte*>(raw.data()));
        convert_floats(e.dtype, reinterpret_cast<const std::byte*>(raw.data()), Shape(e.shape).numel(), DType::f32, reinterpret_cast<std::byte*>(text.data()));
        EXPECT_EQ(sha256(text).substr(0, 16), what[1].get<std::string>());
        found++;
    }
    for (const std::string& name : c.names()) found -= want.contains(name);
    EXPECT_EQ(found, 0);
}

}

TEST_CASE("import: parts as torch, timm and transformers write them; every tensor as those libraries convert it") {
    TempDir dir;
    const Run r = good(import(kParts, dir / "m"));
    EXPECT_SAYS(r.err, "note: " + kParts + "/llm has no tokenizer.model");
    EXPECT_SAYS(r.out, "dinov2_vitl14_reg4_pretrain.pth");
    EXPECT(names_in(dir.path) == std::vector<std::string>{"m"});
    const Json want = read_json(kParts + "/expected.json");
    for (const auto& [encoder, id] : kBackbones) {
        CAPTURE(encoder);
        expect_published(dir / ("m/encoders/" + id), want[encoder]);
    }
    expect_published(dir / "m", want["merv"]);
    expect_published(dir / "m/llm", want["llm"]);               // MERV's own, not the hub's
    const Checkpoint dino = Checkpoint::open(dir / "m/encoders/dinov2-video-all-tokens"), bind = Checkpoint::open(dir / "m/encoders/languagebind-video-noclass");
    const Checkpoint siglip = Checkpoint::open(dir / "m/encoders/siglip-vit-b16-224px-all-no-cls");
    EXPECT_FALSE(dino.has("mask_token"));
    EXPECT_FALSE(bind.has("text_projection.weight"));
    EXPECT_EQ(bind.entry("vision_model.embeddings.position_ids").dtype, "I64");
    EXPECT_EQ(siglip.names().size(), want["siglip"].size());    // no text tower, no logit_scale
    EXPECT_EQ(read_json(dir / "m/llm/config.json")["vocab_size"].get<int>(), 64);
    const Json settings = read_json(dir / "m/config.json");
    EXPECT_EQ(settings["model_id"].get<std::string>(), "published-tiny");
    EXPECT_FALSE(settings.contains("vidlm_id"));
    EXPECT_FALSE(settings.contains("type"));
    EXPECT(fs::exists(dir / "m/encoders/vivit-google-b-all-no-cls-16frames/preprocessor_config.json"));
    EXPECT_SAYS(good({"verify", dir / "m"}).err, "verified 14 files and ");

    good(with(import(kParts, dir / "half"), {"--dtype", "bf16"}));
    const Checkpoint full = Checkpoint::open(dir / "m/llm"), half = Checkpoint::open(dir / "half/llm");
    for (const std::string& name : full.names()) {
        Checkpoint a = full, b = half;
        const Tensor x = a.take(name), y = b.take(name);
        EXPECT_EQ(y.dtype(), DType::bf16);
        EXPECT(to_floats(y) == to_floats(from_floats(to_floats(x), x.shape(), DType::bf16)));
    }
    EXPECT_EQ(read_json(dir / "half/llm/config.json")["torch_dtype"].get<std::string>(), "bfloat16");
    EXPECT_EQ(Checkpoint::open(dir / "half/encoders/languagebind-video-noclass").entry("vision_model.embeddings.position_ids").dtype, "I64");

    // A checkpoint of projectors alone, without a language model, takes the hub's: f16 in shards, kept as they are.
    Checkpoint own = Checkpoint::open(dir / "m");
    fs::create_directories(dir / "own");
    std::vector<std::pair<std::string, Tensor>> tensors;
    for (const std::string& name : own.names()) tensors.emplace_back(name, own.take(name));
    write_safetensors(dir / "own/model.safetensors", tensors);
    fs::copy_file(dir / "m/config.json", dir / "own/config.json");
    good(import(kParts, dir / "alone", {{"merv", dir / "own"}}));
    expect_published(dir / "alone/llm", want["llm_alone"]);
    EXPECT_EQ(Checkpoint::open(dir / "alone/llm").entry("model.norm.weight").dtype, "F16");
    EXPECT_EQ(read_json(dir / "alone/llm/config.json")["vocab_size"].get<int>(), 40);
    EXPECT(read_file(dir / "alone/llm/config.json") == read_file(kParts + "/llm/config.json"));
}

TEST_CASE("the names and shapes of the full-size parts are those that timm, transformers and the reference give them") {
    Merv m = build(preset("merv-base", DType::f32).parts);
    const Json want = read_json(kParts + "/expected.json")["full_size"];
    for (const ModelPart& part : model_parts(m)) {
        if (!want.contains(part.name)) continue;
        CAPTURE(part.name);
        Words lines;
        for (const auto& [name, t] : part.tensors) {
            std::string line = name + " [";
            for (int i = 0; i < t.shape().rank(); i++) line += concat(i ? ", " : "", t.shape()[i]);
            lines.push_back(line + "]\n");
        }
        std::sort(lines.begin(), lines.end());
        std::string text;
        for (const std::string& line : lines) text += line;
        EXPECT_EQ(int64_t(lines.size()), want[part.name][0].get<int64_t>());
        EXPECT_EQ(sha256(text), want[part.name][1].get<std::string>());
    }
}

TEST_CASE("import(export(x)) is x, bit for bit, and answers the same") {
    TempDir dir;
    const Run r = good({"export", "--parts", "-m", kTiny, "--out", dir / "parts"});
    EXPECT_SAYS(r.err, "write    siglip: ");
    Words folders = names_in(dir / "parts");
    std::sort(folders.begin(), folders.end());
    EXPECT(folders == Words{"dinov2", "languagebind", "llm", "merv", "siglip", "vivit"});
    EXPECT(Checkpoint::open(dir / "parts/vivit").has("vivit.embeddings.cls_token"));
    good(import(dir / "parts", dir / "m"));
    EXPECT_EQ(good({"verify", dir / "m", kTiny}).out, "equal: 270 tensors, 3,623,928 bytes\n");
    for (const auto& [name, text] : files_of(kTiny)) {
        CAPTURE(name);
        if (!name.ends_with(".safetensors")) EXPECT(read_file(dir / ("m/" + name)) == text);
    }
    // and from there on the files are the same too
    good({"export", "--parts", "-m", dir / "m", "--out", dir / "again"});
    good(import(dir / "again", dir / "m2"));
    EXPECT(files_of(dir / "m2") == files_of(dir / "m"));
    auto answer = [](const std::string& folder) { return run_program(built("merv-ask"), {"-m", folder, "--prompt", "Who are you?", "-n", "8"}); };
    const Run a = answer(kTiny), b = answer(dir / "m");
    EXPECT_EQ(b.code, 0);
    EXPECT_EQ(a.out, b.out);

    for (const char* type : {"f32", "bf16"}) {          // and of a random model
        CAPTURE(type);
        const std::string x = dir / concat("x-", type), parts = dir / concat("p-", type), back = dir / concat("b-", type);
        good({"random", "--config", "tiny", "--dtype", type, "--out", x, "--tokenizer", kTiny + "/llm/tokenizer.model"});
        good({"export", "--parts", "-m", x, "--out", parts});
        good(import(parts, back));
        EXPECT_SAYS(good({"verify", x, back}).out, "equal: ");
    }
}

TEST_CASE("import: where the parts may lie") {
    TempDir dir;
    const std::string merv = kParts + "/merv/checkpoints/latest-checkpoint.pt";
    good(import(kParts, dir / "m"));
    auto same = [&](const std::map<std::string, std::string>& changed, const std::string& environment = "") {
        fs::remove_all(dir / "other");
        good(import(kParts, dir / "other", changed), environment);
        EXPECT(files_of(dir / "other") == files_of(dir / "m"));
    };
    same({{"merv", merv}, {"dinov2", kParts + "/dinov2/dinov2_vitl14_reg4_pretrain.pth"}, {"vivit", kParts + "/vivit/pytorch_model.bin"}});
    fs::create_directories(dir / "empty");
    good(import(kParts, dir / "empty"));
    EXPECT(files_of(dir / "empty") == files_of(dir / "m"));

    // Hugging Face's cache: snapshots of links to blobs
    const std::string repository = dir / "hub/models--LanguageBind--LanguageBind_Video_merge", commit = "0123456789abcdef0123456789abcdef01234567";
    fs::create_directories(repository + "/refs"), fs::create_directories(repository + "/blobs"), fs::create_directories(repository + "/snapshots/" + commit);
    const std::string bin = read_file(kParts + "/languagebind/pytorch_model.bin"), blob = sha256(bin);
    write_file(repository + "/refs/main", commit);
    write_file(repository + "/blobs/" + blob, bin);
    fs::create_symlink("../../blobs/" + blob, repository + "/snapshots/" + commit + "/pytorch_model.bin");
    fs::copy_file(kParts + "/languagebind/config.json", repository + "/snapshots/" + commit + "/config.json");
    const std::string id = "LanguageBind/LanguageBind_Video_merge", snapshot = repository + "/snapshots/" + commit;
    same({{"languagebind", id}}, concat("HF_HUB_CACHE='", dir / "hub", "'"));
    same({{"languagebind", id}}, concat("HF_HUB_CACHE= HF_HOME='", dir.path.string(), "'"));
    fs::create_directories(dir / "home/.cache/huggingface");
    fs::create_directory_symlink(dir / "hub", dir / "home/.cache/huggingface/hub");
    same({{"languagebind", id}}, concat("HF_HUB_CACHE= HF_HOME= XDG_CACHE_HOME= HOME='", dir / "home", "'"));
    EXPECT_SAYS(good({"verify", snapshot}).err, "1 files against known sums");
    const std::string released = dir / "hub/models--tyleryzhu--merv";    // several models in one repository
    fs::create_directories(released + "/refs"), fs::create_directories(released + "/snapshots/abc");
    write_file(released + "/refs/main", "abc\n");
    fs::copy(kParts + "/merv", released + "/snapshots/abc/merv-frozen", fs::copy_options::recursive);
    same({{"merv", "tyleryzhu/merv/merv-frozen"}}, concat("HF_HUB_CACHE='", dir / "hub", "'"));
    write_file(repository + "/blobs/" + blob, bin + "x");
    expect_error({"verify", snapshot}, 4, "it has no directory at its end");
    write_file(repository + "/blobs/" + blob, damaged(bin));
    expect_error({"verify", snapshot}, 4, "checksum; the file is damaged, get it again");

    const std::string cache = concat("HF_HUB_CACHE='", dir / "hub", "'");
    auto refused = [&](const std::string& given, const std::string& part) {
        CAPTURE(given);
        expect_error(import(kParts, dir / "no", {{"languagebind", given}}), 4, part, cache);
    };
    EXPECT_FALSE(fs::exists(dir / "no"));
    expect_error(import(kParts, dir / "no", {{"languagebind", "org/absent"}}), 4,
                 concat("--languagebind org/absent: neither a path here nor in Hugging Face's cache (", dir / "hub/models--org--absent", "); `huggingface-cli download org/absent` puts it there"), cache);
    for (const char* path : {"nothing", "/no/such/folder", "../x/y", "org/..", "org/name/../../x", ""}) if (*path) expect_error(import(kParts, dir / "no", {{"languagebind", path}}), 4, "--languagebind ", cache);
    write_file(repository + "/refs/main", "../../../etc");
    expect_error(import(kParts, dir / "no", {{"languagebind", id}}), 4, "is no commit", cache);
    write_file(repository + "/refs/main", "ffff\n");
    expect_error(import(kParts, dir / "no", {{"languagebind", id}}), 4, "snapshots/ffff is missing; `huggingface-cli download", cache);
    fs::remove(repository + "/refs/main");
    expect_error(import(kParts, dir / "no", {{"languagebind", id}}), 4, "refs/main is missing", cache);
    refused(id + "/inner", "refs/main is missing");
    EXPECT_FALSE(fs::exists(dir / "no"));
}

TEST_CASE("import: mistakes are told before anything is written, and a failure leaves nothing") {
    TempDir dir;
    const Words good_words = import(kParts, dir / "m");
    for (const char* flag : {"merv", "llm"}) expect_error(import(kParts, dir / "m", {{flag, ""}}), 2, concat("--", flag, " DIR is missing"));
    expect_error(import(kParts, dir / "m", {{"vivit", ""}}), 2, "--vivit is missing: " + kParts + "/merv/config.json names vivit-google-b-all-no-cls-16frames");
    expect_error(import(kParts, ""), 2, "--out DIR is missing");
    expect_error(with(good_words, {"--dtype", "f16"}), 2, "--dtype takes f32 or bf16, not 'f16'");
    expect_error(with(good_words, {"--force"}), 2, "unknown flag");
    write_file(dir / "file", "");
    expect_error(import(kParts, dir / "file"), 2, "is not a folder");
    expect_error(import(kParts, dir.path), 2, "is not empty; give a new folder\n");
    expect_error(import(kParts, dir / "m", {{"dinov2", kParts + "/siglip"}}), 4, "siglip: the architecture is \"vit_base_patch16_siglip_224\", vit_large_patch14_reg4_dinov2 is expected");
    fs::create_directories(dir / "mixed");
    fs::copy_file(kParts + "/dinov2/config.json", dir / "mixed/config.json");
    fs::copy_file(kParts + "/siglip/open_clip_pytorch_model.bin", dir / "mixed/open_clip_pytorch_model.bin");
    expect_error(import(kParts, dir / "m", {{"dinov2", dir / "mixed"}}), 4, "open_clip_pytorch_model.bin: does not hold the dinov2 encoder; is it another model's file?\n  missing (");
    fs::remove_all(dir / "mixed");
    // Settings that the original does not come with are those of the architecture, which these tiny parts do not have.
    fs::create_directories(dir / "bare");
    fs::copy_file(kParts + "/dinov2/dinov2_vitl14_reg4_pretrain.pth", dir / "bare/dinov2_vitl14_reg4_pretrain.pth");
    fs::copy_file(kParts + "/siglip/open_clip_pytorch_model.bin", dir / "bare/open_clip_pytorch_model.bin");
    expect_error(import(kParts, dir / "m", {{"dinov2", dir / "bare/dinov2_vitl14_reg4_pretrain.pth"}}), 4, "image_size for dinov2-video-all-tokens is 24; a multiple of its patch size 14");
    write_file(dir / "bare/open_clip_config.json", R"({"model_cfg": {"vision_cfg": {"image_size": 224, "timm_model_name": "vit_base_patch16_siglip_224"}}})");
    expect_error(import(kParts, dir / "m", {{"siglip", dir / "bare"}}), 4, "image_size for siglip-vit-b16-224px-all-no-cls is 24; a multiple of its patch size 16");
    fs::remove_all(dir / "bare");
    expect_error(import(kParts, dir / "m", {{"vivit", kParts + "/languagebind"}}), 4, "config.json: model_type is \"LanguageBindVideo\", which is unknown");
    expect_error(import(kParts, dir / "m", {{"merv", kParts + "/llm"}}), 4, "llm/config.json: model_id is missing");
    EXPECT(names_in(dir.path) == Words{"file"});
    const Run dry = good(with(good_words, {"--dry-run", "--json"}));
    EXPECT_EQ(dry.json()["bytes"].get<int>(), 86'624);
    EXPECT_EQ(dry.json()["parts"].size(), 6);
    EXPECT(names_in(dir.path) == Words{"file"});

    // Damage that only reading finds: nothing of the folder appears.
    fs::copy(kParts + "/siglip", dir / "siglip", fs::copy_options::recursive);
    write_file(dir / "siglip/open_clip_pytorch_model.bin", damaged(read_file(kParts + "/siglip/open_clip_pytorch_model.bin")));
    expect_error(import(kParts, dir / "m", {{"siglip", dir / "siglip"}}), 4, "do not have their checksum; the file is damaged");
    Words left = names_in(dir.path);
    std::sort(left.begin(), left.end());
    EXPECT(left == Words{"file", "siglip"});

    // LanguageBind's release with training's low-rank weights beside the others
    Checkpoint c = Checkpoint::open(kParts + "/languagebind");
    std::vector<std::pair<std::string, Tensor>> tensors;
    for (const std::string& name : c.names()) tensors.emplace_back(name, c.take(name));
    tensors.emplace_back("vision_model.encoder.base_model.model.layers.0.temporal_attn.q_proj.lora_A.default.weight", zeros({2, 8}));
    fs::create_directories(dir / "lora");
    write_safetensors(dir / "lora/model.safetensors", tensors);
    fs::copy_file(kParts + "/languagebind/config.json", dir / "lora/config.json");
    expect_error(import(kParts, dir / "m", {{"languagebind", dir / "lora"}}), 4, "holds LoRA weights that are not merged");
    write_file(dir / "evil.pt", "PK\x03\x04");
    expect_error(import(kParts, dir / "m", {{"merv", dir / "evil.pt"}}), 4, "");

    expect_error({"export", "-m", kTiny, "--out", dir / "p"}, 2, "what to export is missing");
    expect_error({"export", "--parts", "--out", dir / "p"}, 2, "-m DIR is missing");
    expect_error({"export", "--parts", "-m", kTiny}, 2, "--out DIR is missing");
    expect_error({"export", "--parts", "-m", dir / "none", "--out", dir / "p"}, 4, "none/config.json: no such file");
    EXPECT_FALSE(fs::exists(dir / "p"));
}

TEST_CASE("a folder of pickles is a model too: the parts as they were published, linked together") {
    TempDir dir;
    good(import(kParts, dir / "m"));
    fs::create_directories(dir / "linked/encoders");
    for (const char* encoder : {"languagebind", "vivit", "siglip"}) fs::create_directory_symlink(fs::absolute(kParts + "/" + encoder), dir / ("linked/encoders/" + kBackbones.at(encoder)));
    fs::create_directory_symlink(dir / "m/encoders/dinov2-video-all-tokens", dir / "linked/encoders/dinov2-video-all-tokens");     // Facebook's needs its table changed
    for (const char* file : {"config.json", "model.safetensors"}) fs::create_symlink(dir / concat("m/", file), dir / concat("linked/", file));
    fs::create_directory_symlink(dir / "m/llm", dir / "linked/llm");
    EXPECT_SAYS(good({"inspect", dir / "linked"}).out, "published-tiny (");
    EXPECT_SAYS(good({"verify", dir / "linked"}).err, "verified ");
}

TEST_CASE("verify: sums of files and tensors, and two models held against each other") {
    TempDir dir;
    const std::string file = kTiny + "/model.safetensors";
    const Run one = good({"verify", file});
    EXPECT_SAYS(one.out, sha256(read_file(file)) + "  model.safetensors\n");
    const Tensor q = SafeTensors::open(file)->tensor("feature_fusion.Q");
    EXPECT_SAYS(one.out, sha256({reinterpret_cast<const char*>(q.raw()), q.bytes()}) + "  F32  (1, 56)  ");
    fs::copy(kTiny, dir / "m", fs::copy_options::recursive);
    const Run folder = good({"verify", dir / "m"});
    EXPECT_EQ(std::count(folder.out.begin(), folder.out.end(), '\n'), 14);       // 6 weights, 6 configs and the generation's, the tokenizer
    EXPECT_SAYS(folder.out, sha256(read_file(kTiny + "/llm/tokenizer.model")) + "  llm/tokenizer.model\n");
    const Json j = good({"verify", dir / "m", "--json"}).json();
    EXPECT_EQ(j["files"].size(), 14);
    EXPECT_EQ(j["tensors"].size(), 270);
    write_file(dir / "m/SHA256SUMS", "");
    good({"verify", dir / "m"});                                        // `verify DIR > DIR/SHA256SUMS` makes it before it runs
    write_file(dir / "m/SHA256SUMS", folder.out);
    EXPECT_SAYS(good({"verify", dir / "m"}).err, "verified 14 files and 270 tensors, 14 files against known sums");
    write_file(dir / "m/config.json", read_file(kTiny + "/config.json") + " ");
    expect_error({"verify", dir / "m"}, 4, "is not what it should be; get it again\n  config.json: ");
    fs::remove(dir / "m/llm/generation_config.json");
    expect_error({"verify", dir / "m"}, 4, "llm/generation_config.json: is not there, SHA256SUMS says ");
    write_file(dir / "m/SHA256SUMS", "nonsense\n");
    expect_error({"verify", dir / "m"}, 4, "\"nonsense\" is no line of sha256sum");

    fs::copy(kTiny, dir / "n", fs::copy_options::recursive);
    EXPECT_SAYS(good({"verify", kTiny, dir / "n", "--json"}).out, "\"equal\":true");
    std::string bytes = read_file(dir / "n/llm/model.safetensors");
    bytes.back() ^= 1;
    write_file(dir / "n/llm/model.safetensors", bytes);
    expect_error({"verify", kTiny, dir / "n"}, 4, "differ in 1 of 270 tensors\n  llm:");
    write_safetensors(dir / "a.safetensors", {{"x", zeros({1})}, {"y", zeros({2})}});
    write_safetensors(dir / "b.safetensors", {{"x", zeros({2})}, {"z", zeros({2})}});
    expect_error({"verify", dir / "a.safetensors", dir / "b.safetensors"}, 4, "differ in 3 of 2 tensors\n  x (F32(1) and F32(2))\n  y (not in the second)\n  z (not in the first)");
    expect_error({"verify"}, 2, "which file or folder?");
    expect_error({"verify", dir / "none"}, 4, "no such file or folder");
    expect_error({"verify", kTiny, kTiny, kTiny}, 2, "unexpected argument");
    fs::remove(dir / "n/encoders/vivit-google-b-all-no-cls-16frames/model.safetensors");
    expect_error({"verify", dir / "n"}, 4, "vivit-google-b-all-no-cls-16frames: holds neither model.safetensors nor");
}
