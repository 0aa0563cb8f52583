# SPDX-License-Identifier: Apache-2.0
"""The example of moving digits makes clips of disjoint images, learns from them and writes its results."""

import importlib
import json
import pathlib

import keras
import numpy as np
import pytest
from programs import imports_of

FOLDER = pathlib.Path(__file__).parents[2] / "examples" / "moving_digits"


@pytest.fixture
def train():
    """The module train.py, as its own folder sees it."""
    with imports_of(FOLDER):
        yield importlib.import_module("train")


def test_splits_share_no_image(train):
    splits = train.load_images()
    images = [image.tobytes() for part, _ in splits.values() for image in part]
    assert len(images) == len(set(images)) == 1797
    assert all(set(digits) == set(range(10)) for _, digits in splits.values())


def test_clips_show_one_image_and_then_another_through_the_fence(train):
    images, digits = train.load_images()["dev"]
    seen, scenes, truth = train.make_clips(images, digits, 30, seed=1)
    assert seen.shape == scenes.shape == (30, 12, 12, 16, 1)
    changes = (truth[:, 1:] != truth[:, :-1]).sum(axis=1)
    np.testing.assert_array_equal(changes, 1)
    shown = (scenes != 0).any(axis=(0, 1, 2, 4)) & (seen != 0).any(axis=(0, 1, 2, 4))
    np.testing.assert_array_equal(np.flatnonzero(shown), [1, 5, 9, 13])  # the open columns
    np.testing.assert_array_equal(seen[..., shown, :], scenes[..., shown, :])
    np.testing.assert_array_equal(seen[..., ~shown, :], 0)
    known = {(image.tobytes(), digit) for image, digit in zip(images, digits, strict=True)}
    for clip, labels in zip(scenes[:5, ..., 0], truth, strict=False):
        for frame, digit in zip(clip, labels, strict=True):
            places = [frame[y : y + 8, x : x + 8] for y in range(5) for x in range(9)]
            found = [(place.tobytes(), digit) in known for place in places if place.sum() == frame.sum()]
            assert any(found)


def test_digits_turn_round_at_the_edges(train, monkeypatch):
    from clips import bounce

    np.testing.assert_array_equal(bounce(np.array([3.0]), np.array([1.0]), 4), [[3, 4, 3, 2, 1, 0, 1, 2, 3, 4, 3, 2]])


def test_only_both_directions_read_later_frames(train):
    clips = np.random.default_rng(0).uniform(size=(1, 4, 12, 16, 1)).astype("float32")
    changed = clips.copy()
    changed[:, 3] = 0  # the last frame
    for name in train.MODELS:
        model = train.build_model(name, 4)
        difference = np.abs(model(clips) - model(changed)).max(axis=(0, 2))
        assert difference[3] > 1e-4
        assert difference[:3].min() > 1e-6 if name == train.BOTH else difference[:3].max() < 1e-6


def test_errors_are_counted(train):
    digits = np.array([[1] * 6 + [2] * 6, [3] * 7 + [4] * 5])
    wrong = np.zeros((2, 12), bool)
    wrong[0, 6] = wrong[1, 6] = wrong[1, 0] = True  # a first frame of the new digit, a last one of the old, a first one
    errors = train.measure(wrong, digits)
    assert errors["error"] == pytest.approx(100 * 3 / 24)
    np.testing.assert_array_equal(errors["by_frame"], [50] + [0] * 5 + [100] + [0] * 5)
    assert errors["around_the_change"] == {offset: 50 if offset in (-1, 0) else 0 for offset in range(-6, 6)}


@pytest.mark.parametrize("options", [["--clips", "399"], ["--epochs", "0"], ["--output", __file__]])
def test_bad_options_are_reported(train, options, capsys):
    with pytest.raises(SystemExit):
        train.parse_arguments(options)
    assert f"argument {options[0]}: expected" in capsys.readouterr().err


@pytest.mark.slow
def test_a_short_run_writes_its_results(train, tmp_path, capsys):
    metrics = train.main(["--clips", "1600", "--epochs", "6", "--output", str(tmp_path)])
    errors = {name: metrics[name]["test"] for name in train.MODELS}
    assert errors[train.BOTH]["error"] < errors[train.ONE]["error"] - 1
    assert errors[train.BOTH]["by_frame"][0] < errors[train.ONE]["by_frame"][0] - 2  # later frames tell
    assert errors[train.BOTH]["error"] < 65
    assert json.loads((tmp_path / "metrics.json").read_text()).keys() == metrics.keys()
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.json", "model.keras", "errors.png", "clips.png"}
    model = keras.saving.load_model(tmp_path / "model.keras")
    assert model(np.zeros((1, 3, 12, 16, 1), "float32")).shape == (1, 3, 10)
    assert "both directions" in capsys.readouterr().out
