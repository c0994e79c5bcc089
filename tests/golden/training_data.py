"""What the reference's samplers and datasets make of small data sets, for tests/test_sampler.cpp, test_conversations.cpp and test_samples.cpp.

    PY tests/golden/training_data.py --reference REF --shared SHARED --out tests/golden      (environment and arguments: see make.py)

writes OUT/training_data.json:
    randperm        torch.randperm: whole where small, else the first values and sum (i + 1) p[i] modulo 2^64
    distributed     torch's DistributedSampler, the order of every rank
    split           the reference's SplitModalitySampler, the order of every rank ("ranks"), or "fails" where an assertion of its own stops it
    records         a dataset of odd conversations, as it lies in a file; lengths: get_modality_lengths() of it
    finetune, align ids and labels of each record by FinetuneVideoDataset and AlignVideoDataset, for a prompt builder and a tokenizer. `learned`: [from, to) pairs of
                    places, where labels are the ids (the script checks it); they are -100 elsewhere. null: the reference raises, and would take a random other sample
SHARED/data/llm/tokenizer.model (LLaMA-2's own) may not be handed on: only ids by it are written. Run by hand; the same bytes each time.
"""

import argparse
import contextlib
import importlib
import io
import json
import random
import tempfile
from pathlib import Path

import make
import numpy as np
import tokenizer as texts
import tokenizers
import torch
from PIL import Image
from torch.utils.data import DistributedSampler
from transformers import PreTrainedTokenizerFast


def turns(*values):
    return [{"from": ["human", "gpt"][i % 2], "value": v} for i, v in enumerate(values)]


def record(number, media, *values):
    return {"id": f"r{number}", **media, "conversations": turns(*values)}


VIDEO, IMAGE = {"video": "samples/nasa_jwst.mp4"}, {"image": "dot.png"}
CONVERSATIONS = [
    (VIDEO, "<video>\nWhat is shown in the video?", "A rocket on its launch pad."),
    (IMAGE, "<image>\nWhat is this?", "A red dot."),
    ({}, "Name a colour.", "Blue."),
    ({**IMAGE, **VIDEO}, "<image>\n<video>\nBoth?", "The video counts."),
    (VIDEO, "<video>\nWho speaks?", "A man.", "What does he say?", "He explains the telescope.", "Is it gold?", "Yes"),
    ({}, "One", "two", "three", "four"),
    (VIDEO, "", ""),
    (VIDEO, "<video>", " "),
    (IMAGE, "<image>", "<image> in the answer"),
    (VIDEO, "question", "an answer about <video>"),
    (VIDEO, "a <image> b<image> <video>c", "  padded \n\t"),
    (IMAGE, "What is on the\u00a0picture?\u3000", "caf\u00e9 \u65e5\u672c\u8a9e \U0001f600 \u2003"),
    ({}, "line\n\nline \x1c\x1d\x1e\x1f\x85 x\u200bx\u180e \u2028 \u205f", "tab\tand\vand\f\r\nand end \x85"),
    (VIDEO, "Is </s> a special? <s>", "So <s>it</s> is.</s>"),
    (VIDEO, "<|im_start|>odd<|eot_id|>", "<|im_end|><|eot_id|>"),
    (IMAGE, "Choose.\n(A) red (B) green (C) blue\nAnswer with the option's letter from the given choices directly.", "A"),
    (VIDEO, "Count.", " ".join(str(i) for i in range(60))),
    ({}, "True or False?", "False "),
    (VIDEO, "x" * 70, "y" * 40, "  ", "", "z", "  last  "),
    (VIDEO, "  leading", "  leading"),
]
RECORDS = [record(i, *c) for i, c in enumerate(CONVERSATIONS)]
MAX_LENGTH = 2048


def data_set(cls, folder, records, **args):
    path = folder / "data.json"
    path.write_text(json.dumps(records))
    return cls(path, folder, Path(__file__).parents[2] / "data", video_transforms=[], num_frames=[1], **args)


def encoded(data, i):
    """Sample i, or None if the reference fails at it."""
    fallen = []
    inner = type(data).__getitem__

    class Once(type(data)):  # a failure asks for another sample, and this says so
        def __getitem__(self, k):
            fallen.append(k)
            if len(fallen) > 1:
                raise StopIteration
            return inner(self, k)

    once = object.__new__(Once)
    once.__dict__ = data.__dict__
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            sample = once[i]
    except StopIteration:
        return None
    ids, labels = sample["input_ids"].tolist(), sample["labels"].tolist()
    learned = []
    for at, (x, y) in enumerate(zip(ids, labels)):
        assert y in (x, -100) and len(ids) == len(labels)
        if y != -100:
            if learned and learned[-1][1] == at:
                learned[-1][1] = at + 1
            else:
                learned.append([at, at + 1])
    return {"ids": ids, "learned": learned, "is_image": sample["is_image"]}


def fast(path, **specials):
    """tokenizers 0.19 knows merges as "a b" only, not as ["a", "b"]."""
    value = json.loads(path.read_text())
    value["model"]["merges"] = [m if isinstance(m, str) else " ".join(m) for m in value["model"]["merges"]]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer.from_str(json.dumps(value)), **specials)


def fast_tokenizers(out, shared):
    """(name, tokenizer): the file of ours that the test reads, and the reference's way of reading it."""
    folder = out / "tokenizers"
    yield "tok512", lambda: texts.fast_tokenizer(out / "merv-tiny/llm/tokenizer.model")
    yield "llama2", lambda: texts.fast_tokenizer(shared / "data/llm/tokenizer.model")
    yield "llama3", lambda: fast(folder / "llama3.json", bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>")
    yield "llama3.1", lambda: fast(folder / "llama3.json", bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")
    yield "qwen2.5", lambda: fast(folder / "qwen2.5.json", eos_token="<|im_end|>")


RUNS = [  # tokenizer, builder, and where texts are cut
    ("tok512", "pure", MAX_LENGTH), ("tok512", "llama2-chat", MAX_LENGTH), ("tok512", "vicuna", MAX_LENGTH), ("tok512", "pure", 48),
    ("llama2", "pure", MAX_LENGTH), ("llama3", "pure", MAX_LENGTH), ("llama3", "llama2-chat", MAX_LENGTH),
    ("llama3.1", "llama3.1-chat", MAX_LENGTH), ("llama3.1", "llama3.1-chat", 40), ("qwen2.5", "qwen2.5-chat", MAX_LENGTH),
]  # fmt: skip


def samples(reference, datasets, out, shared):
    builders = importlib.import_module("merv.models.backbones.llm.prompting")
    classes = {"pure": builders.PurePromptBuilder, "llama2-chat": builders.LLaMa2ChatPromptBuilder, "vicuna": builders.VicunaV15ChatPromptBuilder,
               "llama3.1-chat": builders.LLaMa31PromptBuilder, "qwen2.5-chat": builders.Qwen2PromptBuilder}  # fmt: skip
    load = dict(fast_tokenizers(out, shared))
    finetune, align = [], []
    with tempfile.TemporaryDirectory() as temp:
        folder = Path(temp)
        Image.fromarray(np.full((4, 4, 3), (255, 0, 0), np.uint8)).save(folder / "dot.png")
        for name, builder, length in RUNS:
            tokenizer = load[name]()
            tokenizer.add_special_tokens({"pad_token": "<|finetune_right_pad_id|>" if name == "llama3.1" else "<PAD>"})
            tokenizer.model_max_length = length
            head = {"tokenizer": name, "max_length": length}
            data = data_set(datasets.FinetuneVideoDataset, folder, RECORDS, tokenizer=tokenizer, prompt_builder_fn=classes[builder])
            finetune += [{**head, "builder": builder, "record": i, "sample": encoded(data, i)} for i in range(len(RECORDS))]
            if not any(a["tokenizer"] == name and a["max_length"] == length for a in align):
                data = data_set(datasets.AlignVideoDataset, folder, RECORDS, tokenizer=tokenizer)
                align += [{**head, "eos": tokenizer.eos_token, "record": i, "sample": encoded(data, i)} for i in range(len(RECORDS))]
        lengths = data.get_modality_lengths()
    return {"records": RECORDS, "lengths": lengths, "finetune": finetune, "align": align}


def permutations():
    for n, seed in [(0, 0), (1, 0), (2, 0), (2, 1), (3, 7), (10, 0), (10, 7), (10, 2**31), (10, 2**32 - 1), (10, 2**32 + 7), (100, 7), (100, 8), (100000, 7), (702000, 9)]:
        p = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
        yield {"n": n, "seed": seed, "first": p[:100], "sum": str(sum((i + 1) * x for i, x in enumerate(p)) % 2**64)}


def distributed():
    for n, ranks, seed, epoch in [(10, 1, 7, 0), (10, 3, 7, 0), (64, 8, 7, 1), (37, 4, 7, 2), (5, 8, 0, 0)]:
        for shuffle in [True, False]:
            orders = []
            for rank in range(ranks):
                s = DistributedSampler(range(n), num_replicas=ranks, rank=rank, shuffle=shuffle, seed=seed, drop_last=False)
                s.set_epoch(epoch)
                orders.append(list(s))
            yield {"n": n, "seed": seed, "epoch": epoch, "shuffle": shuffle, "ranks": orders}


def split(sampler):
    rng = random.Random(1)
    shapes = [(12, 0, 4, 2), (12, 7, 4, 2), (33, 9, 8, 4), (40, 41, 8, 8), (17, 30, 8, 1), (130, 70, 32, 8), (64, 64, 16, 4), (9, 9, 8, 2), (8, 0, 8, 8), (1, 0, 1, 1), (5, 3, 8, 2),
              (3, 0, 8, 2), (0, 9, 4, 2), (300, 40, 128, 8)]  # fmt: skip
    for number, (clips, dialogues, batch, ranks) in enumerate(shapes):
        # few distinct lengths in every other data set, so that ties decide; now and then one of no words at all
        top = 4 if number % 2 else 400
        lengths = [(True, rng.randrange(0, top)) for _ in range(clips)] + [(False, rng.randrange(0, top)) for _ in range(dialogues)]
        rng.shuffle(lengths)
        for seed, epoch in [(7, 0), (7, 1)] if number else [(7, 0), (7, 5), (0, 3)]:
            orders = []
            try:
                for rank in range(ranks):
                    s = sampler(lengths, lengths, batch, num_replicas=ranks, rank=rank, seed=seed)
                    s.set_epoch(epoch)
                    orders.append([int(i) for i in s])
                outcome = {"ranks": orders}
            except (AssertionError, ValueError) as e:
                outcome = {"fails": type(e).__name__}
            yield {"lengths": [[int(m), w] for m, w in lengths], "batch": batch, "seed": seed, "epoch": epoch, "n_ranks": ranks, **outcome}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", required=True, type=Path, help="a checkout of princetonvisualai/merv")
    parser.add_argument("--shared", required=True, type=Path, help="the project's shared folder")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    datasets = make.import_reference(args.reference).datasets
    batching = importlib.import_module("merv.util.batching_utils")
    texts.write(args.out / "training_data.json", {
        "randperm": list(permutations()), "distributed": list(distributed()), "split": list(split(batching.SplitModalitySampler)),
        **samples(args.reference, datasets, args.out, args.shared),
    })  # fmt: skip
