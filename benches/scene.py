#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Makes a moving scene with the habits of camera video, seen from a slowly travelling hand-held camera: sky and drifting clouds,
mountains, hills with trees and houses, a meadow with a fence, a road with cars; parallax, cover and uncover, turning wheels, the
shadow of clouds, sensor noise. Deterministic, any length and size: scene.py [--frames N] [--size WxH] [--still] OUT.y4m"""
import argparse

import numpy as np

import y4m

LEAVES = ((62, 84, 40), (80, 98, 44), (48, 74, 46), (96, 100, 48))
WALLS = ((196, 176, 150), (170, 120, 96), (206, 202, 190), (150, 140, 124))


def texture(rng, h: int, w: int, roughness: float, stretch: float = 1.0) -> np.ndarray:
    """float32 [h, w], periodic, power falling as 1/f^roughness, mean 0, deviation 1; stretch > 1: longer across."""
    f = np.hypot(np.fft.fftfreq(h)[:, None] / stretch, np.fft.rfftfreq(w)[None])
    f[0, 0] = 1
    spectrum = (rng.normal(size=f.shape) + 1j * rng.normal(size=f.shape)) / f ** roughness
    spectrum[0, 0] = 0
    t = np.fft.irfft2(spectrum, (h, w))
    return (t / t.std()).astype(np.float32)


def ridge(rng, w: int, roughness: float) -> np.ndarray:
    return texture(rng, 1, w, roughness)[0]


def tint(colour, shade) -> np.ndarray:
    """RGB of a colour lit by `shade` (1 = as it is)."""
    return np.asarray(colour, np.float32) * shade[..., None]


class Layer:
    """A strip of RGB and cover, periodic across, that scrolls at `parallax` of the camera's speed."""

    def __init__(self, rgb, alpha, parallax: float):
        self.strip = np.concatenate([rgb * alpha[..., None], alpha[..., None]], -1).astype(np.float32)
        self.parallax = parallax

    def over(self, picture, x: float, y: float):
        """Draws with the strip's column x and row y at the picture's corner, bilinear."""
        (h, w), n = picture.shape[:2], self.strip.shape[1]
        ix, iy = int(np.floor(x)), int(np.floor(y))
        fx, fy = np.float32(x - ix), np.float32(y - iy)
        rows = np.clip(np.arange(h + 1) + iy, 0, len(self.strip) - 1)
        top = np.argmax(self.strip[:, :, 3].any(1)) - iy - 1  # nothing is drawn above
        top = int(np.clip(top, 0, h - 1))
        part = self.strip[rows[top:]][:, np.arange(ix, ix + w + 1) % n]
        part = part[:, :-1] * (1 - fx) + part[:, 1:] * fx
        part = part[:-1] * (1 - fy) + part[1:] * fy
        picture[top:] = picture[top:] * (1 - part[..., 3:]) + part[..., :3]


class Canvas:
    """Paints on a strip, around its end too."""

    def __init__(self, rgb, alpha):
        self.rgb, self.alpha = rgb, alpha

    def paint(self, x0: int, y0: int, rgb, cover):
        h, w = cover.shape
        rows = np.arange(y0, y0 + h)
        inside = (rows >= 0) & (rows < len(self.alpha))
        at = np.ix_(rows[inside], np.arange(x0, x0 + w) % self.alpha.shape[1])
        c = cover[inside]
        self.rgb[at] = self.rgb[at] * (1 - c[..., None]) + np.broadcast_to(rgb, (h, w, 3))[inside] * c[..., None]
        self.alpha[at] = self.alpha[at] * (1 - c) + c


def soft(distance) -> np.ndarray:
    """Cover from a distance to the edge in pixels, positive inside."""
    return np.clip(distance + 0.5, 0, 1)


def disc(r: float):
    n = int(np.ceil(r)) + 1
    y, x = np.mgrid[-n:n + 1, -n:n + 1].astype(np.float32)
    return x, y, soft(r - np.hypot(x, y))


def tree(rng, canvas: Canvas, x: int, ground: int, size: float):
    trunk = max(2, int(size * 0.12))
    canvas.paint(x - trunk // 2, ground - int(size * 0.5), (74, 58, 42), np.ones((int(size * 0.55), trunk), np.float32))
    colour = np.array(LEAVES[rng.integers(len(LEAVES))], np.float32)
    for _ in range(int(40 + size)):
        a, d = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform())
        px, py = d * np.cos(a) * size * 0.36, d * np.sin(a) * size * 0.42
        light = 1.02 - 0.35 * (px + py) / size + rng.normal() * 0.13
        cx, cy, cover = disc(rng.uniform(0.03, 0.09) * size)
        canvas.paint(x + int(px) - cover.shape[1] // 2, ground - int(size * 0.72) + int(py) - cover.shape[0] // 2,
                     tint(colour, light - 0.012 * (cx + cy)), cover)


def house(rng, canvas: Canvas, x: int, ground: int, size: int):
    size = max(8, size)
    w, h = int(size * rng.uniform(1.1, 1.7)), size
    y, xx = np.mgrid[:h, :w]
    course = max(2, size // 16)
    mortar = (y % course == 0) | ((xx + (y // course % 2) * course) % (2 * course) == 0)
    canvas.paint(x, ground - h, tint(WALLS[rng.integers(len(WALLS))], 1 - 0.14 * mortar + 0.02 * rng.normal(size=(h, w))), np.ones((h, w), np.float32))
    pane = max(2, size // 5)
    for i in range(w // (2 * pane)):
        for floor in (0.16, 0.58):
            window = np.full((int(pane * 1.3), pane, 3), (44, 54, 66), np.float32)
            window[: len(window) // 2] += 26
            window[:, [0, pane // 2, -1]] = window[[0, len(window) // 2, -1]] = (228, 226, 220)
            canvas.paint(x + pane // 2 + i * 2 * pane, ground - h + int(floor * h), window, np.ones(window.shape[:2], np.float32))
    rise = max(1, int(size * 0.55))
    y, xx = np.mgrid[:rise, -size // 6:w + size // 6].astype(np.float32)
    cover = soft((y + 1) / rise * (w / 2 + size / 6) - np.abs(xx - w / 2))
    tiles = 0.86 + 0.16 * (y % course < course / 2) + 0.05 * rng.normal(size=y.shape)
    canvas.paint(x - size // 6, ground - h - rise, tint((146, 74, 56), tiles), cover)


def land(rng, h: int, n: int, tops, colour, grain, contrast: float):
    """RGB and cover of ground below the line `tops` [n], lit from the left."""
    y = np.arange(h, dtype=np.float32)[:, None]
    shade = 1 + contrast * grain[:h] + 0.12 * np.tanh(3 * np.gradient(tops))[None] - 0.2 * np.clip((y - tops) / h, 0, 1)
    return tint(colour, shade), soft(y - tops)


def layers(rng, h: int, n: int) -> list:
    """Everything that stands still, from far to near; strips are n wide and cover the height h and a margin."""
    tall = h + h // 16 + 4
    out = []
    cloud = texture(rng, tall, n, 1.75, 2.2)
    cover = np.clip((cloud - 0.15) / 1.3, 0, 1) ** 1.3 * np.clip(1.2 - np.arange(tall) / (0.5 * h), 0, 1)[:, None]
    out.append(Layer(tint((250, 247, 242), 1 - 0.10 * np.clip(np.roll(cloud, -h // 40, 0), 0, 2)), cover.astype(np.float32), 0.04))
    tops = 0.42 * h - 0.07 * h * ridge(rng, n, 1.25)
    rgb, alpha = land(rng, tall, n, tops, (118, 128, 146), texture(rng, tall, n, 1.3), 0.07)
    snow = np.clip((0.37 * h + 0.02 * h * texture(rng, tall, n, 1.2) - np.arange(tall)[:, None]) / 6, 0, 1)
    out.append(Layer(rgb * (1 - snow[..., None]) + 222 * snow[..., None], alpha, 0.16))

    for level, colour, parallax, trees, houses, size in ((0.53, (112, 124, 76), 0.38, 26, 5, 0.10), (0.62, (104, 120, 58), 0.62, 12, 3, 0.22)):
        tops = level * h - 0.025 * h * ridge(rng, n, 1.6)
        rgb, alpha = land(rng, tall, n, tops, colour, texture(rng, tall, n, 0.75, 2), 0.09)
        canvas = Canvas(rgb, alpha)
        for i in range(houses):
            x = int((i + rng.uniform(0.2, 0.8)) * n / houses)
            house(rng, canvas, x, int(tops[x]) + int(0.4 * size * h), int(size * h * rng.uniform(0.6, 0.8)))
        for i in range(trees):
            x = int((i + rng.uniform(0, 0.9)) * n / trees)
            tree(rng, canvas, x, int(tops[x]) + int(rng.uniform(0.1, 0.5) * size * h), size * h * rng.uniform(0.7, 1.3))
        out.append(Layer(canvas.rgb, canvas.alpha, parallax))

    tops = 0.735 * h - 0.006 * h * ridge(rng, n, 1.3)
    rgb, alpha = land(rng, tall, n, tops, (116, 134, 60), texture(rng, tall, n, 0.45, 0.5), 0.13)
    canvas = Canvas(rgb, alpha)
    step = n // max(1, round(n / (h / 9)))
    for x in range(0, n - step // 2, step):
        canvas.paint(x, int(0.70 * h), (150, 128, 98), np.ones((int(0.09 * h), max(2, h // 90)), np.float32))
    for rail in (0.715, 0.745):
        canvas.paint(0, int(rail * h), (164, 142, 110), np.ones((max(2, h // 120), n), np.float32))
    road = int(0.82 * h)
    y, x = np.mgrid[:tall - road, :n]
    asphalt = tint((92, 92, 96), 1 + 0.07 * texture(rng, tall - road, n, 0.35) + 0.03 * texture(rng, tall - road, n, 1.2))
    dash = (np.abs(y - 0.085 * h) < max(1, h / 220)) & (x // (n // max(1, round(n / (h / 5)))) % 2 == 0)
    kerb = y < max(2, h // 90)
    asphalt[dash], asphalt[kerb] = (222, 220, 208), (176, 172, 162)
    canvas.paint(0, road, asphalt, np.ones(y.shape, np.float32))
    out.append(Layer(canvas.rgb, canvas.alpha, 1.0))
    return out


def car(picture, cx: float, ground: float, length: float, colour, angle: float, heading: int):
    """A car whose wheels stand at row `ground`, drawn at a fraction of a pixel; `angle` of the wheels in radians."""
    h, w = picture.shape[:2]
    tall = 0.36 * length
    x0, x1 = max(0, int(cx - 0.6 * length)), min(w, int(cx + 0.6 * length) + 2)
    y0, y1 = max(0, int(ground - 1.3 * tall)), min(h, int(ground + 0.1 * tall) + 2)
    if x0 >= x1 or y0 >= y1:
        return
    y, x = np.mgrid[y0:y1, x0:x1].astype(np.float32)
    x, y = (x - np.float32(cx)) * heading, y - np.float32(ground)
    view = picture[y0:y1, x0:x1]

    def put(rgb, distance):
        c = soft(distance)[..., None]
        view[:] = view * (1 - c) + np.asarray(rgb, np.float32) * c

    def box(left, right, top, bottom, r):
        qx, qy = np.abs(x - (left + right) / 2) - (right - left) / 2 + r, np.abs(y - (top + bottom) / 2) - (bottom - top) / 2 + r
        return r - np.hypot(np.maximum(qx, 0), np.maximum(qy, 0)) - np.minimum(np.maximum(qx, qy), 0)

    n = length
    view *= (1 - 0.45 * np.exp(-(x / (0.5 * n)) ** 4 - (y / (0.035 * n)) ** 2))[..., None]
    sheen = 1.05 - 0.35 * np.clip((y + tall) / tall, 0, 1)
    put(tint(colour, sheen), np.minimum(box(-0.30 * n, 0.24 * n, -0.36 * n, -0.16 * n, 0.06 * n), 0.9 * (0.36 * n - np.abs(x + 0.03 * n) + 0.5 * (y + 0.2 * n))))
    for left, right in ((-0.24, -0.05), (-0.02, 0.17)):
        put(tint((56, 66, 78), 1.15 + 0.7 * np.sin((x + y) / (0.05 * n)) ** 8), box(left * n, right * n, -0.33 * n, -0.23 * n, 0.02 * n))
    put(tint(colour, sheen), box(-0.5 * n, 0.5 * n, -0.23 * n, -0.06 * n, 0.05 * n))
    put((236, 226, 180), box(0.45 * n, 0.50 * n, -0.19 * n, -0.14 * n, 0.02 * n))
    put((190, 40, 36), box(-0.50 * n, -0.46 * n, -0.19 * n, -0.14 * n, 0.02 * n))
    for wheel in (-0.31, 0.31):
        wx, wy = x - wheel * n, y + 0.075 * n
        put((34, 34, 36), 0.085 * n - np.hypot(wx, wy))
        spoke = np.cos(5 * (np.arctan2(wy, wx) - angle))
        put(tint((150, 152, 156), 0.75 + 0.35 * np.clip(3 * spoke, -1, 1)), 0.052 * n - np.hypot(wx, wy))


def yuv(rgb) -> tuple:
    """Y, U, V as float32, BT.709 limited range, chroma at half size with edges repeated."""
    y = rgb @ np.array((0.1826, 0.6142, 0.0620), np.float32) + 16
    h, w = y.shape
    even = np.pad(rgb, ((0, h % 2), (0, w % 2), (0, 0)), "edge")
    half = even.reshape((h + 1) // 2, 2, (w + 1) // 2, 2, 3).mean((1, 3))
    return y, half @ np.array((-0.1006, -0.3386, 0.4392), np.float32) + 128, half @ np.array((0.4392, -0.3989, -0.0403), np.float32) + 128


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--frames", type=int, default=120)
    ap.add_argument("--size", default="640x360")
    ap.add_argument("--rate", type=int, default=30)
    ap.add_argument("--noise", type=float, default=1.0, help="deviation of the sensor noise in grey levels")
    ap.add_argument("--still", action="store_true", help="the camera stands, and its exposure is fixed")
    ap.add_argument("out")
    a = ap.parse_args()
    w, h = map(int, a.size.split("x"))
    if min(w, h) < 64:
        ap.error("the scene has no smaller size than 64x64")
    rng = np.random.default_rng(20)
    still = layers(rng, h, -(-2 * max(w, h) // 32) * 32)
    shadow = texture(rng, 64, 128, 2.2)
    grain = np.random.default_rng(21)
    row = np.clip(np.arange(h) / (0.6 * h), 0, 1)[:, None, None]
    sky = (1 - row) * np.array((104, 150, 208), np.float32) + row * np.array((206, 216, 222), np.float32)
    cars = [dict(start=0.15, speed=0.011, lane=0.875, size=0.30, colour=(176, 44, 40), heading=1), dict(start=0.9, speed=-0.006, lane=0.855, size=0.26, colour=(52, 84, 140), heading=-1),
            dict(start=-0.5, speed=0.008, lane=0.985, size=0.44, colour=(214, 206, 188), heading=1)]
    with y4m.Writer(a.out, y4m.Format(w, h, (a.rate, 1))) as out:
        for i in range(a.frames):
            t = i * 30 / a.rate
            x = 0 if a.still else 0.0042 * h * t
            shake = 0 if a.still else h / 360 * (0.9 * np.sin(t / 9) + 0.5 * np.sin(t / 3.7 + 1))
            picture = np.broadcast_to(sky, (h, w, 3)).copy()
            for n, layer in enumerate(still):
                drift = 0.0012 * h * t if n == 0 else 0
                layer.over(picture, layer.parallax * x + drift, h / 64 + shake * (0.4 + 0.6 * layer.parallax))
            for c in sorted(cars, key=lambda c: c["lane"]):
                span = w + 1.4 * c["size"] * h
                at = (c["start"] * w + (c["speed"] * h * t - 0.2 * x)) % span - 0.7 * c["size"] * h
                turn = c["heading"] * (c["speed"] * h * t) / (0.085 * c["size"] * h * 1.6)
                car(picture, at, c["lane"] * h - h / 64 - shake, c["size"] * h * 1.6, c["colour"], turn, c["heading"])
            # The shade of clouds, coarse and moving over the ground; then the exposure's slow breath.
            sx = (np.arange(w) / w * 40 + 0.1 * t) % 128
            sy = np.linspace(10, 40, h)
            ix, fx = sx.astype(int), (sx % 1)[None].astype(np.float32)
            lines = shadow[sy.astype(int)]
            shade = lines[:, ix] * (1 - fx) + lines[:, (ix + 1) % 128] * fx
            picture *= (1 + 0.10 * np.clip(shade, -1.5, 1) * np.clip((row[..., 0] - 0.7) / 0.2, 0, 1))[..., None]
            picture *= np.float32(1 if a.still else 1 + 0.02 * np.sin(t / 31))
            planes = yuv(np.clip(picture, 0, 255))
            noisy = [p + a.noise * s * grain.standard_normal(p.shape, np.float32) for p, s in zip(planes, (1, 0.6, 0.6))]
            out.write(np.concatenate([np.clip(np.rint(p), 0, 255).astype(np.uint8).ravel() for p in noisy]))


if __name__ == "__main__":
    main()
