# SPDX-License-Identifier: MIT OR Apache-2.0
"""A ring buffer of training samples on disk: rollout.py writes it, train.py reads it."""
import json
from pathlib import Path

import numpy as np

from .config import Config

SIDE = 32  # patches on a side of a sample: 128 pixels


class Ring:
    """Samples on disk: recon, residual float16 and source uint8 [N, SIDE*SIDE, luma_patch + chroma_patch], mask uint8, step
    float32."""

    def __init__(self, folder: Path, cfg: Config, size: int | None = None):
        folder.mkdir(parents=True, exist_ok=True)
        create = size is not None
        if create:
            (folder / "count").unlink(missing_ok=True)
            (folder / "ring.json").write_text(json.dumps({"size": size}))
        self.size = json.loads((folder / "ring.json").read_text())["size"]
        open_ = lambda name, dtype, shape: np.memmap(folder / name, dtype, "w+" if create else "r", shape=(self.size, *shape))
        patch = cfg.luma_patch + cfg.chroma_patch
        self.recon = open_("recon", np.float16, (SIDE * SIDE, patch))
        self.residual = open_("residual", np.float16, (SIDE * SIDE, patch))
        self.source = open_("source", np.uint8, (SIDE * SIDE, patch))
        self.mask = open_("mask", np.uint8, (SIDE * SIDE,))
        self.step = open_("step", np.float32, ())
        self.count_file = folder / "count"

    def count(self) -> int:
        return int(self.count_file.read_text() or 0) if self.count_file.exists() else 0
