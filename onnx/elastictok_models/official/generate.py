# SPDX-License-Identifier: MIT OR Apache-2.0
"""Small folders laid out as the official parity fixtures, made by our own model: for tests where the official ones are absent, and
for trying the commands without a released checkpoint.

    python -m elastictok_models.official.generate --bottleneck vae --out DIR"""
from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from . import inference
from .config import RELEASED, Config
from .model import Model
from .toy import checkpoint, clip, config


def case(directory: Path, cfg: Config, kept: list[int], seed: int = 0) -> Path:
    """Writes params, config.json and data.npz, with a binary search of the same clip in it."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    checkpoint(directory / "params", cfg, seed)
    model, frames = Model.load(directory / "params", cfg), clip(cfg, len(kept), seed)
    coded = inference.full(model, frames, kept)
    n = max(cfg.max_toks // 3, 1)
    data = dict(frames=frames, kept=np.asarray(kept, np.int32), recon=coded.recon, recon_u8=coded.recon_u8, mse=coded.mse, z=coded.latents)
    everything = inference.full(model, frames, [cfg.max_toks] * len(kept))
    data["indices" if cfg.bottleneck_type == "fsq" else "mean"] = coded.tokens
    data["fixed_z"] = inference.encode_fixed(model, frames, n)
    data["fixed_recon_u8"] = inference.decode_fixed(model, data["fixed_z"])
    run = dict(threshold=float(np.mean(everything.mse)) * 1.05, default_prop_codes=1.0, max_prop_codes=1.0)
    trace, found = inference.searched(model, frames, "binary", run["threshold"])
    data |= {f"run0_{k}": v for k, v in dict(
        final_ntoks=trace.final, mse=found.mse, recon_u8=found.recon_u8, trace_block=trace.block, trace_ntoks=trace.ntoks,
        trace_kept=trace.kept, trace_loss=np.float32(trace.loss), trace_commit=trace.commit).items()}
    np.savez(directory / "data.npz", **data)
    content = {**asdict(cfg), "kept": kept, "fixed_n": n, "search_alg": "binary", "runs": [run]}
    (directory / "config.json").write_text(json.dumps(content, indent=1) + "\n")
    return directory


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--bottleneck", choices=list(RELEASED), default="fsq")
    ap.add_argument("--out", type=Path, required=True)
    args = ap.parse_args()
    cfg = config(args.bottleneck)
    case(args.out, cfg, [cfg.max_toks, cfg.max_toks // 2, 1, cfg.max_toks - 1])


if __name__ == "__main__":
    main()
