"""Turns llama2.c's stories260K.bin into a Hugging Face LLaMA folder and proves it with the 200-token greedy text.

    python tests/golden/stories260k.py --shared ../shared --out tests/golden      (environment: see make.py)

The .bin is llama2.c's first format: seven int32 (dim, hidden_dim, layers, heads, kv_heads, vocab_size, seq_len; a positive
vocab_size says that the classifier is the embedding), then float32 weights, each kind for all layers at once. llama2.c rotates
the pairs (2i, 2i+1) of a head, Hugging Face the pairs (i, i + d/2): rows of q and k are permuted.
"""

import argparse
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import LlamaForCausalLM, LlamaTokenizerFast


def read_bin(path):
    data = path.read_bytes()
    dim, hidden, layers, heads, kv_heads, vocab, seq_len = struct.unpack("7i", data[:28])
    assert vocab > 0, "expected a shared classifier"
    values, at = np.frombuffer(data, "<f4", offset=28), 0
    d = dim // heads
    kv_dim = kv_heads * d

    def take(*shape):
        nonlocal at
        n = int(np.prod(shape))
        at += n
        return torch.from_numpy(values[at - n : at].reshape(shape).copy())

    def half_rotation(w, heads):
        return w.view(heads, d // 2, 2, dim).transpose(1, 2).reshape(heads * d, dim)

    tensors = {"model.embed_tokens.weight": take(vocab, dim)}
    kinds = {
        "input_layernorm": (dim,),
        "self_attn.q_proj": (dim, dim),
        "self_attn.k_proj": (kv_dim, dim),
        "self_attn.v_proj": (kv_dim, dim),
        "self_attn.o_proj": (dim, dim),
        "post_attention_layernorm": (dim,),
        "mlp.gate_proj": (hidden, dim),
        "mlp.down_proj": (dim, hidden),
        "mlp.up_proj": (hidden, dim),
    }
    for kind, shape in kinds.items():
        for layer, w in enumerate(take(layers, *shape)):
            if kind.endswith("q_proj"):
                w = half_rotation(w, heads)
            if kind.endswith("k_proj"):
                w = half_rotation(w, kv_heads)
            tensors[f"model.layers.{layer}.{kind}.weight"] = w.contiguous()
    tensors["model.norm.weight"] = take(dim)
    take(seq_len, d)  # cos and sin tables, recomputed by everyone
    assert at == len(values), f"{len(values) - at} values left over"

    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": dim,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": seq_len,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    }
    return tensors, config


@torch.inference_mode()
def prove(folder, text):
    """llama2.c -t 0 -n 200: 200 positions from BOS, so 200 new tokens, unless BOS comes again, which ends the story."""
    model = LlamaForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
    tokens, ids, past = [], torch.tensor([[1]]), None
    for _ in range(200):
        out = model(input_ids=ids, past_key_values=past, use_cache=True)
        token = int(out.logits[0, -1].argmax())
        if token == 1:
            break
        tokens.append(token)
        past, ids = out.past_key_values, torch.tensor([[token]])
    got = LlamaTokenizerFast.from_pretrained(folder).decode(tokens).strip()
    assert got == text.strip(), f"\n{got}\nis not\n{text}"
    return tokens


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path, help="tests/golden")
    args = parser.parse_args()
    folder = args.out / "stories260k"
    folder.mkdir(parents=True, exist_ok=True)
    tensors, config = read_bin(args.shared / "data/llm/stories260K.bin")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    for name, value in [("config", config), ("generation_config", {"bos_token_id": 1, "eos_token_id": 2})]:
        (folder / f"{name}.json").write_text(json.dumps(value, indent=2) + "\n")
    shutil.copyfile(args.shared / "data/llm/tok512.model", folder / "tokenizer.model")
    text = (args.shared / "data/golden/stories260K.greedy200.txt").read_text()
    tokens = prove(folder, text)
    print(f"{len(tokens)} tokens, the text of llama2.c: {text[:60]!r}...")


if __name__ == "__main__":
    main()
