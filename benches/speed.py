#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Speed and memory at 1280x720 beside x264enc (veryfast zerolatency) and avdec_h264, all in one run; medians.

usage: speed.py [--runs N] [--long FRAMES] [--out TABLE.md] [CLIP]
Without a clip, the generated scene. Whole pipelines are timed from the outside, start and file input included; times inside
and outside ONNX Runtime come from the codec's own counters."""
import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import y4m

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"


def timed(*args) -> tuple:
    """(seconds, peak resident memory in MiB, stderr)."""
    start = time.monotonic()
    child = subprocess.Popen([str(a) for a in args], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    text = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{args} failed:\n{text[-2000:]}")
    return time.monotonic() - start, usage.ru_maxrss / 1024, text


def gst(pipeline: str) -> list:
    return ["gst-launch-1.0", "-q", *pipeline.split()]


def first_output(args) -> float:
    """Seconds until a pipeline writes its first byte to its output pipe."""
    start = time.monotonic()
    child = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    child.stdout.read(1)
    seconds = time.monotonic() - start
    child.kill()
    child.wait()
    return seconds


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("clip", nargs="?", type=Path)
    ap.add_argument("--runs", type=int, default=3)
    ap.add_argument("--psnr", type=float, default=36)
    ap.add_argument("--long", type=int, default=0, help="frames of the memory test; 0 = none")
    ap.add_argument("--out", type=Path)
    a = ap.parse_args()
    subprocess.run(["cargo", "build", "--release", "--quiet", "--manifest-path", ROOT / "Cargo.toml", "--workspace", "--example", "etok"], check=True)
    os.environ["GST_PLUGIN_PATH"] = str(TARGET)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        raw, etok, h264 = (Path(folder) / n for n in ("in.y4m", "o.etok", "o.h264"))
        if a.clip:
            subprocess.run(["ffmpeg", "-v", "error", "-i", a.clip, "-pix_fmt", "yuv420p", "-f", "yuv4mpegpipe", raw], check=True)
        else:
            subprocess.run([sys.executable, ROOT / "benches/scene.py", "--frames", "120", "--size", "1280x720", raw], check=True)
        video = y4m.read(raw)
        n = len(video.frames)
        source = f"filesrc location={raw} ! y4mdec"
        pipelines = {
            "encode, elastictokenc": f"{source} ! elastictokenc target-psnr={a.psnr} ! filesink location={etok}",
            "encode, x264enc veryfast zerolatency": f"{source} ! x264enc speed-preset=veryfast tune=zerolatency pass=quant quantizer=28 ! video/x-h264,stream-format=byte-stream ! filesink location={h264}",
            "decode, elastictokdec": f"filesrc location={etok} ! elastictokparse ! elastictokdec ! fakesink sync=false",
            "decode, avdec_h264": f"filesrc location={h264} ! h264parse ! avdec_h264 ! fakesink sync=false",
        }
        times = {k: [] for k in pipelines}
        for _ in range(a.runs):
            for name, pipeline in pipelines.items():
                times[name].append(timed(*gst(pipeline))[:2])
        for name, runs in times.items():
            rows.append((f"{name}, frames/s", f"{n / statistics.median(r[0] for r in runs):.1f}"))
            rows.append((f"{name}, peak memory", f"{statistics.median(r[1] for r in runs):.0f} MiB"))
        for verb, args in (("encode", ["encode", raw, etok, "--target-psnr", a.psnr]), ("decode", ["decode", etok, "/dev/null"])):
            rates, outside = [], []
            for _ in range(a.runs):
                text = timed(TARGET / "examples/etok", *args)[2]
                whole, inside = map(float, re.search(r"a frame: ([\d.]+) in all, ([\d.]+) ONNX", text).groups())
                rates.append(1000 / whole)
                outside.append(100 * (whole - inside) / whole)
            rows.append((f"{verb}, the codec alone, frames/s", f"{statistics.median(rates):.1f}"))
            rows.append((f"{verb}, share of time outside ONNX Runtime", f"{statistics.median(outside):.0f} %"))
        live = "videotestsrc num-buffers=60 ! video/x-raw,width=1280,height=720"
        for name, enc in (("elastictokenc", "elastictokenc"), ("x264enc", "x264enc speed-preset=veryfast tune=zerolatency")):
            seconds = statistics.median(first_output(gst(f"{live} ! {enc} ! fdsink fd=1")) for _ in range(a.runs))
            rows.append((f"gst-launch to first output, {name}", f"{seconds:.2f} s"))
        if a.long:
            for frames in (a.long // 10, a.long):
                small = f"videotestsrc pattern=ball num-buffers={frames} ! video/x-raw,width=320,height=240 ! elastictokenc ! elastictokdec ! fakesink sync=false"
                rows.append((f"peak memory, encode and decode of {frames} frames 320x240", f"{timed(*gst(small))[1]:.0f} MiB"))
    name = a.clip.name if a.clip else "generated scene"
    text = f"{name}, {video.width}x{video.height}, {n} frames, {os.cpu_count()} processors, medians of {a.runs} runs\n\n| | |\n| --- | --- |\n"
    text += "".join(f"| {k} | {v} |\n" for k, v in rows)
    print(text)
    if a.out:
        a.out.write_text("Made by `benches/speed.py" + (f" --long {a.long}" if a.long else "") + f" --out {a.out}`\n\n" + text)


if __name__ == "__main__":
    main()
