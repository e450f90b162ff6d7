#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Pictures to look at, as PNG: source, ElasticTok, and at the same bitrate x264 (veryfast zerolatency) and SVT-AV1 (preset 10, low delay).

usage: pictures.py --out FOLDER [--targets 30,36] [--rates 0.02] [--frames 10,40] [--crop X,Y,W,H] [--zoom N] CLIP...
       pictures.py --figure PICTURE.png [--targets 38,30] [--frames 40] [CLIP]     (source and ElasticTok, for a document)
Without a clip the figure is of the generated scene. The others' rate is matched by bisecting their -crf. A table goes to
standard output: bits per pixel, luma PSNR, and by how much the colour is off: over all frames, the largest error of the mean of U or V in a
square of 8x8 samples, and the share of squares that are off by more than 4 levels. A second one has the marks in plain cells (y4m.marks): the
share of plain cells that have them, and the share of these that have them 24 frames later, - where there are too few."""
import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import encoders
import y4m

BESIDE = {"x264": encoders.VERYFAST, "SVT-AV1": encoders.LOW_DELAY_AV1}


def rgb(form: y4m.Format, frame: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3], BT.709 limited range."""
    w, h, cw = form.width, form.height, (form.width + 1) // 2
    y, u, v = np.split(frame.astype(np.float32), (form.luma, form.luma + form.chroma))
    y = (y.reshape(h, w) - 16) * 255 / 219
    u, v = ((c.reshape(-1, cw).repeat(2, 0).repeat(2, 1)[:h, :w] - 128) * 255 / 224 for c in (u, v))
    return np.clip(np.stack([y + 1.5748 * v, y - 0.1873 * u - 0.4681 * v, y + 1.8556 * u], -1), 0, 255).astype(np.uint8)


def sheet(pictures: list, captions: list, across: int) -> Image.Image:
    """Pictures of one size with a caption above each, in rows."""
    h, w = pictures[0].shape[:2]
    band, gap = 18, 6
    rows = -(-len(pictures) // across)
    made = Image.new("RGB", (across * (w + gap) - gap, rows * (h + band + gap) - gap), "white")
    draw = ImageDraw.Draw(made)
    for i, (picture, caption) in enumerate(zip(pictures, captions)):
        x, y = i % across * (w + gap), i // across * (h + band + gap)
        made.paste(Image.fromarray(picture), (x, y + band))
        draw.text((x + 2, y + 2), caption, fill="black", font=ImageFont.load_default(12))
    return made


def coded(clip: Path, source: y4m.Video, etok: encoders.ElasticTok, work: Path, target: float | None, rate: float | None, beside: dict) -> list:
    """[(encoder, (bits per pixel, dB), pictures)] of ElasticTok at a target or a rate, and of the encoders beside it."""
    stream, decoded = work / "o.etok", work / "other.y4m"
    if target is None:
        etok.encode_at(clip, source, stream, rate)
    else:
        etok.encode(clip, stream, target)
    point = etok.point(stream, source, work)
    found = [("ElasticTok", point, y4m.read(work / "etok.y4m"))]
    for label, name in beside.items():
        found.append((label, encoders.matched(clip, source, work, name, point[0], decoded), y4m.read(decoded)))
    return found


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("clips", nargs="*", type=Path)
    where = ap.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, help="folder, made where missing")
    where.add_argument("--figure", type=Path, help="one picture")
    ap.add_argument("--targets", help="dB; default 30,36 unless there are rates")
    ap.add_argument("--rates", help="bits per pixel, to which ElasticTok comes as near as it can")
    ap.add_argument("--frames", default="10,40", help="counted from 0; the last one where there are fewer")
    ap.add_argument("--crop", help="X,Y,W,H in pixels")
    ap.add_argument("--zoom", type=int, default=1, help="how many pixels wide a pixel is shown")
    ap.add_argument("--model", help="a bundle instead of the builtin one")
    a = ap.parse_args()
    if a.out and not a.clips or a.figure and len(a.clips) > 1:
        ap.error("--out takes one clip or more, --figure one at most")
    numbers = lambda text: [float(t) for t in text.split(",")] if text else []
    targets, rates, wanted = numbers(a.targets), numbers(a.rates), [int(n) for n in a.frames.split(",")]
    points = [(f"{t:g}dB", t, None) for t in targets or ([] if rates else [30, 36])] + [(f"{r:g}bpp", None, r) for r in rates]
    encoders.build()
    etok = encoders.ElasticTok(a.model)

    def picture(video, n):
        p = rgb(video.format, video.frames[min(n, len(video.frames) - 1)])
        if a.crop:
            x, y, w, h = map(int, a.crop.split(","))
            p = p[y:y + h, x:x + w]
        return p.repeat(a.zoom, 0).repeat(a.zoom, 1)

    if a.out:
        a.out.mkdir(parents=True, exist_ok=True)
    labels = ["ElasticTok", *(BESIDE if a.out else [])]
    head = f"| clip | at | {' | '.join(labels)} |\n| --- | --- |{' --- |' * len(labels)}"
    marked = [head]
    print(head)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if not a.clips:
            a.clips = [work / "scene.y4m"]
            encoders.run(sys.executable, encoders.ROOT / "benches/scene.py", "--frames", max(wanted) + 8, "--size", "480x270", a.clips[0])
        for path in a.clips:
            clip, source = encoders.load(path, work)
            pictures, captions = [picture(source, wanted[0])], ["source"]
            for name, target, rate in points:
                videos = coded(clip, source, etok, work, target, rate, BESIDE if a.out else {})
                said = [f"{k} {p[0]:.4f} bit/pixel, {p[1]:.1f} dB" for k, p, _ in videos]
                off = (y4m.colour_error(source, x) for _, _, x in videos)
                cells = [f"{p[0]:.4f}, {p[1]:.1f} dB, {most:.1f}, {share:.1%}" for (_, p, _), (most, share) in zip(videos, off)]
                print(f"| {path.stem} | {name} | {' | '.join(cells)} |", flush=True)
                marks = [f"{share:.1%}, {'-' if stay is None else f'{stay:.0%}'}" for share, stay in (y4m.marks(source, x) for _, _, x in videos)]
                marked.append(f"| {path.stem} | {name} | {' | '.join(marks)} |")
                pictures.append(picture(videos[0][2], wanted[0]))
                captions.append(said[0])
                if a.out:
                    for n in wanted:
                        sheet([picture(v, n) for v in [source, *(x for _, _, x in videos)]], ["source", *said], 2).save(a.out / f"{path.stem}_{name}_{n:04d}.png")
            if a.figure:
                sheet(pictures, captions, len(pictures)).save(a.figure, optimize=True)
    print("\n" + "\n".join(marked))


if __name__ == "__main__":
    main()
