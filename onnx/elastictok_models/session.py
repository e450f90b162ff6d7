# SPDX-License-Identifier: MIT OR Apache-2.0
"""Runs exported graphs in ONNX Runtime."""
import onnxruntime as ort

from .config import CELL


def session(model, cells_y: int, cells_x: int, threads: int = 1) -> ort.InferenceSession:
    """A CPU session of the ONNX model for pictures of that many cells."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    for name, size in (("cells_y", cells_y), ("cells_x", cells_x), ("cells", cells_y * cells_x), ("width", cells_x * CELL),
                       ("frame_rows", cells_y * CELL * 3 // 2)):
        options.add_free_dimension_override_by_name(name, size)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
