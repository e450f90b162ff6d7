# SPDX-License-Identifier: MIT OR Apache-2.0
"""A tiny model of random weights, for tests: settings, checkpoint and clip. Needs no PyTorch."""
from __future__ import annotations

from pathlib import Path

import numpy as np

from . import save
from .config import RELEASED, Config
from .weights import RandomWeights


def config(bottleneck: str, **changes) -> Config:
    """A tiny config: 16x16 tiles, two frames a block, four blocks a chunk."""
    sizes = dict(hidden_size=24, intermediate_size=40, num_encoder_layers=2, num_decoder_layers=2, num_attention_heads=2, min_toks=2,
                 max_toks=8, max_sequence_length=32, frames_per_block=2, resolution=16)
    if bottleneck == "vae":
        sizes |= dict(max_toks=4, max_sequence_length=16, min_toks=1)
    return Config(**{**RELEASED[bottleneck], **sizes, "bottleneck_type": bottleneck, **changes})


def checkpoint(path: Path, cfg: Config, seed: int = 0, dtype: str = "bfloat16", prefix: tuple[str, ...] = ()) -> None:
    """A checkpoint of random weights large enough that every layer shows in the output."""
    weights = RandomWeights(cfg, seed, gain=1.5)
    read = lambda key, shape: np.stack([weights.read(key, i) for i in range(shape[0])]) if "scan_decoder" in key else weights.read(key)
    save.save(path, ((key, read(key, shape)) for key, shape in cfg.shapes().items()), dtype, prefix)


def clip(cfg: Config, blocks: int, seed: int = 0) -> np.ndarray:
    """A moving gradient with noise, uint8 [T, H, W, 3]."""
    rng, (width, height) = np.random.default_rng(seed), cfg.tile_size
    t, y, x = np.mgrid[:blocks * cfg.frames_per_block, :height, :width]
    waves = np.stack([np.sin((x + t * s) / 5 + c) * np.cos((y - t) / (4 + c)) for c, s in enumerate((1, 2, 3))], -1)
    return np.clip(127 + 90 * waves + rng.normal(0, 20, waves.shape), 0, 255).astype(np.uint8)
