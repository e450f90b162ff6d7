# SPDX-License-Identifier: MIT OR Apache-2.0
"""Measures every deviation from the official code on a folder of parity fixtures, as a table.

    python -m elastictok_models.official.deviations FIXTURES"""
from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from . import bundle, inference, picture, runner
from .checkpoint import Checkpoint
from .config import Config
from .model import Context, Model

COLUMNS = "| case | how | tokens that differ, or largest deviation of a mean | recon, largest | recon, rms | PSNR lost, dB | mse | 8 bit |"


def row(case: str, how: str, cfg: Config, data, tokens: np.ndarray, recon: np.ndarray, eight: np.ndarray | None = None) -> str:
    """A line of the table; tokens of blocks [N, K(, dim)], recon [T, H, W, 3]."""
    kept = np.arange(cfg.max_toks) < data["kept"][:, None]
    if cfg.bottleneck_type == "fsq":
        off = f"{np.count_nonzero((tokens != data['indices'])[kept])} of {kept.sum()}"
    else:
        off = f"{np.abs(tokens - data['mean'])[kept].max():.1e}"
    original = picture.to_unit(data["frames"])
    error = lambda x: np.square(x - original, dtype=np.float64).reshape(len(kept), -1).mean(1)
    psnr = 10 * np.log10(error(recon).mean() / error(data["recon"]).mean())
    eight = picture.to_8_bit(recon) if eight is None else eight
    off_by = np.abs(recon - data["recon"])
    cells = [case, how, off, f"{off_by.max():.1e}", f"{np.sqrt(np.square(off_by).mean()):.1e}", f"{psnr:+.4f}",
             f"{np.abs(error(recon) - data['mse']).max():.1e}", f"{np.abs(eight.astype(int) - data['recon_u8']).max()}"]
    return f"| {' | '.join(cells)} |"


def of_model(folder: Path, cfg: Config, data, numpy_version: int = 1) -> list[str]:
    model, kept = Model.load(folder / "params", cfg, numpy_version), data["kept"].tolist()
    name = "PyTorch" + (", tables of NumPy 2" if numpy_version == 2 else "")
    coded = inference.full(model, data["frames"], kept)
    rows = [row(folder.name, f"{name}, one pass", cfg, data, coded.tokens, coded.recon)]
    context, recon, latents, t = Context(), [], [], cfg.frames_per_block
    with torch.no_grad():
        for i, n in enumerate(kept):
            x = model.patches(data["frames"][i * t:(i + 1) * t])
            latents.append(model.encode(x, model.mask([n]), context.encoder)[0][0].numpy())
            y, _, context = model.reconstruct(x, model.mask([n]), context)
            recon.append(picture.unpatchify(y[0].numpy(), cfg))
    latents = np.stack(latents)
    tokens = model.levels.index(latents) if cfg.bottleneck_type == "fsq" else latents
    return rows + ([row(folder.name, f"{name}, by block", cfg, data, tokens, np.concatenate(recon))] if len(kept) > 1 else [])


def of_bundle(folder: Path, cfg: Config, data, how: str, options: bundle.Export, quantise: bool = False) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        bundle.write(cfg, options, Checkpoint(folder / "params", cfg), Path(scratch) / "b")
        coder = runner.Bundle(Path(scratch) / "b")
    t, tokens, recon, eight = cfg.frames_per_block, [], [], []
    for i, n in enumerate(data["kept"]):
        counts = np.array([n], np.int32)
        encoded, context = coder.encoder.run(frames=data["frames"][i * t:(i + 1) * t], counts=counts)
        coder.encoder.commit(context)
        values = encoded["tokens"]
        if quantise:
            scale = coder.manifest["bottleneck"]["scale"]
            values = (np.round(values * np.float32(scale)) / scale).astype(np.float32)
        decoded, context = coder.decoder.run(tokens=values, counts=counts)
        coder.decoder.commit(context)
        tokens.append(values[0])
        recon.append(decoded["reconstruction"])
        eight.append(decoded["frames"])
    return row(folder.name, how, cfg, data, np.stack(tokens), np.concatenate(recon), np.concatenate(eight))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("fixtures", type=Path)
    args = ap.parse_args()
    torch.set_num_threads(1)
    print(COLUMNS + "\n" + "| --- " * (COLUMNS.count("|") - 1) + "|")
    for path in sorted(args.fixtures.glob("*/config.json")):
        if "kept" not in json.loads(path.read_text()):
            continue
        folder, cfg, data = path.parent, Config.from_json(path, {}), dict(np.load(path.parent / "data.npz"))
        rows = [*of_model(folder, cfg, data), *of_model(folder, cfg, data, 2)[-1:]]
        rows.append(of_bundle(folder, cfg, data, "bundle, fp32", bundle.Export()))
        rows.append(of_bundle(folder, cfg, data, "bundle, fp16", bundle.Export(precision="fp16")))
        if cfg.bottleneck_type == "vae":
            for bits in (12, 10, 8):
                how = f"bundle, fp32, means in {bits} bits"
                rows.append(of_bundle(folder, cfg, data, how, bundle.Export(vae_bits=bits), True))
        print("\n".join(rows), flush=True)


if __name__ == "__main__":
    main()
