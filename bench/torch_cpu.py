"""merv-bench against PyTorch on the same processor, run in turn in one session.

    python bench/torch_cpu.py encode|prefill|decode|block|train|linear [--dtype f32|bf16] [--encoder NAME] [--threads 2] [--rounds 7]

Both sides hold their model ready; then each round runs one after the other, so that a machine whose speed wanders treats them
alike. Printed are medians and their ratio (above 1: merv is faster), against the better of eager and torch.compile. Random
weights: only shapes matter for time. Needs torch, timm and transformers (pip), and merv-bench built by `make`.
"""
import argparse
import json
import os
import platform
import statistics
import sys
import time

import torch

from lockstep import Merv, pause


def timed(f):
    start = time.perf_counter()
    f()
    return (time.perf_counter() - start) * 1e3


def encoder(name):
    """A module from pixels to features, and an input. As their libraries run them, with every block; merv-bench stops behind the last
    block MERV reads, and is timed with every block too."""
    if name in ("dinov2", "siglip"):
        import timm
        architecture = "vit_large_patch14_reg4_dinov2" if name == "dinov2" else "vit_base_patch16_siglip_224"
        model = timm.create_model(architecture, pretrained=False, num_classes=0, img_size=224).eval()
        model.forward = model.forward_features
        return model, torch.rand(16, 3, 224, 224)
    if name == "vivit":
        from transformers import VivitConfig, VivitModel
        config = VivitConfig(hidden_act="gelu_fast")
        config._attn_implementation = "sdpa"
        try:
            model = VivitModel(config, add_pooling_layer=False)
        except (ValueError, ImportError):       # older transformers: eager only
            config._attn_implementation = "eager"
            model = VivitModel(config, add_pooling_layer=False)
        model.eval()
        return model, torch.rand(1, 32, 3, 224, 224)
    if name == "languagebind":
        return LanguageBind().eval(), torch.rand(16, 3, 224, 224)
    sys.exit(f"no encoder {name}")


class LanguageBind(torch.nn.Module):
    """CLIP ViT-L/14 whose blocks first attend across 8 frames at each position (LanguageBind_Video_merge)."""

    def __init__(self):
        super().__init__()
        from transformers import CLIPVisionConfig, CLIPVisionModel
        from transformers.models.clip.modeling_clip import CLIPAttention
        config = CLIPVisionConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14, image_size=224, hidden_act="gelu")
        model = CLIPVisionModel(config)
        model = getattr(model, "vision_model", model)       # transformers 4 has it one level down
        self.embeddings, self.pre, self.layers = model.embeddings, model.pre_layrnorm, model.encoder.layers
        self.temporal = torch.nn.ModuleList(CLIPAttention(config) for _ in self.layers)
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(1024) for _ in self.layers)
        self.tables = torch.nn.ParameterList(torch.zeros(1, 8, 1024) for _ in self.layers)

    def forward(self, pixels):
        x = self.pre(self.embeddings(pixels))
        F, N, C = x.shape
        for layer, attention, norm, table in zip(self.layers, self.temporal, self.norms, self.tables):
            x = x.view(F // 8, 8, N, C).transpose(1, 2).reshape(-1, 8, C) + table
            x = x + attention(norm(x))[0]
            x = x.view(F // 8, N, 8, C).transpose(1, 2).reshape(F, N, C)
            try:
                x = layer(x, None, None)
            except TypeError:
                x = layer(x, None)
            x = x[0] if isinstance(x, tuple) else x
        return x


def llama(layers):
    from transformers import LlamaConfig, LlamaModel
    config = LlamaConfig(hidden_size=4096, intermediate_size=11008, num_hidden_layers=layers, num_attention_heads=32, num_key_value_heads=32, vocab_size=32)
    config._attn_implementation = "sdpa"
    return LlamaModel(config).eval()


def training(args, dtype):
    """What `merv-bench train` runs: projectors, fusion and LLaMA from pooled features, the head on the rows that have a label, clipped, AdamW. f32 parameters; bf16 by autocast."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(hidden_size=4096, intermediate_size=11008, num_hidden_layers=args.layers, num_attention_heads=32, num_key_value_heads=32, vocab_size=4096)
    config._attn_implementation = "sdpa"
    widths = [1024, 1024, 768, 768]

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.llm = LlamaForCausalLM(config)
            self.projectors = torch.nn.ModuleList(torch.nn.Linear(w, 4096) for w in widths)
            self.query = torch.nn.Parameter(torch.randn(1, 1024))
            self.q, self.k = torch.nn.Linear(1024, 1024), torch.nn.Linear(4096, 1024)

        def forward(self, pooled, ids):
            x = torch.stack([p(f) for p, f in zip(self.projectors, pooled)])  # (E, L, D)
            w = torch.softmax(self.q(self.query) @ self.k(x.mean(1)).T / 32, -1)[0]
            text = self.llm.model.embed_tokens(ids)
            rows = torch.cat([text[:1], torch.einsum("e,eld->ld", w.to(x.dtype), x).to(text.dtype), text[1:]])[None]
            hidden = self.llm.model(inputs_embeds=rows, use_cache=False).last_hidden_state[0]
            first = 1024 + len(ids) // 2
            return torch.nn.functional.cross_entropy(self.llm.lm_head(hidden[first - 1 : -1]).float(), ids[len(ids) // 2 :])

    model = Model().train()
    pooled, ids = [torch.randn(1024, w) for w in widths], torch.arange(args.tokens) * 7919 % 4096
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, weight_decay=0.1, fused=True)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            loss = model(pooled, ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def peers(what, args, dtype):
    """{"eager": f, "compiled": f}: each runs what merv-bench runs."""
    torch.manual_seed(0)

    def variants(module, call):
        def run(m):
            with torch.no_grad():
                return call(m)
        made = {"eager": lambda: run(module)}
        if not args.eager_only:
            compiled = torch.compile(module)
            made["compiled"] = lambda: run(compiled)
        return made

    if what == "encode":
        module, x = encoder(args.encoder)
        module, x = module.to(dtype), x.to(dtype)
        return variants(module, lambda m: m(x))
    if what == "prefill":
        module, x = llama(args.layers).to(dtype), torch.rand(1, args.tokens, 4096).to(dtype)
        return variants(module, lambda m: m(inputs_embeds=x, use_cache=True))
    if what == "decode":
        module, rows = llama(args.layers).to(dtype), torch.rand(1, args.rows, 4096).to(dtype)
        with torch.no_grad():
            cache = module(inputs_embeds=torch.rand(1, args.tokens, 4096).to(dtype), use_cache=True).past_key_values

        def step(m):
            m(inputs_embeds=rows, past_key_values=cache, use_cache=True)
            cache.crop(-args.rows)
        return {"eager": lambda: torch.no_grad()(step)(module)}
    if what == "block":
        if args.encoder == "llama":
            module, x = llama(1).to(dtype).train(), torch.rand(1, args.tokens, 4096).to(dtype).requires_grad_()
            call = lambda m: m(inputs_embeds=x, use_cache=False).last_hidden_state
        else:
            from timm.models.vision_transformer import Block
            module, x = Block(1024, 16, qkv_bias=True, init_values=1e-5).to(dtype).train(), torch.rand(16, 261, 1024).to(dtype).requires_grad_()
            call = lambda m: m(x)
        dy = torch.rand_like(x)

        def step(m):
            m.zero_grad(set_to_none=True)
            x.grad = None
            call(m).backward(dy)
        made = {"eager": lambda: step(module)}
        if not args.eager_only:
            compiled = torch.compile(module)
            made["compiled"] = lambda: step(compiled)
        return made
    if what == "train":
        return {"eager": training(args, dtype)}
    if what == "linear":
        M, N, K = map(int, args.shape.split("x"))
        module, x = torch.nn.Linear(K, N, bias=False).to(dtype), torch.rand(M, K).to(dtype)
        return {"eager": lambda: torch.no_grad()(module)(x)}
    sys.exit(f"nothing called {what} to measure")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what")
    parser.add_argument("--dtype", default="f32", choices=["f32", "bf16"])
    parser.add_argument("--encoder", default="dinov2")
    parser.add_argument("--shape", default="1100x4096x4096")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=1100)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--eager-only", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    ours = [args.what, "--dtype", args.dtype, "--threads", str(args.threads)]
    if args.what in ("encode", "block"):
        ours += ["--encoder", args.encoder]
    if args.what in ("prefill", "decode", "block", "train"):
        ours += ["--layers", str(args.layers), "--tokens", str(args.tokens), "--rows", str(args.rows)]
    if args.what == "linear":
        ours = ["ops", "linear", "--shape", args.shape, *ours[1:]]
    sides = peers(args.what, args, dtype)
    for name in list(sides):
        try:
            sides[name]()                       # warm, and compile
        except Exception as error:              # torch.compile may not support a model: then eager is its best
            print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:120]}", file=sys.stderr)
            del sides[name]
    if not sides:
        sys.exit("the peer failed")
    merv = {"merv": Merv(ours)}
    if args.what == "encode" and args.encoder != "vivit":
        merv["merv, all blocks"] = Merv([*ours, "--all-blocks"])        # equal work
    sides = {**{name: m.run for name, m in merv.items()}, **{name: (lambda f=f: timed(f)) for name, f in sides.items()}}
    times = {name: [] for name in sides}
    for _ in range(args.rounds):
        for name, run in sides.items():
            pause()
            times[name].append(run())
    for m in merv.values():
        m.close()
    medians = {name: statistics.median(t) for name, t in times.items()}
    best = min((n for n in medians if n not in merv), key=medians.get)
    versions = {"torch": torch.__version__}
    for package in ("timm", "transformers"):
        if package in sys.modules:
            versions[package] = sys.modules[package].__version__
    print(json.dumps({"what": " ".join(ours), "median_ms": {n: round(m, 3) for n, m in medians.items()}, "peer": best, "ratio": round(medians[best] / medians["merv"], 3),
                      **({"ratio_all_blocks": round(medians[best] / medians["merv, all blocks"], 3)} if "merv, all blocks" in medians else {}),
                      "rounds": args.rounds, "versions": versions, "python": platform.python_version()}))


if __name__ == "__main__":
    main()
