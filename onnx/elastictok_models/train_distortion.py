# SPDX-License-Identifier: MIT OR Apache-2.0
"""Trains the distortion head on what quantisers of several steps really showed (truncations.py):
python -m elastictok_models.train_distortion --data CLIPS --tools DIR --bundle models/builtin --out WORK/distortion.pt"""
import argparse
import time
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from .config import Config
from .distortion import DistortionHead, bands
from .truncations import Block, observe


def samples(block: Block, cfg: Config, rng, most: int) -> tuple:
    """(energies [N, bands], step [N], intra [N], error [N]) of some cells of a block, at every step."""
    pick = rng.permutation(len(block.latents))[:most]
    energies = (block.latents[pick].astype(np.float32) / cfg.scale) ** 2 @ bands(cfg)
    parts = []
    for step, errors in zip(block.steps, block.errors):
        parts.append((energies, np.full(len(pick), step, np.float32), block.intra[pick].astype(np.float32), errors[pick]))
    return tuple(np.concatenate(p) for p in zip(*parts))


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--data", type=Path, required=True, help="folder of training clips")
    ap.add_argument("--tools", type=Path, required=True, help="folder of the Rust tools, release build")
    ap.add_argument("--bundle", type=Path, required=True, help="the bundle inside those tools")
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--clips", type=int, default=60)
    ap.add_argument("--steps", type=int, default=4000)
    args = ap.parse_args()
    torch.set_num_threads(1)
    cfg, rng = Config(), np.random.default_rng(0)
    decoder = onnx.load(args.bundle / "decoder.onnx")
    clips = sorted(args.data.iterdir())
    started, train, held_out = time.time(), [], []
    for n, i in enumerate(rng.permutation(len(clips))[:args.clips]):
        for block in observe(clips[i], args.tools, decoder, cfg, rng):
            (held_out if n % 10 == 0 else train).append(samples(block, cfg, rng, 120))
        print(f"{time.time() - started:.0f} s, {n + 1} clips, {sum(len(p[0]) for p in train)} samples", flush=True)
    tensors = lambda parts: [torch.from_numpy(np.concatenate(p)) for p in zip(*parts)]
    train, held_out = tensors(train), tensors(held_out)
    net = DistortionHead(cfg)
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, args.steps)
    loss_of = lambda rows: nn.functional.huber_loss(net(*[x for x in rows[:3]]), torch.log(rows[3] + 0.05), delta=1.0)
    for step in range(args.steps):
        pick = torch.randint(len(train[0]), (2048,))
        loss = loss_of([x[pick] for x in train])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 500 == 0 or step == args.steps - 1:
            with torch.no_grad():
                off = net(*held_out[:3]) - torch.log(held_out[3] + 0.05)
            db = 10 / np.log(10)
            print(f"step {step}: loss {loss.item():.4f}; clips held out: mean {off.mean() * db:+.2f} dB, "
                  f"standard deviation {off.std() * db:.2f} dB a cell", flush=True)
    torch.save(net.state_dict(), args.out)


if __name__ == "__main__":
    main()
