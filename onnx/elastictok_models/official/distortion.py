# SPDX-License-Identifier: MIT OR Apache-2.0
"""A head that predicts what each count would cost, so that search=regression needs no decoder in its loop.

The mean over a cell's tokens of the encoder's last features goes through one hidden layer to the logarithm of the mean squared error (on
the [-1, 1] scale) with the tokens up to each layer boundary kept. The paper (arXiv 2410.08368, section 3) regresses counts alike."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .config import Config

FIELDS = ("boundaries", "w1", "b1", "w2", "b2")


@dataclass
class Head:
    """Weights float32: w1 [D, hidden], w2 [hidden, layers]; `boundaries` are the counts predicted for."""

    boundaries: list[int]
    w1: np.ndarray
    b1: np.ndarray
    w2: np.ndarray
    b2: np.ndarray

    def predict(self, pooled: np.ndarray) -> np.ndarray:
        """Mean features float32 [cells, D] to mean squared errors [cells, layers]."""
        return np.exp(np.maximum(pooled @ self.w1 + self.b1, 0) @ self.w2 + self.b2)

    def build(self, g, features: str) -> None:
        """Appends the head to an encoder graph under construction; the output is `distortion`."""
        pooled = g.op("ReduceMean", features, g.ints(1), keepdims=0)
        weight = lambda name: g.sink.add(f"distortion.{name}", getattr(self, name))
        hidden = g.op("Relu", g.op("Gemm", pooled, weight("w1"), weight("b1")))
        g.op("Exp", g.op("Gemm", hidden, weight("w2"), weight("b2")), out="distortion")

    def save(self, path: Path) -> None:
        np.savez(path, **{name: getattr(self, name) for name in FIELDS})

    @classmethod
    def load(cls, path: Path, cfg: Config, boundaries: list[int]) -> Head:
        """Reads what `save` wrote. Raises ValueError where it is no head for this model and these layers."""
        try:
            with np.load(path, allow_pickle=False) as data:
                head = cls(data["boundaries"].tolist(), *(data[name].astype(np.float32) for name in FIELDS[1:]))
        except (OSError, KeyError, ValueError) as e:
            raise ValueError(f"{path} is no distortion head: {e}; make one with train-head") from e
        shapes = [head.w1.shape[:1], head.b1.shape, head.w2.shape, head.b2.shape]
        hidden = head.w1.shape[-1]
        if shapes != [(cfg.hidden_size,), (hidden,), (hidden, len(boundaries)), (len(boundaries),)] or head.boundaries != list(boundaries):
            raise ValueError(f"{path} predicts for the counts {head.boundaries} of {head.w1.shape[0]} features, but the bundle has the layers "
                             f"{list(boundaries)} and {cfg.hidden_size} features; train it with the same settings and --layers")
        if not all(np.isfinite(getattr(head, name)).all() for name in FIELDS[1:]):
            raise ValueError(f"{path} has weights that are no numbers; train it again")
        return head
