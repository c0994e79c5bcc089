"""merv-bench against its peers, each pair in turn in one run: `make bench-peers`, or

    python bench/peers.py [--only REGEX] [--out bench/results/NAME.jsonl]     measures, one line of JSON per comparison
    python bench/peers.py --table FILE.jsonl                                   that file as the table of docs/performance.md
"""
import argparse
import datetime
import json
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
SHAPES = ["4176x3072x1024", "4176x4096x1024", "4176x1024x4096", "3136x768x768", "1100x4096x4096", "1100x22016x4096", "1100x4096x11008", "261x3072x1024"]


def comparisons():
    for dtype in ("bf16", "f32"):
        for block in ("llama", "vit"):
            yield "torch_cpu.py", "block", "--encoder", block, "--dtype", dtype, "--rounds", "5"
        yield "llamacpp.py", "prefill", "--dtype", dtype, "--rounds", "7"
        yield "llamacpp.py", "decode", "--dtype", dtype, "--rounds", "31"
        yield "torch_cpu.py", "prefill", "--dtype", dtype, "--rounds", "5"
        for rows in ("1", "2", "4", "8", "16"):
            yield "torch_cpu.py", "decode", "--rows", rows, "--dtype", dtype, "--rounds", "15"
        for shape in SHAPES:
            yield "torch_cpu.py", "linear", "--shape", shape, "--dtype", dtype
            if dtype == "f32":
                yield "openblas.py", "--shape", shape
        for name in ("siglip", "vivit", "dinov2", "languagebind"):
            yield "torch_cpu.py", "encode", "--encoder", name, "--dtype", dtype, "--rounds", "3"
    yield "pyav.py",


def machine():
    version = subprocess.run([os.path.join(HERE, "../build/bin/merv-bench"), "--version"], capture_output=True, text=True).stdout.strip().replace("\n", "; ")
    peaks = subprocess.run([os.path.join(HERE, "../build/bin/merv-bench"), "peak"], capture_output=True, text=True).stdout.strip()
    return {"date": datetime.date.today().isoformat(), "cpus": os.cpu_count(), "merv": version, "peaks": peaks}


def table(path):
    rows = [json.loads(line) for line in open(path)]
    print("| merv-bench | merv ms | peer ms | peer | ratio | with every block |\n|---|---|---|---|---|---|")
    for r in rows:
        if "ratio" in r:
            print(f"| {r['what']} | {r['median_ms']['merv']:.2f} | {r['median_ms'][r['peer']]:.2f} | {r['peer']} | {r['ratio']:.2f} | {r.get('ratio_all_blocks', '')} |")
    for r in rows:
        if "peaks" in r:
            print(f"\n{r['date']}, {r['cpus']} cores; {r['merv']}; peaks: {r['peaks']}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    parser.add_argument("--out", default=os.path.join(HERE, "results", f"cpu-{datetime.date.today()}.jsonl"))
    parser.add_argument("--table")
    args = parser.parse_args()
    if args.table:
        return table(args.table)
    os.makedirs(os.path.dirname(args.out), exist_ok=True)
    with open(args.out, "a") as out:
        print(json.dumps(machine()), file=out, flush=True)
        for script, *words in comparisons():
            if not re.search(args.only, " ".join((script, *words))):
                continue
            result = subprocess.run([sys.executable, os.path.join(HERE, script), *words], capture_output=True, text=True)
            for line in result.stdout.strip().splitlines() or [json.dumps({"what": " ".join(words), "failed": result.stderr.strip().splitlines()[-2:]})]:
                print(line, file=out, flush=True)
                print(line, flush=True)


if __name__ == "__main__":
    main()
