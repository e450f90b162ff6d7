# SPDX-License-Identifier: MIT OR Apache-2.0
"""What cells look like after quantisers of several steps: training data for the encoder graph's `distortion`.

Clips are coded by the Rust encoder, its latents quantised again in layers (streams.py), every truncation decoded by the decoder graph
against the encoder's own reference, and each cell's luma compared with the source."""
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from .clips import cut, planes_of
from .config import CELL, Config
from .session import session
from .streams import coded

LAYERS, RATIO = 3, 13  # a factor of 3 from step to step


@dataclass
class Block:
    """One block at one quantiser."""

    key: bool
    steps: list  # float: of each layer, pixel units
    intra: np.ndarray  # bool [cells]
    latents: np.ndarray  # i16 [cells, luma coefficients], the graph's order: what the encoder graph gave
    errors: np.ndarray  # f32 [layers, cells]: mean squared error of luma with layers 0..=l


def cell_errors(frames, source) -> np.ndarray:
    """Mean squared luma error of every cell, f32 [cells]."""
    luma = lambda x: planes_of(x)[0].astype(np.float32)
    return cut((luma(frames) - luma(source)) ** 2, CELL).mean(2).ravel()


def observe(clip: Path, tools: Path, decoder: onnx.ModelProto, cfg: Config, rng, frames: int = 16) -> Iterator[Block]:
    """Codes `frames` frames from a random place of `clip` at a random quality; yields its blocks at two quantisers each.

    `tools` is the folder of the Rust tools, which must hold the bundle that `decoder` is of."""
    start, target = int(rng.integers(0, 20)), rng.uniform(26, 45)
    offsets = 0, int(rng.integers(4, 15) * rng.choice([-1, 1]))
    run = reference = None
    for block in coded(clip, tools, cfg, range(start, start + frames), target, LAYERS, RATIO, offsets, key_int_max=8):
        if run is None:
            run = session(decoder, *block.motion.shape[1:]).run
            reference = np.zeros(block.source.shape[1:], np.uint8)
        for tried, receivers in enumerate(block.quantised):
            errors = np.zeros((LAYERS, len(block.latents)), np.float32)
            for layer, receiver in enumerate(receivers):
                shown, following = run(None, block.inputs(receiver, reference))[:2]
                errors[layer] = cell_errors(shown, block.source)
            if tried == 0:
                finest = following
            intra = (block.motion[2].ravel() == 1) | (block.position == 0)
            yield Block(block.position == 0, [r.step for r in receivers], intra, block.latents[:, :cfg.luma_coefficients], errors)
        reference = finest
