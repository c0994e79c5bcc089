"""Makes what torch itself writes, tiny: the files of the pickle reader's tests, and the parts of a MERV model as they are published.

    PY tests/golden/published.py --reference REF --out tests/golden      (PY, REF: see make.py)

writes OUT/torch/ (one file per format and peculiarity, expected.safetensors: what they hold) and OUT/published/ (a folder per
part, each in the names, file names and formats of the original; expected.json: every tensor that the imported folder must have,
with its shape and the start of its values' SHA-256, after timm's own conversions; and for the full-size architectures the number of
tensors and the SHA-256 of their names and shapes). Run by hand, never in CI. The weights are seeded random numbers.
"""

import argparse
import hashlib
import json
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path

import make
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, VivitConfig, VivitForVideoClassification, VivitModel

# ------------------------------------------------------------------------------------------------------ the pickle reader's


def tensors():
    torch.manual_seed(5)
    base = torch.arange(60, dtype=torch.float32).reshape(5, 12)
    half = torch.randn(4, 3)
    return {
        "whole": base,
        "rows": base[1:3],  # the rest shares its storage: offsets, strides
        "columns": base[:, 2:7],
        "transposed": base.t(),
        "stepped": base[::2, 1::3],
        "diagonal": base[:5, :5].diagonal(),
        "repeated": torch.tensor([[1.5], [2.5]]).expand(2, 4),
        "permuted": torch.randn(2, 3, 4, 5).permute(3, 1, 0, 2),
        "one_wide": base[:, 3:4].t(),
        "f16": half.half(),
        "bf16": half.bfloat16(),
        "bf16_transposed": half.bfloat16().t(),
        "f64": half.double(),
        "i64": torch.tensor([[1, -2], [3, 2**40]]),
        "i32": torch.tensor([7, -8], dtype=torch.int32),
        "i16": torch.tensor([7, -8], dtype=torch.int16),
        "i8": torch.tensor([7, -8], dtype=torch.int8),
        "u8": torch.tensor([0, 255], dtype=torch.uint8),
        "bool": torch.tensor([True, False, True]),
        "c64": torch.tensor([1 + 2j]),
        "scalar": torch.tensor(3.25),
        "empty": torch.zeros(0, 4),
        "parameter": nn.Parameter(half.clone()),
    }


def tree(t):
    """As a training run saves it: tensors in dicts in dicts, beside things that are no tensors."""
    model = OrderedDict((k, v) for k, v in t.items())
    model._metadata = OrderedDict({"": {"version": 1}})
    optimizer = {"state": {0: {"step": torch.tensor(5.0), "betas": (0.9, 0.999)}}, "param_groups": [{"lr": 1e-3, "params": [0, 1], "fused": None}]}
    return {"model": model, "optimizer": optimizer, "step": 70000, "big": 2**40, "name": "run", "bytes": b"raw", "device": torch.device("cpu"), "shape": torch.Size([2, 3]), "dtype": torch.float16, "list": [t["rows"], 1]}


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.sizes = [1, 2, 3]

    def forward(self, x):
        return self.fc(x)


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Inner()
        self.register_buffer("table", torch.arange(4))
        self.layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 1)])
        self.names = {"a": 1.5}

    def forward(self, x):
        x = self.inner(x)
        for layer in self.layers:
            x = layer(x)
        return x


def drop_debug(path):
    """TorchScript notes which source files it came from, as paths of this machine."""
    with zipfile.ZipFile(path) as old:
        entries = [(i.filename, i.compress_type, old.read(i)) for i in old.infolist() if not i.filename.endswith(".debug_pkl")]
    with zipfile.ZipFile(path, "w") as new:
        for name, how, data in entries:
            new.writestr(zipfile.ZipInfo(name), data, how)


def write_torch(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    t = tensors()
    torch.save(tree(t), folder / "zip.pt")
    torch.save(tree(t), folder / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(tree(t), folder / "protocol4.pt", pickle_protocol=4)
    expected = {"model." + k: v.detach().contiguous().clone() for k, v in t.items()}
    expected["optimizer.state.0.step"], expected["list.0"] = torch.tensor(5.0), t["rows"].contiguous().clone()
    save_file(expected, folder / "expected.safetensors")

    torch.manual_seed(6)
    module = Outer().half()
    torch.jit.save(torch.jit.script(module), folder / "script.pt")
    drop_debug(folder / "script.pt")
    save_file({k: v.contiguous() for k, v in module.state_dict().items()}, folder / "script.safetensors")
    newer = {"f8": torch.tensor([0.5, -2.0]).to(torch.float8_e4m3fn)}
    torch.save(newer, folder / "f8.pt")
    save_file(newer, folder / "f8.safetensors")

    # what is refused, with the reason in its name
    torch.save({"w": torch.tensor([1 + 2j], dtype=torch.complex128)}, folder / "refused_complex128.pt")
    torch.save({"w": torch.eye(2).to_sparse()}, folder / "refused_sparse.pt")
    torch.save({"w": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, folder / "refused_quantised.pt")
    torch.save({"w": torch.zeros(1, 1, 1, 1, 1, 1, 1)}, folder / "refused_rank7.pt")
    torch.save(nn.Linear(1, 1), folder / "refused_module.pt")


# ---------------------------------------------------------------------------------------------------------- the parts, tiny

IMAGE, PATCH, LLM_WIDTH, ROWS = 24, 8, 16, 64
LANGUAGEBIND = {
    "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 12, "projection_dim": 6, "image_size": IMAGE,
    "patch_size": PATCH, "hidden_act": "gelu", "layer_norm_eps": 1e-5, "add_time_attn": True, "num_frames": 8, "force_patch_dropout": 0.0, "lora_r": 0,
}  # fmt: skip
DINOV2 = {"img_size": IMAGE, "patch_size": PATCH, "embed_dim": 12, "depth": 2, "num_heads": 3, "mlp_ratio": 2, "init_values": 1e-5, "reg_tokens": 4, "no_embed_class": True}
SIGLIP = {"img_size": IMAGE, "patch_size": PATCH, "embed_dim": 8, "depth": 2, "num_heads": 2, "mlp_ratio": 2, "class_token": False, "global_pool": "map"}
VIVIT = {
    "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 12, "num_frames": 16, "image_size": IMAGE,
    "tubelet_size": [2, PATCH, PATCH], "hidden_act": "gelu_fast", "layer_norm_eps": 1e-6, "qkv_bias": True,
}  # fmt: skip
LLAMA = {
    "vocab_size": 40, "hidden_size": LLM_WIDTH, "num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 1, "intermediate_size": 24,
    "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip
MERV = {**make.MERV, "model_id": "published-tiny", "num_frames": [8, 8, 16, 8], "projector_token_length": 4, "visual_feature_length": 32, "llm_max_length": 64, "image_size": IMAGE}


def sha256(tensor):
    return hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest()[:16]


def names_of(state):
    text = "".join(sorted(f"{k} {list(v.shape)}\n" for k, v in state.items()))
    return [len(state), hashlib.sha256(text.encode()).hexdigest()]


def prefixed(prefix, state):
    return {prefix + k: v for k, v in state.items()}


def write_published(ref, folder):
    shutil.rmtree(folder, ignore_errors=True)
    want = {}

    def save(path, state, expected=None, **how):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, folder / path, **how)
        if expected is not None:
            want[path.split("/")[0]] = {k: [list(v.shape), sha256(v.float())] for k, v in sorted(expected.items())}

    def seeded(seed):
        g = torch.Generator().manual_seed(seed)
        return lambda *shape: torch.randn(shape, generator=g)

    # LanguageBind_Video_merge: both towers in one file
    tower = make.randomise(ref.languagebind.CLIPVisionTransformer(ref.languagebind_config.CLIPVisionConfig(**LANGUAGEBIND)), 1)
    state, draw = prefixed("vision_model.", tower.state_dict()), seeded(11)
    extra = {"visual_projection.weight": draw(6, 8), "logit_scale": torch.tensor(2.6592)}
    ids = {"vision_model.embeddings.position_ids": torch.arange(10).unsqueeze(0)}
    text = {"text_model.embeddings.token_embedding.weight": draw(9, 6), "text_model.final_layer_norm.weight": draw(6), "text_projection.weight": draw(6, 6)}
    save("languagebind/pytorch_model.bin", OrderedDict({**ids, **state, **extra, **text}), {**state, **extra})
    make.write_json(folder / "languagebind/config.json", {"model_type": "LanguageBindVideo", "vision_config": LANGUAGEBIND, "text_config": {"hidden_size": 6}})

    # Facebook's DINOv2: the class token's position in the table, registers under another name
    model = make.randomise(ref.timm.create_model("vit_large_patch14_reg4_dinov2", pretrained=False, num_classes=0, **DINOV2), 2)
    state, draw = dict(model.state_dict()), seeded(12)
    state["register_tokens"], state["mask_token"] = state.pop("reg_token"), draw(1, 12)
    state["pos_embed"] = torch.cat([draw(1, 1, 12), state["pos_embed"]], dim=1)
    save("dinov2/dinov2_vitl14_reg4_pretrain.pth", state, checkpoint_filter_fn(dict(state), model))
    make.write_json(folder / "dinov2/config.json", {"architecture": "vit_large_patch14_reg4_dinov2", "num_classes": 0, "model_args": DINOV2})

    # OpenCLIP's SigLIP
    model = make.randomise(ref.timm.create_model("vit_base_patch16_siglip_224", pretrained=False, num_classes=0, **SIGLIP), 3)
    state, draw = prefixed("visual.trunk.", model.state_dict()), seeded(13)
    text = {"text.token_embedding.weight": draw(9, 6), "text.text_projection.bias": draw(6), "logit_scale": torch.tensor(4.7), "logit_bias": torch.tensor(-12.9)}
    save("siglip/open_clip_pytorch_model.bin", {**state, **text}, checkpoint_filter_fn({**state, **text}, model))
    make.write_json(folder / "siglip/config.json", {"architecture": "vit_base_patch16_siglip_224", "num_classes": 0, "model_args": SIGLIP})

    # ViViT as save_pretrained of 2023 left it, in torch's old format for once
    model = make.randomise(VivitForVideoClassification(VivitConfig(**VIVIT, num_labels=3)), 4)
    save("vivit/pytorch_model.bin", model.state_dict(), model.state_dict(), _use_new_zipfile_serialization=False)
    make.write_json(folder / "vivit/config.json", {"architectures": ["VivitForVideoClassification"], "model_type": "vivit", **VIVIT})
    make.write_json(folder / "vivit/preprocessor_config.json", {"do_resize": True})

    # LLaMA-2 as the hub has it: f16 in shards; the trained one, with rows for <PAD>, is in MERV's checkpoint
    base = make.randomise(LlamaForCausalLM(LlamaConfig(**LLAMA)), 5).half().state_dict()
    shards = {"pytorch_model-00001-of-00002.bin": {}, "pytorch_model-00002-of-00002.bin": {}}
    first, second = shards
    for k, v in base.items():
        shards[second if k.startswith(("model.norm", "lm_head")) else first][k] = v
    shards[first]["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.tensor([1.0, 0.01])
    for name, shard in shards.items():
        save(f"llm/{name}", shard)
    index = {"metadata": {"total_size": 1}, "weight_map": {k: name for name, shard in shards.items() for k in shard}}
    make.write_json(folder / "llm/pytorch_model.bin.index.json", index)
    make.write_json(folder / "llm/config.json", {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "torch_dtype": "float16", **LLAMA})
    make.write_json(folder / "llm/generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})
    want["llm_alone"] = {k: [list(v.shape), sha256(v.float())] for k, v in sorted({**shards[first], **shards[second]}.items())}

    # MERV's checkpoint
    widths = [LANGUAGEBIND["hidden_size"], DINOV2["embed_dim"], VIVIT["hidden_size"], SIGLIP["embed_dim"]]
    own = nn.Module()
    own.projectors = nn.ModuleList([ref.nn_utils.AveragePooling3DProjector(w, LLM_WIDTH, output_frames=8, output_size=2, mlp_type="linear") for w in widths])
    own.feature_fusion = ref.nn_utils.CrossAttentionAdapterLearnableQuery(embed_dim=8, llm_dim=LLM_WIDTH, token_length=32, averagetoken=True)
    make.randomise(own, 6)
    trained = make.randomise(LlamaForCausalLM(LlamaConfig(**{**LLAMA, "vocab_size": ROWS})), 7).state_dict()
    part = {
        "projectors": OrderedDict(own.projectors.state_dict()),
        "llm_backbone": OrderedDict(prefixed("llm.", trained)),
        "feature_fusion": OrderedDict(own.feature_fusion.state_dict()),
    }
    optimizer = {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-5, "params": [0]}]}
    save("merv/checkpoints/latest-checkpoint.pt", {"model": part, "optimizer": optimizer, "lr_scheduler": {"last_epoch": 3}, "step": 3}, own.state_dict())
    want["llm"] = {k: [list(v.shape), sha256(v)] for k, v in sorted(trained.items())}
    make.write_json(folder / "merv/config.json", {"model": {"type": "merv-base", "vidlm_id": "merv-base", **MERV}, "run_id": "tiny", "seed": 7, "stage": "finetune"})

    # Names and shapes of the full-size architectures, as the libraries make them
    with torch.device("meta"):
        full = {
            "languagebind": prefixed("vision_model.", ref.languagebind.CLIPVisionTransformer(ref.languagebind_config.CLIPVisionConfig(
                hidden_size=1024, num_attention_heads=16, num_hidden_layers=24, intermediate_size=4096, image_size=224, patch_size=14, hidden_act="gelu",
                add_time_attn=True, num_frames=8, lora_r=0, force_patch_dropout=0.0)).state_dict()),
            "vivit": prefixed("vivit.", VivitModel(VivitConfig(), add_pooling_layer=False).state_dict()),
            "llm": LlamaForCausalLM(LlamaConfig(vocab_size=32064, hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, intermediate_size=11008)).state_dict(),
        }  # fmt: skip
    full["dinov2"] = ref.timm.create_model("vit_large_patch14_reg4_dinov2", pretrained=False, num_classes=0, img_size=224).state_dict()
    full["siglip"] = ref.timm.create_model("vit_base_patch16_siglip_224", pretrained=False, num_classes=0).state_dict()
    full["languagebind"].pop("vision_model.embeddings.position_ids", None)
    expected = {"full_size": {k: names_of(v) for k, v in full.items()}, **want}
    lines = [f"{json.dumps(part)}: {{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in names.items()) + "\n}" for part, names in expected.items()]
    (folder / "expected.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--reference", required=True)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    write_torch(args.out / "torch")
    write_published(make.import_reference(args.reference), args.out / "published")
