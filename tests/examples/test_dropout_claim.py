# SPDX-License-Identifier: Apache-2.0
"""The claim about dropout: what each mode drops in both experiments, and a small run writes its results."""

import json
import pathlib
import sys

import keras
import numpy as np
import pytest
from programs import imports_of

CLAIMS = pathlib.Path(__file__).parents[2] / "examples" / "claims"


@pytest.fixture(scope="module")
def claim():
    path = list(sys.path)
    with imports_of(CLAIMS.parent / "language_model"), imports_of(CLAIMS):
        import dropout

        yield dropout
    sys.path[:] = path


@pytest.mark.parametrize("cell", ["LSTM, forget bias 4", "SimpleRNN, orthogonal"])
def test_modes_drop_in_training_only(claim, cell):
    inputs, _ = claim.TASKS["copy"].draw(5, 4, seed=0)
    for name, mode in claim.MODES.items():
        keras.utils.set_random_seed(0)
        run = claim.make_dropout_layer(claim.CELLS[cell], mode, units=8)
        symbols = keras.Input((None, 10))
        model = keras.Model(symbols, run(symbols))
        first, second = (np.asarray(model(inputs, training=True)) for _ in range(2))
        assert np.array_equal(first, second) == (name == "none")
        np.testing.assert_array_equal(model(inputs), model(inputs))
        if mode:  # a unit is dropped at all steps, or at some
            dropped = (first == 0).mean(axis=1)
            assert np.isin(dropped, (0, 1)).all() == (mode["dropout_mode"] != "naive")


@pytest.mark.slow
def test_a_small_run_writes_its_results(claim, tmp_path, monkeypatch, capsys):
    modes = ("none", "naive", "variational")
    monkeypatch.setattr(claim, "MODES", {name: claim.MODES[name] for name in modes})
    monkeypatch.setattr(claim, "CELLS", {"SimpleRNN, orthogonal": claim.CELLS["SimpleRNN, orthogonal"]})
    sizes = (
        "--characters",
        "4000",
        "--units",
        "32",
        "--epochs",
        "2",
        "--passes",
        "2",
        "--longest",
        "5",
        "--seeds",
        "1",
    )
    metrics = claim.main([*sizes, "--output", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {"dropout.png", "metrics.json"}
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert set(written) == {*modes, "result"}
    assert written["result"] == metrics["result"]
    assert written["none"]["learned"] == {"SimpleRNN, orthogonal": [5]}
    for name in modes:
        (run,) = written[name]["runs"]
        assert run["dev"] == min(run["dev_by_epoch"]) == run["dev_by_epoch"][run["best_epoch"] - 1]
        assert 2 < run["test"] < 6
    assert "largest distance" in capsys.readouterr().out
