# SPDX-License-Identifier: MIT OR Apache-2.0
"""Asks the models of variants.py what the paper (arXiv 2410.08368) promises of elastic tokens.

    python -m elastictok_models.official.elastic --work WORK --out ELASTIC.json [--tiles 64] [--plot PLOT.png]

Everything is measured on clips that were held out, and on scenes made of them. PSNR is of blocks of RGB tiles; a block meets a target
when its PSNR is at least that. Prints tables in Markdown."""
from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from . import bundle, picture, search, study, train_head, variants
from .config import Config
from .distortion import statistics
from .model import Context, Model

TARGETS = (16.0, 18.0, 20.0)  # dB
BLOCKS = 12
ELASTIC = "logarithmic"
FIXED = {4: "fixed-4", 8: "fixed-8", 16: "fixed-16", 32: "none"}


def db(mse: np.ndarray) -> np.ndarray:
    """Mean squared error on the [-1, 1] scale to PSNR."""
    return 10 * np.log10(4 / np.maximum(mse, 1e-9))


@dataclass
class Walk:
    """Blocks coded one after the other: the tokens kept, the error [tiles, blocks], and evaluations per block by the search."""

    kept: np.ndarray
    error: np.ndarray
    evaluations: float = 0.0

    def share(self, target: float) -> float:
        return float((db(self.error) >= target).mean())


Choose = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, float]]
"""(errors by count [tiles, K], features, patches) to counts [tiles] and evaluations per block."""


@torch.no_grad()
def walk(model: Model, x: np.ndarray, choose: Choose | int, context: bool = True) -> Walk:
    """Codes tiles [B, N, K, P]: `choose` is a count or decides from the errors of all of them. Without `context` every block is a key
    block; with it, a key block comes where the window is full."""
    cfg, seen = model.cfg, []
    hook = model.encoder.ln_f.register_forward_hook(lambda _, __, out: seen.append(out.mean(1).numpy()))
    kept, error, cost, state = [], [], [], Context()
    try:
        for i in range(x.shape[1]):
            if not context or i % cfg.window == 0:
                state = Context()
            block = torch.from_numpy(x[:, i])
            if isinstance(choose, int):
                counts = np.full(len(x), choose)
            else:
                seen.clear()
                every = [model.reconstruct(block, model.mask([n]).expand(len(x), -1), state)[1][:, 0].numpy() for n in range(1, cfg.max_toks + 1)]
                counts, evaluations = choose(np.stack(every, 1), seen[-1], x[:, i])
                cost.append(evaluations)
            _, mse, state = model.reconstruct(block, variants.mask(counts[:, None], cfg), state)
            kept.append(counts)
            error.append(mse[:, 0].numpy())
    finally:
        hook.remove()
    return Walk(np.stack(kept, 1), np.stack(error, 1), float(np.mean(cost)) if cost else 0.0)


def full(target: float, cfg: Config) -> Choose:
    """The least count of the official grid that meets the target, else all tokens."""
    grid = [search.kept(int(n), cfg.max_toks) for n in search.grid(cfg.min_toks, cfg.max_toks)]

    def choose(errors, features, x):
        meets = db(errors[:, np.array(grid) - 1]) >= target
        return np.where(meets.any(1), np.array(grid)[meets.argmax(1)], cfg.max_toks), len(set(grid))
    return choose


def binary(target: float, cfg: Config) -> Choose:
    threshold = 4 * 10 ** (-target / 10)

    def choose(errors, features, x):
        counts, calls = [], 0
        for row in errors:
            def loss(n: int) -> float:
                nonlocal calls
                calls += 1
                return row[search.kept(n, cfg.max_toks) - 1]
            counts.append(search.kept(search.binary(loss, threshold, cfg.min_toks, cfg.max_toks), cfg.max_toks))
        return np.array(counts), calls / len(errors)
    return choose


def regression(target: float, cfg: Config, head) -> Choose:
    """The least layer boundary that the head predicts to meet the target, else all tokens. One pass, no decoder."""
    def choose(errors, features, x):
        meets = db(head.predict(features, statistics(x))) >= target
        return np.where(meets.any(1), np.array(head.boundaries)[meets.argmax(1)], cfg.max_toks), 1
    return choose


def tiles(videos: list[np.ndarray], cfg: Config, count: int, blocks: int = BLOCKS, seed: int = 7) -> np.ndarray:
    """Random tiles of clips as patches [count, blocks, K, P]."""
    x = study.sample(np.random.default_rng(seed), videos, cfg, count, blocks)
    return x.reshape(count, blocks, cfg.max_toks, -1)


def scene(frames: np.ndarray, cfg: Config) -> np.ndarray:
    """Frames uint8 [B, T, H, W, 3] as patches [B, T / frames_per_block, K, P]."""
    x = picture.to_unit(np.stack([picture.patchify(f, cfg) for f in frames]))
    return x.reshape(len(frames), -1, cfg.max_toks, x.shape[-1])


def stills(videos: list[np.ndarray], cfg: Config, count: int, seed: int, side: int | None = None) -> np.ndarray:
    """Random cuts of single frames, uint8 [count, side, side, 3]."""
    rng, side = np.random.default_rng(seed), side or cfg.tile_size[0]
    out = []
    for _ in range(count):
        frame = videos[rng.integers(len(videos))][rng.integers(study.FRAMES)]
        y, x = rng.integers(frame.shape[0] - side + 1), rng.integers(frame.shape[1] - side + 1)
        out.append(frame[y:y + side, x:x + side])
    return np.stack(out)


def similar(videos, cfg: Config, count: int, similarity: float) -> np.ndarray:
    """Each block is a still picture: of the block before, but for patches drawn with 1 - `similarity` that come from a new one."""
    rng, patch = np.random.default_rng(3), cfg.patch_size[1]
    current, blocks = stills(videos, cfg, count, 0), []
    for i in range(BLOCKS):
        if i:
            new = rng.random((count, *(side // patch for side in cfg.tile_size))) >= similarity
            current = np.where(new.repeat(patch, 1).repeat(patch, 2)[..., None], stills(videos, cfg, count, i), current)
        blocks.append(np.repeat(current[:, None], cfg.frames_per_block, 1))
    return scene(np.concatenate(blocks, 1), cfg)


def panning(videos, cfg: Config, count: int) -> np.ndarray:
    """A window that moves over a still, a pixel every second frame."""
    side, frames = cfg.tile_size[0], BLOCKS * cfg.frames_per_block
    wide = stills(videos, cfg, count, 1, side + frames // 2)
    return scene(np.stack([wide[:, :side, t // 2:t // 2 + side] for t in range(frames)], 1), cfg)


def noise(videos, cfg: Config, count: int) -> np.ndarray:
    shape = (count, BLOCKS * cfg.frames_per_block, *cfg.tile_size, 3)
    return scene(np.random.default_rng(2).integers(0, 256, shape, np.uint8), cfg)


def cuts(videos, cfg: Config, count: int) -> np.ndarray:
    """Another clip in every block."""
    return np.concatenate([tiles(videos, cfg, count, 1, seed=100 + i) for i in range(BLOCKS)], 1)


class Report:
    """Models by name, the held-out tiles, and what was found."""

    def __init__(self, work: Path, count: int):
        self.cfg, self.count = study.small(), count
        self.videos, self.held = variants.dataset(None, work, self.cfg)
        self.models = {name: Model.load(work / name / "params", self.cfg) for name in variants.VARIANTS if (work / name / "params").exists()}
        missing = {ELASTIC, *FIXED.values()} - self.models.keys()
        if missing:
            raise ValueError(f"{work} lacks the models {', '.join(sorted(missing))}; train them with variants.py")
        self.x = tiles(self.held, self.cfg, count)
        self.found: dict = {}

    def table(self, title: str, header: list[str], rows: list[list]) -> None:
        show = lambda v: f"{v:.2f}" if isinstance(v, float) else str(v)
        self.found[title] = {"header": header, "rows": rows}
        print(f"\n**{title}**\n\n| {' | '.join(header)} |\n|{' --- |' * len(header)}")
        for row in rows:
            print(f"| {' | '.join(map(show, row))} |", flush=True)

    def training(self) -> None:
        """Tail sampling: quality by count, and tokens needed for a target."""
        counts = (2, 4, 8, 16, 32)
        rows = []
        for name, model in self.models.items():
            quality = [float(db(walk(model, self.x, n).error).mean()) for n in counts]
            found = walk(model, self.x, full(TARGETS[1], self.cfg))
            rows.append([name, *quality, float(found.kept.mean()), f"{100 * found.share(TARGETS[1]):.0f} %"])
        self.table("Counts in training: mean PSNR at each count, and what a full search spends", [
            "trained with", *(f"{n} tokens" for n in counts), f"tokens for {TARGETS[1]:.0f} dB", "blocks that meet it"], rows)

    def saving(self) -> None:
        """Elastic against a fixed count of the same architecture, at equal share of blocks that meet the target."""
        fixed = {n: walk(self.models[name], self.x, n) for n, name in FIXED.items()}
        rows = []
        for target in TARGETS:
            every = walk(self.models[ELASTIC], self.x, full(target, self.cfg))
            meets = db(every.error) >= target
            for n, other in fixed.items():
                share = other.share(target)
                wanted = int(round(share * meets.size))
                if wanted == 0 or wanted > meets.sum():
                    rows.append([target, n, f"{100 * share:.0f} %", "-", "-", f"{100 * every.share(target):.0f} %"])
                    continue
                cheapest = np.sort(every.kept[meets])[:wanted]  # the other blocks get the least
                mean = float((cheapest.sum() + (meets.size - wanted) * self.cfg.min_toks) / meets.size)
                rows.append([target, n, f"{100 * share:.0f} %", mean, n / mean, f"{100 * every.share(target):.0f} %"])
        self.table("Elastic against fixed counts, at equal share of blocks that meet the target", [
            "target, dB", "fixed count", "its share", "elastic tokens for that share", "saving, factor", "share that elastic reaches"], rows)

    def searches(self) -> None:
        model, cfg = self.models[ELASTIC], self.cfg
        boundaries = bundle.boundaries(cfg)
        head = train_head.fit(*train_head.pairs(model, self.videos, boundaries, 1500), boundaries)
        rows = []
        for target in TARGETS:
            ways = {"full": full(target, cfg), "binary": binary(target, cfg), "regression": regression(target, cfg, head)}
            for name, choose in ways.items():
                found = walk(model, self.x, choose)
                if name == "full":
                    mean = found.kept.mean()
                rows.append([target, name, found.evaluations, float(found.kept.mean()), f"{100 * (1 - found.share(target)):.0f} %"])
            plain = walk(model, self.x, int(round(mean)))
            rows.append([target, f"none, {round(mean)} tokens", 0.0, float(plain.kept.mean()), f"{100 * (1 - plain.share(target)):.0f} %"])
        self.table("Searches", ["target, dB", "search", "passes a block", "mean tokens", "blocks below the target"], rows)

    def redundancy(self) -> None:
        rows = []
        for similarity in (1.0, 0.95, 0.9, 0.75, 0.5, 0.0):
            x = similar(self.held, self.cfg, self.count, similarity)
            cells = [similarity]
            for context in (True, False):
                later = np.arange(BLOCKS) % self.cfg.window != 0  # key blocks have no context either way
                found = walk(self.models[ELASTIC], x, full(TARGETS[1], self.cfg), context)
                cells += [float(found.kept[:, later].mean()), float(db(walk(self.models[ELASTIC], x, 8, context).error[:, later]).mean())]
            rows.append(cells)
        self.table("Still blocks that share patches with the one before; blocks other than key blocks", [
            "similarity", f"tokens for {TARGETS[1]:.0f} dB, context", "PSNR at 8 tokens, context", "tokens, no context", "PSNR, no context"], rows)

    def failures(self) -> None:
        rows = []
        for name, make in {"held-out clips": None, "constant motion": panning, "uniform noise": noise, "a cut at every block": cuts}.items():
            x = self.x if make is None else make(self.held, self.cfg, self.count)
            found = walk(self.models[ELASTIC], x, full(TARGETS[1], self.cfg))
            mean = float(found.kept.mean())
            nearest = min(FIXED, key=lambda n: abs(np.log(n / mean)))
            fixed = walk(self.models[FIXED[nearest]], x, nearest)
            rows.append([name, mean, f"{100 * found.share(TARGETS[1]):.0f} %", float(db(found.error).mean()), nearest,
                         f"{100 * fixed.share(TARGETS[1]):.0f} %", float(db(fixed.error).mean())])
        self.table(f"Scenes that should be hard; a full search for {TARGETS[1]:.0f} dB beside the fixed count nearest in tokens", [
            "scene", "elastic tokens", "meet the target", "PSNR", "fixed count", "meet the target", "PSNR"], rows)

    def content(self, plot: Path | None) -> None:
        """Tokens of a block against its detail and change."""
        found = walk(self.models[ELASTIC], self.x, full(TARGETS[1], self.cfg))
        flat = self.x.reshape(len(self.x), -1, self.x.shape[-1])
        detail = variants.detail(flat, BLOCKS)
        ranks = lambda v: v.ravel().argsort().argsort()
        rho = float(np.corrcoef(ranks(detail), ranks(found.kept))[0, 1])
        within = float(np.mean([np.corrcoef(d, k)[0, 1] for d, k in zip(detail, found.kept) if k.std() > 0 and d.std() > 0]))
        spread = np.percentile(found.kept, (5, 50, 95))
        self.table(f"Tokens of a block against its detail, for {TARGETS[1]:.0f} dB", [
            "rank correlation, all blocks", "mean correlation over time within a tile", "tokens, 5th percentile", "median", "95th"],
            [[rho, within, *map(float, spread)]])
        if plot:
            draw(plot, found, detail, self.found)


def draw(path: Path, found: Walk, detail: np.ndarray, tables: dict) -> None:
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    busiest = found.kept.std(1).argsort()[::-1][:2]
    for i in busiest:
        left.step(range(BLOCKS), found.kept[i], where="mid")
    left.set(xlabel="block", ylabel="tokens kept", title="Two tiles over time")
    middle.plot(detail.ravel(), found.kept.ravel(), ".", markersize=3)
    middle.set(xlabel="detail and change", ylabel="tokens kept", title="All blocks")
    rows = next(v["rows"] for k, v in tables.items() if k.startswith("Still"))
    right.plot([r[0] for r in rows], [r[1] for r in rows], "o-", label="context")
    right.plot([r[0] for r in rows], [r[3] for r in rows], "s--", label="no context")
    right.set(xlabel="similarity of blocks", ylabel="tokens kept", title="Temporal redundancy")
    right.legend()
    figure.savefig(path, dpi=70)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--work", type=Path, required=True, help="what variants.py wrote")
    ap.add_argument("--out", type=Path, help="JSON of all tables")
    ap.add_argument("--tiles", type=int, default=64)
    ap.add_argument("--plot", type=Path)
    args = ap.parse_args()
    torch.set_num_threads(1)
    report = Report(args.work, args.tiles)
    report.training()
    report.saving()
    report.searches()
    report.redundancy()
    report.failures()
    report.content(args.plot)
    if args.out:
        args.out.write_text(json.dumps(report.found, indent=1))


if __name__ == "__main__":
    main()
