# SPDX-License-Identifier: MIT OR Apache-2.0
"""Clips as the Rust encoder codes them, block by block: what training data is made of.

`codec dump` writes latents and motion, `truncate` quantises them again, with the encoder's own steps and with others. Both programs
are in tools/src/bin/, where truncate.rs describes what this module reads."""
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .clips import read_clip
from .config import CELL, Config
from .transform import order


@dataclass
class Quantised:
    """A block as a receiver has it; the decoder graph's inputs."""

    step: float  # pixel units
    counts: np.ndarray  # i32 [cells]
    tokens: np.ndarray  # i32 [cells, C]


@dataclass
class Coded:
    """One block."""

    position: int  # blocks since the key block, which is 0
    source: np.ndarray  # u8 [T, 3*H/2, W]; the last frame is repeated where there are fewer
    motion: np.ndarray  # i32 [5, cells_y, cells_x]
    latents: np.ndarray  # i16 [cells, C], the graph's order: what the encoder graph gave
    quantised: list  # [offsets][layers] of Quantised

    def inputs(self, of: Quantised, reference: np.ndarray) -> dict:
        """The decoder graph's inputs."""
        return {"position": np.asarray(self.position, np.int64), "motion": self.motion, "dec.reference": reference, "tokens": of.tokens,
                "counts": of.counts, "step": np.asarray(of.step, np.float32), "rows": np.array([0, self.motion.shape[1]], np.int64)}


def step_of(quantiser: int, cfg: Config) -> float:
    """Step in pixel units; docs/bitstream.md."""
    return int(4 * 2 ** (quantiser / 8) + 0.5) / cfg.scale


def coded(clip: Path, tools: Path, cfg: Config, frames: range, target: float, layers: int = 1, ratio: int = 0, offsets=(0,),
          key_int_max: int = 240, model: str = "builtin") -> Iterator[Coded]:
    """The blocks of some `frames` of `clip`, coded to `target` dB with the bundle `model` (a name or folder), quantised with the encoder's steps plus
    each of `offsets` quantiser indices, in `layers` which are `ratio` indices apart. `tools`: the folder of the Rust tools."""
    with tempfile.TemporaryDirectory() as folder:
        video, dump = Path(folder) / "clip.y4m", Path(folder) / "clip.dump"
        subprocess.run(["ffmpeg", "-v", "error", "-i", clip, "-vf", f"trim=start_frame={frames.start}:end_frame={frames.stop},"
                        "crop=trunc(iw/2)*2:trunc(ih/2)*2:0:0", "-pix_fmt", "yuv420p", video], check=True)
        subprocess.run([tools / "codec", "dump", video, dump, "--target-psnr", f"{target:.1f}", "--key-int-max", str(key_int_max),
                        "--layers", str(layers), "--threads", "1", "--model", model], check=True, stderr=subprocess.DEVNULL)
        source = read_clip(video)
        cells_y, cells_x = source.shape[1] * 2 // 3 // CELL, source.shape[2] // CELL
        cells, rank = cells_y * cells_x, np.argsort(order(cfg))
        program = [tools / "truncate", dump, str(ratio), *map(str, offsets)]
        with subprocess.Popen(program, stdout=subprocess.PIPE) as again:
            def latents(dtype) -> np.ndarray:
                read = np.frombuffer(again.stdout.read(2 * cells * cfg.coefficients), "<i2").reshape(cells, -1)
                return np.ascontiguousarray(read[:, rank], dtype)

            def receiver() -> Quantised:
                step = step_of(again.stdout.read(4)[0], cfg)
                return Quantised(step, np.frombuffer(again.stdout.read(4 * cells), "<i4"), latents(np.int32))

            position = at = 0
            while head := again.stdout.read(4):
                position, shown = 0 if head[0] else position + 1, source[at:at + head[1]]
                at += head[1]
                shown = np.concatenate([shown, *[shown[-1:]] * (cfg.block_length - len(shown))])
                motion = np.frombuffer(again.stdout.read(20 * cells), "<i4").reshape(5, cells_y, cells_x)
                yield Coded(position, shown, motion, latents(np.int16), [[receiver() for _ in range(layers)] for _ in offsets])
        if again.returncode:
            raise subprocess.CalledProcessError(again.returncode, program)
