# SPDX-License-Identifier: Apache-2.0
"""The tagging example reads files of words and tags, hyphenates by default, and writes its results."""

import importlib.util
import json
import pathlib
import sys
import types

import keras
import numpy as np
import pyphen
import pytest

FOLDER = pathlib.Path(__file__).parents[2] / "examples" / "tagging"


@pytest.fixture
def train(monkeypatch):
    """The module train.py, as its own folder sees it."""
    monkeypatch.syspath_prepend(FOLDER)
    for name in ("sentences", "tagging_train", "train", "languages"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    specification = importlib.util.spec_from_file_location("tagging_train", FOLDER / "train.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    yield module
    for name in ("sentences", "train", "languages"):
        sys.modules.pop(name, None)


SENTENCES = [
    (("The", "cat", "sees", "a", "dog"), ("DET", "NOUN", "VERB", "DET", "NOUN")),
    (("A", "dog", "sleeps"), ("DET", "NOUN", "VERB")),
    (("Cats", "sleep"), ("NOUN", "VERB")),
]
TEXT = "\n\n".join("\n".join("\t".join(pair) for pair in zip(*sentence, strict=True)) for sentence in SENTENCES)


@pytest.mark.parametrize("ending", ["", "\n", "\n\n\n"])
def test_sentences_are_read(train, tmp_path, ending):
    (tmp_path / "words.tsv").write_text(f"\n{TEXT}{ending}")
    assert train.read_sentences(tmp_path / "words.tsv") == SENTENCES


@pytest.mark.parametrize("line", ["cat", "cat\tNOUN\tx", "\tNOUN", "New York\tPROPN", "cat\t"])
def test_a_bad_line_is_reported(train, tmp_path, line, capsys):
    (tmp_path / "words.tsv").write_text(f"a\tDET\n{line}\n")
    with pytest.raises(SystemExit) as stop:
        train.read_sentences(tmp_path / "words.tsv")
    assert stop.value.code == 2
    assert "words.tsv:2: expected a word, a tab and a tag" in capsys.readouterr().err


def test_files_go_together(train, capsys):
    with pytest.raises(SystemExit):
        train.parse_arguments(["--train", "a.tsv"])
    assert "--train and --dev go together" in capsys.readouterr().err


@pytest.mark.slow
def test_words_are_hyphenated(train):
    splits = train.hyphenated_words(50)
    assert set(splits) == {"train", "dev", "test"}
    words = {split: {word for word, _ in sentences} for split, sentences in splits.items()}
    assert not words["train"] & (words["dev"] | words["test"])
    for word, tags in splits["dev"][::100]:
        joined = "".join(letter + "-" * (tag == train.BREAK) for letter, tag in zip(word, tags, strict=True))
        assert joined == pyphen.Pyphen(lang="en_US").inserted(word)


def test_words_of_another_language_are_hyphenated(train):
    splits = train.hyphenated_words(100, "ru")
    words = {split: {word for word, _ in sentences} for split, sentences in splits.items()}
    assert not words["train"] & words["dev"] | words["train"] & words["test"] | words["dev"] & words["test"]
    assert 100 <= len(words["train"]) < 200
    assert all(set(word) <= set("абвгдеёжзийклмнопрстуфхцчшщъыьэюя") for word in words["train"])
    for word, tags in splits["dev"][::100]:
        joined = "".join(letter + "-" * (tag == train.BREAK) for letter, tag in zip(word, tags, strict=True))
        assert joined == pyphen.Pyphen(lang="ru").inserted(word)


def test_a_missing_package_gives_one_line(train, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "spellchecker", None)
    with pytest.raises(SystemExit):
        train.hyphenated_words(100, "ru")
    assert capsys.readouterr().err == "spellchecker is missing: pip install 'keras_seq[examples]'\n"


def test_delayed_tags_come_later(train):
    languages = importlib.import_module("languages")
    tags = [train.NONE, train.BREAK, train.NONE]
    [(word, delayed)] = languages.delay_tags([("abc", tags)], 2)
    assert (word, delayed) == ("abc__", [train.NONE, train.NONE, *tags])
    assert languages.delay_tags([("abc", tags)], 0) == [("abc", tags)]


def test_errors_are_counted_by_position(train):
    """A model that never finds a break, counted by hand: ab-c, abcd-e."""
    languages = importlib.import_module("languages")
    sentences = languages.delay_tags(
        [("abc", ["none", "break", "none"]), ("abcde", ["none", "none", "none", "break", "none"])], 2
    )
    encoder = train.Encoder(sentences, {train.BREAK, train.NONE})
    never = types.SimpleNamespace(
        predict_on_batch=lambda inputs: np.full(tuple(inputs[0].shape), encoder.tags.index(train.NONE))
    )
    measures = languages.find_errors(encoder, never, sentences, 2)
    assert measures["errors_from_start"][:6] == [0, 50, 0, 100, 0, 0]
    assert measures["errors_from_end"][:6] == [0, 100, 0, 0, 0, 0]
    assert (measures["letters_right"], measures["words_right"], measures["f1_of_breaks"]) == (75, 0, 0)


def test_sentences_are_encoded(train):
    tags = {"DET", "NOUN", "VERB"}
    encoder = train.Encoder(SENTENCES, tags)
    [((words, letters), tag_ids)] = encoder.batches(SENTENCES, 3, shuffle=False)
    vocabularies = encoder.vocabularies()
    unknown = {"the", "cat", "sees", "sleeps", "cats", "sleep"}  # once each
    assert set(vocabularies["words"]) == {"", "[UNK]", "a", "dog"}
    for (row, expected), ids, letter_ids, row_of_tags in zip(SENTENCES, words, letters, tag_ids, strict=True):
        found = [vocabularies["words"][i] for i in ids[: len(row)]]
        assert found == ["[UNK]" if word.lower() in unknown else word.lower() for word in row]
        assert ["".join(vocabularies["letters"][i] for i in word) for word in letter_ids[: len(row)]] == list(row)
        assert [vocabularies["tags"][i] for i in row_of_tags[: len(row)]] == list(expected)
        assert not np.any(ids[len(row) :])
        assert not np.any(letter_ids[len(row) :])


def run(train, tmp_path, *arguments):
    small = ("--units", "8", "--letter-units", "4", "--embedding-dim", "8", "--batch-size", "3")
    train.main([*small, *arguments, "--output", str(tmp_path / "out")])
    return json.loads((tmp_path / "out" / "metrics.json").read_text())


@pytest.mark.slow
def test_learns_from_files_and_writes_all_results(train, tmp_path):
    (tmp_path / "words.tsv").write_text("\n\n".join([TEXT] * 10))
    files = [part for name in ("train", "dev", "test") for part in (f"--{name}", str(tmp_path / "words.tsv"))]
    results = run(train, tmp_path, *files, "--table", "--epochs", "15", "--learning-rate", "0.02")
    assert set(results) == {"result", "dev", "test", "train_seconds", "no_crf", "one_direction", "no_letters"}
    assert results["dev"]["accuracy"] == results["test"]["accuracy"] == 100
    assert results["no_crf"]["accuracy"] > 70
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "metrics.json", "vocabularies.json", "tagger.keras", "marginals.png"
    }  # fmt: skip
    vocabularies = json.loads((tmp_path / "out" / "vocabularies.json").read_text())
    tagger = keras.saving.load_model(tmp_path / "out" / "tagger.keras")
    encoder = train.Encoder(SENTENCES * 10, {"DET", "NOUN", "VERB"})
    assert encoder.vocabularies() == vocabularies
    [(inputs, expected)] = encoder.batches(SENTENCES, 3, shuffle=False)
    np.testing.assert_array_equal(tagger.predict_on_batch(list(inputs)), expected)


@pytest.mark.slow
def test_learns_to_hyphenate(train, tmp_path):
    results = run(train, tmp_path, "--words", "300", "--epochs", "1")
    assert set(results) == {"result", "dev", "test", "train_seconds"}
    assert set(results["test"]) == {"accuracy", "sentence_accuracy", "f1_of_breaks"}
    assert results["test"]["accuracy"] > 50


@pytest.mark.slow
def test_both_directions_win(train, tmp_path, capsys):
    languages = importlib.import_module("languages")
    small = ("--words", "4000", "--epochs", "3", "--units", "32", "--output", str(tmp_path))
    results = languages.main(["--languages", "es", *small])
    assert json.loads((tmp_path / "metrics.json").read_text()) == results
    assert {path.name for path in tmp_path.iterdir()} == {"errors.png", "metrics.json"}
    one, later, both = (measures["words_right"] for measures in results["es"].values())
    assert min(later, both) > one + 10
    assert "F1 of breaks" in capsys.readouterr().out
