# SPDX-License-Identifier: MIT OR Apache-2.0
"""Runs a decoder graph on blocks in a file and writes the frames: exact_run.py DECODER.onnx BLOCKS.json OUT [LEVEL [THREADS]].

For other versions of ONNX Runtime and emulated processors, so it needs NumPy and onnxruntime only. LEVEL: all, extended, basic or none.
exact_run.mjs does the same in Node."""
import base64
import json
import sys

import numpy as np
import onnxruntime as ort

LEVELS = {"all": "ALL", "extended": "EXTENDED", "basic": "BASIC", "none": "DISABLE_ALL"}


def run(model, work: dict, level: str = "all", threads: int = 1) -> bytes:
    """Frames of all blocks; each block's reference is what the one before left."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    name = LEVELS[level]
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, "ORT_" + (name if name.startswith("DISABLE") else "ENABLE_" + name))
    for dimension, size in work["dimensions"].items():
        options.add_free_dimension_override_by_name(dimension, size)
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    reference, frames = None, []
    for block in work["blocks"]:
        feed = {k: np.frombuffer(base64.b64decode(v["data"]), v["type"]).reshape(v["shape"]) for k, v in block.items()}
        if reference is not None:
            feed["dec.reference"] = reference
        shown, reference = session.run(["frames", "dec.reference.next"], feed)
        frames.append(shown.tobytes())
    return b"".join(frames)


if __name__ == "__main__":
    model, blocks, out = sys.argv[1:4]
    with open(blocks) as f:
        work = json.load(f)
    with open(out, "wb") as f:
        f.write(run(model, work, *sys.argv[4:5], *map(int, sys.argv[5:6])))
    print(ort.__version__)
