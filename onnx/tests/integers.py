# SPDX-License-Identifier: MIT OR Apache-2.0
"""The decoder of an exact builtin bundle in NumPy integers, written from docs/builtin.md; every function is named as its section there."""
import numpy as np

from elastictok_models.transform import CHROMA_MATRICES, LUMA_MATRICES, interpolation_taps


def half_even(n, bits: int):
    """n / 2^bits, rounded to nearest, halves to even; int64."""
    if bits <= 0:
        return n << -bits
    down, rest, half = n >> bits, n & ((1 << bits) - 1), 1 << (bits - 1)
    return down + ((rest > half) | ((rest == half) & (down & 1 == 1)))


def cosines(n: int) -> np.ndarray:
    """Row k: basis function k of n samples, not yet rounded."""
    k, x = np.arange(n)[:, None], np.arange(n)[None]
    return np.cos(np.pi * (2 * x + 1) * k / (2 * n)) * np.sqrt(2 / n) * np.where(k == 0, np.sqrt(0.5), 1)


def compensated(plane, p: int, cell, motion, t: int):
    """What `motion` predicts of a cell of plane p in frame t, in units of 1/4096."""
    size, taps, phases, *_ = LUMA_MATRICES if p == 0 else CHROMA_MATRICES
    h, w = plane.shape
    dy, dx, _, by, bx = (int(v) for v in motion)
    y, x = (d * (t + 1) + bend * (t == 0) for d, bend in ((dy, by), (dx, bx)))
    rows = np.clip(size * cell[0] + y // phases - (taps // 2 - 1) + np.arange(size + taps - 1), 0, h - 1)
    columns = np.clip(size * cell[1] + x // phases - (taps // 2 - 1) + np.arange(size + taps - 1), 0, w - 1)
    window = plane[np.ix_(rows, columns)].astype(np.int64)
    kx, ky = (interpolation_taps(d % phases / phases, taps).astype(np.int64) for d in (x, y))
    across = sum(kx[i] * window[:, i:i + size] for i in range(taps))
    return sum(ky[i] * across[i:i + size] for i in range(taps))


def blend(own, sides):
    """`sides`: predictions by the motion above, below, left and right."""
    size = len(own)
    near = np.minimum(np.arange(size), np.arange(size)[::-1])
    parts = 8 - near if size == 16 else 7 - 2 * near
    a, b = parts[:, None], parts[None]
    first = np.arange(size) < size // 2
    whole = [half_even(side, 4) for side in sides]
    vertical, horizontal = np.where(first[:, None], *whole[:2]), np.where(first, *whole[2:])
    return 16 * half_even((32 - a - b) * half_even(own, 4) + a * vertical + b * horizontal, 5)


def predict(reference, motion, key: bool):
    """Planes [T, h, w] in units of 1/4096, of the reference's planes."""
    out = [np.full((2, *plane.shape), 128 * 4096, np.int64) for plane in reference]
    cells_y, cells_x = motion.shape[1:]
    for p, plane in enumerate(reference):
        size = 16 if p == 0 else 8
        for y, x in np.ndindex(cells_y, cells_x):
            own = motion[:, y, x]
            if key or own[2] == 1:
                continue

            def beside(dy: int, dx: int):
                inside = 0 <= y + dy < cells_y and 0 <= x + dx < cells_x
                return motion[:, y + dy, x + dx] if inside and motion[2, y + dy, x + dx] != 1 else own

            around = [beside(*step) for step in ((-1, 0), (1, 0), (0, -1), (0, 1))]
            for t in range(2):
                block = compensated(plane, p, (y, x), own, t)
                if own[2] == 2:
                    block = blend(block, [compensated(plane, p, (y, x), side, t) for side in around])
                out[p][t, size * y:size * (y + 1), size * x:size * (x + 1)] = block
    return out


def inverse_transform(latents, cells_y: int, cells_x: int):
    """Residual planes [2, h, w] in units of 1/1024, of latents [cells, 768]."""
    planes = []
    for p in range(3):
        size = 16 if p == 0 else 8
        whole = lambda m: np.rint(128 * m).astype(np.int64)
        columns, rows = whole(cosines(size)), whole(np.kron(cosines(2), cosines(size)))
        if p == 0:
            x = latents[:, :512].reshape(-1, 2, 16, 16).astype(np.int64)
        else:
            v, u = np.arange(8)[:, None], np.arange(8)[None]
            weight = np.array([0.8 + 1.7 * np.exp(-(np.hypot(v, u) + t)) for t in range(2)])
            gain = np.rint(32 / weight).astype(np.int64)
            x = latents[:, 512:].reshape(-1, 2, 8, 2, 8)[:, :, :, p - 1].astype(np.int64) * gain
            x = half_even(np.clip(x, -32767 * 32, 32767 * 32), 5)
        x = half_even(np.clip(x @ columns, -16383 * 128, 16383 * 128), 7)
        x = np.einsum("kr,nkx->nrx", rows, x.reshape(-1, 2 * size, size))
        x = np.clip(x, -512 * 1024, 512 * 1024).reshape(cells_y, cells_x, 2, size, size)
        planes.append(x.transpose(2, 0, 3, 1, 4).reshape(2, cells_y * size, cells_x * size))
    return planes


class Filter:
    """`w`: the tensors of decoder.onnx by name, without "filter."."""

    def __init__(self, w):
        self.w = w

    def convolve(self, name: str, x, low: int, high: int):
        """x int64 [channels, h, w]"""
        w, unit = self.w[name + ".weight"].astype(np.int64), self.w[name + ".unit"]
        n, h, width = len(w), *x.shape[1:]
        if w.shape[1] == 1:
            around = np.pad(x, ((0, 0), (1, 1), (1, 1)))
            y = sum(w[:, 0, i, j, None, None] * around[:, i:i + h, j:j + width] for i in range(3) for j in range(3))
        else:
            y = np.tensordot(w[:, :, 0, 0], x, 1)
        bias = self.w.get(name + ".bias")
        y = y + (0 if bias is None else bias.astype(np.int64)[:, None, None])
        bits = -np.log2(unit.astype(np.float64)).astype(int)
        assert (unit == 2.0 ** -bits).all()
        return np.clip(np.stack([half_even(y[c], bits[c]) for c in range(n)]), low, high)

    def blocks(self, name: str, h, near):
        h = h * near
        for i in range(sum(k.startswith(name) and k.endswith("expand.weight") for k in self.w)):
            x = self.convolve(f"{name}.{i}.depthwise", h, -128, 127)
            x = self.convolve(f"{name}.{i}.expand", x, 0, 255)
            h = np.clip(h + self.convolve(f"{name}.{i}.project", x, -128, 127), -128, 127) * near
        return h

    def __call__(self, recon, residual, row: int, coded):
        """Corrections of planes [2, h, w] in units of 1/4096; recon in 1/4096, residual in 1/1024, coded bool [cells_y, cells_x]."""
        reciprocal = self.w["reciprocal"][row].astype(np.float64)
        bits = 20
        factor = int(reciprocal * 2 ** bits)
        assert factor == reciprocal * 2 ** bits

        def patches(x, side):
            t, h, w = x.shape
            return x.reshape(t, h // side, side, w // side, side).transpose(0, 2, 4, 1, 3).reshape(-1, h // side, w // side)

        def seen(planes, side):
            joined = lambda of: (of[0] if len(of) == 1 else np.stack(of, 1).reshape(-1, *of[0].shape[1:]))
            levels = joined([np.clip(half_even(x, 12), 0, 255) - 128 for x in (recon[p] for p in planes)])
            steps = joined([np.clip(half_even(x * factor, 10 + bits), -128, 127) for x in (residual[p] for p in planes)])
            return [patches(levels, side), patches(steps, side)]

        cells_y, cells_x = coded.shape
        corrected = around(coded.repeat(4, 0).repeat(4, 1))
        near = around(around(coded, 0, 1).repeat(4, 0).repeat(4, 1), 2, 0)
        told = np.clip(self.w["place"] + self.w["condition"][row], -128, 127).astype(np.int64)
        told = np.tile(told.transpose(2, 0, 1), (1, cells_y, cells_x))
        h = self.blocks("body", self.convolve("head", np.concatenate([*seen([0], 4), told]), -128, 127), near)
        c = self.blocks("chroma_body", self.convolve("chroma_head", np.concatenate([*seen([1, 2], 2), h]), -128, 127), near)

        def samples(x, side, gain):
            n, h, w = x.shape
            x = x * corrected
            x = x.reshape(-1, side, side, h, w).transpose(0, 3, 1, 4, 2).reshape(-1, h * side, w * side)
            whole = int(gain * 4096)
            assert whole == float(gain) * 4096
            return x * whole

        dead = int(self.w["dead"][row]) - 128
        luma = self.convolve("tail", h, -128, 127)
        luma = samples(luma - np.clip(luma, -dead, dead), 4, self.w["luma"][row])
        chroma = samples(self.convolve("chroma_tail", c, -128, 127), 2, self.w["chroma"][row])
        return [luma, chroma[0::2], chroma[1::2]]


def around(coded, down: int = 1, across: int = 1):
    """Where `coded`, bool [h, w], is true, or is true at most so far down or up and across from there."""
    h, w = coded.shape
    padded = np.pad(coded, ((down, down), (across, across)))
    return np.any([padded[y:y + h, x:x + w] for y in range(2 * down + 1) for x in range(2 * across + 1)], axis=0)


def decode(w, reference, block):
    """Frames as planes [2, h, w] uint8 of a block's inputs as the graph has them; `reference`: planes."""
    cells_y, cells_x = block["motion"].shape[1:]
    predicted = predict(reference, block["motion"], int(block["position"]) == 0)
    residual = inverse_transform(block["tokens"], cells_y, cells_x)
    recon = [p + 4 * r for p, r in zip(predicted, residual)]
    row = int(min(float(block["step"]), 110) * 8)
    corrections = Filter(w)(recon, residual, row, block["counts"].reshape(cells_y, cells_x) > 0)
    return [np.clip(half_even(x + c, 12), 0, 255).astype(np.uint8) for x, c in zip(recon, corrections)]
