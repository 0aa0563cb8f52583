# SPDX-License-Identifier: Apache-2.0
"""The tuning example searches, shows all trials, and writes its results; a second run goes on with the search."""

import importlib.util
import json
import pathlib

import keras
import pytest
from programs import imports_of

PROGRAM = pathlib.Path(__file__).parents[2] / "examples" / "tune" / "train.py"


@pytest.fixture
def train():
    specification = importlib.util.spec_from_file_location("tune_train", PROGRAM)
    module = importlib.util.module_from_spec(specification)
    with imports_of(PROGRAM.parent):
        specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("option", ["--trials", "--epochs", "--words"])
def test_a_number_that_is_not_positive_is_named(train, capsys, option):
    with pytest.raises(SystemExit):
        train.parse_arguments([option, "0"])
    assert f"{option} must be at least 1, got 0" in capsys.readouterr().err


@pytest.mark.slow
def test_searches_and_goes_on(train, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    arguments = ["--tuner", "random", "--words", "60", "--epochs", "1", "--output", str(tmp_path)]
    train.main([*arguments, "--trials", "1"])
    train.main([*arguments, "--trials", "2"])
    results = json.loads((tmp_path / "metrics.json").read_text())
    scores = [trial["score"] for trial in results["trials"]]
    assert scores == sorted(scores)
    assert [trial["status"] for trial in results["trials"]] == ["COMPLETED"] * 2
    assert 0 < results["phoneme_error_rate"] <= 200
    table = capsys.readouterr().out
    for score in scores:
        assert f"{score:.3f}" in table
    assert (tmp_path / "trials.png").stat().st_size > 10_000
    assert isinstance(keras.saving.load_model(tmp_path / "best.keras").generate("cat"), str)


def test_failed_trials_have_a_row_with_their_reason(train, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    failed = {"trial_id": "07", "status": "FAILED", "score": None, "values": {"units": 64}, "error": "ValueError: no"}
    train.print_table([failed])
    (row,) = (line for line in capsys.readouterr().out.splitlines() if "07" in line)
    assert "ValueError: no" in row
    assert "64" in row
