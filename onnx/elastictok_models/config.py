# SPDX-License-Identifier: MIT OR Apache-2.0
"""Geometry and sizes of the structured codec; everything else derives from these numbers. And the version of bundles."""
from dataclasses import dataclass

FORMAT_VERSION = 1  # of bundle.json
GREY = 128
CELL = 16  # luma pixels on a side of a cell
PATCH = 4  # luma pixels on a side of a patch: the in-loop filter's positions
K = CELL // PATCH  # patches on a side of a cell
# Exact filters work on cells with tokens, the cells beside these, and so many rows of patches above and below either. All else is zero to them.
REACH = 2
# Rows of cells above and below others whose samples these depend on: eight layers of 3x3 see eight patches far.
HALO = 2
# Reconstructed samples x enter the in-loop filter as x / scale - centre; residuals, in steps, within +-8 and halved.
LUMA_SCALE, LUMA_CENTRE = 64, 2
CHROMA_SCALE, CHROMA_CENTRE = 16, 8
LUMA_TAPS, CHROMA_TAPS = 8, 4
LUMA_PHASES, CHROMA_PHASES = 8, 16  # phases of a pixel: eighths in luma, sixteenths in (half-size) chroma


@dataclass(frozen=True)
class Config:
    """A structured codec: block motion, orthonormal transform, quantisers in layers, learned in-loop filter."""

    name: str = "builtin"
    block_length: int = 2  # T, frames per block: 1 or 2
    scale: int = 8  # latent units per unit of an orthonormal transform coefficient
    # Chroma latents are scaled: coarse steps must not take the colour of large areas, while fine chroma detail is not seen.
    chroma_weight: float = 0.8  # of high frequencies
    chroma_flat_weight: float = 2.5  # of the constant term
    # The in-loop filter is told of no coarser step, in pixel units: it is not trained beyond, and its corrections would be
    # noise that grows with the step.
    coarsest_step: float = 110.0
    channels: int = 48  # in-loop filter of luma, at 1/4 resolution
    hidden: int = 96  # channels inside a block
    blocks: int = 5
    chroma_channels: int = 16  # and of chroma
    chroma_hidden: int = 32
    chroma_blocks: int = 3
    exact: bool = False  # integer arithmetic: the same pictures on every machine (exact.py)

    @property
    def luma_coefficients(self) -> int:
        return self.block_length * CELL * CELL

    @property
    def chroma_coefficients(self) -> int:  # of one plane
        return self.luma_coefficients // 4

    @property
    def coefficients(self) -> int:  # C, of a cell
        return self.luma_coefficients + 2 * self.chroma_coefficients

    @property
    def luma_patch(self) -> int:  # luma samples of a 4x4 patch, all frames
        return self.block_length * PATCH * PATCH

    @property
    def chroma_patch(self) -> int:  # chroma samples of the same area, both planes, all frames
        return self.luma_patch // 2

    @property
    def embedding(self) -> int:  # of a patch's place in its cell and of the step
        return PATCH * PATCH
