# SPDX-License-Identifier: MIT OR Apache-2.0
"""A head that predicts what each count would cost, so that search=regression needs no decoder in its loop.

A cell is described by the mean over its tokens of the encoder's last features, and by two logarithms of its patches' variance, which
the features, being normalised, say little of. A linear layer gives the logarithm of the mean squared error (on the [-1, 1] scale) with the
tokens up to each layer boundary kept. The paper (arXiv 2410.08368) regresses counts from the picture alike."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .config import Config

STATISTICS = 2
FLOOR = 1e-4  # added to variances


def statistics(patches: np.ndarray) -> np.ndarray:
    """Patches in [-1, 1] [cells, K, P] to float32 [cells, 2]: log of the mean variance, mean log variance."""
    variance = patches.var(-1)
    return np.stack([np.log(variance.mean(-1) + FLOOR), np.log(variance + FLOOR).mean(-1)], -1).astype(np.float32)


@dataclass
class Head:
    """`boundaries` are the counts predicted for; weight float32 [D + 2, layers], bias [layers]."""

    boundaries: list[int]
    weight: np.ndarray
    bias: np.ndarray

    def predict(self, pooled: np.ndarray, statistic: np.ndarray) -> np.ndarray:
        """Mean features [cells, D] and statistics [cells, 2] to mean squared errors [cells, layers]."""
        return np.exp(np.concatenate([pooled, statistic], -1) @ self.weight + self.bias)

    def build(self, g, patches: str, features: str) -> None:
        """Appends the head to an encoder graph under construction; the output is `distortion`."""
        mean = lambda x, axis, keep=0: g.op("ReduceMean", x, g.ints(axis), keepdims=keep)
        centred = g.op("Sub", patches, mean(patches, 2, 1))
        variance = mean(g.op("Mul", centred, centred), 2)
        log = lambda x: g.op("Log", g.op("Add", x, g.float(FLOOR)))
        described = g.op("Concat", mean(features, 1), log(mean(variance, 1, 1)), mean(log(variance), 1, 1), axis=1)
        weight, bias = g.sink.add("distortion.weight", self.weight), g.sink.add("distortion.bias", self.bias)
        g.op("Exp", g.op("Gemm", described, weight, bias), out="distortion")

    def save(self, path: Path) -> None:
        np.savez(path, boundaries=self.boundaries, weight=self.weight, bias=self.bias)

    @classmethod
    def load(cls, path: Path, cfg: Config, boundaries: list[int]) -> Head:
        """Reads what `save` wrote. Raises ValueError where it is no head for this model and these layers."""
        try:
            with np.load(path, allow_pickle=False) as data:
                head = cls(data["boundaries"].tolist(), data["weight"].astype(np.float32), data["bias"].astype(np.float32))
        except (OSError, KeyError, ValueError) as e:
            raise ValueError(f"{path} is no distortion head: {e}; make one with train-head") from e
        wanted = (cfg.hidden_size + STATISTICS, len(boundaries))
        if head.boundaries != list(boundaries) or head.weight.shape != wanted or head.bias.shape != wanted[1:]:
            raise ValueError(f"{path} predicts for the counts {head.boundaries} with weights {list(head.weight.shape)}, but the bundle has "
                             f"the layers {list(boundaries)} and needs {list(wanted)}; train it with the same settings and --layers")
        if not (np.isfinite(head.weight).all() and np.isfinite(head.bias).all()):
            raise ValueError(f"{path} has weights that are no numbers; train it again")
        return head
