# SPDX-License-Identifier: MIT OR Apache-2.0
"""The learned in-loop filter of exact bundles as a graph: 8-bit integers from the first layer to the last.

ONNX's QDQ form: DequantizeLinear, Conv, QuantizeLinear, all scales powers of two. ONNX Runtime fuses it to integer kernels on
processors; elsewhere it runs in floating point, with the same results."""
from __future__ import annotations

import base64
import json

import numpy as np
import torch
from onnx import TensorProto

from .builder import Builder, Grid
from .cells import Cells, corrected_patches, filtered_strips
from .config import CELL, PATCH, K, Config
from .exact import dyadic, steps
from .quantised import GAIN_BITS, GAIN_UNIT, RECIPROCAL_BITS, RESIDUAL_UNIT, QuantisedFilter, dead_zone, fold

MIDDLE = 128  # zero of signed activations


def unfolded(net: QuantisedFilter) -> str:
    """What training needs and the graph has only folded together, for recover.py: JSON of names and float32 in base64."""
    parts = {k: v for k, v in net.state_dict().items() if k.startswith(("unit_", "condition.", "gain.")) or k == "place"}
    return json.dumps({k: base64.b64encode(v.detach().numpy().astype("<f4").tobytes()).decode() for k, v in sorted(parts.items())})


class Tables:
    """What depends on the step: a row for each step in latent units. `reciprocal` float32 [n]: parts of a step in a grey level. `luma`,
    `chroma` float32 [n]: grey levels of a unit of correction. `dead` uint8 [n]: MIDDLE and luma's dead zone. `condition` int [n, 16] and
    `place` int [16, K, K]: their sum is what the filter is told."""

    def __init__(self, cfg: Config, net: QuantisedFilter):
        step = steps(cfg)
        w = {k: v.detach().cpu().numpy().astype(np.float64) for k, v in net.state_dict().items()}
        linear = lambda x, name: x @ w[name + ".weight"].T + w[name + ".bias"]
        condition = linear(np.maximum(linear(np.log2(step)[:, None] / 4 - 1, "condition.0"), 0), "condition.2")
        unit = float(net.unit_embedding)
        self.reciprocal = dyadic(RESIDUAL_UNIT / step, RECIPROCAL_BITS).astype(np.float32)
        levels = lambda gain, unit: (np.rint(dyadic(gain * float(unit), GAIN_BITS) * GAIN_UNIT).clip(1) / GAIN_UNIT).astype(np.float32)
        self.luma = levels(np.exp(linear(condition, "gain"))[:, 0] * step, net.unit_tail)
        self.chroma = levels(step, net.unit_chroma_tail)
        self.dead = (MIDDLE + dead_zone(torch.from_numpy(self.luma)).numpy()).astype(np.uint8)
        eight = lambda x: np.clip(np.rint(x / unit), -128, 127)
        self.condition, self.place = eight(condition).astype(np.float32), eight(w["place"]).astype(np.float32)


def correct(b: Builder, cfg: Config, picture: Grid, grid: Grid, net: QuantisedFilter, shown: list[str], residual: list[str], coded_mask: str,
            coded: Cells, near: Cells, step: str, counts: str) -> list[str]:
    """QuantisedFilter on a band of the picture that has these counts. `shown`: the reconstruction of the cells `near` coded ones, uint8
    [n, T * 256] and [n, T * 128]; `residual`: that of the `coded` ones, float32 [m, ..] alike. Returns the corrections of both in grey levels
    for the cells `near` those.

    Every layer runs on one list of strips. Strips of a column follow each other, with one of zeros before and after each run of them; a 3x3
    layer gathers the patches on both sides of each.

    Samples get from cells to patches and back in large pieces. A transposition that moved every run of four samples to its place would take
    five times as long."""
    t = cfg.block_length
    tables = Tables(cfg, net)
    # steps are whole in latent units
    row = b.op("Mul", b.op("Min", step, b.const(np.float32(cfg.coarsest_step))), b.const(np.float32(cfg.scale)))
    row = b.op("Max", b.op("Cast", row, to=TensorProto.INT32), b.const(0, np.int32))
    of_step = lambda name, dtype=np.float32: b.op("Gather", b.weight(f"filter.{name}", getattr(tables, name), dtype), row, axis=0)
    one, middle = b.const(np.float32(1)), b.const(MIDDLE, np.uint8)
    eight = lambda x, zero=MIDDLE: b.op("QuantizeLinear", x, one, b.const(zero, np.uint8))
    real = lambda x, zero=MIDDLE: b.op("DequantizeLinear", x, one, b.const(zero, np.uint8))

    def conv(name: str, x: str, zero: int, layer, unit: torch.Tensor, out: torch.Tensor, weight=None, inputs=None, outputs=None, **settings) -> str:
        """A convolution of x u8 with that zero; `unit` of the layer's inputs, `out` of its outputs. `inputs`, `outputs`: which of these each
        channel of x and of the result is, where the order is another."""
        weight = (layer.weight if weight is None else weight).detach()
        value, rows = fold(weight, unit, out)
        axis = {"axis": 0}
        value, of_row = b.weight(f"filter.{name}.weight", value.numpy(), np.int8), b.weight(f"filter.{name}.unit", rows.numpy())
        for order, along in ((inputs, 1), (outputs, 0)):
            if order is not None:
                value = b.op("Gather", value, b.ints(*order), axis=along)
        if outputs is not None:
            of_row = b.op("Gather", of_row, b.ints(*outputs), axis=0)
        w = b.op("DequantizeLinear", value, of_row, **axis)
        bias = ()
        if getattr(layer, "bias", None) is not None:
            whole = np.rint((layer.bias.detach() / (rows * out)).numpy())
            bias = (b.op("DequantizeLinear", b.weight(f"filter.{name}.bias", whole, np.int32), of_row, **axis),)
        return b.op("Conv", real(x, zero), w, *bias, **settings)

    channels_of = lambda layer: layer.weight.shape[0]
    none = lambda *shape: b.const(np.full(shape, MIDDLE), np.uint8)  # zeros
    rows_of = lambda x, channels, across=K: b.op("Transpose", b.reshape(x, 1, -1, across, channels), perm=[0, 3, 1, 2])
    patches = lambda x, layer: b.reshape(b.op("Transpose", x, perm=[0, 2, 3, 1]), -1, channels_of(layer))  # uint8 [n * K, channels]

    strips = filtered_strips(b, picture, grid, counts)
    left, right = strips.sides()
    zeros = b.op("Unsqueeze", strips.zeros, b.ints(1))

    def mixers(h: str, prefix: str, body: str, blocks) -> str:
        stream = net.unit(prefix + "stream")
        for i, mixer in enumerate(blocks):
            name = f"{body}.{i}."
            depthwise, expand = net.unit(f"{prefix}depthwise_{i}"), net.unit(f"{prefix}expand_{i}")
            groups = mixer.depthwise.groups
            cleared = b.op("Expand", none(1, K * groups), b.shape(b.op("Shape", strips.zeros), K * groups))
            h = b.reshape(b.op("ScatterND", b.reshape(h, -1, K * groups), zeros, cleared), -1, groups)
            x = b.op("Concat", b.op("Gather", h, left, axis=0), b.reshape(h, -1, K, groups), b.op("Gather", h, right, axis=0), axis=1)
            x = rows_of(x, groups, K + 2)
            x = eight(conv(name + "depthwise", x, MIDDLE, mixer.depthwise, stream, depthwise, group=groups, pads=[1, 0, 1, 0]))
            x = eight(b.op("Relu", conv(name + "expand", x, MIDDLE, mixer.expand, depthwise, expand)), 0)
            x = eight(conv(name + "project", x, 0, mixer.project, expand, stream))
            h = eight(b.op("Add", real(h), real(patches(x, mixer.project))))  # of one unit: nothing is rounded, only clipped
        return h

    n, half = PATCH * PATCH, CELL // 2
    # where the residual of a cell is among those of the coded ones; the one after the last stands for cells that are not coded
    at = b.op("Where", coded_mask, coded.place, b.op("Shape", coded.index))
    numbers = b.op("Range", b.const(0, np.int64), b.op("Squeeze", b.op("Shape", near.index)), b.const(1, np.int64))
    reciprocal = of_step("reciprocal")

    def by_rows(x: str, cells: str, size: int) -> str:
        """Of x uint8 [m, T * size], the cells int64 [n]: by rows of patches, then frames, [n, K, T, size / K]."""
        order = b.ints(*np.arange(t * K).reshape(t, K).T.ravel())
        at = b.op("Add", b.op("Unsqueeze", b.op("Mul", cells, b.ints(t * K)), b.ints(1)), order)
        return b.reshape(b.op("Gather", b.reshape(x, -1, size // K), at, axis=0), -1, K, t, size // K)

    told = eight(b.op("Add", b.weight("filter.place", tables.place.transpose(1, 2, 0)), of_step("condition")))  # [K, K, 16]
    told = b.op("Transpose", b.reshape(told, K, K, PATCH, PATCH), perm=[0, 2, 1, 3])

    def given(which: int, size: int) -> str:
        """What the filter sees of luma or chroma, uint8 [n * K, channels] for n strips; `size`: of a cell in one frame."""
        steps = b.op("Concat", eight(b.op("Mul", residual[which], reciprocal)), none(1, t * size), axis=0)
        parts = [by_rows(shown[which], numbers, size), by_rows(steps, near.of(at), size)]
        if which == 0:
            parts.append(b.op("Expand", b.reshape(told, 1, K, 1, K * n), b.shape(b.op("Shape", near.index), K, 1, K * n)))
        x = b.op("Concat", *parts, axis=2)  # [cells, K, frames, size / K]
        side = PATCH * size // CELL**2  # of a patch
        x = b.op("Transpose", b.reshape(x, -1, K, side), perm=[1, 0, 2])
        x = b.reshape(x, -1, (2 * t + (which == 0)) * size // K**2)  # by columns, cells and rows of patches
        row, cell = strips.rows_and_cells()
        strip = b.op("Add", b.op("Mul", b.op("Gather", near.place, cell, axis=0), b.ints(K)), row)
        column = b.op("Mul", b.ints(*range(K)), b.op("Mul", b.op("Shape", near.index), b.ints(K)))
        return b.op("Gather", x, b.reshape(b.op("Add", b.op("Unsqueeze", strip, b.ints(1)), column), -1), axis=0)

    def corrections(x: str, size: int, gain: str) -> str:
        """The way back, from patches uint8 [n * K, channels] to cells: float32 [cells near coded ones, T * size]."""
        channels = t * size // K**2
        x = b.op("Gather", b.op("Concat", x, none(1, channels), axis=0), corrected, axis=0)  # [K, cells, K, channels]
        x = b.op("Transpose", b.reshape(x, K, -1, PATCH * size // CELL**2), perm=[1, 0, 2])
        x = b.op("Transpose", b.reshape(x, -1, K, t, size // K), perm=[0, 2, 1, 3])
        return b.op("DequantizeLinear", b.reshape(x, -1, t * size), of_step(gain), middle)

    unit = torch.cat([net.unit_luma, net.unit_embedding.expand(n)])
    h = rows_of(given(0, CELL * CELL), len(unit))
    h = patches(eight(conv("head", h, MIDDLE, net.head, unit, net.unit_stream)), net.head)
    h = mixers(h, "", "body", net.body)
    luma = eight(conv("tail", rows_of(h, cfg.channels), MIDDLE, net.tail, net.unit_stream, net.unit_tail))
    # nearer to zero by the dead zone: what it lies above, and what it lies below
    above = b.op("Clip", luma, of_step("dead", np.uint8))
    below = b.op("Clip", luma, "", b.op("Gather", b.const(2 * MIDDLE - tables.dead.astype(int), np.uint8), row, axis=0))
    luma = eight(b.op("Add", real(above), real(below)))
    # a patch's chroma samples are in the order frame, row, plane, column here; the constants' order is docs/builtin.md's
    swapped = np.arange(4 * n * t // 4).reshape(2 * t, 2, PATCH // 2, PATCH // 2).transpose(0, 2, 1, 3).ravel()
    weight = torch.cat([net.chroma_head.weight, net.chroma_luma.weight], 1)
    unit = torch.cat([net.unit_chroma, net.unit_stream])
    x = rows_of(b.op("Concat", given(1, CELL * half), h, axis=1), len(unit))
    taken = np.concatenate([swapped, np.arange(len(swapped), len(unit))])
    c = eight(conv("chroma_head", x, MIDDLE, net.chroma_head, unit, net.unit_chroma_stream, weight, inputs=taken))
    c = mixers(patches(c, net.chroma_head), "chroma_", "chroma_body", net.chroma_body)
    c = rows_of(c, cfg.chroma_channels)
    chroma = eight(conv("chroma_tail", c, MIDDLE, net.chroma_tail, net.unit_chroma_stream, net.unit_chroma_tail, outputs=swapped[:n * t // 2]))

    # where in the list each patch of a cell is, int64 [K (columns), cells, K (rows)]; the one after the last: it is not corrected
    line = lambda kind: b.op("Unsqueeze", b.op(kind, near.index, grid.x), b.ints(1))
    at = strips.at(b.op("Add", b.op("Mul", line("Div"), b.ints(K)), b.ints(*range(K))), line("Mod"))
    at = b.op("Add", b.op("Mul", at, b.ints(K)), b.const(np.arange(K).reshape(K, 1, 1), np.int64))
    corrected = b.op("Transpose", corrected_patches(b, picture, grid, counts, near), perm=[1, 0, 2])
    corrected = b.op("Where", corrected, at, b.op("Mul", strips.count, b.ints(K)))
    return [corrections(patches(luma, net.tail), CELL * CELL, "luma"), corrections(patches(chroma, net.chroma_tail), CELL * half, "chroma")]
