# SPDX-License-Identifier: MIT OR Apache-2.0
"""Writes a bundle: python -m elastictok_models.export --out DIR [--weights FILE] [--distortion FILE] [--tables FILE]."""
import argparse
import json
import shutil
from pathlib import Path

import onnx
import torch

from . import graph, ranges
from .checkpoint import load_filter
from .config import CELL, FORMAT_VERSION, HALO, Config
from .distortion import DistortionHead
from .exact import COARSEST_STEP, LATENT_MAX
from .filter import LoopFilter
from .recover import recover_head
from .transform import order, positions


def manifest(cfg: Config, training: str, has_distortion: bool) -> dict:
    """The content of bundle.json; docs/bundle.md describes the fields."""
    c = cfg.coefficients
    return {
        "format_version": FORMAT_VERSION,
        "name": cfg.name,
        "description": "Structured elastic codec: block motion, 3-D transform, quantisers in layers, learned in-loop filter",
        "licence": "MIT OR Apache-2.0",
        "training": training,
        "pixel_format": "I420",
        "block_length": cfg.block_length,
        "alignment": [CELL, CELL],
        "cell": [CELL, CELL],
        "tokens_per_cell": c,
        "min_tokens": 0,
        "layers": [c],
        "bottleneck": {"kind": "nested", "scale": cfg.scale,
                       "positions": positions(cfg).tolist(), "order": order(cfg).tolist()},
        "count_conditioned": False,
        "takes_motion": True,
        "takes_step": True,
        "has_distortion": has_distortion,
        "max_context_blocks": None,
    } | ({"exact": True, "band_halo": HALO} if cfg.exact else {})


def export(cfg: Config, out: Path, net: LoopFilter | None, tables: Path | None, training: str,
           head: DistortionHead | None = None) -> None:
    """Writes the three graphs, bundle.json and, where given, tables.bin into `out`. Raises ValueError where an exact bundle is not."""
    out.mkdir(parents=True, exist_ok=True)
    graphs = {"encoder": graph.encoder(cfg, head), "decoder": graph.decoder(cfg, net), "loop": graph.loop(cfg, net)}
    if cfg.exact:
        ranges.prove(*graphs.values(), LATENT_MAX, COARSEST_STEP, cfg.scale)
    for name, model in graphs.items():
        onnx.save(model, out / f"{name}.onnx")
    text = json.dumps(manifest(cfg, training, head is not None), separators=(",", ":"))
    (out / "bundle.json").write_text(text + "\n")
    if tables is not None and tables != out / "tables.bin":
        shutil.copyfile(tables, out / "tables.bin")


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--weights", type=Path, help="checkpoint of train.py; without it the codec has no learned part")
    ap.add_argument("--exact", action="store_true", help="without --weights: in integers; with them, the checkpoint says")
    ap.add_argument("--distortion", type=Path, help="head trained by distortion.py; without it the one that --out holds, if any")
    ap.add_argument("--tables", type=Path, help="entropy tables that collect_tables trained")
    args = ap.parse_args()
    cfg, net, training = Config(exact=args.exact), None, "untrained"
    if args.weights:
        cfg, net, training = load_filter(args.weights)
    head = recover_head(args.out, cfg) if (args.out / "encoder.onnx").exists() else None
    if args.distortion:
        head = DistortionHead(cfg)
        head.load_state_dict(torch.load(args.distortion, weights_only=True))
    export(cfg, args.out, net, args.tables, training, head)


if __name__ == "__main__":
    main()
