"""Ten optimizer steps of merv-tiny in PyTorch, for tests/test_train.cpp.

    PY tests/golden/training.py --reference REF --out tests/golden      (environment and arguments: see make.py)

writes OUT/training.safetensors. Stage `finetune`: projectors, language model and fusion are trained, the encoders are frozen. Six samples, two of them text-only, are
taken in turn, four to a step in micro-batches of two. The model is the reference's own MERV.forward up to the language model's inputs; torch.optim.AdamW, the groups that the
reference means to have, torch's clip_grad_norm_, Hugging Face's cosine schedule with warmup. Two ways:

    exact       the loss is the mean over the label tokens of the whole step; weight decay 0.1 on matrices
    reference   the mean of the micro-batches' means, and no weight decay, which is what the reference does on several GPUs (its FSDP views have one dimension)

Each is run in f64 and f32. `WAY.loss`, `WAY.norm`, `WAY.rate` (10, 2): each step's in f64, and what f32 is away from it. `WAY/NAME`: of each trained parameter after ten steps
the norm, the norm of f32's difference, norm and 64 projections (gradients.py) of the parameter in f64. `first/NAME`: the same of the first step's gradient, the exact way.
"""

import argparse
from pathlib import Path

import gradients
import make
import torch
import torch.nn.functional as F
import transformers

STEPS, BATCH, MICRO, RATE, DECAY, WARMUP = 10, 4, 2, 1e-4, 0.1, 0.2
SAMPLES = [  # clip, question, answer
    (True, "What is shown in the video?", "A rocket on its launch pad."),
    (True, "Who is speaking?", "A man who looks at the sky and explains what the telescope will see there."),
    (False, "Name a colour.", "Blue."),
    (True, "Is there a telescope? Answer with yes or no.", "Yes"),
    (False, "Count to five, in words, and then say what comes next.", "One, two, three, four, five. Six comes next."),
    (True, "Describe the clip.", "Gold mirrors, people in white suits, a rocket."),
]


def named(model):
    for name, p in model.named_parameters():
        if name.startswith("llm_backbone.llm."):
            yield name.replace("llm_backbone.llm.", "llm."), p
        elif name.startswith(("projectors.", "feature_fusion.")):
            yield name, p


def samples(model):
    tokenizer = model.llm_backbone.tokenizer
    for clip, question, answer in SAMPLES:
        human = tokenizer(f"In: {question}\nOut:", add_special_tokens=True).input_ids
        gpt = tokenizer(f"{answer}</s>", add_special_tokens=False).input_ids
        yield clip, torch.tensor([human + gpt]), torch.tensor([[gradients.IGNORE] * len(human) + gpt])


def train(ref, folder, frames, dtype, way):
    model = make.load_model(ref, folder)
    pixels = [b.video_transform(frames[:: max(make.NUM_FRAMES) // n]).unsqueeze(0).to(dtype) for b, n in zip(model.video_backbones, make.NUM_FRAMES)]
    model.to(dtype)
    for p in model.parameters():
        p.requires_grad = False
    parameters = dict(named(model))
    for p in parameters.values():
        p.requires_grad = True
    batch_of = list(samples(model))
    seen = {}

    def catch(*_, inputs_embeds=None, labels=None, attention_mask=None, **__):
        seen.update(embeds=inputs_embeds, labels=labels)

    model.llm_backbone.forward = catch

    def summed(i):
        clip, ids, labels = batch_of[i]
        if clip:
            model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, video_values=pixels)
            embeds, labels = seen["embeds"], seen["labels"]
        else:
            embeds = model.llm_backbone.embed_input_ids(ids)
        logits = model.llm_backbone.llm.lm_head(model.llm_backbone.llm.model(inputs_embeds=embeds).last_hidden_state)
        wanted = labels[0, 1:]
        return F.cross_entropy(logits[0, :-1], wanted, ignore_index=gradients.IGNORE, reduction="sum"), int((wanted != gradients.IGNORE).sum())

    decayed = [p for n, p in parameters.items() if p.ndim > 1 and not n.endswith(".bias")]
    rest = [p for n, p in parameters.items() if p.ndim <= 1 or n.endswith(".bias")]
    decay = DECAY if way == "exact" else 0.0
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}], lr=RATE, betas=(0.9, 0.999), eps=1e-8, foreach=False)
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, int(STEPS * WARMUP), STEPS)
    history, first = {"loss": [], "norm": [], "rate": []}, None
    for step in range(STEPS):
        indices = [(BATCH * step + i) % len(SAMPLES) for i in range(BATCH)]
        micro = [[summed(i) for i in indices[m : m + MICRO]] for m in range(0, BATCH, MICRO)]
        if way == "exact":
            loss = sum(s for part in micro for s, _ in part) / sum(n for part in micro for _, n in part)
        else:
            loss = sum(sum(s for s, _ in part) / sum(n for _, n in part) for part in micro) / len(micro)
        loss.backward()
        if first is None:
            first = {n: (torch.zeros_like(p) if p.grad is None else p.grad).detach().clone() for n, p in parameters.items()}
        history["rate"].append(optimizer.param_groups[0]["lr"])
        history["norm"].append(float(torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0, foreach=False)))
        history["loss"].append(float(loss.detach()))
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
    return history, {n: p.detach() for n, p in parameters.items()}, first, batch_of


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", required=True, type=Path, help="checkout of princetonvisualai/merv")
    parser.add_argument("--out", required=True, type=Path, help="tests/golden")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    ref, folder = make.import_reference(args.reference.resolve()), args.out / "merv-tiny"
    frames, _ = make.read_frames(ref, Path(__file__).resolve().parents[2] / "data/samples/nasa_jwst.mp4")
    golden = gradients.Golden()
    golden.metadata["source"] = "tests/golden/training.py"
    for way in ["exact", "reference"]:
        single, after_single, first_single, _ = train(ref, folder, frames, torch.float32, way)
        with gradients.norms_in_double():
            exact, after, first, batch_of = train(ref, folder, frames, torch.float64, way)
        for key in exact:
            golden.tensors[f"{way}.{key}"] = torch.tensor([[a, abs(a - b)] for a, b in zip(exact[key], single[key])], dtype=torch.float64).float()
        golden.add(way, after, after_single)
        if way == "exact":
            golden.add("first", first, first_single)
    for i, (clip, ids, labels) in enumerate(batch_of):
        golden.tensors[f"sample.{i}.ids"], golden.tensors[f"sample.{i}.labels"] = ids[0].to(torch.int32), labels[0].to(torch.int32)
    for module in [torch, transformers]:
        golden.metadata["version." + module.__name__] = module.__version__
    make.write_safetensors(args.out / "training.safetensors", golden.tensors, golden.metadata)


if __name__ == "__main__":
    main()
