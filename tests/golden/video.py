"""What decord, Pillow, numpy, torch and torchvision make of the clips and of small synthetic ones.

    /tmp/golden/bin/pip install --no-deps --target /tmp/pillow pillow==10.4.0
    PYTHONPATH=/tmp/pillow /tmp/golden/bin/python tests/golden/video.py --shared ../shared --out tests/golden

(the environment of make.py, and an ffmpeg with libx264; Pillow from before 12.2, which resizes tall pictures in the other
order of passes and so rounds otherwise than the Pillow MERV was trained with) writes OUT/video_frames.json and OUT/transform.json; run from the root of
the project, by hand, never in CI.
  clips       per clip of SHARED/data/video and data/samples that decord can open: frames, average fps, CRC32 of the RGB bytes of
              the reference's grid of 32 frames
  made        small files (base64) with what their frames should be: decord reading straight through from the start, since its
              seeking damages or misplaces frames of some of them (of MPEG-TS from the first on: there the same packets in MP4,
              and for the cut file the uncut one, are read), or Pillow
  images      small PNG and JPEG files and what Pillow makes of them
  linspace    frame numbers of the reference's load_video
  transform.json   Pillow, torchvision and torch on pictures given by formulas
"""

import argparse
import base64
import io
import json
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import decord
import numpy as np
import PIL
import torch
import torchvision
from PIL import Image, ImageDraw, ImageSequence
from torchvision.transforms import CenterCrop, Normalize, Resize, ToTensor
from torchvision.transforms import functional as TVF

GRID = 32
VERSIONS = {"decord": decord.__version__, "numpy": np.__version__, "pillow": PIL.__version__, "torch": torch.__version__, "torchvision": torchvision.__version__}


def crc(array):
    return zlib.crc32(np.ascontiguousarray(array).tobytes())


def reference_indices(n, fps, frames, start=None, end=None, end_frame=None):
    """load_video of merv/preprocessing/datasets/datasets.py, the branch for video files."""
    if end_frame is None or end_frame < 0:
        end = n / fps if end is None else end
        return np.linspace((start or 0.0) * fps, min(n - 1, end * fps - 1), frames, dtype=int)
    return np.linspace(0, min(n - 1, end_frame), frames, dtype=int)


def clip(path, name):
    try:
        reader = decord.VideoReader(str(path))
        n, fps = len(reader), reader.get_avg_fps()
        rgb = reader.get_batch(reference_indices(n, fps, GRID)).asnumpy()
    except decord.DECORDError:
        return None
    return {"file": name, "frames": n, "fps": fps, "height": rgb.shape[1], "width": rgb.shape[2], "crc32": crc(rgb)}


def ffmpeg(*arguments):
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-fflags", "+bitexact", *map(str, arguments)], check=True)


def straight_through(path):
    reader = decord.VideoReader(str(path))
    frames = []
    for _ in range(len(reader)):
        frames.append(reader.next().asnumpy())
    return np.stack(frames), len(reader), reader.get_avg_fps()


def made(folder):
    source = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=1.4,scroll=h=0.04:v=0.02", "-pix_fmt", "yuv420p", "-threads", "1"]
    x264 = ["-c:v", "libx264", "-g", "8", "-crf", "28", "-flags:v", "+bitexact"]
    ffmpeg(*source, *x264, "-bf", "3", "-x264-params", "open-gop=1:b-adapt=0", folder / "open_gop.mp4")
    ffmpeg("-i", folder / "open_gop.mp4", "-c", "copy", folder / "open_gop.ts")
    ffmpeg(*source, *x264, "-bf", "0", "-x264-params", "intra-refresh=1:keyint=12", "-movflags", "+faststart", folder / "intra_refresh.mp4")
    ffmpeg(*source, "-c:v", "mpeg4", "-bf", "2", "-g", "10", "-q:v", "12", "-flags:v", "+bitexact", folder / "no_timestamps.avi")
    ffmpeg(*source, "-c:v", "wmv2", "-g", "10", "-q:v", "12", "-flags:v", "+bitexact", folder / "unseekable.wmv")
    ffmpeg(*source, "-filter:v", "select='not(mod(n,3))+lt(n,9)'", "-vsync", "vfr", *x264, folder / "variable_rate.mkv")
    ffmpeg(*source, "-vf", "crop=33:17:exact=1", "-c:v", "ffv1", "-pix_fmt", "yuv420p10le", "-t", "0.2", "-flags:v", "+bitexact", folder / "odd_10_bit.mkv")
    ffmpeg(*source, *x264, "-x264-params", "keyint=16:scenecut=0", folder / "whole.mp4")
    ffmpeg("-ss", "0.32", "-i", folder / "whole.mp4", "-c", "copy", folder / "edit_list.mp4")
    out = []
    for path in sorted(folder.glob("*")):
        if path.name == "whole.mp4":
            continue
        source = {"open_gop.ts": "open_gop.mp4", "edit_list.mp4": "whole.mp4"}.get(path.name, path.name)
        rgb, n, fps = straight_through(folder / source)
        if path.name == "edit_list.mp4":  # packets before the cut (frame 8) show nothing: the first picture stands for them
            first = n - len(decord.VideoReader(str(path)))
            rgb = np.stack([rgb[max(i, 8)] for i in range(first, n)])
        item = {"name": path.name, "frames": len(rgb), "fps": fps, "height": rgb.shape[1], "width": rgb.shape[2], "base64": base64.b64encode(path.read_bytes()).decode()}
        item["crc32"] = [crc(f) for f in rgb]
        out.append(item)

    def gif(name, pictures, **how):
        data = io.BytesIO()
        pictures[0].save(data, "GIF", save_all=True, append_images=pictures[1:], **how)
        rgb = np.stack([np.array(f.convert("RGB")) for f in ImageSequence.Iterator(Image.open(data))])
        out.append({"name": name, "frames": len(rgb), "height": rgb.shape[1], "width": rgb.shape[2], "crc32": [crc(f) for f in rgb], "base64": base64.b64encode(data.getvalue()).decode()})

    moving = []
    for i in range(7):
        picture = Image.new("RGBA", (13, 9), (10, 200, 30, 255))
        ImageDraw.Draw(picture).rectangle((i, i // 2, i + 4, i // 2 + 3), fill=(250 - 30 * i, 10 * i, 40, 255))
        moving.append(picture)
    gif("partial_frames.gif", [p.convert("RGB") for p in moving], duration=[100, 40, 40, 200, 40, 40, 40])
    pixels = [np.array(p) for p in moving]
    clear = [Image.fromarray(np.where((p == (10, 200, 30, 255)).all(-1, keepdims=True), np.uint8(0), p)) for p in pixels]
    gif("transparent.gif", clear, duration=100, disposal=2)
    return out


def images():
    rgb = pattern(11, 14)
    alpha = (np.arange(11 * 14) * 3 % 256).astype(np.uint8).reshape(11, 14, 1)
    palette = Image.fromarray(rgb).quantize(40)
    deep = np.arange(11 * 14, dtype=np.uint16).reshape(11, 14) * 425
    kinds = [("rgb.png", Image.fromarray(rgb), {}), ("rgba.png", Image.fromarray(np.concatenate([rgb, alpha], 2)), {}), ("grey.png", Image.fromarray(rgb[..., 1]), {}),
             ("grey_alpha.png", Image.fromarray(np.concatenate([rgb[..., 1:2], alpha], 2)), {}), ("palette.png", palette, {}), ("palette_transparent.png", palette, {"transparency": 3}),
             ("one_bit.png", Image.fromarray(rgb[..., 1] > 100), {}), ("rgb_444.jpg", Image.fromarray(rgb), {"quality": 95, "subsampling": 0}), ("grey.jpg", Image.fromarray(rgb[..., 0]), {"quality": 95}),
             ("progressive_420.jpg", Image.fromarray(pattern(33, 41) // 8 + 100), {"quality": 90, "subsampling": 2, "progressive": True})]
    out = []
    for name, image, how in kinds:
        data = io.BytesIO()
        image.save(data, "JPEG" if name.endswith("jpg") else "PNG", **how)
        expected = np.array(Image.open(data).convert("RGB"))
        out.append({"name": name, "height": expected.shape[0], "width": expected.shape[1], "base64": base64.b64encode(data.getvalue()).decode(), "rgb_base64": base64.b64encode(expected.tobytes()).decode()})
    data = io.BytesIO()  # Pillow clips 16-bit grey to 255 where every viewer scales it: here the upper byte is expected
    Image.fromarray(deep).save(data, "PNG")
    expected = np.repeat((deep >> 8).astype(np.uint8)[..., None], 3, 2)
    out.append({"name": "grey_16_bit.png", "height": 11, "width": 14, "base64": base64.b64encode(data.getvalue()).decode(), "rgb_base64": base64.b64encode(expected.tobytes()).decode()})
    return out


def linspaces():
    cases = [(300, 30.0, 32), (77, 25.0, 32), (8, 25.0, 32), (1, 25.0, 32), (390, 30000 / 1001, 32), (132, 25.0, 1), (47, 12.239583333333334, 16), (250, 23.976, 8)]
    cases += [(300, 30.0, 32, 2.5, None), (300, 30.0, 32, None, 4.25), (300, 30.0, 32, 1.1, 7.7), (300, 30.0, 16, 9.0, 99.0), (300, 30.0, 8, 1.0, 1.01), (390, 30000 / 1001, 32, 3.3, 11.7)]
    cases += [(300, 30.0, 32, None, None, 100), (300, 30.0, 32, 1.0, 2.0, 1000), (300, 30.0, 32, 1.0, 2.0, -1), (300, 30.0, 32, None, None, 0)]
    rates, rng = [30000 / 1001, 24000 / 1001, 25.0, 12.5, 10.0, 15.000384, 59.94], np.random.default_rng(0)
    cases += [(int(rng.integers(1, 5000)), rates[i % len(rates)], 32) for i in range(60)]
    out = []
    for c in cases:
        n, fps, frames, start, end, end_frame = (*c, None, None, None)[:6]
        out.append({"total": n, "fps": fps, "frames": frames, "start": start, "end": end, "end_frame": end_frame, "indices": reference_indices(n, fps, frames, start, end, end_frame).tolist()})
    return out


def pattern(h, w, f=0):
    """The picture of vectors/pillow_resize.json, with a frame number f: u8 (h, w, 3)."""
    y, x, c = np.meshgrid(np.arange(h), np.arange(w), np.arange(3), indexing="ij")
    return ((7 * x + 13 * y + 31 * c + x * y // 3 + 5 * (x ^ y) + 17 * f) & 255).astype(np.uint8)


def transforms():
    filters = {"bilinear": TVF.InterpolationMode.BILINEAR, "bicubic": TVF.InterpolationMode.BICUBIC}
    pil = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}
    out = {"versions": VERSIONS, "resize": [], "prepare": [], "languagebind": []}
    for h, w, oh, ow in [(1, 1, 5, 7), (5, 7, 1, 1), (3, 100, 50, 2), (37, 53, 37, 20), (37, 53, 20, 53), (37, 53, 91, 130), (2, 2, 3, 3), (640, 3, 7, 9), (19, 23, 19, 23)]:
        for name, mode in pil.items():
            out["resize"].append({"in": [h, w], "out": [oh, ow], "filter": name, "crc32": crc(np.array(Image.fromarray(pattern(h, w)).resize((ow, oh), mode)))})
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    for h, w, size, short in [(48, 85, 28, 28), (85, 48, 28, 28), (31, 31, 14, 14), (47, 60, 29, 33), (9, 200, 16, 16), (20, 33, 21, 17)]:
        for strategy in ["resize-naive", "resize-crop", "letterbox"]:
            for name, mode in filters.items():
                image = Image.fromarray(pattern(h, w))
                if strategy == "letterbox":  # LetterboxPad of base_video.py
                    (iw, ih), side = image.size, max(image.size)
                    dx, dy = int((side - iw) / 2), int((side - ih) / 2)
                    image = TVF.pad(image, (dx, dy, dx, dy), fill=tuple(int(m * 255) for m in mean), padding_mode="constant")
                image = Resize((size, size) if strategy == "resize-naive" else short, interpolation=mode)(image)
                image = CenterCrop(size)(image)
                x = Normalize(mean, std)(ToTensor()(image))
                planar = np.array(image).transpose(2, 0, 1)
                out["prepare"].append({"in": [h, w], "size": size, "short_side": short, "strategy": strategy, "filter": name, "crc32": crc(planar), "crc32_normalized": crc(x.numpy())})
    clip_mean, clip_std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    for h, w, size in [(30, 47, 14), (47, 30, 14), (14, 14, 14), (9, 11, 16), (225, 301, 10), (7, 61, 14)]:  # torch rounds differently when height + width of the result exceed 128
        x = torch.from_numpy(np.stack([pattern(h, w, f) for f in range(2)])).permute(3, 0, 1, 2) / 255.0  # (C, T, H, W)
        x = x.clone().sub_(torch.tensor(clip_mean)[:, None, None, None]).div_(torch.tensor(clip_std)[:, None, None, None])
        nh, nw = (int(np.floor(h / w * size)), size) if w < h else (size, int(np.floor(w / h * size)))
        x = torch.nn.functional.interpolate(x, size=(nh, nw), mode="bilinear", align_corners=False)
        i, j = int(round((nh - size) / 2.0)), int(round((nw - size) / 2.0))
        x = x[..., i : i + size, j : j + size].permute(1, 0, 2, 3).contiguous().numpy().astype("<f4")
        out["languagebind"].append({"in": [h, w], "size": size, "frames": 2, "f32_base64": base64.b64encode(x.tobytes()).decode()})
    return out


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if tuple(map(int, PIL.__version__.split(".")[:2])) >= (12, 2):
        sys.exit(f"Pillow {PIL.__version__} resizes otherwise than the reference's: see above")
    clips = []
    for path in sorted((args.shared / "data/video").rglob("*.*")):
        clips.append(clip(path, "shared:" + str(path.relative_to(args.shared))))
    for path in sorted(Path("data/samples").glob("*.mp4")):
        clips.append(clip(path, str(path)))
    with tempfile.TemporaryDirectory() as folder:
        small = made(Path(folder))
    result = {"versions": VERSIONS, "grid": GRID, "clips": [c for c in clips if c], "made": small, "images": images(), "linspace": linspaces()}
    for name, value in [("video_frames.json", result), ("transform.json", transforms())]:
        text = "{\n" + ",\n".join(f" {json.dumps(k)}: " + ("[\n  " + ",\n  ".join(json.dumps(i) for i in v) + "\n ]" if isinstance(v, list) else json.dumps(v)) for k, v in value.items()) + "\n}\n"
        (args.out / name).write_text(text)


if __name__ == "__main__":
    sys.exit(main())
