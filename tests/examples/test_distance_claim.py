# SPDX-License-Identifier: Apache-2.0
"""The claim about distances: its tasks have their answers where they say, and a small run writes its results."""

import json
import pathlib

import numpy as np
import pytest
from programs import imports_of

CLAIMS = pathlib.Path(__file__).parents[2] / "examples" / "claims"


@pytest.fixture(scope="module")
def claim():
    with imports_of(CLAIMS):
        import distance

        yield distance


def test_the_copy_task_asks_for_its_first_symbols(claim):
    inputs, strings = claim.TASKS["copy"].draw(7, 20, seed=0)
    assert inputs.shape == (20, 13, 10)
    np.testing.assert_array_equal(inputs.sum(axis=-1), 1)
    ids = inputs.argmax(axis=-1)
    np.testing.assert_array_equal(ids[:, :3], strings)
    assert set(strings.ravel()) == set(range(8))
    assert set(ids[:, 3:10].ravel()) == {8}
    assert set(ids[:, 10:].ravel()) == {9}


@pytest.mark.parametrize("distance", [10, 41])
def test_the_adding_task_adds_what_is_marked_in_each_half(claim, distance):
    inputs, sums = claim.TASKS["adding"].draw(distance, 5000, seed=0)
    numbers, marks = inputs[..., 0], inputs[..., 1]
    for half in (slice(None, distance // 2), slice(distance // 2, None)):
        np.testing.assert_array_equal(marks[:, half].sum(axis=1), 1)
    np.testing.assert_allclose((numbers * marks).sum(axis=1), sums[:, 0, 0], rtol=1e-6)
    assert sums.var() == pytest.approx(1 / 6, rel=0.1)  # the error of guessing


def test_the_largest_distance_is_the_last_before_the_first_failure(claim, monkeypatch):
    import tasks

    def learns(task, distance, *others):
        return distance != 20

    monkeypatch.setattr(tasks, "learns", learns)
    assert tasks.largest_distance(None, [5, 10, 20, 40], None, 0.1) == 10
    assert tasks.largest_distance(None, [20, 40], None, 0.1) == 0
    assert tasks.largest_distance(None, [5, 40], None, 0.1) == 40


def test_flows_of_a_small_kernel_vanish_and_of_a_large_one_explode(claim, monkeypatch):
    import gradients

    names = ("SimpleRNN, gain 0.7", "SimpleRNN, gain 3.0", "LSTM", "LSTM, forget bias 4")
    monkeypatch.setattr(gradients, "FLOWS", {name: gradients.FLOWS[name] for name in names})
    first = {name: norms[0] for name, norms in gradients.measure_flows(8, distance=20, seeds=1).items()}
    assert first["SimpleRNN, gain 0.7"] < 0.71**20  # tanh only shrinks it
    assert first["SimpleRNN, gain 3.0"] > 1
    assert first["LSTM"] < first["LSTM, forget bias 4"]


@pytest.mark.slow
def test_a_small_run_writes_its_results(claim, tmp_path, monkeypatch, capsys):
    import gradients

    monkeypatch.setattr(claim, "RATES", [1e-2])
    monkeypatch.setattr(claim, "TASKS", {"adding": claim.TASKS["adding"]})
    names = ("SimpleRNN", "SimpleRNN, clipped", "GRU", "LSTM")
    monkeypatch.setattr(claim, "CELLS", {name: claim.CELLS[name] for name in names})
    monkeypatch.setattr(gradients, "GAINS", [2.0])
    monkeypatch.setattr(gradients, "TRAININGS", 1)
    metrics = claim.main(
        ["--longest", "10", "--seeds", "1", "--passes", "4", "--steps", "50", "--output", str(tmp_path)]
    )
    assert {path.name for path in tmp_path.iterdir()} == {"distance.png", "gradients.png", "metrics.json"}
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["result"] == metrics["result"]
    assert written["distances"]["adding"]["GRU"]["learned"] == [10]
    growths = {label: row["2.0"]["growth"] for label, row in written["explosions"].items()}
    assert growths["clipped"] < 2 < growths["not clipped"]
    assert "largest distance learned" in capsys.readouterr().out
