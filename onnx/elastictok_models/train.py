# SPDX-License-Identifier: MIT OR Apache-2.0
"""Trains the in-loop filter on the ring buffer that rollout.py keeps filling.

Loss: mean over samples of the log of the mean squared error where cells were coded, so that coarse and fine steps weigh
alike, of luma and of chroma. Resumable: the checkpoint holds model, its running average (which is what gets exported),
optimiser and step count. Where there is no checkpoint, training begins from nothing, or from an exported bundle (--from-bundle)."""
import argparse
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .config import Config
from .filter import LoopFilter
from .plain import plain_loss
from .quantised import QuantisedFilter, calibrate
from .recover import config_of, recover
from .refit import refit
from .ring import SIDE, Ring

EDGE = 2  # patches at the edge of a sample that do not count: the filter sees zeros there


def batch(ring: Ring, available: int, size: int, rng):
    """Random samples as tensors [B, luma_patch + chroma_patch, SIDE, SIDE]; flipped and transposed views would need the
    patch's inside turned too, so augmentation is left to the many crops."""
    rows = np.sort(rng.choice(available, size, replace=False))
    grid = lambda a: torch.from_numpy(np.ascontiguousarray(a[rows].transpose(0, 2, 1)).astype(np.float32)).reshape(size, -1, SIDE, SIDE)
    mask = torch.from_numpy(ring.mask[rows].astype(np.float32)).reshape(size, 1, SIDE, SIDE)
    return grid(ring.recon), grid(ring.residual), grid(ring.source), mask, torch.from_numpy(ring.step[rows])


def errors(out, source, mask):
    """Mean squared error per sample over coded patches, float [B]."""
    e = (out.clamp(0, 255) - source) ** 2 * mask
    return e.mean((1, 2, 3)) / mask.mean((1, 2, 3)).clamp(min=1e-3)


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--work", type=Path, required=True, help="folder of the ring buffer")
    ap.add_argument("--checkpoint", type=Path, required=True)
    ap.add_argument("--from-bundle", type=Path, help="folder of a bundle whose filter is the start while there is no checkpoint")
    ap.add_argument("--exact", action="store_true", help="train the integer network of an exact bundle")
    ap.add_argument("--distil", action="store_true", help="learn what the filter of --from-bundle gives; else what the source has")
    ap.add_argument("--steps", type=int, default=60000)
    ap.add_argument("--batch", type=int, default=16)
    ap.add_argument("--rate", type=float, default=3e-3)
    ap.add_argument("--hours", type=float, default=0, help="the learning rate's schedule ends after this time instead of after --steps")
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--plain", type=float, default=0, help="weight of patterns on plain surfaces (plain.py) beside the error; 0.2 is much")
    ap.add_argument("--note", default="", help="goes into the bundle's training field")
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    cfg, rng = Config(exact=args.exact), np.random.default_rng(time.time_ns() % 2**32)
    kind = QuantisedFilter if cfg.exact else LoopFilter
    net, average = kind(cfg), kind(cfg)
    given = config_of(args.from_bundle) if args.from_bundle else cfg
    if args.from_bundle and given.exact and (args.distil or not cfg.exact):
        ap.error("--from-bundle: an exact bundle cannot teach; it can be trained on with --exact")
    if args.distil and not args.from_bundle:
        ap.error("--distil needs the float filter of --from-bundle")
    teacher = recover(args.from_bundle, given) if args.from_bundle else None
    if teacher is not None:
        net.load_state_dict(teacher.state_dict(), strict=False)
    ring = Ring(args.work, cfg)
    optimiser = torch.optim.AdamW(net.parameters(), lr=args.rate, weight_decay=1e-4, betas=(0.9, 0.98))
    step, spent = 0, 0.0
    if args.checkpoint.exists():
        saved = torch.load(args.checkpoint, weights_only=True)
        net.load_state_dict(saved["raw"])
        average.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        step, spent = saved["step"], saved["spent"]
    else:
        average.load_state_dict(net.state_dict())
        if cfg.exact and not given.exact:
            while ring.count() < 1000:
                time.sleep(2)
            rows = [batch(ring, min(ring.count(), ring.size), args.batch, rng) for _ in range(8)]
            rows = [(recon, residual, q, mask) for recon, residual, _, mask, q in rows]
            calibrate(net, rows)
            refit(cfg, net, *(torch.cat(parts) for parts in zip(*rows)))
            average.load_state_dict(net.state_dict())
    # without instructions for it, bfloat16 takes four times as long; the quantised filter's sums need more bits than it has
    half = torch.ops.mkldnn._is_mkldnn_bf16_supported() and not cfg.exact
    compiled = torch.compile(net)
    teaching = torch.compile(teacher) if args.distil else None
    started = last_log = last_save = time.time()
    gain, count = np.zeros(3), 0
    parts = slice(cfg.luma_patch), slice(cfg.luma_patch, None)

    def save():
        training = f"{step} steps of {args.batch} samples (128x128 pixels x {cfg.block_length} frames). {args.note}"
        torch.save({"config": asdict(cfg), "model": average.state_dict(), "raw": net.state_dict(), "optimiser": optimiser.state_dict(),
                    "step": step, "spent": spent + time.time() - started, "training": training}, args.checkpoint.with_suffix(".new"))
        args.checkpoint.with_suffix(".new").rename(args.checkpoint)

    save()  # rollout.py plays with these weights from its next clip on
    while True:
        done = (spent + time.time() - started) / (args.hours * 3600) if args.hours else step / args.steps
        if done >= 1:
            break
        available = min(ring.count(), ring.size)
        if available < 4 * args.batch:
            time.sleep(2)
            continue
        rate = float(args.rate * min(1, (step + 1) / 200) * (0.5 + 0.5 * np.cos(np.pi * done)) + 1e-6)
        for group in optimiser.param_groups:
            group["lr"] = rate
        recon, residual, source, mask, q = batch(ring, available, args.batch, rng)
        inside = nn.functional.pad(mask[:, :, EDGE:-EDGE, EDGE:-EDGE], [EDGE] * 4)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            correction = compiled(recon, residual, q, mask)
        corrected = recon + correction.float()
        luma, chroma = ([errors(x[:, part], source[:, part], inside) for x in (recon, corrected)] for part in parts)
        if teaching is not None:
            # what the teacher leaves is noise to the student: without it, the same minimum with steadier gradients
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
                taught = recon + teaching(recon, residual, q, mask).float()
            for found, part in ((luma, parts[0]), (chroma, parts[1])):
                left = errors(taught[:, part], source[:, part], inside)
                found.append(left + errors(corrected[:, part], taught[:, part].clamp(0, 255), inside))
        loss = torch.log(luma[-1] + 0.05).mean() + torch.log(chroma[-1] + 0.05).mean()
        if args.plain:
            y, uv = plain_loss(cfg, corrected, source, inside)
            loss = loss + args.plain * (torch.log(y + 0.3) + 0.5 * torch.log(uv + 0.3)).mean()
            gain[2] += float(y.detach().sum() / (y > 0).sum().clamp(min=1))
        if not torch.isfinite(loss):
            raise SystemExit("the loss is not finite: look at the newest samples; the checkpoint is as it was")
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        step += 1
        decay = min(0.999, step / (step + 50))
        with torch.no_grad():
            for a, p in zip(average.parameters(), net.parameters()):
                a.lerp_(p, 1 - decay)
            gain[:2] += np.array([float((10 * torch.log10((before + 0.05) / (after + 0.05))).mean()) for before, after, *_ in (luma, chroma)])
            count += 1
        if time.time() - last_log > 60:
            print(f"{time.time() - started:.0f} s, step {step}, lr {rate:.2e}, gain in luma {gain[0] / count:.3f} dB, "
                  f"chroma {gain[1] / count:.3f} dB, patterns {gain[2] / count:.3f}, {available} samples", flush=True)
            last_log, gain, count = time.time(), np.zeros(3), 0
        if time.time() - last_save > 180:
            save()
            last_save = time.time()
    save()


if __name__ == "__main__":
    main()
