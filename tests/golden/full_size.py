"""Measures, at true size, how far merv-ask's float32 is from the truth, beside PyTorch's float32. Run by hand, never in CI.

    PY tests/golden/full_size.py --reference REF --shared SHARED --merv-ask build/bin/merv-ask --work DIR [--clip FILE] [--reuse]

PY and REF are those of make.py. DIR receives a MERV folder of seeded random weights (6.7 GB), merv-base's in everything but the
number of LLaMA's layers, which is 2; then merv-ask answers about the clip with --dump. Every part is run again by the real
classes (timm, transformers, the reference checkout), in float32 and in float64, on exactly what that part got in our run: the
encoders on our pixels, projectors and fusion on our features, LLaMA on our embeds. Printed, as markdown, per part:

    ours  = |ours - f64| / |f64|     torch = |PyTorch's f32 - f64| / |f64|     (Frobenius)     ratio = ours / torch

Exit status 1 if a ratio is above 1.5, if anything differs that must be equal (pixels of u8 encoders, the splice, the greedy
tokens, frame indices), or if a pixel of LanguageBind's is off by more than 1e-6. Every frame and every token takes part, in f64 too.

Takes 8 GB of memory and, on two cores, about a quarter of an hour. --reuse: DIR's folder and dump of an earlier run stand.
"""

import argparse
import datetime
import gc
import json
import platform
import re
import resource
import shutil
import subprocess
import time
from pathlib import Path

import make
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

LIMIT = 1.5
OUTLIERS = 60.0
TOKENS_APART = [(r"pos_embed|position_embedding", 4.0), (r"bias$", 0.25)]
PIXELS_LIMIT = 1e-6  # of LanguageBind's, which are resized as floats; they reach 2.6, where an ulp is 2.4e-7
QUESTION = make.QUESTION
ENCODERS = list(make.SHORT.values())

# make.py's tiny sizes become the real ones; its functions that write and load encoders then serve here too.
plain_randomise = make.randomise
make.FUSION_WIDTH, make.SMALL = 3072, 0.5
make.MERV = {**make.MERV, "model_id": "merv-full-size", "projector_token_length": 64, "visual_feature_length": 1024}
make.LANGUAGEBIND_VISION = {
    **make.LANGUAGEBIND_VISION,
    "hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 24, "intermediate_size": 4096, "projection_dim": 768,
}  # fmt: skip
make.VIVIT_CONFIG = {
    **make.VIVIT_CONFIG,
    "hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 12, "intermediate_size": 3072, "num_labels": 400,
}  # fmt: skip
make.LLAMA_CONFIG = {
    **make.LLAMA_CONFIG,
    "vocab_size": 32064, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 32, "num_hidden_layers": 2,
    "intermediate_size": 11008, "max_position_embeddings": 4096, "pad_token_id": 32000, "torch_dtype": "float32",
}  # fmt: skip
TIMM = [(make.DINOV2, "vit_large_patch14_reg4_dinov2", {"img_size": 518}), (make.SIGLIP, "vit_base_patch16_siglip_224", {})]


# ------------------------------------------------------------------------------------------------------------------- the model


def projectors_and_fusion(ref):
    widths = [make.LANGUAGEBIND_VISION["hidden_size"], 1024, make.VIVIT_CONFIG["hidden_size"], 768]
    side, llm = int(make.MERV["projector_token_length"] ** 0.5), make.LLAMA_CONFIG["hidden_size"]
    model = torch.nn.Module()
    model.projectors = torch.nn.ModuleList(
        [ref.nn_utils.AveragePooling3DProjector(w, llm, output_frames=16, output_size=side, mlp_type="linear") for w in widths]
    )
    model.feature_fusion = ref.nn_utils.CrossAttentionAdapterLearnableQuery(
        embed_dim=make.FUSION_WIDTH, llm_dim=llm, token_length=make.MERV["visual_feature_length"], averagetoken=True
    )
    return model.requires_grad_(False).eval()


def randomise(module, seed, gains=()):
    """As make.py, and nearer to trained transformers: tokens that stay apart through all blocks, so that attention stays sharp
    (exp(entropy) of a softmax row: a sixteenth to a half of its keys), and two channels of the residual stream up to 20 times the others."""
    plain_randomise(module, seed, [*gains, *TOKENS_APART])
    for name, p in module.named_parameters():
        if re.search(r"\.0\.(mlp\.fc2|output\.dense|mlp\.down_proj)\.weight$", name):
            p.data[[5, 300]] *= OUTLIERS
    return module


def write_folder(ref, folder, shared):
    """One part in memory at a time. Weights are normal, / sqrt(fan in); norms around 1; LayerScale 0.3 +- 0.2; queries and keys larger
    by half; the branches into the residual streams halved (make.SMALL)."""
    make.randomise = randomise
    make.write_safetensors = lambda path, tensors, metadata: save_file(tensors, path, metadata)  # make.py's copies the file four times
    encoders, llm = folder / "encoders", folder / "llm"
    shutil.rmtree(folder, ignore_errors=True)
    for path in [llm, *(encoders / name for name in make.SHORT)]:
        path.mkdir(parents=True)
    make.make_languagebind(ref, encoders / make.LANGUAGEBIND)
    gains = [(r"attn.qkv.weight", 1.7), (r"patch_embed|pos_embed|_token|fc2", make.SMALL), (r"attn.proj", make.SMALL / 2)]
    for name, architecture, model_args in TIMM:
        make.make_timm(ref, encoders / name, architecture, model_args, make.SEEDS[name], gains)
    make.make_vivit(encoders / make.VIVIT)

    mixing = projectors_and_fusion(ref)  # LLaMA's own embeddings are small beside its first layers' output, and so are the projectors'
    plain_randomise(mixing, make.SEEDS["merv"], [(r"\.Q$", 4.0), (r"projectors", 0.1)])
    make.write_json(folder / "config.json", make.MERV)
    make.write_tensors(folder / "model.safetensors", mixing.state_dict())
    del mixing

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**make.LLAMA_CONFIG))
    model = model.to_empty(device="cpu")
    gains = [(r"embed_tokens", 0.4), (r"[qk]_proj", 1.5), (r"o_proj|down_proj", 0.5), (r"lm_head", 3.0)]
    randomise(model, make.SEEDS["llm"], gains)
    make.write_json(llm / "config.json", {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", **make.LLAMA_CONFIG})
    make.write_tensors(llm / "model.safetensors", model.state_dict())
    shutil.copyfile(shared / "data/llm/tokenizer.model", llm / "tokenizer.model")


def ask(program, folder, clip, dump):
    command = [program, "-m", folder, "--video", clip, "--prompt", QUESTION, "--max-tokens", 4, "--json", "--dump", dump]
    start = time.perf_counter()
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"merv-ask failed with status {done.returncode}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = {"all": time.perf_counter() - start, "all, of CPU": used.ru_utime + used.ru_stime}
    return {**json.loads(done.stdout), "seconds": seconds, "peak GiB": used.ru_maxrss / 2**20}


# ------------------------------------------------------------------------------------------------------------------- comparing


class Report:
    def __init__(self):
        self.rows, self.bad = [], []

    def judge(self, part, ours, f32, f64):
        ours, f32, f64 = (t.reshape(-1).double() for t in (ours, f32, f64))
        ours, torchs = [float((t - f64).norm() / f64.norm()) for t in (ours, f32)]
        self.rows.append([part, f"{ours:.2e}", f"{torchs:.2e}", f"{ours / torchs:.2f}", f"{f64.square().mean().sqrt():.3g}"])
        print("  " + "  ".join(self.rows[-1]), flush=True)
        self.require(ours <= LIMIT * torchs, f"{part}: ratio {ours / torchs:.2f} is above {LIMIT}")

    def require(self, ok, what):
        if not ok:
            self.bad.append(what)
            print("  WRONG: " + what, flush=True)

    def table(self):
        lines = [["part", "ours", "torch", "ratio", "rms"], ["---"] + ["---:"] * 4, *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def compare_encoders(ref, folder, dump, frames, report):
    backbones = make.load_backbones(ref, folder)
    for name, count in zip(ENCODERS, make.NUM_FRAMES):
        backbone = backbones.pop(0).requires_grad_(False)
        pixels = dump.get_tensor("pixels." + name)
        reference = backbone.video_transform(frames[:: len(frames) // count])
        assert reference.shape == pixels.shape, (name, reference.shape, pixels.shape)
        off = float((pixels - reference).abs().max())
        print(f"  pixels.{name}: off by at most {off:.1e}, {float((pixels == reference).float().mean()):.2%} equal")
        report.require(off <= (PIXELS_LIMIT if name == "languagebind" else 0), f"pixels.{name} differ from the reference's by {off:.1e}")

        run = lambda x: backbone(x.unsqueeze(0), None)[0]  # noqa: E731
        f32 = run(pixels)
        backbone.double()
        f64 = run(pixels.double())
        report.judge("features." + name, dump.get_tensor("features." + name), f32, f64)
        del backbone, run, f32, f64
        gc.collect()


def compare_mixing(ref, folder, dump, report, answer):
    model = projectors_and_fusion(ref)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    features = [dump.get_tensor("features." + e) for e in ENCODERS]

    def run(dtype):
        model.to(dtype)
        projected = [p(f.to(dtype).reshape(1, 16, -1, f.shape[-1])) for p, f in zip(model.projectors, features)]
        return projected, *model.feature_fusion(projected)

    projected, fused, weights = run(torch.float32)
    projected64, fused64, weights64 = run(torch.float64)
    for name, f32, f64 in zip(ENCODERS, projected, projected64):
        report.judge("projected." + name, dump.get_tensor("projected." + name), f32, f64)
    report.judge("fused", dump.get_tensor("fused"), fused, fused64)
    ours = torch.tensor([answer["fusion_weights"][e] for e in ENCODERS], dtype=torch.float64)
    off = [float((w.double() - weights64[0]).abs().max()) for w in (ours, weights[0])]
    print(f"  fusion weights {[round(w, 4) for w in weights64[0].tolist()]}: off by at most {off[0]:.1e}, PyTorch's by {off[1]:.1e}")
    report.require(off[0] <= 1e-6, f"fusion weights off by {off[0]:.1e}")


def compare_llama(folder, dump, report, answer):
    ids, tokens = answer["answers"][0]["prompt_tokens"], answer["answers"][0]["tokens"]
    llm = LlamaForCausalLM.from_pretrained(folder / "llm", torch_dtype=torch.float32).requires_grad_(False).eval()
    embeds, table = dump.get_tensor("embeds"), llm.get_input_embeddings().weight
    want = torch.cat([table[ids[:1]], dump.get_tensor("fused"), table[ids[1:]]])
    report.require(torch.equal(embeds, want), "embeds are not [BOS, fused, text]")

    def run(dtype):  # logits of the prompt's last position and of each further token
        out, steps = llm.model(inputs_embeds=embeds.to(dtype).unsqueeze(0), use_cache=True), []
        for token in tokens:
            steps.append(llm.lm_head(out.last_hidden_state[0, -1]))
            out = llm.model(input_ids=torch.tensor([[token]]), past_key_values=out.past_key_values, use_cache=True)
        return torch.stack(steps)

    f32 = run(torch.float32)
    llm.double()
    rope = modeling_llama.LlamaRotaryEmbedding.forward
    with make.llama_in_double():
        f64 = run(torch.float64)
        modeling_llama.LlamaRotaryEmbedding.forward = rope  # Hugging Face's own table of cosines and sines, f32 whatever the model
        same_angles = run(torch.float64)
    ours = dump.get_tensor("logits")
    report.judge("logits", ours, f32[0], f64[0])
    report.judge("logits, angles in f32", ours, f32[0], same_angles[0])
    top = f64.topk(2, dim=-1).values
    gap = float((top[:, 0] - top[:, 1]).min())
    print(f"  tokens {tokens}, float64's {f64.argmax(-1).tolist()}, smallest gap of the two best logits {gap:.4f}")
    report.require(f64.argmax(-1).tolist() == tokens and f32.argmax(-1).tolist() == tokens, "greedy tokens differ")


def machine():
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{len(names)} cores of {names[0]}"


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", required=True, type=Path, help="checkout of princetonvisualai/merv")
    parser.add_argument("--shared", required=True, type=Path, help="the project's shared folder (LLaMA-2's tokenizer)")
    parser.add_argument("--merv-ask", required=True, type=Path)
    parser.add_argument("--work", required=True, type=Path, help="receives 7 GB")
    parser.add_argument("--clip", type=Path, default=Path(__file__).resolve().parents[2] / "data/samples/nasa_jwst.mp4")
    parser.add_argument("--reuse", action="store_true")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()

    ref = make.import_reference(args.reference.resolve())
    folder, dump_path, answer_path = args.work / "merv-full-size", args.work / "dump.safetensors", args.work / "answer.json"
    if not (args.reuse and answer_path.exists()):
        print("writing the model", flush=True)
        write_folder(ref, folder, args.shared)
        gc.collect()
        print("asking", flush=True)
        make.write_json(answer_path, ask(args.merv_ask.resolve(), folder, args.clip, dump_path))
    answer = json.loads(answer_path.read_text())

    report = Report()
    frames, indices = make.read_frames(ref, args.clip)
    report.require(indices == answer["frame_indices"], "frame indices differ")
    with safe_open(dump_path, "pt") as dump:
        print("comparing: part, ours, torch, ratio, rms of f64", flush=True)
        compare_encoders(ref, folder, dump, frames, report)
        compare_mixing(ref, folder, dump, report, answer)
        compare_llama(folder, dump, report, answer)

    v, seconds = answer["versions"], {**{k: t / 1000 for k, t in answer["ms"].items() if t >= 20}, **answer["seconds"]}
    print(f"\n{report.table()}\n")
    print(f"{datetime.date.today()}, {machine()}, {torch.get_num_threads()} threads. merv-ask {v['commit']}, {v['compiler']}, {v['isa']}; PyTorch", end=" ")
    print(f"{torch.__version__}, timm {ref.timm.__version__}, transformers {transformers.__version__}, python {platform.python_version()}.")
    print("merv-ask, seconds: " + ", ".join(f"{k} {t:.2f}" for k, t in seconds.items()) + f"; at most {answer['peak GiB']:.1f} GiB")
    print("\n".join("WRONG: " + b for b in report.bad) or f"all equal where they must be, every ratio at most {LIMIT}")
    return bool(report.bad)


if __name__ == "__main__":
    raise SystemExit(main())
