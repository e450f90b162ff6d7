# SPDX-License-Identifier: MIT OR Apache-2.0
"""Writes the small bundles of the tests: `python generate.py` (needs numpy and onnx).

A cell is 16x16 pixels and 4 frames (8 in one bundle). Its 16 tokens are the coefficients of a 4x4 cosine transform of the means of its 4x4 pixel
patches over the block, R, G and B together, lowest frequency first, less half of what the block before had. So any prefix of the
tokens is a picture, blocks depend on their context, and all is exact enough to be computed by hand.

    fsq       indices of 63x63x63 codes; open loop, conditioned on counts, predicts its distortion, four blocks of context
    official  the same, searched as the released code does, without predictions or end of context; weights in external files
    vae       means; closed loop (the encoder reads the decoder's context), not conditioned, no reconstruction
    long      as vae, with blocks of 8 frames
    endless   as fsq, without predictions; the decoder graph runs until it is ended
"""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper, numpy_helper

HERE = Path(__file__).parent
LAYERS = [4, 8, 16]
LEVELS = 63
HALF = LEVELS // 2
LEAK = 0.5


def transform():
    """Orthonormal 4x4 cosine transform of patches in raster order; rows by rising frequency."""
    k, n = np.mgrid[0:4, 0:4]
    one = np.cos(np.pi * (2 * n + 1) * k / 8) * np.where(k == 0, 0.5, np.sqrt(0.5))
    two = np.einsum("vy,ux->vuyx", one, one).reshape(16, 16)
    order = sorted(range(16), key=lambda i: (i // 4 + i % 4, i % 4))
    return two[order].astype(np.float32)


class Graph:
    """Collects nodes and constants of a graph."""

    def __init__(self):
        self.nodes, self.constants, self.count = [], [], 0

    def constant(self, value, dtype=np.float32):
        self.count += 1
        name = f"c{self.count}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def __call__(self, op, *inputs, out=None, **attributes):
        self.count += 1
        out = out or f"v{self.count}"
        inputs = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        self.nodes.append(helper.make_node(op, inputs, [out], **attributes))
        return out

    def ints(self, *values):
        return self.constant(values, np.int64)

    def grid(self, context):
        """Rows and columns of cells, from a context's shape."""
        shape = self("Shape", context)
        return tuple(self("Slice", shape, self.ints(i), self.ints(i + 1)) for i in range(2))

    def prediction(self, context):
        """[cells, 16, 3]: half of what the block before had, nothing in a key block."""
        gate = self("Cast", self("Greater", "position", self.constant(0, np.int64)), to=T.FLOAT)
        return self("Mul", self("Reshape", context, self.ints(-1, 16, 3)), self("Mul", gate, LEAK))

    def mask(self, counts):
        """[cells, 16, 1]: 1 for tokens kept."""
        kept = self("Less", self.constant(np.arange(16)[None], np.int32), self("Unsqueeze", counts, self.ints(1)))
        return self("Unsqueeze", self("Cast", kept, to=T.FLOAT), self.ints(2))

    def save(self, folder, name, inputs, outputs, external):
        graph = helper.make_graph(self.nodes, name, inputs, outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9, producer_name="generate.py")
        onnx.checker.check_model(model)
        path = folder / f"{name}.onnx"
        path.with_suffix(".onnx.data").unlink(missing_ok=True)
        if external:
            onnx.save_model(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=512)
        else:
            onnx.save_model(model, path)


def tensor(name, kind, *shape):
    return helper.make_tensor_value_info(name, kind, shape)


CONTEXT = ("cells_y", "cells_x", 16, 3)


def frames(length):
    return tensor("frames", T.UINT8, length, "height", "width", 3)


def without_end(g, value):
    """`value`, after more rounds than anyone will wait for."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["goes_on"]), helper.make_node("Neg", ["before"], ["after"])],
        "round",
        [tensor("round", T.INT64), tensor("going", T.BOOL), tensor("before", T.FLOAT, "cells", 16, 3)],
        [tensor("goes_on", T.BOOL), tensor("after", T.FLOAT, "cells", 16, 3)],
    )
    return g("Loop", g.constant(2**63 - 2, np.int64), g.constant(True, np.bool_), value, body=body)


def encoder(folder, kind, length, distortion, external):
    g = Graph()
    context = "dec.last" if kind == "vae" else "enc.last"
    inputs = [frames(length), tensor("position", T.INT64), tensor(context, T.FLOAT, *CONTEXT)]
    rows, columns = g.grid(context)
    pixels = g("Sub", g("Div", g("Cast", "frames", to=T.FLOAT), 127.5), 1.0)
    shape = g("Concat", g.ints(length), rows, g.ints(4, 4), columns, g.ints(4, 4, 3), axis=0)
    pixels = g("Reshape", pixels, shape)
    means = g("ReduceMean", pixels, g.ints(0, 3, 6), keepdims=0)
    means = g("Reshape", g("Transpose", means, perm=[0, 2, 1, 3, 4]), g.ints(-1, 16, 3))
    residual = g("Sub", g("Mul", g("MatMul", transform()[None], means), 0.25), g.prediction(context))
    if kind == "vae":
        g("Identity", residual, out="tokens")
        g.save(folder, "encoder", inputs, [tensor("tokens", T.FLOAT, "cells", 16, 3)], external)
        return
    inputs.append(tensor("counts", T.INT32, "cells"))
    # A little of the counts is in every token, as in a model that is conditioned on them.
    told = g("Mul", g("Cast", "counts", to=T.FLOAT), 0.0001)
    told = g("Add", residual, g("Reshape", told, g.ints(-1, 1, 1)))
    digits = g("Round", g("Mul", g("Clip", told, g.constant(-1.0), g.constant(1.0)), float(HALF)))
    basis = g.constant([[[1, LEVELS, LEVELS**2]]], np.int32)
    index = g("Mul", g("Cast", g("Add", digits, float(HALF)), to=T.INT32), basis)
    g("ReduceSum", index, g.ints(2), out="tokens", keepdims=0)
    coded = g("Div", digits, float(HALF))
    after = g("Add", g.prediction(context), g("Mul", coded, g.mask("counts")))
    g("Reshape", after, g("Shape", context), out=f"{context}.next")
    outputs = [tensor("tokens", T.INT32, "cells", 16), tensor(f"{context}.next", T.FLOAT, *CONTEXT)]
    if distortion:
        square = lambda x: g("Mul", x, x)
        energy = lambda x: g("ReduceMean", square(x), g.ints(2), keepdims=0)
        kept = (np.arange(16)[:, None] < np.array(LAYERS)[None]).astype(np.float32)
        lost = g("Add", g("MatMul", energy(g("Sub", residual, coded)), kept), g("MatMul", energy(residual), 1 - kept))
        inside = g("ReduceMean", square(pixels), g.ints(0, 2, 3, 5, 6, 7), keepdims=0)
        patches = g("Reshape", g("ReduceMean", square(means), g.ints(1, 2)), g.ints(-1, 1))
        inside = g("Sub", g("Reshape", inside, g.ints(-1, 1)), patches)
        g("Add", lost, inside, out="distortion")
        outputs.append(tensor("distortion", T.FLOAT, "cells", len(LAYERS)))
    g.save(folder, "encoder", inputs, outputs, external)


def decoder(folder, kind, length, external, endless):
    g = Graph()
    rows, columns = g.grid("dec.last")
    if kind == "vae":
        tokens = tensor("tokens", T.FLOAT, "cells", 16, 3)
        coded = "tokens"
    else:
        tokens = tensor("tokens", T.INT32, "cells", 16)
        index = g("Unsqueeze", "tokens", g.ints(2))
        basis = g.constant([[[1, LEVELS, LEVELS**2]]], np.int32)
        digits = g("Mod", g("Div", index, basis), g.constant(LEVELS, np.int32))
        coded = g("Div", g("Sub", g("Cast", digits, to=T.FLOAT), float(HALF)), float(HALF))
    if endless:
        coded = without_end(g, coded)
    after = g("Add", g.prediction("dec.last"), g("Mul", coded, g.mask("counts")))
    g("Reshape", after, g("Shape", "dec.last"), out="dec.last.next")
    means = g("MatMul", transform().T[None], g("Mul", after, 4.0))
    means = g("Reshape", means, g("Concat", rows, columns, g.ints(4, 4, 3), axis=0))
    means = g("Unsqueeze", g("Transpose", means, perm=[0, 2, 1, 3, 4]), g.ints(0, 3, 6))
    pixels = g("Expand", means, g.ints(length, 1, 1, 4, 1, 1, 4, 1))
    size = [g("Mul", n, g.ints(16)) for n in (rows, columns)]
    pixels = g("Reshape", pixels, g("Concat", g.ints(length), *size, g.ints(3), axis=0))
    outputs = [frames(length), tensor("dec.last.next", T.FLOAT, *CONTEXT)]
    picture = g("Clip", pixels, g.constant(-1.0), g.constant(1.0), out=None if kind == "vae" else "reconstruction")
    if kind != "vae":
        outputs.append(tensor("reconstruction", T.FLOAT, length, "height", "width", 3))
    g("Cast", g("Mul", g("Add", picture, 1.0), 127.5), out="frames", to=T.UINT8)
    inputs = [tokens, tensor("counts", T.INT32, "cells"), tensor("position", T.INT64), tensor("dec.last", T.FLOAT, *CONTEXT)]
    g.save(folder, "decoder", inputs, outputs, external)


def bundle(name, **fields):
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    kind, external = fields["bottleneck"]["kind"], name == "official"
    length = fields.get("block_length", 4)
    encoder(folder, kind, length, fields.get("has_distortion", False), external)
    decoder(folder, kind, length, external, name == "endless")
    common = {
        "format_version": 1,
        "name": f"test-{name}",
        "description": "For tests; see generate.py",
        "licence": "MIT OR Apache-2.0",
        "pixel_format": "RGB",
        "block_length": 4,
        "alignment": [16, 16],
        "cell": [16, 16],
        "tokens_per_cell": 16,
        "layers": LAYERS,
    }
    (folder / "bundle.json").write_text(json.dumps(common | fields, indent=2) + "\n")


if __name__ == "__main__":
    fsq = {"bottleneck": {"kind": "fsq", "levels": [LEVELS] * 3}, "count_conditioned": True, "has_reconstruction": True}
    bundle("fsq", **fsq, min_tokens=1, has_distortion=True, max_context_blocks=4)
    bundle("endless", **fsq, min_tokens=1)
    bundle("official", **fsq, min_tokens=2, search={"rule": "official"})
    vae = {"bottleneck": {"kind": "vae", "dimensions": 3, "scale": 1024.0, "bits": 12}}
    bundle("vae", **vae)
    bundle("long", **vae, block_length=8)
