# SPDX-License-Identifier: MIT OR Apache-2.0
"""The official searches: every row of the decision table, and counts and traces on clips through model and bundle."""
import numpy as np
import pytest

import official_cases as cases
from elastictok_models.official import search


def settings(table: dict, row: int) -> dict:
    return dict(threshold=table["threshold"][row], default_prop=table["default_prop"][row], max_prop=table["max_prop"][row])


def test_every_row_of_the_table():
    data = cases.units("search_table.npz")
    rows = 0
    for prefix in sorted({"_".join(k.split("_")[:2]) for k in data.files}):
        table = {k.removeprefix(prefix + "_"): data[k] for k in data.files if k.startswith(prefix + "_")}
        low, high = map(int, prefix.split("_"))
        for row, curve in enumerate(table["curve"]):
            tried = []

            def loss(n):
                tried.append(n)
                return table["curves"][curve][search.kept(n, high) - 1]

            assert search.binary(loss, min_toks=low, max_toks=high, **settings(table, row)) == table["binary_ntoks"][row], (prefix, row)
            assert len(tried) == table["binary_evaluations"][row], (prefix, row)
            found = search.linear(loss, min_toks=low, max_toks=high, n_interp=int(table["n_interp"][row]), **settings(table, row))
            assert found == table["linear_ntoks"][row], (prefix, row)
            rows += 1
        for name in (k for k in table if k.startswith("grid_")):
            n, percent = map(int, name.split("_")[1:])
            assert (search.grid(low, high, percent / 100, n) == table[name]).all(), (prefix, name)
    assert rows > 0


def falling(losses):
    return lambda n: losses[search.kept(n, len(losses)) - 1]


def test_quirks_of_the_binary_search():
    losses = np.linspace(1, 0, 16, dtype=np.float32)  # losses[k-1] with k kept
    for threshold in np.linspace(0.05, 0.9, 40):
        n = search.binary(falling(losses), threshold, 2, 16)
        least = next(n for n in range(3, 17) if falling(losses)(n) < np.float32(threshold))
        assert n in (least, least - 1) and n != 2
    assert search.binary(falling(losses), -1.0, 2, 16, default_prop=0.5) == 8  # nothing valid
    tie = np.full(16, 0.25, np.float32)
    assert search.binary(falling(tie), 0.25, 2, 16, default_prop=0.5) == 16  # a tie is not below, nor is it above
    assert search.linear(falling(tie), 0.25, 2, 16) == 2
    assert search.binary(falling(losses), 0.9, 8, 16, max_prop=0.1) == 5  # an upper end below min_toks is tried once


@pytest.mark.parametrize("name", cases.names("runs"))
def test_counts_and_traces_of_the_model(name, scratch):
    case = cases.load(name, scratch)
    model = case.model
    from elastictok_models.official import inference

    for i, run in enumerate(case.json["runs"]):
        expected = case.run(i)
        extra = {"n_interp": run["n_interp"]} if "n_interp" in run else {}
        trace, coded = inference.searched(model, case.data["frames"], case.json["search_alg"], run["threshold"],
                                          default_prop=run["default_prop_codes"], max_prop=run["max_prop_codes"], **extra)
        check(trace, expected)
        assert np.abs(coded.mse - expected["mse"]).max() <= cases.MSE
        assert np.abs(coded.recon_u8.astype(int) - expected["recon_u8"]).max() <= 1
        if "indices_kept" in expected:
            kept = np.arange(case.cfg.max_toks) < expected["kept"][:, None]
            assert (coded.tokens[kept] == expected["indices_kept"]).all()


def check(trace: search.Trace, expected: dict) -> None:
    assert (np.asarray(trace.final) == expected["final_ntoks"]).all()
    for column in ("block", "ntoks", "kept", "commit"):
        assert (np.asarray(getattr(trace, column)) == expected[f"trace_{column}"]).all(), column
    assert np.abs(np.float32(trace.loss) - expected["trace_loss"]).max() <= cases.MSE


@pytest.mark.parametrize("name", cases.names("runs"))
def test_counts_and_traces_of_the_bundle(name, scratch):
    """The loss is taken from the decoder graph's reconstruction, as the Rust core does."""
    case = cases.load(name, scratch)
    pytest.importorskip("torch")
    from elastictok_models.official import picture
    from elastictok_models.official.inference import rule

    bundle, cfg = case.bundle(scratch), case.cfg
    for i, run in enumerate(case.json["runs"]):
        expected = case.run(i)
        extra = {"n_interp": run["n_interp"]} if "n_interp" in run else {}
        bundle.reset()

        def evaluate(block, kept, commit):
            out = bundle.block(case.block(block), kept, commit)["reconstruction"]
            return np.square(out - picture.to_unit(case.block(block)), dtype=np.float64).mean()

        chosen = rule(case.json["search_alg"], cfg.min_toks, cfg.max_toks, run["threshold"], run["default_prop_codes"],
                      run["max_prop_codes"], **extra)
        check(search.clip(len(expected["final_ntoks"]), cfg.max_toks, evaluate, chosen), expected)
