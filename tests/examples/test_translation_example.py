# SPDX-License-Identifier: Apache-2.0
"""The translation example aligns two texts verse by verse, holds out chapters, and writes its results."""

import importlib
import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from programs import imports_of

FOLDER = pathlib.Path(__file__).parents[2] / "examples" / "translation"
BOOKS = ("Ruth", "Hosea", "Jonah", "III John")


@pytest.fixture
def train():
    """The module train.py, as its own folder sees it."""
    with imports_of(FOLDER):
        yield importlib.import_module("train")


@pytest.fixture
def verses(train):
    """The module verses.py, where the texts can be had: their packages are of Debian."""
    module = sys.modules["verses"]
    try:
        module.find_modules()
    except SystemExit as error:
        pytest.skip(str(error))
    return module


def test_verses_are_aligned(verses):
    found = {verse[:3]: verse[3:] for verse in verses.read_verses(BOOKS)}
    assert {book for book, *_ in found} == set(BOOKS)
    spanish, english = found["Ruth", 4, 22]
    assert spanish == "y obed engendró á isaí é isaí engendró á david"
    assert english == "and obed became the father of jesse and jesse became the father of david"
    # The last verses of these chapters are the first ones of the next chapter in the Spanish text.
    assert {(book, chapter) for book, chapter, _ in found}.isdisjoint(
        {("Hosea", 11), ("Hosea", 12), ("Jonah", 1), ("Jonah", 2)}
    )
    names = ("david", "jehová", "israel"), ("david", "yahweh", "israel")
    for spanish, english in zip(*names, strict=True):
        pairs = [(spanish in pair[0].split(), english in pair[1].split()) for pair in found.values()]
        assert np.mean([first == second for first, second in pairs]) > 0.93


def test_chapters_are_held_out(train, verses):
    pairs = [
        verses.Verse("A", i // 20, i % 20, f"el número {i % 1995} de todos", f"the number {i} of all")
        for i in range(2000)
    ]
    splits = verses.split_verses([*pairs, verses.Verse("A", 1, 20, "larga " * 21, "long " * 21)], 20)
    chapters = {name: {verse.chapter for verse in part} for name, part in splits.items()}
    assert {name: len(part) for name, part in chapters.items()} == {"train": 85, "dev": 5, "test": 10}
    sources = {name: {verse.spanish for verse in part} for name, part in splits.items()}
    for one, other in (("train", "dev"), ("train", "test")):
        assert not chapters[one] & chapters[other]
        assert not sources[one] & sources[other]
    assert max(len(verse.spanish.split()) for part in splits.values() for verse in part) <= 20
    fewer = verses.split_verses(pairs, 20, 100)
    assert fewer["train"] == splits["train"][:100]
    assert fewer["test"] == splits["test"]


def test_a_pair_of_unequal_length_is_left_out(train):
    verses = sys.modules["verses"]
    pairs = [verses.Verse("A", i, 1, "uno dos tres", english) for i, english in enumerate(["one", "one two three"] * 9)]
    kept = [verse for part in verses.split_verses(pairs, 20).values() for verse in part]
    assert {verse.english for verse in kept} == {"one two three"}


def test_words_without_punctuation(train):
    normalize = sys.modules["verses"].normalize
    assert normalize("¿Qué, Jehová? (Selah.)") == "qué jehová selah"
    assert normalize("“You won’t die,” he said.") == "you won't die he said"


def test_missing_texts_give_one_line(train, monkeypatch, tmp_path):
    verses = sys.modules["verses"]

    def fail(command, **_):
        raise subprocess.CalledProcessError(100, command)

    monkeypatch.setattr(verses, "MODULES", ("none",))
    monkeypatch.setattr(verses.subprocess, "run", fail)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(SystemExit, match=r"^[^\n]*apt-get install sword-text-sparv sword-text-web$"):
        verses.find_modules()
    assert not list((tmp_path / "datasets").iterdir())


def test_groups_of_equal_size_hold_each_source_once(train):
    sources = [" ".join("x" * length) for length in range(1, 21) for _ in range(10)]
    groups = sys.modules["results"].length_groups(sources)
    assert list(groups) == ["1–4", "5–8", "9–12", "13–16", "17–20"]
    assert sorted(np.concatenate(list(groups.values()))) == list(range(200))


def test_a_bad_option_gives_one_line(train, capsys):
    with pytest.raises(SystemExit):
        train.parse_arguments(["--verses", "0"])
    assert "--verses must be at least 1, got 0" in capsys.readouterr().err


@pytest.mark.slow
def test_a_short_run_learns_and_writes_its_results(train, verses, tmp_path, capsys):
    options = ["--verses", "640", "--epochs", "2", "--subwords", "300", "--units", "32", "--max-words", "8"]
    metrics = train.main([*options, "--output", str(tmp_path)])
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert {path.name for path in tmp_path.iterdir()} == {
        "by_length.png", "metrics.json", "model.keras", "translations.tsv"
    }  # fmt: skip
    lines = (tmp_path / "translations.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["source", "reference", *train.MODELS]
    sizes = [group["verses"] for group in metrics["attention"]["by_length"].values()]
    assert sum(sizes) == len(lines) - 1
    assert "BLEU" in capsys.readouterr().out
    model = keras.saving.load_model(tmp_path / "model.keras")
    references = [line.split("\t")[1] for line in lines[1:]]
    tokens = sum(len(ids) + 1 for ids in model.target_vectorizer(references).numpy())  # 1 = [END]
    chance = tokens * np.log2(300) / sum(len(text.split()) for text in references)
    for name in train.MODELS:
        assert metrics[name]["bits_per_word"] < 0.9 * chance
