# SPDX-License-Identifier: MIT OR Apache-2.0
"""Trains the model of study.py once for each way to choose token counts in training, all else equal.

    python -m elastictok_models.official.variants --data CLIPS --out WORK [--steps 1500] [--only NAME...]

Writes WORK/NAME/params and config.json (for import-official) and WORK/clips.npz, what the models were trained and are to be asked on.
A variant that is already there is not trained again. elastic.py compares them."""
from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from . import save, study
from .config import Config
from .model import Context, Model

Counts = Callable[[np.random.Generator, Config, np.ndarray, float], np.ndarray]
"""(generator, config, patches [B, N*K, P], share of the training done) to the tokens kept of each block, int [B, N]."""


def between(rng: np.random.Generator, low, high, shape: tuple[int, int]) -> np.ndarray:
    """Counts from low to high, spread evenly over their logarithm."""
    return np.exp2(rng.uniform(np.log2(low), np.log2(high + 1), shape)).astype(int)


def detail(x: np.ndarray, blocks: int) -> np.ndarray:
    """Mean standard deviation of a block's patches [B, N] plus the mean absolute change since the block before."""
    x = x.reshape(len(x), blocks, -1, x.shape[-1])
    change = np.abs(np.diff(x, axis=1, prepend=x[:, :1])).mean((2, 3))
    return x.std(3).mean(2) + change


def logarithmic(rng, cfg, x, done):
    return between(rng, cfg.min_toks, cfg.max_toks, (len(x), cfg.window))


def uniform(rng, cfg, x, done):
    return rng.integers(cfg.min_toks, cfg.max_toks + 1, (len(x), cfg.window))


def content(rng, cfg, x, done):
    """Blocks of more detail keep more: the rank in the batch, give or take a third of the range, places the count."""
    d = detail(x, cfg.window)
    rank = d.ravel().argsort().argsort().reshape(d.shape) / max(d.size - 1, 1)
    place = np.clip(rank + rng.uniform(-1 / 3, 1 / 3, d.shape), 0, 1)
    return np.exp2(np.log2(cfg.min_toks) + place * np.log2((cfg.max_toks + 0.99) / cfg.min_toks)).astype(int)


def progressive(rng, cfg, x, done):
    """All tokens at first; the lower bound falls to `min_toks` over the first 60 % of the training."""
    low = cfg.max_toks * (cfg.min_toks / cfg.max_toks) ** min(done / 0.6, 1)
    return between(rng, low, cfg.max_toks, (len(x), cfg.window))


def fixed(count: int) -> Counts:
    return lambda rng, cfg, x, done: np.full((len(x), cfg.window), count)


VARIANTS: dict[str, Counts] = {
    "logarithmic": logarithmic, "fixed-8": fixed(8), "none": fixed(32), "uniform": uniform, "fixed-16": fixed(16), "fixed-4": fixed(4),
    "progressive": progressive, "content": content,
}


def mask(counts: np.ndarray, cfg: Config) -> torch.Tensor:
    """Counts [B, N] as the mask of what is kept, bool [B, N*K]."""
    return torch.from_numpy((np.arange(cfg.max_toks) < counts[..., None]).reshape(len(counts), -1))


def train(model: Model, videos: list[np.ndarray], counts: Counts, steps: int, batch: int = 16, rate: float = 1.5e-3) -> None:
    """AdamW in bfloat16 with warm-up and cosine decay. The same clips in the same order for every variant."""
    cfg, data, lengths = model.cfg, np.random.default_rng(0), np.random.default_rng(1)
    optimiser = torch.optim.AdamW(model.parameters(), rate, betas=(0.9, 0.98), weight_decay=0.01)
    error = torch.compile(lambda x, kept: model.reconstruct(x, kept, Context())[1])
    begin = time.monotonic()
    for step in range(steps):
        done = step / steps
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 100) * (0.5 + 0.5 * np.cos(np.pi * done))
        x = study.sample(data, videos, cfg, batch, cfg.window)
        with torch.autocast("cpu", torch.bfloat16):
            mse = error(torch.from_numpy(x), mask(counts(lengths, cfg, x, done), cfg))
        loss = torch.log(mse.float() + 1e-4).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 100 == 99:
            print(f"  step {step + 1}: {loss.item():.4f}, {time.monotonic() - begin:.0f} s", flush=True)


def dataset(folder: Path | None, work: Path, cfg: Config) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Clips to train on and the last tenth, held out. Read from `folder` the first time."""
    kept = work / "clips.npz"
    if not kept.exists():
        if folder is None:
            raise ValueError(f"{kept} does not exist; name a folder of videos with --data")
        np.savez_compressed(kept, *study.clips(folder, cfg))
    with np.load(kept) as z:
        videos = [z[f"arr_{i}"] for i in range(len(z.files))]
    held = len(videos) // 10
    return videos[:-held], videos[-held:]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", type=Path, help="a folder of videos; needs ffmpeg")
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--steps", type=int, default=1500)
    ap.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    args = ap.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    cfg = study.small()
    videos, _ = dataset(args.data, args.out, cfg)
    for name in args.only:
        target = args.out / name
        if (target / "params").exists():
            continue
        print(name, flush=True)
        torch.manual_seed(0)
        model = Model(cfg)
        study.initialise(model)
        train(model, videos, VARIANTS[name], args.steps)
        target.mkdir(exist_ok=True)
        (target / "config.json").write_text(json.dumps(asdict(cfg), indent=1))
        save.save(target / "params", ((key, study.stacked(p)) for key, p in model.tensors().items()), "float32")


if __name__ == "__main__":
    main()
