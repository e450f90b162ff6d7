# SPDX-License-Identifier: MIT OR Apache-2.0
"""The command train-head: fits a distortion head to a checkpoint on clips."""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from . import bundle, study
from .distortion import Head
from .model import Context, Model

HIDDEN = 64


@torch.no_grad()
def pairs(model: Model, videos: list[np.ndarray], boundaries: list[int], count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mean features float32 [about count, D] and errors [.., layers] of random blocks, each in the context of blocks before it.

    Features are taken with a random count given to the encoder, or all tokens: a search does not know the count when it asks."""
    cfg, rng = model.cfg, np.random.default_rng(seed)
    pooled, errors, seen = [], [], []
    hook = model.encoder.ln_f.register_forward_hook(lambda _, __, out: seen.append(out.mean(1).numpy()))
    batch = min(count, 16)
    try:
        while len(pooled) * batch < count:
            x = torch.from_numpy(study.sample(rng, videos, cfg, batch, cfg.window)).unflatten(1, (-1, cfg.max_toks))
            context = Context()
            for i in range(x.shape[1]):
                given = study.masks(rng, cfg, batch, 1) if rng.integers(2) else model.mask([cfg.max_toks]).expand(batch, -1)
                seen.clear()
                _, _, after = model.reconstruct(x[:, i], given, context)
                pooled.append(seen[0])
                columns = [model.reconstruct(x[:, i], model.mask([n]).expand(batch, -1), context)[1][:, 0].numpy() for n in boundaries]
                errors.append(np.stack(columns, 1))
                context = after
    finally:
        hook.remove()
    return np.concatenate(pooled), np.concatenate(errors)


def fit(pooled: np.ndarray, errors: np.ndarray, boundaries: list[int], steps: int = 2000, seed: int = 0) -> Head:
    """Fits the logarithm of the errors by Adam with weight decay; the features' scale is folded into the first layer."""
    torch.manual_seed(seed)
    mean, deviation = pooled.mean(0), pooled.std(0) + 1e-6
    x, y = torch.from_numpy((pooled - mean) / deviation).float(), torch.from_numpy(np.log(errors + 1e-8)).float()
    net = torch.nn.Sequential(torch.nn.Linear(x.shape[1], HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, y.shape[1]))
    with torch.no_grad():
        net[2].bias.copy_(y.mean(0))
    optimiser = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=0.1)
    rng = np.random.default_rng(seed)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 3e-3 * (0.5 + 0.5 * np.cos(np.pi * step / steps))
        i = torch.from_numpy(rng.integers(len(x), size=min(256, len(x))))
        loss = torch.nn.functional.huber_loss(net(x[i]), y[i])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    w1, b1, w2, b2 = (p.detach().numpy() for p in net.parameters())
    w1 = w1.T / deviation[:, None]
    return Head(list(boundaries), *(a.astype(np.float32) for a in (w1, b1 - mean @ w1, w2.T, b2)))


def run(args: argparse.Namespace, cfg) -> None:
    torch.set_num_threads(args.threads)
    boundaries = list(args.layers or bundle.boundaries(cfg))
    videos = study.clips(args.data, cfg)
    held = videos[-len(videos) // 10:]
    model = Model.load(args.checkpoint, cfg)
    head = fit(*pairs(model, videos[:-len(held)], boundaries, args.pairs), boundaries)
    pooled, errors = pairs(model, held, boundaries, max(args.pairs // 8, 16), seed=1)
    off = 10 * np.log10(head.predict(pooled) / errors)
    constant = 10 * np.log10(np.exp(np.log(errors).mean(0)) / errors)
    head.save(args.out)
    print("held-out error of the prediction, dB (standard deviation; of a constant one):", ", ".join(
        f"{n} tokens {a:.2f} ({b:.2f})" for n, a, b in zip(boundaries, off.std(0), constant.std(0))), file=sys.stderr)
