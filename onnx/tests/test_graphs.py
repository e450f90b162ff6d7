# SPDX-License-Identifier: MIT OR Apache-2.0
"""The exported graphs compute what the model says: transform, motion, filter, skip."""
import numpy as np
import pytest
from onnx import numpy_helper

from elastictok_models import graph
from elastictok_models.clips import planes_of, to_patches
from elastictok_models.config import CELL, Config, K
from elastictok_models.session import session
from elastictok_models.transform import (CHROMA_MATRICES, LUMA_MATRICES, TAP_UNIT, chroma_columns, dct, interpolation_taps, order, positions,
                                         time_and_rows)
from integers import around

CELLS_Y, CELLS_X = 3, 5
H, W = CELLS_Y * CELL, CELLS_X * CELL


def scene(rng, n):
    """Smooth random I420 frames uint8 [n, 3H/2, W]."""
    coarse = rng.integers(0, 256, (n, H * 3 // 2 // 4 + 1, W // 4 + 1)).astype(np.float32)
    return coarse.repeat(4, 1).repeat(4, 2)[:, :H * 3 // 2, :W].astype(np.uint8)


def inputs(rng, cfg, position=1):
    motion = np.stack([rng.integers(-255, 256, (CELLS_Y, CELLS_X)), rng.integers(-255, 256, (CELLS_Y, CELLS_X)),
                       rng.integers(0, 8, (CELLS_Y, CELLS_X)) == 0, *rng.integers(-60, 61, (2, CELLS_Y, CELLS_X))]).astype(np.int32)
    return {"position": np.asarray(position, np.int64), "motion": motion, "dec.reference": scene(rng, 1)[0]}


def decode(model, tokens, counts, step, feed):
    return session(model, CELLS_Y, CELLS_X).run(None, {**feed, "tokens": tokens.astype(np.int32), "counts": counts, "step": np.asarray(step, np.float32)})


def reference_prediction(cfg, reference, motion):
    """Sample by sample, from the definition in docs/bundle.md and config.py."""
    planes = [reference.reshape(-1)[:H * W].reshape(H, W), *reference.reshape(-1)[H * W:].reshape(2, H // 2, W // 2)]
    out = np.zeros((cfg.block_length, H * 3 // 2, W))
    for t in range(cfg.block_length):
        made = []
        for p, plane in enumerate(planes):
            size, taps, phases, *_ = LUMA_MATRICES if p == 0 else CHROMA_MATRICES
            pred = np.zeros(plane.shape)
            for y in range(plane.shape[0]):
                for x in range(plane.shape[1]):
                    dy, dx, intra, *bend = motion[:, y // size, x // size]
                    if intra:
                        pred[y, x] = 128
                        continue
                    at = [int(d) * 2 * (t + 1) // cfg.block_length + (t + 1 < cfg.block_length) * int(b) for d, b in zip((dy, dx), bend)]
                    ys = np.clip(y + at[0] // phases + np.arange(taps) - (taps // 2 - 1), 0, plane.shape[0] - 1)
                    xs = np.clip(x + at[1] // phases + np.arange(taps) - (taps // 2 - 1), 0, plane.shape[1] - 1)
                    ky, kx = (interpolation_taps(d % phases / phases, taps) / TAP_UNIT for d in at)
                    pred[y, x] = ky @ plane[np.ix_(ys, xs)] @ kx
            made.append(pred.ravel())
        out[t] = np.concatenate(made).reshape(H * 3 // 2, W)
    return out


@pytest.mark.parametrize("t_len", [1, 2])
def test_prediction_follows_the_definition(t_len):
    cfg, rng = Config(block_length=t_len), np.random.default_rng(1)
    feed = inputs(rng, cfg)
    cells = CELLS_Y * CELLS_X
    frames = decode(graph.decoder(cfg, None), np.zeros((cells, cfg.coefficients), np.int32), np.zeros(cells, np.int32), 8, feed)[0]
    expected = np.clip(np.round(reference_prediction(cfg, feed["dec.reference"], feed["motion"])), 0, 255)
    assert np.abs(frames - expected).max() <= 1  # a half may round either way
    assert (frames != expected).mean() < 0.01


@pytest.mark.parametrize("t_len", [1, 2])
def test_encoder_and_decoder_are_inverse(t_len):
    cfg, rng = Config(block_length=t_len), np.random.default_rng(2)
    feed, source = inputs(rng, cfg), scene(rng, t_len)
    latents = session(graph.encoder(cfg), CELLS_Y, CELLS_X).run(["tokens"], {"frames": source, **feed})[0]
    frames, reference = decode(graph.decoder(cfg, None), latents, np.ones(CELLS_Y * CELLS_X, np.int32), 8, feed)
    assert np.abs(frames.astype(int) - source).max() <= 1
    assert (reference == frames[-1]).all()


def test_key_block_ignores_the_context():
    cfg, rng = Config(), np.random.default_rng(3)
    feed = inputs(rng, cfg, position=0)
    cells = CELLS_Y * CELLS_X
    frames = decode(graph.decoder(cfg, None), np.zeros((cells, cfg.coefficients), np.int32), np.zeros(cells, np.int32), 8, feed)[0]
    assert (frames == 128).all()


@pytest.mark.parametrize("taps", [4, 8])
def test_interpolation_keeps_flat_areas_and_fits_integer_products(taps):
    for phase in np.arange(16) / 16:
        k = interpolation_taps(phase, taps).astype(int)
        assert k.sum() == TAP_UNIT
        assert (255 * np.maximum(k, 0)[:-1] + 255 * np.maximum(k, 0)[1:]).max() < 1 << 15  # processors add pairs in 16 bits
        assert (k == interpolation_taps(0, taps)).all() == (phase == 0)
        if phase:
            assert (k[::-1] == interpolation_taps(1 - phase, taps)).all()
    assert interpolation_taps(0, taps)[taps // 2 - 1] == TAP_UNIT


def test_transform_is_orthonormal_and_ordered():
    cfg = Config()
    for b in (time_and_rows(cfg, CELL), time_and_rows(cfg, CELL // 2), dct(CELL), chroma_columns()):
        assert np.allclose(b @ b.T, np.eye(len(b)))
    assert positions(cfg)[0].tolist() == [0, 0, 0, 0]
    assert sorted(order(cfg)) == list(range(cfg.coefficients)) and order(cfg)[0] == 0


def coefficient(cfg, component, t, v, u):
    """The graphs' index of a coefficient."""
    return int(np.flatnonzero((positions(cfg) == (component, t, v, u)).all(1))[0])


@pytest.mark.parametrize("component", [0, 1, 2])
def test_a_coefficient_is_the_one_that_the_manifest_says(component):
    cfg, rng = Config(), np.random.default_rng(6)
    size, (t, v, u) = CELL if component == 0 else CELL // 2, (1, 2, 3)
    tokens = np.zeros((CELLS_Y * CELLS_X, cfg.coefficients), np.int32)
    tokens[7, coefficient(cfg, component, t, v, u)] = 4000
    frames = decode(graph.decoder(cfg, None), tokens, np.zeros(len(tokens), np.int32), 8, inputs(rng, cfg, position=0))[0]
    luma, chroma = planes_of(frames)
    planes = [luma, chroma[0::2], chroma[1::2]]
    basis = np.einsum("t,y,x->tyx", dct(cfg.block_length)[t], dct(size)[v], dct(size)[u])
    y, x = size * (7 // CELLS_X), size * (7 % CELLS_X)
    moved = planes[component][:, y:y + size, x:x + size] - 128.0
    assert np.abs(moved).max() > 10
    assert np.abs(moved / np.abs(moved).max() - basis / np.abs(basis).max()).max() < 0.05
    assert sum((p != 128).sum() for p in planes) == (moved != 0).sum()  # nothing else moved


def with_noise(net, torch):
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p) * 0.03)
    return net


def coded_block(rng, cfg):
    """A few random latents; every third cell without any."""
    cells = CELLS_Y * CELLS_X
    tokens = (rng.integers(-60, 61, (cells, cfg.coefficients)) * (rng.random((cells, cfg.coefficients)) < 0.05)).astype(np.int32)
    counts = (np.arange(cells) % 3 > 0).astype(np.int32)
    tokens[counts == 0] = 0
    return tokens, counts


@pytest.mark.parametrize("step", [9.5, 300.0])  # within and beyond the steps of training
def test_filter_in_onnx_equals_torch_and_skips_exactly(step):
    torch = pytest.importorskip("torch")
    from elastictok_models.filter import LoopFilter

    torch.manual_seed(0)
    cfg, rng = Config(), np.random.default_rng(4)
    net = with_noise(LoopFilter(cfg), torch)
    feed, (tokens, counts) = inputs(rng, cfg), coded_block(rng, cfg)
    frames, _, *taps = decode(graph.decoder(cfg, net, taps=True), tokens, counts, step, feed)
    recon, residual = (torch.from_numpy(to_patches(taps[i][0], taps[i + 1][0]).transpose(2, 0, 1)[None].copy()) for i in (0, 2))
    corrected = around(counts.reshape(CELLS_Y, CELLS_X).repeat(K, 0).repeat(K, 1) > 0)
    mask = torch.from_numpy(corrected[None, None].astype(np.float32))
    with torch.no_grad():
        out = recon + net(recon, residual, torch.tensor([step]), mask)
    expected = out[0].numpy().transpose(1, 2, 0)
    got = to_patches(*planes_of(frames))
    assert np.abs(got - np.clip(expected, 0, 255)).max() <= 0.5 + 1e-2
    plain = to_patches(*planes_of(decode(graph.decoder(cfg, None), tokens, counts, step, feed)[0]))
    skipped = ~corrected
    assert skipped.any()
    assert (got[skipped] == plain[skipped]).all()
    for part in (slice(cfg.luma_patch), slice(cfg.luma_patch, None)):
        assert (got[~skipped][:, part] != plain[~skipped][:, part]).any()


@pytest.mark.parametrize("position", [0, 3])
def test_the_loop_graph_gives_the_decoders_picture_bit_for_bit(position):
    torch = pytest.importorskip("torch")
    from elastictok_models.filter import LoopFilter

    torch.manual_seed(2)
    cfg, rng = Config(), np.random.default_rng(8)
    net = with_noise(LoopFilter(cfg), torch)
    feed, (tokens, counts) = inputs(rng, cfg, position), coded_block(rng, cfg)
    handed = session(graph.encoder(cfg), CELLS_Y, CELLS_X).run(list(graph.HANDED), {"frames": scene(rng, cfg.block_length), **feed})
    frames, reference = decode(graph.decoder(cfg, net), tokens, counts, 9.5, feed)
    # what the loop graph has no use for must not matter
    unused = {k: np.zeros_like(v) for k, v in feed.items()}
    again = decode(graph.loop(cfg, net), tokens, counts, 9.5, unused | dict(zip(graph.HANDED, handed)))
    assert (again[0] == frames).all() and (again[1] == reference).all()


def test_weights_come_back_from_an_exported_graph(tmp_path):
    torch = pytest.importorskip("torch")
    from elastictok_models.filter import LoopFilter
    from elastictok_models.recover import recover

    torch.manual_seed(1)
    cfg, net = Config(), with_noise(LoopFilter(Config()), torch)
    exported = graph.decoder(cfg, net)
    (tmp_path / "decoder.onnx").write_bytes(exported.SerializeToString())
    again = graph.decoder(cfg, recover(tmp_path, cfg))
    values = lambda m: {i.name: numpy_helper.to_array(i) for i in m.graph.initializer if i.name.startswith("filter.")}
    first, second = values(exported), values(again)
    assert first.keys() == second.keys() and len(first) == 65
    for name, value in first.items():
        assert np.allclose(value, second[name], atol=1e-6), name
    (tmp_path / "decoder.onnx").write_bytes(graph.decoder(cfg, None).SerializeToString())
    with pytest.raises(ValueError, match="filter.head.recon"):
        recover(tmp_path, cfg)


def test_distortion_in_onnx_equals_torch(tmp_path):
    torch = pytest.importorskip("torch")
    from elastictok_models import export
    from elastictok_models.distortion import DistortionHead, bands
    from elastictok_models.recover import recover_head
    torch.manual_seed(0)
    cfg, rng = Config(), np.random.default_rng(5)
    head = DistortionHead(cfg)
    torch.nn.init.normal_(head.out.weight, std=0.3)
    export.export(cfg, tmp_path, None, None, "", head)
    assert recover_head(tmp_path, cfg) is not None
    feed = {"frames": scene(rng, cfg.block_length), **inputs(rng, cfg), "step": np.asarray(7.5, np.float32)}
    run = session(graph.encoder(cfg, recover_head(tmp_path, cfg)), CELLS_Y, CELLS_X).run
    assert np.isnan(run(["distortion"], feed | {"position": np.asarray(1)})[0]).all()
    tokens, told = run(["tokens", "distortion"], feed | {"position": np.asarray(0)})
    luma = tokens[:, :cfg.luma_coefficients].astype(np.float32) / cfg.scale
    intra = torch.ones(len(luma))
    assert told.shape == (CELLS_Y * CELLS_X, 1)
    with torch.no_grad():
        log = head(torch.from_numpy(luma**2 @ bands(cfg)), torch.full((len(luma),), 7.5), intra)
    np.testing.assert_allclose(told[:, 0], np.exp(log.numpy()), rtol=2e-3)  # tokens are rounded, energies are not
