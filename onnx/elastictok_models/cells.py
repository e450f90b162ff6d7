# SPDX-License-Identifier: MIT OR Apache-2.0
"""Lists of the cells that a block changes: work is done for those alone.

No list is ever empty, since not every provider takes tensors without elements: cell 0 is always in it."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from .builder import Builder, Grid
from .config import CELL, Config
from .prediction import intra_cells, planes


@dataclass(frozen=True)
class Cells:
    """n cells of a picture (or rows or columns of cells), in its order. `index` int64 [n]: which; `place` int64 [cells]: where in `index`
    a cell of the list is."""

    b: Builder
    index: str
    place: str

    def among(self, other: Cells | None) -> str:
        """int64 [n]: where the cells are in `other`, which has them all; None is the list of all cells."""
        return self.index if other is None else self.b.op("Gather", other.place, self.index, axis=0)

    def of(self, x: str, other: Cells | None = None) -> str:
        """The rows of x, which has one for each cell of `other`, that are of the list."""
        return self.b.op("Gather", x, self.among(other), axis=0)

    def put(self, rows: str, x: str, other: Cells | None = None) -> str:
        """x, which has a row for each cell of `other`, with `rows` [n, ..] in their places."""
        return self.b.op("ScatterND", x, self.b.op("Unsqueeze", self.among(other), self.b.ints(1)), rows)


def listed(b: Builder, mask: str) -> Cells:
    """Where `mask`, bool [cells], is true."""
    index = b.op("Squeeze", b.op("NonZero", mask), b.ints(0))
    count = b.op("CumSum", b.op("Cast", mask, to=TensorProto.INT64), b.const(0, np.int64))
    return Cells(b, index, b.op("Sub", count, b.const(1, np.int64)))


def every_cell(b: Builder, grid: Grid) -> str:
    """bool [cells]: true."""
    return b.op("Expand", b.const([True]), grid.cells)


def coded_cells(b: Builder, grid: Grid, counts: str) -> str:
    """bool [cells]: cells with tokens, and cell 0."""
    first = b.op("Equal", b.op("Range", b.const(0, np.int64), b.op("Squeeze", grid.cells), b.const(1, np.int64)), b.const(0, np.int64))
    return b.op("Or", b.op("Greater", counts, b.const(0, np.int32)), first)


def moving_cells(b: Builder, motion: str, position: str) -> str:
    """bool [cells]: cells that are not predicted by the samples in their own place."""
    field = b.op("Cast", b.reshape(motion, 5, -1), to=TensorProto.BOOL)
    moving = b.reshape(intra_cells(b, motion, position), -1)
    for plane in (0, 1, 3, 4):
        moving = b.op("Or", moving, b.op("Gather", field, b.const(plane, np.int64), axis=0))
    return moving


def around(b: Builder, grid: Grid, mask: str, reach: int) -> str:
    """bool [cells]: cells of `mask`, and those at most `reach` away, diagonally too."""
    plane = b.reshape(b.op("Cast", mask, to=TensorProto.FLOAT), 1, 1, grid.y, grid.x)
    near = b.op("MaxPool", plane, kernel_shape=[2 * reach + 1] * 2, pads=[reach] * 4)
    return b.reshape(b.op("Cast", near, to=TensorProto.BOOL), -1)


def lines_around(b: Builder, grid: Grid, mask: str, reach: int) -> tuple[Cells, Cells]:
    """The rows that are at most `reach` cells from one of `mask`, and the columns."""
    plane = b.reshape(b.op("Cast", mask, to=TensorProto.FLOAT), grid.y, grid.x)
    found = []
    for across in (1, 0):
        line = b.reshape(b.op("ReduceMax", plane, b.ints(across), keepdims=0), 1, 1, 1, -1)
        line = b.op("MaxPool", line, kernel_shape=[1, 2 * reach + 1], pads=[0, reach, 0, reach])
        found.append(listed(b, b.reshape(b.op("Cast", line, to=TensorProto.BOOL), -1)))
    return found[0], found[1]


def reference_cells(b: Builder, cfg: Config, grid: Grid, reference: str) -> tuple[str, str]:
    """The reference as the samples of cells, the same in every frame: uint8 [cells, T * 256], [cells, T * 128]."""
    half, t = CELL // 2, cfg.block_length
    luma, chroma = planes(b, grid, reference)
    luma = b.op("Transpose", b.reshape(luma, grid.y, CELL, grid.x, CELL), perm=[0, 2, 1, 3])
    chroma = b.op("Transpose", b.reshape(chroma, 2, grid.y, half, grid.x, half), perm=[1, 3, 2, 0, 4])
    return tuple(b.op("Concat", *[b.reshape(x, -1, n)] * t, axis=1) for x, n in ((luma, CELL * CELL), (chroma, half * CELL)))
