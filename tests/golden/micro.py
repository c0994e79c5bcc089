"""Makes merv-micro, a whole MERV small enough to be trained a step on the emulated GPU, and what PyTorch computes with it.

    PY tests/golden/micro.py --reference REF --shared SHARED --out tests/golden      (environment and arguments: see make.py)

writes OUT/merv-micro/ (a MERV folder of seeded random weights) and OUT/micro.safetensors: `clip`, 16 frames of 32 x 32 pixels, the size
the encoders want, so that nothing is resized; `prompt_tokens` and the `tokens` that follow them greedily; `merv-micro.ids`, `.labels` and
`.loss` of a training sample and the gradient of every parameter, in the 67 numbers of gradients.py.

The reference's MERV class hard-codes 224 pixels and 14 x 14 patches. So its parts (LanguageBind tower, projectors, fusion), timm's,
and Hugging Face's ViViT and LLaMA are put together here as MERV.forward does: features, projectors, fusion, behind BOS.
"""

import argparse
from pathlib import Path

import gradients
import make
import torch
import transformers
from transformers import LlamaForCausalLM, VivitConfig, VivitModel

FRAMES = [8, 8, 16, 8]
ANSWER = "A man looks up."
TOKENS = 12


def shrink():
    make.NUM_FRAMES, make.FUSION_WIDTH = FRAMES, 24
    make.MERV.update({"model_id": "merv-micro", "num_frames": FRAMES, "image_size": 32, "projector_token_length": 4, "visual_feature_length": 32})
    make.LANGUAGEBIND_VISION.update({"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 3, "intermediate_size": 24, "projection_dim": 8, "image_size": 32, "patch_size": 8})
    make.DINOV2_ARGS.update({"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2, "mlp_ratio": 2})
    make.SIGLIP_ARGS.update({"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 1, "mlp_ratio": 2})
    make.VIVIT_CONFIG.update({"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 3, "intermediate_size": 24, "num_frames": 16, "image_size": 32, "tubelet_size": [2, 8, 8]})
    make.LLAMA_CONFIG.update({"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 256})
    make.MERV["llm_max_length"] = 256


class Micro(torch.nn.Module):
    def __init__(self, ref, folder):
        super().__init__()
        encoders, nn_utils = folder / "encoders", ref.nn_utils
        tower = ref.languagebind.CLIPVisionTransformer(ref.languagebind_config.CLIPVisionConfig(**make.LANGUAGEBIND_VISION))
        state = make.widened(encoders / make.LANGUAGEBIND / "model.safetensors")
        tower.load_state_dict({k[len("vision_model.") :]: v for k, v in state.items() if k.startswith("vision_model.")}, strict=False)

        def timm(name, architecture, args):
            model = ref.timm.create_model(architecture, pretrained=False, num_classes=0, **args)
            model.load_state_dict(make.widened(encoders / name / "model.safetensors"))
            return model

        vivit = VivitModel(VivitConfig(**make.VIVIT_CONFIG), add_pooling_layer=False)
        state = make.widened(encoders / make.VIVIT / "model.safetensors")
        vivit.load_state_dict({k[len("vivit.") :]: v for k, v in state.items() if k.startswith("vivit.")})
        self.encoders = torch.nn.ModuleDict({
            "languagebind": tower,
            "dinov2": timm(make.DINOV2, "vit_large_patch14_reg4_dinov2", make.DINOV2_ARGS),
            "vivit": vivit,
            "siglip": timm(make.SIGLIP, "vit_base_patch16_siglip_224", make.SIGLIP_ARGS),
        })  # fmt: skip
        widths = [make.LANGUAGEBIND_VISION["hidden_size"], make.DINOV2_ARGS["embed_dim"], make.VIVIT_CONFIG["hidden_size"], make.SIGLIP_ARGS["embed_dim"]]
        width = make.LLAMA_CONFIG["hidden_size"]
        self.projectors = torch.nn.ModuleList([nn_utils.AveragePooling3DProjector(w, width, output_frames=8, output_size=2, mlp_type="linear") for w in widths])
        self.feature_fusion = nn_utils.CrossAttentionAdapterLearnableQuery(embed_dim=make.FUSION_WIDTH, llm_dim=width, token_length=32, averagetoken=True)
        self.load_state_dict(make.widened(folder / "model.safetensors"), strict=False)
        self.llm = LlamaForCausalLM(transformers.LlamaConfig(**make.LLAMA_CONFIG))
        self.llm.load_state_dict(make.widened(folder / "llm/model.safetensors"))
        self.eval()

    def see(self, clip):
        """u8 (16, 32, 32, 3) -> (1, 32, width)"""
        dtype = next(self.parameters()).dtype
        means = {"languagebind": ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]), "dinov2": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])}
        seen = []
        for i, (name, encoder) in enumerate(self.encoders.items()):
            mean, std = (torch.tensor(x) for x in means.get(name, ([0.5] * 3, [0.5] * 3)))
            frames = clip[:: 16 // FRAMES[i]].float() / 255
            x = ((frames - mean) / std).permute(0, 3, 1, 2).to(dtype)  # (F, 3, 32, 32), rounded to f32 as the pixels of every run are
            if name == "languagebind":
                features = encoder(x.transpose(0, 1).unsqueeze(0), output_hidden_states=True).hidden_states[-2].flatten(0, -3)[:, 1:]
            elif name == "vivit":
                features = encoder(x.unsqueeze(0)).last_hidden_state[:, 1:]
            else:
                features = encoder.get_intermediate_layers(x, n={len(encoder.blocks) - 2})[0]
            seen.append(self.projectors[i](features.reshape(1, 8, 16, features.shape[-1])))
        return self.feature_fusion(seen)[0]

    def embeds(self, clip, ids):
        text = self.llm.model.embed_tokens(ids)
        return torch.cat([text[:, :1], self.see(clip), text[:, 1:]], dim=1)


@torch.no_grad()
def generate(model, clip, ids):
    tokens, gaps = [], []
    for _ in range(TOKENS):
        full = torch.cat([ids, torch.tensor([tokens], dtype=ids.dtype)], dim=1)
        logits = model.llm(inputs_embeds=model.embeds(clip, full)).logits[0, -1]
        best = logits.topk(2)
        tokens.append(int(best.indices[0])), gaps.append(float(best.values[0] - best.values[1]))
    return tokens, min(gaps)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", required=True, type=Path, help="checkout of princetonvisualai/merv")
    parser.add_argument("--shared", required=True, type=Path, help="the project's shared folder")
    parser.add_argument("--out", required=True, type=Path, help="tests/golden")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    shrink()
    ref, folder, golden = make.import_reference(args.reference.resolve()), args.out / "merv-micro", gradients.Golden()
    golden.metadata["source"] = "tests/golden/micro.py"
    with torch.no_grad():
        make.make_folder(ref, folder, args.shared)
    model = Micro(ref, folder)
    clip = torch.randint(0, 256, (16, 8, 8, 3), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    clip = clip.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)  # coarse squares: some structure for the patches

    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(args.shared / "data/llm/tok512.model"))
    prompt = torch.tensor([[1] + pieces.encode(f"In: {make.QUESTION}\nOut: ")])
    answer = torch.tensor([pieces.encode(ANSWER) + [2]])
    tokens, gap = generate(model, clip, prompt)
    print("tokens", tokens, "smallest gap", gap)
    ids = torch.cat([prompt, answer], dim=1)
    labels = torch.cat([torch.full_like(prompt, gradients.IGNORE), answer], dim=1)
    spliced = torch.cat([labels[:, :1], torch.full((1, 32), gradients.IGNORE), labels[:, 1:]], dim=1)

    def loss(m):
        return gradients.llm_loss(m.llm, m.embeds(clip, ids), torch.ones_like(spliced), spliced)

    def renamed(g):
        named = {}
        for key, value in g.items():
            key = key.replace("llm.", "llm/", 1) if key.startswith("llm.") else key
            for name in model.encoders:
                key = key.replace(f"encoders.{name}.", name + "/")
            named[key] = value
        return named

    single, value = gradients.gradients(model, loss, torch.float32)
    with gradients.norms_in_double():
        exact, exact_value = gradients.gradients(model, loss, torch.float64)
    golden.add("merv-micro", renamed(exact), renamed(single))
    golden.tensors["merv-micro.loss"] = torch.tensor([exact_value, abs(value - exact_value), 0.0])
    golden.tensors["merv-micro.ids"] = ids[0].to(torch.int32)
    golden.tensors["merv-micro.labels"] = labels[0].to(torch.int32)
    golden.tensors.update({"clip": clip, "prompt_tokens": prompt[0].to(torch.int32), "tokens": torch.tensor(tokens, dtype=torch.int32)})
    golden.metadata.update({"gap.min": f"{gap:.4f}", "prompt": f"In: {make.QUESTION}\nOut: "})
    for module in [torch, transformers, ref.timm]:
        golden.metadata["version." + module.__name__] = module.__version__
    make.write_safetensors(args.out / "micro.safetensors", golden.tensors, golden.metadata)


if __name__ == "__main__":
    main()
