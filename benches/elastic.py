#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""What the builtin model spends where, and what its searches cost: the questions of `elastictok_models.official.elastic` asked of it.

usage: elastic.py [--frames N] [--plot PLOT.png] CLIP...      (made scenes take the first clip's size; name two of that size)
Prints tables in Markdown. Rates are bytes of block units; PSNR is of luma. A block meets a target when the mean PSNR of its two frames is
at most 0.25 dB below it."""
import argparse
import tempfile
from pathlib import Path

import numpy as np

import encoders
import y4m

T = 2  # frames of a block
TARGETS = (32, 36, 40)
SLACK = 0.25


def unit_sizes(stream: bytes) -> list[int]:
    """Bytes of every block unit of an undamaged byte stream (docs/bitstream.md)."""
    sizes, at = [], 0
    while at < len(stream):
        start, kind, length, shift = at, stream[at + 1], 0, 0
        at += 2
        while True:
            byte = stream[at]
            length |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if byte < 128:
                break
        at += 1 + length
        if kind == 0xAC:
            sizes.append(at - start)
    return sizes


class Coder:
    """Codes pictures [n, samples] of a format; keeps what was coded before."""

    def __init__(self, work: Path):
        self.work, self.kept = work, {}

    def code(self, name: str, video: y4m.Video, *options) -> tuple[np.ndarray, np.ndarray, float]:
        """Bytes of each block, luma PSNR of each block in dB, ms a frame in the encoder."""
        key = (name, *options)
        if key not in self.kept:
            clip, stream, out = (self.work / n for n in ("in.y4m", "s.etok", "out.y4m"))
            with y4m.Writer(clip, video.format) as writer:
                for frame in video.frames:
                    writer.write(frame)
            said = encoders.run(encoders.CODEC, "encode", clip, stream, "--layers", 1, *options, errors=True)
            encoders.run(encoders.CODEC, "decode", stream, out)
            decoded = y4m.read(out)
            psnr = np.array([y4m.frame_psnr(video.format, a, b)[0] for a, b in zip(video.frames, decoded.frames)])
            sizes = np.array(unit_sizes(stream.read_bytes()))
            self.kept[key] = sizes, psnr.reshape(-1, T).mean(1), float(said.split("ms a frame: ")[1].split(" in all")[0])
        return self.kept[key]


def luma(video: y4m.Video) -> np.ndarray:
    return video.frames[:, :video.format.luma].reshape(-1, video.format.height, video.format.width)


def from_luma(form: y4m.Format, pictures: np.ndarray) -> y4m.Video:
    grey = np.full((len(pictures), 2 * form.chroma), 128, np.uint8)
    return y4m.Video(form, np.concatenate([np.clip(np.round(pictures), 0, 255).astype(np.uint8).reshape(len(pictures), -1), grey], 1))


def table(title: str, header: list, rows: list):
    print(f"\n**{title}**\n\n| {' | '.join(header)} |\n|{' --- |' * len(header)}")
    for row in rows:
        print("| " + " | ".join(f"{v:.2f}" if isinstance(v, float) else str(v) for v in row) + " |", flush=True)


def changes(video: y4m.Video) -> np.ndarray:
    """Mean absolute change of luma in each block against the block before."""
    y = luma(video)[T - 1::T].astype(np.float32)
    return np.abs(np.diff(y, axis=0)).mean((1, 2))


def over_time(coder: Coder, clips: dict) -> tuple[dict, list]:
    traces, rows = {}, []
    for name, video in clips.items():
        sizes, _, _ = coder.code(name, video, "--target-psnr", 36)
        change = changes(video)
        traces[name] = (change, sizes[1:])
        ranks = [v.argsort().argsort() for v in (change, sizes[1:])]
        low, middle, high = np.percentile(sizes[1:], (5, 50, 95))
        rows.append([name, int(sizes[0]), int(low), int(middle), int(high), float(np.corrcoef(*ranks)[0, 1])])
    table("Bytes of a block at 36 dB, over time", ["clip", "key block", "5th percentile of the others", "median", "95th", "rank correlation with the change of luma"], rows)
    return traces, rows


def fixed_counts(coder: Coder, clips: dict):
    """Constant tokens of every cell against the search, at equal share of blocks that meet the target."""
    rows = []
    for target in TARGETS:
        found = [coder.code(n, v, "--target-psnr", target) for n, v in clips.items()]
        sizes, quality = (np.concatenate([f[i] for f in found]) for i in (0, 1))
        for count in (32, 96, 256):
            other = [coder.code(n, v, "--tokens", count) for n, v in clips.items()]
            theirs, theirs_quality = (np.concatenate([f[i] for f in other]) for i in (0, 1))
            rows.append([target, int(sizes.mean()), share(quality, target), count, int(theirs.mean()), share(theirs_quality, target)])
    table("Tokens found by the search against the same count in every cell", ["target, dB", "search: bytes a block", "blocks that meet it", "tokens of every cell", "bytes a block", "blocks that meet it"], rows)


def share(quality: np.ndarray, target: float) -> str:
    return f"{100 * (quality >= target - SLACK).mean():.0f} %"


def searches(coder: Coder, clips: dict):
    rows = []
    for target in TARGETS:
        for way in ("regression", "binary", "full"):
            found = [coder.code(n, v, "--target-psnr", target, "--search", way) for n, v in clips.items()]
            sizes, quality = (np.concatenate([f[i] for f in found]) for i in (0, 1))
            rows.append([target, way, float(np.mean([f[2] for f in found])), int(sizes.mean()), float((quality - target).mean()), share(quality, target)])
    table("Searches", ["target, dB", "search", "ms a frame", "bytes a block", "mean PSNR less the target", "blocks that meet it"], rows)


def redundancy(coder: Coder, clips: dict):
    """Still blocks, each the one before but for squares that come from another frame."""
    form = next(iter(clips.values())).format
    same = [luma(v).astype(np.float32) for v in clips.values() if v.format.size == form.size]
    stills = [y[i] for i in (0, len(same[0]) // 2) for y in same]
    rows, side = [], 32
    for similarity in (1.0, 0.95, 0.9, 0.75, 0.5, 0.0):
        rng, current, pictures = np.random.default_rng(0), stills[0], []
        for i in range(12):
            if i:
                new = rng.random((-(-form.height // side), -(-form.width // side))) >= similarity
                new = new.repeat(side, 0).repeat(side, 1)[:form.height, :form.width]
                current = np.where(new, stills[i % len(stills)], current)
            pictures += [current] * T
        video = from_luma(form, np.stack(pictures))
        row = [similarity]
        for interval in (0, T):
            sizes, quality, _ = coder.code(f"similar {similarity}", video, "--target-psnr", 36, "--key-int-max", interval)
            row += [int(sizes[1:].mean()), float(quality[1:].mean())]
        rows.append(row)
    table("Still blocks that share squares of 32 pixels with the one before, at 36 dB; the first block left out", ["similarity", "bytes with context", "PSNR", "bytes with every block a key block", "PSNR"], rows)
    return rows


def failures(coder: Coder, clips: dict):
    """Scenes that should be hard, beside a constant count of tokens."""
    form = next(iter(clips.values())).format
    first = next(iter(clips.values()))
    rng, h, w = np.random.default_rng(0), form.height, form.width
    still, n = luma(first)[0].astype(np.float32), len(first.frames)
    stills = [luma(v)[i] for v in clips.values() if v.format.size == form.size for i in range(0, len(v.frames), 5)]
    scenes = {
        "constant motion, 3 pixels a frame": np.stack([np.roll(still, 3 * t, 1) for t in range(n)]),
        "uniform noise": rng.integers(0, 256, (n, h, w)),
        "a cut at every block": np.stack([stills[(t // T * 7) % len(stills)] for t in range(n)]),
    }
    rows = []
    for name, pictures in {**scenes, "": None}.items():
        video = first if pictures is None else from_luma(form, pictures)
        sizes, quality, _ = coder.code(name or "first", video, "--target-psnr", 36)
        fixed, fixed_quality, _ = coder.code(name or "first", video, "--tokens", 96)
        rows.append([name or "the first clip", int(sizes.mean()), share(quality, 36), float(quality.mean()), int(fixed.mean()), share(fixed_quality, 36), float(fixed_quality.mean())])
    table("Scenes that should be hard: the search at 36 dB beside 96 tokens in every cell", ["scene", "bytes a block", "blocks that meet 36 dB", "PSNR", "96 tokens: bytes", "blocks that meet it", "PSNR"], rows)


def draw(path: Path, traces: dict, similar: list):
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for name, (change, sizes) in list(traces.items())[:3]:
        line, = left.plot(sizes / sizes.mean(), label=name)
        left.plot(change / change.mean(), ":", color=line.get_color())
    left.set(xlabel="block", ylabel="of its mean", title="Bytes (lines) and change of luma (dots)")
    left.legend(fontsize=7)
    for column, label, style in ((1, "context", "o-"), (3, "every block a key block", "s--")):
        right.plot([r[0] for r in similar], [r[column] for r in similar], style, label=label)
    right.set(xlabel="similarity of blocks", ylabel="bytes a block", title="Temporal redundancy")
    right.legend()
    figure.savefig(path, dpi=70)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("clips", nargs="+", type=Path)
    ap.add_argument("--frames", type=int, default=48)
    ap.add_argument("--plot", type=Path)
    args = ap.parse_args()
    encoders.build()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        clips = {}
        for path in args.clips:
            video = encoders.load(path, work, args.frames)[1]
            video.frames = video.frames[:len(video.frames) // T * T]
            clips[path.stem] = video
        coder = Coder(work)
        traces, _ = over_time(coder, clips)
        fixed_counts(coder, clips)
        searches(coder, clips)
        similar = redundancy(coder, clips)
        failures(coder, clips)
        if args.plot:
            draw(args.plot, traces, similar)


if __name__ == "__main__":
    main()
