#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Pictures to look at: source, ElasticTok, and x264 (veryfast zerolatency) at the same bitrate, side by side as PNG.

usage: pictures.py --out FOLDER [--targets 30,36] [--frames 10,40] [--crop X,Y,W,H] CLIP...
       pictures.py --figure PICTURE.png [--targets 38,30] [--frames 40] [CLIP]     (source and ElasticTok, for a document)
Without a clip the figure is of the generated scene. x264's rate is matched by bisecting its -crf."""
import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import encoders
import y4m


def rgb(form: y4m.Format, frame: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3], BT.709 limited range."""
    w, h, cw = form.width, form.height, (form.width + 1) // 2
    y, u, v = np.split(frame.astype(np.float32), (form.luma, form.luma + form.chroma))
    y = (y.reshape(h, w) - 16) * 255 / 219
    u, v = ((c.reshape(-1, cw).repeat(2, 0).repeat(2, 1)[:h, :w] - 128) * 255 / 224 for c in (u, v))
    return np.clip(np.stack([y + 1.5748 * v, y - 0.1873 * u - 0.4681 * v, y + 1.8556 * u], -1), 0, 255).astype(np.uint8)


def matched(clip: Path, source: y4m.Video, work: Path, rate: float, decoded: Path) -> tuple:
    """x264's (bits per pixel, dB) nearest to `rate`; its pictures go to `decoded`."""
    low, high, best, at = 1.0, 51.0, None, None
    for _ in range(8):
        crf = (low + high) / 2
        point = encoders.other(clip, source, work, encoders.OTHERS[encoders.VERYFAST][1], crf, decoded)
        if best is None or abs(np.log(point[0] / rate)) < abs(np.log(best[0] / rate)):
            best, at = point, crf
        if abs(point[0] / rate - 1) < 0.02:
            return point
        low, high = (crf, high) if point[0] > rate else (low, crf)
    return encoders.other(clip, source, work, encoders.OTHERS[encoders.VERYFAST][1], at, decoded)


def row(pictures, captions) -> Image.Image:
    h, w = pictures[0].shape[:2]
    band, gap = 18, 6
    sheet = Image.new("RGB", (len(pictures) * (w + gap) - gap, h + band), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (picture, caption) in enumerate(zip(pictures, captions)):
        sheet.paste(Image.fromarray(picture), (i * (w + gap), band))
        draw.text((i * (w + gap) + 2, 2), caption, fill="black", font=ImageFont.load_default(12))
    return sheet


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("clips", nargs="*", type=Path)
    where = ap.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, help="folder, made where missing")
    where.add_argument("--figure", type=Path, help="one picture")
    ap.add_argument("--targets", default="30,36", help="dB")
    ap.add_argument("--frames", default="10,40", help="counted from 0; the last one where there are fewer")
    ap.add_argument("--crop", help="X,Y,W,H in pixels")
    ap.add_argument("--model", help="a bundle instead of the builtin one")
    a = ap.parse_args()
    if a.out and not a.clips or a.figure and len(a.clips) > 1:
        ap.error("--out takes one clip or more, --figure one at most")
    targets, wanted = [float(t) for t in a.targets.split(",")], [int(n) for n in a.frames.split(",")]
    encoders.build()
    etok = encoders.ElasticTok(a.model)
    if a.out:
        a.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if not a.clips:
            a.clips = [work / "scene.y4m"]
            encoders.run(sys.executable, encoders.ROOT / "benches/scene.py", "--frames", max(wanted) + 8, "--size", "480x270", a.clips[0])
        for path in a.clips:
            clip, source = encoders.load(path, work)
            sides, captions = [[source]], [["source"]]
            for target in targets:
                etok.encode(clip, work / "o.etok", target)
                point = etok.point(work / "o.etok", source, work)
                sides.append([y4m.read(work / "etok.y4m")])
                captions.append([f"ElasticTok {point[0]:.4f} bit/pixel, {point[1]:.1f} dB"])
                if a.out:
                    anchor = matched(clip, source, work, point[0], work / "x264.y4m")
                    sides[-1].append(y4m.read(work / "x264.y4m"))
                    captions[-1].append(f"x264 {anchor[0]:.4f} bit/pixel, {anchor[1]:.1f} dB")
            def picture(video, n):
                p = rgb(video.format, video.frames[min(n, len(video.frames) - 1)])
                if a.crop:
                    x, y, w, h = map(int, a.crop.split(","))
                    p = p[y:y + h, x:x + w]
                return p
            if a.figure:
                row([picture(s[0], wanted[0]) for s in sides], [c[0] for c in captions]).save(a.figure, optimize=True)
                continue
            for target, side, caption in zip(targets, sides[1:], captions[1:]):
                for n in wanted:
                    name = a.out / f"{path.stem}_{target:g}dB_{n:04d}.png"
                    row([picture(v, n) for v in [source, *side]], ["source", *caption]).save(name)
                    print(name, "|", *caption, sep="  ")


if __name__ == "__main__":
    main()
