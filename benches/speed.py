#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Speed and memory at 1280x720 beside x264enc (veryfast zerolatency) and avdec_h264, all in one run; medians.

usage: speed.py [--runs N] [--long FRAMES] [--cores N] [--out TABLE.md] [CLIP]
Without a clip, the generated scene, at 1920x1080 and from a camera that stands as well. Whole pipelines are timed from the outside, start and file input included; times inside
and outside ONNX Runtime come from the codec's own counters. x264enc is set to the quality that elastictokenc reached."""
import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import encoders
import y4m

X264 = "x264enc speed-preset=veryfast tune=zerolatency key-int-max=240 pass=quant quantizer={q} ! video/x-h264,stream-format=byte-stream"


# Peak memory is inherited over fork and exec: a small process in between keeps this one's pictures out of the figure.
BETWEEN = """import os, sys, time
start = time.monotonic()
_, status, usage = os.wait4(os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ), 0)
print(f"\\nmeasured {time.monotonic() - start} {usage.ru_maxrss / 1024}", file=sys.stderr)
sys.exit(status != 0)"""


def timed(args) -> tuple:
    """(seconds, peak resident memory in MiB, stderr)."""
    args = [str(a) for a in args]
    done = subprocess.run([sys.executable, "-c", BETWEEN, *args], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(args)} failed:\n{done.stderr[-2000:]}")
    text, _, measured = done.stderr.rpartition("measured ")
    seconds, peak = map(float, measured.split())
    return seconds, peak, text


def gst(pipeline: str) -> list:
    return ["gst-launch-1.0", "-q", *pipeline.split()]


def first_output(pipeline: str) -> float:
    """Seconds from the start of gst-launch to the first byte on its output."""
    start = time.monotonic()
    with subprocess.Popen(gst(f"{pipeline} ! fdsink fd=1 sync=false"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        if not child.stdout.read(1):
            sys.exit(f"no output from: {pipeline}")
        seconds = time.monotonic() - start
        child.kill()
    return seconds


def resident(pid: int) -> float:
    """MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def memory_over_time(frames: int) -> list:
    """[(frames that came out, MiB resident then)] of encoding and decoding in one process."""
    w, h = 320, 240
    marks = sorted({m for m in (100, 1000, 10000, 100000, frames) if m <= frames})
    pipeline = f"videotestsrc pattern=ball num-buffers={frames} ! video/x-raw,format=I420,width={w},height={h},framerate=30/1 ! elastictokenc ! elastictokdec ! fdsink fd=1 sync=false"
    out, size, got = [], w * h * 3 // 2, 0
    with subprocess.Popen(gst(pipeline), stdout=subprocess.PIPE) as child:
        for mark in marks:
            while got < mark * size:
                part = child.stdout.read(min(1 << 20, mark * size - got))
                if not part:
                    sys.exit(f"the pipeline of the memory test ended after {got // size} of {frames} frames")
                got += len(part)
            out.append((mark, resident(child.pid)))
        child.kill()
    return out


def quality(pipeline: str, video: y4m.Video, raw: Path) -> float:
    """Luma PSNR of what a pipeline puts out."""
    timed(gst(f"{pipeline} ! video/x-raw,format=I420 ! identity drop-allocation=true ! filesink location={raw}"))
    return y4m.psnr(video, y4m.load(y4m.RawReader(raw, video.format)))[0]


def same_quality(raw: Path, video: y4m.Video, folder: Path, wanted: float) -> int:
    """x264enc's quantizer whose luma PSNR comes nearest to `wanted`."""
    best = None
    low, high = 10, 50
    while low <= high:
        q = (low + high) // 2
        got = quality(f"filesrc location={raw} ! y4mdec ! {X264.format(q=q)} ! h264parse ! avdec_h264", video, folder / "decoded.raw")
        if best is None or abs(got - wanted) < abs(best[1] - wanted):
            best = (q, got)
        low, high = (q + 1, high) if got > wanted else (low, q - 1)
    return best[0]


def ours(psnr: float, loops: str) -> str:
    return f"elastictokenc target-psnr={psnr} {loops}"


def scene(to: Path, size: str, frames: int, *options: str) -> Path:
    encoders.run(sys.executable, encoders.ROOT / "benches/scene.py", "--frames", frames, "--size", size, *options, to)
    return to


def codec(*args) -> tuple:
    """Milliseconds a frame of the codec alone: (in all, in ONNX Runtime)."""
    found = re.search(r"a frame: ([\d.]+) in all, ([\d.]+) ONNX", timed([encoders.CODEC, *args])[2])
    return tuple(map(float, found.groups()))


def rate(runs: int, *args) -> float:
    """Frames/s of the codec alone."""
    return 1000 / statistics.median(codec(*args)[0] for _ in range(runs))


def by_threads(clips: dict, folder: Path, psnr: float, runs: int) -> list:
    """Rows of frames/s: clip, threads, encoding in one loop, drift-free encoding, decoding."""
    rows = []
    for name, clip in clips.items():
        stream = folder / "threads.etok"
        for threads in (1, 2, 4):
            each = ["--threads", threads]
            one = rate(runs, "encode", clip, stream, "--target-psnr", psnr, "--single-loop", *each)
            decoded = rate(runs, "decode", stream, "/dev/null", *each)
            free = rate(runs, "encode", clip, folder / "free.etok", "--target-psnr", psnr, *each)
            rows.append((name, threads, one, free, decoded))
    return rows


def table(head: tuple, rows: list) -> str:
    return "".join(f"| {' | '.join(map(str, r))} |\n" for r in [head, ["---"] * len(head), *rows])


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("clip", nargs="?", type=Path)
    ap.add_argument("--runs", type=int, default=5)
    ap.add_argument("--psnr", type=float, default=36)
    ap.add_argument("--long", type=int, default=0, help="frames of the memory test; 0 = none")
    ap.add_argument("--cores", type=int, default=2, help="processors that everything is held to")
    ap.add_argument("--out", type=Path)
    a = ap.parse_args()
    encoders.build(plugin=True)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:a.cores])
    cores = len(os.sched_getaffinity(0))
    os.environ["GST_PLUGIN_PATH"] = str(encoders.RELEASE)
    median = statistics.median
    rows, bars = [], []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        raw, etok, h264 = (folder / n for n in ("clip.y4m", "o.etok", "o.h264"))
        if a.clip:
            _, video = encoders.load(a.clip, folder)
        else:
            scene(raw, "1280x720", 240)
            video = y4m.read(raw)
        n, form = len(video.frames), video.format
        # These also warm what later runs find warm: GStreamer's registry and the disk's cache.
        source = f"filesrc location={raw} ! y4mdec"
        # Names of ways to encode, and least ratios to x264enc's rate.
        ways = {"one loop": ("drift-free=false", 0.25), "drift-free, two layers": ("layers=2", 0.15), "drift-free, four layers": ("layers=4", 0.083)}
        one_loop = ours(a.psnr, ways["one loop"][0])
        timed(gst(f"{source} ! {one_loop} ! filesink location={etok}"))
        reached = quality(f"filesrc location={etok} ! elastictokparse ! elastictokdec", video, folder / "decoded.raw")
        x264 = X264.format(q=same_quality(raw, video, folder, reached))

        pipelines = {f"encode, {name}": (f"{source} ! {ours(a.psnr, way)} ! filesink location={folder / 'way.etok'}",
                                        f"{source} ! {x264} ! filesink location={h264}", least, 250) for name, (way, least) in ways.items()}
        pipelines["decode"] = (f"filesrc location={etok} ! elastictokparse ! elastictokdec ! fakesink sync=false",
                               f"filesrc location={h264} ! h264parse ! avdec_h264 ! fakesink sync=false", 0.10, 160)
        for what, (*pair, least, most) in pipelines.items():
            runs = [[timed(gst(p))[:2] for p in pair] for _ in range(a.runs)]
            fps = [n / median(r[i][0] for r in runs) for i in (0, 1)]
            peak = [median(r[i][1] for r in runs) for i in (0, 1)]
            rows.append((f"{what}, whole pipeline, frames/s", *(f"{v:.1f}" for v in fps), f"{fps[0] / fps[1]:.3f}"))
            rows.append((f"{what}, peak memory, MiB", *(f"{v:.0f}" for v in peak), f"{peak[0] / peak[1]:.2f}"))
            bars.append((f"{what}, {fps[0] / fps[1]:.3f} of the other's frames/s, at least {least}", fps[0] >= least * fps[1]))
            if "drift-free" not in what:
                bars.append((f"{what}, peak memory {peak[0]:.0f} MiB, at most {most}", peak[0] <= most))
        for what, args, outside_bar in (("encode, one loop", ["encode", raw, folder / "way.etok", "--target-psnr", a.psnr, "--single-loop"], 25),
                                        ("decode", ["decode", etok, "/dev/null"], 10)):
            times = [codec(*args) for _ in range(a.runs)]
            outside = median(100 * (whole - inside) / whole for whole, inside in times)
            rows.append((f"{what}, the codec alone, frames/s", f"{1000 / median(t[0] for t in times):.1f}", "", ""))
            rows.append((f"{what}, time outside ONNX Runtime", f"{outside:.0f} %", "", ""))
            bars.append((f"{what}, {outside:.0f} % of the time outside ONNX Runtime, at most {outside_bar} %", outside <= outside_bar))
        starts = {
            "encode": (f"{source} ! {one_loop}", f"{source} ! {x264}"),
            "decode": (f"filesrc location={etok} ! elastictokparse ! elastictokdec", f"filesrc location={h264} ! h264parse ! avdec_h264"),
        }
        for what, most in (("encode", 0.2), ("decode", 0.15)):
            pair = starts[what]
            seconds = [median(first_output(p) for _ in range(a.runs)) for p in pair]
            rows.append((f"{what}, gst-launch to first output, s", *(f"{s:.2f}" for s in seconds), f"{seconds[0] / seconds[1]:.2f}"))
            bars.append((f"{what}, first output after {seconds[0]:.2f} s, at most {most} s", seconds[0] <= most))
        clips = {f"{form.width}x{form.height}": raw}
        if not a.clip:
            clips |= {"1280x720, still camera": scene(folder / "still.y4m", "1280x720", 120, "--still"),
                      "1920x1080": scene(folder / "large.y4m", "1920x1080", 60)}
        threads = by_threads(clips, folder, a.psnr, min(a.runs, 3))
        if not a.clip:
            moving, still = (next(r[4] for r in threads if r[0] == c and r[1] == 1) for c in list(clips)[:2])
            bars.append((f"decode, still camera, {moving / still:.2f} of the moving scene's time, at most 0.5", moving <= 0.5 * still))
        if a.long:
            held = memory_over_time(a.long)
            rows += [(f"encode and decode 320x240, memory after {m} frames, MiB", f"{v:.0f}", "", "") for m, v in held]
            grown = held[-1][1] / held[0][1] - 1
            bars.append((f"memory from frame {held[0][0]} to {held[-1][0]}: {100 * grown:+.1f} %, at most +5 %", grown <= 0.05))
    command = "benches/speed.py" + (f" --long {a.long}" if a.long else "") + (f" --out {a.out}" if a.out else "") + (" CLIP" if a.clip else "")
    text = f"Made by `{command}`: {a.clip.stem if a.clip else 'the generated scene'}, {form.width}x{form.height}, {n} frames, {cores} processors, medians of {a.runs} runs. "
    text += f"x264enc (`{x264.split(' !')[0]}`) is held to {reached:.1f} dB luma PSNR, that of encoding in one loop.\n\n"
    text += table(("", "ElasticTok", "x264enc, avdec_h264", "ratio"), rows)
    text += "\nThe codec alone, frames/s, by the property `threads`:\n\n"
    text += table(("clip", "threads", "encode, one loop", "encode, drift-free, four layers", "decode"), [(*r[:2], *(f"{v:.1f}" for v in r[2:])) for r in threads])
    text += "\nRequirements:\n\n" + "".join(f"- {'met' if met else '**MISSED**'}: {t}\n" for t, met in bars)
    print(text)
    if a.out:
        a.out.write_text(text)
    sys.exit(not all(met for _, met in bars))


if __name__ == "__main__":
    main()
