# SPDX-License-Identifier: MIT OR Apache-2.0
"""Block motion search for training data (numba). The Rust core has the one that codes; this one only has to be alike."""
import numba as nb
import numpy as np

from .config import CELL, LUMA_PHASES, LUMA_TAPS
from .transform import TAP_UNIT, interpolation_taps

FILTERS = np.array([interpolation_taps(p / LUMA_PHASES, LUMA_TAPS) for p in range(LUMA_PHASES)], np.float32) / TAP_UNIT


@nb.njit(fastmath=True, cache=True, nogil=True)
def _predict(ref, y0, x0, dy, dx, filters, tmp, out):
    """Cell at (y0, x0) moved by (dy, dx) eighths of a pixel, every other row and column: enough to rank candidates."""
    height, width = ref.shape
    iy, fy, ix, fx = dy >> 3, dy & 7, dx >> 3, dx & 7
    for r in range(CELL + 7):
        yy = min(max(y0 + iy + r - 3, 0), height - 1)
        for c in range(0, CELL, 2):
            s = np.float32(0)
            for k in range(8):
                s += filters[fx, k] * ref[yy, min(max(x0 + ix + c + k - 3, 0), width - 1)]
            tmp[r, c] = s
    for r in range(0, CELL, 2):
        for c in range(0, CELL, 2):
            s = np.float32(0)
            for k in range(8):
                s += filters[fy, k] * tmp[r + k, c]
            out[r, c] = s


@nb.njit(fastmath=True, cache=True, nogil=True)
def _sad(ref, cur, y0, x0, qy, qx, filters, tmp, out):
    total = np.float32(0)
    frames = cur.shape[0]
    for t in range(frames):
        _predict(ref, y0, x0, qy * 2 * (t + 1) // frames, qx * 2 * (t + 1) // frames, filters, tmp, out)
        for r in range(0, CELL, 2):
            for c in range(0, CELL, 2):
                total += abs(out[r, c] - cur[t, y0 + r, x0 + c])
    return 4 * total


@nb.njit(cache=True, nogil=True)
def _bits(d):
    d, b = abs(d), 0.4
    while d:
        b += 2.0
        d >>= 1
    return b


@nb.njit(cache=True, nogil=True)
def _median(a, b, c):
    return max(min(a, b), min(max(a, b), c))


@nb.njit(cache=True, nogil=True)
def search(ref, cur, lam, previous, filters):
    """ref u8 [H, W], cur u8 [T, H, W], lam SAD per bit, previous int32 [2, H/16, W/16] (the last field, candidates).
    Returns int32 [5, H/16, W/16]: dy, dx in quarter pixels at the last frame, mode (0 inter, 1 intra), no bends."""
    ny, nx = ref.shape[0] // CELL, ref.shape[1] // CELL
    mv = np.zeros((5, ny, nx), np.int32)
    tmp, out = np.zeros((CELL + 7, CELL), np.float32), np.zeros((CELL, CELL), np.float32)
    cand = np.zeros((10, 2), np.int64)
    near = np.zeros((3, 2), np.int64)
    for sweep in range(2):
        for i in range(ny):
            for j in range(nx):
                near[:] = 0
                for axis in range(2):
                    if j > 0:
                        near[0, axis] = mv[axis, i, j - 1]
                    near[1, axis] = mv[axis, i - 1, j] if i > 0 else near[0, axis]
                    near[2, axis] = mv[axis, i - 1, j + 1] if i > 0 and j < nx - 1 else near[1, axis]
                py, px = _median(near[0, 0], near[1, 0], near[2, 0]), _median(near[0, 1], near[1, 1], near[2, 1])
                cand[:] = 0
                cand[1, 0], cand[1, 1] = py, px
                cand[2:5] = near
                cand[5, 0], cand[5, 1] = previous[0, i, j], previous[1, i, j]
                if sweep:
                    cand[6, 0], cand[6, 1] = mv[0, i, j], mv[1, i, j]
                    if j < nx - 1:
                        cand[7, 0], cand[7, 1] = mv[0, i, j + 1], mv[1, i, j + 1]
                    if i < ny - 1:
                        cand[8, 0], cand[8, 1] = mv[0, i + 1, j], mv[1, i + 1, j]
                best, by, bx = 1e30, 0, 0
                for k in range(9):
                    qy, qx = cand[k, 0], cand[k, 1]
                    c = _sad(ref, cur, i * CELL, j * CELL, qy, qx, filters, tmp, out) + lam * (_bits(qy - py) + _bits(qx - px))
                    if c < best - 1e-3:
                        best, by, bx = c, qy, qx
                step = 32 if sweep == 0 else 2
                while step >= 1 and best > 600:
                    oy, ox = by, bx
                    for a in range(-1, 2):
                        for b in range(-1, 2):
                            if (a or b) and abs(oy + a * step) < 255 and abs(ox + b * step) < 255:
                                qy, qx = oy + a * step, ox + b * step
                                c = _sad(ref, cur, i * CELL, j * CELL, qy, qx, filters, tmp, out) + lam * (_bits(qy - py) + _bits(qx - px))
                                if c < best - 1e-3:
                                    best, by, bx = c, qy, qx
                    if by == oy and bx == ox:
                        step //= 2
                mv[0, i, j], mv[1, i, j] = by, bx
    return mv
