# SPDX-License-Identifier: Apache-2.0
"""The vowels example reads recordings of unequal lengths, hides their padding, learns and writes its results."""

import importlib
import json
import pathlib
import zipfile

import keras
import numpy as np
import pytest
from programs import imports_of

FOLDER = pathlib.Path(__file__).parents[2] / "examples" / "vowels"


@pytest.fixture
def train():
    """The module train.py, as its own folder sees it."""
    with imports_of(FOLDER):
        yield importlib.import_module("train")


def write_archive(path, lines):
    with zipfile.ZipFile(path, "w") as archive:
        for split in ("TRAIN", "TEST"):
            text = "# no data: 1:2\n@equalLength false\n@data\n" + "\n".join(lines) + "\n"
            archive.writestr(f"aeon/datasets/data/JapaneseVowels/JapaneseVowels_{split}.ts", text)
    return path


def line(steps, speaker, coefficients=12):
    return ":".join([*(",".join(f"{i}.{t}" for t in range(steps)) for i in range(coefficients)), str(speaker)])


def test_an_archive_is_read(train, tmp_path):
    archive = write_archive(tmp_path / "a.whl", [line(3 + speaker % 2, speaker) for speaker in range(1, 10)])
    for recordings, speakers in train.load_recordings(archive):
        assert [len(recording) for recording in recordings] == [4, 3] * 4 + [4]
        np.testing.assert_allclose(recordings[0][2], np.arange(12) + 0.2, rtol=1e-6)
        np.testing.assert_array_equal(speakers, np.arange(9))
    inputs = train.make_inputs(recordings)
    assert inputs.shape == (9, 4, 24) and not inputs[1, 3].any()
    np.testing.assert_array_equal(train.make_inputs(recordings, 2), inputs[:, :2])
    np.testing.assert_array_equal(inputs[0, :, :12], recordings[0])
    assert not inputs[:, 0, 12:].any()
    np.testing.assert_allclose(inputs[0, 2, 12:], 2 * (recordings[0][2] - recordings[0][1]), rtol=1e-6)


def test_an_archive_that_has_changed_is_reported_in_one_line(train, tmp_path):
    (tmp_path / "text.whl").write_text("no archive")
    few_speakers = [line(3, speaker) for speaker in (1, 2)]
    few_coefficients = [line(3, speaker, coefficients=11) for speaker in range(1, 10)]
    archives = [tmp_path / "text.whl", tmp_path / "missing.whl"]
    for number, lines in enumerate([few_speakers, few_coefficients, ["1,2:x"], ["1,x:1"]]):
        archives.append(write_archive(tmp_path / f"{number}.whl", lines))
    for archive in archives:
        with pytest.raises(SystemExit) as stop:
            train.load_recordings(archive)
        assert str(archive) in str(stop.value) and "\n" not in str(stop.value)


def test_a_mask_hides_padding(train):
    recording = np.random.default_rng(0).normal(size=(1, 7, 24)).astype("float32")
    padded = np.pad(recording, ((0, 0), (0, 5), (0, 0)))
    for masked in (True, False):
        model = train.build_model(4, masked)
        difference = np.abs(model(padded) - model(recording)).max()
        assert difference < 1e-6 if masked else difference > 1e-4


@pytest.mark.parametrize("options", [["--folds", "1"], ["--folds", "31"], ["--units", "0"], ["--output", __file__]])
def test_bad_options_are_reported(train, options, capsys):
    with pytest.raises(SystemExit):
        train.parse_arguments(options)
    assert f"argument {options[0]}: expected" in capsys.readouterr().err


@pytest.mark.slow
def test_a_short_run_writes_its_results(train, tmp_path, capsys):
    try:
        train.fetch_archive()
    except SystemExit as stop:
        pytest.skip(str(stop))
    options = ["--units", "32", "--folds", "2", "--runs", "1", "--epochs", "12", "--output", str(tmp_path)]
    metrics = train.main(options)
    assert metrics[train.MASK]["test"] > 80
    assert metrics[train.CUT]["test"] > 50
    # The models have seen whole recordings after the last step.
    assert metrics["by_steps_seen"][-1] == pytest.approx(metrics[train.MASK]["test"])
    assert len(metrics["by_steps_seen"]) == 29
    assert json.loads((tmp_path / "metrics.json").read_text()).keys() == metrics.keys()
    assert {path.name for path in tmp_path.iterdir()} == {
        "metrics.json", "model.keras", "probabilities.png", "steps.png"
    }  # fmt: skip
    (recordings, speakers), (test_recordings, _) = train.load_recordings(train.fetch_archive())
    assert (len(recordings), len(test_recordings)) == (270, 370)
    np.testing.assert_array_equal(np.bincount(speakers), [30] * 9)
    model = keras.saving.load_model(tmp_path / "model.keras")
    assert model(train.make_inputs(recordings[:1])).shape == (1, 9)
    assert "padded, masked" in capsys.readouterr().out
