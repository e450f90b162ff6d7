#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Rate-distortion tables: ElasticTok beside x264, x265, libaom and SVT-AV1, all encoded in this run from the same clips.

usage: rd.py [--out PAGE.md] [--plot PLOT.png] [--json CURVES.json] [--screen NAME] [--against ENCODER] [--cache] [--model DIR] CLIP...
ElasticTok's rate is that of the whole .etok file, a stream of one layer; the others' that of the elementary stream. Quality is luma
PSNR, mean of the frames' dB. A BD-rate is the mean difference in rate over the qualities that both curves have within a range
(piecewise cubic, of the logarithm of the rate). Means are over the clips of each folder, screen recordings apart. The exit status
is 1 where a bar is missed."""
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

TARGETS, ENDS = (28, 31, 34, 38, 42), (24, 46)  # dB; ends are for ranges of quality
PARTS = {"28 to 34 dB": (28, 34), "34 to 40 dB": (34, 40), "above 40 dB": (40, np.inf)}
SCREENS = "screen recordings"
# per cent, against x264 veryfast zerolatency: means of folders of clips, else MEAN_BAR; the worst clip
MEAN_BARS, MEAN_BAR, CLIP_BAR = {"test": -36.0, SCREENS: 10.0}, -32.0, 0.0


def bd_rate(reference, test, within=(-np.inf, np.inf)):
    """Per cent of rate of `test` against `reference` at equal quality; None where both have less than 1 dB in common."""
    def prepare(curve):
        rising = []
        for rate, quality in sorted(curve, key=lambda p: p[1]):
            if not rising or quality > rising[-1][1] + 1e-4:
                rising.append((rate, quality))
        return np.array([q for _, q in rising]), np.log([r for r, _ in rising])
    (qa, ra), (qb, rb) = prepare(reference), prepare(test)
    low, high = max(qa[0], qb[0], within[0]), min(qa[-1], qb[-1], within[1])
    if high - low < 1 or len(qa) < 3 or len(qb) < 3:
        return None
    x = np.linspace(low, high, 200)
    return float((np.exp(np.mean(PchipInterpolator(qb, rb)(x) - PchipInterpolator(qa, ra)(x))) - 1) * 100)


def measure(path: Path, others: list, etok: encoders.ElasticTok, cache: Path | None) -> dict:
    """By encoder, points (bits per pixel, dB): its usual ones and the ends."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        clip, source = encoders.load(path, work)
        curves = {"ElasticTok": {part: etok.curve(clip, source, work, targets, cache) for part, targets in (("usual", TARGETS), ("ends", ENDS))}}
        for k in others:
            curves[k] = {part: encoders.other_curve(clip, source, work, k, cache, part == "ends") for part in ("usual", "ends")}
    print(path.stem, *(f"{k}: {percent(difference(curves, k))}" for k in others), sep="  ", file=sys.stderr, flush=True)
    return curves


def difference(curves: dict, other: str, within: tuple | None = None):
    """BD-rate of ElasticTok against another within a range of qualities, or over what their usual points have in common; where that is less than
    1 dB, over what all points have in common."""
    usual = bd_rate(curves[other]["usual"], curves["ElasticTok"]["usual"])
    if within is None and usual is not None:
        return usual
    reference, own = ([*c["usual"], *c["ends"]] for c in (curves[other], curves["ElasticTok"]))
    return bd_rate(reference, own, *([within] if within else []))


def percent(v) -> str:
    return "-" if v is None else f"{v:+.1f} %"


def mean(values):
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def table(groups: dict, within: tuple | None = None) -> str:
    """groups: curves of each clip, by the name of its group."""
    others = [k for k in next(iter(next(iter(groups.values())).values())) if k != "ElasticTok"]
    lines = ["| clip | " + " | ".join(others) + " |", "| --- |" + " --- |" * len(others)]
    for group, clips in groups.items():
        rows = {name: [difference(curves, k, within) for k in others] for name, curves in clips.items()}
        lines += [f"| {name} | " + " | ".join(map(percent, row)) + " |" for name, row in rows.items()]
        lines.append(f"| **mean, {group}** | " + " | ".join(f"**{percent(mean(column))}**" for column in zip(*rows.values())) + " |")
    return "\n".join(lines)


def bars(groups: dict) -> list:
    """[(text, met)], of groups with a curve of x264's."""
    out = []
    for group, clips in groups.items():
        found = {name: v for name, c in clips.items() if encoders.VERYFAST in c and (v := difference(c, encoders.VERYFAST)) is not None}
        if not found:
            continue
        average, bar = mean(found.values()), MEAN_BARS.get(group, MEAN_BAR)
        out.append((f"mean of {group} against {encoders.VERYFAST}: {percent(average)}, at most {percent(bar)}", average <= bar))
        if group != SCREENS:
            worst = max(found, key=found.get)
            out.append((f"worst of {group}: {worst}, {percent(found[worst])}, at most {percent(CLIP_BAR)}", found[worst] <= CLIP_BAR))
    return out


def page(groups: dict, command: str, plotted: str | None) -> str:
    of = lambda values: ", ".join(map(str, values))
    text = (f"# Rate and distortion\n\nMade by\n\n    {command}\n\non {os.cpu_count()} processors, with {' '.join(encoders.run('ffmpeg', '-version').split()[:3])}. "
            "ElasticTok's streams are of one layer; [ladder.md](ladder.md) has what more cost. Rates are those of whole streams, quality is luma PSNR, mean of the "
            "frames' dB. BD-rate is the mean difference in rate at equal quality. Negative: ElasticTok needs fewer bits; -: less than 1 dB in common.\n\n")
    if plotted:
        text += f"![Rate and PSNR of each encoder]({plotted})\n\n"
    text += (f"## Overall\n\nOver the qualities that both have, ElasticTok with `target-psnr` {of(TARGETS)} dB, the others with CRF {of(encoders.CRF)} "
             f"(AV1: {of(encoders.CRF_AV1)}); where these have less than 1 dB in common, with the further points below.\n\n{table(groups)}\n\n")
    text += "".join(f"- {'met' if met else '**MISSED**'}: {bar}\n" for bar, met in bars(groups))
    text += (f"\n## By range of quality\n\nWith further points: ElasticTok {of(ENDS)} dB, CRF {of(encoders.ENDS[encoders.CRF])} (AV1: "
             f"{of(encoders.ENDS[encoders.CRF_AV1])}).")
    for name, part in PARTS.items():
        text += f"\n\n### {name[0].upper() + name[1:]}\n\n{table(groups, part)}"
    return text + "\n"


def plot(path: Path, groups: dict):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter
    plt.rcParams["svg.hashsalt"] = "elastictok"
    clips = {name: curves for group in groups.values() for name, curves in group.items()}
    count = min(4, len(clips))
    figure, axes = plt.subplots(-(-len(clips) // count), count, figsize=(4.2 * count, 3.2 * -(-len(clips) // count)), squeeze=False)
    for axis, (name, curves) in zip(axes.ravel(), clips.items()):
        for label, curve in curves.items():
            style = dict(marker="o", markersize=4, linewidth=2.2, color="black", zorder=3) if label == "ElasticTok" else dict(marker=".", linewidth=1.1)
            axis.plot(*zip(*sorted([*curve["usual"], *curve["ends"]], key=lambda p: p[1])), label=label, **style)
        axis.set(xscale="log", xlabel="bit/pixel", ylabel="luma PSNR, dB", title=name, ylim=(24, 50))
        axis.xaxis.set_major_locator(LogLocator(numticks=6))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.tick_params(axis="x", labelsize=8)
        axis.grid(alpha=0.3)
    for axis in axes.ravel()[len(clips):]:
        axis.set_axis_off()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="lower right", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=64, metadata={"Date": None} if path.suffix == ".svg" else None)
    if path.suffix == ".png":
        Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)  # few colours: a quarter of the bytes


def grouped(clips: list, curves: list, screens: list) -> dict:
    groups = {}
    for path, found in zip(clips, curves):
        group = SCREENS if any(s in path.stem for s in screens) else path.resolve().parent.name
        groups.setdefault(group, {})[path.stem] = found
    return {k: groups[k] for k in sorted(groups, key=lambda k: k == SCREENS)}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("clips", nargs="+", type=Path)
    ap.add_argument("--out", type=Path, help="Markdown page; otherwise to standard output")
    ap.add_argument("--json", type=Path, help="all curves")
    ap.add_argument("--plot", type=Path, help="by its ending: .svg, .png")
    ap.add_argument("--screen", action="append", default=[], help="clips with this in their name are screen recordings; may be repeated")
    ap.add_argument("--against", action="append", choices=list(encoders.OTHERS), help="only this encoder; may be repeated. Default: all that do not look ahead")
    ap.add_argument("--cache", action="store_true", help="keep curves in .cache/rd, and take them from there where encoder and clip are the same")
    ap.add_argument("--jobs", type=int, default=2, help="clips at a time")
    ap.add_argument("--model", help="a bundle instead of the builtin one")
    a = ap.parse_args()
    if len({p.stem for p in a.clips}) < len(a.clips):
        ap.error("two clips have one name")
    encoders.build()
    etok, cache = encoders.ElasticTok(a.model), encoders.ROOT / ".cache/rd" if a.cache else None
    others = a.against or [k for k in encoders.OTHERS if k not in encoders.LOOK_AHEAD]
    with ThreadPoolExecutor(a.jobs) as pool:
        curves = list(pool.map(lambda p: measure(p, others, etok, cache), a.clips))
    groups = grouped(a.clips, curves, a.screen)
    if a.json:
        a.json.write_text(json.dumps(groups, indent=1))
    if a.plot:
        plot(a.plot, groups)
    options = [("screen", s) for s in a.screen] + [("against", f'"{k}"') for k in a.against or []] + [("model", a.model), ("out", a.out), ("plot", a.plot)]
    command = " ".join(["benches/rd.py", *(f"--{k} {v}" for k, v in options if v), "CLIP..."])
    text = page(groups, command, os.path.relpath(a.plot, a.out.parent if a.out else ".") if a.plot else None)
    (a.out.write_text if a.out else print)(text)
    sys.exit(not all(met for _, met in bars(groups)))


if __name__ == "__main__":
    main()
