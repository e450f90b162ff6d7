# SPDX-License-Identifier: MIT OR Apache-2.0
"""Proves that a graph gives the same samples everywhere: range analysis of every sum, over all inputs that the contract allows.

Each float32 tensor is shown to hold integers times a power of two, its unit, and each sum of products to stay below 2^24 units
in whatever order its terms are added. docs/bundle.md has the rules ("exact")."""
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

LIMIT = 1 << 24  # integers that float32 holds exactly
PAIR_LIMIT = (1 << 15) - 1  # two products of 8-bit integers, as processors add them in 16 bits
MOVES = {"Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Expand", "Slice", "Concat", "Pad", "Where", "ScatterND"}
INTEGER = {"Shape", "Range", "Div", "Mod", "Add", "Sub", "Mul", "Min", "Max", "Equal", "Greater", "Less", "Or", "And", "Not", "Cast", "NonZero", "CumSum"} | MOVES
FLOATS = (TensorProto.FLOAT,)


@dataclass(frozen=True)
class Values:
    """What a tensor may hold: integers times `unit`, from `low` to `high`. `table`: the constant that its last dimensions are picked
    from; `whole`: the same as 8-bit integers, where it was dequantised from such."""

    low: float
    high: float
    unit: float = 1.0
    table: np.ndarray | None = None
    whole: np.ndarray | None = None

    @property
    def peak(self) -> float:
        return max(-self.low, self.high)


UNKNOWN = Values(-np.inf, np.inf)


def power_of_two(x) -> bool:
    return bool((np.frexp(x)[0] == 0.5).all())


def unit_of(x: np.ndarray) -> float:
    """The largest power of two that every element of x is a multiple of."""
    mantissa, exponent = np.frexp(np.asarray(x, np.float64))
    bits = np.rint(mantissa * 2.0 ** 53).astype(np.int64)
    used = bits != 0
    return float(np.exp2(exponent[used] - 53.0 + np.log2((bits & -bits)[used])).min()) if used.any() else 1.0


def constant(x: np.ndarray) -> Values:
    if x.size == 0 or x.dtype == bool or not np.isfinite(x).all():
        return UNKNOWN
    return Values(float(x.min()), float(x.max()), unit_of(x) if x.dtype.kind == "f" else 1.0, x)


class Analysis:
    """The values of a graph's tensors, given those of its inputs."""

    def __init__(self, model: onnx.ModelProto, given: dict[str, Values], outputs: list[str] | None = None):
        graph = onnx.shape_inference.infer_shapes(model).graph
        self.types = {v.name: v.type.tensor_type.elem_type for v in [*graph.value_info, *graph.input, *graph.output]}
        self.types |= {i.name: i.data_type for i in graph.initializer}
        self.values = {i.name: constant(numpy_helper.to_array(i)) for i in graph.initializer} | given
        wanted, needed = set(outputs or [o.name for o in graph.output]), []
        for node in reversed(graph.node):
            if wanted & set(node.output):
                needed.append(node)
                wanted |= set(node.input)
        for node in reversed(needed):
            try:
                result = self.apply(node, [self.values.get(i, UNKNOWN) if i else None for i in node.input])
            except ValueError as e:
                raise ValueError(f"{node.name} ({node.op_type}): {e}") from None
            for name in node.output:
                self.values[name] = result

    def sum(self, peak, unit) -> None:
        """Checks sums that reach `peak`, of terms that are multiples of `unit`; both may be one for each channel."""
        if not (np.asarray(peak) / unit < LIMIT).all():
            raise ValueError(f"a sum may reach {np.max(np.asarray(peak) / unit):.0f} units, and float32 is exact below {LIMIT}")

    def apply(self, node: onnx.NodeProto, x: list[Values]) -> Values:
        float_in = any(self.types.get(i) in FLOATS for i in node.input)
        float_out = self.types.get(node.output[0]) in FLOATS
        kind = node.op_type
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if kind == "Gather":
            return x[0]
        if kind == "Cast" and float_out:
            if self.types.get(node.input[0]) == TensorProto.BOOL:
                return Values(0, 1)
            if not np.isfinite(x[0].peak):
                raise ValueError("an integer without known limits becomes float")
            self.sum(x[0].peak, 1.0)
            return replace(x[0], table=None)
        if kind in MOVES:
            parts = [v for v, name in zip(x, node.input) if self.types.get(name) == self.types.get(node.output[0])]
            parts = parts[:1] if kind in ("Reshape", "Expand", "Slice", "Squeeze", "Unsqueeze") else parts
            if kind == "Pad" and attributes.get("mode", b"constant") == b"constant" and len(node.input) < 3:
                parts.append(Values(0, 0))
            return Values(min(v.low for v in parts), max(v.high for v in parts), min(v.unit for v in parts))
        if not float_in and not float_out and kind in INTEGER:
            return UNKNOWN  # indices and masks: exact by themselves
        method = getattr(self, "of_" + kind, None)
        if method is None:
            raise ValueError("exact bundles must do without this operator")
        return method(x, attributes)

    def of_Add(self, x, _):
        unit = min(x[0].unit, x[1].unit)
        self.sum(x[0].peak + x[1].peak, unit)
        return Values(x[0].low + x[1].low, x[0].high + x[1].high, unit)

    def of_Sub(self, x, _):
        return self.of_Add([x[0], Values(-x[1].high, -x[1].low, x[1].unit)], _)

    def of_Mul(self, x, _):
        ends = [a * b for a in (x[0].low, x[0].high) for b in (x[1].low, x[1].high)]
        unit = x[0].unit * x[1].unit
        for v, of in ((x[0], x[1]), (x[1], x[0])):
            if v.table is not None:  # every row by itself
                self.sum(np.abs(v.table) * of.peak, of.unit * np.array([unit_of(row) for row in v.table.ravel()]).reshape(v.table.shape))
                break
        else:
            self.sum(max(map(abs, ends)), unit)
        return Values(min(ends), max(ends), unit)

    def of_Cast(self, x, _):  # float to integer: an index
        return UNKNOWN

    def of_Relu(self, x, _):
        return replace(x[0], low=max(0.0, x[0].low), high=max(0.0, x[0].high))

    def of_Round(self, x, _):
        return Values(np.rint(x[0].low), np.rint(x[0].high), max(1.0, x[0].unit))

    def of_Min(self, x, _):
        return Values(min(v.low for v in x), min(v.high for v in x), min(v.unit for v in x))

    def of_MaxPool(self, x, _):
        return replace(x[0], table=None)

    def of_ReduceMax(self, x, _):
        return replace(x[0], table=None)

    def of_Max(self, x, _):
        return Values(max(v.low for v in x), max(v.high for v in x), min(v.unit for v in x))

    def of_Clip(self, x, _):
        found, low, high = [*x, None][:3]
        found = found if high is None else self.of_Min([found, high], _)
        return found if low is None else self.of_Max([found, low], _)

    def of_QuantizeLinear(self, x, _):
        if x[1].table is None or not power_of_two(x[1].table):
            raise ValueError("its scale is no constant power of two")
        info, zero = np.iinfo(x[2].table.dtype), x[2].low
        at = lambda v: float(np.clip(np.rint(v / x[1].low) + zero, info.min, info.max))
        return Values(at(x[0].low), at(x[0].high))

    def of_DequantizeLinear(self, x, attributes):
        if x[1].table is None:
            raise ValueError("its scale is no constant")
        zero = x[2].low if len(x) > 2 else 0.0
        if x[0].table is not None:
            shape = [1] * x[0].table.ndim
            if x[1].table.size > 1:
                shape[attributes.get("axis", 1)] = -1
            found = constant((x[0].table - zero) * x[1].table.astype(np.float64).reshape(shape))
            return replace(found, whole=x[0].table)
        self.sum(max(abs(x[0].low - zero), abs(x[0].high - zero)) * x[1].high, x[1].unit)
        return Values((x[0].low - zero) * x[1].high, (x[0].high - zero) * x[1].high, x[1].unit)

    def of_MatMul(self, x, _):
        a, b = x
        if b.table is not None and b.table.ndim >= 2:
            of, terms, axis, whole = a, b.table, -2, b.whole
        elif a.table is not None and a.table.ndim >= 2:
            of, terms, axis, whole = b, a.table, -1, a.whole
        else:
            raise ValueError("neither factor is picked from a constant")
        most = float(np.abs(terms.astype(np.float64)).sum(axis).max())
        unit = of.unit * unit_of(terms)
        self.sum(most * of.peak, unit)
        if whole is not None:
            self.pairs(np.moveaxis(whole, axis, -1))
        return Values(-most * of.peak, most * of.peak, unit)

    def of_Conv(self, x, attributes):
        w, bias = x[1].table, x[2].table if len(x) > 2 else None
        if w is None:
            raise ValueError("its weights are no constant")
        depthwise = w.shape[1] == 1 and attributes.get("group", 1) == w.shape[0] and list(w.shape[2:]) == [3, 3]
        if not depthwise and prod(w.shape[2:]) > 1:
            raise ValueError(f"kernels of {list(w.shape)}: only 1x1 and depthwise 3x3 have no fast algorithm that rounds")
        bias = np.zeros(len(w)) if bias is None else bias
        most = np.abs(w.astype(np.float64)).sum((1, 2, 3)) * x[0].peak + np.abs(bias)
        unit = np.array([min(x[0].unit * unit_of(row), unit_of(one)) for row, one in zip(w, bias)])
        self.sum(most, unit)
        if x[1].whole is not None:
            self.pairs(x[1].whole.reshape(len(w), -1))
        return Values(-float(most.max()), float(most.max()), float(unit.min()))

    def pairs(self, w: np.ndarray) -> None:
        """Checks the pairs of neighbours in the last axis of 8-bit weights."""
        large = np.abs(w.astype(np.int64))
        large = np.pad(large, [(0, 0)] * (w.ndim - 1) + [(0, w.shape[-1] % 2)])
        pair = int((large[..., ::2] + large[..., 1::2]).max())
        if 255 * pair > PAIR_LIMIT:
            raise ValueError(f"two products may reach {255 * pair}, and processors without VNNI add them in 16 bits")


def prove(encoder: onnx.ModelProto, decoder: onnx.ModelProto, loop: onnx.ModelProto, latent_max: int, coarsest: float, scale: int) -> None:
    """Raises ValueError, naming the node, where a decoder graph, its loop graph, or what the encoder graph hands to that might differ between
    machines. Latents: integers of at most latent_max; steps: multiples of 1/scale up to `coarsest`."""
    byte = Values(0, 255)
    given = {"tokens": Values(-latent_max, latent_max), "step": Values(0, coarsest, 1 / scale), "frames": byte, "dec.reference": byte}
    Analysis(decoder, given)
    handed = [o.name for o in encoder.graph.output if o.name.startswith("loop.")]
    found = Analysis(encoder, given, handed)
    Analysis(loop, given | {name: found.values[name] for name in handed})
