"""Writes what SentencePiece, Hugging Face and the reference's prompt builders compute for the tests of tokenizer, prompt and sampling.

    python3.11 -m venv /tmp/golden && /tmp/golden/bin/pip install -r tests/golden/requirements.txt
    git clone https://github.com/princetonvisualai/merv /tmp/merv && git -C /tmp/merv checkout d5eb1d2
    /tmp/golden/bin/python tests/golden/tokenizer.py --reference /tmp/merv --out tests/golden

reads OUT/merv-tiny/llm/tokenizer.model (tok512, MIT) and writes
    OUT/tokenizer_tok512.json   ids by SentencePiece and by LlamaTokenizerFast (what the reference uses), and decoded id sequences
    OUT/tokenizer_small.json    the same for small seeded models made here: many equal scores, and every setting that is honoured
    OUT/prompts.json            prompts of the reference's builders, one and several turns
    OUT/sampling.json           which tokens Hugging Face's warpers keep, and their probabilities
Run by hand, never in CI; the output does not depend on the machine.
"""

import argparse
import base64
import importlib
import json
import random
import sys
import tempfile
import types
from pathlib import Path

import jinja2
import sentencepiece
import torch
from transformers import LlamaTokenizerFast
from transformers.convert_slow_tokenizer import import_protobuf
from transformers.generation.logits_process import (
    LogitsProcessorList, MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper,
)  # fmt: skip

SPACE = "\u2581"
TEXTS = [
    "", " ", "  ", "   ", "a", " a", "a ", "  a  b  ", "\n", "\n\n", "\t", " \n ", "\0", "a\0b", "\x01\x7f\x80\x9f", SPACE, SPACE * 2, f"a{SPACE}b",
    f"{SPACE}a", f" {SPACE} a {SPACE} ",
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park.", "What is happening in the video?",
    "In: What is happening in the video?\nOut:", "Yes", "No", "A", "12345", "1234567890" * 3, "3.14159 + 2 = 5.14159",
    "don't stop!!! (really?) [ok] {fine} <b>", "x = y_z * \"q\" \\ '`~@#$%^&|;:/",
    "<s>", "</s>", "<unk>", "<s></s><unk>", "<s> a", "a<s>b", "a <s> b </s> c", " <s> ", "<<s>>", "<s", "</s", "< s>", "<S>", "<pad>", "<PAD>",
    "<image>", "<0x41>", "<0x0A>", "Hello <s>.", "<s>\n<s>", "</s></s>end",
    "\u00e9", "e\u0301", "\u00c4pfel stra\u00dfe", "\u043d\u0435\u0449\u043e \u043d\u0430 \u0411\u044a\u043b\u0433\u0430\u0440\u0441\u043a\u0438",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8", "\U0001f999", "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "\ufffd", "\ufffe\uffff", "\U0010ffff", "\u00a0x\u3000y\u2003z", "\ufeffbom", "\u00ad\u200b", "\u0130\u0131 \ufb01",
    "a" * 50, "ab" * 40, " " * 40, "aaa  " * 10, "the " * 30, "ha" * 33 + "!", "\u00e9" * 20, "\n" * 9, " a" * 30,
]  # fmt: skip
POOLS = ["abcdefghijklmnopqrstuvwxyz    ", "the an in on er st ed   ", "etaoin  .,!?\"'\n", "aAbB01 \t\n<>/s", f"a {SPACE}\u00e9\u65e5\U0001f600", " "]
WORDS = "once upon a time there was little girl named Lily who loved to play with her mom and dad in the big park one day she saw dog </s> <s> <unk>".split(" ")
BROKEN = [b"\xff", b"a\xffb", b"\xc3", b"\xe2\x82", b"\xe2\x82 ", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\x80\x80a", b"caf\xc3\xa9\xc3",
    b"\xf0\x9f\x98"]  # fmt: skip


def random_texts(rng, count):
    for _ in range(count):
        if rng.random() < 0.4:
            yield rng.choice(["", " ", "  "]).join(rng.choice(WORDS) + rng.choice(["", "", " ", ", "]) for _ in range(rng.randrange(1, 15)))
        else:
            pool = rng.choice(POOLS)
            yield "".join(rng.choice(pool) for _ in range(rng.randrange(1, 40)))


def fast_tokenizer(path, dummy_prefix=True):
    # add_prefix_space: without it this class, given a bare tokenizer.model, makes no dummy prefix; LLaMA-2's own tokenizer.json has one
    return LlamaTokenizerFast(vocab_file=str(path), add_prefix_space=dummy_prefix, legacy=True)


def encoded(path, fast, texts):
    sp = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return [{"text": t, "sp": sp.encode(t), "fast": fast(t, add_special_tokens=False).input_ids} for t in dict.fromkeys(texts)]


def id_sequences(rng, pieces, count):
    """Ids as a model might say them: words, whole and broken byte runs, specials and ids beyond the pieces in between."""
    spaces = [i for i, p in enumerate(pieces) if p.startswith(SPACE)]
    for _ in range(count):
        ids = []
        for _ in range(rng.randrange(1, 10)):
            kind = rng.randrange(8)
            if kind < 3:
                ids.append(rng.randrange(259, len(pieces)))
            elif kind == 3:
                ids += [3 + b for b in rng.choice("\n \u00e9\u65e5\U0001f600\u2581a").encode()]
            elif kind == 4:
                run = rng.choice("\n\u00e9\u65e5\U0001f600").encode()
                ids += [3 + b for b in run[: rng.randrange(1, len(run) + 1)]] * rng.randrange(1, 3)
            elif kind == 5:
                ids += [3 + rng.randrange(256) for _ in range(rng.randrange(1, 4))]
            elif kind == 6:
                ids.append(rng.choice([0, 1, 2, len(pieces), len(pieces) + 63]))
            else:
                ids.append(rng.choice(spaces))
        yield ids


def tok512(path):
    rng = random.Random(512)
    fast = fast_tokenizer(path)
    sp = sentencepiece.SentencePieceProcessor(model_file=str(path))
    pieces = [sp.id_to_piece(i) for i in range(len(sp))]
    edges = [[], [1, 2, 0], [410], [410, 410], [410, 410, 263], [1, 410, 263], [512, 410, 263], [35], [35, 35], [35, 410], [13], [3 + 0xE2],
        [3 + 0xE2, 1, 3 + 0x82, 511, 3 + 0xAC], [3 + 0xE2, 512, 3 + 0x82, 1, 3 + 0xAC],
             [13, 3 + 0xFF], [13, 3 + 0xFF, 13], [3 + 0xFF, 410, 13], [3 + 0xE2, 3 + 0x96, 3 + 0x81], [3], [3 + 0xC2, 3 + 0x80], [3 + 0xED, 3 + 0xA0,
              3 + 0x80], [3 + 0xF0, 3 + 0x9F, 3 + 0x98, 3 + 0x80] * 3, [3 + 0xF0, 3 + 0x9F, 3 + 0x98, 3 + 0x80, 3 + 0xF0]]  # fmt: skip
    sequences = edges + list(id_sequences(rng, pieces, 180))
    return {
        "made_by": f"sentencepiece {sentencepiece.__version__}, LlamaTokenizerFast",
        "encode": encoded(path, fast, TEXTS + list(random_texts(rng, 130))),
        "broken": [{"hex": b.hex(), "sp": sp.encode(b)} for b in BROKEN],
        "decode": [{"ids": ids, "text": fast.decode(ids, skip_special_tokens=True)} for ids in sequences],
    }


def small_models():
    """Models of a few pieces over a, b, c and space whose scores are mostly equal, so that the rules for ties decide."""
    proto = import_protobuf()
    out = []
    for seed in range(8):
        rng = random.Random(seed)
        model = proto.ModelProto()
        model.trainer_spec.model_type = 2
        model.trainer_spec.byte_fallback = seed % 2 == 0
        model.normalizer_spec.name = "identity"
        model.normalizer_spec.add_dummy_prefix = seed % 4 < 2
        model.normalizer_spec.remove_extra_whitespaces = seed % 3 == 0
        model.normalizer_spec.escape_whitespaces = seed != 7

        def add(text, score, kind):
            piece = model.pieces.add()
            piece.piece, piece.score, piece.type = text, score, kind

        add("<unk>", 0, 2), add("<s>", 0, 3), add("</s>", 0, 3)
        if model.trainer_spec.byte_fallback:
            for b in range(256):
                add(f"<0x{b:02X}>", 0, 6)
        alphabet = "abc" + (" " if seed == 7 else SPACE)
        # now and then a character itself is no piece, though longer pieces hold it
        pieces = [c for c in alphabet if rng.random() < 0.85]
        pieces += ["".join(rng.choice(alphabet) for _ in range(rng.randrange(2, 6))) for _ in range(60)]
        pieces = list(dict.fromkeys(pieces))
        rng.shuffle(pieces)
        for p in pieces:
            add(p, float(rng.choice([-1, -1, -2, -3])), 1)
        data = model.SerializeToString()
        texts = ["", " ", "a", "z", "zz", "azza", "<s>a<unk>b</s>"] + ["".join(rng.choice("abcabc z") for _ in range(rng.randrange(2, 30))) for _ in range(25)]
        with tempfile.NamedTemporaryFile(suffix=".model") as f:
            f.write(data), f.flush()
            cases = encoded(f.name, fast_tokenizer(f.name, model.normalizer_spec.add_dummy_prefix), texts)
        if seed == 7:  # the converter does not know escape_whitespaces
            for case in cases:
                del case["fast"]
        out.append({"model": base64.b64encode(data).decode(), "encode": cases})
    return out


# The chat template that SmolLM2's tokenizer_config.json and GGUF files carry, and the same without a system prompt.
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SMOLLM2 = CHATML.replace(
    "messages %}",
    "messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}",
    1,
)


class Template:
    """A chat template with the reference builders' methods."""

    def __init__(self, text):
        self.template = jinja2.Environment(keep_trailing_newline=True).from_string(text)
        self.messages = []

    def add_turn(self, role, message):
        before = self.get_prompt()
        if not self.messages and before == "":  # the system prompt is no part of the turn
            before = self.template.render(messages=[{"role": "user", "content": ""}]).removesuffix("<|im_start|>user\n<|im_end|>\n")
        self.messages.append({"role": {"human": "user", "gpt": "assistant"}[role], "content": message})
        assert self.get_prompt().startswith(before)
        return self.get_prompt()[len(before) :]

    def get_prompt(self):
        return self.template.render(messages=self.messages, add_generation_prompt=bool(self.messages) and self.messages[-1]["role"] == "user")


def prompts(reference):
    for name in ["merv", "merv.models", "merv.models.backbones", "merv.models.backbones.llm"]:  # so that nothing but the builders is imported
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(reference / name.replace(".", "/"))]
    builders = importlib.import_module("merv.models.backbones.llm.prompting")
    classes = {"pure": builders.PurePromptBuilder, "llama2-chat": builders.LLaMa2ChatPromptBuilder, "vicuna": builders.VicunaV15ChatPromptBuilder,
               "llama3.1-chat": builders.LLaMa31PromptBuilder, "qwen2.5-chat": builders.Qwen2PromptBuilder,
               "smollm2-chat": lambda _: Template(SMOLLM2), "chatml": lambda _: Template(CHATML)}  # fmt: skip
    conversations = [
        ["What is happening in the video?"], [""], ["   "], ["<image>"], ["<image>\nWhat is this?"], ["<video>\nWhat is this?"],
         ["a <image> b<image>"], ["<ima<image>ge> x"], ["  <image>  padded \n\t"],
        ["\u00a0\u3000wide\u2003\u205f\u1680"], ["\u2028\x1c\x85x\x1d\u202f\u180e\u200b"], ["\ufeffx\u200b "], ["\u00e0\u00a0"], ["<s>already"],
         ["ends with </s>"], ["line\n\nline"], ["\x0b\x0ctext\x1e\x1f"],
        ["Hi", "Hello!"], ["Hi", ""], ["Hi", " \n"], ["Hi", "<image>"], ["Hi", "  yes  ", "And now?"], ["<image> one", "two", "<image> three ",
         " four ", "five"], ["", "", ""],
    ]  # fmt: skip
    out = []
    for name, builder in classes.items():
        for messages in conversations:
            b = builder("merv")
            turns = []
            for i, message in enumerate(messages):
                added = b.add_turn("human" if i % 2 == 0 else "gpt", message)
                turns.append({"message": message, "added": added, "prompt": b.get_prompt()})
            out.append({"builder": name, "turns": turns})
    return out


def sampling():
    g = torch.Generator().manual_seed(5)
    settings = [(1.0, 0, 1.0, 0.0), (0.4, 0, 1.0, 0.0), (1.0, 5, 1.0, 0.0), (0.7, 1, 1.0, 0.0), (1.0, 0, 0.9, 0.0), (1.5, 0, 0.5, 0.0), (1.0, 0, 0.01,
        0.0), (1.0, 0, 1.0, 0.1), (2.0, 0, 1.0, 0.3),
                (0.8, 12, 0.85, 0.05), (3.0, 30, 0.95, 0.2), (0.1, 50, 0.99, 0.001), (1.0, 1000, 0.7, 1.0)]  # fmt: skip
    out = []
    for temperature, top_k, top_p, min_p in settings:
        steps = 1 if top_p == 1 else 64  # coarse, so that logits tie at the k-th; top-p cuts ties as its sort happens to order them
        logits = torch.randint(-4 * steps, 4 * steps + 1, (48,), generator=g) / steps
        warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
        if top_k:
            warpers.append(TopKLogitsWarper(top_k))
        if top_p < 1:
            warpers.append(TopPLogitsWarper(top_p))
        warpers.append(MinPLogitsWarper(min_p))
        p = warpers(None, logits.double()[None])[0].softmax(-1)
        case = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "logits": logits.tolist()}
        out.append({**case, "p": [float(f"{x:.9g}") for x in p.tolist()]})
    return out


def write(path, value):
    # one case per line: git shows what changed
    def lines(v):
        return "[\n" + ",\n".join(json.dumps(x, separators=(",", ":")) for x in v) + "\n]"

    def entry(key, v):
        return f"{json.dumps(key)}: {lines(v) if isinstance(v, list) else json.dumps(v)}"

    text = lines(value) if isinstance(value, list) else "{\n" + ",\n".join(entry(k, v) for k, v in value.items()) + "\n}"
    path.write_text(text + "\n")
    print(path, len(text))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", required=True, type=Path, help="a checkout of princetonvisualai/merv")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    write(args.out / "tokenizer_tok512.json", tok512(args.out / "merv-tiny/llm/tokenizer.model"))
    write(args.out / "tokenizer_small.json", small_models())
    write(args.out / "prompts.json", prompts(args.reference))
    write(args.out / "sampling.json", sampling())
