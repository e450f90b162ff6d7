# SPDX-License-Identifier: MIT OR Apache-2.0
"""Runs a bundle of an official model in ONNX Runtime as the Rust core does: sizes fixed per session, contexts fed back."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort

from ..graph import CONTEXT_OUT

DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class Half:
    """One graph of a bundle, with its contexts; `run` advances nothing, `commit` does."""

    def __init__(self, path: Path, sizes: dict[str, int], threads: int = 1, optimised: Path | None = None):
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = False  # of a large model each session would keep gigabytes between runs
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if optimised:
            options.optimized_model_filepath = str(optimised)
        for name, size in sizes.items():
            options.add_free_dimension_override_by_name(name, size)
        self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.outputs = [o.name for o in self.session.get_outputs()]
        self._contexts = [i for i in self.session.get_inputs() if i.name.startswith(("enc.", "dec."))]
        self.sizes = sizes
        self.reset()

    def reset(self) -> None:
        """Begins a key block: position 0, contexts zero."""
        self.position = 0
        self.context = {i.name: np.zeros(i.shape, DTYPES[i.type]) for i in self._contexts}

    def run(self, **feed: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Outputs by name, and the contexts to commit."""
        values = self.session.run(None, {**feed, **self.context, "position": np.asarray(self.position, np.int64)})
        named = dict(zip(self.outputs, values))
        return named, {name: named.pop(name + CONTEXT_OUT) for name in self.context}

    def commit(self, context: dict[str, np.ndarray]) -> None:
        self.context, self.position = context, self.position + 1


class Bundle:
    """Both halves for frames of `columns` x `rows` cells."""

    def __init__(self, directory: Path, columns: int = 1, rows: int = 1, threads: int = 1):
        self.manifest = json.loads((Path(directory) / "bundle.json").read_text())
        width, height = self.manifest["cell"]
        sizes = {"width": width * columns, "height": height * rows, "cells": columns * rows, "cells_x": columns, "cells_y": rows}
        self.cells = columns * rows
        self.encoder, self.decoder = (Half(Path(directory) / f"{side}.onnx", sizes, threads) for side in ("encoder", "decoder"))

    def reset(self) -> None:
        self.encoder.reset()
        self.decoder.reset()

    def block(self, frames: np.ndarray, counts, commit: bool = True) -> dict[str, np.ndarray]:
        """Codes a block of frames uint8 [T, height, width, 3] with `counts` tokens kept per cell. Returns tokens, frames,
        reconstruction and what else the graphs give; starts a key block where the manifest's context is full."""
        limit = self.manifest["max_context_blocks"]
        if limit is not None and self.encoder.position == limit:
            self.reset()
        counts = np.broadcast_to(np.asarray(counts, np.int32), self.cells).copy()
        encoded, encoder = self.encoder.run(frames=frames, counts=counts)
        decoded, decoder = self.decoder.run(tokens=encoded["tokens"], counts=counts)
        if commit:
            self.encoder.commit(encoder)
            self.decoder.commit(decoder)
        return {**encoded, **decoded}
