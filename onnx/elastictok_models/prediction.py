# SPDX-License-Identifier: MIT OR Apache-2.0
"""Motion compensation as a graph. docs/bundle.md defines the motion planes."""
import numpy as np
from onnx import TensorProto

from .builder import INT64_MAX, Builder, Grid
from .config import GREY, Config
from .transform import CHROMA_MATRICES, LUMA_MATRICES, motion_matrices

BIAS = 1 << 16  # whole pixels; keeps integer division and remainder on positive numbers: both then floor


def intra_cells(b: Builder, motion: str, position: str) -> str:
    """bool [1, cells_y, cells_x]: cells that nothing predicts."""
    return b.op("Or", b.op("Greater", b.slice(motion, 2, 3, 0), b.const(0, np.int32)), b.op("Equal", position, b.const(0, np.int64)))


def predict(b: Builder, cfg: Config, grid: Grid, motion: str, position: str, reference: str,
            names: tuple[str | None, str | None] = (None, None)) -> tuple[str, str]:
    """Motion-compensated prediction: luma float32 [cells_y, cells_x, T, 16, 16], chroma [cells_y, cells_x, T, 8, 16], rows of
    8 samples of U and 8 of V; under `names`, where given.

    A block of samples at an arbitrary place is gathered as rows of a few aligned chunks; a table has every run of that many
    chunks in one piece, both planes of chroma side by side, so that a row is one copy. Shifting inside the window and
    interpolating between samples is a product with a matrix picked by offset and phase. Rows and chunks beyond the
    picture repeat its edge. Intra cells gather a grey row instead: the filters' gain is one, so they predict grey."""
    t_len = cfg.block_length
    flat = b.reshape(reference, -1)
    luma = b.reshape(b.slice(flat, 0, grid.pixels, 0), 1, grid.height, grid.width)
    chroma = b.reshape(b.slice(flat, grid.pixels, INT64_MAX, 0), 2, grid.half_height, grid.half_width)
    intra = b.op("Unsqueeze", b.op("Squeeze", intra_cells(b, motion, position), b.ints(0)), b.ints(2))
    # displacement of frame t in eighths of a luma pixel = sixteenths of a chroma pixel: on the straight line, and off it before the last
    factors = b.const(np.array([2 * (t + 1) // t_len for t in range(t_len)], np.int32))
    bends = b.const(np.array([int(t + 1 < t_len) for t in range(t_len)], np.int32))
    axes = []
    for vector, bend in ((0, 3), (1, 4)):
        plane = lambda i: b.op("Unsqueeze", b.op("Squeeze", b.slice(motion, i, i + 1, 0), b.ints(0)), b.ints(2))
        axes.append(b.op("Add", b.op("Mul", plane(vector), factors), b.op("Mul", plane(bend), bends)))  # [cells_y, cells_x, T]
    i32 = lambda v: b.const(v, np.int32)
    to32 = lambda v: b.op("Cast", v, to=TensorProto.INT32)
    blocks = []
    for picture, count, spec, height, name in ((luma, 1, LUMA_MATRICES, grid.height, names[0]),
                                               (chroma, 2, CHROMA_MATRICES, grid.half_height, names[1])):
        size, taps, phases, unit, chunks = spec
        edge = (chunks + 1) * unit
        whole, phase = [], []
        for d in axes:
            up = b.op("Add", d, i32(BIAS * phases))
            whole.append(b.op("Sub", b.op("Div", up, i32(phases)), i32(BIAS)))
            phase.append(b.op("Mod", up, i32(phases)))
        # first tap of the cell's first sample
        span = lambda n: b.op("Mul", b.op("Range", i32(0), b.op("Squeeze", to32(n)), i32(1)), i32(size))
        first = lambda n, *axes: b.op("Unsqueeze", b.op("Sub", span(n), i32(taps // 2 - 1)), b.ints(*axes))
        left = b.op("Add", b.op("Add", whole[1], first(grid.x, 1)), i32(BIAS * unit))
        chunk, offset = b.op("Sub", b.op("Div", left, i32(unit)), i32(BIAS - edge // unit)), b.op("Mod", left, i32(unit))
        # runs of chunks in a row of the padded picture
        runs = b.op("Add", b.op("Mul", to32(grid.x), i32(size // unit)), i32(2 * edge // unit - chunks + 1))
        chunk = b.clip(chunk, i32(0), b.op("Sub", runs, i32(1)))
        top = b.op("Where", intra, i32(1 << 20), b.op("Add", whole[0], first(grid.y, 1, 2)))
        bottom = b.op("Unsqueeze", b.op("Sub", to32(height), b.op("Where", intra, i32(0), i32(1))), b.ints(3))
        rows = b.op("Add", b.op("Unsqueeze", top, b.ints(3)), i32(np.arange(size + taps - 1)))
        rows = b.clip(rows, i32(0), bottom)  # [cells_y, cells_x, T, R]; row `height` is grey
        index = b.op("Add", b.op("Mul", rows, runs), b.op("Unsqueeze", chunk, b.ints(3)))
        padded = b.op("Pad", picture, b.ints(0, 0, edge, 0, 0, edge), mode="edge")
        padded = b.op("Pad", padded, b.ints(0, 0, 0, 0, 1, 0), b.const(GREY, np.uint8))
        padded = b.reshape(padded, count, b.op("Add", height, b.ints(1)), -1, unit)
        runs64 = b.op("Cast", b.reshape(runs, 1), to=TensorProto.INT64)
        pieces = []
        for plane in range(count):
            one = b.op("Squeeze", b.slice(padded, plane, plane + 1, 0), b.ints(0))
            pieces += [b.slice(one, i, b.op("Add", runs64, b.ints(i)), 1) for i in range(chunks)]
        width = chunks * unit
        table = b.reshape(b.op("Concat", *pieces, axis=2), -1, count * width)
        window = b.op("Gather", table, index, axis=0)
        if count > 1:
            window = b.reshape(window, grid.y, grid.x, t_len, (size + taps - 1) * count, width)
        horizontal, vertical = motion_matrices(*spec)
        mh = b.op("Gather", b.const(horizontal), b.op("Add", b.op("Mul", offset, i32(phases)), phase[1]), axis=0)
        mv = b.op("Gather", b.const(vertical), phase[0], axis=0)
        # in integers: samples stay bytes until they are few
        block = b.op("Cast", b.op("MatMulInteger", window, mh), to=TensorProto.FLOAT)
        if count > 1:
            block = b.reshape(block, grid.y, grid.x, t_len, size + taps - 1, count * size)
        blocks.append(b.op("MatMul", mv, block, out=name))
    return blocks[0], blocks[1]
