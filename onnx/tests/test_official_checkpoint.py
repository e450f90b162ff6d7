# SPDX-License-Identifier: MIT OR Apache-2.0
"""Checkpoints in the official format: every layout is read, every fault is named."""
import numpy as np
import pytest

from elastictok_models.official import save, toy
from elastictok_models.official.checkpoint import Checkpoint, CheckpointError, widen
from elastictok_models.official.config import Config, ConfigError, layer_key, parse_update
from elastictok_models.official.weights import RandomWeights

CFG = toy.config("fsq")
W1 = layer_key("encoder", "feed_forward/w1/kernel")


def tensors(cfg=CFG):
    weights = RandomWeights(cfg)
    for key, shape in cfg.shapes().items():
        stacked = "scan_decoder" in key
        yield key, np.stack([weights.read(key, i) for i in range(shape[0])]) if stacked else weights.read(key)


def fault(path, cfg=CFG) -> str:
    with pytest.raises(CheckpointError) as e:
        Checkpoint(path, cfg).check_finite()
    return str(e.value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("prefix", [(), ("params",), ("params", "params")])
def test_layouts_and_dtypes(dtype, prefix, tmp_path):
    save.save(tmp_path / "c", tensors(), dtype, prefix)
    with open(tmp_path / "c", "ab") as file:
        if prefix:
            file.write(save.record(("opt_state", "0", "mu", "encoder"), np.full((3, 2), np.nan, np.float32)))
            file.write(b"\x92\x91\xa4step\xc4\x01\x05")  # a plain number, as flax writes one
    checkpoint = Checkpoint(tmp_path / "c", CFG)
    checkpoint.check_finite()
    assert checkpoint.skipped == (["opt_state/0/mu/encoder", "step"] if prefix else [])
    bits = {"float32": 24, "float16": 11, "bfloat16": 8}[dtype]
    for key, value in tensors():
        assert np.abs(checkpoint.read(key) - value).max() <= np.abs(value).max() * 2.0 ** -bits
        if "scan_decoder" in key:
            assert (checkpoint.read(key, 1) == checkpoint.read(key)[1]).all()


def test_dtypes_may_differ_and_layers_may_be_apart(tmp_path):
    with open(tmp_path / "c", "wb") as file:
        for i, (key, value) in enumerate(reversed(list(tensors()))):
            dtype = ["float32", "bfloat16"][i % 2]
            if key == W1:
                for layer in (1, 0):  # scan_layers=False
                    file.write(save.record(key.replace("scan_decoder", str(layer)).split("/"), value[layer], dtype))
            else:
                file.write(save.record(key.split("/"), value, dtype))
    checkpoint = Checkpoint(tmp_path / "c", CFG)
    expected = dict(tensors())[W1]
    for got in (checkpoint.read(W1), np.stack([checkpoint.read(W1, i) for i in range(2)])):
        assert np.abs(got - expected).max() <= np.abs(expected).max() * 2.0 ** -8
    assert sum(len(piece) for piece in checkpoint.chunks(W1)) == expected.size


def test_bfloat16_is_rounded_to_the_nearest_and_widened_exactly():
    values = np.float32([1, 1 + 2 ** -8, 1 + 3 * 2 ** -8, -2.5, 0])
    assert (widen(save.narrow(values), "bfloat16") == np.float32([1, 1, 1 + 2 ** -6, -2.5, 0])).all()


def test_missing_extra_and_misshapen_tensors_are_listed(tmp_path):
    changed = dict(tensors())
    del changed["decoder/ln_f/kernel"]
    changed["encoder/bias"] = np.zeros(3, np.float32)
    changed[W1] = changed[W1][:, :, 1:]
    save.save(tmp_path / "c", changed.items())
    message = fault(tmp_path / "c")
    assert "3 faults" in message
    assert "decoder/ln_f/kernel is missing; it would be [24]" in message
    assert "encoder/bias [3] is extra" in message
    assert f"{W1} is [2, 24, 39], not [2, 24, 40]" in message
    assert "hidden_size 24" in message  # what the file is, so that the settings can be corrected


def test_a_checkpoint_of_other_settings_says_which(tmp_path):
    toy.checkpoint(tmp_path / "c", CFG)
    message = fault(tmp_path / "c", toy.config("vae"))
    assert "bottleneck_type fsq" in message and "--update" in message


def test_every_truncation_is_noticed(tmp_path):
    save.save(tmp_path / "c", tensors())
    whole = (tmp_path / "c").read_bytes()
    for end in [*range(1, 120), *range(200, len(whole) - 1, 4099), len(whole) - 1]:
        (tmp_path / "cut").write_bytes(whole[:end])
        message = fault(tmp_path / "cut")
        assert any(word in message for word in ("incomplete", "no official", "missing")), (end, message)
    (tmp_path / "cut").write_bytes(whole[:-10])
    assert "is cut short" in fault(tmp_path / "cut") and "download it again" in fault(tmp_path / "cut")


@pytest.mark.parametrize("content,word", [
    (b"", "it is empty"), (b"PK\x03\x04 a zip archive", "no official ElasticTok checkpoint"), (b"\x80\x04\x95 a pickle", "no official"),
    (b"\xc1", "begins nothing in MessagePack"), (b"\x93\x01\x02\x03", "begins no pair"),
    (save.record(["transformer", "wte"], np.zeros((4, 4), np.float32)), "is extra"),
])
def test_foreign_files(content, word, tmp_path):
    (tmp_path / "c").write_bytes(content)
    assert word in fault(tmp_path / "c")


def test_a_file_that_is_not_there(tmp_path):
    assert "cannot be read" in fault(tmp_path / "none") and "cannot be read" in fault(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_counted(value, tmp_path):
    changed = dict(tensors())
    changed[W1] = changed[W1].copy()
    changed[W1][1, 2, 3] = value
    save.save(tmp_path / "c", changed.items())
    assert f"{W1}: 1 of {changed[W1].size} values are NaN or infinite" in fault(tmp_path / "c")


def test_a_tensor_of_unknown_dtype_or_twice(tmp_path):
    odd = save.record(["encoder", "ln_f", "kernel"], np.zeros(24, np.float32), "float32").replace(b"float32", b"float99")
    rest = b"".join(save.record(k.split("/"), v) for k, v in tensors() if k != "encoder/ln_f/kernel")
    (tmp_path / "c").write_bytes(rest + odd)
    assert "encoder/ln_f/kernel is float99, not bfloat16" in fault(tmp_path / "c")
    (tmp_path / "c").write_bytes(rest + save.record(["encoder", "is_kept_embed"], np.zeros((1, 24), np.float32)))
    assert "encoder/is_kept_embed is there twice" in fault(tmp_path / "c")


def test_named_configs_are_the_released_ones():
    fsq, vae = Config.preset("200m", {}), Config.preset("200m", {"bottleneck_type": "vae"})
    assert (fsq.patch_dim, fsq.max_toks, fsq.theta, fsq.window, fsq.head_dim) == (192, 4096, 50_000_000, 4, 128)
    assert (vae.patch_dim, vae.max_toks, vae.theta, vae.window, vae.quant_dim) == (384, 2048, 5_000_000, 4, 16)
    assert Config.preset("debug", {}).rms_norm_eps == 1e-6
    assert 200e6 < sum(np.prod(s) for s in fsq.shapes().values()) < 220e6


def test_updates_are_read_as_the_official_scripts_write_them():
    text = "dict(mask_mode='elastic',min_toks=128,max_toks=2048,patch_size=(2,8,8),bottleneck_type='vae',theta=5000000,scan_layers=True)"
    assert Config.preset("200m", parse_update(text)) == Config.preset("200m", {"bottleneck_type": "vae"})
    assert parse_update("min_toks=64") == {"min_toks": 64}
    for bad in ("min_toks", "__import__('os')", "dict(min_toks=f())", "dict(**{})"):
        with pytest.raises(ConfigError, match="--update"):
            parse_update(bad)


@pytest.mark.parametrize("changes,word", [
    ({"hidden_size": 25}, "heads of even size"), ({"max_toks": 9}, "makes 8 patches"), ({"resolution": 20}, "no multiple of patch_size"),
    ({"bottleneck_type": "vq"}, "'fsq' and 'vae'"), ({"min_toks": 9}, "above max_toks"),
    ({"max_sequence_length": 7}, "does not hold one block"),
    ({"patch_size": (8, 8)}, "not \\[frames, rows, columns\\]"), ({"theta": "5e7"}, "not a number"),
    ({"hidden_size": 24.0}, "not a whole number"),
    ({"frames_per_block": 3}, "max_toks"), ({"fsq_quant_levels": (1, 8)}, "fsq_quant_levels"),
])
def test_settings_that_make_no_model(changes, word):
    with pytest.raises(ConfigError, match=word):
        toy.config("fsq", **changes)
