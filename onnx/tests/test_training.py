# SPDX-License-Identifier: MIT OR Apache-2.0
"""What the loop filter is trained on: streams of the Rust encoder, and the loss for plain surfaces."""
import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from elastictok_models.clips import planes_of
from elastictok_models.config import PATCH, Config
from elastictok_models.session import session
from elastictok_models.streams import coded

ROOT = Path(__file__).resolve().parents[2]


def tools() -> Path:
    """The folder of the Rust tools, of whichever build is newest."""
    found = [f / "truncate" for f in (Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / kind for kind in ("release", "debug"))]
    found = [f for f in found if f.exists() and (f.parent / "codec").exists()]
    if not found:
        pytest.skip("the Rust tools are not built; run cargo build -p elastictok-tools")
    return max(found, key=lambda f: f.stat().st_mtime).parent


def test_streams_are_the_encoders_with_the_frames_that_each_block_shows(tmp_path):
    """A cut after three frames makes a block of one frame."""
    rng, h, w = np.random.default_rng(2), 64, 96
    scenes = [np.cumsum(rng.integers(-9, 10, (h * 3 // 2, w)), axis=1).clip(-100, 100) + 128 for _ in range(2)]
    frames = [np.roll(scenes[i >= 3], i, 1).astype(np.uint8) for i in range(7)]
    clip = tmp_path / "clip.y4m"
    clip.write_bytes(b"YUV4MPEG2 W96 H64 F25:1 C420jpeg\n" + b"".join(b"FRAME\n" + f.tobytes() for f in frames))
    cfg = Config(exact=True)
    found = list(coded(clip, tools(), cfg, range(0, 7), 36.0))
    assert [len(b.source) for b in found] == [2] * len(found) and sum((b.source[0] != b.source[1]).any() for b in found) < len(found)
    assert (found[0].source == frames[:2]).all() and (found[-1].source[-1] == frames[-1]).all()
    run = session(onnx.load(ROOT / "onnx/models/builtin/decoder.onnx"), h // 16, w // 16).run
    reference = np.zeros((h * 3 // 2, w), np.uint8)
    for block in found:
        shown, reference = run(None, block.inputs(block.quantised[0][0], reference))
        error = [planes_of(x)[0].astype(float) for x in (shown, block.source)]
        assert 10 * np.log10(255**2 / np.square(error[0] - error[1]).mean()) > 33


def test_patterns_count_where_the_source_is_plain_and_nowhere_else():
    torch = pytest.importorskip("torch")
    from elastictok_models.plain import plain_loss
    cfg = Config(exact=True)
    n, side = cfg.luma_patch + cfg.chroma_patch, 16
    source, mask = torch.full((1, n, side, side), 90.0), torch.ones(1, 1, side, side)
    woven = torch.zeros(1, n, 1, 1)
    woven[:, 0:cfg.luma_patch:PATCH] = 1.0  # a column of each patch is a level too bright
    of = lambda out, source=source, mask=mask: [float(x) for x in plain_loss(cfg, out, source, mask)]
    assert of(source + 3) == [0, 0]
    luma, chroma = of(source + woven)
    # across: three distances of four differ in half of the places; down: none
    assert 0.15 < luma < 0.25 and chroma == 0
    assert of(source + woven, mask=0 * mask) == [0, 0]
    textured = source + 40 * torch.randn(source.shape, generator=torch.Generator().manual_seed(1))
    assert of(textured.clamp(0, 255) + woven, textured.clamp(0, 255)) == [0, 0]
