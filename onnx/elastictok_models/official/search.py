# SPDX-License-Identifier: MIT OR Apache-2.0
"""The official searches for a block's token count, quirks included; the reference for the Rust core.

An argument n of a search means that the slots <= n are kept, min(n + 1, max_toks) tokens; losses and threshold compare as float32."""
from __future__ import annotations

from collections.abc import Callable
from math import ceil, exp2, log2

import numpy as np

Loss = Callable[[int], float]


def kept(n: int, max_toks: int) -> int:
    """Tokens kept for a search's argument n."""
    return min(n + 1, max_toks)


def _fallback(default_prop: float, max_toks: int) -> int:
    return int(default_prop * max_toks)


def binary(loss: Loss, threshold: float, min_toks: int, max_toks: int, default_prop: float = 1.0, max_prop: float = 1.0) -> int:
    """Bisection. `loss(n)` is called once per step. Returns the last n tried, which may be the one below the least that passes;
    int(default_prop * max_toks) if every loss was above the threshold. min_toks itself is tried only where it is the only one."""
    low, high = min_toks, ceil(max_prop * max_toks)
    limit, any_valid = np.float32(threshold), False
    while True:
        n = ceil((low + high) / 2)
        value = np.float32(loss(n))
        any_valid |= not value > limit
        if value < limit:
            high = n - 1
        else:
            low = n
        if high <= low:
            return n if any_valid else _fallback(default_prop, max_toks)


def grid(min_toks: int, max_toks: int, max_prop: float = 1.0, n_interp: int = 100) -> np.ndarray:
    """Arguments that the linear search tries, int [n_interp], rising, with repeats.

    The logarithms are spaced evenly and the powers cut to integers, so a last-bit error moves an entry by one: exp2 is the C
    library's, as NumPy before 2 had it (NumPy 2 has a faster one that is a bit off on some processors)."""
    exponents = np.linspace(log2(min_toks), log2(ceil(max_toks * max_prop)), n_interp)
    return np.array([int(exp2(e)) for e in exponents])


def linear(loss: Loss, threshold: float, min_toks: int, max_toks: int, default_prop: float = 1.0, max_prop: float = 1.0,
           n_interp: int = 100) -> int:
    """Every entry of the grid is evaluated, repeats again; the first with loss <= threshold, else int(default_prop * max_toks)."""
    limit = np.float32(threshold)
    tried = [(int(n), np.float32(loss(int(n)))) for n in grid(min_toks, max_toks, max_prop, n_interp)]
    return next((n for n, value in tried if value <= limit), _fallback(default_prop, max_toks))
