# SPDX-License-Identifier: MIT OR Apache-2.0
"""Motion compensation as a graph. docs/bundle.md defines the motion planes."""
from __future__ import annotations

import numpy as np
from onnx import TensorProto

from .builder import INT64_MAX, Builder, Grid
from .config import GREY, Config
from .transform import CHROMA_MATRICES, LUMA_MATRICES

BIAS = 1 << 16  # whole pixels; keeps integer division and remainder on positive numbers: both then floor


def intra_cells(b: Builder, motion: str, position: str) -> str:
    """bool [1, cells_y, cells_x]: cells that nothing predicts."""
    return b.op("Or", b.op("Equal", b.slice(motion, 2, 3, 0), b.const(1, np.int32)), b.op("Equal", position, b.const(0, np.int64)))


def planes(b: Builder, grid: Grid, reference: str) -> tuple[str, str]:
    """The planes of the reference: luma [1, height, width], chroma [2, height/2, width/2]."""
    flat = b.reshape(reference, -1)
    return (b.reshape(b.slice(flat, 0, grid.pixels, 0), 1, grid.height, grid.width),
            b.reshape(b.slice(flat, grid.pixels, INT64_MAX, 0), 2, grid.half_height, grid.half_width))


def compensate(b: Builder, cfg: Config, grid: Grid, field: str, intra: str, place: str, reference: str) -> tuple[str, str]:
    """Motion-compensated prediction of n cells: luma float32 [n, T, 16, 16], chroma [n, T, 8, 16]. `field`: int32 [5, n], their motion;
    `intra`: bool [n]; `place`: int32 [n], which cells of the picture they are.

    A block of samples at an arbitrary place is gathered as rows of a few aligned chunks; a table has every run of that many
    chunks in one piece, both planes of chroma side by side, so that a row is one copy. Shifting inside the window and
    interpolating between samples is a product with a matrix picked by offset and phase. Rows and chunks beyond the
    picture repeat its edge. Intra cells gather a grey row instead: the filters' gain is one, so they predict grey."""
    t_len = cfg.block_length
    i32 = lambda v: b.const(v, np.int32)
    to32 = lambda v: b.op("Cast", v, to=TensorProto.INT32)
    column = lambda v, *axes: b.op("Unsqueeze", v, b.ints(*axes))
    intra = column(intra, 1)
    cells_x = b.op("Squeeze", to32(grid.x))
    place = b.op("Div", place, cells_x), b.op("Mod", place, cells_x)
    # displacement of frame t in eighths of a luma pixel = sixteenths of a chroma pixel: on the straight line, and off it before the last
    factors = b.const(np.array([2 * (t + 1) // t_len for t in range(t_len)], np.int32))
    bends = b.const(np.array([int(t + 1 < t_len) for t in range(t_len)], np.int32))
    axes = []
    for vector, bend in ((0, 3), (1, 4)):
        plane = lambda i: column(b.op("Gather", field, b.const(i, np.int64), axis=0), 1)
        axes.append(b.op("Add", b.op("Mul", plane(vector), factors), b.op("Mul", plane(bend), bends)))  # [n, T]
    blocks = []
    for picture, spec, height, width in zip(planes(b, grid, reference), (LUMA_MATRICES, CHROMA_MATRICES),
                                                  (grid.height, grid.half_height), (grid.width, grid.half_width)):
        size, taps, phases, unit, chunks, count = spec
        edge = (chunks + 1) * unit
        whole, phase = [], []
        for d in axes:
            up = b.op("Add", d, i32(BIAS * phases))
            whole.append(b.op("Sub", b.op("Div", up, i32(phases)), i32(BIAS)))
            phase.append(b.op("Mod", up, i32(phases)))
        # first tap of the cell's first sample
        first = [column(b.op("Sub", b.op("Mul", at, i32(size)), i32(taps // 2 - 1)), 1) for at in place]
        left = b.op("Add", b.op("Add", whole[1], first[1]), i32(BIAS * unit))
        chunk, offset = b.op("Sub", b.op("Div", left, i32(unit)), i32(BIAS - edge // unit)), b.op("Mod", left, i32(unit))
        # chunks of a row of the picture, the last one filled up, and runs of chunks in a row of the padded picture
        filled = b.op("Div", b.op("Add", width, b.ints(unit - 1)), b.ints(unit))
        runs = b.op("Add", filled, b.ints(2 * edge // unit - chunks + 1))
        runs32 = b.op("Squeeze", to32(runs))
        chunk = b.clip(chunk, i32(0), b.op("Sub", runs32, i32(1)))
        top = b.op("Where", intra, i32(1 << 20), b.op("Add", whole[0], first[0]))
        bottom = column(b.op("Sub", to32(height), b.op("Where", intra, i32(0), i32(1))), 2)
        rows = b.op("Add", column(top, 2), i32(np.arange(size + taps - 1)))
        rows = b.clip(rows, i32(0), bottom)  # [n, T, R]; row `height` is grey
        index = b.op("Add", b.op("Mul", rows, runs32), column(chunk, 2))
        right = b.op("Sub", b.op("Mul", filled, b.ints(unit)), b.op("Sub", width, b.ints(edge)))
        padded = b.op("Pad", picture, b.shape(0, 0, edge, 0, 0, right), mode="edge")
        padded = b.op("Pad", padded, b.ints(0, 0, 0, 0, 1, 0), b.const(GREY, np.uint8))
        padded = b.reshape(padded, count, b.op("Add", height, b.ints(1)), -1, unit)
        pieces = []
        for plane in range(count):
            one = b.op("Squeeze", b.slice(padded, plane, plane + 1, 0), b.ints(0))
            pieces += [b.slice(one, i, b.op("Add", runs, b.ints(i)), 1) for i in range(chunks)]
        table = b.reshape(b.op("Concat", *pieces, axis=2), -1, count * chunks * unit)
        window = b.op("Gather", table, index, axis=0)
        horizontal, vertical = spec.matrices()
        mh = b.op("Gather", b.const(horizontal), b.op("Add", b.op("Mul", offset, i32(phases)), phase[1]), axis=0)
        mv = b.op("Gather", b.const(vertical), phase[0], axis=0)
        # samples stay bytes until they are few: ONNX Runtime fuses this to a product of integers on processors
        real = lambda x, dtype: b.op("DequantizeLinear", x, b.const(np.float32(1)), b.const(0, dtype))
        block = b.op("MatMul", real(window, np.uint8), real(mh, np.int8))
        blocks.append(b.op("MatMul", mv, block))
    return blocks[0], blocks[1]
