# SPDX-License-Identifier: MIT OR Apache-2.0
"""The cell transform (orthonormal DCT in space, Haar/DCT in time), its token order, and the motion interpolation filters."""
import numpy as np

from .config import CELL, CHROMA_PHASES, CHROMA_TAPS, LUMA_PHASES, LUMA_TAPS, Config


def dct(n: int) -> np.ndarray:
    """Orthonormal DCT-II, float64 [n, n], row k = basis function k."""
    k, x = np.arange(n)[:, None], np.arange(n)[None]
    m = np.cos(np.pi * (2 * x + 1) * k / (2 * n)) * np.sqrt(2 / n)
    m[0] /= np.sqrt(2)
    return m


def positions(cfg: Config) -> np.ndarray:
    """int [C, 4]: (component, t, v, u) of every coefficient, most important first.

    Importance is the expected variance of a first-order Markov residual: low spatial frequencies first, the temporal
    mean before differences, luma before chroma of the same frequency."""
    rows = []
    for component in range(3):
        n = CELL if component == 0 else CELL // 2
        for t in range(cfg.block_length):
            for v in range(n):
                for u in range(n):
                    # frequency in cycles per cell, so that 8x8 chroma and 16x16 luma compare
                    radius = np.hypot(v, u) + 0.35 * min(v, u)
                    rank = radius + (2.5 if t else 0.0) + (3.5 if component else 0.0) * (1 + 0.3 * radius)
                    rows.append((rank, component, t, v, u))
    rows.sort()
    return np.array([r[1:] for r in rows], np.int64)


def basis(cfg: Config) -> np.ndarray:
    """float64 [C, C]: row c holds the sample pattern of coefficient c.

    Columns run as a cell lies in the decoder: 8x8 patches of the cell in raster order, in each the luma samples
    [T, 8, 8], then U [T, 4, 4], then V [T, 4, 4]. Orthonormal but for the chroma weight."""
    half, t_len = CELL // 2, cfg.block_length
    d16, d8, dt = dct(CELL), dct(half), dct(t_len)
    out = np.zeros((cfg.coefficients, 2, 2, cfg.patch))
    n_luma, n_chroma = t_len * half * half, t_len * 16
    for c, (component, t, v, u) in enumerate(positions(cfg)):
        if component == 0:
            wave = np.einsum("t,y,x->tyx", dt[t], d16[v], d16[u])
            for sy in range(2):
                for sx in range(2):
                    out[c, sy, sx, :n_luma] = wave[:, sy * 8:sy * 8 + 8, sx * 8:sx * 8 + 8].ravel()
        else:
            wave = np.einsum("t,y,x->tyx", dt[t], d8[v], d8[u])
            at = n_luma + (component - 1) * n_chroma
            for sy in range(2):
                for sx in range(2):
                    out[c, sy, sx, at:at + n_chroma] = wave[:, sy * 4:sy * 4 + 4, sx * 4:sx * 4 + 4].ravel()
    return out.reshape(cfg.coefficients, cfg.coefficients)


def weights(cfg: Config) -> np.ndarray:
    """float64 [C]: latent = weight * transform coefficient."""
    return np.where(positions(cfg)[:, 0] == 0, 1.0, cfg.chroma_weight)


def interpolation_taps(phase: float, taps: int) -> np.ndarray:
    """float64 [taps]: cosine-windowed sinc at `phase` (0..1) between taps taps/2-1 and taps/2; sums to one."""
    x = np.arange(taps) - (taps // 2 - 1) - phase
    k = np.sinc(x) * np.where(np.abs(x) < taps / 2, np.cos(np.pi * x / taps), 0.0)
    return k / k.sum()


def motion_matrices(size: int, taps: int, phases: int, unit: int, chunks: int) -> tuple[np.ndarray, np.ndarray]:
    """Interpolation of a size x size block as two matrix products.

    Returns horizontal float32 [unit*phases, chunks*unit, size] (indexed by offset*phases + phase; the window is `chunks`
    aligned runs of `unit` samples, the block's first tap at `offset` in it) and vertical float32 [phases, size, size+taps-1]."""
    assert unit - 1 + size + taps - 1 <= chunks * unit
    horizontal = np.zeros((unit, phases, chunks * unit, size), np.float32)
    vertical = np.zeros((phases, size, size + taps - 1), np.float32)
    for phase in range(phases):
        k = interpolation_taps(phase / phases, taps)
        for i in range(size):
            vertical[phase, i, i:i + taps] = k
            for offset in range(unit):
                horizontal[offset, phase, offset + i:offset + i + taps, i] = k
    return horizontal.reshape(unit * phases, chunks * unit, size), vertical


# arguments of motion_matrices
LUMA_MATRICES = (CELL, LUMA_TAPS, LUMA_PHASES, 8, 4)
CHROMA_MATRICES = (CELL // 2, CHROMA_TAPS, CHROMA_PHASES, 8, 3)
