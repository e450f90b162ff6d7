#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Makes a moving scene with the habits of camera video: a textured background under a slow pan, objects that move and cover
each other, changing light, sensor noise. Deterministic: scene.py [--frames N] [--size WxH] OUT.y4m"""
import argparse

import numpy as np

import y4m


def texture(rng, size: int, roughness: float) -> np.ndarray:
    """float32 [size, size], periodic, power falling as 1/f^roughness, mean 0, deviation 1."""
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    f[0, 0] = 1
    spectrum = (rng.normal(size=f.shape) + 1j * rng.normal(size=f.shape)) / f ** roughness
    spectrum[0, 0] = 0
    t = np.fft.irfft2(spectrum, (size, size))
    return (t / t.std()).astype(np.float32)


def sample(t: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Bilinear, periodic."""
    n = len(t)
    iy, ix = np.floor(y).astype(int), np.floor(x).astype(int)
    fy, fx = (y - iy).astype(np.float32), (x - ix).astype(np.float32)
    at = lambda a, b: t[a % n, b % n]
    return (at(iy, ix) * (1 - fy) * (1 - fx) + at(iy, ix + 1) * (1 - fy) * fx
            + at(iy + 1, ix) * fy * (1 - fx) + at(iy + 1, ix + 1) * fy * fx)


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--frames", type=int, default=96)
    ap.add_argument("--size", default="640x360")
    ap.add_argument("--rate", type=int, default=30)
    ap.add_argument("--noise", type=float, default=1.0, help="deviation of the sensor noise in grey levels")
    ap.add_argument("out")
    a = ap.parse_args()
    w, h = map(int, a.size.split("x"))
    rng = np.random.default_rng(20)
    ground, cloth = texture(rng, 512, 1.4), [texture(rng, 256, 1.1 + 0.2 * i) for i in range(4)]
    yy, xx = np.mgrid[:h, :w].astype(np.float32)
    discs = [dict(r=h * rng.uniform(0.08, 0.2), c=rng.uniform(0.2, 0.8, 2), v=rng.uniform(-0.9, 0.9, 2), spin=rng.uniform(-0.02, 0.02),
                  colour=rng.uniform(-50, 50, 2), tone=rng.uniform(70, 180)) for _ in range(4)]
    frames = []
    for t in range(a.frames):
        luma = 118 + 22 * sample(ground, yy * 0.8 + 0.35 * t, xx * 0.8 + 0.9 * t) + 10 * np.sin(xx / 97 + yy / 61)
        u = np.full((h, w), 122, np.float32) + 6 * np.sin(xx / 130)
        v = np.full((h, w), 134, np.float32)
        for d, cover in zip(discs, cloth):
            cy, cx = h * d["c"][0] + d["v"][0] * t + 6 * np.sin(t / 17), w * d["c"][1] + 2 * d["v"][1] * t
            cy, cx = cy % (1.3 * h) - 0.15 * h, cx % (1.3 * w) - 0.15 * w
            dy, dx = yy - cy, xx - cx
            s, c = np.sin(d["spin"] * t), np.cos(d["spin"] * t)
            alpha = np.clip(d["r"] - np.hypot(dy, dx) + 0.5, 0, 1)
            tone = d["tone"] + 25 * sample(cover, c * dy - s * dx, s * dy + c * dx) - 0.15 * dx
            luma, u, v = (alpha * b + (1 - alpha) * a for a, b in ((luma, tone), (u, 128 + d["colour"][0]), (v, 128 + d["colour"][1])))
        luma = luma * (1 + 0.04 * np.sin(t / 25)) + a.noise * rng.normal(size=luma.shape)
        half = lambda p: p[:h // 2 * 2, :w // 2 * 2].reshape(h // 2, 2, w // 2, 2).mean((1, 3))
        planes = [np.clip(np.round(p), 0, 255).astype(np.uint8).ravel() for p in (luma, half(u), half(v))]
        frames.append(np.concatenate(planes))
    y4m.write(a.out, y4m.Video(w, h, (a.rate, 1), np.array(frames)))


if __name__ == "__main__":
    main()
