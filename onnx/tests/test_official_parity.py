# SPDX-License-Identifier: MIT OR Apache-2.0
"""Model and bundles against what the official code computes (the fixtures' README has the bars), or our own model where those are
absent: in one pass, through the cache, at fixed counts."""
import numpy as np
import pytest

import official_cases as cases
from elastictok_models.official import picture

every_case = pytest.mark.parametrize("name", cases.names("kept"))


def kept_mask(case) -> np.ndarray:
    return np.arange(case.cfg.max_toks) < np.asarray(case.kept)[:, None]


@every_case
def test_latents_of_the_model(name, scratch):
    case = cases.load(name, scratch)
    model = case.model
    import torch

    with torch.no_grad():
        quant, _ = model.pre_quant(model.patches(case.data["frames"]), model.mask(case.kept))
    blocks = lambda x: x[0].numpy().reshape(len(case.kept), case.cfg.max_toks, -1)
    if "z_pre" in case.data:
        assert np.abs(blocks(quant) - case.data["z_pre"]).max() <= cases.LATENT
    if "logvar" in case.data:
        assert np.abs(blocks(quant)[..., case.cfg.latent_dim:] - case.data["logvar"]).max() <= cases.LATENT
    latents = blocks(model.latents(quant))
    if case.cfg.bottleneck_type == "vae":
        mean = np.where(kept_mask(case)[..., None], latents, 0) if name in cases.OWN else latents
        assert np.abs(mean - case.data["mean"]).max() <= cases.LATENT
    else:
        assert (model.levels.index(latents)[kept_mask(case)] == case.data["indices"][kept_mask(case)]).all()


@every_case
def test_one_pass_of_the_model(name, scratch):
    case = cases.load(name, scratch)
    model = case.model
    from elastictok_models.official import inference

    coded = inference.full(model, case.data["frames"], case.kept)
    assert np.abs(coded.recon - case.data["recon"]).max() <= cases.RECON
    assert np.abs(coded.recon_u8.astype(int) - case.data["recon_u8"]).max() <= 1
    assert np.abs(coded.mse - case.data["mse"]).max() <= cases.MSE
    assert np.abs(coded.latents - case.data["z"]).max() <= cases.LATENT
    if "indices" in case.data:
        assert (coded.tokens == case.data["indices"]).all()  # dropped ones read as the zero code


@every_case
def test_block_by_block_through_the_cache(name, scratch):
    case = cases.load(name, scratch)
    model = case.model
    import torch

    from elastictok_models.official.model import Context

    context, out = Context(), []
    with torch.no_grad():
        for i, kept in enumerate(case.kept):
            y, mse, context = model.reconstruct(model.patches(case.block(i)), model.mask([kept]), context)
            out.append(picture.unpatchify(y[0].numpy(), case.cfg))
            assert abs(float(mse) - case.data["mse"][i]) <= cases.MSE
    assert np.abs(np.concatenate(out) - case.data["recon"]).max() <= cases.RECON


@pytest.mark.parametrize("name", cases.names("fixed_n"))
def test_fixed_counts(name, scratch):
    case = cases.load(name, scratch)
    model = case.model
    from elastictok_models.official import inference

    z = inference.encode_fixed(model, case.data["frames"], case.json["fixed_n"])
    assert z.shape == case.data["fixed_z"].shape and np.abs(z - case.data["fixed_z"]).max() <= cases.LATENT
    frames = inference.decode_fixed(model, z)
    assert np.abs(frames.astype(int) - case.data["fixed_recon_u8"]).max() <= 1


@pytest.mark.parametrize("name", cases.names("kept", "dbg_", own=()))
def test_stages_of_the_model(name, scratch):
    """Input layers, each layer's two branches and the residual stream, final norm, and the values before tanh."""
    case = cases.load(name, scratch)
    model = case.model
    import torch

    seen = {}

    def note(key):
        return lambda _, __, out: seen.setdefault(key, []).append((out[0] if isinstance(out, tuple) else out)[0].numpy())

    hooks = []
    for side, half, first, last in (("enc", model.encoder, "in_proj", None), ("dec", model.decoder, "post_quant", "out_proj")):
        hooks.append(half.inlet.register_forward_hook(note(f"dbg_{side}_{first}")))
        hooks.append(half.ln_f.register_forward_hook(note(f"dbg_{side}_ln_f")))
        if last:
            hooks.append(half.outlet.register_forward_hook(note(f"dbg_{side}_{last}")))
        for layer in half.layers:
            hooks.append(layer.register_forward_hook(note(f"dbg_{side}_layers")))
            for branch in ("attention", "feed_forward"):
                hooks.append(getattr(layer, branch).register_forward_hook(note(f"dbg_{side}_{branch}")))
    try:
        with torch.no_grad():
            z, _ = model.encode(model.patches(case.data["frames"]), model.mask(case.kept))
            model.decode(z)
    finally:
        for hook in hooks:
            hook.remove()
    for key in (k for k in case.data.files if k.startswith("dbg_")):
        expected = case.data[key]
        got = np.stack(seen[key]).reshape(expected.shape)
        assert np.abs(got - expected).max() <= 2e-5 * max(1, np.abs(expected).max()), key


@every_case
def test_the_bundle_block_by_block(name, scratch):
    case = cases.load(name, scratch)
    bundle = case.bundle(scratch)
    for i, kept in enumerate(case.kept):
        out = bundle.block(case.block(i), kept)
        t = case.cfg.frames_per_block
        recon = case.data["recon"][i * t:(i + 1) * t]
        assert np.abs(out["reconstruction"] - recon).max() <= cases.RECON
        assert np.abs(out["frames"].astype(int) - case.data["recon_u8"][i * t:(i + 1) * t]).max() <= 1
        if case.cfg.bottleneck_type == "fsq":
            assert (out["tokens"][0][:kept] == case.data["indices"][i][:kept]).all()
        else:
            assert np.abs(out["tokens"][0][:kept] - case.data["mean"][i][:kept]).max() <= cases.LATENT


@every_case
def test_dropped_tokens_do_not_reach_the_decoder(name, scratch):
    case = cases.load(name, scratch)
    bundle, kept = case.bundle(scratch), np.array([max(case.kept[0] // 2, 1)], np.int32)
    tokens = bundle.encoder.run(frames=case.block(0), counts=kept)[0]["tokens"]
    other = tokens.copy()
    other[:, kept[0]:] = 0 if tokens.dtype == np.int32 else np.nan
    first, second = (bundle.decoder.run(tokens=x, counts=kept)[0]["reconstruction"] for x in (tokens, other))
    assert (first == second).all()


@pytest.mark.parametrize("name", cases.names("kept", "mean", own=("own-vae",)))
def test_quantised_means_cost_little(name, scratch):
    """A VAE stream holds round(mean * scale) in the manifest's bits; the picture loses less than 0.05 dB by it."""
    case = cases.load(name, scratch)
    bundle = case.bundle(scratch)
    spec = bundle.manifest["bottleneck"]
    limit = 1 << spec["bits"] - 1
    decoders = {"exact": bundle.decoder, "quantised": case.bundle(scratch).decoder}
    errors = dict.fromkeys(decoders, 0.0)
    for i, kept in enumerate(case.kept):
        counts = np.array([kept], np.int32)
        out, context = bundle.encoder.run(frames=case.block(i), counts=counts)
        bundle.encoder.commit(context)
        codes = np.round(out["tokens"] * np.float32(spec["scale"]))
        assert -limit < codes.min() and codes.max() < limit  # the scale leaves room for every mean
        for how, tokens in (("exact", out["tokens"]), ("quantised", (codes / spec["scale"]).astype(np.float32))):
            decoded, context = decoders[how].run(tokens=tokens, counts=counts)
            decoders[how].commit(context)
            errors[how] += np.square(decoded["reconstruction"] - picture.to_unit(case.block(i)), dtype=np.float64).mean()
    assert abs(10 * np.log10(errors["quantised"] / errors["exact"])) < 0.05
