"""Writes what transformers computes with small random language models of the kinds MERV uses, and one of them as a GGUF file.

    /tmp/golden/bin/python tests/golden/llm.py --out tests/golden

    OUT/vectors/{llama3,qwen2,llama_linear}_tiny.safetensors   weights under Hugging Face's names, test.input_ids, test.logits; the config.json in the metadata
    OUT/gguf/llama3.gguf            llama architecture, each kind of weight in another type, LLaMA-3's small tokenizer (byte_bpe.py)
    OUT/gguf/qwen2.gguf             qwen2 architecture, Qwen2.5's small tokenizer
    OUT/gguf/expected.safetensors   NAME.input_ids, NAME.logits by transformers with the values the blocks hold, NAME.tokens (greedy)
The environment is the one of tokenizer.py with gguf 0.19.0. Run by hand, never in CI.
"""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

SIZES = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-5)
LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
KINDS = {
    # heads of 16 instead of 32 / 4, frequencies of all three bands, tied, several ends
    "llama3": LlamaConfig(**SIZES, vocab_size=96, head_dim=16, rope_theta=500.0, rope_scaling=LLAMA3_ROPE, max_position_embeddings=256, tie_word_embeddings=True,
        bos_token_id=90, eos_token_id=[91, 93, 94]),
    "qwen2": Qwen2Config(**SIZES, vocab_size=96, rope_theta=1e6, max_position_embeddings=256, tie_word_embeddings=False, bos_token_id=90, eos_token_id=91),
    "llama_linear": LlamaConfig(**SIZES, vocab_size=96, rope_scaling={"type": "linear", "factor": 4.0}, attention_bias=True, max_position_embeddings=256, bos_token_id=90, eos_token_id=91),
}  # fmt: skip
LENGTH = 60


def widen_heads(model, d):
    """transformers 4.44 reads head_dim for the rotation only; later versions size the projections by it, as done here."""
    config = model.config
    for layer in model.model.layers:
        a, h, hkv = layer.self_attn, config.num_attention_heads, config.num_key_value_heads
        a.head_dim = d
        linear = lambda i, o: torch.nn.Linear(i, o, bias=False)  # noqa: E731
        a.q_proj, a.k_proj, a.v_proj, a.o_proj = (linear(*s) for s in [(config.hidden_size, h * d), *[(config.hidden_size, hkv * d)] * 2, (h * d, config.hidden_size)])


def make(config, seed):
    torch.manual_seed(seed)
    model = (Qwen2ForCausalLM if config.model_type == "qwen2" else LlamaForCausalLM)(config).eval()
    if getattr(config, "head_dim", None):
        widen_heads(model, config.head_dim)
    with torch.no_grad():
        for name, p in model.named_parameters():
            scale = 1.0 if p.dim() == 1 else 1.5 * p.shape[1] ** -0.5
            p.copy_(torch.randn_like(p) * (0.3 if "norm" in name else scale) + (1.0 if "norm" in name else 0.0))
    return model


def logits(model, ids):
    with torch.inference_mode():
        return model(input_ids=ids[None].long()).logits[0].float()


def vectors(out):
    for i, (name, config) in enumerate(KINDS.items()):
        model = make(config, i)
        ids = torch.randint(0, config.vocab_size, (LENGTH,), generator=torch.Generator().manual_seed(i), dtype=torch.int32)
        tensors = {k: v.contiguous() for k, v in model.state_dict().items() if not (k == "lm_head.weight" and config.tie_word_embeddings)}
        tensors.update({"test.input_ids": ids, "test.logits": logits(model, ids)})
        path = out / "vectors" / f"{name}_tiny.safetensors"
        save_file(tensors, path, {"config": json.dumps(config.to_dict())})
        print(path, path.stat().st_size)


# ------------------------------------------------------------------------------------------------------------------------ GGUF

NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
         "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}  # fmt: skip
Q = gguf.GGMLQuantizationType
TYPES = {"token_embd": Q.Q8_0, "attn_q": Q.Q4_1, "attn_k": Q.Q4_0, "attn_v": Q.F16, "attn_output": Q.BF16, "ffn_gate": Q.Q4_1, "ffn_up": Q.Q8_0, "ffn_down": Q.Q4_0, "output": Q.Q8_0}


def gguf_name(name):
    name = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}.get(name, name)
    if not name.startswith("model.layers."):
        return name
    _, _, layer, rest = name.split(".", 3)
    part, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{NAMES[part]}.{kind}"


def pairs(x, heads):
    """Rows of a query or key projection from halves, as Hugging Face rotates, to pairs."""
    return x.reshape(heads, 2, x.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(x.shape)


def write_gguf(kind, config, tokenizer, path, seed):
    """The file, and the model with the values that its blocks hold."""
    model = make(config, seed)
    w = gguf.GGUFWriter(path, config.model_type)
    w.add_context_length(config.max_position_embeddings)
    w.add_embedding_length(config.hidden_size)
    w.add_block_count(config.num_hidden_layers)
    w.add_feed_forward_length(config.intermediate_size)
    w.add_head_count(config.num_attention_heads)
    w.add_head_count_kv(config.num_key_value_heads)
    w.add_layer_norm_rms_eps(config.rms_norm_eps)
    w.add_rope_freq_base(config.rope_theta)
    head_dim = config.hidden_size // config.num_attention_heads
    w.add_rope_dimension_count(head_dim)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre({"llama3": "llama-bpe", "qwen2": "qwen2"}[kind])
    tokens = {i: t for t, i in tokenizer["model"]["vocab"].items()}
    types = {i: 1 for i in tokens}
    for t in tokenizer["added_tokens"]:
        tokens[t["id"]], types[t["id"]] = t["content"], 3 if t["special"] else 4
    for i in range(len(tokens), config.vocab_size):
        tokens[i], types[i] = f"[PAD{i}]", 5
    w.add_token_list([tokens[i] for i in range(config.vocab_size)])
    w.add_token_types([types[i] for i in range(config.vocab_size)])
    w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]])
    w.add_bos_token_id(config.bos_token_id)
    w.add_eos_token_id(config.eos_token_id)
    w.add_eot_token_id(config.eos_token_id + 5)
    w.add_add_bos_token(kind == "llama3")
    w.add_chat_template("{{ '<|start_header_id|>' }}" if kind == "llama3" else "{{ '<|im_start|>' }}")
    if kind == "llama3":
        rope = model.model.rotary_emb.inv_freq
        plain = 1.0 / config.rope_theta ** (torch.arange(0, head_dim, 2).float() / head_dim)
        w.add_tensor("rope_freqs.weight", (plain / rope).numpy().astype(np.float32))
    for name, p in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        theirs = gguf_name(name)
        x = p.float().numpy()
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(theirs.split(".")[-2])
        permuted = config.model_type == "llama" and heads
        x = pairs(x, heads) if permuted else x
        kind_of = TYPES.get(theirs.split(".")[-2], Q.F32) if x.ndim == 2 else Q.F32
        data = gguf.quants.quantize(x, kind_of)
        held = gguf.quants.dequantize(data, kind_of).reshape(x.shape)
        w.add_tensor(theirs, data, raw_dtype=kind_of)
        if permuted:
            held = held.reshape(heads, x.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(x.shape)
        with torch.no_grad():
            p.copy_(torch.from_numpy(np.ascontiguousarray(held)))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    print(path, path.stat().st_size)
    return model


def greedy(model, ids, count):
    tokens, gap = ids.tolist(), float("inf")
    for _ in range(count):
        top = logits(model, torch.tensor(tokens))[-1].topk(2)
        gap = min(gap, float(top.values[0] - top.values[1]))
        tokens.append(int(top.indices[0]))
    return tokens[len(ids) :], gap


def ggufs(out):
    (out / "gguf").mkdir(exist_ok=True)
    sizes = {**SIZES, "vocab_size": 1024, "num_hidden_layers": 2, "max_position_embeddings": 256}
    configs = {
        "llama3": LlamaConfig(**sizes, rope_theta=500.0, rope_scaling=LLAMA3_ROPE, tie_word_embeddings=True, bos_token_id=1000, eos_token_id=1001),
        "qwen2": Qwen2Config(**sizes, rope_theta=1e6, tie_word_embeddings=False, bos_token_id=992, eos_token_id=994),
    }
    expected = {}
    for i, (kind, config) in enumerate(configs.items()):
        tokenizer = json.loads((out / "tokenizers" / {"llama3": "llama3.json", "qwen2": "qwen2.5.json"}[kind]).read_text())
        model = write_gguf(kind, config, tokenizer, out / "gguf" / f"{kind}.gguf", 10 + i)
        ids = torch.randint(0, 992, (LENGTH,), generator=torch.Generator().manual_seed(i), dtype=torch.int32)
        tokens, gap = greedy(model, ids[:8], 24)
        print(kind, "smallest distance of the two best logits:", gap)
        expected.update({f"{kind}.input_ids": ids, f"{kind}.logits": logits(model, ids)[::8].contiguous(), f"{kind}.tokens": torch.tensor(tokens, dtype=torch.int32)})
    save_file(expected, out / "gguf" / "expected.safetensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    vectors(args.out)
    ggufs(args.out)
