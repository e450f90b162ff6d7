# SPDX-License-Identifier: MIT OR Apache-2.0
"""Cases for the tests of official models: the official parity fixtures where they are, and always small ones of our own.

The folder is $ELASTICTOK_FIXTURES (from the checkout), or ../shared/fixtures/official; its README says what the arrays are and which
tolerances were verified."""
import json
import os
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest

from elastictok_models.official import bundle, runner
from elastictok_models.official.checkpoint import Checkpoint
from elastictok_models.official.config import Config

FOLDER = Path(__file__).resolve().parents[2] / (os.environ.get("ELASTICTOK_FIXTURES") or "../shared/fixtures/official")
ABSENT = f"the official fixtures are not in {FOLDER} (set ELASTICTOK_FIXTURES)"
OWN = ("own-fsq", "own-vae")
# Tolerances of the fixtures' README.
RECON, LATENT, MSE = 1e-4, 5e-5, 1e-6


class Case:
    """A folder with params, config.json and data.npz."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.json = json.loads((folder / "config.json").read_text())
        self.cfg = Config.from_json(folder / "config.json", {})
        self.data = np.load(folder / "data.npz")

    @property
    def params(self) -> Path:
        return self.folder / "params"

    @cached_property
    def model(self):
        pytest.importorskip("torch").set_num_threads(1)
        from elastictok_models.official.model import Model

        return Model.load(self.params, self.cfg)

    @cached_property
    def kept(self) -> list[int]:
        return self.data["kept"].tolist()

    def block(self, i: int) -> np.ndarray:
        t = self.cfg.frames_per_block
        return self.data["frames"][i * t:(i + 1) * t]

    def run(self, i: int) -> dict[str, np.ndarray]:
        """The arrays of search run i, without their prefix."""
        return {k.removeprefix(f"run{i}_"): self.data[k] for k in self.data.files if k.startswith(f"run{i}_")}

    def bundle(self, folder: Path, columns: int = 1, rows: int = 1, **options) -> runner.Bundle:
        """Exports to `folder` unless it was, and loads for a picture of so many cells."""
        out = folder / "_".join(["bundle", self.folder.name, *map(str, options.values())])
        if not out.exists():
            bundle.write(self.cfg, bundle.Export(**options), Checkpoint(self.params, self.cfg), out)
        return runner.Bundle(out, columns, rows)


def names(key: str, array: str = "", own: tuple[str, ...] = OWN) -> list:
    """Parameters of a test: the folders whose config.json has `key` and whose data have an array that begins with `array`, and our own."""
    official = []
    for path in sorted(FOLDER.glob("*/config.json")) if FOLDER.is_dir() else []:
        if key in json.loads(path.read_text()) and any(k.startswith(array) for k in np.load(path.parent / "data.npz").files):
            official.append(path.parent.name)
    absent = [pytest.param("official", marks=pytest.mark.skip(reason=ABSENT))]
    return [*(official or absent), *own]


_loaded: dict[str, Case] = {}


def load(name: str, scratch: Path) -> Case:
    """The case of that name; our own are generated in `scratch`."""
    if name not in _loaded:
        if name not in OWN:
            _loaded[name] = Case(FOLDER / name)
        else:
            pytest.importorskip("torch")
            from elastictok_models.official import generate, toy

            cfg = toy.config(name.removeprefix("own-"))
            _loaded[name] = Case(generate.case(scratch / name, cfg, [cfg.max_toks, cfg.max_toks // 2, 1, cfg.max_toks - 1]))
    return _loaded[name]


def units(name: str):
    """Arrays of units/NAME; skips where the official fixtures are absent."""
    path = FOLDER / "units" / name
    if not path.is_file():
        pytest.skip(ABSENT)
    return np.load(path)
