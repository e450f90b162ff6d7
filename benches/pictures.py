#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Puts the same frame of several videos side by side: pictures.py --frame N --out OUT.png A.y4m [B.y4m ..] [--crop X,Y,W,H]"""
import argparse

import numpy as np
from PIL import Image

import y4m


def rgb(v: y4m.Video, n: int) -> np.ndarray:
    """uint8 [H, W, 3], BT.709 limited range."""
    w, h, cw, ch = v.width, v.height, (v.width + 1) // 2, (v.height + 1) // 2
    f = v.frames[min(n, len(v.frames) - 1)].astype(np.float32)
    y = (f[:w * h].reshape(h, w) - 16) * 255 / 219
    u, w_ = (c.reshape(ch, cw).repeat(2, 0).repeat(2, 1)[:h, :w] * 1.0 - 128 for c in (f[w * h:w * h + cw * ch], f[w * h + cw * ch:]))
    u, w_ = u * 255 / 224, w_ * 255 / 224
    return np.clip(np.stack([y + 1.5748 * w_, y - 0.1873 * u - 0.4681 * w_, y + 1.8556 * u], -1), 0, 255).astype(np.uint8)


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("videos", nargs="+")
    ap.add_argument("--frame", type=int, default=30)
    ap.add_argument("--crop", help="X,Y,W,H in pixels")
    ap.add_argument("--out", required=True)
    a = ap.parse_args()
    pictures = [rgb(y4m.read(p), a.frame) for p in a.videos]
    if a.crop:
        x, y, w, h = map(int, a.crop.split(","))
        pictures = [p[y:y + h, x:x + w] for p in pictures]
    gap = np.full((pictures[0].shape[0], 6, 3), 255, np.uint8)
    row = [part for p in pictures for part in (p, gap)][:-1]
    Image.fromarray(np.concatenate(row, 1)).save(a.out)


if __name__ == "__main__":
    main()
