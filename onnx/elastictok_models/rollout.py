# SPDX-License-Identifier: MIT OR Apache-2.0
"""Plays training clips through the codec, closed loop, and keeps what the in-loop filter sees.

The filter changes the reference it will be fed next, so its training data must come from streams coded with itself: this process exports the
newest checkpoint between clips, has the Rust encoder code with it (streams.py), and overwrites the oldest samples of a ring buffer that
train.py reads."""
import argparse
import time
from pathlib import Path

import numpy as np

from . import graph
from .checkpoint import load_filter
from .clips import planes_of, to_patches
from .config import K, Config
from .export import export
from .ring import SIDE, Ring
from .session import session
from .streams import coded

TARGETS = 25.0, 46.0  # dB


def corrected(counts: np.ndarray, cells_y: int, cells_x: int) -> np.ndarray:
    """bool [rows, columns] of patches: those that the filter corrects."""
    mask = np.pad((counts > 0).reshape(cells_y, cells_x).repeat(K, 0).repeat(K, 1), 1)
    return np.any([mask[y:y + cells_y * K, x:x + cells_x * K] for y in range(3) for x in range(3)], axis=0)


def sample(ring: Ring, at: int, block, mask, recon, residual, rng, crops: int) -> int:
    """Writes random crops where something was coded; returns the next slot."""
    cells_y, cells_x = block.motion.shape[1:]
    n, source = SIDE // K, to_patches(*planes_of(block.source))
    if cells_y < n or cells_x < n:
        return at
    for _ in range(crops):
        y, x = K * rng.integers(0, cells_y - n + 1), K * rng.integers(0, cells_x - n + 1)
        crop = lambda a: a[y:y + SIDE, x:x + SIDE].reshape(SIDE * SIDE, -1)
        if crop(mask).mean() < 0.1:
            continue
        i = at % ring.size
        ring.recon[i], ring.residual[i], ring.source[i] = crop(recon), crop(residual), crop(source)
        ring.mask[i], ring.step[i] = crop(mask)[:, 0], block.quantised[0][0].step
        at += 1
    return at


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--data", type=Path, required=True, help="folder of training clips")
    ap.add_argument("--work", type=Path, required=True, help="folder of the ring buffer")
    ap.add_argument("--tools", type=Path, required=True, help="folder of the Rust tools, release build")
    ap.add_argument("--tables", type=Path, required=True, help="entropy tables to code with")
    ap.add_argument("--checkpoint", type=Path, help="read again before every clip once it exists")
    ap.add_argument("--samples", type=int, default=12000)
    ap.add_argument("--frames", type=int, default=12, help="of each clip at a time")
    ap.add_argument("--crops", type=int, default=6, help="looked at in each block")
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--exact", action="store_true", help="play an exact bundle's codec")
    args = ap.parse_args()
    cfg, rng = Config(exact=args.exact), np.random.default_rng(args.seed)
    ring, at = Ring(args.work, cfg, args.samples), 0
    clips = sorted(p for p in args.data.iterdir() if p.suffix in (".mp4", ".mkv", ".webm", ".y4m"))
    model, stamp, decoder = args.work / "bundle", None, None
    started = time.time()
    while True:
        for path in rng.permutation(clips):
            newest = args.checkpoint.stat().st_mtime if args.checkpoint and args.checkpoint.exists() else 0
            if newest != stamp:
                net = load_filter(args.checkpoint)[1] if newest else None
                export(cfg, model, net, args.tables, "rollout")
                stamp, decoder = newest, graph.decoder(cfg, net, taps=True)
            start, run = int(rng.integers(0, 30)), None
            for block in coded(path, args.tools, cfg, range(start, start + args.frames), rng.uniform(*TARGETS), model=str(model)):
                if run is None:
                    run, reference = session(decoder, *block.motion.shape[1:]).run, np.zeros(block.source.shape[1:], np.uint8)
                receiver = block.quantised[0][0]
                _, reference, *taps = run(None, block.inputs(receiver, reference))
                recon, residual = (to_patches(taps[i][0], taps[i + 1][0]) for i in (0, 2))
                at = sample(ring, at, block, corrected(receiver.counts, *block.motion.shape[1:]), recon, residual, rng, args.crops)
            (args.work / "count.new").write_text(str(at))
            (args.work / "count.new").rename(ring.count_file)
            print(f"{time.time() - started:.0f} s, {at} samples, {Path(path).name}", flush=True)


if __name__ == "__main__":
    main()
