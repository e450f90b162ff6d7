#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Rate-distortion table: ElasticTok beside x264, x265 and SVT-AV1, all encoded in this run from the same clips.

usage: rd.py [--out TABLE.md] [--plot PLOT.svg] [--screen NAME] [--cache] [--model DIR] [--against ENCODER] CLIP...
ElasticTok's rate is that of the whole .etok file; the others' that of the elementary stream. Quality is luma PSNR, mean of
the frames' dB. A curve's BD-rate is the mean difference in rate over the range of qualities both have (piecewise cubic).
ElasticTok's curves are of streams of one layer. Streams of four are also thinned to each count of layers and decoded: quality must rise
with every layer, and a thinned stream should be near what encoding at its rate gives. The exit status is 1 where a bar is missed."""
import argparse
import json
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.interpolate import PchipInterpolator

import encoders

TARGETS = (28, 31, 34, 38, 42)
EXTREMES = (20, 60)  # the range of the property target-psnr
MEAN_BAR, CLIP_BAR, RANGE_BAR, THIN_BAR = 25.0, 80.0, (0.01, 0.3), 1.0


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


def rises(ladder) -> bool:
    """Whether quality rises with every layer; one that adds no byte need not."""
    return all(q1 > q0 for (b0, q0), (b1, q1) in zip(ladder, ladder[1:]) if b1 > b0)


def loss(curve, point):
    """How many dB `point` lies below `curve` at its rate; None outside the curve's rates, and where nothing was cut."""
    rates, qualities = zip(*sorted(curve))
    rate, quality = point
    if not rates[0] <= rate <= rates[-1] or len(set(rates)) < len(rates):
        return None
    return float(PchipInterpolator(np.log(rates), qualities)(np.log(rate)) - quality)


def cuts(ladder):
    """The points of a ladder that lack something."""
    return [point for point in ladder if point[0] < ladder[-1][0]]


def measure(path: Path, etok: encoders.ElasticTok, cache: Path | None) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        clip, source = encoders.load(path, work)
        stream = work / "o.etok"
        curve, layered, thinned = [], [], []
        for target in TARGETS:
            etok.encode(clip, stream, target)
            curve.append(etok.point(stream, source, work))
            etok.encode(clip, stream, target, etok.layers)
            layered.append(etok.point(stream, source, work))
            thinned.append(etok.ladder(stream, source, work))
        span = []
        for target in EXTREMES:
            etok.encode(clip, stream, target)
            span.append(encoders.per_pixel(stream.stat().st_size, source))
        curves = {"ElasticTok": curve} | {k: encoders.other_curve(clip, source, work, k, cache) for k in encoders.OTHERS}
    bd = {k: bd_rate(curves[k], curve) for k in encoders.OTHERS}
    result = {"curves": curves, "layered": layered, "thinned": thinned, "layered_bd": bd_rate(curve, layered),
              "span": span, "bd": bd, "rises": all(map(rises, thinned)),
              "steady": all(x[0] < y[0] and x[1] < y[1] for x, y in zip(curve, curve[1:]))}
    print(path.stem, {k: v and round(v, 1) for k, v in bd.items()}, "" if result["rises"] else "DOES NOT RISE WITH EVERY LAYER", file=sys.stderr, flush=True)
    return result


def percent(v) -> str:
    return "-" if v is None or np.isnan(v) else f"{v:+.1f} %"


def mean(results, codec) -> float:
    known = [r["bd"][codec] for r in results if r["bd"][codec] is not None]
    return float(np.mean(known)) if known else float("nan")


def bars(results, screen) -> list:
    """[(text, met)]."""
    camera = {k: r for k, r in results.items() if k not in screen}
    bar = [(k, r["bd"][encoders.VERYFAST]) for k, r in camera.items() if r["bd"][encoders.VERYFAST] is not None]
    out = []
    if bar:
        average, (worst, by) = mean(results.values(), encoders.VERYFAST), max(bar, key=lambda p: p[1])
        out.append((f"mean BD-rate against {encoders.VERYFAST}: {percent(average)}, at most {percent(MEAN_BAR)}", average <= MEAN_BAR))
        out.append((f"worst camera or film clip: {worst}, {percent(by)}, at most {percent(CLIP_BAR)}", by <= CLIP_BAR))
    fallen = [k for k, r in results.items() if not r["rises"]]
    out.append(("quality rises with every layer on every clip" + (f"; not on {', '.join(fallen)}" if fallen else ""), not fallen))
    lost = [d for r in results.values() for ladder in r["thinned"] for p in cuts(ladder) if (d := loss(r["curves"]["ElasticTok"], p)) is not None]
    if lost:
        out.append((f"streams cut to fewer layers against encoding at that rate: {np.mean(lost):.2f} dB less on average, {max(lost):.2f} dB at most, "
                    f"at most {THIN_BAR:.0f} dB", max(lost) <= THIN_BAR))
    uneven = [k for k, r in results.items() if not r["steady"]]
    out.append(("a higher target gives more bits and more quality" + (f"; not on {', '.join(uneven)}" if uneven else ""), not uneven))
    low, high = RANGE_BAR
    narrow = [k for k, r in results.items() if r["span"][0] > low or r["span"][1] < high]
    out.append((f"target-psnr from {EXTREMES[0]} to {EXTREMES[1]} dB spans {low} to {high} bit/pixel" + (f"; not on {', '.join(narrow)}" if narrow else ""), not narrow))
    return out


def table(results, screen, layers: int) -> str:
    others = list(encoders.OTHERS)
    lines = ["BD-rate of ElasticTok against (negative: ElasticTok needs fewer bits; -: no common range of quality):", "",
             "| clip | " + " | ".join(others) + " | rises with every layer |", "| --- |" + " --- |" * (len(others) + 1)]
    for name, r in results.items():
        lines.append(f"| {name}{' (screen)' * (name in screen)} | " + " | ".join(percent(r["bd"][k]) for k in others) + f" | {'yes' if r['rises'] else 'NO'} |")
    lines.append("| **mean** | " + " | ".join(percent(mean(results.values(), k)) for k in others) + " | |")
    if screen:
        camera = [r for k, r in results.items() if k not in screen]
        lines.append("| **mean without screen recordings** | " + " | ".join(percent(mean(camera, k)) for k in others) + " | |")
    lines += ["", "Requirements:", ""] + [f"- {'met' if met else '**MISSED**'}: {text}" for text, met in bars(results, screen)]
    behind = [k for k, r in results.items() if (r["bd"][encoders.VERYFAST] or 0) > 0]
    lines += ["", f"It needs more bits than {encoders.VERYFAST} on: {', '.join(behind) or 'no clip'}.", "",
              f"Range of the rate, bit/pixel, from target-psnr {EXTREMES[0]} to {EXTREMES[1]} dB:", "", "| clip | lowest | highest |", "| --- | --- | --- |"]
    lines += [f"| {k} | {r['span'][0]:.4f} | {r['span'][1]:.3f} |" for k, r in results.items()]
    lines += ["", "Points of ElasticTok, bit/pixel / dB: streams of one layer, of up to four, and those cut to their first layers; in brackets how many dB",
              "encoding at that rate in one layer is better:", "",
              "| clip | target | one layer | whole | " + " | ".join(f"cut to {i}" for i in range(1, layers)) + " |", "| --- |" + " --- |" * (layers + 2)]
    for name, r in results.items():
        curve = r["curves"]["ElasticTok"]
        def shown(point, cut):
            lost = loss(curve, point) if cut else None
            return f"{point[0]:.4f} / {point[1]:.2f}" + (f" ({lost:+.2f})" if lost is not None else "")
        for i, target in enumerate(TARGETS):
            ladder = r["thinned"][i]
            cells = [shown(curve[i], False), shown(r["layered"][i], True)] + [shown(p, True) if p in cuts(ladder) else "" for p in ladder[:-1]]
            lines.append(f"| {name} | {target} dB | " + " | ".join(cells) + " |")
    known = [r["layered_bd"] for r in results.values() if r["layered_bd"] is not None]
    if known:
        lines += ["", f"Streams of up to four layers, whole, need {np.mean(known):+.1f} % bits on average, {max(known):+.1f} % at most."]
    return "\n".join(lines) + "\n"


def plot(path, results):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter
    plt.rcParams["svg.hashsalt"] = "elastictok"
    columns = min(3, len(results))
    rows = -(-len(results) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.6 * columns, 3.4 * rows), squeeze=False)
    for axis, (name, r) in zip(axes.ravel(), results.items()):
        for label, curve in r["curves"].items():
            style = dict(marker="o", markersize=4, linewidth=2.2, color="black") if label == "ElasticTok" else dict(marker=".", linewidth=1.1)
            axis.plot(*zip(*sorted(curve, key=lambda p: p[1])), label=label, **style)
        axis.set(xscale="log", xlabel="bit/pixel", ylabel="luma PSNR, dB", title=name)
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.tick_params(axis="x", labelsize=8)
        axis.grid(alpha=0.3)
    for axis in axes.ravel()[len(results):]:
        axis.set_axis_off()
    axes[0, 0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=80, metadata={"Date": None} if str(path).endswith(".svg") else None)
    if str(path).endswith(".png"):
        Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)  # few colours: a quarter of the bytes


def differences(clips: list, others: list, etok: encoders.ElasticTok, cache: Path | None, pool) -> str:
    """Table of the BD-rates of every clip against some encoders."""
    def one(path: Path) -> list:
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            clip, source = encoders.load(path, work)
            curve = []
            for target in TARGETS:
                etok.encode(clip, work / "o.etok", target)
                curve.append(etok.point(work / "o.etok", source, work))
            return [bd_rate(encoders.other_curve(clip, source, work, name, cache), curve) for name in others]
    rows = list(pool.map(one, clips))
    known = [[v for v in column if v is not None] for column in zip(*rows)]
    named = [*((path.stem, row) for path, row in zip(clips, rows)), ("**mean**", [np.mean(k) if k else None for k in known])]
    lines = ["| clip | " + " | ".join(others) + " |", "| --- |" + " --- |" * len(others)]
    return "\n".join(lines + [f"| {name} | " + " | ".join(map(percent, row)) + " |" for name, row in named])


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("clips", nargs="+", type=Path)
    ap.add_argument("--out", type=Path, help="Markdown table")
    ap.add_argument("--json", type=Path, help="all curves")
    ap.add_argument("--plot", type=Path, help="by its ending: .svg, .png")
    ap.add_argument("--screen", action="append", default=[], help="clips with this in their name are screen recordings; may be repeated")
    ap.add_argument("--jobs", type=int, default=2, help="clips at a time")
    ap.add_argument("--model", help="a bundle instead of the builtin one")
    ap.add_argument("--against", action="append", choices=list(encoders.OTHERS), help="only this encoder, and whole streams only: quicker; may be repeated")
    ap.add_argument("--cache", action="store_true", help="keep the other encoders' curves in .cache/rd, and take them from there")
    a = ap.parse_args()
    if len({p.stem for p in a.clips}) < len(a.clips):
        ap.error("two clips have one name")
    encoders.build()
    etok, cache = encoders.ElasticTok(a.model), encoders.ROOT / ".cache/rd" if a.cache else None
    with ThreadPoolExecutor(a.jobs) as pool:
        if a.against:
            return print(differences(a.clips, a.against, etok, cache, pool))
        results = dict(zip((p.stem for p in a.clips), pool.map(lambda p: measure(p, etok, cache), a.clips)))
    screen = {k for k in results if any(s in k for s in a.screen)}
    command = "benches/rd.py" + "".join(f" --screen {s}" for s in a.screen) + "".join(f" --{k} {v}" for k, v in (("out", a.out), ("plot", a.plot), ("model", a.model)) if v)
    text = f"Made by `{command} CLIP...` on {os.cpu_count()} processors, with {' '.join(encoders.run('ffmpeg', '-version').split()[:3])}.\n\n{table(results, screen, etok.layers)}"
    print(text)
    if a.out:
        a.out.write_text(text)
    if a.json:
        a.json.write_text(json.dumps(results, indent=1))
    if a.plot:
        plot(a.plot, results)
    sys.exit(not all(met for _, met in bars(results, screen)))


if __name__ == "__main__":
    main()
