"""Gradients as PyTorch computes them, for tests/test_gradients.cpp, and ten steps of torch.optim.AdamW, for tests/cases/optim.cpp.

    PY tests/golden/gradients.py --reference REF --shared SHARED --out tests/golden      (environment and arguments: see make.py)

writes OUT/gradients.safetensors and OUT/adamw.json. The weights are those of OUT/vectors and OUT/merv-tiny; the models are timm's
VisionTransformer, Hugging Face's CLIPVisionModel, VivitModel and LlamaForCausalLM, and from the checkout of the reference its
LanguageBind tower, projectors, fusion and whole MERV.forward, every parameter trainable.

Whole gradients would be megabytes. Of each, `gradients.safetensors` holds 67 numbers: its norm, how far PyTorch's f32 run is from
its f64 run (norm of the difference), the same for PyTorch's bf16 run where there is one (else 0), and 64 projections of the f64
gradient on vectors of signs over 8, made of element i's index by splitmix64: bit k set means minus in projection k. The norm of the
difference of two gradients' projections estimates the norm of their difference within 9 % (one standard deviation), so a
wrong element counts as much as it would in the whole.
"""

import argparse
import contextlib
import json
import math
from pathlib import Path

import make
import numpy as np
import timm
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM, VivitConfig, VivitModel

IGNORE = -100
ANSWER = "A rocket stands on its launch pad, and a man looks at the sky."


def signs(n):
    z = (np.arange(n, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def sketch(g):
    g, bits = g.double().flatten().numpy(), signs(g.numel())
    return [float(np.where((bits >> np.uint64(k)) & np.uint64(1), -g, g).sum() / 8) for k in range(64)]


class Golden:
    def __init__(self):
        self.tensors, self.metadata = {}, {"format": "pt", "source": "tests/golden/gradients.py"}

    def add(self, name, exact, single, half=None):
        """exact, single, half: {parameter: gradient} of the f64, f32 and bf16 run."""
        for key, g in exact.items():
            error = float((single[key].double() - g).norm())
            half_error = float((half[key].double() - g).norm()) if half else 0.0
            self.tensors[f"{name}/{key}"] = torch.tensor([float(g.norm()), error, half_error, *sketch(g)], dtype=torch.float64).float()
        norm = math.sqrt(sum(float(g.norm()) ** 2 for g in exact.values()))
        error = math.sqrt(sum(float((single[k].double() - g).norm()) ** 2 for k, g in exact.items()))
        print(f"{name}: {len(exact)} gradients, norm {norm:.3e}, error of f32 {error / norm:.1e}")


def gradients(model, loss, dtype, inputs=()):
    """{name: gradient} of every parameter the loss reaches, and of the inputs, with the model in this type."""
    model.to(dtype).requires_grad_(True).zero_grad()
    inputs = [x.detach().to(dtype).requires_grad_(True) for x in inputs]
    value = loss(model, *inputs)
    value.backward()
    found = {k: p.grad.detach().clone() for k, p in model.named_parameters() if p.grad is not None}
    found.update({f"input.{i}" if len(inputs) > 1 else "input": x.grad for i, x in enumerate(inputs)})
    return found, float(value.detach())


def squares(x):
    return x.pow(2).sum()


# ----------------------------------------------------------------------------------------------------------------- encoders


def clip(golden, vectors):
    v = load_file(vectors / "clip_openai_visual_tiny.safetensors")
    config = CLIPVisionConfig(
        hidden_size=64, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4, image_size=16, patch_size=4, hidden_act="quick_gelu", layer_norm_eps=1e-5
    )
    model = CLIPVisionModel(config).vision_model
    names = {"embeddings.class_embedding": "class_embedding", "embeddings.position_embedding.weight": "positional_embedding", "embeddings.patch_embedding": "conv1"}
    names.update({"pre_layrnorm": "ln_pre", "post_layernorm": "ln_post", "encoder.layers": "transformer.resblocks", "layer_norm": "ln_", "self_attn.out_proj": "attn.out_proj"})
    names.update({"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"})
    state = {}
    for name in dict(model.named_parameters()):
        theirs = name
        for a, b in names.items():
            theirs = theirs.replace(a, b)
        if ".self_attn." in theirs:
            head, tail = theirs.split(".self_attn.")
            part = "qkv".index(tail[0])
            state[name] = v[f"visual.{head}.attn.in_proj_{tail.split('.')[1]}"].chunk(3)[part]
        else:
            state[name] = v["visual." + theirs]
    model.load_state_dict(state, strict=False)

    def loss(m, dtype):
        return squares(m(v["test.input"].to(dtype), output_hidden_states=True).hidden_states[-2][:, 1:])

    hidden = model(v["test.input"], output_hidden_states=True).hidden_states[-2]
    assert make.relative_error(hidden, v["test.hidden_states_-2"]) < 1e-6
    run(golden, "clip", model, loss)


def run(golden, name, model, loss, change=lambda g: g):
    single, _ = gradients(model, lambda m: loss(m, torch.float32), torch.float32)
    exact, _ = gradients(model, lambda m: loss(m, torch.float64), torch.float64)
    golden.add(name, change(exact), change(single))
    model.float()


def penultimate(model, x):
    return model.get_intermediate_layers(x, n={len(model.blocks) - 2})[0]  # patches only, no final norm


def through_resampling(table, grid, side):
    """A gradient of the side x side position table as one of the grid x grid table it was resampled from."""

    def change(g):
        t = table.to(g["pos_embed"].dtype).requires_grad_(True)
        with torch.enable_grad():
            resampled = resample_abs_pos_embed(t, [side, side], num_prefix_tokens=0)
            (back,) = torch.autograd.grad(resampled, t, g["pos_embed"])
        return {**g, "pos_embed": back}

    return change


def dinov2(golden, vectors):
    v = load_file(vectors / "vit_reg4_dinov2_tiny_fbnames.safetensors")
    model = VisionTransformer(
        img_size=12, patch_size=4, embed_dim=32, depth=3, num_heads=4, init_values=1.0, reg_tokens=4, no_embed_class=True, num_classes=0
    )
    table = v["pos_embed"][:, 1:]
    state = {k: v[k] for k in dict(model.named_parameters()) if k in v}
    state["cls_token"] = v["cls_token"] + v["pos_embed"][:, :1]
    state["reg_token"] = v["register_tokens"]
    state["pos_embed"] = resample_abs_pos_embed(table, [3, 3], num_prefix_tokens=0)
    model.load_state_dict(state)
    assert make.relative_error(penultimate(model, v["test.input"]), v["test.penultimate_patches"]) < 1e-6
    run(golden, "dinov2", model, lambda m, dtype: squares(penultimate(m, v["test.input"].to(dtype))), through_resampling(table, 5, 3))


def siglip(golden, vectors):
    v = load_file(vectors / "vit_siglip_tiny.safetensors")
    model = VisionTransformer(img_size=16, patch_size=4, embed_dim=32, depth=3, num_heads=4, class_token=False, global_pool="map", num_classes=0)
    model.load_state_dict({k: v[k] for k in dict(model.named_parameters())})
    assert make.relative_error(penultimate(model, v["test.input"]), v["test.penultimate"]) < 1e-6
    run(golden, "siglip", model, lambda m, dtype: squares(penultimate(m, v["test.input"].to(dtype))))


def languagebind(golden, ref, vectors):
    v = load_file(vectors / "languagebind_tiny.safetensors")
    config = ref.languagebind_config.CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=56, patch_size=14, hidden_act="gelu", layer_norm_eps=1e-5,
        add_time_attn=True, num_frames=8, force_patch_dropout=0.0, lora_r=0,
    )  # fmt: skip
    model = ref.languagebind.CLIPVisionTransformer(config).eval()
    model.load_state_dict({k: v["vision_model." + k] for k in dict(model.named_parameters())}, strict=False)

    def loss(m, dtype):
        return squares(m(v["input"].to(dtype), output_hidden_states=True).hidden_states[-2])

    run(golden, "languagebind", model, loss)
    single, _ = gradients(model, lambda m: loss(m, torch.float32), torch.float32)
    assert make.relative_error(single["encoder.layers.0.temporal_embedding"], v["grad.layers.0.temporal_embedding"]) < 1e-5


def vivit(golden, vectors):
    v = load_file(vectors / "vivit_tiny.safetensors")
    config = VivitConfig(
        hidden_size=32, num_attention_heads=4, num_hidden_layers=2, intermediate_size=64, num_frames=8, image_size=48, tubelet_size=[2, 16, 16], hidden_act="gelu_fast",
        layer_norm_eps=1e-6, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = VivitModel(config, add_pooling_layer=False).eval()
    model.load_state_dict({k: v["vivit." + k] for k in dict(model.named_parameters())})
    run(golden, "vivit", model, lambda m, dtype: squares(m(v["input"].to(dtype)).last_hidden_state))


# ---------------------------------------------------------------------------------------------------- projectors and fusion


def adapters(golden, ref, vectors):
    average, average3 = ref.nn_utils.AveragePoolingProjector, ref.nn_utils.AveragePooling3DProjector
    made = {
        "projector_2davg_linear": lambda: average(24, 40, output_size=4, output_frames=4, mlp_type="linear"),
        "projector_2davg_up": lambda: average(24, 40, output_size=8, output_frames=4, mlp_type="linear"),
        "projector_2davg_gelu-mlp": lambda: average(24, 40, output_size=4, output_frames=4, mlp_type="gelu-mlp"),
        "projector_2davg_fused-gelu-mlp": lambda: average(24, 40, output_size=4, output_frames=4, mlp_type="fused-gelu-mlp"),
        "projector_3davg": lambda: average3(24, 40, output_frames=3, output_size=4, mlp_type="linear"),
        "fusion_cross_attention_avg": lambda: ref.nn_utils.CrossAttentionAdapterLearnableQuery(embed_dim=24, llm_dim=40, token_length=length, averagetoken=True),
    }
    for name, build in made.items():
        v = load_file(vectors / f"{name}.safetensors")
        inputs = [v["input"]] if "input" in v else [v[f"input.{i}"] for i in range(3)]
        length = inputs[0].shape[1]
        model = build()
        model.load_state_dict({k: v["param." + k] for k in dict(model.named_parameters()) if "param." + k in v}, strict=False)

        def loss(m, *x):
            return squares(m(*x) if len(x) == 1 else m(list(x))[0])

        (single, _), (exact, _) = gradients(model, loss, torch.float32, inputs), gradients(model, loss, torch.float64, inputs)
        for key, g in single.items():
            if "grad." + key in v and float(g.norm()) > 1e-3:
                assert make.relative_error(g, v["grad." + key]) < 1e-5, (name, key)
        golden.add(name, exact, single)


# ------------------------------------------------------------------------------------------------------------------ LLaMA


@contextlib.contextmanager
def norms_in_double():
    """HF's LLaMA computes RMSNorm and RoPE in float32 whatever its weights are. A f64 run needs the norms in f64. RoPE's angles stay
    rounded: they are constants of the f32 model (at position 600 they are off by 3e-5, which would drown every other error)."""
    from transformers.models.llama import modeling_llama as hf

    saved = hf.LlamaRMSNorm.forward
    hf.LlamaRMSNorm.forward = lambda self, x: self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))
    try:
        yield
    finally:
        hf.LlamaRMSNorm.forward = saved


def llm_loss(model, embeds_or_ids, mask, labels):
    """LlamaForCausalLM's, but for the rounding of the logits to f32, which would spoil a f64 run."""
    inputs = {"inputs_embeds": embeds_or_ids} if embeds_or_ids.is_floating_point() else {"input_ids": embeds_or_ids}
    logits = model.lm_head(model.model(attention_mask=mask, **inputs).last_hidden_state)
    logits = logits.float() if logits.dtype == torch.bfloat16 else logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE)


def llama(golden, vectors):
    v = load_file(vectors / "llama_gqa_tied_tiny_hfnames.safetensors")
    config = dict(
        vocab_size=50, hidden_size=64, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2, intermediate_size=176, rms_norm_eps=1e-5, rope_theta=10000.0,
        tie_word_embeddings=True,
    )  # fmt: skip
    ids = v["test.input_ids"].long()  # (2, 11): three tokens of prompt, eight of answer; the second sequence has five, padded to the right
    labels, mask = ids.clone(), torch.ones_like(ids)
    labels[:, :3] = IGNORE
    labels[1, 8:], mask[1, 8:] = IGNORE, 0
    for name in ["llama", "llama_bf16"]:
        model = LlamaForCausalLM(LlamaConfig(**config))
        model.load_state_dict(v, strict=False)
        half = None
        if name == "llama_bf16":
            for p in model.parameters():
                p.data = p.data.bfloat16().float()
            state = model.state_dict()
            half, half_loss = gradients(model, lambda m: llm_loss(m, ids, mask, labels), torch.bfloat16)
            model = LlamaForCausalLM(LlamaConfig(**config))  # bfloat16() rounded RoPE's frequencies too
            model.load_state_dict({k: p.float() for k, p in state.items()})
        single, loss = gradients(model, lambda m: llm_loss(m, ids, mask, labels), torch.float32)
        with norms_in_double():
            exact, exact_loss = gradients(model, lambda m: llm_loss(m, ids, mask, labels), torch.float64)
        golden.add(name, exact, single, half)
        golden.tensors[f"{name}.loss"] = torch.tensor([exact_loss, abs(loss - exact_loss), abs(half_loss - exact_loss) if half else 0.0])


# -------------------------------------------------------------------------------------------------------------- merv-tiny


def merv(golden, ref, out, shared):
    folder = out / "merv-tiny"
    model = make.load_model(ref, folder)
    model.video_backbone_requires_grad = True
    sample = Path(__file__).resolve().parents[2] / "data/samples/nasa_jwst.mp4"
    frames, _ = make.read_frames(ref, sample)
    pixels = [b.video_transform(frames[:: max(make.NUM_FRAMES) // n]) for b, n in zip(model.video_backbones, make.NUM_FRAMES)]
    _, prompt = make.prompt_of(model, shared)
    answer = torch.tensor([model.llm_backbone.tokenizer(ANSWER + "</s>", add_special_tokens=False).input_ids])
    ids = torch.cat([prompt, answer], dim=1)
    labels = torch.cat([torch.full_like(prompt, IGNORE), answer], dim=1)

    # MERV.forward builds the embeddings and the labels; the loss is computed from them as above
    seen = {}

    def catch(*_, inputs_embeds=None, labels=None, attention_mask=None, **__):
        seen.update(embeds=inputs_embeds, labels=labels, mask=attention_mask)

    def loss(m):
        m.llm_backbone.forward = catch
        dtype = next(m.llm_backbone.parameters()).dtype
        m(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, video_values=[p.unsqueeze(0).to(dtype) for p in pixels])
        return llm_loss(m.llm_backbone.llm, seen["embeds"], seen["mask"].long(), seen["labels"])

    def renamed(g):
        short = list(make.SHORT.values())
        named = {}
        for key, value in g.items():
            for i, name in enumerate(short):
                key = key.replace(f"video_backbones.{i}.featurizer.", name + "/").replace(f"video_backbones.{i}.", name + "/")
            named[key.replace("llm_backbone.llm.", "llm/")] = value
        table = load_file(folder / "encoders" / make.DINOV2 / "model.safetensors")["pos_embed"]
        named["dinov2/pos_embed"] = through_resampling(table, 18, 16)({"pos_embed": named["dinov2/pos_embed"]})["pos_embed"]
        return named

    single, value = gradients(model, loss, torch.float32)
    with norms_in_double():
        exact, exact_value = gradients(model, loss, torch.float64)
    golden.add("merv-tiny", renamed(exact), renamed(single))
    golden.tensors["merv-tiny.loss"] = torch.tensor([exact_value, abs(value - exact_value), 0.0])
    golden.tensors["merv-tiny.ids"] = ids[0].to(torch.int32)
    golden.tensors["merv-tiny.labels"] = labels[0].to(torch.int32)


# ------------------------------------------------------------------------------------------------------------------ AdamW


def adamw(out):
    """Ten steps of 12 numbers in f32, and how far the f64 run ends from it."""
    g = torch.Generator().manual_seed(7)
    start, grads = torch.randn(12, generator=g), torch.randn(10, 12, generator=g) * torch.logspace(-4, 2, 12)
    cases = []
    for lr, decay in [(1e-2, 0.0), (1e-2, 0.1), (0.3, 0.01)]:
        runs = {}
        for dtype in [torch.float32, torch.float64]:
            p = torch.nn.Parameter(start.to(dtype, copy=True))
            optimizer = torch.optim.AdamW([p], lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=decay, foreach=False)
            for step in grads:
                p.grad = step.to(dtype).clone()
                optimizer.step()
            state = optimizer.state[p]
            runs[dtype] = {"p": p.detach(), "m": state["exp_avg"], "v": state["exp_avg_sq"]}
        exact = runs[torch.float64]
        error = {k: float((runs[torch.float32][k].double() - exact[k]).norm()) for k in exact}
        cases.append({"lr": lr, "decay": decay, "error": error, **{k: x.tolist() for k, x in exact.items()}})
    (out / "adamw.json").write_text(json.dumps({"start": start.tolist(), "grads": grads.tolist(), "cases": cases}) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", required=True, type=Path, help="checkout of princetonvisualai/merv")
    parser.add_argument("--shared", required=True, type=Path, help="the project's shared folder")
    parser.add_argument("--out", required=True, type=Path, help="tests/golden")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    ref, golden, vectors = make.import_reference(args.reference.resolve()), Golden(), args.out / "vectors"
    adamw(args.out)
    clip(golden, vectors)
    dinov2(golden, vectors)
    siglip(golden, vectors)
    languagebind(golden, ref, vectors)
    vivit(golden, vectors)
    adapters(golden, ref, vectors)
    llama(golden, vectors)
    merv(golden, ref, args.out, args.shared)
    for module in [torch, transformers, timm]:
        golden.metadata["version." + module.__name__] = module.__version__
    make.write_safetensors(args.out / "gradients.safetensors", golden.tensors, golden.metadata)


if __name__ == "__main__":
    main()
