# SPDX-License-Identifier: MIT OR Apache-2.0
"""Exported graphs against the PyTorch model on several tiles, and what ONNX Runtime makes of them."""
import json

import numpy as np
import onnx
import pytest

import official_cases as cases
from elastictok_models.official import bundle, picture, runner, toy
from elastictok_models.official.checkpoint import Checkpoint

COLUMNS, ROWS, BLOCKS = 3, 2, 7
KINDS = ["fsq", "vae"]


def exported(folder, kind, **options):
    """A toy checkpoint and its bundle; returns config, checkpoint path and bundle directory."""
    cfg = toy.config(kind)
    params, out = folder / f"{kind}.params", folder / "_".join(["toy", kind, *map(str, options.values())])
    if not params.exists():
        toy.checkpoint(params, cfg)
    if not out.exists():
        bundle.write(cfg, bundle.Export(**options), Checkpoint(params, cfg), out)
    return cfg, params, out


def tiles(frames, cfg):
    """The cells of a picture in raster order."""
    width, height = cfg.tile_size
    for y in range(0, frames.shape[1], height):
        for x in range(0, frames.shape[2], width):
            yield frames[:, y:y + height, x:x + width]


def compare(cfg, params, out, blocks=BLOCKS):
    """Random frames and counts on several tiles, block by block: the bundle against the PyTorch model."""
    torch = pytest.importorskip("torch")
    from elastictok_models.official.model import Context, Model

    model, coder = Model.load(params, cfg), runner.Bundle(out, COLUMNS, ROWS)
    restart = coder.manifest["max_context_blocks"]
    rng, (width, height) = np.random.default_rng(0), cfg.tile_size
    state = [Context() for _ in range(COLUMNS * ROWS)]
    for block in range(blocks):
        if restart and block % restart == 0:
            state = [Context() for _ in state]
        frames = rng.integers(0, 256, (cfg.frames_per_block, ROWS * height, COLUMNS * width, 3), dtype=np.uint8)
        counts = rng.integers(1, cfg.max_toks + 1, len(state))
        got = coder.block(frames, counts)
        for cell, (tile, own, eight) in enumerate(zip(*(tiles(a, cfg) for a in (frames, got["reconstruction"], got["frames"])))):
            x, mask, kept = model.patches(tile), model.mask([counts[cell]]), counts[cell]
            with torch.no_grad():
                z, _ = model.encode(x, mask, state[cell].encoder)
                y, _, state[cell] = model.reconstruct(x, mask, state[cell])
            recon = picture.unpatchify(y[0].numpy(), cfg)
            assert np.abs(own - recon).max() <= cases.RECON
            assert np.abs(eight.astype(int) - picture.to_8_bit(recon)).max() <= 1
            fsq = cfg.bottleneck_type == "fsq"
            tokens = model.levels.index(z[0].numpy()) if fsq else z[0].numpy()
            assert np.abs(tokens[:kept] - got["tokens"][cell][:kept]).max() <= (0 if fsq else cases.LATENT)


@pytest.mark.parametrize("context", bundle.CONTEXTS)
@pytest.mark.parametrize("kind", KINDS)
def test_tiles_equal_the_model_past_the_window(kind, context, scratch):
    """Seven blocks with a window of four: until it is full both rules are one, then the bundle slides or restarts as the model does."""
    compare(*exported(scratch, kind, context=context))


@pytest.mark.parametrize("kind,changes", [
    ("fsq", dict(tile=(32, 8), fsq_quant_levels=(7, 5, 3), theta=10_000)),  # tiles that are not square, few digits
    ("fsq", dict(patch_size=(3, 4, 2), frames_per_block=3, max_toks=32, max_sequence_length=70, num_attention_heads=1)),  # a window of 2
    ("vae", dict(vae_bottleneck_dim=3, frames_per_block=4, max_toks=8, max_sequence_length=24, num_attention_heads=4, rms_norm_eps=1e-6)),
    ("vae", dict(patch_size=(1, 16, 16), frames_per_block=1, max_toks=1, max_sequence_length=3, num_decoder_layers=3)),
])
def test_other_settings(kind, changes, tmp_path):
    cfg = toy.config(kind, **changes)
    toy.checkpoint(tmp_path / "params", cfg)
    bundle.write(cfg, bundle.Export(context="sliding"), Checkpoint(tmp_path / "params", cfg), tmp_path / "bundle")
    compare(cfg, tmp_path / "params", tmp_path / "bundle", blocks=4)


def test_a_window_of_one_block_needs_no_context(scratch):
    cfg = toy.config("fsq", max_sequence_length=8)
    toy.checkpoint(scratch / "one.params", cfg)
    bundle.write(cfg, bundle.Export(), Checkpoint(scratch / "one.params", cfg), scratch / "one")
    coder, frames = runner.Bundle(scratch / "one"), toy.clip(cfg, 1)
    first, second = coder.block(frames, 5), coder.block(frames, 5)
    assert list(coder.encoder.context) == [] and list(coder.decoder.context) == ["dec.grid"]
    assert (first["reconstruction"] == second["reconstruction"]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_stays_close(kind, scratch):
    cfg, _, out = exported(scratch, kind)
    _, _, half = exported(scratch, kind, precision="fp16")
    coders, frames = [runner.Bundle(d) for d in (out, half)], toy.clip(cfg, 4)
    t = cfg.frames_per_block
    for i in range(4):
        a, b = (c.block(frames[i * t:(i + 1) * t], cfg.max_toks)["reconstruction"] for c in coders)
        if kind == "vae":  # an FSQ code that flips moves the picture by more than rounding does
            assert np.abs(a - b).max() < 0.05
        assert np.sqrt(np.square(a - b).mean()) < 0.05
    assert coders[1].encoder.context["enc.key.0"].dtype == np.float16
    sizes = [sum(f.stat().st_size for f in d.glob("*.onnx")) for d in (out, half)]
    assert sizes[1] < 0.85 * sizes[0]  # tables, nodes and the outer layers stay


def test_large_weights_go_beside_the_graph(scratch):
    cfg, _, inside = exported(scratch, "fsq")
    _, _, beside = exported(scratch, "fsq", external=0)
    for side in ("encoder", "decoder"):
        assert not (inside / f"{side}.onnx.data").exists()
        model = onnx.load(beside / f"{side}.onnx", load_external_data=False)
        stored = [i for i in model.graph.initializer if i.data_location == onnx.TensorProto.EXTERNAL]
        assert len(stored) > 20 and all(e.value == f"{side}.onnx.data" for i in stored for e in i.external_data if e.key == "location")
        assert max(len(i.raw_data) for i in model.graph.initializer) < 4096
    frames = toy.clip(cfg, 1)
    a, b = (runner.Bundle(d).block(frames, 5)["reconstruction"] for d in (inside, beside))
    assert (a == b).all()


def optimised(out, side, path):
    """The graph as ONNX Runtime runs it, sizes fixed."""
    width, height = json.loads((out / "bundle.json").read_text())["cell"]
    sizes = {"width": 3 * width, "height": 2 * height, "cells": 6, "cells_x": 3, "cells_y": 2}
    runner.Half(out / f"{side}.onnx", sizes, optimised=path)
    return onnx.load(path)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_optimised_graph(kind, side, scratch, tmp_path):
    cfg, _, out = exported(scratch, kind)
    graph = optimised(out, side, tmp_path / "optimised.onnx").graph
    kinds = [n.op_type for n in graph.node]
    layers = cfg.num_encoder_layers if side == "encoder" else cfg.num_decoder_layers
    # One attention node a layer is left, which CUDA and TensorRT providers have fused kernels for; no product or softmax of its parts.
    assert kinds.count("Attention") == layers and "Softmax" not in kinds
    assert kinds.count("RotaryEmbedding") == 2 * layers
    # Shapes are numbers: nothing computes one, and every Reshape and Expand reads a constant.
    assert not {"Shape", "Size", "ConstantOfShape", "Range", "NonZero"} & set(kinds)
    constants = {i.name for i in graph.initializer}
    assert all(n.input[1] in constants for n in graph.node if n.op_type in ("Reshape", "Expand"))
    for value in [*graph.input, *graph.output]:
        assert all(d.HasField("dim_value") for d in value.type.tensor_type.shape.dim), value.name
    # The position is still computed with.
    assert any("position" in n.input for n in graph.node)


def test_layers_and_search_of_the_manifest(scratch):
    cfg, _, out = exported(scratch, "fsq")
    manifest = json.loads((out / "bundle.json").read_text())
    assert manifest["layers"] == [2, 4, 8] and manifest["max_context_blocks"] == cfg.window
    assert manifest["search"] == {"rule": "official", "default_prop": 1.0, "max_prop": 1.0, "n_interp": 100}
    assert manifest["has_reconstruction"] and manifest["count_conditioned"] and not manifest["has_distortion"]
    _, _, sliding = exported(scratch, "fsq", context="sliding")
    assert json.loads((sliding / "bundle.json").read_text())["max_context_blocks"] is None
    assert bundle.boundaries(toy.config("fsq", min_toks=3)) == [3, 6, 8]
