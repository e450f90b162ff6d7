# SPDX-License-Identifier: MIT OR Apache-2.0
"""Overlapped block motion compensation of the cells that ask for it: their prediction fades into what the cells around them would
predict in their place (Orchard and Sullivan, Overlapped Block Motion Compensation, 1994). docs/builtin.md has the arithmetic."""
from __future__ import annotations

import numpy as np
from onnx import TensorProto

from .builder import Builder, Grid
from .cells import Cells, first_cell, listed
from .config import CELL, Config
from .prediction import compensate, intra_cells

BLENDED = 2  # mode of a cell
PARTS = 32  # that a sample is blended of
PRECISION = 256  # of the predictions that are blended, and of their mean


def side_weights(size: int, planes: int) -> np.ndarray:
    """int [4, size, planes * size]: parts of the predictions by the motion of the cells above, below, left and right."""
    near = np.arange(size // 2, 0, -1)  # largest at the edge
    near = np.concatenate([near if size == CELL else 2 * near - 1, np.zeros(size // 2, int)])
    rows = np.stack([near, near[::-1]])
    vertical = np.repeat(rows[:, :, None], planes * size, 2)
    horizontal = np.repeat(np.tile(rows, planes)[:, None], size, 1)
    return np.concatenate([vertical, horizontal])


def predict(b: Builder, cfg: Config, grid: Grid, motion: str, position: str, reference: str, cells: Cells | None = None,
            names: tuple[str | None, str | None] = (None, None)) -> tuple[str, str]:
    """Prediction of `cells`, n of them, or of all: luma float32 [n, T, 16, 16], chroma [n, T, 8, 16]; under `names`, where given."""
    i32 = lambda v: b.const(v, np.int32)
    column = lambda v, *axes: b.op("Unsqueeze", v, b.ints(*axes))
    field = b.reshape(motion, 5, -1)
    intra = b.reshape(intra_cells(b, motion, position), -1)
    every = b.op("Range", i32(0), b.op("Squeeze", b.op("Cast", grid.cells, to=TensorProto.INT32)), i32(1))
    own = (field, intra, every)
    if cells is not None:
        own = b.op("Gather", field, cells.index, axis=1), cells.of(intra), cells.of(every)
    plain = compensate(b, cfg, grid, *own, reference)
    mode = b.op("Gather", field, b.const(2, np.int64), axis=0)
    mask = b.op("And", b.op("Equal", mode, i32(BLENDED)), b.op("Not", intra))
    blended = listed(b, b.op("Or", mask, first_cell(b, grid)))
    asked, place = blended.of(mask), blended.index
    y, x = (b.op(kind, place, grid.x) for kind in ("Div", "Mod"))
    last_y, last_x = (b.op("Sub", n, b.ints(1)) for n in (grid.y, grid.x))
    one = b.ints(1)
    sides = ((b.op("Greater", y, b.ints(0)), b.op("Sub", place, grid.x)), (b.op("Less", y, last_y), b.op("Add", place, grid.x)),
             (b.op("Greater", x, b.ints(0)), b.op("Sub", place, one)), (b.op("Less", x, last_x), b.op("Add", place, one)))
    fields = []
    for inside, of in sides:
        of = b.op("Where", inside, of, place)
        takes = b.op("And", asked, b.op("Not", b.op("Gather", intra, of, axis=0)))
        fields.append(b.op("Gather", field, b.op("Where", takes, of, place), axis=1))
    repeated = lambda v: b.op("Concat", *[v] * 4, axis=0)
    around = compensate(b, cfg, grid, b.op("Concat", *fields, axis=1), repeated(blended.of(intra)), repeated(blended.of(every)), reference)
    found = []
    for own, sided, planes, size, name in zip(plain, around, (1, 2), (CELL, CELL // 2), names):
        weights = side_weights(size, planes)
        whole = lambda v: b.op("Round", b.op("Mul", v, b.const(np.float32(PRECISION))))
        old = blended.of(own, cells)
        sided = b.reshape(whole(sided), 4, -1, cfg.block_length, size, CELL)
        total = b.op("Mul", whole(old), b.const((PARTS - weights.sum(0)).astype(np.float32)))
        for i, weight in enumerate(weights):
            part = b.op("Gather", sided, b.const(i, np.int64), axis=0)
            total = b.op("Add", total, b.op("Mul", part, b.const(weight.astype(np.float32))))
        mean = b.op("Round", b.op("Mul", total, b.const(np.float32(1 / PARTS))))
        mean = b.op("Mul", mean, b.const(np.float32(1 / PRECISION)))
        rows = b.op("Where", column(asked, 1, 2, 3), mean, old)
        found.append(blended.put(rows, own, cells, out=name))
    return found[0], found[1]
