# SPDX-License-Identifier: MIT OR Apache-2.0
"""Reads the checkpoints that train.py writes."""
from pathlib import Path

import torch

from .config import Config
from .filter import LoopFilter
from .quantised import QuantisedFilter


def load_filter(path: Path) -> tuple[Config, LoopFilter, str]:
    """Reads a checkpoint written by train.py: its config, the network and how it was trained."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    known = Config.__dataclass_fields__
    cfg = Config(**{k: v for k, v in saved["config"].items() if k in known})
    net = QuantisedFilter(cfg) if cfg.exact else LoopFilter(cfg)
    net.load_state_dict(saved["model"])
    return cfg, net.eval(), saved.get("training", "")
