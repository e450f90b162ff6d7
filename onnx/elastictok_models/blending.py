# SPDX-License-Identifier: MIT OR Apache-2.0
"""Overlapped block motion compensation of the cells that ask for it: their prediction fades into what the cells around them would
predict in their place (Orchard and Sullivan, Overlapped Block Motion Compensation, 1994). docs/builtin.md has the arithmetic."""
from __future__ import annotations

import numpy as np
from onnx import TensorProto

from .builder import Builder, Grid
from .cells import Cells, first_cell, listed
from .config import CELL, Config
from .prediction import Moved, compensate, intra_cells

BLENDED = 2  # mode of a cell
PARTS = 32  # that a sample is blended of
PRECISION = 256  # of the predictions that are blended, and of their mean


def weights(size: int, planes: int) -> tuple[np.ndarray, np.ndarray]:
    """int [size, planes * size]: parts of the prediction by the motion of the cell above or below, and of that by the left or right one's."""
    near = np.minimum(np.arange(size), np.arange(size)[::-1])  # the nearer edge
    parts = size // 2 - near if size == CELL else size - 1 - 2 * near
    return np.repeat(parts[:, None], planes * size, 1), np.tile(parts, (size, planes))


def predict(b: Builder, cfg: Config, grid: Grid, motion: str, position: str, reference: str, cells: Cells | None = None,
            names: tuple[str | None, str | None] = (None, None)) -> tuple[str, str]:
    """Prediction of `cells`, n of them, or of all: luma float32 [n, T, 16, 16], chroma [n, T, 8, 16]; under `names`, where given."""
    t_len = cfg.block_length
    i32 = lambda v: b.const(v, np.int32)
    column = lambda v, *axes: b.op("Unsqueeze", v, b.ints(*axes))
    pick = lambda v, index, axis: b.op("Gather", v, index, axis=axis)
    field = b.reshape(motion, 5, -1)
    intra = b.reshape(intra_cells(b, motion, position), -1)
    every = b.op("Range", i32(0), b.op("Squeeze", b.op("Cast", grid.cells, to=TensorProto.INT32)), i32(1))
    own = Moved(field, intra, every)
    if cells is not None:
        own = Moved(pick(field, cells.index, 1), cells.of(intra), cells.of(every))
    mask = b.op("And", b.op("Equal", pick(field, b.const(2, np.int64), 0), i32(BLENDED)), b.op("Not", intra))
    blended = listed(b, b.op("Or", mask, first_cell(b, grid)))
    # the cells around each, int32 [4, n], and which of them predict something else
    beside = pick(_neighbours(b, grid, every), blended.index, 1)
    moved = pick(field, beside, 1)
    vectors = lambda v: pick(v, b.ints(0, 1, 3, 4), 0)
    same = b.op("Equal", vectors(moved), column(vectors(pick(field, blended.index, 1)), 1))
    differs = b.op("ReduceMax", b.op("Cast", b.op("Not", same), to=TensorProto.INT32), b.ints(0), keepdims=0)
    takes = b.op("And", blended.of(mask), b.op("Not", pick(intra, beside, 0)))
    takes = b.reshape(b.op("And", takes, b.op("Cast", differs, to=TensorProto.BOOL)), -1)
    first = b.op("Equal", b.op("Range", b.const(0, np.int64), b.op("Squeeze", b.op("Shape", takes)), b.const(1, np.int64)), b.const(0, np.int64))
    sides = listed(b, b.op("Or", takes, first))
    n = b.op("Shape", blended.index)
    place = pick(blended.of(every), b.op("Mod", sides.index, n), 0)
    still = b.op("Expand", b.const([False]), b.op("Shape", place))
    plain, sided = compensate(b, cfg, grid, [own, Moved(pick(b.reshape(moved, 5, -1), sides.index, 1), still, place)], reference)
    # of the predictions of the listed cells, and then of their sides: which one stands for each side, int64 [n, 4]
    which = b.op("Where", takes, b.op("Add", sides.place, n), b.op("Mod", b.op("Range", b.const(0, np.int64), b.op("Squeeze", b.op("Shape", takes)), b.const(1, np.int64)), n))
    which = b.op("Transpose", b.reshape(which, 4, -1), perm=[1, 0])

    def halves(x: str, part: int, *order: int) -> str:
        """x, with every `part` samples from what one of the sides predicts."""
        per_cell = t_len * CELL * size // part
        at = b.op("Mul", pick(which, b.ints(*order), 1), b.ints(per_cell))
        at = b.op("Add", column(at, 1), b.const(np.arange(per_cell).reshape(-1, len(order)), np.int64))
        return b.reshape(pick(b.reshape(x, -1, part), at, 0), -1, t_len, size, CELL)

    asked = column(blended.of(mask), 1, 2, 3)
    found = []
    for own, side, planes, size, name in zip(plain, sided, (1, 2), (CELL, CELL // 2), names):
        old = blended.of(own, cells)
        whole = b.op("Round", b.op("Mul", b.op("Concat", old, side, axis=0), b.const(np.float32(PRECISION))))
        vertical, horizontal = weights(size, planes)
        total = b.op("Mul", b.slice(whole, 0, n, 0), b.const((PARTS - vertical - horizontal) / PARTS, np.float32))
        for weight, predicted in ((vertical, halves(whole, CELL * size // 2, 0, 1)), (horizontal, halves(whole, size // 2, *[2, 3] * planes))):
            total = b.op("Add", total, b.op("Mul", predicted, b.const(weight / PARTS, np.float32)))
        mean = b.op("Mul", b.op("Round", total), b.const(np.float32(1 / PRECISION)))
        found.append(blended.put(b.op("Where", asked, mean, old), own, cells, out=name))
    return found[0], found[1]


def _neighbours(b: Builder, grid: Grid, every: str) -> str:
    """int32 [4, cells]: the cells above, below, left and right of each, itself where that is outside the picture."""
    to32 = lambda v: b.op("Cast", v, to=TensorProto.INT32)
    down, across, one = to32(grid.y), to32(grid.x), b.const([1], np.int32)
    y, x = (b.op(kind, every, across) for kind in ("Div", "Mod"))
    last_y, last_x = (b.op("Sub", v, one) for v in (down, across))
    sides = ((b.op("Greater", y, b.const(0, np.int32)), b.op("Sub", every, across)), (b.op("Less", y, last_y), b.op("Add", every, across)),
             (b.op("Greater", x, b.const(0, np.int32)), b.op("Sub", every, one)), (b.op("Less", x, last_x), b.op("Add", every, one)))
    return b.op("Concat", *(b.op("Unsqueeze", b.op("Where", inside, of, every), b.ints(0)) for inside, of in sides), axis=0)
