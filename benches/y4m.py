# SPDX-License-Identifier: MIT OR Apache-2.0
"""Reading and writing YUV4MPEG2, 8-bit 4:2:0, reading GStreamer's raw I420, and PSNR."""
import re
from dataclasses import dataclass

import numpy as np


@dataclass
class Format:
    """rate: frames per second as (numerator, denominator); numerator 0 = variable."""

    width: int
    height: int
    rate: tuple = (30, 1)

    @property
    def luma(self) -> int:
        return self.width * self.height

    @property
    def chroma(self) -> int:
        return ((self.width + 1) // 2) * ((self.height + 1) // 2)

    @property
    def size(self) -> int:
        return self.luma + 2 * self.chroma


@dataclass
class Video:
    """frames: uint8 [n, format.size] as I420 planes lie in memory."""

    format: Format
    frames: np.ndarray


class Reader:
    """Iterates over the frames of a file or pipe, uint8 [format.size] each."""

    def __init__(self, path):
        self.path, self.file = path, open(path, "rb")
        fields = self.file.readline(4096).decode("ascii", "replace").split()
        if not fields or fields[0] != "YUV4MPEG2":
            raise SystemExit(f"{path} is not YUV4MPEG2")
        value = {f[0]: f[1:] for f in fields[1:]}
        layout = value.get("C", "420")
        if not layout.startswith("420") or layout.startswith("420p1"):
            raise SystemExit(f"{path}: pixel format {layout} is not 8-bit 4:2:0")
        rate = re.fullmatch(r"(\d+):(\d+)", value.get("F", "0:1"))
        self.format = Format(int(value["W"]), int(value["H"]), (int(rate[1]), int(rate[2])) if rate else (0, 1))

    def __iter__(self):
        while line := self.file.readline(4096):
            data = self.file.read(self.format.size)
            if not line.startswith(b"FRAME") or len(data) != self.format.size:
                raise SystemExit(f"{self.path} is damaged or cut short")
            yield np.frombuffer(data, np.uint8)


class RawReader:
    """As Reader, of I420 as GStreamer lays it out where nothing else is agreed on: rows begin at multiples of four bytes.
    (Its y4menc, in 1.22, writes such padding into the file, so it serves for no comparison.)"""

    def __init__(self, path, form: Format):
        self.path, self.file, self.format = path, open(path, "rb"), form

    def __iter__(self):
        w, h = self.format.width, self.format.height
        cw, ch = (w + 1) // 2, (h + 1) // 2
        stride, chroma_stride = -(-w // 4) * 4, -(-cw // 4) * 4
        chroma = 2 * ch * stride + np.array((0, ch * chroma_stride))
        size = 2 * ch * (stride + chroma_stride)
        while data := self.file.read(size):
            if len(data) != size:
                raise SystemExit(f"{self.path} ends within a picture")
            a = np.frombuffer(data, np.uint8)
            planes = [a[:h * stride].reshape(h, stride)[:, :w]]
            planes += [a[o:o + ch * chroma_stride].reshape(ch, chroma_stride)[:, :cw] for o in chroma]
            yield np.concatenate([p.ravel() for p in planes])


def load(reader) -> Video:
    return Video(reader.format, np.array(list(reader)).reshape(-1, reader.format.size))


def read(path) -> Video:
    return load(Reader(path))


class Writer:
    def __init__(self, path, form: Format):
        self.format, self.file = form, open(path, "wb")
        self.file.write(f"YUV4MPEG2 W{form.width} H{form.height} F{form.rate[0]}:{form.rate[1]} Ip A1:1 C420jpeg\n".encode())

    def write(self, frame: np.ndarray):
        assert frame.size == self.format.size
        self.file.write(b"FRAME\n" + frame.tobytes())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


def frame_psnr(form: Format, a: np.ndarray, b: np.ndarray) -> list:
    """PSNR of the planes Y, U, V in dB, at most 78."""
    d = np.square(a.astype(np.float32) - b)
    bounds = (0, form.luma, form.luma + form.chroma, form.size)
    return [10 * np.log10(65025 / max(float(d[i:j].mean()), 1e-3)) for i, j in zip(bounds, bounds[1:])]


def luma_psnr(a: Video, b: Video) -> np.ndarray:
    """Luma PSNR of each frame in dB."""
    return np.array([frame_psnr(a.format, x, y)[0] for x, y in zip(a.frames, b.frames)])


def psnr(a: Video, b: Video) -> tuple:
    """Mean over frames of each plane's PSNR in dB: (Y, U, V). Both must have as many frames, of one size."""
    if a.frames.shape != b.frames.shape:
        raise SystemExit(f"{len(a.frames)} frames of {a.format.width}x{a.format.height} went in, "
                         f"{len(b.frames)} of {b.format.width}x{b.format.height} came out")
    return tuple(np.mean([frame_psnr(a.format, x, y) for x, y in zip(a.frames, b.frames)], 0))


def colour_error(a: Video, b: Video, visible: float = 4) -> tuple:
    """How far the means of U and V in squares of 8x8 chroma samples are off: (largest error in levels, share of squares where U or V is off by
    more than `visible`), over all frames. Squares cut off by the edge are left out."""
    form, n = a.format, len(a.frames)
    height, width = (form.height + 1) // 2 // 8, (form.width + 1) // 2 // 8
    def means(video):
        planes = video.frames[:, form.luma:].reshape(n, 2, -1, (form.width + 1) // 2)[:, :, :height * 8, :width * 8]
        return planes.reshape(n, 2, height, 8, width, 8).mean((3, 5), dtype=np.float32)
    off = np.abs(means(a) - means(b)).max(1)
    return float(off.max(initial=0)), np.count_nonzero(off > visible) / max(off.size, 1)


def marks(a: Video, b: Video, later: int = 24) -> tuple:
    """Lines and dots that `b` has where `a` is plain: (share of plain cells with four marks or more, share of these that have them `later` frames
    on as well). A cell of 16x16 luma samples is plain where its deviation is below 4 levels and no second difference, across or down, reaches 6;
    a mark is a sample with a second difference of 8 or more. The second share is None where there are fewer than 20 such cells."""
    form = a.format
    height, width = form.height // 16, form.width // 16
    def cells(frame):
        return frame[:form.luma].reshape(form.height, form.width)[:height * 16, :width * 16].astype(np.int16)
    def second(plane):
        found = np.zeros_like(plane)
        found[:, 1:-1] = np.abs(2 * plane[:, 1:-1] - plane[:, :-2] - plane[:, 2:])
        found[1:-1] = np.maximum(found[1:-1], np.abs(2 * plane[1:-1] - plane[:-2] - plane[2:]))
        return found.reshape(height, 16, width, 16)
    plain, marked = np.zeros((2, len(a.frames), height, width), bool)
    for n, (source, decoded) in enumerate(zip(map(cells, a.frames), map(cells, b.frames))):
        deviation = source.reshape(height, 16, width, 16).std((1, 3))
        plain[n] = (deviation < 4) & (second(source).max((1, 3)) < 6)
        marked[n] = plain[n] & ((second(decoded) >= 8).sum((1, 3)) >= 4)
    before = marked[:-later] & plain[later:]
    stay = np.count_nonzero(before & marked[later:]) / np.count_nonzero(before) if np.count_nonzero(before) >= 20 else None
    return np.count_nonzero(marked) / max(np.count_nonzero(plain), 1), stay
