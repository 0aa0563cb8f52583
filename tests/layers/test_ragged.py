# SPDX-License-Identifier: Apache-2.0
"""Ragged sequences: each row gives the same result as a separate call."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import assert_close

from keras_seq import layers

FEATURES, UNITS = 3, 4
LENGTHS = [3, 0, 5, 1]
ROWS = [np.random.default_rng(i).normal(size=(length, FEATURES)).astype("float32") for i, length in enumerate(LENGTHS)]
RAGGED = tf.RaggedTensor.from_row_lengths(np.concatenate(ROWS), LENGTHS)
LAYERS = {
    "SimpleRNN": lambda **o: layers.SimpleRNN(UNITS, **o),
    "LSTM": lambda **o: layers.LSTM(UNITS, num_layers=2, **o),
    "RNN": lambda **o: layers.RNN(layers.GRUCell(UNITS), **o),
    "Bidirectional": lambda **o: layers.Bidirectional(layers.GRU(UNITS, **o)),
}


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("name", LAYERS)
def test_each_row_equals_a_separate_call(name, mode):
    layer = LAYERS[name](return_sequences=True)
    run = layer if mode == "eager" else tf.function(layer, autograph=False)
    outputs = run(RAGGED)
    assert isinstance(outputs, tf.Tensor)
    for row, output in zip(ROWS, outputs, strict=True):
        assert_close(output[: len(row)], layer(row[None])[0], 1e-5)
    if mode == "eager":
        np.testing.assert_array_equal(outputs._keras_mask, np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None])


@pytest.mark.parametrize("name", LAYERS)
def test_last_output_of_each_row(name):
    layer = LAYERS[name]()
    outputs = layer(RAGGED, training=False)
    for row, output in zip(ROWS, outputs, strict=True):
        assert_close(output, layer(row[None])[0], 1e-5)


def test_initial_state_with_ragged_sequences():
    layer, state = layers.GRU(UNITS), np.ones((len(ROWS), UNITS), "float32")
    outputs = layer(RAGGED, [state])
    assert_close(outputs[2], layer(ROWS[2][None], [state[:1]])[0], 1e-5)


def test_invalid_ragged_inputs():
    with pytest.raises(ValueError, match="`mask` must be None or ragged if `sequences` are ragged"):
        layers.GRU(UNITS)(RAGGED, mask=np.ones((4, 5), bool))
    with pytest.raises(ValueError, match=r"ragged in time only. Received: shape \(2, None, None\)"):
        layers.GRU(UNITS)(tf.ragged.constant([[[1.0], [2.0, 3.0]], [[4.0]]]))


@pytest.mark.parametrize("make", [lambda: layers.LSTM(3), lambda: layers.Bidirectional(layers.GRU(3))])
def test_embedding_masks_zeros_in_ragged_sequences(make):
    embedding, layer = keras.layers.Embedding(10, 4, mask_zero=True), make()
    ragged = layer(embedding(tf.ragged.constant([[1, 2, 0, 3], [4]])))
    dense = layer(embedding(tf.constant([[1, 2, 0, 3], [4, 0, 0, 0]])))
    assert_close(ragged, dense, 1e-6)
    assert_close(keras.Sequential([embedding, layer])(tf.ragged.constant([[1, 2, 0, 3], [4]])), dense, 1e-6)
