// models/config: what the reference, timm and Hugging Face write is read; every contradiction is named with file, key and value.
#include "tests/test.h"
#include <fstream>
#include "core/check.h"
#include "models/config.h"

using namespace merv;
using test::TempDir;

// The message with which `read` refuses; empty if it accepts.
template <class F> static std::string refusal(F&& read) {
    try { read(); } catch (const Error& e) { EXPECT(e.code == Exit::bad_weights); return e.what(); }
    return "";
}
#define EXPECT_REFUSED(message, text) EXPECT_MESSAGE((message).find(text) != std::string::npos, "got '", message, "' instead of '", text, "'")

// A flat JSON object with some values replaced: with(base, "key", "json"). An empty replacement takes the key out.
static std::string with(std::string json, const std::string& key, const std::string& value) {
    const size_t at = json.find("\"" + key + "\":");
    if (at == std::string::npos) return json.substr(0, json.size() - 1) + ", \"" + key + "\": " + value + "}";
    size_t end = at, depth = 0;
    while (depth || (json[end] != ',' && json[end] != '}')) depth += json[end] == '[' || json[end] == '{', depth -= json[end] == ']' || json[end] == '}', end++;
    if (!value.empty()) return json.replace(at, end - at, "\"" + key + "\": " + value);
    return json.erase(at, end - at + (json[end] == ','));
}

static const std::string merv_base = R"({"model_id": "merv-base", "arch_specifier": "no-align+3davg+linear", "feature_fusion": "cross_attention_avg_lq",
 "video_backbone_ids": ["languagebind-video-noclass", "dinov2-video-all-tokens", "vivit-google-b-all-no-cls-16frames", "siglip-vit-b16-224px-all-no-cls"],
 "llm_backbone_id": "llama2-7b-pure", "image_resize_strategy": "resize-naive", "llm_max_length": 2048, "num_frames": [16, 16, 32, 16],
 "projector_token_length": 64, "visual_feature_length": 1024, "finetune_epochs": 1, "finetune_max_steps": null})";
static std::string merv_refusal(const std::string& key, const std::string& value) {
    return refusal([&] { parse_merv_config(with(merv_base, key, value), "F"); });
}

TEST_CASE("merv config: the released model's") {
    const MervConfig c = parse_merv_config(merv_base, "F");
    EXPECT_EQ(c.model_id, "merv-base");
    EXPECT_EQ(c.video_backbone_ids.size(), 4);
    EXPECT(c.num_frames == std::vector<int>{16, 16, 32, 16});
    EXPECT(c.image_size == std::vector<int>{224, 224, 224, 224});
    EXPECT_EQ(c.most_frames(), 32);
    EXPECT_EQ(c.grid(), 8);
    EXPECT_EQ(c.llm_max_length, 2048);
    EXPECT(c.arch.no_align);
    EXPECT(c.arch.resampler == Arch::Resampler::avg3d);
    EXPECT(c.arch.mapping == Arch::Mapping::linear);
    EXPECT_EQ(c.raw, merv_base);
}

TEST_CASE("merv config: numbers that stand for all backbones") {
    std::string single = with(with(merv_base, "video_backbone_ids", "[\"siglip-vit-b16-224px-all-no-cls\"]"), "num_frames", "16");
    EXPECT(parse_merv_config(single, "F").num_frames == std::vector<int>{16});
    EXPECT(parse_merv_config(with(single, "image_size", "64"), "F").image_size == std::vector<int>{64});
    EXPECT(parse_merv_config(with(merv_base, "image_size", "[64, 56, 64, 64]"), "F").image_size == std::vector<int>{64, 56, 64, 64});
    EXPECT_EQ(parse_merv_config(with(merv_base, "image_size", "null"), "F").image_size[0], 224);
}

TEST_CASE("merv config: wrong types and missing keys") {
    EXPECT_EQ(merv_refusal("llm_max_length", "\"2048\""), "F: llm_max_length is \"2048\"; a whole number from 1 to 16777216 is expected");
    EXPECT_EQ(merv_refusal("llm_max_length", "2048.0"), "F: llm_max_length is 2048.0; a whole number from 1 to 16777216 is expected");
    EXPECT_EQ(merv_refusal("model_id", "7"), "F: model_id is 7; a text is expected");
    EXPECT_EQ(merv_refusal("model_id", "null"), "F: model_id is missing; a text is expected");
    EXPECT_EQ(merv_refusal("projector_token_length", ""), "F: projector_token_length is missing; a whole number from 1 to 65536 is expected");
    EXPECT_REFUSED(merv_refusal("num_frames", "[16, 16, 32]"), "num_frames is [16,16,32]; a whole number from 1 to 4096 or a list of 4 is expected");
    EXPECT_REFUSED(merv_refusal("num_frames", "[16, 16, 32, true]"), "or a list of 4 is expected");
    EXPECT_REFUSED(merv_refusal("num_frames", "[16, 16, 32, 0]"), "or a list of 4 is expected");
    EXPECT_REFUSED(merv_refusal("video_backbone_ids", "[]"), "a list of 1 to 16 texts is expected");
    EXPECT_REFUSED(merv_refusal("video_backbone_ids", "[1]"), "a list of texts is expected");
    EXPECT_REFUSED(refusal([] { parse_merv_config("[]", "F"); }), "F: must be an object");
}

TEST_CASE("merv config: choices, those to come and those unknown") {
    EXPECT_EQ(merv_refusal("feature_fusion", "\"concat\""), "F: feature_fusion is \"concat\", which is not supported yet; the choices are cross_attention_avg_lq, first");
    EXPECT_REFUSED(merv_refusal("feature_fusion", "\"mean\""), "is \"mean\", which is unknown; the choices are cross_attention_avg_lq, first");
    EXPECT_REFUSED(merv_refusal("llm_backbone_id", "\"qwen3-4b\""), "is unknown; the choices are llama2-7b-pure,");
    EXPECT_REFUSED(merv_refusal("llm_backbone_id", "\"gpt-2\""), "unknown; the choices are llama2-7b-pure,");
    EXPECT_REFUSED(merv_refusal("image_resize_strategy", "\"letterbox\""), "goes with resize-naive only");
    EXPECT_REFUSED(merv_refusal("video_backbone_ids", "[\"hiera-base-plus-video\"]"), "not supported yet; the choices are languagebind-video-noclass, dinov2");
    EXPECT_REFUSED(merv_refusal("video_backbone_ids", "[\"clip\"]"), "is \"clip\", which is unknown; the choices are languagebind-video-noclass");
}

TEST_CASE("merv config: frames and lengths that do not fit each other") {
    EXPECT_REFUSED(merv_refusal("num_frames", "[16, 24, 32, 16]"), "each must be a multiple of the smallest and divide the largest");
    EXPECT_REFUSED(merv_refusal("num_frames", "[8, 24, 32, 16]"), "each must be a multiple of the smallest and divide the largest");      // 32 // 24 would silently give 32 frames
    EXPECT_REFUSED(merv_refusal("projector_token_length", "60"), "projector_token_length is 60; it must be a square");
    EXPECT_EQ(merv_refusal("visual_feature_length", "1000"),
              "F: visual_feature_length for languagebind-video-noclass is 1000; it gives 16 frames of 64 tokens: 1024");
    EXPECT_REFUSED(merv_refusal("num_frames", "[16, 8, 32, 16]"), "for dinov2-video-all-tokens is 1024; it gives 8 frames of 64 tokens: 512");
    EXPECT_REFUSED(merv_refusal("arch_specifier", "\"3davg+frame20+linear\""), "frame{k} of arch_specifier for languagebind-video-noclass is 20; there are only 16 frames");
    EXPECT_EQ(refusal([] { parse_merv_config(with(with(merv_base, "arch_specifier", "\"3davg+frame2+linear\""), "visual_feature_length", "512"), "F"); }), "");
}

TEST_CASE("arch specifier: the reference's forms") {
    const Arch a = parse_arch("avg+gelu-mlp", "F"), b = parse_arch("no-align+3davg+frame2+fused-gelu-mlp", "F");
    EXPECT(a.resampler == Arch::Resampler::avg2d);
    EXPECT(a.mapping == Arch::Mapping::gelu_mlp);
    EXPECT_FALSE(a.no_align);
    EXPECT_EQ(b.temporal_factor, 2);
    EXPECT(b.mapping == Arch::Mapping::fused_gelu_mlp);
    auto wrong = [](const std::string& s) { return refusal([&] { parse_arch(s, "F"); }); };
    EXPECT_REFUSED(wrong("no-align+conv+linear"), "conv is not supported yet; the form is [no-align+]avg|3davg");
    EXPECT_REFUSED(wrong("3davg+none"), "none is not supported yet");
    EXPECT_REFUSED(wrong("linear"), "projectors without a resampler are not supported yet");
    EXPECT_REFUSED(wrong("4davg+linear"), "4davg is unknown");
    EXPECT_REFUSED(wrong("3davg+mlp"), "mlp is unknown");
    EXPECT_REFUSED(wrong("3davg+avg+linear"), "avg comes on top of another choice");
    EXPECT_REFUSED(wrong("avg+frame2+linear"), "frame{k} goes with 3davg only");
    EXPECT_REFUSED(wrong("3davg+frame0+linear"), "frame needs a number from 1");
    EXPECT_REFUSED(wrong("3davg+frame99999999999+linear"), "frame needs a number from 1");
    for (const char* s : {"", "+", "no-align", "no-align+", "3davg+", "3davg++linear"}) EXPECT_NE(wrong(s), "");
}

TEST_CASE("timm config: architectures by name, with what model_args says") {
    const TimmConfig d = parse_timm_config(R"({"architecture": "vit_large_patch14_reg4_dinov2.lvd142m", "num_classes": 0})", "F");
    EXPECT_EQ(d.architecture, "vit_large_patch14_reg4_dinov2");
    EXPECT(std::vector<int>{d.image, d.patch, d.width, d.depth, d.heads, d.hidden, d.reg_tokens} == std::vector<int>{518, 14, 1024, 24, 16, 4096, 4});
    EXPECT_EQ(d.init_values, 1e-5);
    EXPECT(d.class_token);
    EXPECT(d.no_embed_class);
    const TimmConfig s = parse_timm_config(R"({"model_cfg": {"embed_dim": 768, "vision_cfg": {"image_size": 224, "timm_model_name": "vit_base_patch16_siglip_224"}}})", "F");
    EXPECT(std::vector<int>{s.image, s.patch, s.width, s.depth, s.heads, s.hidden, s.reg_tokens} == std::vector<int>{224, 16, 768, 12, 12, 3072, 0});
    EXPECT_EQ(s.init_values, 0);
    EXPECT_FALSE(s.class_token);
    EXPECT_EQ(s.global_pool, "map");
    const TimmConfig tiny = parse_timm_config(R"({"architecture": "vit_large_patch14_reg4_dinov2",
        "model_args": {"img_size": [252, 252], "patch_size": 14, "embed_dim": 72, "depth": 3, "num_heads": 3, "mlp_ratio": 2.25, "reg_tokens": null, "act_layer": "gelu_tanh"}})", "F");
    EXPECT(std::vector<int>{tiny.image, tiny.width, tiny.depth, tiny.heads, tiny.hidden, tiny.reg_tokens} == std::vector<int>{252, 72, 3, 3, 162, 4});
    EXPECT_EQ(tiny.act, "gelu_pytorch_tanh");
}

TEST_CASE("timm config: what cannot be run") {
    auto dino = [](const std::string& args) {
        return refusal([&] { parse_timm_config("{\"architecture\": \"vit_large_patch14_reg4_dinov2\", \"model_args\": {" + args + "}}", "F"); });
    };
    EXPECT_EQ(refusal([] { parse_timm_config(R"({"architecture": "vit_tiny"})", "F"); }),
              "F: architecture is \"vit_tiny\", which is unknown; the choices are vit_large_patch14_reg4_dinov2, vit_base_patch16_siglip_224");
    EXPECT_REFUSED(refusal([] { parse_timm_config("{}", "F"); }), "architecture is missing");
    EXPECT_REFUSED(refusal([] { parse_timm_config(R"({"model_cfg": {}})", "F"); }), "model_cfg.vision_cfg is missing");
    EXPECT_EQ(dino("\"embed_dim\": 100"), "F: model_args.num_heads is missing; it must divide the width, 100");
    EXPECT_REFUSED(dino("\"num_heads\": 4"), "model_args.num_heads is 4; with width 1024 a head has 256 dimensions; a multiple of 4, at most 128");
    EXPECT_REFUSED(dino("\"embed_dim\": 96"), "a head has 6 dimensions");
    EXPECT_REFUSED(dino("\"img_size\": 500"), "it must divide the image size, 500");
    EXPECT_REFUSED(dino("\"img_size\": [518, 224]"), "only square images are supported");
    EXPECT_REFUSED(dino("\"qk_norm\": true"), "model_args.qk_norm is true; normalising queries and keys is not supported yet; only false is");
    EXPECT_REFUSED(dino("\"class_token\": 1"), "model_args.class_token is 1; true or false is expected");
    EXPECT_REFUSED(dino("\"mlp_ratio\": -1"), "mlp_ratio is -1; a number from 0.01 to 16 is expected");
}

TEST_CASE("vivit config: transformers' defaults and what contradicts") {
    const VivitConfig c = parse_vivit_config("{}", "F");
    EXPECT(std::vector<int>{c.image, c.frames, c.tubelet[0], c.tubelet[1], c.width, c.layers, c.heads, c.mlp} == std::vector<int>{224, 32, 2, 16, 768, 12, 12, 3072});
    EXPECT_EQ(c.eps, 1e-6);
    EXPECT_EQ(c.act, "gelu_fast");
    EXPECT(c.qkv_bias);
    auto wrong = [](const std::string& json) { return refusal([&] { parse_vivit_config(json, "F"); }); };
    EXPECT_REFUSED(wrong(R"({"model_type": "videomae"})"), "model_type is \"videomae\", which is unknown; the choices are vivit");
    EXPECT_REFUSED(wrong(R"({"tubelet_size": [3, 16, 16]})"), "its first number must divide num_frames, 32");
    EXPECT_REFUSED(wrong(R"({"tubelet_size": [2, 16, 15]})"), "its last numbers must divide the image size, 224");
    EXPECT_REFUSED(wrong(R"({"tubelet_size": [2, 16]})"), "or a list of 3 is expected");
    EXPECT_REFUSED(wrong(R"({"hidden_act": "relu"})"), "hidden_act is \"relu\", which is unknown; the choices are gelu, gelu_fast, gelu_new, gelu_pytorch_tanh, quick_gelu");
    EXPECT_REFUSED(wrong(R"({"num_attention_heads": 7})"), "num_attention_heads is 7; it must divide the width, 768");
    EXPECT_REFUSED(wrong(R"({"num_channels": 1})"), "another number of channels is not supported yet");
}

TEST_CASE("languagebind config: the vision tower's") {
    const LanguageBindConfig c = parse_languagebind_config(R"({"vision_config": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
        "num_attention_heads": 16, "image_size": 224, "patch_size": 14, "hidden_act": "gelu", "add_time_attn": true, "num_frames": 8}})", "F");
    EXPECT(std::vector<int>{c.width, c.mlp, c.layers, c.heads, c.image, c.patch, c.num_frames} == std::vector<int>{1024, 4096, 24, 16, 224, 14, 8});
    EXPECT_EQ(c.act, "gelu");
    EXPECT(c.add_time_attn);
    EXPECT_EQ(c.eps, 1e-5);
    EXPECT_EQ(parse_languagebind_config(R"({"vision_config": {}})", "F").act, "quick_gelu");         // the class's default
    EXPECT_REFUSED(refusal([] { parse_languagebind_config("{}", "F"); }), "vision_config is missing; an object with the video tower's sizes");
    EXPECT_REFUSED(refusal([] { parse_languagebind_config(R"({"vision_config": {"patch_size": 13}})", "F"); }), "vision_config.patch_size is 13; it must divide the image size, 224");
}

static const std::string llama2 = R"({"architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096,
 "intermediate_size": 11008, "max_position_embeddings": 4096, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
 "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": null, "tie_word_embeddings": false, "vocab_size": 32000, "torch_dtype": "float16"})";

TEST_CASE("llama config: LLaMA-2's, and rope scaling") {
    const LlamaConfig c = parse_llama_config(llama2, "F");
    EXPECT(std::vector<int>{c.vocab, c.width, c.layers, c.heads, c.kv_heads, c.head_dim, c.mlp, c.max_positions} == std::vector<int>{32000, 4096, 32, 32, 32, 128, 11008, 4096});
    EXPECT_EQ(c.eps, 1e-5);
    EXPECT_EQ(c.theta, 10000);
    EXPECT_EQ(c.rope_type, "default");
    EXPECT_FALSE(c.tied);
    EXPECT_EQ(parse_llama_config(with(llama2, "num_key_value_heads", ""), "F").kv_heads, 32);
    EXPECT_EQ(parse_llama_config(with(llama2, "head_dim", "64"), "F").head_dim, 64);
    const LlamaConfig biased = parse_llama_config(with(llama2, "attention_bias", "true"), "F"), qwen2 = parse_llama_config(with(llama2, "model_type", "\"qwen2\""), "F");
    EXPECT_FALSE((c.qkv_bias || c.o_bias || qwen2.o_bias));
    EXPECT((biased.qkv_bias && biased.o_bias && qwen2.qkv_bias));
    const std::string scaling = R"({"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"})";
    for (const char* key : {"rope_scaling", "rope_parameters"}) {
        const LlamaConfig l = parse_llama_config(with(with(llama2, key, scaling), "rope_theta", "500000.0"), "F");
        EXPECT_EQ(l.rope_type, "llama3");
        EXPECT_EQ(l.rope_factor, 32);
        EXPECT_EQ(l.original_max_positions, 8192);
        EXPECT_EQ(l.theta, 500000);
    }
    EXPECT_EQ(parse_llama_config(with(llama2, "rope_parameters", R"({"rope_theta": 7.0, "rope_type": "default"})"), "F").theta, 7);
    auto wrong = [](const std::string& key, const std::string& value) { return refusal([&] { parse_llama_config(with(llama2, key, value), "F"); }); };
    EXPECT_REFUSED(wrong("rope_scaling", R"({"type": "yarn", "factor": 2})"), "rope_scaling.type is \"yarn\", which is not supported yet; the choices are default, linear, llama3");
    EXPECT_REFUSED(wrong("rope_scaling", R"({"type": "linear"})"), "rope_scaling.factor is missing");
    EXPECT_REFUSED(wrong("rope_scaling", "2"), "rope_scaling must be an object");
    EXPECT_REFUSED(wrong("vocab_size", ""), "vocab_size is missing");
    EXPECT_REFUSED(wrong("num_key_value_heads", "5"), "num_key_value_heads is 5; it must divide num_attention_heads, 32");
    EXPECT_REFUSED(wrong("num_attention_heads", "16"), "a head has 256 dimensions; a multiple of 4, at most 128, is supported");
    EXPECT_REFUSED(wrong("head_dim", "66"), "head_dim is 66; a multiple of 4");
    EXPECT_REFUSED(wrong("mlp_bias", "true"), "an MLP with biases is not supported yet");
    EXPECT_REFUSED(wrong("use_sliding_window", "true"), "attention in a sliding window is not supported yet");
    EXPECT_REFUSED(wrong("hidden_act", "\"gelu\""), "not supported yet; the choices are silu");
    EXPECT_REFUSED(wrong("model_type", "\"mistral\""), "model_type is \"mistral\", which is unknown");
    EXPECT_REFUSED(wrong("rms_norm_eps", "\"1e-5\""), "rms_norm_eps is \"1e-5\"; a number from 0 to 1 is expected");
}

TEST_CASE("llama config: ids from generation_config.json, then config.json, then left to the tokenizer") {
    const LlamaConfig own = parse_llama_config(llama2, "F");
    EXPECT_EQ(own.bos, 1);
    EXPECT(own.eos == std::vector<int>{2});
    EXPECT_EQ(own.pad, -1);
    const LlamaConfig both = parse_llama_config(with(llama2, "pad_token_id", "0"), "F", R"({"eos_token_id": [7, 8], "pad_token_id": 5, "temperature": 0.6})", "G");
    EXPECT_EQ(both.bos, 1);
    EXPECT(both.eos == std::vector<int>{7, 8});
    EXPECT_EQ(both.pad, 0);
    const LlamaConfig none = parse_llama_config(with(with(llama2, "bos_token_id", "null"), "eos_token_id", ""), "F");
    EXPECT_EQ(none.bos, -1);
    EXPECT(none.eos.empty());
    EXPECT_REFUSED(refusal([] { parse_llama_config(llama2, "F", R"({"eos_token_id": 32000})", "G"); }), "G: eos_token_id is 32000; whole numbers from 0 to 31999");
    EXPECT_REFUSED(refusal([] { parse_llama_config(with(llama2, "pad_token_id", "32000"), "F"); }), "F: pad_token_id is 32000;");
    TempDir dir;
    std::ofstream(dir / "config.json") << llama2;
    EXPECT_EQ(read_llama_config(dir.path.string()).bos, 1);
    std::ofstream(dir / "generation_config.json") << R"({"bos_token_id": 3})";
    EXPECT_EQ(read_llama_config(dir.path.string()).bos, 3);
    std::ofstream(dir / "generation_config.json").close();               // empty: damaged, not absent
    EXPECT_REFUSED(refusal([&] { read_llama_config(dir.path.string()); }), "generation_config.json: not JSON");
}

TEST_CASE("a backbone and its encoder's config must agree") {
    const MervConfig c = parse_merv_config(merv_base, "F");
    LanguageBindConfig lb;
    lb.num_frames = 8;
    require_fit(c, 0, lb);
    lb.num_frames = 6;
    EXPECT_EQ(refusal([&] { require_fit(c, 0, lb); }), "F: num_frames for languagebind-video-noclass is 16; a multiple of its own num_frames 6 is expected");
    lb.image = 336;
    EXPECT_REFUSED(refusal([&] { require_fit(c, 0, lb); }), "image_size for languagebind-video-noclass is 224; its own image_size 336 is expected");
    TimmConfig timm;
    require_fit(c, 3, timm);
    timm.patch = 15;
    EXPECT_REFUSED(refusal([&] { require_fit(c, 3, timm); }), "image_size for siglip-vit-b16-224px-all-no-cls is 224; a multiple of its patch size 15");
    VivitConfig v;
    require_fit(c, 2, v);
    v.tubelet[0] = 4;
    EXPECT_REFUSED(refusal([&] { require_fit(c, 2, v); }), "visual_feature_length for vivit-google-b-all-no-cls-16frames is 1024; it gives 8 frames of 64 tokens: 512");
    v.frames = 16;
    EXPECT_REFUSED(refusal([&] { require_fit(c, 2, v); }), "num_frames for vivit-google-b-all-no-cls-16frames is 32; its own num_frames 16 is expected");
}

TEST_CASE("config files: damaged JSON and wrong places") {
    TempDir dir;
    auto reading = [&](const std::string& text) {
        std::ofstream(dir / "config.json", std::ios::binary) << text;
        return refusal([&] { read_merv_config(dir / "config.json"); });
    };
    EXPECT_REFUSED(refusal([&] { read_merv_config(dir / "config.json"); }), "config.json: no such file");
    EXPECT_REFUSED(refusal([&] { read_merv_config(dir.path.string()); }), "a file is expected, this is a folder");
    EXPECT_REFUSED(reading(""), "config.json: not JSON");
    EXPECT_REFUSED(reading(merv_base + "x"), "config.json: not JSON");
    EXPECT_REFUSED(reading(merv_base + std::string(1, '\0')), "not JSON: a zero byte");
    EXPECT_REFUSED(reading("{\"a\":\"\xff\"}"), "not JSON");
    EXPECT_REFUSED(reading(with(merv_base, "other", std::string(70, '[') + std::string(70, ']'))), "nested deeper than 64 levels");
    EXPECT_REFUSED(reading(with(merv_base, "other", std::string(200000, '['))), "nested deeper than 64 levels");
    EXPECT_REFUSED(reading("{\"model_id\":1,\"model_id\":2}"), "the key \"model_id\" is there twice");
    EXPECT_REFUSED(reading("{\"llm_max_length\":9223372036854775808}"), "9223372036854775808 (key \"llm_max_length\") is beyond 64-bit integers");
    EXPECT_REFUSED(reading("{\"llm_max_length\":-99999999999999999999}"), "is beyond 64-bit integers");
    EXPECT_REFUSED(reading("{\"a\":NaN}"), "not JSON");
    EXPECT_REFUSED(reading("{\"a\":1e999}"), "not JSON");
    EXPECT_REFUSED(reading(std::string(17 << 20, ' ')), "larger than 16777216 bytes");
    EXPECT_REFUSED(reading("{\"a\0\":1}"), "not JSON");
    EXPECT_EQ(reading(with(merv_base, "anything", "[{\"deep\": [1, 2.5, null, \"text\", true]}]")), "");      // unknown keys are kept, not refused
}
