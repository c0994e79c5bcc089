"""Writes a MERV checkpoint of the released one's size, all zeros, as a sparse file: for measuring merv-weights import.

    PY tests/golden/sparse_checkpoint.py OUT/checkpoints/latest-checkpoint.pt

The layout is torch.save's: a zip64 archive with a pickle and 27 GB of stored f32 values, of which the disk keeps almost nothing.
"""

import collections
import io
import pickle
import struct
import sys
import zlib
from pathlib import Path

import torch

WIDTHS, WIDTH, FUSION, LAYERS, MLP, ROWS = [1024, 1024, 768, 768], 4096, 3072, 32, 11008, 32064
HEAD, DIRECTORY = struct.Struct("<4sHHHHHIIIHH"), struct.Struct("<4sHHHHHHIIIHHHHHII")


class Storage:
    def __init__(self, key, count):
        self.key, self.count = key, count


class Tensor:
    def __init__(self, storage, shape):
        self.storage, self.shape = storage, shape

    def __reduce__(self):
        strides, step = [], 1
        for n in reversed(self.shape):
            strides.insert(0, step)
            step *= n
        return torch._utils._rebuild_tensor_v2, (self.storage, 0, tuple(self.shape), tuple(strides), False, collections.OrderedDict())


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        return ("storage", torch.FloatStorage, obj.key, "cpu", obj.count) if isinstance(obj, Storage) else None


def model():
    projectors = {f"{i}.projector.projector.{k}": s for i, w in enumerate(WIDTHS) for k, s in [("weight", [WIDTH, w]), ("bias", [WIDTH])]}
    fusion = {"Q": [1, FUSION], "attention.q_proj_weight": [FUSION, FUSION], "attention.k_proj_weight": [FUSION, WIDTH], "attention.v_proj_weight": [FUSION, WIDTH]}
    fusion.update({"attention.in_proj_bias": [3 * FUSION], "attention.out_proj.weight": [FUSION, FUSION], "attention.out_proj.bias": [FUSION]})
    llm = {"llm.model.embed_tokens.weight": [ROWS, WIDTH], "llm.model.norm.weight": [WIDTH], "llm.lm_head.weight": [ROWS, WIDTH]}
    for i in range(LAYERS):
        layer = {f"self_attn.{x}_proj": [WIDTH, WIDTH] for x in "qkvo"} | {"mlp.gate_proj": [MLP, WIDTH], "mlp.up_proj": [MLP, WIDTH], "mlp.down_proj": [WIDTH, MLP]}
        layer |= {"input_layernorm": [WIDTH], "post_attention_layernorm": [WIDTH]}
        llm |= {f"llm.model.layers.{i}.{k}.weight": s for k, s in layer.items()}
    return {"projectors": projectors, "llm_backbone": llm, "feature_fusion": fusion}


def crc_of_zeros(count, known={}):
    if count not in known:
        crc, left, block = 0, count, bytes(1 << 24)
        while left:
            crc = zlib.crc32(block[: min(left, len(block))], crc)
            left -= min(left, len(block))
        known[count] = crc
    return known[count]


def main(path):
    sizes = []

    def tensor(shape):
        count = 1
        for n in shape:
            count *= n
        sizes.append(4 * count)
        return Tensor(Storage(str(len(sizes) - 1), count), shape)

    tree = {"model": {part: collections.OrderedDict((k, tensor(s)) for k, s in tensors.items()) for part, tensors in model().items()}}
    text = io.BytesIO()
    Pickler(text, protocol=2).dump(tree)
    entries = [("a/data.pkl", text.getvalue(), len(text.getvalue()), zlib.crc32(text.getvalue()))]
    entries += [(f"a/data/{i}", b"", n, crc_of_zeros(n)) for i, n in enumerate(sizes)] + [("a/version", b"3\n", 2, zlib.crc32(b"3\n"))]
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as f:
        directory = b""
        for name, data, size, crc in entries:
            at, name = f.tell(), name.encode()
            pad = -(at + HEAD.size + len(name) + 4) % 64  # values begin at a multiple of 64
            f.write(HEAD.pack(b"PK\x03\x04", 45, 0x808, 0, 0, 0, 0, 0, 0, len(name), 4 + pad) + name + struct.pack("<2sH", b"FB", pad) + b"Z" * pad)
            f.write(data)
            f.seek(size - len(data), 1)
            extra = struct.pack("<HHQQQ", 1, 24, size, size, at)
            big = 0xFFFFFFFF
            directory += DIRECTORY.pack(b"PK\x01\x02", 45, 45, 0x808, 0, 0, 0, crc, big, big, len(name), len(extra), 0, 0, 0, 0, big) + name + extra
        at, n = f.tell(), len(entries)
        f.write(directory)
        end = f.tell()
        f.write(struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, n, n, len(directory), at))
        f.write(struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1) + struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
