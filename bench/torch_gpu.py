"""PyTorch's strongest way of each op, beside ours, on the same shapes of the same card.

    merv-bench ops --device cuda --output json > ours.json
    python3 bench/torch_gpu.py ours.json > ratios.json        (--device cpu --small tries the way without a card)

For each row of ours.json: the fastest of PyTorch's candidates (SDPA with each backend; eager and torch.compile; fused AdamW; ..), the L2 cache flushed before each run, two
sets of inputs in turn, medians of event times. `ratio` is PyTorch's time over ours: above 1 we are faster. An op that PyTorch has nothing for is left out, with the reason.
"""

import argparse
import contextlib
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F

TYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def timed(fns, device, runs):
    """Median microseconds of one call; `fns`: the same work on different inputs."""
    flush = torch.empty(1 << (28 if device == "cuda" else 20), dtype=torch.uint8, device=device)
    for f in fns:
        for _ in range(3):
            f()
    times = []
    if device != "cuda":
        for i in range(runs):
            flush.fill_(i % 256)
            start = time.perf_counter()
            fns[i % len(fns)]()
            times.append((time.perf_counter() - start) * 1e6)
        return statistics.median(times)
    for i in range(runs):
        flush.fill_(i % 256)
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        fns[i % len(fns)]()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3)
    return statistics.median(times)


def sdpa(q, k, v, causal):
    """A candidate per backend that takes these inputs. q, k, v: (sequences, heads, tokens, head dimension)."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def call():
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1])

    for name in ["CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH"]:
        if not hasattr(SDPBackend, name):
            continue

        def run(backend=getattr(SDPBackend, name)):
            with sdpa_kernel(backend):
                return call()

        try:
            run()
        except (RuntimeError, TypeError):
            continue
        yield name.lower(), run


def backward_of(make):
    """Only the backward pass: the graph is kept."""
    out, inputs = make()
    grad = torch.randn_like(out)

    def run():
        for t in inputs:
            t.grad = None
        out.backward(grad, retain_graph=True)

    return run


def candidates(op, shape, t, device):
    """(name, function) of each way PyTorch has, on fresh inputs."""

    def r(*s, dtype=t, grad=False):
        return torch.randn(*s, device=device, dtype=dtype, requires_grad=grad)

    def compiled(f, *inputs):
        yield "eager", lambda: f(*inputs)
        if device == "cuda":
            g = torch.compile(f, dynamic=False)
            yield "compile", lambda: g(*inputs)

    def heads(S, N, H, D, grad=False):
        return r(S, N, H, D, grad=grad).transpose(1, 2)

    if op == "linear":
        M, N, K = shape
        x, w, b = r(M, K), r(N, K), r(N)
        yield "F.linear", lambda: F.linear(x, w, b)
    elif op == "linear dx":
        M, N, K = shape
        dz, w = r(M, N), r(N, K)
        yield "matmul", lambda: dz @ w
    elif op == "linear dw":
        M, N, K = shape
        dz, x, dw = r(M, N), r(M, K), torch.zeros(N, K, device=device, dtype=t)
        yield "addmm", lambda: dw.addmm_(dz.t(), x)
    elif op in ("layernorm", "rmsnorm", "layernorm residual", "rmsnorm residual"):
        M, C = shape
        x, w, b, res = r(M, C), r(C), r(C), r(M, C)
        norm = (lambda a: F.layer_norm(a, (C,), w, b)) if op.startswith("layer") else (lambda a: F.rms_norm(a, (C,), w))
        if op.endswith("residual"):
            yield from compiled(lambda a, c: ((s := a + c), norm(s)), x, res)
        else:
            yield from compiled(norm, x)
    elif op in ("layernorm backward", "rmsnorm backward"):
        M, C = shape
        w, b = r(C, grad=True), r(C, grad=True)

        def made(f):
            x = r(M, C, grad=True)
            return f(x), [x, w, b] if op.startswith("layer") else [x, w]

        norm = (lambda a: F.layer_norm(a, (C,), w, b)) if op.startswith("layer") else (lambda a: F.rms_norm(a, (C,), w))
        yield "eager", backward_of(lambda: made(norm))
        if device == "cuda":
            yield "compile", backward_of(lambda: made(torch.compile(norm, dynamic=False)))
    elif op == "cross_entropy":
        M, V = shape
        x, y = r(M, V), torch.randint(0, V, (M,), device=device)
        yield from compiled(lambda a: F.cross_entropy(a.float(), y), x)
    elif op == "cross_entropy backward":
        M, V = shape
        y = torch.randint(0, V, (M,), device=device)

        def made():
            x = r(M, V, grad=True)
            return F.cross_entropy(x.float(), y), [x]

        yield "eager", backward_of(made)
    elif op == "add":
        a, b = r(shape[0]), r(shape[0])
        yield "add", lambda: a + b
    elif op == "convert":
        a = r(shape[0], dtype=torch.bfloat16 if t is torch.float32 else torch.float32)
        yield "to", lambda: a.to(t)
    elif op in ("attention", "attention causal", "attention decode"):
        S, Nq, Nk, H, Hkv, D = shape
        yield from sdpa(heads(S, Nq, H, D), heads(S, Nk, Hkv, D), heads(S, Nk, Hkv, D), op == "attention causal")
    elif op == "attention frames":  # a sequence is one position's frames: PyTorch has to transpose, or to read by strides
        S, N, H, D = shape
        packed = r(N, S, 3, H, D)
        q, k, v = (packed[:, :, i].permute(1, 2, 0, 3) for i in range(3))
        yield from sdpa(q, k, v, False)
        yield from ((f"{n}, transposed", f) for n, f in sdpa(q.contiguous(), k.contiguous(), v.contiguous(), False))
    elif op in ("attention backward", "attention backward causal"):
        S, Nq, Nk, H, Hkv, D = shape
        from torch.nn.attention import SDPBackend, sdpa_kernel

        for name in ["CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH"]:
            if not hasattr(SDPBackend, name):
                continue

            def made(backend=getattr(SDPBackend, name)):
                qkv = [r(S, Nq, H, D, grad=True) for _ in range(3)]
                with sdpa_kernel(backend):
                    return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in qkv), is_causal=op.endswith("causal")), qkv

            with contextlib.suppress(RuntimeError):
                yield name.lower(), backward_of(made)
    elif op == "adaptive_pool":
        T, Y, X, C = shape
        x = r(1, T, Y, X, C).permute(0, 4, 1, 2, 3)  # as the model has it: channels last
        yield "3-D", lambda: F.adaptive_avg_pool3d(x, (T, 8, 8))
        flat = r(T, Y, X, C).permute(0, 3, 1, 2)
        yield "2-D, channels last", lambda: F.adaptive_avg_pool2d(flat, (8, 8))
    elif op == "adaptive_pool backward":
        T, Y, X, C = shape

        def made():
            x = r(1, T, Y, X, C, grad=True)
            return F.adaptive_avg_pool3d(x.permute(0, 4, 1, 2, 3), (T, 8, 8)), [x]

        yield "3-D", backward_of(made)
    elif op == "token_mean":
        x = r(*shape)
        yield from compiled(lambda a: a.mean(1), x)
    elif op == "mix":
        xs, w = [r(*shape) for _ in range(4)], r(shape[0], 4)
        yield from compiled(lambda *a: sum(x * w[:, i, None, None] for i, x in enumerate(a)), *xs)
    elif op == "softmax_rows":
        x = r(*shape)
        yield "softmax", lambda: torch.softmax(x, -1)
    elif op == "rope":
        N, H, D = shape
        x, c, s = r(N, H, D), r(N, 1, D), r(N, 1, D)
        yield from compiled(lambda a: a * c + torch.cat((-a[..., D // 2 :], a[..., : D // 2]), -1) * s, x)
    elif op == "gather_rows":
        x, i = r(*shape), torch.randperm(shape[0], device=device)
        yield "index_select", lambda: x.index_select(0, i)
    elif op == "adamw":
        p = torch.nn.Parameter(r(shape[0], dtype=torch.float32))
        p.grad = torch.randn_like(p)
        fused = device == "cuda"
        optimizer = torch.optim.AdamW([p], fused=fused, foreach=None if fused else True)
        yield "fused" if fused else "foreach", optimizer.step
    elif op == "chunk_sums":
        x = r(shape[0])
        yield "norm", lambda: torch.linalg.vector_norm(x)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ours", help="what `merv-bench ops --device cuda --output json` wrote")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="every size but the last at most 64: to try the way, not to time it")
    parser.add_argument("--runs", type=int, default=50)
    args = parser.parse_args()
    with open(args.ours) as f:
        ours = json.load(f)
    torch.backends.cuda.matmul.allow_tf32 = False  # f32 here is f32, as ours is
    rows, left_out = [], []
    for row in ours["rows"]:
        shape = [min(n, 64) for n in row["shape"]] if args.small else row["shape"]
        name = f"{row['op']} {row['dtype']} {'x'.join(map(str, shape))}"
        try:
            sets = [dict(candidates(row["op"], shape, TYPES[row["dtype"]], args.device)) for _ in range(2)]
            times = {way: timed([s[way] for s in sets], args.device, 5 if args.small else args.runs) for way in sets[0] if way in sets[1]}
        except torch.OutOfMemoryError:
            left_out.append({"op": name, "why": "out of memory"})
            continue
        if not times:
            left_out.append({"op": name, "why": "PyTorch has no op for it"})
            continue
        best = min(times, key=times.get)
        rows.append({**{k: row[k] for k in ["op", "dtype", "shape", "us"]}, "torch_us": times[best], "way": best, "ratio": times[best] / row["us"] if row["us"] else None, "all": times})
        print(f"{name}: {best} {times[best]:.1f} us, ours {row['us']:.1f} us", file=sys.stderr)
        if args.device == "cuda":
            torch.cuda.empty_cache()
    device = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    print(json.dumps({"device": device, "torch": torch.__version__, "rows": rows, "left_out": left_out}, indent=1))


if __name__ == "__main__":
    main()
