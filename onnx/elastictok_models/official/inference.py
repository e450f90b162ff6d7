# SPDX-License-Identifier: MIT OR Apache-2.0
"""What the official scripts do with a model: code a chunk in one pass, at a fixed count, or at counts that a search finds."""
from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from . import picture, search
from .model import Context, Model


@dataclass
class Coded:
    """A chunk of N blocks, coded in one pass."""

    latents: np.ndarray  # float32 [N, K, dim], codes or means; those of dropped tokens zero
    tokens: np.ndarray  # FSQ: indices int64 [N, K] of `latents`; VAE: the latents
    recon: np.ndarray  # float32 [T, H, W, 3] in (-1, 1)
    recon_u8: np.ndarray  # uint8, truncated
    mse: np.ndarray  # float32 [N], on the [-1, 1] scale


@torch.no_grad()
def full(model: Model, frames: np.ndarray, kept: list[int]) -> Coded:
    """One pass over frames uint8 [T, H, W, 3], keeping the first kept[i] tokens of block i."""
    cfg, x = model.cfg, model.patches(frames)
    z, _ = model.encode(x, model.mask(kept))
    y, _ = model.decode(z)
    mse = (y.clip(-1, 1) - x).square().mean(-1).unflatten(-1, (-1, cfg.max_toks)).mean(-1)
    latents = z.numpy().reshape(len(kept), cfg.max_toks, -1)
    recon = picture.unpatchify(y[0].numpy(), cfg)
    tokens = model.levels.index(latents) if cfg.bottleneck_type == "fsq" else latents
    return Coded(latents, tokens, recon, picture.to_8_bit(recon), mse[0].numpy())


def encode_fixed(model: Model, frames: np.ndarray, n: int) -> np.ndarray:
    """The first n tokens of each block as float codes or means [N, n, dim]: exactly n are kept, unlike in a search."""
    blocks = len(frames) // model.cfg.frames_per_block
    return full(model, frames, [n] * blocks).latents[:, :n]


@torch.no_grad()
def decode_fixed(model: Model, z: np.ndarray) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] of what encode_fixed gave."""
    padded = np.zeros((len(z), model.cfg.max_toks, z.shape[-1]), np.float32)
    padded[:, :z.shape[1]] = z
    y, _ = model.decode(torch.from_numpy(padded.reshape(1, -1, z.shape[-1])))
    return picture.to_8_bit(picture.unpatchify(y[0].numpy(), model.cfg))


def rule(algorithm: str, min_toks: int, max_toks: int, threshold: float, default_prop: float = 1.0, max_prop: float = 1.0,
         n_interp: int = 100):
    """A search of search.py with its settings filled in, for search.clip. Raises ValueError for an algorithm that is not official."""
    common = dict(threshold=threshold, min_toks=min_toks, max_toks=max_toks, default_prop=default_prop, max_prop=max_prop)
    if algorithm not in ("binary", "linear"):
        raise ValueError(f"the search {algorithm!r} is not official; binary and linear are")
    return partial(search.binary, **common) if algorithm == "binary" else partial(search.linear, **common, n_interp=n_interp)


@torch.no_grad()
def searched(model: Model, frames: np.ndarray, algorithm: str, threshold: float, **settings) -> tuple[search.Trace, Coded]:
    """Searches the counts of a chunk block by block through the cache, then codes it with them in one pass."""
    cfg, x = model.cfg, model.patches(frames).unflatten(1, (-1, model.cfg.max_toks))
    context = Context()

    def evaluate(block: int, kept: int, commit: bool) -> float:
        nonlocal context
        _, mse, after = model.reconstruct(x[:, block], model.mask([kept]), context)
        if commit:
            context = after
        return float(mse[0, 0])

    trace = search.clip(x.shape[1], cfg.max_toks, evaluate, rule(algorithm, cfg.min_toks, cfg.max_toks, threshold, **settings))
    return trace, full(model, frames, [search.kept(n, cfg.max_toks) for n in trace.final])
