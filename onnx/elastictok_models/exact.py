# SPDX-License-Identifier: MIT OR Apache-2.0
"""The arithmetic of exact bundles: integer transforms, and tables of what depends on the quantiser.

Whatever is computed is an integer times a power of two, and no sum reaches 2^24 of its units: float32 then has no rounding
but where the graph rounds, and every order of summation gives the same. ranges.py proves it for an exported graph."""
from typing import NamedTuple

import numpy as np

from .config import CELL, Config
from .transform import chroma_columns, chroma_weights, dct, time_and_rows

BASIS_UNIT = 128  # parts of one in basis functions
LATENT_MAX = 32767  # magnitude of dequantised latents; docs/bitstream.md
COARSEST_STEP = 7508 * 9 / 8  # grey levels: the coarsest quantiser with two layers missing
WEIGHT_UNIT = 32  # parts of one in the inverse of the weights of chroma latents
MIDDLE_MAX = 16383  # after columns, in latent units: +-2048 grey levels, more than what samples between -255 and 255 have
RESIDUAL_MAX = 512  # grey levels


class Basis(NamedTuple):
    """Inverse transforms of an exact bundle; float64, integers / BASIS_UNIT. Not quite orthonormal: the encoder inverts them."""

    columns: np.ndarray  # [16, 16], from the right
    rows: np.ndarray  # [T*size, T*size], from the left: time and rows


def basis(cfg: Config, chroma: bool) -> Basis:
    """The basis functions of luma cells, or of chroma's (U beside V)."""
    whole = lambda m: np.rint(BASIS_UNIT * m) / BASIS_UNIT
    size = CELL // 2 if chroma else CELL
    return Basis(whole(chroma_columns() if chroma else dct(CELL)), whole(time_and_rows(cfg, size).T))


def chroma_gains(cfg: Config) -> np.ndarray:
    """float64 [n]: what chroma latents are multiplied with, in the graphs' order: 1 / weight, in parts of WEIGHT_UNIT."""
    return np.rint(WEIGHT_UNIT / chroma_weights(cfg)) / WEIGHT_UNIT


def steps(cfg: Config) -> np.ndarray:
    """float64 [n]: the step in pixel units of every row of a table, which its step in latent units picks; the last one stands for
    all that are coarser."""
    return np.maximum(np.arange(int(cfg.coarsest_step * cfg.scale) + 1), 1) / cfg.scale


def dyadic(x: np.ndarray, bits: int) -> np.ndarray:
    """The nearest numbers with that many significant bits; quantised.dyadic for training."""
    unit = np.exp2(np.floor(np.log2(x)) - (bits - 1))
    return np.rint(x / unit) * unit
