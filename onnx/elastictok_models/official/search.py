# SPDX-License-Identifier: MIT OR Apache-2.0
"""The official searches for a block's token count, quirks included; the reference for the Rust core.

An argument n of a search means that the slots <= n are kept, min(n + 1, max_toks) tokens; losses and threshold compare as float32."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
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


@dataclass
class Trace:
    """Every evaluation of a clip in order, as the official code makes them."""

    block: list[int] = field(default_factory=list)
    ntoks: list[int] = field(default_factory=list)  # the argument
    kept: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    commit: list[bool] = field(default_factory=list)  # the pass that fixes the block's cache
    final: list[int] = field(default_factory=list)  # what the search returns for each block


def clip(blocks: int, max_toks: int, evaluate: Callable[[int, int, bool], float], search: Callable[[Loss], int]) -> Trace:
    """Searches block after block: `search` gets a block's loss function, and the count it returns is evaluated once more to commit.

    `evaluate(block, kept, commit)` gives a block's loss on the committed context of the blocks before, and fixes its own if told to."""
    trace = Trace()

    def loss(block: int, n: int, commit: bool) -> float:
        value = evaluate(block, kept(n, max_toks), commit)
        for name, entry in dict(block=block, ntoks=n, kept=kept(n, max_toks), loss=value, commit=commit).items():
            getattr(trace, name).append(entry)
        return value

    for i in range(blocks):
        trace.final.append(search(lambda n: loss(i, n, False)))
        loss(i, trace.final[-1], True)
    return trace
