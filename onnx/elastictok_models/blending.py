# SPDX-License-Identifier: MIT OR Apache-2.0
"""Overlapped block motion compensation of the cells that ask for it: their prediction fades into what the cells around them would
predict in their place (Orchard and Sullivan, Overlapped Block Motion Compensation, 1994). docs/builtin.md has the arithmetic."""
from __future__ import annotations

import numpy as np
from onnx import TensorProto

from .builder import Builder, Grid
from .cells import listed
from .config import CELL, Config
from .prediction import compensate, intra_cells

BLENDED = 2  # mode of a cell
PARTS = 32  # that a sample is blended of
PRECISION = 256  # of the predictions that are blended, and of their mean


def weights(size: int, planes: int) -> tuple[np.ndarray, np.ndarray]:
    """int [size, planes * size]: parts of the prediction by the motion of the cell above or below, and of that by the left or right one's."""
    near = np.minimum(np.arange(size), np.arange(size)[::-1])  # the nearer edge
    parts = size // 2 - near if size == CELL else size - 1 - 2 * near
    return np.repeat(parts[:, None], planes * size, 1), np.tile(parts, (size, planes))


def predict(b: Builder, cfg: Config, grid: Grid, motion: str, position: str, reference: str, index: str | None = None,
            bounds: list[str] | None = None) -> list[tuple[str, str]]:
    """Prediction of the n cells `index`, int64 [n], or of all: luma float32 [.., T, 16, 16], chroma [.., T, 8, 16] of those between each two
    neighbours of `bounds`, int64 [1] from 0 to n; without, of all in one."""
    i32 = lambda v: b.const(v, np.int32)
    column = lambda v, *axes: b.op("Unsqueeze", v, b.ints(*axes))
    pick = lambda v, index, axis: b.op("Gather", v, index, axis=axis)
    counted = lambda v: b.op("Range", b.const(0, np.int64), b.op("Squeeze", b.op("Shape", v)), b.const(1, np.int64))
    field = b.reshape(motion, 5, -1)
    intra = b.reshape(intra_cells(b, motion, position), -1)
    every = b.op("Range", i32(0), b.op("Squeeze", b.op("Cast", grid.cells, to=TensorProto.INT32)), i32(1))
    mask = b.op("And", b.op("Equal", pick(field, b.const(2, np.int64), 0), i32(BLENDED)), b.op("Not", intra))
    of = lambda v, axis=0: v if index is None else pick(v, index, axis)
    own, mask = (of(field, 1), of(intra), of(every)), of(mask)
    bounds = bounds or [b.ints(0), b.op("Shape", mask)]
    # the first cell of each part is listed, whatever its mode, so that no list is empty
    starts = b.op("Concat", *bounds[:-1], axis=0)
    blended = listed(b, b.op("ScatterND", mask, column(starts, 1), b.op("Expand", b.const([True]), b.op("Shape", starts))))
    asked, place = blended.of(mask), blended.of(own[2])
    # the cells around each, int32 [4, m], and which of them predict something else
    beside = pick(_neighbours(b, grid, every), place, 1)
    moved = pick(field, beside, 1)
    vectors = lambda v: pick(v, b.ints(0, 1, 3, 4), 0)
    same = b.op("Equal", vectors(moved), column(vectors(pick(field, place, 1)), 1))
    differs = b.op("ReduceMax", b.op("Cast", b.op("Not", same), to=TensorProto.INT32), b.ints(0), keepdims=0)
    takes = b.op("And", asked, b.op("Not", pick(intra, beside, 0)))
    takes = b.reshape(b.op("And", takes, b.op("Cast", differs, to=TensorProto.BOOL)), -1)
    number, m = counted(takes), b.op("Shape", place)
    sides = listed(b, b.op("Or", takes, b.op("Equal", number, b.const(0, np.int64))))
    again = pick(own[0], blended.index, 1), blended.of(own[1]), place
    never = b.op("Expand", b.const([False]), b.op("Shape", sides.index))
    around = pick(b.reshape(moved, 5, -1), sides.index, 1), never, pick(place, b.op("Mod", sides.index, m), 0)
    field, intra, place = (b.op("Concat", *parts, axis=-1) for parts in zip(own, again, around))
    *plain, sources = compensate(b, cfg, grid, field, intra, place, [*bounds, b.op("Shape", place)], reference)
    # which of `sources` stands for each side, int64 [m, 4]
    which = b.op("Where", takes, b.op("Add", sides.place, m), b.op("Mod", number, m))
    which = b.op("Transpose", b.reshape(which, 4, -1), perm=[1, 0])
    mixed = _mixed(b, cfg, sources, which, asked)
    found = []
    ends = [pick(blended.place, start, 0) for start in bounds[:-1]] + [m]
    for parts, start, first, last in zip(plain, bounds, ends, ends[1:]):
        at = column(b.op("Sub", b.slice(blended.index, first, last, 0), start), 1)
        found.append(tuple(b.op("ScatterND", part, at, b.slice(rows, first, last, 0)) for part, rows in zip(parts, mixed)))
    return found


def _mixed(b: Builder, cfg: Config, sources: tuple[str, str], which: str, asked: str) -> list[str]:
    """Blends of m cells where `asked`, bool [m], luma and chroma as predict() has them. `sources`: what they are blended of, first each
    cell's own prediction; `which`: int64 [m, 4], of these, what the motion above, below, left and right predicts."""
    t_len = cfg.block_length
    column = lambda v, *axes: b.op("Unsqueeze", v, b.ints(*axes))
    own = lambda v: b.slice(v, 0, b.op("Shape", asked), 0)

    def halves(x: str, size: int, part: int, *order: int) -> str:
        """x, with every `part` samples from what one of the sides predicts."""
        per_cell = t_len * CELL * size // part
        at = b.op("Mul", b.op("Gather", which, b.ints(*order), axis=1), b.ints(per_cell))
        at = b.op("Add", column(at, 1), b.const(np.arange(per_cell).reshape(-1, len(order)), np.int64))
        return b.reshape(b.op("Gather", b.reshape(x, -1, part), at, axis=0), -1, t_len, size, CELL)

    found = []
    for source, planes, size in zip(sources, (1, 2), (CELL, CELL // 2)):
        whole = b.op("Round", b.op("Mul", source, b.const(np.float32(PRECISION))))
        vertical, horizontal = weights(size, planes)
        total = b.op("Mul", own(whole), b.const((PARTS - vertical - horizontal) / PARTS, np.float32))
        for weight, predicted in ((vertical, halves(whole, size, CELL * size // 2, 0, 1)),
                                  (horizontal, halves(whole, size, size // 2, *[2, 3] * planes))):
            total = b.op("Add", total, b.op("Mul", predicted, b.const(weight / PARTS, np.float32)))
        mean = b.op("Mul", b.op("Round", total), b.const(np.float32(1 / PRECISION)))
        found.append(b.op("Where", column(asked, 1, 2, 3), mean, own(source)))
    return found


def _neighbours(b: Builder, grid: Grid, every: str) -> str:
    """int32 [4, cells]: the cells above, below, left and right of each, itself where that is outside the picture."""
    to32 = lambda v: b.op("Cast", v, to=TensorProto.INT32)
    down, across, one = to32(grid.y), to32(grid.x), b.const([1], np.int32)
    y, x = (b.op(kind, every, across) for kind in ("Div", "Mod"))
    last_y, last_x = (b.op("Sub", v, one) for v in (down, across))
    sides = ((b.op("Greater", y, b.const(0, np.int32)), b.op("Sub", every, across)), (b.op("Less", y, last_y), b.op("Add", every, across)),
             (b.op("Greater", x, b.const(0, np.int32)), b.op("Sub", every, one)), (b.op("Less", x, last_x), b.op("Add", every, one)))
    return b.op("Concat", *(b.op("Unsqueeze", b.op("Where", inside, of, every), b.ints(0)) for inside, of in sides), axis=0)
