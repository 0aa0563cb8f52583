# SPDX-License-Identifier: Apache-2.0
"""The dialogue example holds compositions and words out, answers by its rules, and writes its results."""

import importlib
import itertools
import json
import pathlib
import re
import sys

import pytest
from programs import imports_of

FOLDER = pathlib.Path(__file__).parents[2] / "examples" / "dialogue"


@pytest.fixture
def train():
    """The module train.py, as its own folder sees it."""
    with imports_of(FOLDER):
        yield importlib.import_module("train")


@pytest.fixture
def questions(train):
    return sys.modules["questions"]


PATTERNS = {
    "what": r"what is the (\w+) of (\w+)",
    "first": r"tell me the (\w+) of the first person",
    "compare": r"compare the (\w+) of (\w+) and (\w+)",
    "list": r"list each (\w+)",
}


def read(source):
    """Returns the table of a source {name: {attribute: value}}, and the kind, attribute and names of its question."""
    rows, _, text = source.partition(" ? ")
    table = {}
    for name, *rest in (row.split() for row in rows.split(" | ")):
        table[name] = dict(zip(rest[::2], rest[1::2], strict=True))
    [(kind, match)] = [(kind, m) for kind, pattern in PATTERNS.items() if (m := re.fullmatch(pattern, text))]
    return table, kind, match[1], match.groups()[1:]


def test_the_answers_follow_from_the_tables(train, questions):
    for source, target, composition in itertools.chain(*train.load_data(1000, held_out=100).values()):
        table, kind, attribute, names = read(source)
        assert composition == (kind, attribute)
        names = names or (list(table) if kind == "list" else list(table)[:1])
        before, after = questions.PHRASES[attribute].split("{}")
        sentences = target.split(" and ")
        assert len(sentences) == len(names)
        for name, sentence in zip(names, sentences, strict=True):
            assert sentence == f"{name} {before}{table[name][attribute]}{after}"


@pytest.mark.parametrize("fold", [0, 8])
def test_held_out_compositions_are_not_in_training(train, questions, fold):
    splits = {
        name: {read(question.source)[1:3] for question in split}
        for name, split in train.load_data(1000, fold, held_out=100).items()
    }
    assert splits["train"] == splits["tables"] == splits["words"]
    assert splits["compositions"] == splits["compositions and words"]
    assert not splits["train"] & splits["compositions"]
    assert {kind for kind, _ in splits["compositions"]} == set(questions.KINDS)
    everything = splits["train"] | splits["compositions"]
    assert everything == set(itertools.product(questions.KINDS, questions.VALUES))
    for parts in zip(*everything, strict=True):  # each kind and each attribute is known from other compositions
        assert set(parts) <= {part for composition in splits["train"] for part in composition}


def test_new_words_are_not_in_training(train):
    splits = train.load_data(1000, held_out=100)
    words = {name: [set(q.source.split()) | set(q.target.split()) for q in split] for name, split in splits.items()}
    known = set.union(*words["train"])
    assert set.union(*words["tables"], *words["compositions"]) <= known
    for name in ("words", "compositions and words"):
        assert {len(found - known) for found in words[name]} == {2}  # a name and a value
        assert all(len(set(q.target.split()) - known) == 2 for q in splits[name])
    assert splits == train.load_data(1000, held_out=100)
    assert not {q.source for q in splits["train"]} & {
        q.source for name in words if name != "train" for q in splits[name]
    }


def test_bad_options_give_one_line(train, capsys):
    with pytest.raises(SystemExit):
        train.parse_arguments(["--epochs", "0"])
    assert "--epochs must be at least 1, got 0" in capsys.readouterr().err


@pytest.mark.slow
def test_a_short_run_copies_new_words_and_writes_its_results(train, tmp_path, capsys):
    metrics = train.main(["--questions", "3000", "--epochs", "3", "--output", str(tmp_path)])
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert {path.name for path in tmp_path.iterdir()} == {"attention.png", "metrics.json", "model.keras"}
    assert "unseen compositions" in metrics["result"]
    assert metrics["without copying"]["words"] == 0  # these words are not in its vocabulary
    assert metrics["with copying"]["words"] > 20
    printed = capsys.readouterr().out
    assert "tell me the" in printed and "answers right word for word" in printed
