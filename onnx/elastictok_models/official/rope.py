# SPDX-License-Identifier: MIT OR Apache-2.0
"""Rotary position tables (arXiv 2104.09864) with the precision of the official code under either generation of NumPy."""
from __future__ import annotations

import numpy as np

NUMPY_VERSIONS = (1, 2)


def tables(head_dim: int, positions: np.ndarray, theta: int | float, numpy_version: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine float32 [positions, head_dim/2] of position * theta^(-2i/head_dim).

    The official code writes 1 / theta ** exponent with a float32 exponent. NumPy before 2, under which the released models were
    trained, takes the power in float64 if theta is an integer of more than 16 bits (float32 does not hold all of those), and in
    float32 otherwise; NumPy 2 always takes it in float32. The product with the position is float64 and is rounded to float32.

    Everything is computed in float64 and rounded once, for NumPy's float32 powers, cosines and sines differ between processors by
    some units in the last place, which a late position makes large. So a checkpoint becomes the same bundle everywhere."""
    if numpy_version not in NUMPY_VERSIONS:
        raise ValueError(f"numpy_version is {numpy_version}; 1 is what the released models were trained with, 2 the other way")
    frequency = frequencies(head_dim, theta, numpy_version)
    angle = np.outer(np.asarray(positions, np.float64), frequency).astype(np.float32).astype(np.float64)
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def frequencies(head_dim: int, theta: int | float, numpy_version: int) -> np.ndarray:
    """theta^(-2i/head_dim), float64 [head_dim/2]; float32 numbers where the official code takes the power in float32."""
    exponent = np.arange(0, head_dim, 2).astype(np.float32) / np.float32(head_dim)
    if numpy_version == 1 and isinstance(theta, int) and theta > np.iinfo(np.uint16).max:
        return 1 / np.power(np.float64(theta), exponent.astype(np.float64))
    return (1 / np.power(np.float64(np.float32(theta)), exponent.astype(np.float64))).astype(np.float32).astype(np.float64)
