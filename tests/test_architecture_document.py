# SPDX-License-Identifier: Apache-2.0
"""docs/architecture.md describes the code as it is: its paths exist, and calls take the hops that it lists."""

import pathlib
import re
import sys

import numpy as np
import pytest
from conftest import needs_kernels

import keras_seq
from keras_seq.decoding import BeamSampler

PACKAGE = pathlib.Path(keras_seq.__file__).parent
ROOT = PACKAGE.parent
TEXT = (ROOT / "docs" / "architecture.md").read_text()


def listed_hops(title):
    """The functions that the numbered list of a section names, in order, such as "RNN.call" or "run_layers"."""
    section = TEXT.split(f"\n## {title}", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^\d+\. `([\w.]+)`", section, re.MULTILINE)


def hops_to_the_ops(run):
    """The names of the functions of keras_seq that are active when native ops are called, outermost first.

    Each is a set of the names that the document may give it. The conversion of ragged inputs is left out, and so are
    functions inside of functions.
    """
    hops = []

    def profile(frame, event, _):
        if event != "call" or frame.f_code.co_name != "run_op":
            return
        active = []
        while frame is not None:
            code, path = frame.f_code, pathlib.Path(frame.f_code.co_filename)
            if (
                PACKAGE in path.parents
                and code.co_qualname != "RaggedInputMixin.__call__"
                and "<" not in code.co_qualname
            ):
                active.append({code.co_qualname, f"{path.stem}.{code.co_name}", code.co_name})
            frame = frame.f_back
        hops.extend(names for names in reversed(active) if names not in hops)

    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(None)
    return hops


def assert_listed(hops, listed, not_active=()):
    """Every hop is in the list, in its order, and every function of the list but `not_active` is a hop."""
    positions = [next((i for i, name in enumerate(listed) if name in names), None) for names in hops]
    assert None not in positions, f"{hops[positions.index(None)]} is not listed"
    assert positions == sorted(positions)
    assert {listed[i] for i in positions} == set(listed) - set(not_active)


def test_every_path_exists():
    folders = [ROOT, PACKAGE, ROOT / "custom_ops"]
    paths = re.findall(r"`((?:[\w.]+/)+(?:[\w.]+)?|[\w/]+\.(?:py|h|cc|md))`", TEXT)
    assert len(paths) > 40
    names = {path.name for folder in folders[1:] for path in folder.rglob("*.*")}
    assert not [path for path in paths if path not in names and not any((folder / path).exists() for folder in folders)]


@needs_kernels
def test_hops_of_an_lstm():
    layer, inputs = keras_seq.layers.LSTM(4), np.ones((2, 3, 5), "float32")
    layer(inputs)
    listed = listed_hops("One `LSTM(x)`")
    assert len(listed) <= 7
    beside = ["RecurrentCell.recurrent_call", "RNN.collect_results"]  # before the op and after it
    assert_listed(hops_to_the_ops(lambda: layer(inputs)), listed, not_active=beside)


SOURCES, TARGETS = ["ab", "ba"], ["xy", "yx"]


def make_model():
    vectorizers = [keras_seq.data.text_vectorizer(texts) for texts in (SOURCES, TARGETS)]
    sizes = [vectorizer.vocabulary_size() for vectorizer in vectorizers]
    encoder = keras_seq.Encoder(sizes[0], embedding_dim=3, units=4)
    decoder = keras_seq.Decoder(sizes[1], embedding_dim=3, units=4, attention="bahdanau")
    return keras_seq.Seq2Seq(encoder, decoder, *vectorizers)


@pytest.mark.slow
@needs_kernels
def test_hops_of_a_training_batch():
    model = make_model()
    model.compile()
    listed = listed_hops("One batch of `Seq2Seq.fit`")
    assert len(listed) <= 20
    assert_listed(hops_to_the_ops(lambda: model.fit(SOURCES, TARGETS, verbose=0)), listed)


@needs_kernels
def test_hops_of_a_search():
    model = make_model()
    listed = listed_hops("One `generate`")
    assert len(listed) <= 25
    beside = ["Decoder.start_search", "BeamSampler.step", "BeamSampler.hypotheses"]  # run no recurrence
    hops = hops_to_the_ops(lambda: model.generate(SOURCES, sampler=BeamSampler(2)))
    assert_listed(hops, listed, not_active=beside)


@pytest.mark.slow
@needs_kernels
def test_hops_of_a_batch_of_a_language_model():
    vectorizer = keras_seq.data.text_vectorizer(SOURCES)
    model = keras_seq.LanguageModel(embedding_dim=3, units=4, vectorizer=vectorizer)
    model.compile()
    listed = listed_hops("One batch of a language model")
    assert_listed(hops_to_the_ops(lambda: model.fit(SOURCES, batch_size=2, window=4, verbose=0)), listed)


@needs_kernels
def test_hops_of_a_forecast():
    model, past = keras_seq.Forecaster(horizon=2, units=4), np.ones((2, 3, 1), "float32")
    model(past)
    assert_listed(hops_to_the_ops(lambda: model.forecast(past)), listed_hops("One `forecast`"))
