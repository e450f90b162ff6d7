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
from .config import CELL, PATCH, K, Config
from .exact import dyadic, steps
from .filter_graph import corrected_patches
from .quantised import GAIN_BITS, GAIN_UNIT, RECIPROCAL_BITS, RESIDUAL_UNIT, QuantisedFilter, fold

MIDDLE = 128  # zero of signed activations


def unfolded(net: QuantisedFilter) -> str:
    """What training needs and the graph has only folded together, for recover.py: JSON of names and float32 in base64."""
    parts = {k: v for k, v in net.state_dict().items() if k.startswith(("unit_", "condition.", "gain.")) or k == "place"}
    return json.dumps({k: base64.b64encode(v.detach().numpy().astype("<f4").tobytes()).decode() for k, v in sorted(parts.items())})


class Tables:
    """What depends on the step: a row for each step in latent units. `reciprocal` float32 [n]: parts of a step in a grey level. `luma`,
    `chroma` float32 [n]: grey levels of a unit of correction. `condition` int [n, 16] and `place` int [16, K, K]: their sum is what
    the filter is told."""

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
        eight = lambda x: np.clip(np.rint(x / unit), -128, 127)
        self.condition, self.place = eight(condition).astype(np.float32), eight(w["place"]).astype(np.float32)


def correct(b: Builder, cfg: Config, grid: Grid, net: QuantisedFilter, recon: tuple[str, str], residual: tuple[str, str],
            step: str, counts: str) -> tuple[str, str]:
    """QuantisedFilter on cells. `recon`, `residual`: luma float32 [cells_y, cells_x, T, 16, 16] and chroma [cells_y, cells_x, T, 8, 16], as
    prediction.py gives them; returns the corrections of both in grey levels, of these shapes."""
    t, half = cfg.block_length, CELL // 2
    tables = Tables(cfg, net)
    # steps are whole in latent units
    row = b.op("Mul", b.op("Min", step, b.const(np.float32(cfg.coarsest_step))), b.const(np.float32(cfg.scale)))
    row = b.op("Max", b.op("Cast", row, to=TensorProto.INT32), b.const(0, np.int32))
    of_step = lambda name: b.op("Gather", b.weight(f"filter.{name}", getattr(tables, name)), row, axis=0)
    one, middle = b.const(np.float32(1)), b.const(MIDDLE, np.uint8)
    eight = lambda x, zero=MIDDLE: b.op("QuantizeLinear", x, one, b.const(zero, np.uint8))
    real = lambda x, zero=MIDDLE: b.op("DequantizeLinear", x, one, b.const(zero, np.uint8))

    def conv(name: str, x: str, zero: int, layer, unit: torch.Tensor, out: torch.Tensor, weight=None, **settings) -> str:
        """A convolution of x u8 with that zero; `unit` of x's channels, `out` of the result's."""
        weight = (layer.weight if weight is None else weight).detach()
        value, rows = fold(weight, unit, out)
        axis = {"axis": 0}
        w = b.op("DequantizeLinear", b.weight(f"filter.{name}.weight", value.numpy(), np.int8), b.weight(f"filter.{name}.unit", rows.numpy()), **axis)
        bias = ()
        if getattr(layer, "bias", None) is not None:
            value = np.rint((layer.bias.detach() / (rows * out)).numpy())
            bias = (b.op("DequantizeLinear", b.weight(f"filter.{name}.bias", value, np.int32), f"filter.{name}.unit", **axis),)
        return b.op("Conv", real(x, zero), w, *bias, **settings)

    def mixers(h: str, prefix: str, body: str, blocks) -> str:
        stream = net.unit(prefix + "stream")
        for i, mixer in enumerate(blocks):
            name = f"{body}.{i}."
            depthwise, expand = net.unit(f"{prefix}depthwise_{i}"), net.unit(f"{prefix}expand_{i}")
            groups = mixer.depthwise.groups
            x = eight(conv(name + "depthwise", h, MIDDLE, mixer.depthwise, stream, depthwise, group=groups, pads=[1, 1, 1, 1]))
            x = eight(b.op("Relu", conv(name + "expand", x, MIDDLE, mixer.expand, depthwise, expand)), 0)
            x = eight(conv(name + "project", x, 0, mixer.project, expand, stream))
            h = eight(b.op("Add", real(h), real(x)))  # of one unit: nothing is rounded, only clipped
        return h

    n = PATCH * PATCH

    def patches(x: str, rows: int) -> str:
        """u8 cells [cells_y, cells_x, T, .., 16] to patches [patches, samples]; `rows`: of a patch, those of U and V apart."""
        if rows == PATCH:
            x = b.op("Transpose", b.reshape(x, grid.y, grid.x, t, K, PATCH, K, PATCH), perm=[0, 3, 1, 5, 2, 4, 6])
        else:
            x = b.op("Transpose", b.reshape(x, grid.y, grid.x, t, K, rows, 2, K, rows), perm=[0, 3, 1, 6, 2, 5, 4, 7])
        return b.reshape(x, 1, grid.patches_y, grid.patches_x, t * n if rows == PATCH else t * n // 2)

    def cells(x: str, rows: int) -> str:
        """The way back, to [cells, samples of a cell]."""
        x = b.op("Transpose", x, perm=[0, 2, 3, 1])
        if rows == PATCH:
            x = b.op("Transpose", b.reshape(x, grid.y, K, grid.x, K, t, PATCH, PATCH), perm=[0, 2, 4, 1, 5, 3, 6])
            return b.reshape(x, -1, t * CELL * CELL)
        x = b.op("Transpose", b.reshape(x, grid.y, K, grid.x, K, t, 2, rows, rows), perm=[0, 2, 4, 1, 6, 5, 3, 7])
        return b.reshape(x, -1, t * half * CELL)

    channels_first = lambda *parts: b.op("Transpose", b.op("Concat", *parts, axis=3), perm=[0, 3, 1, 2])
    reciprocal = of_step("reciprocal")

    def seen(which: int, rows: int) -> tuple[str, str]:
        whole_levels = b.op("QuantizeLinear", recon[which], one, b.const(0, np.uint8))
        return patches(whole_levels, rows), patches(eight(b.op("Mul", residual[which], reciprocal)), rows)

    told = eight(b.op("Add", b.weight("filter.place", tables.place.transpose(1, 2, 0)), of_step("condition")))  # [K, K, 16]
    told = b.reshape(b.op("Expand", b.reshape(told, 1, K, 1, K, n), b.shape(grid.y, K, grid.x, K, n)), 1, grid.patches_y, grid.patches_x, n)
    unit = torch.cat([net.unit_luma, net.unit_embedding.expand(n)])
    h = eight(conv("head", channels_first(*seen(0, PATCH), told), MIDDLE, net.head, unit, net.unit_stream))
    h = mixers(h, "", "body", net.body)
    luma = eight(conv("tail", h, MIDDLE, net.tail, net.unit_stream, net.unit_tail))
    weight = torch.cat([net.chroma_head.weight, net.chroma_luma.weight], 1)
    x = channels_first(*seen(1, PATCH // 2), b.op("Transpose", h, perm=[0, 2, 3, 1]))
    c = eight(conv("chroma_head", x, MIDDLE, net.chroma_head, torch.cat([net.unit_chroma, net.unit_stream]), net.unit_chroma_stream, weight))
    c = mixers(c, "chroma_", "chroma_body", net.chroma_body)
    chroma = eight(conv("chroma_tail", c, MIDDLE, net.chroma_tail, net.unit_chroma_stream, net.unit_chroma_tail))

    corrected = b.op("Cast", corrected_patches(b, grid, counts), to=TensorProto.BOOL)
    kept = lambda x, rows, scale: b.op("DequantizeLinear", cells(b.op("Where", corrected, x, middle), rows), scale, middle)
    return (b.reshape(kept(luma, PATCH, of_step("luma")), grid.y, grid.x, t, CELL, CELL),
            b.reshape(kept(chroma, PATCH // 2, of_step("chroma")), grid.y, grid.x, t, half, CELL))
