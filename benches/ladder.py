#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""The rungs of ElasticTok's streams: how far apart they are, and what they cost.

usage: ladder.py [--out PAGE.md] [--plot PLOT.png] [--cache] [--frames N] [--targets DB,..] [--model DIR] [--codec CODEC] CLIP...
A stream of up to four layers is encoded at each target, thinned to every number of layers and decoded. Each rung is compared with
streams of one layer at the same quality (piecewise cubic through a curve of those, of the logarithm of the rate over dB); simulcast is
the sum of such streams, one for each rung, of ElasticTok or of x264 veryfast zerolatency. VP9 with as many layers of quality at about the
same rungs is compared with its own streams of one layer, and with ElasticTok. A receiver that goes down decodes the first half of the frames whole and the others at a
lower rung, without a key block between; it is compared with a receiver that had that rung from the beginning. Rates are those of whole files, quality is luma PSNR, mean of the frames' dB. The exit status is 1 where a
bar is missed."""
import argparse
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.interpolate import PchipInterpolator

import encoders
import vp9
import y4m

CURVE = (20, 23, 26, 29, 32, 35, 38, 41, 44)
RUNGS, APART, MEAN_BAR, WHOLE_BAR, WORST_BAR = 4, (1.8, 2.7), 12.0, 12.0, 30.0


class Single:
    """Rate of streams of one layer at a quality."""

    def __init__(self, points: list):
        points = sorted(points, key=lambda p: p[1])
        rising = [p for i, p in enumerate(points) if all(q[1] + 1e-6 < p[1] and q[0] < p[0] for q in points[:i])]
        rates, self.range = [p[0] for p in rising], (rising[0][1], rising[-1][1])
        self.log = PchipInterpolator([p[1] for p in rising], np.log(rates))

    def rate(self, quality: float) -> float | None:
        """None outside the range of the curve."""
        return float(np.exp(self.log(quality))) if self.range[0] <= quality <= self.range[1] else None


def after_going_down(etok: encoders.ElasticTok, stream: Path, source: y4m.Video, rungs: int, work: Path) -> list:
    """[(mean, least)] of the frames after a receiver went down from all layers to 1, 2, ..: how many dB it is above one that had so many
    layers from the beginning. The clip, of up to 240 frames, is one group."""
    length = etok.block_length
    block = len(source.frames) // (2 * length)
    made, thin, decoded = [], work / "d.etok", work / "d.y4m"
    for layers in range(1, rungs):
        sides = []
        for begin in (0, block):
            etok.thin(stream, thin, layers, begin)
            etok.decode(thin, decoded)
            sides.append(y4m.luma_psnr(source, y4m.read(decoded))[block * length:])
        above = sides[1] - sides[0]
        made.append((float(np.mean(above)), float(np.min(above))))
    return made


def vp9_ladders(codec: vp9.Vp9, ladders: list) -> list:
    """Of VP9 at the rungs of each ladder: points, bits above its streams of one layer at equal dB, of each rung, and of the whole stream above
    the ladder's, both in percent. None for ladders of one rung, and where VP9's range does not hold the rungs."""
    curve, made = codec.curve(), []
    single = Single(curve)
    for rungs in ladders:
        points = codec.ladder(curve, [db for _, db in rungs]) if len(rungs) > 1 else None
        alone = [single.rate(db) for _, db in [*(points or []), rungs[-1]]]
        if not points or not all(alone):
            made.append(None)
            continue
        over = [100 * (rate / a - 1) for (rate, _), a in zip(points, alone)]
        whole = alone[-1] * (1 + over[-1] / 100)  # at the ladder's own dB, from which whole quantisers are a little off
        made.append({"points": points, "over": over, "above": 100 * (whole / rungs[-1][0] - 1)})
    return made


def measure(path: Path, etok: encoders.ElasticTok, targets: list, frames: int | None, cache: Path | None, with_vp9: bool) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        clip, source = encoders.load(path, work, frames)
        stream, curve, ladders, down = work / "o.etok", [], [], []
        for target in CURVE:
            etok.encode(clip, stream, target)
            curve.append(etok.point(stream, source, work))
        for target in targets:
            etok.encode(clip, stream, target, RUNGS)
            points = etok.ladder(stream, source, work)
            ladders.append([p for i, p in enumerate(points) if p not in points[:i]])
            down.append(after_going_down(etok, stream, source, len(ladders[-1]), work))
        x264 = encoders.other_curve(clip, source, work, encoders.VERYFAST, cache)
        layered = vp9_ladders(vp9.Vp9(clip, source, cache), ladders) if with_vp9 else [None] * len(ladders)
    single, other = Single(curve), Single(x264)
    result = []
    for target, rungs, after, svc in zip(targets, ladders, down, layered):
        alone = [single.rate(q) for _, q in rungs]
        over = [100 * (r / a - 1) if a else None for (r, _), a in zip(rungs, alone)]
        simulcast = 100 * (sum(alone) / alone[-1] - 1) if all(alone) else None
        by_other = [other.rate(q) for _, q in rungs]
        by_other = 100 * (sum(by_other) / rungs[-1][0] - 1) if all(by_other) else None
        result.append({"target": target, "rungs": rungs, "over": over, "simulcast": simulcast, "x264": by_other,
                       "apart": [b[0] / a[0] for a, b in zip(rungs, rungs[1:])], "down": after, "vp9": svc})
    print(path.stem, [[o and round(o, 1) for o in r["over"]] for r in result], file=sys.stderr, flush=True)
    return {"curve": curve, "x264": x264, "ladders": result}


def bars(results: dict) -> list:
    """[(text, met)]."""
    every = [(name, r) for name, clip in results.items() for r in clip["ladders"]]
    counts = [len(r["rungs"]) for _, r in every]
    ladders = [(name, r) for name, r in every if len(r["rungs"]) > 1]  # a stream of one layer costs nothing more than itself
    over = [(o, i + 1, name, r["target"]) for name, r in ladders for i, o in enumerate(r["over"]) if o is not None]
    whole = [r["over"][-1] for _, r in ladders if r["over"][-1] is not None]
    simulcast = [r["simulcast"] for _, r in ladders if r["simulcast"] is not None]
    apart = [a for _, r in every for a in r["apart"]]
    mean, (worst, rung, name, target) = np.mean([o[0] for o in over]), max(over)
    outside = sum(not APART[0] <= a <= APART[1] for a in apart)
    return [
        (f"rungs: {min(counts)} to {max(counts)}, mean {np.mean(counts):.1f}; asked {RUNGS}. What follows is of the {len(ladders)} streams with more than one", min(counts) >= RUNGS),
        (f"rates of neighbouring rungs {min(apart):.2f} to {max(apart):.2f} apart, mean {np.mean(apart):.2f}, {outside} of {len(apart)} outside "
         f"{APART[0]} to {APART[1]}", outside == 0),
        (f"bits above streams of one layer at equal dB, mean of all rungs: {mean:+.1f} %, at most {MEAN_BAR:+.0f} %", mean <= MEAN_BAR),
        (f"the whole stream: {np.mean(whole):+.1f} %, at most {WHOLE_BAR:+.0f} % (simulcast of the same rungs {np.mean(simulcast):+.0f} %)", np.mean(whole) <= WHOLE_BAR),
        (f"the worst rung of the worst clip: {worst:+.1f} % (rung {rung} of {name} at {target:g} dB), at most {WORST_BAR:+.0f} %", worst <= WORST_BAR),
    ]


def table(results: dict) -> str:
    percent = lambda o: "-" if o is None else f"{o:+.1f} %"
    vp9_cell = lambda v: "-" if v is None else f"{percent(v['over'][-1])}, {percent(v['above'])}"
    lines = ["Rungs as dB, and bits above a stream of one layer at equal dB (-: outside that curve). *Rates apart*: of neighbouring rungs. *Simulcast*: bits of streams of one layer at "
             "the same rungs above the finest of them. *x264*: bits of streams of x264 veryfast zerolatency at the same rungs, all together, above the whole stream. *VP9*: the whole stream of VP9 "
             "in as many layers at about the same rungs, above VP9 in one layer at equal dB, and above this stream. *Down to*: a receiver of the whole stream that goes down to the rung in the middle of a group, in dB above one that had the rung from the beginning; mean over the rest of the group.", "",
             "| clip | target | " + " | ".join(f"rung {i + 1}" for i in range(RUNGS)) + " | rates apart | simulcast | x264 | VP9 | down to rung 1, 2, .. |", "| --- |" + " --- |" * (RUNGS + 6)]
    for name, clip in results.items():
        for r in clip["ladders"]:
            rungs = [f"{q:.1f}, {percent(o)}" for (_, q), o in zip(r["rungs"], r["over"])]
            rungs += [""] * (RUNGS - len(rungs))
            lines.append(f"| {name} | {r['target']:g} dB | " + " | ".join(rungs) + " | " + ", ".join(f"{a:.2f}" for a in r["apart"]) + f" | {percent(r['simulcast'])} | {percent(r['x264'])} | {vp9_cell(r['vp9'])} | " + ", ".join(f"{d:+.1f}" for d, _ in r["down"]) + " |")
    lines += ["", "Requirements:", ""] + [f"- {'met' if met else '**MISSED**'}: {text}" for text, met in bars(results)]
    every = [d for clip in results.values() for r in clip["ladders"] for d in r["down"]]
    if every:
        lines += ["", f"A receiver that goes down in the middle of a group is {np.mean([m for m, _ in every]):+.2f} dB above one that had the rung from the "
                  f"beginning, mean over the rest of the group; {min(m for m, _ in every):+.2f} dB on the worst clip, {min(w for _, w in every):+.1f} dB in the worst frame. "
                  "From the next key block on both have the same picture."]
    layered = [r["vp9"] for clip in results.values() for r in clip["ladders"] if r["vp9"]]
    if layered:
        whole, mean = np.mean([v["over"][-1] for v in layered]), np.mean([o for v in layered for o in v["over"]])
        above = 100 * np.expm1(np.mean([np.log1p(v["above"] / 100) for v in layered]))
        lines += ["", f"VP9 (libvpx, one pass, `cpu-used` {vp9.SPEED}, fixed quantisers) in layers of quality takes {whole:.1f} % more bits for the whole stream than in one "
                  f"layer, {mean:.1f} % in the mean of rungs. Its whole stream has {percent(above)} bits against that of ElasticTok with the same rungs (geometric mean of "
                  f"{len(layered)} streams)."]
    return "\n".join(lines) + "\n"


def page(results: dict, a: argparse.Namespace) -> str:
    options = "".join(f" --{k} {v}" for k, v in (("out", a.out), ("plot", a.plot), ("frames", a.frames), ("targets", a.targets), ("model", a.model)) if v)
    of = f"the first {a.frames} frames of each clip" if a.frames else "whole clips"
    text = (f"# Rungs\n\nA stream of {RUNGS} layers, thinned to every number of them: how far the rungs are apart, and what they cost. Made by\n\n"
            f"    benches/ladder.py{options} CLIP...\n\non {of}. Rates are those of whole files; quality is luma PSNR, mean of the frames' dB. A stream has fewer rungs where "
            "its coarsest layers would be too coarse for its quality.\n\n")
    if a.plot:
        text += f"![Rate and PSNR of rungs and of streams of one layer]({os.path.relpath(a.plot, a.out.parent if a.out else '.')})\n\n"
    return text + table(results)


def plot(path: Path, results: dict):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    columns = min(3, len(results))
    figure, axes = plt.subplots(-(-len(results) // columns), columns, figsize=(4.6 * columns, 3.4 * -(-len(results) // columns)), squeeze=False)
    for axis, (name, clip) in zip(axes.ravel(), results.items()):
        axis.plot(*zip(*sorted(clip["curve"], key=lambda p: p[1])), color="grey", label="streams of one layer")
        axis.plot(*zip(*sorted(clip["x264"], key=lambda p: p[1])), color="grey", linestyle=":", label="x264 veryfast zerolatency")
        other = Single(clip["x264"])
        for r in clip["ladders"]:
            if r["vp9"]:
                axis.plot(*zip(*r["vp9"]["points"]), marker="s", markersize=3, linestyle="-.", linewidth=0.8, color="black", label="rungs of VP9")
            line, = axis.plot(*zip(*r["rungs"]), marker="o", markersize=4, label=f"rungs of one stream, {r['target']:g} dB")
            alone = [other.rate(q) for _, q in r["rungs"]]
            if all(alone):  # what a sender of all rungs up to this one sends
                axis.plot(np.cumsum(alone), [q for _, q in r["rungs"]], marker="x", markersize=4, linestyle="--", linewidth=0.8, color=line.get_color(),
                          label=f"the same rungs as x264 simulcast, {r['target']:g} dB")
        axis.set(xscale="log", xlabel="bit/pixel", ylabel="luma PSNR, dB", title=name)
        axis.xaxis.set_minor_formatter("")
        axis.grid(alpha=0.3, which="both")
    for axis in axes.ravel()[len(results):]:
        axis.set_axis_off()
    axes[0, 0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=60)
    Image.open(path).convert("RGB").quantize(32).save(path, optimize=True)  # few colours: a quarter of the bytes


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("clips", nargs="+", type=Path)
    ap.add_argument("--out", type=Path)
    ap.add_argument("--plot", type=Path)
    ap.add_argument("--frames", type=int, help="of each clip; otherwise all")
    ap.add_argument("--cache", action="store_true", help="keep curves of x264 and VP9 in .cache/rd, and take them from there")
    ap.add_argument("--targets", default="36,39,42")
    ap.add_argument("--model")
    ap.add_argument("--codec", type=Path, help="a program `codec` that was built before; otherwise it is built")
    ap.add_argument("--jobs", type=int, default=os.cpu_count())
    a = ap.parse_args()
    if a.codec:
        encoders.CODEC = a.codec
    else:
        encoders.build()
    with_vp9 = vp9.build()
    etok, targets = encoders.ElasticTok(a.model), [float(t) for t in a.targets.split(",")]
    with ThreadPoolExecutor(a.jobs) as pool:
        results = dict(zip([c.stem for c in a.clips], pool.map(lambda c: measure(c, etok, targets, a.frames, encoders.ROOT / ".cache/rd" if a.cache else None, with_vp9), a.clips)))
    if a.plot:
        plot(a.plot, results)
    text = page(results, a)
    (a.out.write_text if a.out else print)(text)
    sys.exit(not all(met for _, met in bars(results)))


if __name__ == "__main__":
    main()
