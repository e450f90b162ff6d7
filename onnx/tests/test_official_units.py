# SPDX-License-Identifier: MIT OR Apache-2.0
"""Rotary tables, FSQ, stills and patches against the official code's numbers and their definitions."""
import numpy as np
import pytest

import official_cases as cases
from elastictok_models.official import fsq, picture, rope
from elastictok_models.official.config import Config
from elastictok_models.official.toy import config

ULPS = 2  # NumPy's float32 power and the division after it are off by so many units in the last place at most
TABLES = [("fsq", 50_000_000, 128), ("vae", 5_000_000, 128), ("small", 50_000_000, 32)]


@pytest.mark.parametrize("numpy_version,suffix", [(1, ""), (2, "_np2")])
@pytest.mark.parametrize("name,theta,head_dim", TABLES)
def test_rotary_tables_are_the_official_ones(name, theta, head_dim, numpy_version, suffix):
    data = cases.units("data.npz")
    position = data["rope_positions"].astype(np.float64)
    frequency = rope.frequencies(head_dim, theta, numpy_version).astype(np.float32)
    tolerance = np.full((len(position), len(frequency)), 1e-6)
    if numpy_version == 2:  # the official frequency came from one processor's float32 power: ULPS of it, and one of the angle's
        tolerance += ULPS * np.outer(position, np.spacing(frequency)) + np.spacing(np.outer(position, frequency).astype(np.float32))
    cos, sin = rope.tables(head_dim, position, theta, numpy_version)
    assert (np.abs(cos - data[f"rope_{name}_cos{suffix}"]) <= tolerance).all()
    assert (np.abs(sin - data[f"rope_{name}_sin{suffix}"]) <= tolerance).all()


@pytest.mark.parametrize("numpy_version", [1, 2])
@pytest.mark.parametrize("name,theta,head_dim", TABLES)
def test_rotary_tables_do_not_depend_on_the_last_bits(name, theta, head_dim, numpy_version, monkeypatch):
    """Mathematics libraries differ in the last bits of float64. None of these tables has a value so near to the middle between two
    float32 that this shows, so they are the same on every processor."""
    made = []
    for change in (0, 4, -4):
        for function in ("power", "cos", "sin"):
            moved = lambda *x, exact=getattr(np, function), change=change: exact(*x) * (1 + change * np.finfo(np.float64).eps)
            monkeypatch.setattr(rope.np, function, moved)
        made.append(np.stack(rope.tables(head_dim, np.arange(1, 16384), theta, numpy_version)))
        monkeypatch.undo()
    assert (made[0] == made[1]).all() and (made[0] == made[2]).all()


def test_the_numpy_generations_differ_where_they_should():
    last = np.array([16383])
    one, two = (rope.tables(128, last, 50_000_000, v)[0] for v in (1, 2))
    assert 1e-4 < np.abs(one - two).max() < 2e-3
    # A theta that float32 holds, be it a small integer or a float, is not widened by NumPy before 2 either.
    for theta in (10_000, 5e7):
        assert all((a == b).all() for a, b in zip(rope.tables(64, last, theta, 1), rope.tables(64, last, theta, 2)))
    with pytest.raises(ValueError, match="numpy_version is 3"):
        rope.tables(64, last, 10_000, 3)


def test_vectors_are_rotated_as_the_official_code_does():
    torch = pytest.importorskip("torch")
    from elastictok_models.official.model import rotate

    data = cases.units("data.npz")
    table = [torch.from_numpy(t) for t in rope.tables(128, data["rope_positions"], 50_000_000)]
    for name in ("q", "k"):
        x = torch.from_numpy(data[f"rope_{name}"]).transpose(0, 1)  # heads first
        out = rotate(x, *table).transpose(0, 1).numpy()
        assert np.abs(out - data[f"rope_{name}_out"]).max() <= 5e-6


def test_fsq_is_the_official_one():
    data, levels = cases.units("data.npz"), fsq.Levels((8, 8, 8, 5, 5, 5))
    assert np.abs(levels.bound(data["fsq_z"]) - data["fsq_bound"]).max() <= 2e-6
    assert (levels.quantize(data["fsq_z"]) == data["fsq_codes"]).all()
    assert (levels.index(data["fsq_codes"]) == data["fsq_index"]).all()
    assert (levels.codes(data["fsq_index_list"]) == data["fsq_index_codes"]).all()


@pytest.mark.parametrize("levels", [(8, 8, 8, 5, 5, 5), (7, 2, 3), (31, 26, 11)])
def test_every_index_is_its_codes_index(levels):
    book = fsq.Levels(levels)
    everything = np.arange(np.prod(levels))
    codes = book.codes(everything)
    assert (book.index(codes) == everything).all()
    assert np.abs(codes).max() <= 1
    assert (book.index(np.zeros((1, len(levels)))) == (np.asarray(levels) // 2 * book.basis).sum()).all()


def test_stills_are_treated_as_the_official_loader_does():
    pytest.importorskip("PIL")
    data = cases.units("data.npz")
    cfg = config("vae", resolution=32, frames_per_block=4, max_toks=32, max_sequence_length=32)
    for name in ("wide", "tall"):
        block = picture.still(data[f"image_{name}"], cfg)
        assert (picture.patchify(block, cfg) == data[f"image_{name}_patches"]).all()


@pytest.mark.parametrize("name", cases.names("kept"))
def test_patches_are_the_official_ones(name, scratch):
    case = cases.load(name, scratch)
    frames, cfg = case.data["frames"], case.cfg
    patches = picture.patchify(frames, cfg)
    if "patches" in case.data:
        assert (patches == case.data["patches"]).all()
    assert (picture.unpatchify(patches, cfg) == frames).all()
    more = np.concatenate([frames, frames[:1]])  # a frame that fills no block is left out
    assert (picture.patchify(more, cfg) == patches).all()


def test_a_tile_need_not_be_square():
    cfg = Config(**{**config("fsq").__dict__, "tile": (32, 8)})
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 32, 3), dtype=np.uint8)
    patches = picture.patchify(frames, cfg)
    assert (patches[1] == frames[0, :, 8:16].ravel()).all() and (patches[4] == frames[1, :, :8].ravel()).all()
    assert (picture.unpatchify(patches, cfg) == frames).all()


def test_8_bit_values_are_truncated():
    assert picture.to_8_bit(np.float32([-2, -1, 0.999, 1, 2])).tolist() == [0, 0, 254, 255, 255]
