# SPDX-License-Identifier: MIT OR Apache-2.0
"""The distortion head: what it learns, and that a bundle carries it."""
import json
from dataclasses import asdict

import numpy as np
import pytest

from elastictok_models.__main__ import main
from elastictok_models.official import bundle, runner, toy
from elastictok_models.official.distortion import Head, statistics

CFG = toy.config("fsq")
LAYERS = bundle.boundaries(CFG)


def random_head(layers=LAYERS, features=CFG.hidden_size):
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(0, 0.3, shape).astype(np.float32)
    return Head(list(layers), draw(features + 2, len(layers)), draw(len(layers)))


def test_a_bundle_carries_the_head(tmp_path):
    torch = pytest.importorskip("torch")
    from elastictok_models.official.model import Model

    toy.checkpoint(tmp_path / "params", CFG)
    (tmp_path / "config.json").write_text(json.dumps(asdict(CFG)))
    head = random_head()
    head.save(tmp_path / "head.npz")
    argv = ["import-official", str(tmp_path / "params"), "--config-json", str(tmp_path / "config.json"), "--out", str(tmp_path / "b"),
            "--head", str(tmp_path / "head.npz")]
    assert main(argv) == 0
    coder = runner.Bundle(tmp_path / "b", 2, 1)
    assert coder.manifest["has_distortion"]
    frames = np.concatenate([toy.clip(CFG, 1, seed) for seed in (1, 2)], 2)
    got = coder.block(frames, [3, 8])["distortion"]
    model, seen = Model.load(tmp_path / "params", CFG), []
    model.encoder.ln_f.register_forward_hook(lambda _, __, out: seen.append(out.mean(1).numpy()))
    with torch.no_grad():
        for tile, kept in ((frames[:, :, :16], 3), (frames[:, :, 16:], 8)):
            model.encode(model.patches(tile), model.mask([kept]))
    patches = np.concatenate([model.patches(tile).numpy() for tile in (frames[:, :, :16], frames[:, :, 16:])])
    expected = head.predict(np.concatenate(seen), statistics(patches))
    assert got.shape == (2, len(LAYERS)) and np.abs(got / expected - 1).max() < 1e-4


@pytest.mark.parametrize("head,word", [(random_head(layers=[1, 8]), "has the layers"), (random_head(features=7), r"needs \[26, 3\]")])
def test_a_head_of_another_model_is_refused(head, word, tmp_path):
    head.save(tmp_path / "head.npz")
    with pytest.raises(ValueError, match=word):
        Head.load(tmp_path / "head.npz", CFG, LAYERS)


def test_a_file_that_is_no_head_is_refused(tmp_path):
    (tmp_path / "head.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="is no distortion head"):
        Head.load(tmp_path / "head.npz", CFG, LAYERS)


def test_training_on_pairs_predicts_better_than_a_constant(tmp_path):
    pytest.importorskip("torch")
    from elastictok_models.official import train_head
    from elastictok_models.official.model import Model

    toy.checkpoint(tmp_path / "params", CFG)
    model = Model.load(tmp_path / "params", CFG)
    rng = np.random.default_rng(0)
    # Clips of differing contrast, so that errors differ in a way the encoder sees.
    videos = [(127 + rng.uniform(0.02, 1) * (toy.clip(CFG, 4, seed) - 127.0)).astype(np.uint8) for seed in range(40)]
    head = train_head.fit(*train_head.pairs(model, videos[:30], LAYERS, 480), LAYERS)
    described, errors = train_head.pairs(model, videos[30:], LAYERS, 160, seed=1)
    off = np.log(head.predict(described[:, :-2], described[:, -2:]) / errors).std(0)
    assert (off < 0.8 * np.log(errors).std(0)).all()
