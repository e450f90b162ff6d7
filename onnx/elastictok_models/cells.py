# SPDX-License-Identifier: MIT OR Apache-2.0
"""Lists of the cells, and of parts of them, that a block changes: work is done for those alone.

No list is ever empty, since not every provider takes tensors without elements: cell 0 is always in it. Parts of lists are empty only in
pictures of a few cells."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from .builder import Builder, Grid
from .config import CELL, REACH, K
from .prediction import intra_cells


@dataclass(frozen=True)
class Cells:
    """n cells of a picture, in its order. `index` int64 [n]: which; `place` int64 [cells]: where in `index`
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


def counted_cells(b: Builder, grid: Grid) -> str:
    """int64 [cells]: 0, 1, .."""
    return b.op("Range", b.const(0, np.int64), b.op("Squeeze", grid.cells), b.const(1, np.int64))


def first_cells(b: Builder, grid: Grid, n: int = 1) -> str:
    """bool [cells]: the first n."""
    return b.op("Less", counted_cells(b, grid), b.const(n, np.int64))


def parts_of(b: Builder, count: str, parts: int, start: str | None = None) -> list[str]:
    """int64 [1] each, parts + 1 of them: bounds of equal parts of `count` (int64 [1]), from `start` on."""
    bounds = [b.op("Div", b.op("Mul", count, b.ints(i)), b.ints(parts)) for i in range(parts)] + [count]
    return bounds if start is None else [b.op("Add", start, one) for one in bounds]


def coded_cells(b: Builder, counts: str) -> str:
    """bool [cells]: cells with tokens."""
    return b.op("Greater", counts, b.const(0, np.int32))


def moving_cells(b: Builder, motion: str, position: str) -> str:
    """bool [cells]: cells that are not predicted by the samples in their own place."""
    field = b.op("Cast", b.reshape(motion, 5, -1), to=TensorProto.BOOL)
    moving = b.reshape(intra_cells(b, motion, position), -1)
    for plane in range(5):
        moving = b.op("Or", moving, b.op("Gather", field, b.const(plane, np.int64), axis=0))
    return moving


def around(b: Builder, grid: Grid, mask: str, reach: int) -> str:
    """bool [cells]: cells of `mask`, and those at most `reach` away, diagonally too."""
    plane = b.reshape(b.op("Cast", mask, to=TensorProto.FLOAT), 1, 1, grid.y, grid.x)
    near = b.op("MaxPool", plane, kernel_shape=[2 * reach + 1] * 2, pads=[reach] * 4)
    return b.reshape(b.op("Cast", near, to=TensorProto.BOOL), -1)


@dataclass(frozen=True)
class Strips:
    """Strips of a picture, column by column: a strip is K patches of a cell, side by side. Strips are counted in a picture with one more below
    every column, and a column more on the left and on the right. `inside`: bool [all], which the filter works on; `listed`: these, and those
    above and below each run of them, which stand for zeros; n in all."""

    b: Builder
    grid: Grid
    listed: Cells
    inside: str

    @property
    def index(self) -> str:
        """int64 [n]: which they are."""
        return self.listed.index

    @property
    def down(self) -> str:
        """int64 [1]: strips in a column."""
        return self.b.op("Add", self.grid.patches_y, self.b.ints(1))

    @property
    def count(self) -> str:
        """int64 [1]: n."""
        return self.b.op("Shape", self.index)

    @property
    def zeros(self) -> str:
        """int64 [m]: where in the list the strips are that stand for zeros; at least one."""
        none = self.b.op("Not", self.b.op("Gather", self.inside, self.index, axis=0))
        return self.b.op("Squeeze", self.b.op("NonZero", none), self.b.ints(0))

    @property
    def place(self) -> str:
        """int64 [all]: where in the list each strip is; one that stands for zeros, where the filter does not work on it."""
        return self.b.op("Where", self.inside, self.listed.place, self.b.slice(self.zeros, 0, 1, 0))

    def sides(self) -> tuple[str, str]:
        """int32 [n, 1] each: where among the list's patches the one to the left of each strip is, and the one to its right."""
        first = self.b.op("Cast", self.b.op("Mul", self.place, self.b.ints(K)), to=TensorProto.INT32)
        # to the left of the strip above the picture's first is, by number, the last of all, which is in no list
        left, right = (self.b.op("Gather", first, self.b.op(kind, self.index, self.down), axis=0) for kind in ("Sub", "Add"))
        left = self.b.op("Add", left, self.b.const([K - 1], np.int32))
        return tuple(self.b.op("Unsqueeze", v, self.b.ints(1)) for v in (left, right))

    def rows_and_cells(self) -> tuple[str, str]:
        """int64 [n] each: in which row of its cell a strip is, and the cell; any for those outside the picture."""
        row = self.b.op("Min", self.b.op("Mod", self.index, self.down), self.b.op("Sub", self.grid.patches_y, self.b.ints(1)))
        column = self.b.op("Sub", self.b.op("Div", self.index, self.down), self.b.ints(1))
        cell = self.b.op("Add", self.b.op("Mul", self.b.op("Div", row, self.b.ints(K)), self.grid.x), column)
        return self.b.op("Mod", row, self.b.ints(K)), cell

    def at(self, row: str, column: str) -> str:
        """Where in the list the strips in these rows (of patches) and columns (of cells) are, as `place` has it."""
        column = self.b.op("Mul", self.b.op("Add", column, self.b.ints(1)), self.down)
        return self.b.op("Gather", self.place, self.b.op("Add", row, column), axis=0)


def corrected_patches(b: Builder, picture: Grid, grid: Grid, counts: str, cells: Cells) -> str:
    """bool [n, K (columns), K (rows)]: which patches of the cells of a band are of cells with tokens, or next to one, diagonally too."""
    axis = lambda n: b.op("Range", b.const(0, np.int64), b.op("Squeeze", n), b.const(1, np.int64))
    frame = b.op("Add", picture.x, b.ints(2))  # cells are counted in a picture with a cell more on every side
    place = b.op("Add", b.op("Mul", b.op("Unsqueeze", axis(picture.y), b.ints(1)), frame), axis(picture.x))
    near = [b.op("Add", b.op("Mul", frame, b.ints(y)), b.ints(x)) for y in range(3) for x in range(3)]
    place = b.op("Gather", b.reshape(place, -1), grid.in_picture(b, cells.index), axis=0)
    near = b.op("Add", b.op("Unsqueeze", place, b.ints(1)), b.op("Concat", *near, axis=0))
    coded = b.op("Cast", b.op("Greater", counts, b.const(0, np.int32)), to=TensorProto.FLOAT)
    coded = b.op("Pad", b.reshape(coded, picture.y, picture.x), b.ints(1, 1, 1, 1), b.const(np.float32(0)))
    coded = b.op("Gather", b.reshape(coded, -1), near, axis=0)  # [n, 9]
    reached = [np.array([-1 * (k == 0), 0, 1 * (k == K - 1)]) for k in range(K)]
    touches = np.array([[y in reached[row] and x in reached[column] for column in range(K) for row in range(K)] for y in (-1, 0, 1) for x in (-1, 0, 1)])
    return b.reshape(b.op("Cast", b.op("MatMul", coded, b.const(touches, np.float32)), to=TensorProto.BOOL), -1, K, K)


def filtered_strips(b: Builder, picture: Grid, grid: Grid, counts: str) -> Strips:
    """Strips of a band: those of cells with tokens, of the cells beside these, and up to REACH patches above and below either."""
    coded = b.op("Cast", b.op("Greater", counts, b.const(0, np.int32)), to=TensorProto.FLOAT)
    plane = b.op("MaxPool", b.reshape(coded, 1, 1, picture.y, picture.x), kernel_shape=[1, 3], pads=[0, 1] * 2)
    row = b.op("Div", b.op("Range", b.const(0, np.int64), b.op("Squeeze", picture.patches_y), b.const(1, np.int64)), b.ints(K))
    plane = b.op("Gather", b.reshape(plane, picture.y, picture.x), row, axis=0)
    plane = b.reshape(b.op("Transpose", plane, perm=[1, 0]), 1, 1, picture.x, picture.patches_y)
    plane = b.op("MaxPool", plane, kernel_shape=[1, 2 * REACH + 1], pads=[0, REACH] * 2)
    plane = grid.part(b, plane, 3, K)
    plane = b.reshape(b.op("Pad", plane, b.ints(0, 0, 1, 0, 0, 0, 1, 1), b.const(np.float32(0))), 1, 1, -1)
    boolean = lambda x: b.reshape(b.op("Cast", x, to=TensorProto.BOOL), -1)
    inside, beside = boolean(plane), boolean(b.op("MaxPool", plane, kernel_shape=[3], pads=[1, 1]))
    # the one above the picture's first: the list needs one that stands for zeros where nothing is coded
    numbers = b.op("Range", b.const(0, np.int64), b.op("Squeeze", b.op("Shape", inside)), b.const(1, np.int64))
    return Strips(b, grid, listed(b, b.op("Or", beside, b.op("Equal", numbers, grid.patches_y))), inside)


# Bytes get from pictures to cells and back in runs of eight, as one axis that moves at a time: ONNX Runtime then moves a run in one
# piece. Other transpositions take three to ten times as long.


def cut(b: Builder, grid: Grid, luma: str, chroma: str, t: int) -> tuple[str, str]:
    """Samples of all cells of t frames, uint8, from their planes in the order of planes(): luma [cells, t * 256], chroma [cells, t * 128], in
    the order of predict()'s outputs."""
    half = CELL // 2
    luma = b.op("Transpose", b.reshape(luma, t, grid.y, -1), perm=[1, 0, 2])
    luma = b.op("Transpose", b.reshape(luma, grid.y, t * CELL, -1, half), perm=[0, 2, 1, 3])
    luma = b.op("Transpose", b.reshape(luma, -1, 2, t * CELL, half), perm=[0, 2, 1, 3])
    chroma = b.op("Transpose", b.reshape(chroma, t, 2, grid.y, half, -1), perm=[2, 0, 3, 1, 4])
    chroma = b.op("Transpose", b.reshape(chroma, grid.y, t * CELL, -1, half), perm=[0, 2, 1, 3])
    return b.reshape(luma, -1, t * CELL * CELL), b.reshape(chroma, -1, t * CELL * half)


def joined(b: Builder, grid: Grid, luma: str, chroma: str, t: int) -> tuple[str, str]:
    """The way back: the planes of all frames, uint8 [t, rows, width] each."""
    half = CELL // 2
    luma = b.op("Transpose", b.reshape(luma, -1, t * CELL, 2, half), perm=[0, 2, 1, 3])
    luma = b.op("Transpose", b.reshape(luma, grid.y, -1, t * CELL, half), perm=[0, 2, 1, 3])
    luma = b.op("Transpose", b.reshape(luma, grid.y, t, -1), perm=[1, 0, 2])
    chroma = b.op("Transpose", b.reshape(chroma, grid.y, grid.x, t * CELL, half), perm=[0, 2, 1, 3])
    chroma = b.op("Transpose", b.reshape(chroma, grid.y, t, half, 2, -1), perm=[1, 3, 0, 2, 4])
    return tuple(b.reshape(x, t, -1, grid.width) for x in (luma, chroma))
