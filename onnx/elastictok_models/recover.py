# SPDX-License-Identifier: MIT OR Apache-2.0
"""Reads trained parts back from exported graphs, so that training can go on from a bundle alone.

The graphs hold every trained tensor under its own name (`filter.*`, `distortion.*`, graph.py), a few of them folded together. What comes
back computes the same."""
import base64
import json
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from .config import CHROMA_CENTRE, CHROMA_SCALE, LUMA_CENTRE, LUMA_SCALE, PATCH, K, Config
from .distortion import DistortionHead
from .filter import LoopFilter
from .quantised import QuantisedFilter, spread


def config_of(bundle: Path) -> Config:
    """The sizes of this version's builtin bundles, exact where that in folder `bundle` is."""
    return Config(exact=json.loads((bundle / "bundle.json").read_text()).get("exact", False))


def recover(bundle: Path, cfg: Config) -> LoopFilter:
    """The filter of the bundle in folder `bundle`; raises ValueError where the graph has none or one of another shape."""
    path = bundle / "decoder.onnx"
    model = onnx.load(path)
    named = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    if cfg.exact:
        return _recover_exact(model, named, cfg)
    net, state = LoopFilter(cfg), {}

    def take(name: str, shape) -> np.ndarray:
        value = named.get("filter." + name)
        if value is None or value.size != np.prod(shape):
            found = "nothing" if value is None else f"shape {list(value.shape)}"
            raise ValueError(f"{path}: {found} under the name 'filter.{name}', wanted {list(shape)}; was it exported with "
                             "learned weights, and by this version?")
        return value

    like, t = net.state_dict(), cfg.block_length
    for name, planes, side, scale, centre in (("head", t, PATCH, LUMA_SCALE, LUMA_CENTRE),
                                              ("chroma_head", 2 * t, PATCH // 2, CHROMA_SCALE, CHROMA_CENTRE)):
        channels = len(like[name + ".weight"])
        part = lambda what, planes, side: take(f"{name}.{what}", (channels, planes, side, side)).reshape(channels, -1)
        recon = scale * part("recon", planes, side)
        state[name + ".weight"] = np.concatenate([recon, 2 * part("residual", planes, side)], 1)
        state[name + ".bias"] = take(name + ".bias", (channels,)) + centre * recon.sum(1, dtype=np.float64)
    embedding = take("head.embedding", (cfg.channels, 1, PATCH, PATCH)).reshape(cfg.channels, -1)
    state["head.weight"] = np.concatenate([state["head.weight"], embedding], 1)
    state["place"] = take("place", (K, PATCH, K, PATCH)).transpose(1, 3, 0, 2)
    for key in like.keys() - state.keys():
        state[key] = take(key, like[key].shape)
    state = {k: torch.tensor(np.ascontiguousarray(v)).reshape(like[k].shape) for k, v in state.items()}
    net.load_state_dict(state)
    return net.eval()


def _recover_exact(model: onnx.ModelProto, named: dict[str, np.ndarray], cfg: Config) -> QuantisedFilter:
    net = QuantisedFilter(cfg)
    kept = {p.key: p.value for p in model.metadata_props}.get("filter")
    if kept is None:
        raise ValueError("the decoder graph's metadata have no 'filter'; is the bundle exact, and has it learned weights?")
    state = net.state_dict()
    for key, value in json.loads(kept).items():
        state[key] = torch.from_numpy(np.frombuffer(base64.b64decode(value), "<f4").copy()).reshape(state[key].shape)
    net.load_state_dict(state)
    for name, unit, out in net.layers():
        take = lambda part: torch.from_numpy(named[f"filter.{name}.{part}"].astype(np.float32))
        weight, out = take("weight"), take("unit") * net.unit(out)
        weight = weight * out.reshape(-1, 1, 1, 1) / spread(weight, unit)
        if name == "chroma_head":
            weight, state["chroma_luma.weight"] = weight.split([net.chroma_head.in_channels, net.chroma_luma.in_channels], 1)
        state[name + ".weight"] = weight
        if name + ".bias" in state:
            state[name + ".bias"] = take("bias") * out
    net.load_state_dict(state)
    return net.eval()


def recover_head(bundle: Path, cfg: Config) -> DistortionHead | None:
    """The distortion head of the bundle in folder `bundle`; None where its encoder graph has none."""
    named = {i.name: numpy_helper.to_array(i) for i in onnx.load(bundle / "encoder.onnx").graph.initializer}
    head = DistortionHead(cfg)
    if "distortion.most" not in named:
        return None
    take = lambda name: torch.tensor(named["distortion." + name])
    saturation = np.log(named["distortion.most"].astype(np.float64) / head.share.numpy()).astype(np.float32)
    state = {"share": head.share, "saturation": torch.tensor(saturation)}
    for layer in ("hidden", "out"):
        state |= {f"{layer}.weight": take(f"{layer}.weight").T.contiguous(), f"{layer}.bias": take(f"{layer}.bias")}
    head.load_state_dict(state)
    return head.eval()
