# SPDX-License-Identifier: MIT OR Apache-2.0
"""ONNX graphs written node by node."""
from __future__ import annotations

import itertools

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .config import CELL, PATCH

# 21 has QuantizeLinear and DequantizeLinear for 16 bits.
OPSET, IR_VERSION = 21, 10
INT64_MAX = np.iinfo(np.int64).max


class Builder:
    """Appends nodes and constants; every method returns the name of its output."""

    def __init__(self):
        self.nodes, self.constants, self.metadata, self._count, self._known = [], {}, {}, 0, {}

    def op(self, kind: str, *inputs: str, out: str | None = None, **attributes) -> str:
        if out is None:  # what is computed already is not computed again: a runtime opens smaller graphs sooner
            key = (kind, inputs, repr(sorted(attributes.items())))
            if key not in self._known:
                self._known[key] = self._append(kind, inputs, None, attributes)
            return self._known[key]
        return self._append(kind, inputs, out, attributes)

    def _append(self, kind: str, inputs: tuple[str, ...], out: str | None, attributes: dict) -> str:
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

    def weight(self, name: str, value, dtype=np.float32) -> str:
        """A trained constant under its own name, by which recover.py finds it again."""
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value, dtype), name)
        return name

    def ints(self, *values) -> str:
        return self.const(values, np.int64)

    def shape(self, *parts) -> str:
        """A shape from integers and names of int64 tensors."""
        joined = []
        for known, run in itertools.groupby(parts, lambda p: isinstance(p, int)):
            joined += [self.ints(*run)] if known else run
        return joined[0] if len(joined) == 1 else self.op("Concat", *joined, axis=0)

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
        helper.set_model_props(model, self.metadata)
        onnx.checker.check_model(model, full_check=True)
        return model


class Grid:
    """Symbolic sizes of a picture of `y` rows of `x` cells, int64 [1] each, or of a band of a picture: `y` rows from `row` on."""

    def __init__(self, b: Builder, y: str, x: str, row: str | None = None):
        self.y, self.x, self.row = y, x, row
        mul = lambda a, c: b.op("Mul", a, b.ints(c) if isinstance(c, int) else c)
        self.height, self.width = mul(self.y, CELL), mul(self.x, CELL)
        self.cells = mul(self.y, self.x)
        self.pixels = mul(self.height, self.width)
        self.quarter = b.op("Div", self.pixels, b.ints(4))
        self.half_width = mul(self.x, CELL // 2)
        self.half_height = mul(self.y, CELL // 2)
        k = CELL // PATCH
        self.patches_y, self.patches_x = mul(self.y, k), mul(self.x, k)

    @classmethod
    def of(cls, b: Builder, motion: str) -> Grid:
        """Of the picture that the motion planes are of."""
        shape = b.op("Shape", motion)
        return cls(b, b.slice(shape, 1, 2, 0), b.slice(shape, 2, 3, 0))

    def band(self, b: Builder, rows: str) -> Grid:
        """Of some rows of it, int64 [2]: the first, and the one after the last."""
        row, end = b.slice(rows, 0, 1, 0), b.slice(rows, 1, 2, 0)
        return Grid(b, b.op("Sub", end, row), self.x, row)

    def part(self, b: Builder, x: str, axis: int, size: str | int = 1) -> str:
        """Of x, which has `size` for each row of cells of the picture along an axis, what is of the band."""
        of = lambda v: b.op("Mul", v, b.ints(size) if isinstance(size, int) else size)
        return x if self.row is None else b.slice(x, of(self.row), of(b.op("Add", self.row, self.y)), axis)

    def in_picture(self, b: Builder, cells: str) -> str:
        """Numbers in the picture, int64, of cells of the band."""
        return cells if self.row is None else b.op("Add", cells, b.op("Mul", self.row, self.x))
