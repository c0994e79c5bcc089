"""merv-bench against llama.cpp on the same processor, run in turn in one session: prefill and decoding of a language model as
wide as LLaMA-2 7B, with fewer layers and random weights.

    python bench/llamacpp.py prefill|decode [--dtype f32|bf16] [--layers 4] [--tokens 1100] [--rows 1] [--threads 2] [--rounds 15]

Needs llama-cpp-python (its sources hold llama.cpp, built for the machine), gguf and numpy, and merv-bench built by `make`. Both
sides start from embeddings and end before the vocabulary, but for llama.cpp's 32-row output matrix, which costs nothing.
"""
import argparse
import ctypes
import json
import os
import statistics
import tempfile
import time

import gguf
import llama_cpp
import numpy as np

from lockstep import Merv, pause

WIDTH, MLP, HEADS, VOCABULARY = 4096, 11008, 32, 32


def write_model(path, layers, dtype):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(4096)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("no_vocab")
    random = np.random.default_rng(0)

    def matrix(name, *shape):
        values = (random.random(shape, dtype=np.float32) - 0.5) * (2 / shape[-1] ** 0.5)
        if dtype == "bf16":
            kind = gguf.GGMLQuantizationType.BF16
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)

    matrix("token_embd.weight", VOCABULARY, WIDTH)
    matrix("output.weight", VOCABULARY, WIDTH)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for i in range(layers):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            matrix(f"blk.{i}.{name}.weight", WIDTH, WIDTH)
        matrix(f"blk.{i}.ffn_gate.weight", MLP, WIDTH)
        matrix(f"blk.{i}.ffn_up.weight", MLP, WIDTH)
        matrix(f"blk.{i}.ffn_down.weight", WIDTH, MLP)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{i}.{name}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class LlamaCpp:
    def __init__(self, path, tokens, rows, threads):
        llama_cpp.llama_backend_init()
        llama_cpp.llama_log_set(LlamaCpp.quiet, ctypes.c_void_p(0))
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        assert self.model, "llama.cpp cannot read the model this script wrote"
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = tokens + rows + 32, tokens + rows, tokens + rows
        params.n_threads = params.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.random = np.random.default_rng(1)

    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)

    def batch(self, count, start):
        b = llama_cpp.llama_batch_init(count, WIDTH, 1)
        values = self.random.random((count, WIDTH), dtype=np.float32) - 0.5
        ctypes.memmove(b.embd, values.ctypes.data, values.nbytes)
        b.n_tokens = count
        for i in range(count):
            b.pos[i], b.n_seq_id[i], b.logits[i] = start + i, 1, i == count - 1
            b.seq_id[i][0] = 0
        return b

    def run(self, batch, start):
        """Milliseconds to compute `batch` after the `start` tokens in the cache, which stay."""
        llama_cpp.llama_memory_seq_rm(self.memory, 0, start, -1)
        begin = time.perf_counter()
        assert llama_cpp.llama_decode(self.context, batch) == 0
        llama_cpp.llama_synchronize(self.context)
        return (time.perf_counter() - begin) * 1e3


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["prefill", "decode"])
    parser.add_argument("--dtype", default="bf16", choices=["f32", "bf16"])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=1100)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "wide.gguf")
        write_model(path, args.layers, args.dtype)
        peer = LlamaCpp(path, args.tokens, args.rows, args.threads)
        prompt = peer.batch(args.tokens, 0)
        peer.run(prompt, 0)
        batch, start = (prompt, 0) if args.what == "prefill" else (peer.batch(args.rows, args.tokens), args.tokens)
        peer.run(batch, start)
        ours = [args.what, "--dtype", args.dtype, "--layers", str(args.layers), "--tokens", str(args.tokens), "--rows", str(args.rows), "--threads", str(args.threads)]
        merv = Merv(ours)
        times = {"merv": [], "llama.cpp": []}
        for _ in range(args.rounds):
            pause()
            times["merv"].append(merv.run())
            pause()
            times["llama.cpp"].append(peer.run(batch, start))
        merv.close()
    medians = {name: statistics.median(t) for name, t in times.items()}
    print(json.dumps({"what": " ".join(ours), "median_ms": {n: round(m, 3) for n, m in medians.items()}, "peer": "llama.cpp",
                      "ratio": round(medians["llama.cpp"] / medians["merv"], 3), "rounds": args.rounds, "versions": {"llama-cpp-python": llama_cpp.__version__}}))


if __name__ == "__main__":
    main()
