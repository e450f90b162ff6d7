# SPDX-License-Identifier: MIT OR Apache-2.0
"""The official model as ONNX graphs, written node by node; docs/bundle.md has the contract.

Only standard operators of opset 23: Attention, RotaryEmbedding and RMSNormalization keep their meaning in one node each, which
runtimes replace by fused kernels. Cells (tiles) are the batch. Keys and values of the past W-1 blocks are contexts, newest block
first, keys not rotated: the window is own block + past, every key is rotated to its slot in the window, and blocks that are not
there yet are masked. Slots are the official absolute ones until the window is full; from then on the oldest block has slot 0."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from ..builder import Builder
from ..graph import CONTEXT_OUT
from . import fsq, rope
from .config import Config, layer_key
from .weights import TYPES, Sink, Source, to_half

OPSET, IR_VERSION = 23, 10
# Added to the logits of blocks that are not there. Finite, as some kernels make NaN of a tile that is all infinite; far below any
# logit, and within float16.
MASKED = -3e4


@dataclass(frozen=True)
class Options:
    """How a graph computes: `precision` "fp32", or "fp16" for layers' products, attention and contexts (norms, rotation, the residual
    stream and the layers next to pixels and tokens stay float32); `numpy_version` picks the precision of the rotary tables."""

    precision: str = "fp32"
    numpy_version: int = 1


class Graph(Builder):
    """One half of the model under construction."""

    def __init__(self, cfg: Config, options: Options, source: Source, sink: Sink, side: str):
        super().__init__()
        self.cfg, self.options, self.source, self.sink, self.side = cfg, options, source, sink, side
        self.half = options.precision == "fp16"
        self.prefix = side[:3]
        self.inputs, self.outputs = [], []

    def float(self, value) -> str:
        return self.const(np.float32(value))

    def kernel(self, key: str, layer: int | None = None, half: bool = False) -> str:
        name = key if layer is None else f"{self.side}/{layer}/{key}"
        array = self.source.read(key if layer is None else layer_key(self.side, key), layer)
        return self.sink.add(name, to_half(name, array) if half else array)

    def narrow(self, x: str) -> str:
        return self.op("Cast", x, to=TensorProto.FLOAT16) if self.half else x

    def wide(self, x: str) -> str:
        return self.op("Cast", x, to=TensorProto.FLOAT) if self.half else x

    def product(self, x: str, key: str, layer: int) -> str:
        return self.op("MatMul", x, self.kernel(key, layer, self.half))

    def norm(self, x: str, kernel: str) -> str:
        return self.op("RMSNormalization", x, kernel, axis=-1, epsilon=self.cfg.rms_norm_eps)

    def window(self, position: str, cells: str) -> None:
        """What all layers share: rotary tables, slots of the window's tokens and the mask of blocks that are not there."""
        cfg = self.cfg
        w, k = cfg.window, cfg.max_toks
        cos, sin = rope.tables(cfg.head_dim, np.arange(w * k), cfg.theta, self.options.numpy_version)
        self.cos, self.sin = self.sink.add("rotary.cos", cos), self.sink.add("rotary.sin", sin)
        own = self.op("Min", position, self.const(w - 1, np.int64))  # slot of the own block
        number = np.arange(w).repeat(k)  # 0 = own block, 1 = the one before, ..
        slots = np.tile(np.arange(k), w) - number * k
        slots = self.op("Add", self.const(slots[None], np.int64), self.op("Mul", own, self.const(k, np.int64)))
        slots = self.op("Max", slots, self.const(0, np.int64))
        self.key_slots = self.op("Expand", slots, self.shape(cells, w * k))
        self.query_slots = self.slice(self.key_slots, 0, k, 1) if w > 1 else self.key_slots
        there = self.op("LessOrEqual", self.const(number[None], np.int64), own)
        dtype = TYPES[self.options.precision][0]
        mask = self.op("Where", there, self.const(0, dtype), self.const(MASKED, dtype))
        self.mask = self.op("Expand", mask, self.ints(k, w * k)) if w > 1 else ""

    def context(self, name: str, own: str) -> str:
        """Own block [cells, heads, K, head_dim] and the past: [cells, heads, W*K, head_dim]."""
        cfg, past = self.cfg, (self.cfg.window - 1) * self.cfg.max_toks
        if past == 0:
            return own
        name = f"{self.prefix}.{name}"
        self.io(self.inputs, name, TYPES[self.options.precision][1], "cells", cfg.num_attention_heads, past, cfg.head_dim)
        self.io(self.outputs, name + CONTEXT_OUT, TYPES[self.options.precision][1], "cells", cfg.num_attention_heads, past, cfg.head_dim)
        window = self.op("Concat", own, name, axis=2)
        self.op("Slice", window, self.ints(0), self.ints(past), self.ints(2), out=name + CONTEXT_OUT)
        return window

    def rotate(self, x: str, slots: str) -> str:
        return self.narrow(self.op("RotaryEmbedding", self.wide(x), self.cos, self.sin, slots, interleaved=1))

    def attention(self, x: str, layer: int) -> str:
        cfg = self.cfg
        split = lambda y: self.op("Transpose", self.reshape(y, 0, 0, cfg.num_attention_heads, cfg.head_dim), perm=[0, 2, 1, 3])
        q, k, v = (split(self.product(x, f"attention/{w}/kernel", layer)) for w in ("wq", "wk", "wv"))
        k, v = self.context(f"key.{layer}", k), self.context(f"value.{layer}", v)
        y = self.op("Attention", self.rotate(q, self.query_slots), self.rotate(k, self.key_slots), v, *([self.mask] if self.mask else []))
        y = self.reshape(self.op("Transpose", y, perm=[0, 2, 1, 3]), 0, 0, cfg.hidden_size)
        return self.product(y, "attention/wo/kernel", layer)

    def feed_forward(self, x: str, layer: int) -> str:
        gate = self.product(x, "feed_forward/w1/kernel", layer)
        gate = self.op("Mul", gate, self.op("Sigmoid", gate))
        gate = self.op("Mul", gate, self.product(x, "feed_forward/w3/kernel", layer))
        return self.product(gate, "feed_forward/w2/kernel", layer)

    def layers(self, h: str, count: int) -> str:
        """The transformer layers and the final norm: float32 [cells, K, D] to the same."""
        for i in range(count):
            x = self.narrow(self.norm(h, self.kernel("attention_norm/kernel", i)))
            h = self.op("Add", h, self.wide(self.attention(x, i)))
            x = self.narrow(self.norm(h, self.kernel("ffn_norm/kernel", i)))
            h = self.op("Add", h, self.wide(self.feed_forward(x, i)))
        return self.norm(h, self.kernel(f"{self.side}/ln_f/kernel"))

    def kept(self, counts: str) -> str:
        """bool [cells, K, 1]: tokens that are kept."""
        slots = self.const(np.arange(self.cfg.max_toks)[None], np.int32)
        return self.op("Unsqueeze", self.op("Less", slots, self.op("Unsqueeze", counts, self.ints(1))), self.ints(2))

    def io(self, side: list, name: str, dtype: int, *shape) -> str:
        side.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def finish(self) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, self.side, self.inputs, self.outputs, [*self.constants.values(), *self.sink.tensors])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="elastictok")
        model.ir_version = IR_VERSION
        return model


# Of [frames/pt, pt, cells_y, rows, ph, cells_x, columns, pw*3] to [cells_y, cells_x, frames/pt, rows, columns, pt, ph, pw*3]; it
# happens to be its own kind of inverse: the same numbers lead back.
TILING = [2, 5, 0, 3, 6, 1, 4, 7]


def _tokens_io(g: Graph, side: list) -> None:
    k, d = g.cfg.max_toks, g.cfg.latent_dim
    if g.cfg.bottleneck_type == "fsq":
        g.io(side, "tokens", TensorProto.INT32, "cells", k)
    else:
        g.io(side, "tokens", TensorProto.FLOAT, "cells", k, d)


def encoder(cfg: Config, options: Options, source: Source, sink: Sink, head=None) -> onnx.ModelProto:
    """frames uint8 [T, height, width, 3], counts int32 [cells] (tokens kept), position int64 [], enc.* -> tokens of all slots, enc.*.

    `head` (distortion.Head) adds `distortion` float32 [cells, layers]."""
    g = Graph(cfg, options, source, sink, "encoder")
    (t, rows, columns), (pt, ph, pw) = cfg.grid, cfg.patch_size
    g.io(g.inputs, "frames", TensorProto.UINT8, cfg.frames_per_block, "height", "width", 3)
    g.io(g.inputs, "counts", TensorProto.INT32, "cells")
    g.io(g.inputs, "position", TensorProto.INT64)
    _tokens_io(g, g.outputs)
    size = g.op("Shape", "frames")
    cells_y = g.op("Div", g.slice(size, 1, 2, 0), g.ints(rows * ph))
    cells_x = g.op("Div", g.slice(size, 2, 3, 0), g.ints(columns * pw))
    x = g.op("Sub", g.op("Div", g.op("Cast", "frames", to=TensorProto.FLOAT), g.float(127.5)), g.float(1))
    x = g.op("Transpose", g.reshape(x, t, pt, cells_y, rows, ph, cells_x, columns, pw * 3), perm=TILING)
    patches = g.reshape(x, -1, cfg.max_toks, cfg.patch_dim)
    x = g.op("MatMul", patches, g.kernel("encoder/in_proj/kernel"))
    embed = g.op("Where", g.kept("counts"), g.kernel("encoder/is_kept_embed"), g.kernel("encoder/is_masked_embed"))
    g.window("position", g.op("Shape", "counts"))
    features = g.layers(g.op("Add", x, embed), cfg.num_encoder_layers)
    quant = g.op("MatMul", features, g.kernel("encoder/pre_quant/kernel"))
    if cfg.bottleneck_type == "fsq":
        levels = fsq.Levels(cfg.fsq_quant_levels)
        bound = g.op("Tanh", g.op("Add", quant, g.const(levels.shift)))
        bound = g.op("Sub", g.op("Mul", bound, g.const(levels.half)), g.const(levels.offset))
        digits = g.op("Cast", g.op("Add", g.op("Round", bound), g.const(levels.half_width)), to=TensorProto.INT32)
        weighted = g.op("Mul", digits, g.const(levels.basis, np.int32))
        g.op("ReduceSum", weighted, g.ints(2), out="tokens", keepdims=0)
    else:
        g.op("Slice", quant, g.ints(0), g.ints(cfg.latent_dim), g.ints(2), out="tokens")
    if head is not None:
        g.io(g.outputs, "distortion", TensorProto.FLOAT, "cells", len(head.boundaries))
        head.build(g, patches, features)
    return g.finish()


def decoder(cfg: Config, options: Options, source: Source, sink: Sink) -> onnx.ModelProto:
    """tokens, counts int32 [cells], position int64 [], dec.* -> frames uint8 [T, height, width, 3], reconstruction float32 of the same
    shape in (-1, 1), dec.*. `dec.grid` holds nothing: its shape tells how the cells lie."""
    g = Graph(cfg, options, source, sink, "decoder")
    (t, rows, columns), (pt, ph, pw) = cfg.grid, cfg.patch_size
    _tokens_io(g, g.inputs)
    g.io(g.inputs, "counts", TensorProto.INT32, "cells")
    g.io(g.inputs, "position", TensorProto.INT64)
    for name, dtype in (("frames", TensorProto.UINT8), ("reconstruction", TensorProto.FLOAT)):
        g.io(g.outputs, name, dtype, cfg.frames_per_block, "height", "width", 3)
    for side, name in ((g.inputs, "dec.grid"), (g.outputs, "dec.grid" + CONTEXT_OUT)):
        g.io(side, name, TensorProto.FLOAT, "cells_y", "cells_x")
    g.op("Identity", "dec.grid", out="dec.grid" + CONTEXT_OUT)
    size = g.op("Shape", "dec.grid")
    cells_y, cells_x = g.slice(size, 0, 1, 0), g.slice(size, 1, 2, 0)
    z = "tokens"
    if cfg.bottleneck_type == "fsq":
        levels = fsq.Levels(cfg.fsq_quant_levels)
        digits = g.op("Div", g.op("Unsqueeze", "tokens", g.ints(2)), g.const(levels.basis, np.int32))
        digits = g.op("Cast", g.op("Mod", digits, g.const(levels.levels, np.int32)), to=TensorProto.FLOAT)
        z = g.op("Div", g.op("Sub", digits, g.const(levels.half_width)), g.const(levels.half_width))
    z = g.op("Where", g.kept("counts"), z, g.float(0))
    g.window("position", g.op("Shape", "counts"))
    h = g.layers(g.op("MatMul", z, g.kernel("decoder/post_quant/kernel")), cfg.num_decoder_layers)
    y = g.op("Tanh", g.op("MatMul", h, g.kernel("decoder/out_proj/kernel")))
    y = g.op("Transpose", g.reshape(y, cells_y, cells_x, t, rows, columns, pt, ph, pw * 3), perm=TILING)
    height, width = g.op("Mul", cells_y, g.ints(rows * ph)), g.op("Mul", cells_x, g.ints(columns * pw))
    g.op("Reshape", y, g.shape(cfg.frames_per_block, height, width, 3), out="reconstruction")
    unit = g.clip("reconstruction", g.float(-1), g.float(1))
    eight = g.op("Mul", g.op("Add", unit, g.float(1)), g.float(127.5))
    g.op("Cast", eight, out="frames", to=TensorProto.UINT8)  # truncates, as the official code does
    return g.finish()
