# SPDX-License-Identifier: MIT OR Apache-2.0
"""Clips as arrays, and how their planes are cut into patches."""
import subprocess
from pathlib import Path

import numpy as np

from .config import CELL, PATCH


def read_clip(path: Path) -> np.ndarray:
    """A clip as uint8 [frames, 3*H/2, W], edges repeated up to whole cells."""
    probe = subprocess.check_output(["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries", "stream=width,height",
                                     "-of", "csv=p=0", str(path)]).decode().strip().split(",")
    w, h = int(probe[0]) // 2 * 2, int(probe[1]) // 2 * 2
    raw = subprocess.check_output(["ffmpeg", "-v", "error", "-i", str(path), "-vf", f"crop={w}:{h}:0:0", "-pix_fmt", "yuv420p",
                                   "-f", "rawvideo", "-"])
    flat = np.frombuffer(raw, np.uint8).reshape(-1, w * h * 3 // 2)
    pad = lambda p, n: np.pad(p, ((0, 0), (0, -p.shape[1] % n), (0, -p.shape[2] % n)), mode="edge")
    luma = pad(flat[:, :w * h].reshape(-1, h, w), CELL)
    chroma = [pad(c.reshape(-1, h // 2, w // 2), CELL // 2) for c in np.split(flat[:, w * h:], 2, axis=1)]
    n, height, width = luma.shape
    return np.concatenate([p.reshape(n, -1) for p in (luma, *chroma)], 1).reshape(n, height * 3 // 2, width)


def cut(planes: np.ndarray, side: int) -> np.ndarray:
    """Planes [N, h, w] as patches of side x side samples [h/side, w/side, N*side*side]."""
    n, h, w = planes.shape
    return planes.reshape(n, h // side, side, w // side, side).transpose(1, 3, 0, 2, 4).reshape(h // side, w // side, -1)


def to_patches(luma: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    """Luma [T, H, W] and chroma [2T, H/2, W/2] as patches [H/4, W/4, luma_patch + chroma_patch], as the filter takes them."""
    return np.concatenate([cut(luma, PATCH), cut(chroma, PATCH // 2)], axis=2)


def planes_of(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """I420 frames [T, 3*H/2, W] as luma [T, H, W] and chroma [2T, H/2, W/2]."""
    t, (h, w) = len(frames), (frames.shape[1] * 2 // 3, frames.shape[2])
    flat = frames.reshape(t, -1)
    return flat[:, :h * w].reshape(t, h, w), flat[:, h * w:].reshape(2 * t, h // 2, w // 2)
