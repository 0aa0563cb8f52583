# SPDX-License-Identifier: Apache-2.0
"""The sentiment example reads its archive, splits it without overlaps, learns, and writes all its results."""

import importlib.util
import io
import json
import pathlib
import subprocess
import sys
import tarfile

import keras
import numpy as np
import pytest

FOLDER = pathlib.Path(__file__).parents[2] / "examples" / "sentiment"
MODULES = ("baselines", "models", "plots", "reviews", "sentiment_train")


def load(name, monkeypatch):
    """Returns a module of the example, as its own folder sees it."""
    monkeypatch.syspath_prepend(FOLDER)
    for other in MODULES:
        monkeypatch.delitem(sys.modules, other, raising=False)
    specification = importlib.util.spec_from_file_location(f"sentiment_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    for other in MODULES:  # later tests load their own
        sys.modules.pop(other, None)
    return module


@pytest.fixture
def reviews(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    return load("reviews", monkeypatch)


def add_file(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def write_archive(reviews, folder, lines):
    """Writes an archive in an archive, as the package has it, where the example looks for it."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        add_file(archive, reviews.FILE, "\r\n".join(lines).encode())
    (folder / "datasets").mkdir()
    with tarfile.open(folder / "datasets" / reviews.ARCHIVE, "w:gz") as archive:
        add_file(archive, reviews.INNER_ARCHIVE, inner.getvalue())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It doesn't work.", "it does n't work ."),
        ("Can't, won’t!", "ca n't , wo n't !"),
        ("It's ''Conan'': they've won", "it 's conan : they 've won"),
        ("Touché... 9 ½ Weeks", "touché . . . 9 ½ weeks"),
        ("", ""),
    ],
)
def test_words(reviews, text, words):
    assert reviews.split_words(text) == words.split()


def test_repeated_and_neutral_sentences_are_left_out(reviews, tmp_path):
    lines = ["1\t2.5\tA fine film.", "2\t-1.5\t'A FINE film.'", "3\t0\tA film.", "4\t-0.25\tTrès long"]
    write_archive(reviews, tmp_path, lines)
    assert reviews.read_sentences(reviews.download()) == {"a fine film .": 2.5, "très long": -0.25}


def test_splits_never_change_and_do_not_overlap(reviews, tmp_path, monkeypatch):
    monkeypatch.setattr(reviews, "SPLITS", {"test": 5, "dev": 3})
    write_archive(reviews, tmp_path, [f"{i}\t{i % 2 - 0.5}\tsentence {i}" for i in range(20)])
    data, small = reviews.load_data(), reviews.load_data(4)
    assert {split: len(sentences) for split, (sentences, _) in data.items()} == {"test": 5, "dev": 3, "train": 12}
    pairs = [pair for sentences, ratings in data.values() for pair in zip(sentences, ratings, strict=True)]
    assert sorted(pairs) == sorted((f"sentence {i}", i % 2 - 0.5) for i in range(20))
    for split in data:
        np.testing.assert_array_equal(data[split][0][:4], small[split][0][:4])
    assert len(small["train"][0]) == 4


@pytest.mark.parametrize("lines", [["1\t2.5"], ["1\tgood\tA film."]])
def test_a_bad_archive_is_reported_in_one_line(reviews, tmp_path, lines):
    write_archive(reviews, tmp_path, lines)
    with pytest.raises(SystemExit, match=r"^.*is not the archive of vaderSentiment==3.3.2 .*: delete it.*$"):
        reviews.load_data()
    archive = tmp_path / "datasets" / reviews.ARCHIVE
    archive.write_bytes(archive.read_bytes()[:-20])
    with pytest.raises(SystemExit, match=r"^.*is not the archive of .* delete it and run again\Z"):
        reviews.load_data()
    archive.write_bytes(b"no archive")
    with pytest.raises(SystemExit, match="is not the archive"):
        reviews.load_data()


def test_a_failed_download_is_reported_in_one_line(reviews, tmp_path, monkeypatch):
    failure = subprocess.CompletedProcess([], 1, "", "WARNING: Retrying\nERROR: No matching distribution\n")
    monkeypatch.setattr(reviews.subprocess, "run", lambda *_, **__: failure)
    with pytest.raises(SystemExit) as stop:
        reviews.load_data()
    message = "`pip download --no-deps --no-binary=:all: vaderSentiment==3.3.2` failed: ERROR: No matching distribution"
    assert str(stop.value) == message
    assert not list((tmp_path / "datasets").iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sentences", "0"], "--sentences must be an integer of at least 100, got 0"),
        (["--word-dropout", "1"], "--word-dropout must be in [0, 1), got 1.0"),
    ],
)
def test_bad_options_are_reported(monkeypatch, capsys, arguments, message):
    with pytest.raises(SystemExit):
        load("train", monkeypatch).parse_arguments(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_short_run_writes_its_results(tmp_path, monkeypatch, capsys):
    train = load("train", monkeypatch)
    data = train.load_data()
    sets = {split: set(sentences) for split, (sentences, _) in data.items()}
    assert sum(map(len, sets.values())) == len(set.union(*sets.values())) == 10_566
    metrics = train.main(["--sentences", "1500", "--epochs", "4", "--units", "16", "--output", str(tmp_path)])
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    files = {"accuracy.png", "attention.keras", "attention.png", "metrics.json", "vocabulary.json"}
    assert {path.name for path in tmp_path.iterdir()} == files
    assert metrics["bidirectional LSTM with attention"]["test"] > 0.6
    assert metrics["naive Bayes, pairs of words"]["test"] > 0.68
    assert "vanilla RNN" in capsys.readouterr().out
    # The saved model reads what the vocabulary says, and its weights are a distribution over the words.
    model = keras.saving.load_model(tmp_path / "attention.keras")
    ids = {word: i for i, word in enumerate(json.loads((tmp_path / "vocabulary.json").read_text()))}
    logits, weights = model(np.array([[ids["good"], ids["film"], 0], [ids["bad"], ids["bad"], ids["."]]]))
    np.testing.assert_allclose(np.sum(weights, axis=1), 1, rtol=1e-5)
    assert weights[0, 2] == 0
    assert logits[0, 0] > logits[1, 0]
