"""merv-bench's f32 product against OpenBLAS, the one in NumPy's wheel, in turn in one session.

    python bench/openblas.py [--shape ROWSxOUTxIN] [--threads 2] [--rounds 15]
"""
import argparse
import json
import os
import statistics
import time

parser = argparse.ArgumentParser()
parser.add_argument("--shape", default="1100x4096x4096")
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--rounds", type=int, default=15)
args = parser.parse_args()
os.environ["OPENBLAS_NUM_THREADS"] = str(args.threads)      # read when NumPy is loaded

import numpy as np

from lockstep import Merv, pause

M, N, K = map(int, args.shape.split("x"))
ours = ["ops", "linear", "--shape", args.shape, "--dtype", "f32", "--threads", str(args.threads)]
rng = np.random.default_rng(7)
x, w, y = rng.random((M, K), np.float32), rng.random((N, K), np.float32), np.empty((M, N), np.float32)
np.matmul(x, w.T, out=y)
merv = Merv(ours)
times = {"merv": [], "openblas": []}
for _ in range(args.rounds):
    pause()
    times["merv"].append(merv.run())
    pause()
    start = time.perf_counter()
    np.matmul(x, w.T, out=y)
    times["openblas"].append((time.perf_counter() - start) * 1e3)
merv.close()
medians = {name: statistics.median(t) for name, t in times.items()}
blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
print(json.dumps({"what": " ".join(ours), "median_ms": {n: round(m, 3) for n, m in medians.items()}, "peer": "openblas",
                  "ratio": round(medians["openblas"] / medians["merv"], 3), "rounds": args.rounds, "versions": {"numpy": np.__version__, blas["name"]: blas["version"]}}))
