# SPDX-License-Identifier: MIT OR Apache-2.0
"""The command train-head: fits a distortion head to a checkpoint on clips."""
from __future__ import annotations

import argparse
import sys

import numpy as np
import torch

from . import bundle, study
from .config import Config
from .distortion import Head, statistics
from .model import Context, Model

SHRINKAGE = 0.03  # of the weights of standardised inputs; best of 0.01 to 1 on held-out clips of study.py


@torch.no_grad()
def pairs(model: Model, videos: list[np.ndarray], boundaries: list[int], count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Descriptions float32 [about count, D + 2] and errors [.., layers] of random blocks, each in the context of blocks before it.

    Features are taken with all tokens kept: a search does not know the count when it asks. Contexts are of random counts."""
    cfg, rng = model.cfg, np.random.default_rng(seed)
    described, errors, seen = [], [], []
    hook = model.encoder.ln_f.register_forward_hook(lambda _, __, out: seen.append(out.mean(1).numpy()))
    batch = min(count, 16)
    keep = lambda n: model.mask([n]).expand(batch, -1)
    try:
        while len(described) * batch < count:
            x = torch.from_numpy(study.sample(rng, videos, cfg, batch, cfg.window)).unflatten(1, (-1, cfg.max_toks))
            context = Context()
            for i in range(x.shape[1]):
                seen.clear()
                columns = [model.reconstruct(x[:, i], keep(n), context)[1][:, 0].numpy() for n in boundaries]
                errors.append(np.stack(columns, 1))
                described.append(np.concatenate([seen[-1], statistics(x[:, i].numpy())], 1))  # the last boundary is all tokens
                _, _, context = model.reconstruct(x[:, i], study.masks(rng, cfg, batch, 1), context)
    finally:
        hook.remove()
    return np.concatenate(described), np.concatenate(errors)


def fit(described: np.ndarray, errors: np.ndarray, boundaries: list[int]) -> Head:
    """Ridge regression of the logarithm of the errors on standardised descriptions, folded into one linear layer."""
    x, y = described.astype(np.float64), np.log(errors.astype(np.float64) + 1e-8)
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    x, middle = (x - mean) / deviation, y.mean(0)
    weight = np.linalg.solve(x.T @ x + SHRINKAGE * len(x) * np.eye(x.shape[1]), x.T @ (y - middle)) / deviation[:, None]
    return Head(list(boundaries), weight.astype(np.float32), (middle - mean @ weight).astype(np.float32))


def run(args: argparse.Namespace, cfg: Config) -> None:
    """Carries out train-head: writes the head and prints how far its predictions on held-out clips are off."""
    torch.set_num_threads(args.threads)
    boundaries = list(args.layers or bundle.boundaries(cfg))
    videos = study.clips(args.data, cfg)
    held = videos[-len(videos) // 10:]
    model = Model.load(args.checkpoint, cfg)
    head = fit(*pairs(model, videos[:-len(held)], boundaries, args.pairs), boundaries)
    described, errors = pairs(model, held, boundaries, max(args.pairs // 8, 16), seed=1)
    off = 10 * np.log10(head.predict(described[:, :-2], described[:, -2:]) / errors)
    constant = 10 * np.log10(errors)
    head.save(args.out)
    print("held-out error of the prediction, dB (standard deviation; of a constant one):", ", ".join(
        f"{n} tokens {a:.2f} ({b:.2f})" for n, a, b in zip(boundaries, off.std(0), constant.std(0))), file=sys.stderr)
