# SPDX-License-Identifier: MIT OR Apache-2.0
"""What cells look like after quantisers of several steps: training data for the encoder graph's `distortion`.

Clips are coded by the Rust encoder (`codec dump`), its latents quantised again in layers (`truncate`), every truncation
decoded by the decoder graph against the encoder's own reference, and each cell's luma compared with the source. Both programs
are in tools/src/bin/; `truncate.rs` describes what this module reads."""
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from .clips import cut, planes_of, read_clip
from .config import CELL, Config
from .session import session
from .transform import order


LAYERS, RATIO = 3, 13  # a factor of 3 from step to step


@dataclass
class Block:
    """One block at one quantiser."""

    key: bool
    steps: list  # float: of each layer, pixel units
    intra: np.ndarray  # bool [cells]
    latents: np.ndarray  # i16 [cells, luma coefficients], the graph's order: what the encoder graph gave
    errors: np.ndarray  # f32 [layers, cells]: mean squared error of luma with layers 0..=l


def step_of(quantiser: int, cfg: Config) -> float:
    """Step in pixel units; docs/bitstream.md."""
    return int(4 * 2 ** (quantiser / 8) + 0.5) / cfg.scale


def cell_errors(frames, source) -> np.ndarray:
    """Mean squared luma error of every cell, f32 [cells]."""
    luma = lambda x: planes_of(x)[0].astype(np.float32)
    return cut((luma(frames) - luma(source)) ** 2, CELL).mean(2).ravel()


def observe(clip: Path, tools: Path, decoder: onnx.ModelProto, cfg: Config, rng, frames: int = 16) -> Iterator[Block]:
    """Codes `frames` frames from a random place of `clip` at a random quality; yields its blocks at two quantisers each.

    `tools` is the folder of the Rust tools, which must hold the bundle that `decoder` is of."""
    with tempfile.TemporaryDirectory() as folder:
        video, dump = Path(folder) / "clip.y4m", Path(folder) / "clip.dump"
        start = rng.integers(0, 20)
        subprocess.run(["ffmpeg", "-v", "error", "-i", clip, "-vf", f"trim=start_frame={start}:end_frame={start + frames},"
                        "crop=trunc(iw/2)*2:trunc(ih/2)*2:0:0", "-pix_fmt", "yuv420p", video], check=True)
        subprocess.run([tools / "codec", "dump", video, dump, "--target-psnr", f"{rng.uniform(26, 45):.1f}", "--key-int-max", "8",
                        "--layers", str(LAYERS), "--threads", "1"], check=True, stderr=subprocess.DEVNULL)
        offset = int(rng.integers(4, 15) * rng.choice([-1, 1]))
        again = subprocess.Popen([tools / "truncate", dump, str(RATIO), "0", str(offset)], stdout=subprocess.PIPE)
        source = read_clip(video)
        cells_y, cells_x = source.shape[1] * 2 // 3 // CELL, source.shape[2] // CELL
        cells, rank = cells_y * cells_x, np.argsort(order(cfg))
        run = session(decoder, cells_y, cells_x).run
        reference, position = np.zeros(source.shape[1:], np.uint8), 0
        for n in range(len(source) // cfg.block_length):
            key = again.stdout.read(4)[0] != 0
            motion = np.frombuffer(again.stdout.read(20 * cells), "<i4").reshape(5, cells_y, cells_x)
            latents = np.frombuffer(again.stdout.read(2 * cells * cfg.coefficients), "<i2").reshape(cells, -1)
            position = 0 if key else position + 1
            shown = source[n * cfg.block_length:(n + 1) * cfg.block_length]
            feed = {"position": np.asarray(position, np.int64), "motion": motion, "dec.reference": reference}
            for tried in range(2):
                errors, steps = np.zeros((LAYERS, cells), np.float32), []
                for layer in range(LAYERS):
                    record = again.stdout.read(4 + 4 * cells + 2 * cells * cfg.coefficients)
                    steps.append(step_of(record[0], cfg))
                    tokens = np.frombuffer(record, "<i2", offset=4 + 4 * cells).reshape(cells, -1)[:, rank]
                    frames_, next_ = run(None, {**feed, "tokens": np.ascontiguousarray(tokens, np.int32),
                                                "step": np.asarray(steps[-1], np.float32),
                                                "counts": np.frombuffer(record, "<i4", cells, 4)})[:2]
                    errors[layer] = cell_errors(frames_, shown)
                if tried == 0:
                    coded = next_
                yield Block(key, steps, motion[2].ravel() != 0, latents[:, rank[:cfg.luma_coefficients]], errors)
            reference = coded
        again.stdout.close()
        again.wait()
