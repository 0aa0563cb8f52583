# SPDX-License-Identifier: Apache-2.0
"""Data sets of tensorflow-datasets: of TSV files, of folders of parallel text, and those for translation."""

import importlib
import pickle
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow_datasets as tfds

import keras_seq
from keras_seq.data import bucketed_batches, text_vectorizer

SPLITS = {"train": [(f"w{i}", f"t {i}") for i in range(100)], "dev": [("v", "é")], "held_out": [("a b", "'\"")] * 3}


@pytest.fixture
def files(tmp_path):
    paths = {split: tmp_path / f"{split}.tsv" for split in SPLITS}
    for split, path in paths.items():
        path.write_text("".join(f"{source}\t{target}\n" for source, target in SPLITS[split]), encoding="utf-8")
    return paths


def prepare(files, name, tmp_path, **options):
    importlib.import_module("keras_seq.data.tfds_tsv")  # registers the data set
    builder = tfds.builder(f"tsv_pairs/{name}", files=files, data_dir=tmp_path, **options)
    builder.download_and_prepare()
    return builder


def read(dataset):
    return sorted(tuple(part.decode() for part in pair) for pair in dataset.as_numpy_iterator())


@pytest.mark.slow
def test_tfds_load_reads_any_tsv_by_its_name(files, tmp_path):
    builder = prepare(files, "lexicon", tmp_path)
    assert pickle.loads(pickle.dumps(builder)).info.full_name == builder.info.full_name == "tsv_pairs/lexicon/1.0.0"
    for path in files.values():
        path.unlink()  # they are not needed any more
    options = {"data_dir": tmp_path, "as_supervised": True}
    splits, info = tfds.load("tsv_pairs/lexicon", shuffle_files=True, with_info=True, **options)
    assert {split: read(dataset) for split, dataset in splits.items()} == {k: sorted(v) for k, v in SPLITS.items()}
    assert info.supervised_keys == ("source", "target")
    part = read(tfds.load("tsv_pairs/lexicon", split="train[:20%]", **options))
    assert len(part) == 20
    assert set(part) < set(SPLITS["train"])
    script = f"""
import tensorflow_datasets as tfds
print(len(tfds.load("tsv_pairs/lexicon", split="dev", data_dir={str(tmp_path)!r})))
assert "keras_seq" not in __import__("sys").modules
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.stdout == "1\n", run.stderr


@pytest.mark.slow
def test_a_data_source_of_a_tsv_trains_a_model(files, tmp_path):
    prepare(files, "records", tmp_path, file_format="array_record")
    source = tfds.data_source("tsv_pairs/records", split="train", data_dir=tmp_path)
    batches = bucketed_batches(source, 16, keys=("source", "target"), seed=1)
    assert read(batches.unbatch()) == sorted(SPLITS["train"])
    assert len(batches) == 7
    assert train(batches) > 0


@pytest.mark.slow
def test_folders_of_parallel_text_train_a_model(tmp_path):
    lines = {"en": ["a cat", "the dog sleeps", "no"], "fr": ["un chat", "le chien dort", "non"]}
    for language, texts in lines.items():
        for split in ("train", "test"):
            (tmp_path / f"{language}.{split}.txt").write_text("\n".join(texts) + "\n")
    builder = tfds.folder_dataset.TranslateFolder(str(tmp_path))
    batches = bucketed_batches(builder.as_dataset(split="train"), 2, keys=("fr", "en"), split=("whitespace",) * 2)
    assert read(batches.unbatch()) == sorted(zip(lines["fr"], lines["en"], strict=True))
    assert train(batches) > 0


@pytest.mark.slow
@pytest.mark.parametrize("as_supervised", [True, False])
def test_data_sets_for_translation_train_a_model(as_supervised):
    with tfds.testing.mock_data(num_examples=20):
        pairs = tfds.load("ted_hrlr_translate/pt_to_en", split="train", as_supervised=as_supervised, shuffle_files=True)
    batches = bucketed_batches(pairs, 8, keys=None if as_supervised else ("pt", "en"))
    assert len(batches) == 3
    assert train(batches) > 0


def train(batches):
    """Trains a model on batches of pairs, and returns its loss."""
    source, target = (text_vectorizer(batches.map(lambda *pair, i=i: pair[i])) for i in (0, 1))
    parts = keras_seq.Encoder(source.vocabulary_size(), 4, 4), keras_seq.Decoder(target.vocabulary_size(), 4, 4)
    model = keras_seq.Seq2Seq(*parts, source, target)
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    [loss] = model.fit(batches, validation_data=batches, verbose=0).history["loss"]
    assert np.isfinite(loss)
    return loss


def test_prepared_data_of_other_files_raise(files, tmp_path):
    prepare({"dev": files["dev"]}, "small", tmp_path)
    assert prepare({"dev": str(files["dev"])}, "small", tmp_path).info.splits["dev"].num_examples == 1
    with pytest.raises(ValueError, match=r"(?s)`files` must be those that .*small.* was prepared from\. Delete that"):
        prepare({"dev": files["train"]}, "small", tmp_path)
    with pytest.raises(ValueError, match=r"(?s)`files` must be those that .*small.* was prepared from\. Delete that"):
        prepare({**files}, "small", tmp_path)


def test_invalid_files(files, tmp_path):
    with pytest.raises(ValueError, match=r"`config` must be the name of the data set.* Received: None"):
        importlib.import_module("keras_seq.data.tfds_tsv").TsvPairs(files=files, data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"`files` must be a dict from the names of splits to paths. Received: \{\}"):
        prepare({}, "x", tmp_path)
    with pytest.raises(ValueError, match=r"`files` must be .*because tsv_pairs/unknown/1.0.0 is not prepared"):
        tfds.load("tsv_pairs/unknown", data_dir=tmp_path)
    files["dev"].write_text("a\tb\nc\n")
    with pytest.raises(ValueError, match=r"dev\.tsv:2: expected two columns separated by a tab, got 1: 'c'"):
        prepare({"dev": files["dev"]}, "broken", tmp_path)
    assert not list((tmp_path / "tsv_pairs" / "broken").glob("[0-9]*"))  # nothing half-written under its name


def test_error_without_tensorflow_datasets(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    monkeypatch.delitem(sys.modules, "keras_seq.data.tfds_tsv", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'keras_seq\[data\]'"):
        importlib.import_module("keras_seq.data.tfds_tsv")
