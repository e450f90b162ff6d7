#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Rate-distortion table: ElasticTok beside x264, x265 and SVT-AV1, all encoded in this run from the same clips.

usage: rd.py [--out TABLE.md] [--plot PLOT.png] [--model DIR] CLIP...
ElasticTok's rate is that of the whole .etok file; the others' that of the elementary stream. Quality is luma PSNR, mean of
the frames' dB. A curve's BD-rate is the mean difference in rate over the range of qualities both have (piecewise cubic).
Every ElasticTok stream is also thinned to each count of layers and decoded: quality must rise with every layer."""
import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from scipy.interpolate import PchipInterpolator

import y4m

ROOT = Path(__file__).resolve().parent.parent
ETOK = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/examples/etok"
X264, X265 = ["-c:v", "libx264", "-g", "240"], ["-c:v", "libx265", "-x265-params", "log-level=error:keyint=240"]
CRF, CRF_AV1 = (21, 25, 29, 33, 37, 41), (25, 32, 39, 46, 53, 60)
OTHERS = {
    "x264 veryfast zerolatency": (CRF, [*X264, "-preset", "veryfast", "-tune", "zerolatency"]),
    "x264 medium zerolatency": (CRF, [*X264, "-preset", "medium", "-tune", "zerolatency"]),
    "x264 medium": (CRF, [*X264, "-preset", "medium"]),
    "x265 medium": (CRF, [*X265, "-preset", "medium"]),
    "SVT-AV1 p8": (CRF_AV1, ["-c:v", "libsvtav1", "-preset", "8", "-g", "240"]),
}
TARGETS = (28, 31, 34, 38, 42)
LAYERS = 3


def run(*args) -> str:
    done = subprocess.run([str(a) for a in args], capture_output=True, text=True, env={**os.environ, "SVT_LOG": "1"})
    if done.returncode:
        sys.exit(f"{args[0]} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def ours(clip: Path, source: y4m.Video, work: Path, model: list) -> tuple:
    """[(bits per pixel, dB)], and for each target the dB of streams thinned to 1, 2, .. layers."""
    curve, thinned = [], []
    for target in TARGETS:
        stream, decoded = work / "o.etok", work / "o.y4m"
        run(ETOK, "encode", clip, stream, "--target-psnr", target, *model)
        ladder = []
        for layers in range(1, LAYERS + 1):
            run(ETOK, "thin", stream, work / "t.etok", layers)
            run(ETOK, "decode", work / "t.etok", decoded, *model)
            ladder.append((bits(work / "t.etok", source), y4m.psnr(source, y4m.read(decoded))[0]))
        run(ETOK, "decode", stream, decoded, *model)
        curve.append((bits(stream, source), y4m.psnr(source, y4m.read(decoded))[0]))
        thinned.append(ladder)
    return curve, thinned


def bits(path: Path, source: y4m.Video) -> float:
    return path.stat().st_size * 8 / (len(source.frames) * source.luma)


def other(clip: Path, source: y4m.Video, work: Path, values, options) -> list:
    curve = []
    for value in values:
        out, decoded = work / "o.mkv", work / "o.y4m"
        run("ffmpeg", "-v", "error", "-y", "-i", clip, *options, "-crf", value, out)
        sizes = run("ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries", "packet=size", "-of", "csv=p=0", out)
        size = sum(int(x.strip(",")) for x in sizes.split() if x.strip(","))
        run("ffmpeg", "-v", "error", "-y", "-i", out, "-pix_fmt", "yuv420p", "-f", "yuv4mpegpipe", decoded)
        curve.append((size * 8 / (len(source.frames) * source.luma), y4m.psnr(source, y4m.read(decoded))[0]))
    return curve


def bd_rate(reference, test):
    """Per cent of rate of `test` against `reference` at equal quality; None where the ranges hardly overlap."""
    def prepare(curve):
        rising = []
        for rate, quality in sorted(curve, key=lambda p: p[1]):
            if not rising or quality > rising[-1][1] + 1e-4:
                rising.append((rate, quality))
        return np.array([q for _, q in rising]), np.log([r for r, _ in rising])
    (qa, ra), (qb, rb) = prepare(reference), prepare(test)
    low, high = max(qa[0], qb[0]), min(qa[-1], qb[-1])
    if high - low < 0.3 or len(qa) < 3 or len(qb) < 3:
        return None
    x = np.linspace(low, high, 200)
    return float((np.exp(np.mean(PchipInterpolator(qb, rb)(x) - PchipInterpolator(qa, ra)(x))) - 1) * 100)


def plot(path, results):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    columns = min(3, len(results))
    rows = -(-len(results) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(5.2 * columns, 4 * rows), squeeze=False)
    for axis, (name, r) in zip(axes.ravel(), results.items()):
        for label, curve in r["curves"].items():
            style = dict(marker="o", linewidth=2.4, color="black") if label == "ElasticTok" else dict(marker=".", linewidth=1.1)
            axis.plot(*zip(*sorted(curve)), label=label, **style)
        axis.set(xscale="log", xlabel="bit/pixel", ylabel="luma PSNR, dB", title=name)
        axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def table(results) -> str:
    percent = lambda v: "-" if v is None else f"{v:+.1f} %"
    lines = ["BD-rate of ElasticTok against (negative: ElasticTok needs fewer bits):", "",
             "| clip | " + " | ".join(OTHERS) + " | rises with every layer |", "| --- |" + " --- |" * (len(OTHERS) + 1)]
    for name, r in results.items():
        lines.append(f"| {name} | " + " | ".join(percent(r["bd"][k]) for k in OTHERS) + f" | {'yes' if r['rises'] else 'NO'} |")
    mean = lambda k: np.mean([r["bd"][k] for r in results.values() if r["bd"][k] is not None] or [np.nan])
    lines += ["| **mean** | " + " | ".join(percent(mean(k)) for k in OTHERS) + " | |", "",
              "Points of ElasticTok, bit/pixel / dB, and the same streams thinned:", "",
              "| clip | target | whole | " + " | ".join(f"{i + 1} layer{'s' * (i > 0)}" for i in range(LAYERS)) + " |", "| --- |" + " --- |" * (LAYERS + 2)]
    for name, r in results.items():
        for target, point, ladder in zip(TARGETS, r["curves"]["ElasticTok"], r["thinned"]):
            lines.append(f"| {name} | {target} dB | {point[0]:.4f} / {point[1]:.2f} | " + " | ".join(f"{b:.4f} / {q:.2f}" for b, q in ladder) + " |")
    return "\n".join(lines) + "\n"


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("clips", nargs="+", type=Path)
    ap.add_argument("--out", type=Path, help="Markdown table")
    ap.add_argument("--json", type=Path, help="all curves")
    ap.add_argument("--plot", type=Path)
    ap.add_argument("--jobs", type=int, default=2, help="clips at a time")
    ap.add_argument("--model", help="a bundle instead of the builtin one")
    a = ap.parse_args()
    run("cargo", "build", "--release", "--quiet", "--manifest-path", ROOT / "Cargo.toml", "--example", "etok")
    model = ["--model", a.model] if a.model else []
    def one(path: Path) -> dict:
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            clip = work / "clip.y4m"
            run("ffmpeg", "-v", "error", "-y", "-i", path, "-pix_fmt", "yuv420p", "-f", "yuv4mpegpipe", clip)
            source = y4m.read(clip)
            mine, thinned = ours(clip, source, work, model)
            curves = {"ElasticTok": mine} | {k: other(clip, source, work, *v) for k, v in OTHERS.items()}
        rises = all(x[1] < y[1] + 1e-9 for ladder in thinned for x, y in zip(ladder, ladder[1:]))
        bd = {k: bd_rate(curves[k], mine) for k in OTHERS}
        print(path.stem, {k: v and round(v, 1) for k, v in bd.items()}, "rises" if rises else "DOES NOT RISE", flush=True)
        return {"curves": curves, "thinned": thinned, "rises": rises, "bd": bd}

    with ThreadPoolExecutor(a.jobs) as pool:
        results = dict(zip((p.stem for p in a.clips), pool.map(one, a.clips)))
    text = table(results)
    print(text)
    if a.out:
        a.out.write_text("Made by `benches/rd.py --out " + str(a.out) + " CLIP...`\n\n" + text)
    if a.json:
        a.json.write_text(json.dumps(results, indent=1))
    if a.plot:
        plot(a.plot, results)


if __name__ == "__main__":
    main()
