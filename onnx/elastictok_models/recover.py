# SPDX-License-Identifier: MIT OR Apache-2.0
"""Reads trained parts back from exported graphs, so that training can go on from a bundle alone.

The graphs hold every trained tensor under its own name (`filter.*`, `distortion.*`, graph.py), a few of them folded together. What comes
back computes the same; a bias that was folded into `place` stays there."""
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from .config import Config
from .distortion import DistortionHead
from .filter import LoopFilter


def recover(bundle: Path, cfg: Config) -> LoopFilter:
    """The filter of the bundle in folder `bundle`; raises ValueError where the graph has none or one of another shape."""
    path = bundle / "decoder.onnx"
    named = {i.name: numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}
    net, state = LoopFilter(cfg), {}

    def take(name: str, shape) -> np.ndarray:
        value = named.get("filter." + name)
        if value is None or value.size != np.prod(shape):
            found = "nothing" if value is None else f"shape {list(value.shape)}"
            raise ValueError(f"{path}: {found} under the name 'filter.{name}', wanted {list(shape)}; was it exported with "
                             "learned weights, and by this version?")
        return value

    n, channels = cfg.patch, cfg.channels
    recon = 64 * take("head.recon", (channels, n))
    head = np.concatenate([recon, 2 * take("head.residual", (channels, n))], 1)
    for key, like in net.state_dict().items():
        if key == "head.weight":
            value = head
        elif key == "head.bias":
            value = 2 * recon.sum(1)  # cancels what graph.py folds into `place`
        elif key == "tail.weight":
            value = take("tail", like.shape)
        else:
            value = take(key, like.shape)
        state[key] = torch.tensor(np.ascontiguousarray(value)).reshape(like.shape)
    net.load_state_dict(state)
    return net.eval()


def recover_head(bundle: Path, cfg: Config) -> DistortionHead | None:
    """The distortion head of the bundle in folder `bundle`; None where its encoder graph has none."""
    named = {i.name: numpy_helper.to_array(i) for i in onnx.load(bundle / "encoder.onnx").graph.initializer}
    head = DistortionHead(cfg)
    if "distortion.most" not in named:
        return None
    take = lambda name: torch.tensor(named["distortion." + name])
    state = {"share": head.share, "saturation": torch.log(take("most") / head.share)}
    for layer in ("hidden", "out"):
        state |= {f"{layer}.weight": take(f"{layer}.weight").T.contiguous(), f"{layer}.bias": take(f"{layer}.bias")}
    head.load_state_dict(state)
    return head.eval()
