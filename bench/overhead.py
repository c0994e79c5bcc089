"""What --profile and --trace cost: merv-bench without and with them, a run each in turn, the first of each pair alternating.

    python3 bench/overhead.py [--trace] PAIRS decode --config tiny --threads 1
"""
import os
import statistics
import sys
from lockstep import Merv


def main():
    # malloc may give the top of the heap back after every run and fault it in again, or not, depending on what lies above it: a third of a small
    # run's time, on either side by chance. Here it never does.
    os.environ |= {"MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(1 << 30)}
    words = sys.argv[1:]
    flags = ["--profile", "--quiet"]
    if words[0] == "--trace":
        flags += [words.pop(0), "/dev/null"]
    pairs, args = int(words[0]), words[1:]
    sides = {"without": Merv(args), "with": Merv(args + flags)}
    ms = {side: [] for side in sides}
    for pair in range(pairs):
        for side in sorted(sides, reverse=pair % 2 == 0):
            ms[side].append(sides[side].run())
    for side in sides.values():
        side.process.stdin.close()
    ratio = statistics.median(b / a for a, b in zip(ms["without"], ms["with"]))
    print(f"{sides['with'].name}: without {statistics.median(ms['without']):.4f} ms, with {' '.join(flags)} {statistics.median(ms['with']):.4f} ms, median ratio of {pairs} pairs {ratio:.4f}")


main()
