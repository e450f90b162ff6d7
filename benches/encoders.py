# SPDX-License-Identifier: MIT OR Apache-2.0
"""The encoders that the benchmarks compare, on YUV4MPEG2 files; rates in bits per pixel of luma."""
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import y4m

ROOT = Path(__file__).resolve().parent.parent
RELEASE = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
CODEC = RELEASE / "codec"

X264 = ["-c:v", "libx264", "-g", "240"]
CRF, CRF_AV1 = (21, 25, 29, 33, 37, 41), (25, 32, 39, 46, 53, 60)
ENDS = {CRF: (13, 17, 45), CRF_AV1: (18,)}  # more points, for ranges of quality
COARSEST = {CRF: 51, CRF_AV1: 63}
VERYFAST, LOW_DELAY_AV1 = "x264 veryfast zerolatency", "SVT-AV1 p10 low delay"
OTHERS = {
    VERYFAST: (CRF, [*X264, "-preset", "veryfast", "-tune", "zerolatency"]),
    "x264 veryfast zerolatency, no psy": (CRF, [*X264, "-preset", "veryfast", "-tune", "zerolatency", "-x264-params", "psy=0:aq-mode=0"]),
    "x264 medium zerolatency": (CRF, [*X264, "-preset", "medium", "-tune", "zerolatency"]),
    "x265 veryfast zerolatency": (CRF, ["-c:v", "libx265", "-preset", "veryfast", "-tune", "zerolatency", "-x265-params", "log-level=error:keyint=240"]),
    "libaom realtime cpu 8": (CRF_AV1, ["-c:v", "libaom-av1", "-usage", "realtime", "-cpu-used", "8", "-lag-in-frames", "0", "-b:v", "0", "-g", "240"]),
    LOW_DELAY_AV1: (CRF_AV1, ["-c:v", "libsvtav1", "-preset", "10", "-svtav1-params", "pred-struct=1", "-g", "240"]),
    "SVT-AV1 p8 low delay": (CRF_AV1, ["-c:v", "libsvtav1", "-preset", "8", "-svtav1-params", "pred-struct=1", "-g", "240"]),
    # These look ahead, so they delay more.
    "x264 medium": (CRF, [*X264, "-preset", "medium"]),
    "x265 medium": (CRF, ["-c:v", "libx265", "-preset", "medium", "-x265-params", "log-level=error:keyint=240"]),
    "SVT-AV1 p8": (CRF_AV1, ["-c:v", "libsvtav1", "-preset", "8", "-g", "240"]),
}
LOOK_AHEAD = ("x264 medium", "x265 medium", "SVT-AV1 p8")


def run(*args, errors: bool = False) -> str:
    """Standard output, or with `errors` standard error; the program ends where the command fails."""
    done = subprocess.run([str(a) for a in args], capture_output=True, text=True, env={**os.environ, "SVT_LOG": "1"})
    if done.returncode:
        sys.exit(f"{' '.join(map(str, args))} failed:\n{done.stderr[-2000:]}")
    return done.stderr if errors else done.stdout


def build(plugin: bool = False):
    """Cargo's output is shown: the first build takes minutes."""
    cargo = ["cargo", "build", "--release", "--manifest-path", str(ROOT / "Cargo.toml")]
    subprocess.run([*cargo, "--package", "elastictok-tools"], check=True)
    if plugin:
        subprocess.run([*cargo, "--package", "gst-plugin-elastictok"], check=True)


def load(path: Path, work: Path, frames: int | None = None) -> tuple:
    """Any video as (path of a YUV4MPEG2 file, its pictures)."""
    clip = work / "clip.y4m"
    run("ffmpeg", "-v", "error", "-y", "-i", path, *(["-frames:v", frames] if frames else []), "-pix_fmt", "yuv420p", "-f", "yuv4mpegpipe", clip)
    return clip, y4m.read(clip)


def per_pixel(size: int, source: y4m.Video) -> float:
    return size * 8 / (len(source.frames) * source.format.luma)


def quality(source: y4m.Video, decoded: Path) -> float:
    """Luma PSNR in dB, mean over frames."""
    return y4m.psnr(source, y4m.read(decoded))[0]


class ElasticTok:
    def __init__(self, model: str | None = None):
        self.model = ["--model", model] if model else []
        self.bundle = Path(model) if model and model != "builtin" else ROOT / "onnx/models/builtin"
        kind = json.loads((self.bundle / "bundle.json").read_text())
        self.block_length = kind["block_length"]
        self.layers = 4 if kind["bottleneck"]["kind"] == "nested" else len(kind["layers"])

    def encode(self, clip: Path, stream: Path, target: float, layers: int = 1):
        """In one layer, which is what other encoders' streams compare with, or in more."""
        run(CODEC, "encode", clip, stream, "--target-psnr", target, "--layers", layers, *self.model)

    def encode_at(self, clip: Path, source: y4m.Video, stream: Path, rate: float):
        """In one layer, at the whole target-psnr whose rate in bits per pixel is nearest to `rate`."""
        low, high, rates = 20, 60, {}
        while low <= high:
            middle = (low + high) // 2
            self.encode(clip, stream, middle)
            rates[middle] = per_pixel(stream.stat().st_size, source)
            low, high = (middle + 1, high) if rates[middle] < rate else (low, middle - 1)
        best = min(rates, key=lambda t: abs(np.log(rates[t] / rate)))
        if best != middle:
            self.encode(clip, stream, best)

    def curve(self, clip: Path, source: y4m.Video, work: Path, targets: tuple, cache: Path | None = None) -> list:
        """Points of streams of one layer."""
        def point(target):
            self.encode(clip, work / "o.etok", target)
            return self.point(work / "o.etok", source, work)
        return kept(cache, source, [targets], self.identity(), lambda: [point(t) for t in targets])

    def identity(self) -> str:
        """Names the program and the bundle by their content."""
        digest = hashlib.sha256(CODEC.read_bytes())
        for file in sorted(f for f in self.bundle.iterdir() if f.suffix != ".md"):
            digest.update(file.read_bytes())
        return digest.hexdigest()

    def ladder(self, stream: Path, source: y4m.Video, work: Path) -> list:
        """Points of the stream thinned to one layer, two, and so on."""
        thin, points = work / "t.etok", []
        for layers in range(1, self.layers + 1):
            self.thin(stream, thin, layers)
            points.append(self.point(thin, source, work))
        return points

    def thin(self, stream: Path, thinned: Path, layers: int, from_block: int = 0):
        run(CODEC, "thin", stream, thinned, layers, "--from-block", from_block)

    def decode(self, stream: Path, decoded: Path):
        run(CODEC, "decode", stream, decoded, *self.model)

    def point(self, stream: Path, source: y4m.Video, work: Path) -> tuple:
        """(bits per pixel of the whole file, dB)."""
        self.decode(stream, work / "etok.y4m")
        return per_pixel(stream.stat().st_size, source), quality(source, work / "etok.y4m")


def other(clip: Path, source: y4m.Video, work: Path, options: list, value, decoded: Path | None = None) -> tuple:
    """(bits per pixel of the elementary stream, dB) of ffmpeg's encoder at -crf `value`."""
    out, decoded = work / "other.mkv", decoded or work / "other.y4m"
    run("ffmpeg", "-v", "error", "-y", "-i", clip, *options, "-crf", value, out)
    sizes = run("ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries", "packet=size", "-of", "csv=p=0", out)
    size = sum(int(x) for x in sizes.replace(",", " ").split())
    run("ffmpeg", "-v", "error", "-y", "-i", out, "-pix_fmt", "yuv420p", "-f", "yuv4mpegpipe", decoded)
    return per_pixel(size, source), quality(source, decoded)


def matched(clip: Path, source: y4m.Video, work: Path, name: str, rate: float, decoded: Path) -> tuple:
    """(bits per pixel, dB) of the encoder of OTHERS at the whole -crf whose rate is nearest to `rate`; its pictures go to `decoded`."""
    values, options = OTHERS[name]
    low, high, points = 1, COARSEST[values], {}
    while low <= high:
        middle = (low + high) // 2
        points[middle] = other(clip, source, work, options, middle, decoded)
        low, high = (middle + 1, high) if points[middle][0] > rate else (low, middle - 1)
    best = min(points, key=lambda v: abs(np.log(points[v][0] / rate)))
    return points[best] if best == middle else other(clip, source, work, options, best, decoded)


def kept(cache: Path | None, source: y4m.Video, options: list, version: str, make) -> list:
    """A curve as `make` returns it, or from `cache` where the same pictures went through the same version of an encoder before. The count of
    processors is part of what is the same: zerolatency makes x264 cut pictures into a slice for each."""
    if cache is None:
        return make()
    key = hashlib.sha256(source.frames.tobytes())
    key.update(json.dumps([*options, source.format.rate, os.cpu_count(), version]).encode())
    path = cache / f"{key.hexdigest()[:32]}.json"
    if path.exists():
        return [tuple(p) for p in json.loads(path.read_text())]
    curve = make()
    cache.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps(curve))
    fresh.rename(path)
    return curve


def other_curve(clip: Path, source: y4m.Video, work: Path, name: str, cache: Path | None = None, ends: bool = False) -> list:
    """The curve of one of OTHERS, or the ends that it lacks."""
    values, options = OTHERS[name]
    values = ENDS[values] if ends else values
    return kept(cache, source, [options, values], run("ffmpeg", "-version").splitlines()[0], lambda: [other(clip, source, work, options, v) for v in values])
