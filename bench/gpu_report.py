"""The results of bench/gpu.sh in one file: FOLDER.json, and FOLDER.md with the goals beside them.

    python3 bench/gpu_report.py bench/results/<device>-<commit>
"""

import json
import sys
from datetime import datetime, timezone
from pathlib import Path

# docs/card.md: what is asked for, of which op, against what. `against` peak: our bytes per second over the device's measured copy bandwidth; torch: PyTorch's time over ours.
GOALS = [
    ("causal attention", "attention causal", None, "torch:cudnn", 0.7),
    ("short-sequence attention", "attention", lambda s: s[1] < 512, "torch", 1.5),
    ("attention across frames", "attention frames", None, "torch", 4.0),
    ("layernorm", "layernorm", None, "peak", 0.95),
    ("rmsnorm", "rmsnorm", None, "peak", 0.95),
    ("layernorm backward", "layernorm backward", None, "peak", 0.88),
    ("rmsnorm backward", "rmsnorm backward", None, "peak", 0.88),
    ("adaptive pooling, against torch's 3-D", "adaptive_pool", None, "torch:3-D", 5.0),
    ("adaptive pooling", "adaptive_pool", None, "peak", 0.85),
    ("cross-entropy", "cross_entropy", None, "peak", 0.90),
    ("AdamW", "adamw", None, "peak", 0.92),
    ("decode attention", "attention decode", None, "peak", 0.88),
]


def load(path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def measured(goal, bench, torch):
    """The worst case of the op in bf16, as (value, shape); None: not measured."""
    _, op, wanted, against, _ = goal
    peak = (bench or {}).get("device", {}).get("read_gb_s", 0)
    values = []
    if against == "peak":
        for row in (bench or {}).get("rows", []):
            if row["op"] == op and row["dtype"] == "bf16" and peak > 0:
                values.append((row["gb_s"] / peak, row["shape"]))
    else:
        for row in (torch or {}).get("rows", []):
            if row["op"] != op or row["dtype"] != "bf16" or not row["us"] or (wanted and not wanted(row["shape"])):
                continue
            way = against.partition(":")[2]
            times = [t for name, t in row["all"].items() if name.lower().startswith(way.lower())]
            if times:
                values.append((min(times) / row["us"], row["shape"]))
    return min(values) if values else None


def main():
    folder = Path(sys.argv[1])
    device, bench, torch, known = (load(folder / name) for name in ["device.json", "bench.out", "torch.out", "self-test.out"])
    parts = [line.split("\t") for line in (folder / "parts.tsv").read_text().splitlines()]
    emulated = "emulated" in (device or {}).get("device", "")
    goals = []
    for goal in GOALS:
        got = None if emulated else measured(goal, bench, torch)
        goals.append({"goal": goal[0], "at_least": goal[4], "against": goal[3], "measured": got and got[0], "shape": got and got[1], "met": got and got[0] >= goal[4]})
    whole = {
        "device": device,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "parts": [{"part": p, "exit": int(code), "seconds": int(s)} for p, code, s in parts],
        "goals": goals,
        "self_test": known and {"asked": len(known["rows"]), "wrong": [r for r in known["rows"] if not r["right"]]},
        "ops": bench and bench["rows"],
        "torch": torch,
    }
    Path(f"{folder}.json").write_text(json.dumps(whole, indent=1) + "\n")
    lines = [f"# {whole['device']['device']}, commit {whole['device']['commit']}, {whole['date']}", ""]
    if emulated:
        lines += ["**An emulated device: nothing here was measured on a GPU.**", ""]
    lines += ["| part | result | seconds |", "|---|---|---|"]
    lines += [f"| {p['part']} | {'ok' if p['exit'] == 0 else 'not run' if p['exit'] < 0 else 'exit %d' % p['exit']} | {p['seconds']} |" for p in whole["parts"]]
    lines += ["", "| goal | at least | measured | shape | met |", "|---|---|---|---|---|"]
    for g in goals:
        value = "not measured" if g["measured"] is None else f"{g['measured']:.2f}"
        lines.append(f"| {g['goal']} ({g['against']}) | {g['at_least']} | {value} | {'x'.join(map(str, g['shape'] or []))} | {'' if g['met'] is None else 'yes' if g['met'] else 'no'} |")
    ratios = {(r["op"], r["dtype"], tuple(r["shape"])): r for r in (torch or {}).get("rows", [])}
    lines += ["", "| op | type | shape | us | GB/s | TFLOP/s | of floor | PyTorch us | its way | times as fast |", "|---|---|---|---|---|---|---|---|---|---|"]
    for r in (bench or {}).get("rows", []):
        peer = ratios.get((r["op"], r["dtype"], tuple(r["shape"])))
        beside = f"{peer['torch_us']:.1f} | {peer['way']} | {peer['ratio']:.2f}" if peer and peer["ratio"] else " | | "
        lines.append(f"| {r['op']} | {r['dtype']} | {'x'.join(map(str, r['shape']))} | {r['us']:.1f} | {r['gb_s']:.0f} | {r['tflop_s']:.1f} | {r['of_floor']:.2f} | {beside} |")
    Path(f"{folder}.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
