"""merv-bench in lockstep: one run per line, so that it can take turns with a peer."""
import os
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Merv:
    def __init__(self, args):
        self.process = subprocess.Popen([os.path.join(ROOT, "build/bin/merv-bench"), *args, "--lockstep"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.name = self.process.stdout.readline().removeprefix("ready ").strip()
        if not self.name:
            sys.exit("merv-bench did not start: merv-bench " + " ".join(args))

    def run(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def pause():
    """Thread pools spin for a while after their work: the next side waits until the last one's sleep."""
    time.sleep(0.2)
