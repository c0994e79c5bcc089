// merv-ask as its user meets it: answers on stdout, everything else on stderr, JSON, dumps, and one clear line for bad input.
#include "tests/ask_program.h"
#include "tests/compare.h"
#include <functional>
#include <set>
#include <unistd.h>
#include "core/log.h"
#include "core/rng.h"
#include "models/load.h"
#include "weights/safetensors.h"

using namespace merv;
using namespace merv::test;
namespace fs = std::filesystem;

namespace {

const Words kEncoders = {"languagebind", "dinov2", "vivit", "siglip"};

size_t lines(const std::string& text) { return size_t(std::count(text.begin(), text.end(), '\n')); }

template <class T> std::vector<T> values(const Tensor& t) { return {t.data<T>(), t.data<T>() + t.numel()}; }
std::shared_ptr<SafeTensors> expected(const std::string& name) { return SafeTensors::open(golden("merv-tiny-expected/" + name + ".safetensors")); }

// The JSON of a run with the golden question against PyTorch's: text, ids, frames, fusion weights.
void expect_golden(const Json& j, const std::string& name, int64_t answer = 0) {
    const auto want = expected(name);
    const Json& a = j["answers"][size_t(answer)];
    EXPECT_EQ(a["prompt"].get<std::string>(), want->metadata().at("prompt"));
    EXPECT_EQ(a["text"].get<std::string>(), want->metadata().at("text"));
    EXPECT(a["tokens"].get<std::vector<int32_t>>() == values<int32_t>(want->tensor("tokens")));
    EXPECT(a["prompt_tokens"].get<std::vector<int32_t>>() == values<int32_t>(want->tensor("prompt_tokens")));
    EXPECT(j["frame_indices"].get<std::vector<int32_t>>() == values<int32_t>(want->tensor("frame_indices")));
    for (size_t e = 0; e < 4; e++)
        EXPECT_LT(std::abs(j["fusion_weights"][kEncoders[e]].get<float>() - want->tensor("fusion_weights").data<float>()[e]), 2e-6);
}

// The run that most cases look at: the golden question about the bundled clip, with everything that can be shown.
struct Baseline {
    TempDir dir;
    Run run = answer({"-m", kModel, "--video", kClip, "--prompt", kQuestion, "-n", "48", "--json", "--shapes", "--show-fusion", "--dump", dir / "a.safetensors"});
    Json json = run.json();
};
const Baseline& baseline() {
    static const Baseline b;
    return b;
}

// A copy of merv-tiny to change.
struct Model {
    TempDir dir;
    std::string folder = dir / "model";
    Model() { fs::copy(kModel, folder, fs::copy_options::recursive); }
    std::string operator/(const std::string& file) const { return folder + "/" + file; }
    void edit(const std::string& file, const std::function<void(Json&)>& change) const {
        Json j = read_json(*this / file);
        change(j);
        write_file(*this / file, j.dump());
    }
    // The raw parts of a safetensors file, so that it can be made as wrong as one likes.
    void forge(const std::string& file, const std::function<void(Json& header, std::string& data)>& change) const {
        const std::string bytes = read_file(*this / file);
        uint64_t n;
        std::memcpy(&n, bytes.data(), 8);
        Json header = Json::parse(bytes.substr(8, n));
        std::string data = bytes.substr(8 + n);
        change(header, data);
        const std::string text = header.dump();
        n = text.size();
        write_file(*this / file, std::string(reinterpret_cast<const char*>(&n), 8) + text + data);
    }
    void rename(const std::string& file, const std::function<std::string(const std::string&)>& to) const {
        forge(file, [&](Json& header, std::string&) {
            Json renamed = Json::object();
            for (const auto& [name, entry] : header.items()) renamed[name == "__metadata__" ? name : to(name)] = entry;
            header = renamed;
        });
    }
    // Only encoder e is left, without mixing: quick runs.
    void keep_only(size_t e) const {
        edit("config.json", [&](Json& c) {
            const Json id = c["video_backbone_ids"][e], frames = c["num_frames"][e];
            c["feature_fusion"] = "first", c["video_backbone_ids"] = Json::array({id}), c["num_frames"] = Json::array({frames});
        });
        const std::string first = "projectors.0.", ours = "projectors." + std::to_string(e) + ".";
        rename("model.safetensors", [&](const std::string& n) {
            return n.starts_with(ours) ? first + n.substr(13) : n.starts_with(first) ? ours + n.substr(13) : n;
        });
    }
};

// The program stopped with this code, nothing on stdout, and one line on stderr that holds all of `parts`; lists under it are indented.
void expect_refused(const Run& r, Exit code, const Words& parts) {
    CAPTURE(r.err);
    EXPECT_EQ(r.code, int(code));
    EXPECT_EQ(r.out, "");
    EXPECT(r.err.starts_with("merv-ask: error: "));
    EXPECT(std::none_of(r.err.begin(), r.err.end(), [](char c) { return (c >= 0 && c < 0x20 && c != '\n') || c == 0x7f; }));
    std::istringstream rest(r.err);
    std::string line;
    std::getline(rest, line);
    while (std::getline(rest, line)) EXPECT(line.starts_with("  "));
    for (const std::string& part : parts) EXPECT_MESSAGE(contains(r.err, part), part);
}
const Words kAsk = {"-q", "-m", kModel, "--prompt", kQuestion}, kAskClip = kAsk + Words{"--video", kClip};

// A model folder after `damage`: the loader must refuse it.
void expect_bad_folder(const std::function<void(const Model&)>& damage, const Words& parts, Exit code = Exit::bad_weights) {
    Model m;
    damage(m);
    expect_refused(ask({"-q", "-m", m.folder, "--prompt", kQuestion, "--video", kClip}), code, parts);
}

// A PNG of one white pixel.

}

// ---- answers

TEST_CASE("merv-ask: --dtype bf16 computes in bf16; auto does where weights and machine have it") {
    TempDir dir;
    const Words words = {"-m", kModel, "--video", kClip, "--prompt", kQuestion, "-n", "1", "--json"};
    const Json j = answer(words + Words{"--dtype", "bf16", "--dump", dir / "stages.safetensors"}).json();
    EXPECT_EQ(j["dtype"], "bf16");
    const auto dump = SafeTensors::open(dir / "stages.safetensors");
    for (const auto& [name, entry] : dump->entries())
        if (name.starts_with("features.") || name.starts_with("projected.") || name == "fused" || name == "embeds") EXPECT_EQ(entry.dtype, "BF16");
    EXPECT_EQ(dump->entries().at("logits").dtype, "F32");
    // some 60 roundings to 8 bits follow each other, most of independent sign: 2^-9 sqrt(60) is 2^-6
    const double error = relative_error(dump->tensor("logits"), expected("nasa_jwst")->tensor("logits"));
    EXPECT_MESSAGE(error < 0x1p-5, error);
    EXPECT_MESSAGE(error > 0x1p-12, error);      // and f32 would be 2^-19
    const bool native = kernels::cpu::isa() == kernels::cpu::Isa::avx512_bf16;
    EXPECT_EQ(answer(words + Words{"--dtype", "auto"}).json()["dtype"], native ? "bf16" : "f32");      // merv-tiny's language model is bf16
    EXPECT_EQ(answer(words + Words{"--dtype", "auto"}, "MERV_ISA=portable").json()["dtype"], "f32");
}

TEST_CASE("ask: text, ids, frames and fusion weights are PyTorch's") {
    expect_golden(baseline().json, "nasa_jwst");
}

TEST_CASE("ask: --device emu, from video to tokens through the GPU kernels, f32 and bf16") {
    TempDir dir;
    const Words words = {"-m", kModel, "--video", kClip, "--prompt", kQuestion, "--json", "--device", "emu"};
    const auto want = expected("nasa_jwst");
    const Json j = answer(words + Words{"--dtype", "f32", "-n", "12"}).json();
    EXPECT_EQ(j["device"], "emu");
    const Tensor tokens = want->tensor("tokens");
    EXPECT(j["answers"][0]["tokens"].get<std::vector<int32_t>>() == std::vector<int32_t>(tokens.data<int32_t>(), tokens.data<int32_t>() + 12));
    EXPECT_EQ(answer(words + Words{"--dtype", "bf16", "-n", "1", "--dump", dir / "half.safetensors"}).json()["dtype"], "bf16");
    const double error = relative_error(SafeTensors::open(dir / "half.safetensors")->tensor("logits"), want->tensor("logits"));
    EXPECT_MESSAGE((error < 0x1p-5 && error > 0x1p-12), error);      // as the CPU's bf16 above
}

TEST_CASE("ask: --json prints one object of the documented form") {
    const Json& j = baseline().json;
    auto keys = [](const Json& object) {
        Words names;
        for (const auto& [name, value] : object.items()) names.push_back(name);
        return names;
    };
    EXPECT(keys(j) == Words{"answers", "frame_indices", "fps", "dtype", "device", "fusion_weights", "ms", "memory", "counts", "versions"});
    EXPECT(keys(j["answers"][0]) == Words{"prompt", "text", "tokens", "prompt_tokens"});
    EXPECT(keys(j["versions"]) == Words{"commit", "compiler", "isa", "ffmpeg"});
    EXPECT(keys(j["counts"]) == Words{"frames_encoded", "prefilled_tokens"});
    EXPECT(keys(j["fusion_weights"]) == kEncoders);
    EXPECT_EQ(j["answers"].size(), 1);
    EXPECT_EQ(j["counts"]["frames_encoded"].dump(), R"({"languagebind":16,"dinov2":16,"vivit":32,"siglip":16})");
    EXPECT_EQ(j["counts"]["prefilled_tokens"].get<int>(), 577 + 24);
    EXPECT_EQ(j["fps"].get<double>(), 30000 / 1001.0);
    for (const char* stage : {"load", "decode", "features.languagebind", "features.dinov2", "features.vivit", "features.siglip", "fused", "prefill", "generate"})
        EXPECT_GE(j["ms"].value(stage, -1.0), 0);
    for (const char* owner : {"weights", "kv cache", "activations"}) EXPECT_GT(j["memory"].value(owner, 0), 0);
    for (const char* part : {"commit", "compiler", "isa", "ffmpeg"}) EXPECT_NE(j["versions"][part].get<std::string>(), "");
}

TEST_CASE("ask: the answer streams to stdout, and the number of threads changes no byte") {
    TempDir dir;
    const Run r = answer({"-m", kModel, "--video", kClip, "--prompt", kQuestion, "-n", "48", "--threads", "2", "--device", "cpu", "--dtype", "f32", "--dump", dir / "b.safetensors"});
    EXPECT_EQ(r.out, printable(baseline().json["answers"][0]["text"].get<std::string>()) + "\n");
    EXPECT(read_file(dir / "b.safetensors") == read_file(baseline().dir / "a.safetensors"));
    std::istringstream err(r.err);              // one line for each step, in order
    for (const char* step : {"load ", "decode ", "encode   languagebind", "encode   dinov2", "encode   vivit", "encode   siglip", "prefill ", "answer ", "dump "}) {
        std::string line;
        std::getline(err, line);
        EXPECT_MESSAGE(line.starts_with(step), line);
    }
    EXPECT_EQ(lines(r.err), 9);
}

TEST_CASE("ask: --dump holds every stage in the documented shapes") {
    const auto dump = SafeTensors::open(baseline().dir / "a.safetensors"), want = expected("nasa_jwst");
    std::set<std::string> names = {"fused", "embeds", "logits"};
    for (const std::string& e : kEncoders) names.insert({"pixels." + e, "features." + e, "projected." + e});
    for (const auto& [name, entry] : dump->entries()) {
        EXPECT_MESSAGE(names.erase(name) == 1, name);
        EXPECT_EQ(entry.dtype, "F32");
        EXPECT_EQ(Json(entry.shape).dump(), name == "logits" ? "[576]" : Json::parse(want->metadata().at("shape." + name)).dump());
    }
    EXPECT(names.empty());
    EXPECT_EQ(dump->metadata().at("format"), "pt");
    EXPECT_LT(relative_error(dump->tensor("logits"), want->tensor("logits")), 2.5 * std::stod(want->metadata().at("err.f32.logits")));
}

TEST_CASE("ask: --shapes and --show-fusion draw on stderr") {
    const std::string& err = baseline().run.err;
    for (const char* part : {"pixels.vivit", "f32(4096, 64)", "f32(3136, 80)", "fused", "f32(601, 96)", "models/vit.cpp", "models/vivit.cpp", "data/transform.cpp", " ms"})
        EXPECT_MESSAGE(contains(err, part), part);
    EXPECT(contains(err, "vivit         76.1 %  " + [] { std::string bar; for (int i = 0; i < 30; i++) bar += "█"; return bar; }() + "\n"));
    EXPECT(contains(err, "languagebind   5.6 %  ██\n"));
    const Run quiet = answer({"-q", "-m", kModel, "--prompt", kQuestion, "-n", "2"}), shapes = answer({"-q", "--shapes", "-m", kModel, "--prompt", kQuestion, "-n", "2"});
    EXPECT_EQ(quiet.err, "");
    EXPECT_EQ(lines(shapes.err), 2);            // what was asked for is shown even so: embeds, logits
}

TEST_CASE("ask: several questions encode the clip and prefill its tokens once, and do not disturb each other") {
    TempDir dir;
    const Json j = answer({"-m", kModel, "--video", kClip, "--prompt", "Is it red?", "--prompt", "", "--prompt", kQuestion, "-n", "48", "--json", "--dump", dir / "d.safetensors"}).json();
    REQUIRE_EQ(j["answers"].size(), 3);
    expect_golden(j, "nasa_jwst", 2);
    int64_t prefilled = 577;
    for (const Json& a : j["answers"]) prefilled += int64_t(a["prompt_tokens"].size()) - 1;
    EXPECT_EQ(j["counts"]["prefilled_tokens"].get<int64_t>(), prefilled);
    EXPECT_EQ(j["counts"]["frames_encoded"].dump(), baseline().json["counts"]["frames_encoded"].dump());
    EXPECT_NE(j["answers"][0]["tokens"].dump(), j["answers"][2]["tokens"].dump());
    EXPECT_EQ(SafeTensors::open(dir / "d.safetensors")->entries().at("embeds").shape[0], 576 + int64_t(j["answers"][0]["prompt_tokens"].size()));    // the first
}

TEST_CASE("ask: another clip; its answer holds a control character that no terminal sees") {
    const std::string path = shared("data/video/bikes.mp4");
    if (path.empty()) return;
    const Words args = {"-m", kModel, "--video", path, "--prompt", kQuestion, "-n", "48"};
    const Run r = answer(args + Words{"--json"});
    expect_golden(r.json(), "bikes");
    EXPECT(contains(r.out, " B\\u0005/ "));
    EXPECT(std::all_of(r.out.begin(), r.out.end() - 1, [](char c) { return c >= 0x20 && c < 0x7f; }));
    EXPECT(contains(answer(args).out, " B\xEF\xBF\xBD/ tHad"));
}

TEST_CASE("ask: a photograph's answer is PyTorch's") {
    if (const std::string path = shared("data/images/chelsea.png"); !path.empty())
        expect_golden(answer({"-m", kModel, "--image", path, "--prompt", kQuestion, "-n", "48", "--json"}).json(), "chelsea");
}

TEST_CASE("ask: a still image is encoded once where that is exact") {
    TempDir dir;
    write_file(dir / "white.png", kPng);
    const Json j = answer({"-m", kModel, "--image", dir / "white.png", "--prompt", kQuestion, "-n", "1", "--json"}).json();
    EXPECT_EQ(j["frame_indices"].dump(), Json(std::vector<int>(32)).dump());
    EXPECT_EQ(j["counts"]["frames_encoded"].dump(), R"({"languagebind":16,"dinov2":1,"vivit":32,"siglip":1})");
    EXPECT_EQ(j["counts"]["prefilled_tokens"].get<int>(), 601);
    EXPECT_EQ(j["fps"].get<double>(), 0);
}

TEST_CASE("ask: without a clip no visual token is there; the builder wraps the question") {
    auto asked = [](const Words& more) { return answer(Words{"-q", "-m", kModel, "-n", "4", "--json"} + more).json(); };
    auto prompt = [&](const Words& more) {
        const Json a = asked(more)["answers"][0];
        const auto ids = a["prompt_tokens"].get<std::vector<int>>();
        EXPECT_EQ(ids[0], 1);
        EXPECT_EQ(std::count(ids.begin(), ids.end(), 1), 1);        // exactly one BOS
        EXPECT_EQ(a["tokens"].size(), 4);
        return a["prompt"].get<std::string>();
    };
    const std::string llama2 = "[INST] <<SYS>\nYou are a helpful language and vision assistant. You are able to understand the visual content that the user "
                               "provides, and assist the user with a variety of tasks using natural language.\n<</SYS>>\n\nhi [/INST]";
    const std::string vicuna = "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers "
                               "to the user's questions. USER: hi ASSISTANT:";
    EXPECT_EQ(prompt({"--prompt", " hi\n"}), "In: hi\nOut:");
    EXPECT_EQ(prompt({"--prompt", "hi", "--prompt-builder", "llama2-chat"}), llama2);
    EXPECT_EQ(prompt({"--prompt", "hi", "--prompt-builder", "vicuna"}), vicuna);
    EXPECT_EQ(prompt({"--prompt", " hi\n", "--prompt-builder=raw"}), " hi\n");
    EXPECT_EQ(prompt({"--prompt", "h\xff", "--prompt-builder=raw"}), "h\xEF\xBF\xBD");
    Model m;                                    // the builder that the model was trained with
    m.edit("config.json", [](Json& c) { c["llm_backbone_id"] = "vicuna-v15-13b"; });
    EXPECT_EQ(answer({"-m", m.folder, "-p", "hi", "-n", "1", "--json"}).json()["answers"][0]["prompt"].get<std::string>(), vicuna);

    const Json bare = asked({"--prompt", "", "--prompt-builder", "raw"});
    EXPECT_EQ(bare["answers"][0]["prompt_tokens"].dump(), "[1]");
    EXPECT_EQ(bare["counts"].dump(), R"({"frames_encoded":{},"prefilled_tokens":1})");
    EXPECT_EQ(bare["fusion_weights"].dump() + bare["frame_indices"].dump(), "{}[]");
}

TEST_CASE("ask: sampling repeats with its seed; temperature 0 and top-k 1 are greedy") {
    auto tokens = [](const Words& more) { return answer(Words{"-q", "-m", kModel, "-p", "hi", "-n", "24", "--json"} + more).json()["answers"][0]["tokens"].dump(); };
    const std::string greedy = tokens({}), one = tokens({"--temperature", "1", "--seed", "1"});
    EXPECT_EQ(one, tokens({"--temp=1", "--seed=1"}));
    EXPECT_NE(one, tokens({"--temperature", "1", "--seed", "2"}));
    EXPECT_NE(one, greedy);
    EXPECT_EQ(greedy, tokens({"--temperature", "0", "--seed", "5", "--top-p", "0.5"}));
    EXPECT_EQ(greedy, tokens({"--temperature", "1.5", "--top-k", "1"}));
    const Words noise = {"-q", "-m", kModel, "-p", "hi", "-n", "400", "--temp", "3"};       // bytes, broken characters, white space of all kinds
    EXPECT_EQ(answer(noise).out, printable(answer(noise + Words{"--json"}).json()["answers"][0]["text"].get<std::string>()) + "\n");
    EXPECT_NE(tokens({"--temperature", "1", "--seed", "9007199254740992"}), tokens({"--temperature", "1", "--seed", "9007199254740993"}));    // above 2^53
}

TEST_CASE("ask: a language model's own folder answers text, to the end of its context, and cannot see") {
    const Words args = {"-m", golden("stories260k"), "--prompt", "", "-n", "20"};
    const Run r = answer(args + Words{"-q"});
    EXPECT(r.out.starts_with("Once upon a time, there was a little girl named Lily."));
    expect_refused(ask(args + Words{"-q", "--video", kClip}), Exit::bad_weights, {"it cannot see"});
    EXPECT(contains(answer({"-m", golden("stories260k"), "--prompt", "", "-n", "5000", "--temp", "1"}).err, "note: the answer ends where the language model's context of 512 tokens is full"));
}

TEST_CASE("ask: stories260K tells its story to the letter") {
    const std::string path = shared("data/golden/stories260K.greedy200.txt");
    if (!path.empty()) EXPECT_EQ(answer({"-m", golden("stories260k"), "--prompt", "", "-n", "200"}).out, read_file(path) + "\n");
}

// ---- what is looked at

TEST_CASE("ask: the clip's bounds choose the frames (numpy's linspace), also through a folder of links") {
    Model m;
    m.keep_only(3);
    TempDir links;
    fs::create_directory(links / "encoders");
    for (const char* part : {"config.json", "model.safetensors", "llm"}) fs::create_symlink(m / part, links / part);
    const std::string siglip = "encoders/siglip-vit-b16-224px-all-no-cls";
    fs::create_directory_symlink(m / siglip, links / siglip);
    auto frames = [&](const Words& more, std::string* err = nullptr) {
        const Run r = answer(Words{"-m", links.path, "-p", "hi", "-n", "1", "--json"} + more);
        if (err) *err = r.err;
        return r.json()["frame_indices"].dump();
    };
    std::string note;
    EXPECT_EQ(frames({"--video", kClip, "--clip-start", "1.5", "--clip-end", "3.25"}), "[44,48,51,55,58,62,65,68,72,75,79,82,86,89,92,96]");
    EXPECT_EQ(frames({"--video", kClip, "--clip_end", "2.5"}, &note), "[0,4,9,14,19,24,29,34,39,44,49,54,59,64,68,73]");
    EXPECT_FALSE(contains(note, "note:"));
    EXPECT_EQ(frames({"--video", kClip, "--clip-start", "4", "--clip-end", "1k"}, &note), "[119,121,123,125,127,129,131,133,135,137,139,141,143,145,147,149]");
    EXPECT_EQ(note.find("note:"), note.rfind("note:"));
    EXPECT(contains(note, "note: the clip's end at 1000 s lies past the last frame: 5.005 s is used"));
    EXPECT_EQ(frames({"--video", kClip, "--end-frame", "40"}), "[0,2,5,8,10,13,16,18,21,24,26,29,32,34,37,40]");

    TempDir pictures;
    for (int i = 0; i < 5; i++) write_file(pictures / ("frame" + std::to_string(i) + ".png"), kPng);
    EXPECT_EQ(frames({"--video", pictures.path, "--num-frames", "8"}), "[0,0,1,1,2,2,3,4]");
    EXPECT_EQ(frames({"--video", pictures.path, "--num-frames", "8", "--frames-fps", "5", "--clip-start", "0.4"}), "[2,2,2,2,3,3,3,4]");
    const Run still = answer({"-m", links.path, "-p", "hi", "-n", "1", "--json", "--image", pictures / "frame0.png", "--clip-start", "1"});
    EXPECT_EQ(still.json()["counts"]["frames_encoded"].dump(), R"({"siglip":1})");
    EXPECT_EQ(still.json()["fusion_weights"].dump(), R"({"siglip":1.0})");
    EXPECT(contains(still.err, "note: --clip-start belongs to --video: it is not used"));
}

TEST_CASE("ask: --num-frames, where the model allows it; --lb-flip mirrors by seed") {
    Model m;
    m.edit("config.json", [](Json& c) { c["feature_fusion"] = "first"; });     // LanguageBind alone, in groups of 8
    const Words args = {"-m", m.folder, "--video", kClip, "-p", kQuestion, "-n", "2", "--num-frames", "8", "--json"};
    uint64_t seed = 1;
    while (Rng(seed, "lb-flip").uniform(0) >= 0.5 || Rng(seed + 1, "lb-flip").uniform(0) < 0.5) seed++;     // this one flips, the next does not
    auto dumped = [&](uint64_t s, const std::string& file) {
        const Json j = answer(args + Words{"--lb-flip", "--seed", std::to_string(s), "--dump", file}).json();
        EXPECT_EQ(j["counts"].dump(), R"({"frames_encoded":{"languagebind":8},"prefilled_tokens":313})");
        EXPECT_EQ(j["frame_indices"].size(), 8);
        return SafeTensors::open(file);
    };
    const auto flipped = dumped(seed, m.dir / "flipped"), straight = dumped(seed + 1, m.dir / "straight");
    EXPECT_EQ(Json(flipped->entries().at("pixels.languagebind").shape).dump(), "[3,8,224,224]");
    const auto a = values<float>(flipped->tensor("pixels.languagebind")), b = values<float>(straight->tensor("pixels.languagebind"));
    bool mirrored = true;
    for (size_t i = 0; i < a.size(); i++) mirrored &= a[i] == b[i - i % 224 + 223 - i % 224];
    EXPECT(mirrored);

    const Words ask_first = {"-q", "-m", m.folder, "--video", kClip, "-p", kQuestion, "--num-frames"};
    expect_refused(ask(ask_first + Words{"4"}), Exit::usage, {"--num-frames does not suit this model", "languagebind", "a multiple of its own num_frames 8"});
    expect_refused(ask(kAskClip + Words{"--num-frames", "16,16,64,16"}), Exit::usage, {"--num-frames", "vivit", "its own num_frames 32"});
    expect_refused(ask(kAskClip + Words{"--num-frames", "8,16,32,16"}), Exit::usage, {"--num-frames", "different lengths", "choose num_frames so that they agree"});
    expect_refused(ask(kAskClip + Words{"--num-frames", "16,12,32,16"}), Exit::usage, {"12 does not divide 32"});
    expect_refused(ask(kAskClip + Words{"--num-frames", "16,16"}), Exit::usage, {"2 numbers for 4 encoders; give one for all or one each"});
    expect_refused(ask(kAskClip + Words{"--num-frames", "0"}), Exit::usage, {"0 frames; 1 to 4096"});
}

TEST_CASE("ask: --fusion code and paper are their formulas") {
    Model m;                                    // two encoders, and a query as wide as the language model
    const int64_t D = 96;
    m.edit("config.json", [](Json& c) {
        const Json ids = c["video_backbone_ids"];
        c["video_backbone_ids"] = {ids[1], ids[3]}, c["num_frames"] = 16;
    });
    std::vector<std::pair<std::string, Tensor>> tensors;
    {
        const auto old = SafeTensors::open(m / "model.safetensors");
        for (const auto& [from, to] : {std::pair("1", "0"), {"3", "1"}})
            for (const char* part : {"weight", "bias"})
                tensors.emplace_back(concat("projectors.", to, ".projector.projector.", part), old->tensor(concat("projectors.", from, ".projector.projector.", part)));
        uint64_t n = 0;
        auto normal = [&](const char* name, Shape shape, double scale) {
            std::vector<float> v(size_t(shape.numel()));
            for (float& x : v) x = float(scale * Rng(3, "fusion").normal(n++));
            tensors.emplace_back(concat("feature_fusion.", name), from_floats(v, shape));
        };
        normal("Q", {1, D}, 1), normal("attention.in_proj_weight", {3 * D, D}, 0.1), normal("attention.in_proj_bias", {3 * D}, 0.1);
        normal("attention.out_proj.weight", {D, D}, 1), normal("attention.out_proj.bias", {D}, 1);
        write_safetensors(m.dir / "new", tensors);
    }
    fs::rename(m.dir / "new", m / "model.safetensors");
    const auto own = SafeTensors::open(m / "model.safetensors");
    const auto Q = values<float>(own->tensor("feature_fusion.Q")), w = values<float>(own->tensor("feature_fusion.attention.in_proj_weight")),
               b = values<float>(own->tensor("feature_fusion.attention.in_proj_bias"));
    auto project = [&](const std::vector<double>& x, int64_t part) {    // 0: query, 1: key
        std::vector<double> y(size_t(D), 0.0);
        for (int64_t o = 0; o < D; o++) {
            y[size_t(o)] = b[size_t(part * D + o)];
            for (int64_t i = 0; i < D; i++) y[size_t(o)] += double(w[size_t((part * D + o) * D + i)]) * x[size_t(i)];
        }
        return y;
    };
    for (const std::string formula : {"code", "paper"}) {
        const Json j = answer({"-m", m.folder, "--video", kClip, "-p", kQuestion, "-n", "1", "--json", "--fusion", formula, "--dump", m.dir / formula}).json();
        const auto dump = SafeTensors::open(m.dir / formula);
        std::vector<double> q(Q.begin(), Q.end()), weight;
        if (formula == "code") q = project(q, 0);
        for (const char* e : {"dinov2", "siglip"}) {
            const auto x = values<float>(dump->tensor(concat("projected.", e)));
            std::vector<double> k(size_t(D), 0.0);
            for (size_t i = 0; i < x.size(); i++) k[i % size_t(D)] += double(x[i]) / double(x.size() / size_t(D));
            if (formula == "code") k = project(k, 1);
            double dot = 0;
            for (size_t i = 0; i < k.size(); i++) dot += q[i] * k[i];
            weight.push_back(std::exp(dot / std::sqrt(double(D))));
        }
        const double want = weight[0] / (weight[0] + weight[1]);
        EXPECT_LT(std::abs(j["fusion_weights"]["dinov2"].get<double>() - want), 1e-5);
        EXPECT_GT(std::abs(want - 0.5), 0.02);  // else the test shows little
    }
    expect_refused(ask(kAskClip + Words{"--fusion", "paper"}), Exit::usage, {"--fusion paper", "this model's has 56", "use --fusion code"});
}

// ---- flags

TEST_CASE("ask: --help, --version, --print-config, the environment") {
    const Run help = answer({"--help"}), version = answer({"--version"});
    EXPECT(help.out.starts_with("usage: merv-ask -m DIR"));
    for (const char* flag : {"--model", "--video", "--image", "--prompt ", "--prompt-builder", "--num-frames", "--clip-start", "--clip-end", "--max-tokens", "--temperature", "--top-k", "--top-p",
                             "--min-p", "--seed", "--dtype", "--device", "--threads", "--end-frame", "--frames-fps", "--fusion", "--lb-flip", "--json", "--dump", "--show-fusion", "--shapes"})
        EXPECT_MESSAGE(contains(help.out, flag), flag);
    EXPECT(version.out.starts_with("merv-ask (merv.cpp) "));
    EXPECT(contains(version.out, "commit "));
    EXPECT_EQ(help.err + version.err, "");

    const std::string config = answer({"--print-config", "-n", "3", "--prompt=x"}, "MERV_ARG_CLIP_START=2.5").out;
    auto source = [&](const std::string& flag) {
        const size_t at = config.find("\n" + flag + " ");
        return at == config.npos ? "" : config.substr(at + 1, config.find('\n', at + 1) - at - 1);
    };
    EXPECT(source("max-tokens").ends_with("command line"));
    EXPECT(source("clip-start").ends_with("environment"));
    EXPECT(source("seed").ends_with("default"));
    EXPECT(source("video").ends_with("not set"));

    const std::string environment = "MERV_ARG_MODEL=" + kModel + " MERV_ARG_MAX_TOKENS=3 MERV_ARG_PROMPT=hi MERV_ARG_JSON=1";
    EXPECT_EQ(answer({}, environment).json()["answers"][0]["tokens"].size(), 3);
    EXPECT_EQ(answer({"-n", "2"}, environment).json()["answers"][0]["tokens"].size(), 2);        // the command line wins
    expect_refused(ask(kAsk, "MERV_ARG_MAX_TOKENS=x"), Exit::usage, {"--max-tokens takes a whole number, not 'x' (from MERV_ARG_MAX_TOKENS)"});
}

TEST_CASE("ask: -v says which keys of the folder's files are not read") {
    Model m;
    m.edit("config.json", [](Json& c) { c["align_epochs"] = 1, c["mystery"] = nullptr; });
    const Words args = {"-m", m.folder, "-p", "hi", "-n", "1"};
    const std::string err = answer(args + Words{"-v"}).err;
    EXPECT(contains(err, "config.json: not read: align_epochs, mystery\n"));
    EXPECT_EQ(err.find("align_epochs"), err.rfind("align_epochs"));
    EXPECT_FALSE(contains(answer(args).err, "align_epochs"));
}

TEST_CASE("ask: bad usage is exit 2") {
    struct Case { Words args, parts; };
    for (const auto& [args, parts] : std::vector<Case>{
             {{}, {"-m DIR is missing"}},
             {{"-m", kModel}, {"--prompt TEXT is missing: the question (only a terminal is asked for it)"}},
             {kAsk + Words{"--vidoe", "x"}, {"unknown flag --vidoe; did you mean --video?"}},
             {kAsk + Words{"-x"}, {"unknown flag -x", "--help"}},
             {kAsk + Words{"stray"}, {"unexpected argument 'stray'", "--help"}},
             {kAsk + Words{"--video"}, {"--video needs a value: FILE"}},
             {kAsk + Words{"--video", ""}, {"--video and --image need a file's name"}},
             {kAskClip + Words{"--image", "x.png"}, {"--video and --image exclude each other; give one of them"}},
             {kAskClip + Words{"--video", kClip}, {"--video is given twice"}},
             {kAsk + Words{"--max-tokens", "many"}, {"--max-tokens takes a whole number, not 'many'"}},
             {kAsk + Words{"--max-tokens", "0"}, {"--max-tokens must be at least 1"}},
             {kAsk + Words{"--temperature", "hot"}, {"--temperature takes a number, not 'hot'"}},
             {kAsk + Words{"--temperature", "-1"}, {"--temperature must be 0"}},
             {kAsk + Words{"--top-p", "0"}, {"--top-p must be above 0"}},
             {kAsk + Words{"--top-k", "-1"}, {"--top-k must be 0"}},
             {kAsk + Words{"--min-p", "1.1"}, {"--min-p must be from 0"}},
             {kAsk + Words{"--seed", "1.5"}, {"--seed takes a whole number"}},
             {kAsk + Words{"--threads", "-1"}, {"--threads takes 0 to 4096"}},
             {kAsk + Words{"--json=maybe"}, {"--json takes true or false"}},
             {kAsk + Words{"--prompt-builder", "gpt"}, {"--prompt-builder is pure, llama2-chat, vicuna, llama3.1-chat, qwen2.5-chat, smollm2-chat, chatml or raw, not 'gpt'"}},
             {kAsk + Words{"--fusion", "sum"}, {"--fusion takes code or paper, not 'sum'"}},
             {kAsk + Words{"--dtype", "f16"}, {"--dtype takes auto, f32 or bf16, not 'f16'"}},
             {kAsk + Words{"--device", "gpu"}, {"--device takes auto, cpu, cuda, cuda:N or emu, not 'gpu'"}},
             {kAskClip + Words{"--clip-start", "-1"}, {"--clip-start must not be negative"}},
             {kAskClip + Words{"--clip-end", "nan"}, {"--clip-end takes a number, not 'nan'"}},
             {kAskClip + Words{"--frames-fps", "0"}, {"--frames-fps must be above 0"}},
             {kAskClip + Words{"--num-frames", "16,x"}, {"--num-frames takes whole numbers separated by commas, not '16,x'"}},
             {kAsk + Words{"--dump", "/nowhere/x.safetensors"}, {"--dump '/nowhere/x.safetensors' cannot be written", "a folder that exists"}},
             {kAsk + Words{"--prompt", std::string(3000, 'a')}, {"tokens; this model reads at most 2048: shorten it"}},
             {kAskClip + Words{"--prompt", std::string(1600, 'a')}, {"the prompt has 1608 tokens and the clip 576; the language model's context is 2048: shorten the prompt"}},
         })
        expect_refused(ask(args), Exit::usage, parts);
    expect_refused(ask(kAsk + Words{"--device", "cuda"}), Exit::device, {"cuda:0: this program was built without the CUDA backend; build it with `make CUDA=1`, or use --device cpu"});
}

TEST_CASE("ask: not enough memory is exit 5 with a table, decided before anything is loaded") {
    const Run r = ask(kAskClip, "MERV_MEMORY_LIMIT=1M");
    EXPECT_EQ(r.code, int(Exit::no_memory));
    EXPECT_EQ(r.out, "");
    EXPECT(r.err.starts_with("merv-ask: error: not enough memory:\n"));
    for (const char* part : {"weights of the dinov2 encoder", "weights of the language model", "kv cache", "activations", "in all", "available", "lower --num-frames or --max-tokens"})
        EXPECT_MESSAGE(contains(r.err, part), part);
    expect_refused(ask(kAskClip, "MERV_MEMORY_LIMIT=much"), Exit::usage, {"MERV_MEMORY_LIMIT is 'much'"});
}

TEST_CASE("ask: an answer that cannot be written is exit 1") {
    const Run r = run_program("/bin/sh", {"-c", "exec \"$0\" \"$@\" >/dev/full", built("merv-ask"), "-q", "-m", kModel, "-p", "hi", "-n", "2"});
    expect_refused(r, Exit::runtime, {"stdout cannot be written; is the disk full?"});
}

// ---- bad files

TEST_CASE("ask: a clip or image that cannot be used is exit 3") {
    TempDir dir;
    const std::string clip = read_file(kClip);
    write_file(dir / "empty.mp4", "");
    write_file(dir / "text.mp4", "this is no video\n");
    write_file(dir / "half.mp4", clip.substr(0, clip.size() / 2));
    write_file(dir / "broken.mp4", clip.substr(0, 20000) + std::string(60000, 'x') + clip.substr(80000));
    write_file(dir / "head.mp4", clip.substr(0, 1000));
    write_file(dir / "list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n" + fs::absolute(kClip).string() + "\n#EXT-X-ENDLIST\n");
    write_file(dir / "list.ffconcat", "ffconcat version 1.0\nfile " + fs::absolute(kClip).string() + "\n");
    const char rate[] = "\x40\x1f\0\0\x40\x1f\0\0\1\0\x08\0";      // 8 kHz, 8 bit
    write_file(dir / "sound.wav", std::string("RIFF\x24\x1f\0\0WAVEfmt \x10\0\0\0\1\0\1\0", 24) + std::string(rate, 12) + std::string("data\0\x1f\0\0", 8) + std::string(0x1f00, '\x80'));
    write_file(dir / "half.png", kPng.substr(0, 45));
    write_file(dir / "vast.png", kPng.substr(0, 16) + std::string("\0\0\x4e\x20\0\0\x27\x10", 8) + kPng.substr(24));
    fs::create_directory(dir / "nothing");
    fs::create_directory(dir / "mixed");
    write_file(dir / "mixed/1.png", kPng), write_file(dir / "mixed/2.png", "no picture");

    struct Case { Words args, parts; };
    for (const auto& [args, parts] : std::vector<Case>{
             {{"--video", dir / "none.mp4"}, {"none.mp4: no such file; check the path"}},
             {{"--video", "http://localhost/clip.mp4"}, {"no such file"}},
             {{"--video", dir / "empty.mp4"}, {"empty.mp4: is an empty file; copy or download it again"}},
             {{"--video", dir / "text.mp4"}, {"text.mp4: is no video that FFmpeg knows", "give a video file"}},
             {{"--video", dir / "half.mp4"}, {"half.mp4: is cut off", "copy or download it again"}},
             {{"--video", dir / "broken.mp4"}, {"broken.mp4: frame ", "cannot be decoded", "the file is damaged"}},
             {{"--video", dir / "head.mp4"}, {"head.mp4: ", "copy or download it again"}},
             {{"--video", dir / "list.m3u8"}, {"list.m3u8: "}},
             {{"--video", dir / "list.ffconcat"}, {"list.ffconcat: "}},
             {{"--video", dir / "sound.wav"}, {"sound.wav: holds no video stream", "give a file with pictures"}},
             {{"--video", dir / "nothing"}, {"nothing: is a folder without frames"}},
             {{"--video", dir / "mixed"}, {"2.png: is no PNG or JPEG image"}},
             {{"--video", dir / "mixed", "--clip-start", "1"}, {"mixed: is a folder of frames, which has no frame rate; give it with --frames-fps"}},
             {{"--video", "/dev/null"}, {"/dev/null: is a device or pipe"}},
             {{"--video", kClip, "--clip-start", "3", "--clip-end", "2"}, {kClip + ": the clip ends at 2 s, not after its start at 3 s"}},
             {{"--video", kClip, "--clip-start", "2", "--clip-end", "2"}, {"the clip ends at 2 s"}},
             {{"--video", kClip, "--clip-end", "-1"}, {"the clip ends at -1 s"}},
             {{"--video", kClip, "--clip-start", "60"}, {"the clip starts at 60 s, but the video is only 5.005 s long"}},
             {{"--image", dir / "none.png"}, {"none.png: no such file"}},
             {{"--image", dir / "empty.mp4"}, {"empty.mp4: is an empty file"}},
             {{"--image", "LICENSE"}, {"LICENSE: is no PNG or JPEG image", "give a PNG or JPEG file"}},
             {{"--image", kClip}, {"is no PNG or JPEG image"}},
             {{"--image", dir / "half.png"}, {"half.png: cannot be decoded"}},
             {{"--image", dir / "vast.png"}, {"vast.png: has 20000 x 10000 pixels, more than 64 Mi; scale it down"}},
             {{"--image", dir / "nothing"}, {"nothing: is a folder, not a file"}},
         })
        expect_refused(ask(kAsk + args), Exit::bad_data, parts);
    if (geteuid() != 0) {
        write_file(dir / "closed.mp4", clip);
        fs::permissions(dir / "closed.mp4", fs::perms::none);
        expect_refused(ask(kAsk + Words{"--video", dir / "closed.mp4"}), Exit::bad_data, {"closed.mp4: is there but cannot be read", "check its permissions"});
    }
}

TEST_CASE("ask: a clip with a corrupt stream is exit 3") {
    if (const std::string path = shared("data/video/edge/decord_corrupted.mp4"); !path.empty())
        expect_refused(ask(kAsk + Words{"--video", path}), Exit::bad_data, {"decord_corrupted.mp4: ", "damaged"});
}

TEST_CASE("ask: a folder that is no model, or lacks a part, is exit 4") {
    TempDir dir;
    fs::create_symlink("loop", dir / "loop");
    struct Case { std::string folder, part; };
    for (const auto& [folder, part] : std::vector<Case>{{dir / "none", "none: no such folder; give a MERV folder"}, {"LICENSE", "LICENSE: is not a folder"},
                                                        {dir.path, ": holds no config.json"}, {dir / "loop", "loop: Too many levels"}, {std::string(5000, 'a'), "File name too long"}})
        expect_refused(ask({"-q", "-m", folder, "-p", "hi"}), Exit::bad_weights, {part});

    auto without = [](const char* part) { return [part](const Model& m) { fs::remove_all(m / part); }; };
    expect_bad_folder(without("config.json"), {"holds no config.json"});
    expect_bad_folder(without("llm"), {"llm: no such folder; link the language model's own folder there"});
    expect_bad_folder(without("encoders"), {"encoders/languagebind-video-noclass: no such folder; link the encoder's own folder there"});
    expect_bad_folder(without("encoders/siglip-vit-b16-224px-all-no-cls"), {"encoders/siglip-vit-b16-224px-all-no-cls: no such folder"});
    expect_bad_folder(without("encoders/dinov2-video-all-tokens/config.json"), {"dinov2-video-all-tokens/config.json: no such file"});
    expect_bad_folder(without("encoders/dinov2-video-all-tokens/model.safetensors"), {"dinov2-video-all-tokens: holds neither model.safetensors nor model.safetensors.index.json"});
    expect_bad_folder(without("model.safetensors"), {"model: holds neither model.safetensors nor model.safetensors.index.json"});
    expect_bad_folder(without("llm/model.safetensors"), {"llm: holds neither model.safetensors nor model.safetensors.index.json"});
    expect_bad_folder(without("llm/config.json"), {"llm/config.json: no such file"});
    expect_bad_folder(without("llm/tokenizer.model"), {"llm: no tokenizer.model and no tokenizer.json; copy it from the language model's original folder"});
    expect_bad_folder([](const Model& m) { write_file(m / "llm/tokenizer.model", "\n\x05\n\x03" "abc"); }, {"llm/tokenizer.model: "});
    expect_bad_folder([](const Model& m) { write_file(m / "llm/tokenizer.model", ""); }, {"llm/tokenizer.model: "});
    expect_bad_folder([](const Model& m) { fs::remove(m / "llm/tokenizer.model"), fs::create_directory(m / "llm/tokenizer.model"); }, {"llm/tokenizer.model: "});
    expect_bad_folder([](const Model& m) { write_file(m / "llm/pytorch_model.bin", "x"), fs::remove(m / "llm/model.safetensors"); }, {"llm/pytorch_model.bin: neither torch.save's zip archive nor its older format"});
    if (geteuid() != 0)
        for (const char* file : {"config.json", "model.safetensors", "llm/tokenizer.model", "llm"})
            expect_bad_folder([&](const Model& m) { fs::permissions(m / file, fs::perms::none); }, {file, ": cannot be "});
}

TEST_CASE("ask: settings that make no sense are exit 4 and name file, key and choices") {
    auto set = [](const char* file, const char* pointer, const Json& value) {
        return [=](const Model& m) { m.edit(file, [&](Json& j) { j[Json::json_pointer(pointer)] = value; }); };
    };
    auto text = [](const char* file, const std::string& content) { return [=](const Model& m) { write_file(m / file, content); }; };
    const char *merv = "config.json", *llm = "llm/config.json", *dinov2 = "encoders/dinov2-video-all-tokens/config.json";
    expect_bad_folder(set(merv, "/video_backbone_ids/0", "resnet-50"), {"config.json: video_backbone_ids is \"resnet-50\", which is unknown; the choices are", "dinov2-video-all-tokens"});
    expect_bad_folder(set(merv, "/video_backbone_ids/0", "../../etc"), {"video_backbone_ids is \"../../etc\", which is unknown"});
    expect_bad_folder(set(merv, "/arch_specifier", "magic+linear"), {"config.json: arch_specifier is \"magic+linear\": magic is unknown; the form is"});
    expect_bad_folder(set(merv, "/feature_fusion", "sum"), {"feature_fusion is \"sum\", which is unknown; the choices are cross_attention_avg_lq, first"});
    expect_bad_folder(set(merv, "/feature_fusion", "concat"), {"feature_fusion is \"concat\", which is not supported yet"});
    expect_bad_folder(set(merv, "/image_resize_strategy", "zoom"), {"image_resize_strategy is \"zoom\", which is unknown"});
    expect_bad_folder(set(merv, "/llm_backbone_id", "gpt-5"), {"llm_backbone_id is \"gpt-5\", which is unknown; the choices are llama2-7b-pure"});
    expect_bad_folder(set(merv, "/num_frames", "many"), {"num_frames is \"many\"; a whole number from 1 to 4096 or a list of 4 is expected"});
    expect_bad_folder(set(merv, "/model_id", nullptr), {"model_id is missing"});
    expect_bad_folder(set(merv, "/visual_feature_length", 1024), {"visual_feature_length", "it gives 16 frames of 36 tokens: 576"});
    expect_bad_folder(set(merv, "/projector_token_length", 35), {"projector_token_length is 35; it must be a square"});
    expect_bad_folder(set(llm, "/hidden_size", "wide"), {"llm/config.json: hidden_size is \"wide\"; a whole number"});
    expect_bad_folder([&](const Model& m) { m.edit(llm, [](Json& c) { c["vocab_size"] = 500, c.erase("pad_token_id"); }); }, {"tokenizer.model: 512 pieces, but the language model has 500 rows"});
    expect_bad_folder(set(dinov2, "/architecture", "resnet50"), {dinov2, "architecture is \"resnet50\", which is unknown; the choices are"});
    expect_bad_folder(set(dinov2, "/model_args/num_heads", 7), {dinov2, "model_args.num_heads is 7; it must divide the width, 72"});
    expect_bad_folder(text(merv, ""), {"config.json: not JSON"});
    expect_bad_folder(text(merv, "[]"), {"config.json: must be an object"});
    expect_bad_folder(text(merv, "{\"model_id\": \"a\", \"model_id\": \"b\"}"), {"config.json: the key \"model_id\" is there twice"});
    expect_bad_folder(text(merv, "{\"a\":" + std::string(100000, '[')), {"config.json: nested deeper than 64 levels"});
    expect_bad_folder(text(llm, std::string(100000, '{')), {"llm/config.json: not JSON"});
    expect_bad_folder(text(dinov2, "{\"architecture\": \"\x1b[31mred\"}"), {dinov2});        // raw control characters are not JSON
    expect_bad_folder(set(merv, "/llm_backbone_id", "\x1b[31mred"), {"llm_backbone_id"});
}

TEST_CASE("ask: damaged and malicious safetensors are exit 4") {
    const std::string file = "encoders/siglip-vit-b16-224px-all-no-cls/model.safetensors";
    auto forged = [&](const std::function<void(Json&, std::string&)>& change) { return [&file, change](const Model& m) { m.forge(file, change); }; };
    auto bytes = [&](const std::function<std::string(std::string)>& change) { return [&file, change](const Model& m) { write_file(m / file, change(read_file(m / file))); }; };
    auto offsets = [](Json& h, const char* name) -> Json& { return h[name]["data_offsets"]; };
    const char *patch = "patch_embed.proj.weight", *pos = "pos_embed";
    struct Case { std::function<void(const Model&)> damage; Words parts; };
    for (const auto& [damage, parts] : std::vector<Case>{
             {bytes([](std::string b) { return b.substr(0, b.size() - 100); }), {"the file is cut short", "get it again"}},
             {bytes([](std::string b) { return b.substr(0, 200); }), {"a header of ", "the file is cut short"}},
             {bytes([](std::string b) { return b.substr(0, 5); }), {"only 5 bytes"}},
             {bytes([](std::string) { return ""; }), {"the file is empty; get it again"}},
             {bytes([](std::string b) { return b + "tail"; }), {"4 bytes after the last tensor"}},
             {bytes([](std::string b) { return "\xff\xff\xff\xff\xff\xff\xff\x7f" + b.substr(8); }), {"a header of 9223372036854775807 bytes; at most 100000000 are allowed"}},
             {bytes([](std::string b) { return b.substr(0, 8) + "?" + b.substr(9); }), {"the header does not start with {"}},
             {bytes([](std::string b) { return b.substr(0, 9) + "?" + b.substr(10); }), {"the header is not JSON"}},
             {forged([&](Json& h, std::string&) { offsets(h, patch) = offsets(h, pos); }), {}},
             {forged([&](Json& h, std::string&) { offsets(h, pos)[0] = offsets(h, pos)[0].get<int64_t>() + 4; }), {"pos_embed has ", " bytes where "}},
             {forged([&](Json& h, std::string& d) { h["twin"] = h[pos], d += ""; }), {"overlap"}},
             {forged([](Json&, std::string& d) { d.insert(0, "hole"); }), {" bytes after the last tensor"}},
             {forged([](Json& h, std::string& d) {
                  for (auto& [name, e] : h.items()) if (name != "__metadata__") for (Json& at : e["data_offsets"]) at = at.get<int64_t>() + 8;
                  d.insert(0, 8, 'x');
              }), {"bytes 0 to 8 belong to no tensor"}},
             {forged([&](Json& h, std::string&) { h[pos]["shape"] = Json::parse("[4294967296,4294967296,4294967296]"); }), {"pos_embed has more than 2^62 elements"}},
             {forged([&](Json& h, std::string&) { h[pos]["shape"] = Json::parse("[-1]"); }), {"pos_embed"}},
             {forged([&](Json& h, std::string&) { h[pos]["dtype"] = "F12"; }), {"pos_embed has the dtype F12, which is not supported"}},
             {forged([&](Json& h, std::string&) { h[pos].erase("dtype"); }), {"pos_embed has no dtype"}},
             {forged([&](Json& h, std::string&) { h[pos] = 7; }), {"pos_embed"}},
             {forged([&](Json& h, std::string&) { h["__metadata__"] = {{"a", Json::array()}}; }), {"__metadata__"}},
             {forged([&](Json& h, std::string&) { h = Json::array(); }), {"the header does not start with {"}},
         })
        expect_bad_folder(damage, Words{file} + parts);
}

TEST_CASE("ask: tensors renamed, missing, added, mis-shaped or of a useless type are exit 4, ten names on each side") {
    const std::string llm = "llm/model.safetensors", siglip = "encoders/siglip-vit-b16-224px-all-no-cls/model.safetensors";
    auto forged = [](const std::string& file, const std::function<void(Json&)>& change) {
        return [=](const Model& m) { m.forge(file, [&](Json& h, std::string&) { change(h); }); };
    };
    auto renamed = [](const std::string& file, const std::function<std::string(const std::string&)>& to) { return [=](const Model& m) { m.rename(file, to); }; };
    expect_bad_folder(renamed(llm, [](const std::string& n) { return n == "model.norm.weight" ? "model.nrom.weight" : n; }),
                      {llm + ": does not hold the language model", "\n  missing (1): model.norm.weight\n", "\n  unexpected (1): model.nrom.weight\n"});
    expect_bad_folder(renamed("model.safetensors", [](const std::string& n) { return n == "feature_fusion.Q" ? "Q" : n; }), {"model.safetensors: no feature_fusion.Q"});
    expect_bad_folder(renamed("model.safetensors", [](const std::string& n) { return n.starts_with("projectors.3.") ? "projectors.4." + n.substr(13) : n; }),
                      {"missing (2): projectors.3.projector.projector.", "unexpected (2): projectors.4.projector.projector."});
    expect_bad_folder(forged(siglip, [](Json& h) { std::swap(h["pos_embed"]["shape"][1], h["pos_embed"]["shape"][2]); }),
                      {siglip + ": does not hold the siglip encoder", "shapes that differ (1): pos_embed (1, 80, 196) instead of (1, 196, 80)"});
    expect_bad_folder(forged(siglip, [](Json& h) { h["pos_embed"]["dtype"] = h["pos_embed"]["dtype"] == "F32" ? "I32" : "I16"; }), {"dtypes that cannot be used (1): pos_embed I"});
    expect_bad_folder([&](const Model& m) { m.edit("llm/config.json", [](Json& c) { c["num_hidden_layers"] = 1; }); }, {"\n  unexpected (9): model.layers.1."});
    expect_bad_folder([&](const Model& m) { m.edit("llm/config.json", [](Json& c) { c["intermediate_size"] = 160; }); }, {"\n  shapes that differ (6): model.layers.0.mlp."});

    Model m;                                    // everything has another name
    m.rename(llm, [](const std::string& n) { return "x." + n; });
    const Run r = ask({"-q", "-m", m.folder, "-p", "hi"});
    expect_refused(r, Exit::bad_weights, {"\n  missing (21): ", "\n  unexpected (21): "});
    for (const char* side : {"missing", "unexpected"}) {
        const size_t at = r.err.find(std::string("\n  ") + side), end = r.err.find('\n', at + 1);
        const std::string list = r.err.substr(at, end - at);
        EXPECT_EQ(std::count(list.begin(), list.end(), ','), 10);
        EXPECT(list.ends_with(", ..."));
    }
    Model nan;                                  // values that are no numbers: exit 6
    nan.forge(llm, [](Json& h, std::string& d) {
        const Json at = h["lm_head.weight"]["data_offsets"];
        std::fill(d.begin() + at[0].get<int64_t>(), d.begin() + at[1].get<int64_t>(), '\xff');
    });
    expect_refused(ask({"-q", "-m", nan.folder, "-p", "hi"}), Exit::numerics, {"the logit of token 0 is", "the weights or the input are broken"});
}
