# SPDX-License-Identifier: Apache-2.0
"""A small model of random weights whose outputs differ and end, and words for it."""

import keras
import numpy as np
import tensorflow as tf

import keras_seq

LETTERS = "abcdefgh"


def make_model(vectorizers=True, attention="bahdanau", size=12, **options):
    keras.utils.set_random_seed(4)
    vectorizer = keras_seq.data.text_vectorizer([LETTERS[: size - 4]])
    parts = keras_seq.Encoder(size, 4, 6, cell="gru"), keras_seq.Decoder(size, 4, 6, "gru", attention, **options)
    model = keras_seq.Seq2Seq(*parts, *([vectorizer, vectorizer] if vectorizers else []))
    for variable in model.trainable_variables:
        variable.assign(4 * variable)  # so that outputs differ
    model.decoder.readout.bias.assign(tf.one_hot(3, size) * 2.0)  # and end
    return model


def random_words(count, longest=12, seed=0):
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list(LETTERS), rng.integers(0, longest))) for _ in range(count)]


def count_traces(model, monkeypatch):
    """Returns a list that grows by one item each time the model is traced for a search."""
    traces, start_search = [], model.start_search

    def traced(*args):
        traces.append(args)
        return start_search(*args)

    monkeypatch.setattr(model, "start_search", traced)
    return traces
