# SPDX-License-Identifier: MIT OR Apache-2.0
"""The cell transform (orthonormal DCT in space, Haar/DCT in time), its token order, and the motion interpolation filters."""
from typing import NamedTuple

import numpy as np

from .config import CELL, CHROMA_PHASES, CHROMA_TAPS, LUMA_PHASES, LUMA_TAPS, Config

TAP_UNIT = 64  # parts of one in interpolation filters


def dct(n: int) -> np.ndarray:
    """Orthonormal DCT-II, float64 [n, n], row k = basis function k."""
    k, x = np.arange(n)[:, None], np.arange(n)[None]
    m = np.cos(np.pi * (2 * x + 1) * k / (2 * n)) * np.sqrt(2 / n)
    m[0] /= np.sqrt(2)
    return m


def positions(cfg: Config) -> np.ndarray:
    """int [C, 4]: (component, t, v, u) of every coefficient in the graphs' order: luma, then chroma, row by row; a row of chroma
    holds U's, then V's."""
    times, half = range(cfg.block_length), range(CELL // 2)
    luma = [(0, t, v, u) for t in times for v in range(CELL) for u in range(CELL)]
    return np.array(luma + [(c, t, v, u) for t in times for v in half for c in (1, 2) for u in half], np.int64)


def importance(rows: np.ndarray) -> np.ndarray:
    """float [n], small = important, for positions [n, 4]: the order of falling variance of a first-order Markov residual:
    low frequencies first, the temporal mean before differences, luma before chroma of the same frequency."""
    component, t, v, u = rows.T
    radius = np.hypot(v, u) + 0.35 * np.minimum(v, u)
    return radius + 2.5 * (t > 0) + 3.5 * (component > 0) * (1 + 0.3 * radius) + 1e-6 * component


def order(cfg: Config) -> np.ndarray:
    """int [C]: the graphs' index of the most important coefficient, the next one, and so on: the order of tokens."""
    return np.argsort(importance(positions(cfg)), kind="stable")


def time_and_rows(cfg: Config, size: int) -> np.ndarray:
    """float64 [T*size, T*size], orthonormal: transform of a cell [T*size rows, size columns] over time and rows; dct(size)
    transforms its columns. Two small products in place of one with all basis functions."""
    return np.kron(dct(cfg.block_length), dct(size))


def chroma_columns() -> np.ndarray:
    """float64 [16, 16], orthonormal: transform of a row of U's samples and V's."""
    return np.kron(np.eye(2), dct(CELL // 2))


def chroma_weights(cfg: Config) -> np.ndarray:
    """float64 [n]: latent = weight * transform coefficient, for the chroma coefficients in the graphs' order."""
    rows = positions(cfg)
    _, t, v, u = rows[rows[:, 0] > 0].T
    return cfg.chroma_weight + (cfg.chroma_flat_weight - cfg.chroma_weight) * np.exp(-(np.hypot(v, u) + t))


def interpolation_taps(phase: float, taps: int) -> np.ndarray:
    """int8 [taps]: cosine-windowed sinc at `phase` (0..1) between taps taps/2-1 and taps/2, in units of 1/64; sums to 64, which
    no 8-bit sample times a pair of taps takes beyond 16 bits."""
    x = np.arange(taps) - (taps // 2 - 1) - phase
    k = np.sinc(x) * np.where(np.abs(x) < taps / 2, np.cos(np.pi * x / taps), 0.0)
    k *= TAP_UNIT / k.sum()
    whole = np.floor(k).astype(np.int64)
    whole[np.argsort(whole - k, kind="stable")[:TAP_UNIT - whole.sum()]] += 1  # the largest remainders are rounded up
    return whole.astype(np.int8)


class Interpolation(NamedTuple):
    """How cells of a plane are interpolated from windows, runs of a row's samples that begin at multiples of `unit`. Planes that move together
    have a unit of each in turn in a window."""

    size: int  # of a cell
    taps: int
    phases: int
    unit: int  # samples
    window: int  # samples, a multiple of `unit`
    planes: int  # side by side in a cell

    @property
    def rows(self) -> int:
        """Of samples that a cell is interpolated from."""
        return self.size + self.taps - 1

    def matrices(self) -> tuple[np.ndarray, np.ndarray]:
        """Interpolation of a cell as two matrix products.

        Returns horizontal int8 [unit * phases, planes * window, planes * size] (indexed by offset * phases + phase; the cell's first
        tap is at `offset` in the window), in units of 1/64, and vertical float32 [phases, size, rows], which undoes those units."""
        size, taps, phases = self.size, self.taps, self.phases
        assert self.unit - 1 + self.rows <= self.window
        horizontal = np.zeros((self.unit, phases, self.planes * self.window, self.planes * size), np.int8)
        vertical = np.zeros((phases, size, self.rows), np.float32)
        for phase in range(phases):
            k = interpolation_taps(phase / phases, taps)
            for i in range(size):
                vertical[phase, i, i:i + taps] = k / np.float32(TAP_UNIT**2)
                for offset, plane in np.ndindex(self.unit, self.planes):
                    at = offset + i + np.arange(taps)
                    at = (at // self.unit * self.planes + plane) * self.unit + at % self.unit
                    horizontal[offset, phase, at, plane * size + i] = k
        return horizontal.reshape(self.unit * phases, self.planes * self.window, self.planes * size), vertical


LUMA_MATRICES = Interpolation(CELL, LUMA_TAPS, LUMA_PHASES, 8, 32, 1)
CHROMA_MATRICES = Interpolation(CELL // 2, CHROMA_TAPS, CHROMA_PHASES, 4, 16, 2)
