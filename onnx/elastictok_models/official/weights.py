# SPDX-License-Identifier: MIT OR Apache-2.0
"""Where graphs take weights from, and where they put them: inside the graph, or beside it as external data."""
from __future__ import annotations

import zlib
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .config import Config

# Weights of a graph from which on they go beside it: ONNX files end at 2 GB, and loaders copy what is inside.
EXTERNAL = 8 << 20
ALIGNMENT = 4096  # of a tensor in external data, so that loaders can map it
TYPES = {"fp32": (np.float32, TensorProto.FLOAT), "fp16": (np.float16, TensorProto.FLOAT16)}


class Source(Protocol):
    """Official weights by key path, as float32 [in, out]; `layer` picks from stacked tensors. Checkpoint is one."""

    def read(self, key: str, layer: int | None = None) -> np.ndarray: ...


class RandomWeights:
    """Weights of a model nobody trained, for measuring and tests: the same for the same seed. Kernels are normal with deviation `gain`
    / sqrt(in), at which activations keep their size through the layers; norms are one."""

    def __init__(self, cfg: Config, seed: int = 0, gain: float = 1.0):
        self.shapes, self.seed, self.gain = cfg.shapes(), seed, gain

    def read(self, key: str, layer: int | None = None) -> np.ndarray:
        shape = self.shapes[key] if layer is None else self.shapes[key][1:]
        if "norm" in key or "ln_f" in key:
            return np.ones(shape, np.float32)
        rng = np.random.default_rng([self.seed, zlib.crc32(key.encode()), 0 if layer is None else layer + 1])
        return rng.standard_normal(shape, np.float32) * np.float32(self.gain / shape[0] ** 0.5)


class Sink:
    """Collects a graph's weights. With a file, each is written there at once and only its place is kept."""

    def __init__(self, path: Path | None):
        self.path, self.tensors, self._end = path, [], 0
        self._file = open(path, "wb") if path else None

    def add(self, name: str, array: np.ndarray) -> str:
        if self._file is None:
            self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
            return name
        start = -(-self._end // ALIGNMENT) * ALIGNMENT
        self._file.seek(start)
        self._file.write(np.ascontiguousarray(array).data)
        self._end = start + array.nbytes
        tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape,
                             data_location=TensorProto.EXTERNAL)
        for key, value in (("location", self.path.name), ("offset", start), ("length", array.nbytes)):
            tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=str(value)))
        self.tensors.append(tensor)
        return name

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def to_half(name: str, array: np.ndarray) -> np.ndarray:
    """float16 of a weight. Raises ValueError where a value does not fit."""
    largest = float(np.abs(array).max(initial=0))
    if largest > float(np.finfo(np.float16).max):
        raise ValueError(f"{name} has a weight of {largest:g}, which float16 does not hold; export with --precision fp32")
    return array.astype(np.float16)
