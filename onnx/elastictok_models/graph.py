# SPDX-License-Identifier: MIT OR Apache-2.0
"""The structured codec as ONNX graphs, written node by node.

Every shape follows from the cell grid (`cells_y`, `cells_x`), which is symbolic here and fixed per session, so that after
ONNX Runtime's constant folding only tensor arithmetic is left. docs/architecture.md has the contract."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .config import CELL, GREY, PATCH, Config
from .transform import CHROMA_MATRICES, LUMA_MATRICES, chroma_basis, chroma_weights, dct, motion_matrices, time_and_rows

if TYPE_CHECKING:
    from .distortion import DistortionHead
    from .filter import LoopFilter

OPSET, IR_VERSION = 20, 10
INT64_MAX = np.iinfo(np.int64).max


class Builder:
    """Appends nodes and constants; every method returns the name of its output."""

    def __init__(self):
        self.nodes, self.constants, self._count = [], {}, 0

    def op(self, kind: str, *inputs: str, out: str | None = None, **attributes) -> str:
        self._count += 1
        out = out or f"{kind.lower()}_{self._count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=f"n{self._count}_{kind}", **attributes))
        return out

    def const(self, value, dtype=None) -> str:
        array = np.asarray(value, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.constants:
            self.constants[key] = numpy_helper.from_array(array, f"c{len(self.constants)}")
        return self.constants[key].name

    def weight(self, name: str, value) -> str:
        """A trained constant under its own name, by which recover.py finds it again."""
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name)
        return name

    def ints(self, *values) -> str:
        return self.const(values, np.int64)

    def shape(self, *parts) -> str:
        """A shape from integers and names of int64 [1] tensors."""
        return self.op("Concat", *[self.ints(p) if isinstance(p, int) else p for p in parts], axis=0)

    def reshape(self, x: str, *parts) -> str:
        return self.op("Reshape", x, self.shape(*parts))

    def slice(self, x: str, start, end, axis: int) -> str:
        name = lambda v: self.ints(v) if isinstance(v, int) else v
        return self.op("Slice", x, name(start), name(end), self.ints(axis))

    def clip(self, x: str, low: str, high: str) -> str:
        return self.op("Max", self.op("Min", x, high), low)

    def model(self, name, inputs, outputs) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, name, inputs, outputs, list(self.constants.values()))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="elastictok")
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model, full_check=True)
        return model


class Grid:
    """Symbolic sizes of the picture."""

    def __init__(self, b: Builder, motion: str):
        shape = b.op("Shape", motion)
        self.y, self.x = b.slice(shape, 1, 2, 0), b.slice(shape, 2, 3, 0)
        mul = lambda a, c: b.op("Mul", a, b.ints(c) if isinstance(c, int) else c)
        self.height, self.width = mul(self.y, CELL), mul(self.x, CELL)
        self.pixels = mul(self.height, self.width)
        self.quarter = b.op("Div", self.pixels, b.ints(4))
        self.half_width = mul(self.x, CELL // 2)
        self.half_height = mul(self.y, CELL // 2)
        k = CELL // PATCH
        self.patches = mul(mul(self.y, self.x), k * k)
        self.patches_y, self.patches_x = mul(self.y, k), mul(self.x, k)


def intra_cells(b: Builder, motion: str, position: str) -> str:
    """bool [1, cells_y, cells_x]: cells that nothing predicts."""
    return b.op("Or", b.op("Greater", b.slice(motion, 2, 3, 0), b.const(0, np.int32)), b.op("Equal", position, b.const(0, np.int64)))


def predict(b: Builder, cfg: Config, grid: Grid, motion: str, position: str, reference: str) -> tuple[str, str]:
    """Motion-compensated prediction: luma float32 [T, cells_y, cells_x, 16, 16], chroma [T, cells_y, cells_x, 8, 2, 8] with the
    planes U and V between rows and columns.

    A block of samples at an arbitrary place is gathered as rows of a few aligned chunks; a table has every run of that many
    chunks in one piece, both planes of chroma side by side, so that a row is one copy. Shifting inside the window and
    interpolating between samples is a product with a matrix picked by offset and phase. Rows and chunks beyond the
    picture repeat its edge. Intra cells gather a grey row instead: the filters' gain is one, so they predict grey."""
    t_len = cfg.block_length
    flat = b.reshape(reference, -1)
    luma = b.reshape(b.slice(flat, 0, grid.pixels, 0), 1, grid.height, grid.width)
    chroma = b.reshape(b.slice(flat, grid.pixels, INT64_MAX, 0), 2, grid.half_height, grid.half_width)
    intra = b.op("Squeeze", intra_cells(b, motion, position), b.ints(0))
    # displacement of frame t in eighths of a luma pixel = sixteenths of a chroma pixel
    factors = b.const(np.array([2 * (t + 1) // t_len for t in range(t_len)], np.int32).reshape(t_len, 1, 1))
    axes = []
    for plane in range(2):
        d = b.op("Squeeze", b.slice(motion, plane, plane + 1, 0), b.ints(0))
        axes.append(b.op("Mul", b.op("Unsqueeze", d, b.ints(0)), factors))  # [T, cy, cx]
    i32 = lambda v: b.const(v, np.int32)
    to32 = lambda v: b.op("Cast", v, to=TensorProto.INT32)
    out = []
    for picture, count, spec, height in ((luma, 1, LUMA_MATRICES, grid.height), (chroma, 2, CHROMA_MATRICES, grid.half_height)):
        size, taps, phases, unit, chunks = spec
        edge = (chunks + 1) * unit
        bias = 1 << 16  # whole pixels; keeps integer division and remainder on positive numbers: both then floor
        whole, phase = [], []
        for d in axes:
            up = b.op("Add", d, i32(bias * phases))
            whole.append(b.op("Sub", b.op("Div", up, i32(phases)), i32(bias)))
            phase.append(b.op("Mod", up, i32(phases)))
        # first tap of the cell's first sample
        span = lambda n: b.op("Mul", b.op("Range", i32(0), b.op("Squeeze", to32(n)), i32(1)), i32(size))
        first = lambda n: b.op("Sub", span(n), i32(taps // 2 - 1))
        left = b.op("Add", b.op("Add", whole[1], first(grid.x)), i32(bias * unit))
        chunk, offset = b.op("Sub", b.op("Div", left, i32(unit)), i32(bias - edge // unit)), b.op("Mod", left, i32(unit))
        # runs of chunks in a row of the padded picture
        runs = b.op("Add", b.op("Mul", to32(grid.x), i32(size // unit)), i32(2 * edge // unit - chunks + 1))
        chunk = b.clip(chunk, i32(0), b.op("Sub", runs, i32(1)))
        top = b.op("Add", whole[0], b.op("Unsqueeze", first(grid.y), b.ints(1)))
        top = b.op("Where", intra, i32(1 << 20), top)
        bottom = b.op("Unsqueeze", b.op("Sub", to32(height), b.op("Where", intra, i32(0), i32(1))), b.ints(2))
        rows = b.op("Add", b.op("Unsqueeze", top, b.ints(3)), i32(np.arange(size + taps - 1)))
        rows = b.clip(rows, i32(0), bottom)  # [T, cy, cx, R]; row `height` is grey
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
        window = b.op("Cast", b.op("Gather", table, index, axis=0), to=TensorProto.FLOAT)
        window = b.reshape(window, -1, (size + taps - 1) * count, width)
        horizontal, vertical = motion_matrices(*spec)
        select = b.op("Add", b.op("Mul", offset, i32(phases)), phase[1])
        mh = b.op("Gather", b.const(horizontal), b.op("Reshape", select, b.ints(-1)), axis=0)
        mv = b.op("Gather", b.const(vertical), b.op("Reshape", phase[0], b.ints(-1)), axis=0)
        block = b.reshape(b.op("MatMul", window, mh), -1, size + taps - 1, count * size)
        block = b.op("MatMul", mv, block)
        out.append(b.reshape(block, t_len, grid.y, grid.x, size, *([2] if count == 2 else []), size))
    return out[0], out[1]


def frames_of(b: Builder, cfg: Config, grid: Grid, luma: str, chroma: str, out: str) -> str:
    """Luma patches in raster order float32 [P, cfg.patch] and chroma cells [cells_y, cells_x, 2, T, 8, 8] to I420 frames
    uint8 [T, 3*height/2, width]. QuantizeLinear rounds half to even and saturates."""
    t, k, half = cfg.block_length, CELL // PATCH, CELL // 2
    to_pixels = lambda x: b.op("QuantizeLinear", x, b.const(np.float32(1)), b.const(0, np.uint8))
    luma = b.reshape(to_pixels(luma), grid.y, k, grid.x, k, t, PATCH, PATCH)
    luma = b.op("Transpose", luma, perm=[4, 0, 1, 5, 2, 3, 6])
    chroma = b.op("Transpose", b.reshape(to_pixels(chroma), grid.y, grid.x, 2, t, half, half), perm=[3, 2, 0, 4, 1, 5])
    whole = b.op("Concat", b.reshape(luma, t, -1), b.reshape(chroma, t, -1), axis=1)
    return b.op("Reshape", whole, b.shape(t, -1, grid.width), out=out)


def loop_filter(b: Builder, cfg: Config, grid: Grid, net: LoopFilter, recon: str, residual: str, step: str, mask: str) -> str:
    """LoopFilter as a graph. recon, residual float32 [P, patch]; mask float32 [P, 1]. The first
    layer is a Gemm that transposes on the way; the last leaves ONNX Runtime's blocked layout straight into patches."""
    w = {k: v.detach().cpu().numpy().astype(np.float32) for k, v in net.state_dict().items()}
    weight = lambda k: b.weight(f"filter.{k}", w[k])
    linear = lambda x, k: b.op("Gemm", x, weight(k + ".weight"), weight(k + ".bias"), transB=1)
    step = b.op("Min", step, b.const(np.float32(cfg.coarsest_step)))
    log = b.op("Div", b.op("Log", step), b.const(np.float32(np.log(2))))
    log = b.op("Reshape", b.op("Sub", b.op("Mul", log, b.const(np.float32(0.25))), b.const(np.float32(1))), b.ints(1, 1))
    condition = linear(b.op("Relu", linear(log, "condition.0")), "condition.2")
    n, channels, k = cfg.patch, cfg.channels, CELL // PATCH
    head = w["head.weight"][:, :, 0, 0]
    bias = w["head.bias"] - 2 * head[:, :n].sum(1)  # recon enters as recon/64 - 2
    place = b.weight("filter.place", w["place"].reshape(channels, 1, k, 1, k) + bias.reshape(channels, 1, 1, 1, 1))
    place = b.reshape(b.op("Expand", place, b.shape(channels, grid.y, k, grid.x, k)), channels, -1)
    scaled = b.op("Clip", b.op("Div", residual, step), b.const(np.float32(-8)), b.const(np.float32(8)))
    h = b.op("Gemm", b.weight("filter.head.recon", head[:, :n] / 64), recon, place, transB=1)
    h = b.op("Gemm", b.weight("filter.head.residual", head[:, n:] / 2), scaled, h, transB=1)
    h = b.reshape(h, 1, channels, grid.patches_y, grid.patches_x)
    # A convolution that does nothing: ONNX Runtime keeps its blocked layout from here to the tail instead of leaving it in
    # every mixer for the sum.
    h = b.op("Conv", h, b.const(np.ones((channels, 1, 1, 1), np.float32)), group=channels)
    for i in range(cfg.blocks):
        key = lambda name: f"body.{i}.{name}"
        conv = lambda x, name, **kw: b.op("Conv", x, weight(key(name) + ".weight"), weight(key(name) + ".bias"), **kw)
        film = b.op("Reshape", linear(condition, key("film")), b.ints(2, channels, 1, 1))
        scale = b.op("Add", b.slice(film, 0, 1, 0), b.const(np.float32(1)))
        x = conv(h, "depthwise", group=channels, pads=[1, 1, 1, 1])
        x = b.op("Add", b.op("Mul", x, scale), b.slice(film, 1, 2, 0))
        h = b.op("Add", h, conv(b.op("Relu", conv(x, "expand")), "project"))
    tail = b.op("Conv", h, b.weight("filter.tail", w["tail.weight"]))
    tail = b.reshape(b.op("Transpose", tail, perm=[0, 2, 3, 1]), grid.patches, n)
    return b.op("Mul", tail, b.op("Mul", mask, step))


def _io(cfg: Config):
    value = helper.make_tensor_value_info
    t = cfg.block_length
    return {
        "frames": value("frames", TensorProto.UINT8, [t, "frame_rows", "width"]),
        "tokens": value("tokens", TensorProto.INT16, ["cells", cfg.coefficients]),
        "counts": value("counts", TensorProto.INT32, ["cells"]),
        "position": value("position", TensorProto.INT64, []),
        "motion": value("motion", TensorProto.INT32, [3, "cells_y", "cells_x"]),
        "step": value("step", TensorProto.FLOAT, []),
        "dec.reference": value("dec.reference", TensorProto.UINT8, ["frame_rows", "width"]),
    }


def _named(info, name):
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(info)
    copy.name = name
    return copy


# A context has one name on both sides; ONNX wants them distinct inside a graph, so outputs carry this suffix.
CONTEXT_OUT = ".next"


def decoder(cfg: Config, net: LoopFilter | None, taps: bool = False) -> onnx.ModelProto:
    """tokens, counts, position, motion, step, dec.reference -> frames, dec.reference.next.

    `taps` adds outputs `recon` and `residual`, float32 [P, cfg.patch]: what the filter sees, for training."""
    b, io = Builder(), _io(cfg)
    t, k = cfg.block_length, CELL // PATCH
    grid = Grid(b, "motion")
    luma, chroma = predict(b, cfg, grid, "motion", "position", "dec.reference")
    luma_latents, chroma_latents = split_latents(b, cfg, b.op("Cast", "tokens", to=TensorProto.FLOAT))
    luma_latents = b.reshape(luma_latents, -1, t * CELL, CELL)
    residual = b.op("MatMul", b.const(time_and_rows(cfg, CELL).T, np.float32), luma_latents)
    residual = b.op("MatMul", b.reshape(residual, -1, CELL), b.const(dct(CELL) / cfg.scale, np.float32))
    residual = b.op("Transpose", b.reshape(residual, grid.y, grid.x, t, k, PATCH, k, PATCH), perm=[0, 3, 1, 5, 2, 4, 6])
    residual = b.op("Reshape", residual, b.shape(grid.patches, cfg.patch), out="residual")
    luma = b.op("Transpose", b.reshape(luma, t, grid.y, grid.x, k, PATCH, k, PATCH), perm=[1, 3, 2, 5, 0, 4, 6])
    recon = b.op("Add", b.reshape(luma, grid.patches, cfg.patch), residual, out="recon")
    synthesis = chroma_basis(cfg) / (chroma_weights(cfg)[:, None] * cfg.scale)
    chroma_latents = b.reshape(chroma_latents, -1, cfg.chroma_coefficients)
    chroma_residual = b.op("MatMul", chroma_latents, b.const(synthesis, np.float32))
    chroma = b.op("Transpose", chroma, perm=[1, 2, 4, 0, 3, 5])
    chroma = b.op("Add", chroma, b.reshape(chroma_residual, grid.y, grid.x, 2, t, CELL // 2, CELL // 2))
    if net is not None:
        coded = b.op("Cast", b.op("Greater", "counts", b.const(0, np.int32)), to=TensorProto.FLOAT)
        coded = b.op("Expand", b.reshape(coded, 1, 1, grid.y, 1, grid.x, 1), b.shape(1, 1, grid.y, k, grid.x, k))
        coded = b.reshape(coded, grid.patches, 1)
        recon = b.op("Add", recon, loop_filter(b, cfg, grid, net, recon, residual, "step", coded))
    frames = frames_of(b, cfg, grid, recon, chroma, "frames")
    last = b.slice(frames, cfg.block_length - 1, cfg.block_length, 0)
    b.op("Squeeze", last, b.ints(0), out="dec.reference" + CONTEXT_OUT)
    inputs = [io[k] for k in ("tokens", "counts", "position", "motion", "step", "dec.reference")]
    outputs = [io["frames"], _named(io["dec.reference"], "dec.reference" + CONTEXT_OUT)]
    if taps:
        outputs += [helper.make_tensor_value_info(k, TensorProto.FLOAT, ["patches", cfg.patch]) for k in ("recon", "residual")]
    return b.model("decoder", inputs, outputs)


def split_latents(b: Builder, cfg: Config, latents: str) -> tuple[str, str]:
    """[cells, C] into luma and chroma."""
    n = cfg.luma_coefficients
    return b.slice(latents, 0, n, 1), b.slice(latents, n, cfg.coefficients, 1)


def distortion(b: Builder, cfg: Config, grid: Grid, head: DistortionHead, luma: str, intra: str) -> None:
    """DistortionHead as a graph: luma latents float32 [cells, n], intra bool [1, cells_y, cells_x] and the input step to the
    output `distortion` float32 [cells, L]."""
    from .distortion import FLOOR, bands
    w = {k: v.detach().cpu().numpy().astype(np.float32) for k, v in head.state_dict().items()}
    weight = lambda k, v: b.weight(f"distortion.{k}", v)
    n = len(w["share"])
    energies = b.op("MatMul", b.op("Mul", luma, luma), b.const(bands(cfg) / cfg.scale**2))
    coarser = np.array([3 ** (cfg.levels - 1 - i) for i in range(cfg.levels)], np.float32).reshape(1, -1, 1)
    step = b.op("Mul", "step", b.const(coarser))
    relative = b.op("Div", b.reshape(energies, -1, 1, n), b.op("Mul", step, step))  # [cells, L, bands]
    most = weight("most", w["share"] * np.exp(w["saturation"]))
    kept = b.op("Div", b.op("Mul", relative, most), b.op("Add", relative, most))
    kept = b.op("ReduceSum", kept, b.ints(2), keepdims=1)
    log = b.op("Log", step)
    shape = lambda x, *s: b.op("Expand", x, b.shape(*s))
    cells = b.op("Mul", grid.y, grid.x)
    features = b.op("Concat", b.op("Mul", b.op("Log", b.op("Add", relative, b.const(np.float32(FLOOR)))), b.const(np.float32(0.25))),
                    shape(b.op("Mul", log, b.const(np.float32(0.25))), cells, cfg.levels, 1),
                    shape(b.reshape(b.op("Cast", intra, to=TensorProto.FLOAT), -1, 1, 1), cells, cfg.levels, 1), axis=2)
    hidden = b.op("Add", b.op("MatMul", features, weight("hidden.weight", w["hidden.weight"].T)), weight("hidden.bias", w["hidden.bias"]))
    out = b.op("Add", b.op("MatMul", b.op("Relu", hidden), weight("out.weight", w["out.weight"].T)), weight("out.bias", w["out.bias"]))
    total = b.op("Add", b.op("Add", b.op("Log", b.op("Add", kept, b.const(np.float32(1e-6)))), b.op("Mul", log, b.const(np.float32(2)))), out)
    b.op("Squeeze", b.op("Exp", total), b.ints(2), out="distortion")


def encoder(cfg: Config, head: DistortionHead | None = None) -> onnx.ModelProto:
    """frames, position, motion, step, dec.reference -> tokens: the latents of what motion does not predict; distortion. Without
    `head` neither step nor distortion."""
    b, io = Builder(), _io(cfg)
    t, half = cfg.block_length, CELL // 2
    grid = Grid(b, "motion")
    luma, chroma = predict(b, cfg, grid, "motion", "position", "dec.reference")
    flat = b.reshape("frames", t, -1)
    source_luma = b.reshape(b.slice(flat, 0, grid.pixels, 1), t, grid.y, CELL, grid.x, CELL)
    source_luma = b.op("Transpose", source_luma, perm=[0, 1, 3, 2, 4])
    source_chroma = b.reshape(b.slice(flat, grid.pixels, INT64_MAX, 1), t, 2, grid.y, half, grid.x, half)
    source_chroma = b.op("Transpose", source_chroma, perm=[0, 2, 4, 3, 1, 5])
    difference = lambda source, prediction: b.op("Sub", b.op("Cast", source, to=TensorProto.FLOAT), prediction)
    luma = b.op("Transpose", difference(source_luma, luma), perm=[1, 2, 0, 3, 4])
    luma = b.op("MatMul", b.reshape(luma, -1, CELL), b.const(cfg.scale * dct(CELL).T, np.float32))
    luma = b.op("MatMul", b.const(time_and_rows(cfg, CELL), np.float32), b.reshape(luma, -1, t * CELL, CELL))
    chroma = b.op("Transpose", difference(source_chroma, chroma), perm=[1, 2, 4, 0, 3, 5])
    analysis = chroma_basis(cfg) * (chroma_weights(cfg)[:, None] * cfg.scale)
    chroma = b.op("MatMul", b.reshape(chroma, -1, cfg.chroma_coefficients), b.const(analysis.T, np.float32))
    luma = b.reshape(luma, -1, cfg.luma_coefficients)
    inputs, outputs = ["frames", "position", "motion", "dec.reference"], [io["tokens"]]
    if head is not None:
        distortion(b, cfg, grid, head, luma, intra_cells(b, "motion", "position"))
        inputs.append("step")
        outputs.append(helper.make_tensor_value_info("distortion", TensorProto.FLOAT, ["cells", cfg.levels]))
    latents = [luma, b.reshape(chroma, -1, 2 * cfg.chroma_coefficients)]
    latents = b.op("Concat", *latents, axis=1)
    latents = b.op("Clip", b.op("Round", latents), b.const(np.float32(-32767)), b.const(np.float32(32767)))
    b.op("Cast", latents, to=TensorProto.INT16, out="tokens")
    return b.model("encoder", [io[k] for k in inputs], outputs)
