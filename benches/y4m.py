# SPDX-License-Identifier: MIT OR Apache-2.0
"""Reading and writing YUV4MPEG2, 8-bit 4:2:0, and PSNR."""
import re
from dataclasses import dataclass

import numpy as np


@dataclass
class Video:
    """frames: uint8 [n, w*h*3/2] as I420 planes lie in memory (odd sizes: chroma rounded up)."""

    width: int
    height: int
    rate: tuple
    frames: np.ndarray

    @property
    def luma(self) -> int:
        return self.width * self.height

    @property
    def seconds(self) -> float:
        return len(self.frames) * self.rate[1] / self.rate[0]


def read(path) -> Video:
    data = np.fromfile(path, np.uint8)
    end = int(np.argmax(data[:4096] == 10))
    fields = bytes(data[:end]).decode().split()
    if fields[0] != "YUV4MPEG2":
        raise SystemExit(f"{path} is not YUV4MPEG2")
    value = {f[0]: f[1:] for f in fields[1:]}
    w, h = int(value["W"]), int(value["H"])
    n, d = map(int, re.match(r"(\d+):(\d+)", value.get("F", "30:1")).groups())
    size = w * h + 2 * ((w + 1) // 2) * ((h + 1) // 2)
    body = data[end + 1:]
    frames = body[:len(body) // (size + 6) * (size + 6)].reshape(-1, size + 6)
    return Video(w, h, (n, d), frames[:, 6:])


def write(path, video: Video):
    with open(path, "wb") as f:
        f.write(f"YUV4MPEG2 W{video.width} H{video.height} F{video.rate[0]}:{video.rate[1]} Ip A1:1 C420jpeg\n".encode())
        for frame in video.frames:
            f.write(b"FRAME\n")
            f.write(frame.tobytes())


def psnr(a: Video, b: Video) -> tuple:
    """Mean over frames of each plane's PSNR in dB: (Y, U, V)."""
    c = (a.frames.shape[1] - a.luma) // 2
    bounds = (0, a.luma, a.luma + c, a.luma + 2 * c)
    out = []
    for x, y in zip(a.frames, b.frames):
        d = (x.astype(np.float32) - y) ** 2
        out.append([10 * np.log10(65025 / max(float(d[i:j].mean()), 1e-3)) for i, j in zip(bounds, bounds[1:])])
    return tuple(np.mean(out, 0))
