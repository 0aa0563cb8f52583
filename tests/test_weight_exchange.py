# SPDX-License-Identifier: Apache-2.0
"""Weight files load both ways between models of Keras's recurrent layers and the same models of keras_seq."""

import keras
import numpy as np
import pytest
from conftest import assert_close

import keras_seq

TOLERANCE = 3e-5  # of float32 outputs against Keras's
TIME, FEATURES = 5, 4
SEQUENCES = np.random.default_rng(0).normal(size=(3, TIME, FEATURES)).astype("float32")
KERAS_SEQ, KERAS = keras_seq.layers, keras.layers


# The recurrent layers of a model; `package` is `keras.layers` or `keras_seq.layers`.
LAYERS = {
    "SimpleRNN": lambda package: [package.SimpleRNN(4)],
    "GRU": lambda package: [package.GRU(4)],
    "GRU reset before": lambda package: [package.GRU(4, reset_after=False)],
    "GRU without bias": lambda package: [package.GRU(4, use_bias=False)],
    "LSTM": lambda package: [package.LSTM(4)],
    "two LSTMs": lambda package: [package.LSTM(4, return_sequences=True), package.LSTM(4, go_backwards=True)],
    "Bidirectional": lambda package: [package.Bidirectional(package.LSTM(4))],
    "Bidirectional of two": lambda package: [
        package.Bidirectional(package.GRU(4), backward_layer=package.SimpleRNN(4, go_backwards=True))
    ],
    "RNN": lambda package: [package.RNN(package.LSTMCell(4))],
    "RNN of stacked cells": lambda package: [
        package.RNN([package.LSTMCell(4), package.GRUCell(3), package.SimpleRNNCell(2)])
    ],
    "RNN of StackedRNNCells": lambda package: [
        package.RNN(KERAS.StackedRNNCells([package.GRUCell(4), package.GRUCell(4)]))
    ],
}


def functional(package, name):
    inputs = keras.Input((TIME, FEATURES))
    x = inputs
    for layer in LAYERS[name](package):
        x = layer(x)
    return keras.Model(inputs, KERAS.Dense(2)(x))


def sequential(package, name):
    return keras.Sequential([keras.Input((None, FEATURES)), *LAYERS[name](package), KERAS.Dense(2)])


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("make", [functional, sequential])
@pytest.mark.parametrize("file", ["model.keras", "model.weights.h5"])
@pytest.mark.parametrize(("source", "target"), [(KERAS, KERAS_SEQ), (KERAS_SEQ, KERAS)], ids=["from Keras", "to Keras"])
def test_a_weight_file_gives_the_same_weights_and_outputs(name, make, file, source, target, tmp_path):
    saved, loaded = make(source, name), make(target, name)
    if file.endswith(".keras"):
        saved.save(tmp_path / file)
    else:
        saved.save_weights(tmp_path / file)
    loaded.load_weights(tmp_path / file)
    assert_close(loaded.get_weights(), saved.get_weights(), 0)
    assert_close(loaded(SEQUENCES), saved(SEQUENCES), TOLERANCE)


@pytest.mark.parametrize("name", LAYERS)
def test_a_whole_model_file_of_keras_can_be_converted(name, tmp_path):
    """`custom_objects` cannot replace the layers: Keras looks up its own classes by module and name first."""
    model = sequential(KERAS, name)
    model.compile("adam", "mse")
    model.save(tmp_path / "model.keras")
    converted = keras_seq.convert(keras.saving.load_model(tmp_path / "model.keras"))
    assert_close(converted(SEQUENCES), model(SEQUENCES), TOLERANCE)
    assert converted.compiled
    assert not [row for row in keras_seq.explain(converted, print_fn=None) if row.implementation == "keras"]
