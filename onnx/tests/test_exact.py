# SPDX-License-Identifier: MIT OR Apache-2.0
"""Exact bundles: the same samples as integer arithmetic, wherever they are computed, and what proves it.

Set ELASTICTOK_OTHER_ONNXRUNTIME to the Python of an environment with another onnxruntime and NumPy, ELASTICTOK_NODE_MODULES to a folder with
onnxruntime-web; qemu-x86_64 is of Debian's qemu-user. What is not there is skipped, and said to be."""
import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from elastictok_models import exact, graph, ranges
from elastictok_models.clips import planes_of
from elastictok_models.config import CELL, HALO, Config
from elastictok_models.recover import config_of
from elastictok_models.session import session
from exact_run import LEVELS, run

HERE = Path(__file__).resolve().parent
CELLS_Y, CELLS_X = 4, 5
CFG = Config(exact=True)


def filter_with_noise():
    """A filter whose corrections are large, with units that fit none of its activations well: clipping happens."""
    torch = pytest.importorskip("torch")
    from elastictok_models.quantised import QuantisedFilter
    generator = torch.Generator().manual_seed(5)
    net = QuantisedFilter(CFG)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.2)
        for name in net.activations:
            net.unit(name).copy_(torch.exp2(torch.randint(-6, -2, net.unit(name).shape, generator=generator).float()))
    return net.eval()


def blocks(rng, count=5, cells_y=CELLS_Y, cells_x=CELLS_X) -> list[dict]:
    """Inputs of a decoder graph: a key block and others, with latents from small to the largest, and motion that leaves the picture."""
    cells, found = cells_y * cells_x, []
    for position in range(count):
        size = 10.0 ** rng.uniform(1, 4.5, (cells, 1))
        tokens = np.clip(np.rint(rng.standard_normal((cells, CFG.coefficients)) * size), -exact.LATENT_MAX, exact.LATENT_MAX).astype(np.int32)
        tokens *= rng.random(tokens.shape) < 0.1
        counts = rng.integers(0, 3, cells).astype(np.int32)
        tokens[counts == 0] = 0
        field = lambda most: rng.integers(-most, most + 1, (2, cells_y, cells_x))
        mode = rng.choice(3, (1, cells_y, cells_x), p=[0.6, 0.1, 0.3])
        motion = np.concatenate([field(255), mode, field(63)]).astype(np.int32)
        step = np.float32(rng.integers(4, 1200) / CFG.scale)
        found.append({"tokens": tokens, "counts": counts, "motion": motion, "position": np.int64(position), "step": step,
                      "rows": np.array([0, cells_y]), "dec.reference": np.zeros((cells_y * CELL * 3 // 2, cells_x * CELL), np.uint8)})
    return found


def as_work(found, cells_y=CELLS_Y, cells_x=CELLS_X) -> dict:
    """As exact_run.py and exact_run.mjs read it."""
    tensor = lambda x: {"type": str(x.dtype), "shape": list(x.shape), "data": base64.b64encode(np.ascontiguousarray(x).tobytes()).decode()}
    dimensions = {"cells_y": cells_y, "cells_x": cells_x, "cells": cells_y * cells_x, "width": cells_x * CELL, "frame_rows": cells_y * CELL * 3 // 2}
    return {"dimensions": dimensions, "blocks": [{k: tensor(np.asarray(v)) for k, v in block.items()} for block in found]}


def differences(found: bytes, expected: bytes) -> str:
    """Where two runs differ: '' where they do not."""
    frame = CELLS_Y * CELLS_X * CELL * CELL * 3 // 2
    a, b = (np.frombuffer(x, np.uint8).reshape(-1, frame) for x in (found, expected))
    wrong = (a != b).sum(1)
    return f"frame {np.flatnonzero(wrong)[0]}: {wrong[wrong > 0][0]} of {frame} samples" if wrong.any() else ""


@pytest.fixture(scope="module", params=["noise", "builtin"])
def case(request, tmp_path_factory):
    """(decoder graph's file, blocks' file, blocks, frames of one thread without any optimisation)"""
    folder, builtin = tmp_path_factory.mktemp("exact"), HERE.parent / "models" / "builtin"
    if request.param == "noise":
        model = graph.decoder(CFG, filter_with_noise())
    elif config_of(builtin).exact:
        model = onnx.load(builtin / "decoder.onnx")
    else:
        pytest.skip("the builtin bundle is not exact")
    work = as_work(blocks(np.random.default_rng(3)))
    onnx.save(model, folder / "decoder.onnx")
    (folder / "blocks.json").write_text(json.dumps(work))
    return folder / "decoder.onnx", folder / "blocks.json", work, run(model.SerializeToString(), work, "none", 1)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_threads_and_optimisation_change_nothing(case, level, threads):
    model, _, work, expected = case
    assert differences(run(model.read_bytes(), work, level, threads), expected) == ""


def elsewhere(case, tmp_path, level, *command) -> str:
    model, work, _, expected = case
    out = tmp_path / "frames"
    environment = {**os.environ, "OPENBLAS_CORETYPE": "Prescott"}  # NumPy's BLAS takes some emulated processors for others
    done = subprocess.run([*map(str, command), str(model), str(work), str(out), level], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert differences(out.read_bytes(), expected) == "", done.stdout
    return done.stdout.strip()


@pytest.mark.parametrize("level", ["all", "none"])
def test_another_version_of_onnx_runtime_changes_nothing(case, tmp_path, level):
    python = os.environ.get("ELASTICTOK_OTHER_ONNXRUNTIME")
    if not python:
        pytest.skip("ELASTICTOK_OTHER_ONNXRUNTIME names no Python with another onnxruntime")
    import onnxruntime
    assert elsewhere(case, tmp_path, level, python, HERE / "exact_run.py") != onnxruntime.__version__


@pytest.mark.parametrize("level", ["all", "none"])
@pytest.mark.parametrize("processor", ["Nehalem", "Haswell-noTSX"])
def test_the_processor_changes_nothing(case, tmp_path, processor, level):
    qemu = shutil.which("qemu-x86_64")
    if qemu is None or os.uname().machine != "x86_64":
        pytest.skip("no qemu-x86_64 (of qemu-user), or this is no x86-64")
    elsewhere(case, tmp_path, level, qemu, "-cpu", processor, sys.executable, HERE / "exact_run.py")


@pytest.mark.parametrize("level", ["all", "none"])
def test_a_browser_changes_nothing(case, tmp_path, level):
    modules, node = os.environ.get("ELASTICTOK_NODE_MODULES"), shutil.which("node")
    if node is None or not modules:
        pytest.skip("no node, or ELASTICTOK_NODE_MODULES names no folder with onnxruntime-web")
    elsewhere(case, tmp_path, level, node, HERE / "exact_run.mjs", modules)


def check_arithmetic(model, found: list[dict], shown: np.ndarray):
    """Whether `shown` [blocks, T, rows, width] is what integers.py decodes `found` to; yields the frames of each block as planes."""
    from integers import decode
    named = {i.name.removeprefix("filter."): numpy_helper.to_array(i) for i in model.graph.initializer}
    split = lambda x: (lambda y, c: [y, c[0::2], c[1::2]])(*planes_of(x))
    reference = [x[0] for x in split(np.zeros((1, *shown.shape[2:]), np.uint8))]
    for block, frames in zip(found, shown):
        expected = decode(named, reference, block)
        for p, (got, wanted) in enumerate(zip(split(frames), expected)):
            assert (got == wanted).all(), f"plane {p}: {(got != wanted).sum()} of {got.size} samples differ"
        reference = [x[-1] for x in expected]
        yield expected


def test_the_graph_is_the_documented_integer_arithmetic():
    model, found = graph.decoder(CFG, filter_with_noise()), blocks(np.random.default_rng(9), 3)
    shown = np.frombuffer(run(model.SerializeToString(), as_work(found)), np.uint8).reshape(-1, 2, CELLS_Y * CELL * 3 // 2, CELLS_X * CELL)
    for expected in check_arithmetic(model, found, shown):
        assert all(np.ptp(x) > 100 for x in expected)  # not all clipped to one value


@pytest.mark.parametrize("coded", [[], [(0, 0)], [(11, 12)], [(0, 5), (9, 12)], [(2, 1), (8, 1), (8, 11)], [(y, 4) for y in range(12)]])
def test_cells_that_are_passed_over_are_as_documented(coded):
    cells_y, cells_x = 12, 13
    rng, model = np.random.default_rng(len(coded)), graph.decoder(CFG, filter_with_noise())
    key, block = (blocks(rng, 1, cells_y, cells_x)[0] for _ in range(2))
    picked = np.zeros((cells_y, cells_x), bool)
    for at in coded:
        picked[at] = True
    block["position"] = np.int64(1)
    block["counts"] = picked.astype(np.int32).ravel()
    block["tokens"] = np.where(picked.reshape(-1, 1), rng.integers(-400, 400, block["tokens"].shape), 0).astype(np.int32)
    block["motion"] = block["motion"] * (rng.random((cells_y, cells_x)) < 0.2).astype(np.int32)
    found = [key, block, dict(block, motion=block["motion"] * 0, position=np.int64(2))]
    shape = -1, 2, cells_y * CELL * 3 // 2, cells_x * CELL
    shown = np.frombuffer(run(model.SerializeToString(), as_work(found, cells_y, cells_x)), np.uint8).reshape(shape)
    assert len(list(check_arithmetic(model, found, shown))) == 3
    if not coded:
        assert (shown[2] == shown[1, -1]).all()
    with_taps = session(graph.decoder(CFG, filter_with_noise(), taps=True), cells_y, cells_x)
    given = {name: np.asarray(x) for name, x in block.items()}
    frames, _, recon, *_ = with_taps.run(None, given | {"dec.reference": shown[0, -1]})
    assert (frames == shown[1]).all() and recon.shape == (1, 2, cells_y * CELL, cells_x * CELL)


@pytest.mark.parametrize("density", [0.04, 0.3, 1])
def test_rows_of_a_band_are_those_of_the_picture(density):
    cells_y, cells_x = 13, 6
    rng, net = np.random.default_rng(7), filter_with_noise()
    models = {"encoder": graph.encoder(CFG), "decoder": graph.decoder(CFG, net), "loop": graph.loop(CFG, net)}
    sessions = {name: session(model, cells_y, cells_x) for name, model in models.items()}
    block = {name: np.asarray(x) for name, x in blocks(rng, 2, cells_y, cells_x)[1].items()}
    picked = rng.random(cells_y * cells_x) < density
    block |= {"counts": block["counts"] * picked, "tokens": block["tokens"] * picked[:, None], "position": np.asarray(1)}
    block["dec.reference"] = rng.integers(0, 256, block["dec.reference"].shape).astype(np.uint8)
    coded = {name: block[name] for name in ("position", "motion", "rows", "dec.reference")} | {"frames": np.stack([block["dec.reference"]] * 2)}
    handed = dict(zip(graph.HANDED, sessions["encoder"].run(list(graph.HANDED), coded)))

    for first, end in [(0, 1), (0, 6), (6, 13), (12, 13)]:
        part = sessions["encoder"].run(list(graph.HANDED), coded | {"rows": np.array([first, end])})
        assert all((a == handed[name][first * cells_x:end * cells_x]).all() for name, a in zip(graph.HANDED, part))

    def rows_of(frame, first, end):
        height = cells_y * CELL
        luma, chroma = frame[:height], frame[height:].reshape(2, height // 2, -1)
        return np.concatenate([luma[first * CELL:end * CELL].ravel(), chroma[:, first * CELL // 2:end * CELL // 2].ravel()])

    for name, given in (("decoder", block), ("loop", block | handed)):
        whole = sessions[name].run(["frames"], given)[0]
        differ = 0
        for first, end in [(0, 1), (0, 6), (6, 13), (4, 9), (12, 13), (0, 13)]:
            rows = np.array([max(0, first - HALO), min(cells_y, end + HALO)])
            frames, after = sessions[name].run(["frames", "dec.reference" + graph.CONTEXT_OUT], given | {"rows": rows})
            assert all((rows_of(a, first, end) == rows_of(b, first, end)).all() for a, b in zip(frames, whole)), (name, first, end)
            assert (after == frames[-1]).all()
            without = sessions[name].run(["frames"], given | {"rows": np.array([first, end])})[0]
            differ += any((rows_of(a, first, end) != rows_of(b, first, end)).any() for a, b in zip(without, whole))
        assert differ > 0  # without the halo, rows that depend on others are not the same


@pytest.mark.parametrize("cells_y, cells_x", [(1, 1), (1, 3), (3, 1), (2, 5), (7, 4)])
def test_pictures_of_few_cells_and_the_encoders_loop(cells_y, cells_x):
    rng, net = np.random.default_rng(cells_y), filter_with_noise()
    models = {"encoder": graph.encoder(CFG), "decoder": graph.decoder(CFG, net), "loop": graph.loop(CFG, net)}
    found = blocks(rng, 3, cells_y, cells_x)
    for block in found[1:]:
        block["counts"] *= rng.random(len(block["counts"])) < 0.3
        block["tokens"][block["counts"] == 0] = 0
        block["motion"] *= rng.random((cells_y, cells_x)) < 0.6
    shape = -1, 2, cells_y * CELL * 3 // 2, cells_x * CELL
    shown = np.frombuffer(run(models["decoder"].SerializeToString(), as_work(found, cells_y, cells_x)), np.uint8).reshape(shape)
    assert len(list(check_arithmetic(models["decoder"], found, shown))) == len(found)
    sessions = {name: session(models[name], cells_y, cells_x) for name in ("encoder", "loop")}
    for block, frames, reference in zip(found, shown, [found[0]["dec.reference"], *shown[:, -1]]):
        given = {name: np.asarray(x) for name, x in block.items()} | {"dec.reference": reference}
        coded = {name: given[name] for name in ("position", "motion", "rows", "dec.reference")} | {"frames": rng.integers(0, 256, shape[1:]).astype(np.uint8)}
        handed = sessions["encoder"].run(list(graph.HANDED), coded)
        # what the loop graph has no use for must not matter
        unused = {name: np.zeros_like(given[name]) for name in ("position", "motion", "dec.reference")}
        assert (sessions["loop"].run(["frames"], given | unused | dict(zip(graph.HANDED, handed)))[0] == frames).all()


def test_a_filter_is_recovered_from_its_bundle(tmp_path):
    from elastictok_models import export
    from elastictok_models.recover import recover
    export.export(CFG, tmp_path / "a", filter_with_noise(), None, "")
    assert config_of(tmp_path / "a") == CFG
    export.export(CFG, tmp_path / "b", recover(tmp_path / "a", CFG), None, "")
    work = as_work(blocks(np.random.default_rng(4), 2))
    a, b = (run((tmp_path / name / "decoder.onnx").read_bytes(), work) for name in "ab")
    assert differences(a, b) == ""


def single(kind: str, *inputs, shapes, **attributes) -> onnx.ModelProto:
    """A graph of one operator on float32 inputs (names) and constants (arrays)."""
    names = [x if isinstance(x, str) else f"c{i}" for i, x in enumerate(inputs)]
    constants = [numpy_helper.from_array(x, name) for x, name in zip(inputs, names) if not isinstance(x, str)]
    given = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shapes[n]) for n in names if n in shapes]
    node = helper.make_node(kind, names, ["y"], name="it", **attributes)
    return helper.make_model(helper.make_graph([node], "g", given, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], constants),
                             opset_imports=[helper.make_opsetid("", 21)])


@pytest.mark.parametrize("model, given, why", [
    (single("MatMul", "x", np.full((16, 2), 3, np.float32), shapes={"x": [4, 16]}), ranges.Values(-400000, 400000), "a sum may reach"),
    (single("Conv", "x", np.ones((2, 2, 3, 3), np.float32), shapes={"x": [1, 2, 8, 8]}), ranges.Values(0, 1), "only 1x1 and depthwise 3x3"),
    (single("Exp", "x", shapes={"x": [4]}), ranges.Values(0, 1), "must do without"),
    (single("Add", "x", np.array([0.1], np.float32), shapes={"x": [4]}), ranges.Values(0, 1), "a sum may reach"),
    (single("QuantizeLinear", "x", np.float32(3), np.uint8(0), shapes={"x": [4]}), ranges.Values(0, 1), "no constant power of two"),
])
def test_the_exporter_refuses_what_may_round(model, given, why):
    with pytest.raises(ValueError, match=why):
        ranges.Analysis(model, {"x": given})


def test_weights_that_saturate_pairs_of_products_are_refused():
    model = graph.decoder(CFG, filter_with_noise())
    given = {"tokens": ranges.Values(-exact.LATENT_MAX, exact.LATENT_MAX), "step": ranges.Values(0, exact.COARSEST_STEP, 1 / CFG.scale),
             "dec.reference": ranges.Values(0, 255)}
    ranges.Analysis(model, given)
    weight = next(i for i in model.graph.initializer if i.name == "filter.head.weight")
    changed = numpy_helper.to_array(weight).copy()
    changed[0, :2] = 100
    weight.CopyFrom(numpy_helper.from_array(changed, weight.name))
    with pytest.raises(ValueError, match="16 bits"):
        ranges.Analysis(model, given)


def test_fitting_layer_by_layer_brings_the_integer_filter_nearer_to_the_float_one():
    torch = pytest.importorskip("torch")
    from elastictok_models.filter import LoopFilter
    from elastictok_models.quantised import QuantisedFilter, calibrate
    from elastictok_models.refit import refit
    generator = torch.Generator().manual_seed(6)
    random = lambda *shape: torch.randn(*shape, generator=generator)
    plain, net = LoopFilter(CFG), QuantisedFilter(CFG)
    with torch.no_grad():
        for p in plain.parameters():
            p.copy_(random(*p.shape) * 0.1)
    net.load_state_dict(plain.state_dict(), strict=False)
    n = CFG.luma_patch + CFG.chroma_patch
    ground = 128 + 60 * random(12, 1, 1, 1) + 3 * random(12, n, 16, 16)  # brightness is most of it
    given = ground.clamp(0, 255), 10 * random(12, n, 16, 16), torch.full((12,), 12.0), torch.ones(12, 1, 16, 16)
    seen, new = [tuple(x[part] for x in given) for part in (slice(8), slice(8, None))]
    calibrate(net, [seen])
    error = lambda: float((net(*new) - plain(*new)).detach().square().mean())
    before = error()
    refit(CFG, net, *seen)
    assert error() < 0.9 * before, (error(), before)
