"""Preprocessing against what Python programs do: 32 frames of a video with PyAV (thread_type AUTO) and Pillow's bilinear resize
to 224 x 224, and a still image against the reference's 80 transforms of it (16 + 16 + 32 + 16 copies, one at a time). One thread
each for resizing; same frames and, but for chroma (libswscale in both), the same pixels.

    python bench/pyav.py [--video FILE] [--image FILE] [--rounds 9]
"""
import argparse
import json
import os
import statistics
import tempfile
import time

import av
import numpy as np
from PIL import Image

from lockstep import ROOT, Merv, pause


def video_frames(path):
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        total = stream.frames or sum(1 for _ in container.decode(stream))
        wanted = np.linspace(0, total - 1, 32, dtype=int)
        container.seek(0)
        found = {}
        for i, frame in enumerate(container.decode(stream)):
            if i in wanted:
                found[i] = frame.to_image()
            if i >= wanted[-1]:
                break
        return [np.asarray(found[int(i)].resize((224, 224), Image.BILINEAR)).transpose(2, 0, 1) for i in wanted]


def image_transforms(path):
    """What the reference's encoders are fed: each frame of the repeated still is transformed on its own."""
    image = Image.open(path).convert("RGB")
    pixels = []
    for copies, kind in ((16, Image.BICUBIC), (16, Image.BICUBIC), (32, Image.BILINEAR), (16, Image.BICUBIC)):
        for _ in range(copies):
            x = np.asarray(image.resize((224, 224), kind), dtype=np.float32) / 255
            pixels.append(((x - 0.5) / 0.5).transpose(2, 0, 1))
    return pixels


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--video", default=os.path.join(ROOT, "data/samples/nasa_jwst.mp4"))
    parser.add_argument("--image", default="", help="a frame of the video, as JPEG, if not given")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    if not args.image:
        args.image = os.path.join(tempfile.mkdtemp(), "frame.jpg")
        with av.open(args.video) as container:
            next(container.decode(video=0)).to_image().save(args.image, quality=90)
    for what, path, theirs in (("video", args.video, video_frames), ("image", args.image, image_transforms)):
        merv = Merv(["preprocess", "--" + what, path, "--threads", "1"])
        times = {"merv": [], "python": []}
        theirs(path)
        for _ in range(args.rounds):
            pause()
            times["merv"].append(merv.run())
            pause()
            start = time.perf_counter()
            theirs(path)
            times["python"].append((time.perf_counter() - start) * 1e3)
        merv.close()
        medians = {n: statistics.median(t) for n, t in times.items()}
        print(json.dumps({"what": f"preprocess {what}", "median_ms": {n: round(m, 3) for n, m in medians.items()}, "peer": "python",
                          "ratio": round(medians["python"] / medians["merv"], 3), "rounds": args.rounds, "versions": {"av": av.__version__, "pillow": Image.__version__}}))


if __name__ == "__main__":
    main()
