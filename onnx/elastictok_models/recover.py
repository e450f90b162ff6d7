# SPDX-License-Identifier: MIT OR Apache-2.0
"""Reads the in-loop filter back from an exported decoder graph, so that training can go on from a bundle alone.

The graph holds every trained tensor under its own name (`filter.*`, graph.py), a few of them folded together. What comes
back computes the same; a bias that was folded into `place` stays there."""
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from .config import Config
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
