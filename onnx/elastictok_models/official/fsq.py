# SPDX-License-Identifier: MIT OR Apache-2.0
"""Finite scalar quantisation (arXiv 2309.15505) as the official code does it, in NumPy; model.py and graph.py share the constants.

One difference to the paper is kept: the shift of even levels is tan(offset / half), not its inverse hyperbolic tangent."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Levels:
    """Constants float32 [dimensions] of a list of levels."""

    levels: tuple[int, ...]

    @property
    def half(self) -> np.ndarray:
        return ((np.asarray(self.levels) - 1) * (1 - 1e-3) / 2).astype(np.float32)

    @property
    def offset(self) -> np.ndarray:
        return np.where(np.asarray(self.levels) % 2 == 1, 0, 0.5).astype(np.float32)

    @property
    def shift(self) -> np.ndarray:
        # in float64, rounded once: float32 tangents differ between processors
        return np.tan((self.offset / self.half).astype(np.float64)).astype(np.float32)

    @property
    def half_width(self) -> np.ndarray:
        return (np.asarray(self.levels) // 2).astype(np.float32)

    @property
    def basis(self) -> np.ndarray:
        """Weight of each digit in an index, int64 [dimensions]: the first dimension changes fastest."""
        return np.concatenate([[1], np.cumprod(self.levels[:-1])]).astype(np.int64)

    def bound(self, z: np.ndarray) -> np.ndarray:
        """Any float32 [.., dimensions] to the range whose whole numbers are the digits around zero."""
        return np.tanh(z + self.shift) * self.half - self.offset

    def quantize(self, z: np.ndarray) -> np.ndarray:
        """Codes float32 in [-1, 1]: whole numbers over half_width, half to even."""
        return np.round(self.bound(z)) / self.half_width

    def index(self, codes: np.ndarray) -> np.ndarray:
        """Codes to indices int64 [..]."""
        digits = np.round(codes * self.half_width + self.half_width).astype(np.int64)
        return (digits * self.basis).sum(-1)

    def codes(self, index: np.ndarray) -> np.ndarray:
        """Indices int [..] to codes float32 [.., dimensions]."""
        digits = np.asarray(index, np.int64)[..., None] // self.basis % np.asarray(self.levels)
        return (digits.astype(np.float32) - self.half_width) / self.half_width
