# SPDX-License-Identifier: MIT OR Apache-2.0
"""The command import-official: a bundle, or an error and nothing on disk."""
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from elastictok_models.__main__ import main
from elastictok_models.official import bundle, runner, save, toy
from elastictok_models.official.checkpoint import Checkpoint

CFG = toy.config("fsq")


@pytest.fixture
def source(tmp_path):
    """A folder with params and config.json, as a download would be."""
    folder = tmp_path / "source"
    folder.mkdir()
    toy.checkpoint(folder / "params", CFG)
    (folder / "config.json").write_text(json.dumps({**asdict(CFG), "note": "no model setting"}))
    return folder


def command(source, out, *more):
    return main(["import-official", str(source / "params"), "--config-json", str(source / "config.json"), "--out", str(out), *more])


def test_the_command_writes_a_bundle_that_runs(source, tmp_path):
    out = tmp_path / "new" / "bundle"
    assert command(source, out, "--licence", "Apache-2.0", "--context", "sliding", "--layers", "3,8") == 0
    assert sorted(f.name for f in out.iterdir()) == ["bundle.json", "decoder.onnx", "encoder.onnx"]
    manifest = json.loads((out / "bundle.json").read_text())
    assert (manifest["name"], manifest["licence"], manifest["layers"]) == ("bundle", "Apache-2.0", [3, 8])
    assert runner.Bundle(out).block(toy.clip(CFG, 1), 3)["frames"].shape == (2, 16, 16, 3)
    assert list(out.parent.iterdir()) == [out]  # no temporary directories


def test_a_second_export_replaces_the_first(source, tmp_path):
    out = tmp_path / "bundle"
    assert command(source, out, "--name", "first") == command(source, out, "--name", "second") == 0
    assert json.loads((out / "bundle.json").read_text())["name"] == "second"
    assert sorted(f.name for f in tmp_path.iterdir()) == ["bundle", "source"]


def test_a_directory_that_is_no_bundle_is_left_alone(source, tmp_path, capsys):
    out = tmp_path / "home"
    out.mkdir()
    (out / "letter.txt").write_text("dear")
    assert command(source, out) == 1
    assert "is no bundle" in capsys.readouterr().err and [f.name for f in out.iterdir()] == ["letter.txt"]


def damage_truncated(source):
    data = (source / "params").read_bytes()
    (source / "params").write_bytes(data[:len(data) * 2 // 3])


def damage_foreign(source):
    (source / "params").write_bytes(b"PK\x03\x04")


def damage_nan(source):
    cfg, path = CFG, source / "params"
    checkpoint = Checkpoint(path, cfg)
    values = {key: checkpoint.read(key) for key in cfg.shapes()}
    values["encoder/pre_quant/kernel"][0, 0] = np.nan
    save.save(path, values.items())


def damage_config(source):
    (source / "config.json").write_text("{}")


@pytest.mark.parametrize("damage,more,word", [
    (damage_truncated, (), "is cut short"), (damage_foreign, (), "no official ElasticTok checkpoint"), (damage_nan, (), "NaN or infinite"),
    (damage_config, (), "lacks hidden_size"), (None, ("--update", "hidden_size=48"), "is no checkpoint of these settings"),
    (None, ("--update", "resolution=24"), "makes 18 patches"), (None, ("--update", "resolution=17"), "no multiple of patch_size"),
    (None, ("--update", "colour=3"), "there is no setting 'colour'"), (None, ("--layers", "3,9"), "do not rise to max_toks 8"),
    (None, ("--vae-bits", "17"), "it can be 1 to 16"), (None, ("--random", "1"), "and not both"),
])
def test_faults_are_named_and_nothing_is_written(damage, more, word, source, tmp_path, capsys):
    if damage:
        damage(source)
    out = tmp_path / "bundle"
    assert command(source, out, *more) == 1
    assert word in capsys.readouterr().err
    assert sorted(f.name for f in tmp_path.iterdir()) == ["source"]


def test_a_failure_midway_leaves_the_old_bundle(source, tmp_path):
    out = tmp_path / "bundle"
    assert command(source, out, "--name", "old") == 0

    class Failing(Checkpoint):
        def read(self, key, layer=None):
            if key.startswith("decoder/out_proj"):
                raise OSError("the disk is gone")
            return super().read(key, layer)

    with pytest.raises(OSError, match="the disk is gone"):
        bundle.write(CFG, bundle.Export(name="new", external=0), Failing(source / "params", CFG), out)
    assert json.loads((out / "bundle.json").read_text())["name"] == "old"
    assert sorted(f.name for f in tmp_path.iterdir()) == ["bundle", "source"]


def test_half_precision_refuses_what_it_cannot_hold(source, tmp_path, capsys):
    values = {key: Checkpoint(source / "params", CFG).read(key) for key in CFG.shapes()}
    values["decoder/decoder_blocks/scan_decoder/attention/wo/kernel"][1, 0, 0] = 1e5
    save.save(source / "params", values.items())
    assert command(source, tmp_path / "bundle", "--precision", "fp16") == 1
    assert "--precision fp32" in capsys.readouterr().err and not (tmp_path / "bundle").exists()


def test_a_training_state_is_taken_and_what_is_left_out_is_said(source, tmp_path, capsys):
    values = {key: Checkpoint(source / "params", CFG).read(key) for key in CFG.shapes()}
    save.save(source / "params", values.items(), prefix=("params", "params"))
    with open(source / "params", "ab") as file:
        file.write(save.record(("opt_state", "mu"), np.zeros(5, np.float32)))
    assert command(source, tmp_path / "bundle") == 0
    assert "1 tensors are no part of the model and are skipped, such as opt_state/mu" in capsys.readouterr().err


MEASURE = """
import resource, sys
from pathlib import Path
def peak():
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM")) * 1024
from elastictok_models.__main__ import main
import elastictok_models.official.bundle
before = peak()
assert main(sys.argv[1:]) == 0
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_an_import_takes_less_memory_than_twice_the_file(tmp_path):
    """Of a model large enough that the interpreter's own memory does not hide it; in fact it takes little more than one layer."""
    cfg = toy.config("fsq", hidden_size=512, intermediate_size=1024, num_encoder_layers=3, num_decoder_layers=3)
    toy.checkpoint(tmp_path / "params", cfg)
    (tmp_path / "config.json").write_text(json.dumps(asdict(cfg)))
    run = [sys.executable, "-c", MEASURE, "import-official", str(tmp_path / "params"), "--config-json", str(tmp_path / "config.json"),
           "--out", str(tmp_path / "bundle")]
    result = subprocess.run(run, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert (tmp_path / "bundle" / "encoder.onnx.data").exists()
    assert int(result.stdout) < (tmp_path / "params").stat().st_size


def test_no_pytorch_is_loaded_by_an_import(source, tmp_path):
    code = "import sys; from elastictok_models.__main__ import main; assert main(sys.argv[1:]) == 0; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, "import-official", str(source / "params"), "--config-json", str(source / "config.json"),
                    "--out", str(tmp_path / "bundle")], check=True, cwd=Path(__file__).parents[1])
