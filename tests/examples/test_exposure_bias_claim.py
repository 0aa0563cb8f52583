# SPDX-License-Identifier: Apache-2.0
"""The claim about exposure bias: which tokens count as mistakes, what the methods change, and a small run."""

import importlib.util
import itertools
import json
import pathlib

import numpy as np
import pytest

from keras_seq import data

SCRIPT = pathlib.Path(__file__).parents[2] / "examples" / "claims" / "exposure_bias.py"


@pytest.fixture
def claim(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))  # as when it is run
    specification = importlib.util.spec_from_file_location("exposure_bias_claim", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def marked(claim, output, reference):
    """The tokens of the reference that are mistakes, of words in which each letter is a token."""
    wrong = claim.mark_mistakes(list(output), list(reference))
    return "".join(token if mark else "." for token, mark in zip(reference, wrong, strict=True))


@pytest.mark.parametrize(
    ("output", "reference", "mistakes"),
    [
        ("abcde", "abcde", "....."),
        ("abXde", "abcde", "..c.."),
        ("abde", "abcde", "..c.."),  # one missing: what follows is right
        ("abXcde", "abcde", "..c.."),  # one too many: before c
        ("aXcdY", "abcde", ".b..e"),
        ("abc", "abcde", "...de"),
    ],
)
def test_mistakes_are_aligned(claim, output, reference, mistakes):
    assert marked(claim, output, reference) == mistakes


def test_the_first_mistake_is_the_first_difference(claim):
    words = ["".join(letters) for length in (2, 3, 4) for letters in itertools.product("ab", repeat=length)]
    for output, reference in itertools.product(words, words):
        first = next((i for i, pair in enumerate(zip(output + "$", reference + "$")) if pair[0] != pair[1]), None)  # noqa: B905
        marks = claim.mark_mistakes([*output, "$"], [*reference, "$"])
        assert (first is None and not marks.any()) or marks.argmax() == first


def test_both_prefixes_are_compared_after_the_first_mistake_only(claim):
    reference = [5, 6, 4, 7, 8, 3]  # 4 is between words, 3 is [END]
    outputs = [[5, 9, 4, 9, 8, 3], [9, 6, 4, 7, 8, 3]]
    predictions = [[5, 9, 4, 7, 9, 3], [9, 9, 4, 7, 8, 3]]
    result = claim.compare(outputs, predictions, [reference, reference], boundary=4)
    assert result["first"] == [1, 0]
    assert [result["own"], result["true"]] == pytest.approx([100 * 3 / 12, 100 * 4 / 12])
    assert result["after"][claim.NEAR] == pytest.approx([0, 100 / 3])  # position 2, and 1 and 2 of the second sequence
    assert result["after"][claim.FAR] == pytest.approx([100 / 6, 100 / 6])
    assert result["after"]["1"] == [0, 50]  # position 2 of the first sequence, 1 of the second


@pytest.mark.slow
def test_sequences_are_of_different_held_out_words(claim):
    splits = claim.load_sequences(claim.parse_arguments(["--sequences", "300", "--test-sequences", "50"]))
    words = {split: [word for text in sources for word in text.split()] for split, (sources, _) in splits.items()}
    assert {split: len(set(of_split)) for split, of_split in words.items()} == {"train": 900, "test": 150}
    assert not set(words["train"]) & set(words["test"])
    pronunciations = data.group_by_source(*data.load_cmudict()["test"])
    for source, target in zip(*splits["test"], strict=True):
        assert [pronunciations[word][0] for word in source.split()] == target.split(" | ")


def test_the_methods_differ_in_one_thing_each(claim):
    vectorizers = data.text_vectorizer(["abc"]), data.text_vectorizer(["AH B K"], split="whitespace")
    models = {method: claim.build_model(method, vectorizers, 8, 100) for method in claim.METHODS}
    assert [model.decoder.token_dropout for model in models.values()] == [0, 0, claim.RATE]
    sampling = [model.scheduled_sampling for model in models.values()]
    assert [schedule is not None for schedule in sampling] == [False, True, False]
    mean = np.mean([float(sampling[1].probability(step)) for step in range(101)])
    assert mean == pytest.approx(claim.RATE)  # the same share of the tokens as noise


@pytest.mark.parametrize("option", ["--sequences", "--test-sequences", "--units", "--epochs", "--seeds"])
def test_bad_options_give_one_line(claim, option, capsys):
    with pytest.raises(SystemExit):
        claim.parse_arguments([option, "0"])
    assert option in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_a_small_run_writes_its_results(claim, tmp_path, capsys):
    sizes = ("--sequences", "1000", "--test-sequences", "60", "--units", "24", "--epochs", "2", "--seeds", "1")
    metrics = claim.main([*sizes, "--output", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {"exposure_bias.png", "metrics.json"}
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["result"] == metrics["result"]
    assert set(written) == {*claim.METHODS, "result"}
    for method in claim.METHODS:
        (run,) = written[method]
        assert len(run["first"]) <= 60
        assert 0 < run["own"] < 100
        assert set(run["after"]) == {claim.NEAR, claim.FAR, *map(str, claim.DISTANCES)}
    assert "after the first mistake" in capsys.readouterr().out
