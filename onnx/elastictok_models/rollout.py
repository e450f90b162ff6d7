# SPDX-License-Identifier: MIT OR Apache-2.0
"""Plays training clips through the codec, closed loop, and keeps what the in-loop filter sees.

The filter changes the reference it will be fed next, so its training data must come from streams decoded with itself: this
process reloads the newest checkpoint between clips and overwrites the oldest samples of a ring buffer that train.py reads."""
import argparse
import time
from pathlib import Path

import numpy as np

from . import graph, motion
from .checkpoint import load_filter
from .clips import planes_of, read_clip, to_patches
from .config import CELL, K, Config
from .ring import SIDE, Ring
from .session import session
from .transform import order


def quantise(latents, step, rng, cfg: Config, order_rank):
    """A stand-in for the encoder's rate-distortion optimised quantiser; returns dequantised latents and which cells have any."""
    dead = rng.uniform(0.55, 0.75)  # |x| / step below this goes to zero; high frequencies sooner
    a = np.abs(latents) / step
    m = np.floor(a + rng.uniform(0.25, 0.4))
    m[a < dead + 0.25 * order_rank] = 0
    lonely = (m.sum(1) <= 1) & (m.max(1) <= 1) & (rng.random(len(m)) < 0.7)
    m[lonely] = 0
    value = np.sign(latents) * (m - 0.06 * (m == 1)) * step
    value[m == 0] = 0
    return np.round(value).astype(np.int32), (m > 0).any(1)


def run_clip(frames, cfg: Config, decoder_model, encoder_model, rng, emit, blocks: int):
    """Codes `blocks` blocks from a random place of the clip; calls emit(latents, motion, ..) for each."""
    t_len = cfg.block_length
    cells_y, cells_x = frames.shape[1] * 2 // 3 // CELL, frames.shape[2] // CELL
    h = cells_y * CELL
    enc, dec = session(encoder_model, cells_y, cells_x), session(decoder_model, cells_y, cells_x)
    start = rng.integers(0, max(1, len(frames) - blocks * t_len))
    base = float(np.exp(rng.uniform(np.log(4.5), np.log(110.0))))  # pixel units
    rank = np.argsort(order(cfg))[None] / cfg.coefficients
    reference = np.zeros(frames.shape[1:], np.uint8)
    field = np.zeros((5, cells_y, cells_x), np.int32)
    for b in range(min(blocks, (len(frames) - start) // t_len)):
        source = frames[start + b * t_len:start + (b + 1) * t_len]
        step = base * (rng.uniform(0.45, 0.75) if b == 0 else rng.uniform(0.9, 1.1))
        if b:
            field = motion.search(reference[:h], source[:, :h], 0.5 * base, field[:2], motion.FILTERS)
        feed = {"position": np.asarray(b, np.int64), "motion": field, "dec.reference": reference}
        latents = enc.run(["tokens"], {"frames": source, **feed})[0]
        values, coded = quantise(latents.astype(np.float32), step * cfg.scale, rng, cfg, rank)
        feed |= {"tokens": values, "counts": coded.astype(np.int32), "step": np.asarray(step, np.float32)}
        outputs = dec.run(None, feed)
        emit(source, coded.reshape(cells_y, cells_x), step, outputs, b)
        reference = outputs[1]


def sample(ring: Ring, at: int, source, coded, step, recon, residual, rng, crops: int) -> int:
    """Writes random crops where something was coded; returns the next slot."""
    cells_y, cells_x = coded.shape
    mask = coded.repeat(K, 0).repeat(K, 1)
    n = SIDE // K
    if cells_y < n or cells_x < n:
        return at
    for _ in range(crops):
        places = [(rng.integers(0, cells_y - n + 1), rng.integers(0, cells_x - n + 1)) for _ in range(3)]
        y, x = max(places, key=lambda p: coded[p[0]:p[0] + n, p[1]:p[1] + n].sum())
        if coded[y:y + n, x:x + n].mean() < 0.1:
            continue
        crop = lambda a: a[K * y:K * y + SIDE, K * x:K * x + SIDE].reshape(SIDE * SIDE, -1)
        i = at % ring.size
        ring.recon[i], ring.residual[i], ring.source[i] = crop(recon), crop(residual), crop(source)
        ring.mask[i], ring.step[i] = crop(mask)[:, 0], step
        at += 1
    return at


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--data", type=Path, required=True, help="folder of training clips")
    ap.add_argument("--work", type=Path, required=True, help="folder of the ring buffer")
    ap.add_argument("--checkpoint", type=Path, help="reloaded before every clip once it exists")
    ap.add_argument("--samples", type=int, default=12000)
    ap.add_argument("--blocks", type=int, default=8)
    ap.add_argument("--crops", type=int, default=5)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--exact", action="store_true", help="play an exact bundle's codec")
    args = ap.parse_args()
    cfg, rng = Config(exact=args.exact), np.random.default_rng(args.seed)
    ring, at = Ring(args.work, cfg, args.samples), 0
    clips = sorted(p for p in args.data.iterdir() if p.suffix in (".mp4", ".mkv", ".webm", ".y4m"))
    encoder_model, stamp, decoder_model = graph.encoder(cfg), None, None
    started = time.time()
    while True:
        for path in rng.permutation(clips):
            newest = args.checkpoint.stat().st_mtime if args.checkpoint and args.checkpoint.exists() else 0
            if newest != stamp:
                net = load_filter(args.checkpoint)[1] if newest else None
                stamp, decoder_model = newest, graph.decoder(cfg, net, taps=True)
            def emit(source, coded, step, outputs, b):
                nonlocal at
                recon, residual = (to_patches(outputs[i][0], outputs[i + 1][0]) for i in (2, 4))
                at = sample(ring, at, to_patches(*planes_of(source)), coded, step, recon, residual, rng, args.crops)
            run_clip(read_clip(Path(path)), cfg, decoder_model, encoder_model, rng, emit, args.blocks)
            (args.work / "count.new").write_text(str(at))
            (args.work / "count.new").rename(ring.count_file)
            print(f"{time.time() - started:.0f} s, {at} samples, {Path(path).name}", flush=True)


if __name__ == "__main__":
    main()
