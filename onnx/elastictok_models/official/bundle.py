# SPDX-License-Identifier: MIT OR Apache-2.0
"""Writes an official model as a bundle: all of it or nothing. docs/bundle.md has the contract."""
from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import onnx

from ..config import FORMAT_VERSION
from . import graph
from .config import Config
from .weights import EXTERNAL, TYPES, Sink, Source

CONTEXTS = ("restart", "sliding")
DEFAULT_CONTEXT = "restart"
VAE_BITS = 12


class ExportError(ValueError):
    """A bundle that cannot be written; the message names the remedy."""


@dataclass(frozen=True)
class Export:
    """What the manifest says beyond the model's config, and how the graphs compute."""

    name: str = "elastictok"
    precision: str = "fp32"
    numpy_version: int = 1
    context: str = DEFAULT_CONTEXT  # "restart": a key block when the window is full; "sliding": the oldest block falls out
    layers: tuple[int, ...] | None = None  # boundaries; doubling from min_toks unless given
    vae_bits: int = VAE_BITS
    licence: str = ""
    training: str = ""
    external: int = EXTERNAL  # bytes of a graph's weights from which on they go beside it


def boundaries(cfg: Config) -> list[int]:
    """Layers that double from min_toks to max_toks."""
    ends = [cfg.min_toks]
    while ends[-1] < cfg.max_toks:
        ends.append(min(2 * ends[-1], cfg.max_toks))
    return ends


def vae_scale(cfg: Config, source: Source, bits: int) -> float:
    """Quantiser steps per unit of a latent, as fine as `bits` signed bits allow without ever clipping.

    The final norm leaves vectors of length sqrt(D) at most, so a mean is at most that times the length of its weights (Cauchy-Schwarz)."""
    weights = source.read("encoder/ln_f/kernel")[:, None] * source.read("encoder/pre_quant/kernel")[:, :cfg.latent_dim].astype(np.float64)
    reach = float(np.sqrt(cfg.hidden_size) * np.linalg.norm(weights, axis=0).max())
    return ((1 << bits - 1) - 1) / max(reach, 1e-6)


def manifest(cfg: Config, export: Export, source: Source, has_distortion: bool = False) -> dict:
    """The content of bundle.json."""
    if cfg.bottleneck_type == "fsq":
        bottleneck = {"kind": "fsq", "levels": list(cfg.fsq_quant_levels)}
    else:
        scale = vae_scale(cfg, source, export.vae_bits)
        bottleneck = {"kind": "vae", "dimensions": cfg.vae_bottleneck_dim, "scale": scale, "bits": export.vae_bits}
    tile = list(cfg.tile_size)
    return {
        "format_version": FORMAT_VERSION,
        "name": export.name,
        "description": f"ElasticTok (arXiv 2410.08368), {cfg.bottleneck_type.upper()} bottleneck, imported from an official checkpoint",
        "licence": export.licence,
        "training": export.training,
        "pixel_format": "RGB",
        "block_length": cfg.frames_per_block,
        "alignment": tile,
        "cell": tile,
        "tokens_per_cell": cfg.max_toks,
        "min_tokens": cfg.min_toks,
        "layers": list(export.layers or boundaries(cfg)),
        "bottleneck": bottleneck,
        "count_conditioned": True,
        "takes_motion": False,
        "takes_step": False,
        "has_distortion": has_distortion,
        "has_reconstruction": True,
        "max_context_blocks": cfg.window if export.context == "restart" else None,
        "search": {"rule": "official", "default_prop": 1.0, "max_prop": 1.0, "n_interp": 100},
    }


def _check(cfg: Config, export: Export) -> None:
    for value, known, option in ((export.precision, TYPES, "--precision"), (export.context, CONTEXTS, "--context")):
        if value not in known:
            raise ExportError(f"{option} is {value!r}; it can be {' or '.join(known)}")
    if not 1 <= export.vae_bits <= 16:
        raise ExportError(f"--vae-bits is {export.vae_bits}; it can be 1 to 16")
    ends = list(export.layers or boundaries(cfg))
    if not (0 < ends[0] and all(a < b for a, b in zip(ends, ends[1:])) and ends[-1] == cfg.max_toks and len(ends) <= 32):
        raise ExportError(f"--layers {ends} do not rise to max_toks {cfg.max_toks} in at most 32 steps")
    if max(cfg.tile_size) > 1024:
        raise ExportError(f"a tile of {cfg.tile_size} is above 1024 pixels, the most a bundle may have; set resolution by --update")


def replace_directory(out: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a new directory and puts it in the place of `out`, which stays as it was if `write` fails.

    `out` may be missing, empty or an older bundle. Raises ExportError if it is anything else."""
    out = Path(out).absolute()
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / "bundle.json").is_file())):
        raise ExportError(f"{out} exists and is no bundle; name a new directory by --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        write(new)
        new.chmod(0o755)
        if out.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
            os.replace(out, old / "bundle")
            try:
                os.replace(new, out)
            except OSError:
                os.replace(old / "bundle", out)
                raise
            finally:
                shutil.rmtree(old)
        else:
            os.replace(new, out)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def write(cfg: Config, export: Export, source: Source, out: Path, head=None) -> dict:
    """Writes bundle.json, encoder.onnx and decoder.onnx, and *.onnx.data where weights are large, into the directory `out`.

    One tensor of one layer is in memory at a time where weights go to external data. Returns the manifest. Raises ExportError for
    options that make no bundle, and whatever `source` raises; `out` is then as it was."""
    _check(cfg, export)
    options = graph.Options(export.precision, export.numpy_version)
    content = manifest(cfg, export, source, head is not None)
    sizes = {side: sum(prod(s) for k, s in cfg.shapes().items() if k.startswith(side)) for side in ("encoder", "decoder")}

    def fill(directory: Path) -> None:
        for side, build in (("encoder", graph.encoder), ("decoder", graph.decoder)):
            large = sizes[side] * np.dtype(TYPES[export.precision][0]).itemsize >= export.external
            sink = Sink(directory / f"{side}.onnx.data" if large else None)
            try:
                model = build(cfg, options, source, sink, *([head] if side == "encoder" else []))
            finally:
                sink.close()
            onnx.save(model, directory / f"{side}.onnx")
            del model
            onnx.checker.check_model(str(directory / f"{side}.onnx"), full_check=not large)
        (directory / "bundle.json").write_text(json.dumps(content, indent=1) + "\n")

    replace_directory(out, fill)
    return content
