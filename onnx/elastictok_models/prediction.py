# SPDX-License-Identifier: MIT OR Apache-2.0
"""Motion compensation as a graph. docs/bundle.md defines the motion planes."""
from __future__ import annotations

from itertools import pairwise

import numpy as np
from onnx import TensorProto

from .builder import INT64_MAX, Builder, Grid
from .config import GREY, Config
from .transform import CHROMA_MATRICES, LUMA_MATRICES, Interpolation

BIAS = 1 << 16  # whole pixels; keeps integer division and remainder on positive numbers: both then floor


def intra_cells(b: Builder, motion: str, position: str) -> str:
    """bool [1, cells_y, cells_x]: cells that nothing predicts."""
    return b.op("Or", b.op("Equal", b.slice(motion, 2, 3, 0), b.const(1, np.int32)), b.op("Equal", position, b.const(0, np.int64)))


def planes(b: Builder, grid: Grid, frames: str, t: int = 1) -> tuple[str, str]:
    """The planes of t frames, uint8 [t, frame_rows, width], or of the reference, [frame_rows, width]: luma [t, height, width], chroma
    [2 * t, height/2, width/2]."""
    flat = b.reshape(frames, t, -1)
    return (b.reshape(b.slice(flat, 0, grid.pixels, 1), t, grid.height, grid.width),
            b.reshape(b.slice(flat, grid.pixels, INT64_MAX, 1), 2 * t, grid.half_height, grid.half_width))


def compensate(b: Builder, cfg: Config, grid: Grid, field: str, intra: str, place: str, bounds: list[str],
               reference: str) -> list[tuple[str, str]]:
    """Motion-compensated prediction of n cells: luma float32 [.., T, 16, 16], chroma [.., T, 8, 16] of those between each two neighbours of
    `bounds`, int64 [1] from 0 to n. `field`: int32 [5, n], their motion; `intra`: bool [n]; `place`: int32 [n], which cells of the picture
    they are.

    A block of samples at an arbitrary place is gathered as rows of windows (Interpolation) from a table that has every window in one
    piece. Shifting inside the window and interpolating between samples is a product with a matrix picked by offset and phase. Samples
    beyond the picture repeat its edge. Intra cells gather grey rows instead: the filters' gain is one, so they predict grey.

    Matrices and products of all cells would not stay in a processor's cache, and then take nearly twice as long."""
    t_len = cfg.block_length
    i32 = lambda v: b.const(v, np.int32)
    to32 = lambda v: b.op("Cast", v, to=TensorProto.INT32)
    column = lambda v, *axes: b.op("Unsqueeze", v, b.ints(*axes))
    item = lambda v, i: b.op("Gather", v, b.const(i, np.int64), axis=0)
    # displacement of frame t in eighths of a luma pixel = sixteenths of a chroma pixel: on the straight line, and off it before the last;
    # rows and columns, int32 [2, T, n]: operators are slow where the last dimension is short
    factors = b.const(np.array([[2 * (t + 1) // t_len] for t in range(t_len)], np.int32))
    bends = b.const(np.array([[int(t + 1 < t_len)] for t in range(t_len)], np.int32))
    pair = lambda first: column(b.op("Gather", field, b.ints(first, first + 1), axis=0), 1)
    displacement = b.op("Add", b.op("Mul", pair(0), factors), b.op("Mul", pair(3), bends))
    cells_x = b.op("Squeeze", to32(grid.x))
    place = b.op("Concat", *(column(b.op(kind, place, cells_x), 0, 1) for kind in ("Div", "Mod")), axis=0)
    found = []
    for picture, spec, height, width in zip(planes(b, grid, reference), (LUMA_MATRICES, CHROMA_MATRICES),
                                            (grid.height, grid.half_height), (grid.width, grid.half_width)):
        size, taps, phases, unit, window, _ = spec
        copies = window // unit
        table, across, copy = _windows(b, picture, spec, height, width)
        # first tap of the cell's first sample: row and phase, unit of the row and offset with phase
        parts = i32(np.array([phases, unit * phases]).reshape(2, 1, 1))
        origin = (BIAS - (taps // 2 - 1)) * phases
        at = b.op("Add", displacement, b.op("Add", b.op("Mul", place, i32(size * phases)), i32(origin)))
        whole, rest = b.op("Div", at, parts), b.op("Mod", at, parts)
        low = i32(np.array([BIAS - spec.rows, (BIAS - window) // unit]).reshape(2, 1, 1))
        high = b.op("Add", b.op("Concat", to32(height), b.op("Div", to32(width), i32([unit])), axis=0), i32([BIAS, BIAS // unit + 1]))
        whole = b.op("Sub", b.clip(whole, low, b.op("Reshape", high, b.ints(2, 1, 1))), low)
        grey = b.op("Add", to32(height), i32([2 * spec.rows]))
        row, at = b.op("Where", intra, grey, item(whole, 0)), item(whole, 1)
        first = b.op("Add", b.op("Mul", row, to32(across)), b.op("Div", at, i32(copies)))
        first = b.op("Add", first, b.op("Mul", b.op("Mod", at, i32(copies)), to32(copy)))
        first, offset, phase = (b.op("Transpose", v, perm=[1, 0]) for v in (first, item(rest, 1), item(rest, 0)))  # [n, T]
        rows = b.op("Mul", i32(np.arange(spec.rows)), to32(across))
        horizontal, vertical = (b.const(m) for m in spec.matrices())
        # samples stay bytes until they are few: ONNX Runtime fuses this to a product of integers on processors
        real = lambda x, dtype: b.op("DequantizeLinear", x, b.const(np.float32(1)), b.const(0, dtype))
        blocks = []
        for start, end in pairwise(bounds):
            part = lambda v: b.slice(v, start, end, 0)
            samples = b.op("Gather", table, b.op("Add", column(part(first), 2), rows), axis=0)
            block = b.op("MatMul", real(samples, np.uint8), real(b.op("Gather", horizontal, part(offset), axis=0), np.int8))
            blocks.append(b.op("MatMul", b.op("Gather", vertical, part(phase), axis=0), block))
        found.append(blocks)
    return list(zip(*found))


def _windows(b: Builder, picture: str, spec: Interpolation, height: str, width: str) -> tuple[str, str, str]:
    """Every window of a picture: table uint8 [m, planes * window], and int64 [1] each: by how much the place of a window in it grows from row to
    row, and between windows that begin a unit apart.

    The table is copies of the picture, each shifted by a unit more than the one before, so that a row of the table begins at each unit once.
    The first window of a row begins `window` samples left of the picture. Above and below it are as many rows as a cell needs, and below
    these as many grey ones."""
    size, edge, planes = b.ints(spec.window), spec.window, spec.planes
    across = b.op("Div", b.op("Add", width, b.ints(edge + spec.unit + 2 * spec.window - 1)), size)
    right = b.op("Sub", b.op("Mul", across, size), b.op("Add", width, b.ints(edge)))
    padded = b.op("Pad", picture, b.shape(0, spec.rows, edge, 0, spec.rows, right), mode="edge")
    padded = b.op("Pad", padded, b.ints(0, 0, 0, 0, spec.rows, 0), b.const(GREY, np.uint8))
    if planes > 1:
        padded = b.op("Transpose", b.reshape(padded, planes, -1, spec.unit), perm=[1, 0, 2])
    shift = b.const(np.zeros(planes * (spec.window - spec.unit)), np.uint8)
    table = b.reshape(b.op("Concat", *[b.reshape(padded, -1), shift] * (spec.window // spec.unit), axis=0), -1, planes * spec.window)
    return table, across, b.op("Add", b.op("Mul", across, b.op("Add", height, b.ints(3 * spec.rows))), b.ints(1))
