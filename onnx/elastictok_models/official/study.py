# SPDX-License-Identifier: MIT OR Apache-2.0
"""Trains a small model of the official architecture on clips and asks it what a full window should do: restart or slide.

    python -m elastictok_models.official.study --data CLIPS --minutes 15 --out WORK

VAE bottleneck, a random count for each block as in the paper; the last tenth of the clips is held out. Writes WORK/params (a
checkpoint for import-official with WORK/config.json) and prints the held-out error block by block under both rules."""
from __future__ import annotations

import argparse
import json
import subprocess
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from . import picture, save
from .config import Config
from .model import Context, Model

FRAMES = 96  # of a clip
TILES = (3, 2)  # clips are scaled to so many tiles across and down, and tiles cut out of them


def small() -> Config:
    return Config(hidden_size=128, intermediate_size=256, num_encoder_layers=3, num_decoder_layers=3, num_attention_heads=4,
                  bottleneck_type="vae", patch_size=(2, 8, 8), min_toks=2, max_toks=32, theta=5_000_000, max_sequence_length=128,
                  resolution=32)


def clips(folder: Path, cfg: Config) -> list[np.ndarray]:
    """The first FRAMES frames of every video of a folder, scaled to TILES tiles of `cfg`: uint8 [FRAMES, rows, columns, 3].

    Raises ValueError where there are fewer than ten."""
    width, height = (n * side for n, side in zip(TILES, cfg.tile_size))
    out = []
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".mp4", ".webm", ".y4m")):
        command = ["ffmpeg", "-v", "error", "-i", str(path), "-frames:v", str(FRAMES), "-vf", f"scale={width}:{height}:flags=area",
                   "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
        raw = np.frombuffer(subprocess.run(command, check=True, capture_output=True).stdout, np.uint8)
        video = raw.reshape(-1, height, width, 3)
        if len(video) == FRAMES:
            out.append(video)
    if len(out) < 10:
        raise ValueError(f"{folder} has {len(out)} videos of {FRAMES} frames or more; 10 are needed")
    return out


def sample(rng: np.random.Generator, videos: list[np.ndarray], cfg: Config, batch: int, blocks: int) -> np.ndarray:
    """Random tiles as patches float32 [batch, blocks*K, P] in [-1, 1]."""
    width, height = cfg.tile_size
    out = []
    for _ in range(batch):
        v = videos[rng.integers(len(videos))]
        n = blocks * cfg.frames_per_block
        t, y, x = (rng.integers(limit + 1) for limit in (len(v) - n, v.shape[1] - height, v.shape[2] - width))
        out.append(picture.patchify(v[t:t + n, y:y + height, x:x + width], cfg))
    return picture.to_unit(np.stack(out))


def masks(rng: np.random.Generator, cfg: Config, batch: int, blocks: int) -> torch.Tensor:
    """A random count for each block, spread evenly over its logarithm: bool [batch, blocks*K]."""
    counts = np.exp2(rng.uniform(np.log2(cfg.min_toks), np.log2(cfg.max_toks + 1), (batch, blocks))).astype(int)
    return torch.from_numpy((np.arange(cfg.max_toks) < counts[..., None]).reshape(batch, -1))


def initialise(model: Model) -> None:
    """Random weights; the layers' last products begin small, so that the residual stream does."""
    for name, p in model.named_parameters():
        if "norm" not in name and "ln_f" not in name:
            torch.nn.init.normal_(p, std=0.02 if "embed" in name else p.shape[0] ** -0.5 * (0.3 if "wo" in name or "w2" in name else 1))


def train(model: Model, videos: list[np.ndarray], seconds: float, batch: int = 16, rate: float = 1.5e-3, seed: int = 0) -> int:
    """Adam with warm-up and cosine decay over `seconds`; the loss is the logarithm of each block's error. Returns the steps made."""
    cfg, rng = model.cfg, np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(model.parameters(), rate, betas=(0.9, 0.98), weight_decay=0.01)
    begin, step = time.monotonic(), 0
    while (done := (time.monotonic() - begin) / seconds) < 1:
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 100) * (0.5 + 0.5 * np.cos(np.pi * done))
        x = torch.from_numpy(sample(rng, videos, cfg, batch, cfg.window))
        _, mse, _ = model.reconstruct(x, masks(rng, cfg, batch, cfg.window), Context())
        loss = torch.log(mse + 1e-4).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        if step % 100 == 0:
            print(f"step {step}: {loss.item():.4f}, {100 * done:.0f} % of the time", flush=True)
    return step


@torch.no_grad()
def compare(model: Model, videos: list[np.ndarray], blocks: int = 24, count: int = 8, tiles: int = 96,
            seed: int = 1) -> dict[str, np.ndarray]:
    """Mean squared error of each block [blocks], with `count` tokens kept, under either rule for the same tiles."""
    cfg, rng = model.cfg, np.random.default_rng(seed)
    x = torch.from_numpy(sample(rng, videos, cfg, tiles, blocks)).unflatten(1, (blocks, cfg.max_toks))
    mask = model.mask([count]).expand(tiles, -1)
    errors = {}
    for rule in ("restart", "sliding"):
        context, errors[rule] = Context(), []
        for i in range(blocks):
            if rule == "restart" and i % cfg.window == 0:
                context = Context()
            _, mse, context = model.reconstruct(x[:, i], mask, context)
            errors[rule].append(float(mse.mean()))
    return {rule: np.array(values) for rule, values in errors.items()}


def report(model: Model, held: list[np.ndarray]) -> None:
    window = model.cfg.window
    db = lambda mse: 10 * np.log10(4 / mse)
    for count in (4, 8, 16, 32):
        errors = compare(model, held, count=count)
        later = {rule: e[window:] for rule, e in errors.items()}  # until then both rules are one
        print(f"{count} tokens, blocks {window}..: " + ", ".join(f"{rule} {db(e.mean()):.2f} dB" for rule, e in later.items()))
        for rule, e in errors.items():
            print(f"  {rule}: " + " ".join(f"{db(v):.2f}" for v in e[:3 * window]), flush=True)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", type=Path, required=True, help="a folder of videos; needs ffmpeg")
    ap.add_argument("--minutes", type=float, default=15)
    ap.add_argument("--start", type=Path, help="a checkpoint of an earlier run, to go on from")
    ap.add_argument("--out", type=Path, required=True)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    videos = clips(args.data, small())
    held = videos[-len(videos) // 10:]
    model = Model(small()) if args.start is None else Model.load(args.start, small()).train().requires_grad_(True)
    if args.start is None:
        initialise(model)
    steps = train(model, videos[:-len(held)], args.minutes * 60, seed=int(args.start is not None))
    args.out.mkdir(parents=True, exist_ok=True)
    save.save(args.out / "params", ((key, stacked(p)) for key, p in model.tensors().items()), "float32")
    (args.out / "config.json").write_text(json.dumps(asdict(model.cfg), indent=1))
    print(f"{steps} steps on {len(videos) - len(held)} clips, {len(held)} held out")
    report(model, held)


def stacked(p) -> np.ndarray:
    """A parameter, or the layers of one, as the checkpoint has it."""
    return torch.stack(list(p) if isinstance(p, list) else [p]).detach().float().numpy()[slice(None) if isinstance(p, list) else 0]


if __name__ == "__main__":
    main()
