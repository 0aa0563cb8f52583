# SPDX-License-Identifier: Apache-2.0
"""Initial weights: no two weights of a layer are drawn from the same random numbers; layers match those of Keras."""

import itertools

import keras
import numpy as np
import pytest
from catalog import CATALOG, SEQUENCES, UNITS, call, make
from conftest import every_kind

from keras_seq import layers

INITIALIZERS = [f"{name}_initializer" for name in ("kernel", "recurrent", "bias", "initial_state")]


# One random initializer, in every form in which it can be given to all arguments of a layer.
SHARED = {
    "name": lambda: "random_normal",
    "instance": lambda: keras.initializers.RandomNormal(),
    "seeded instance": lambda: keras.initializers.RandomNormal(seed=3),
    "seeded generator": lambda: keras.initializers.RandomNormal(seed=keras.random.SeedGenerator(3)),
}
# Layers with one random weight or none, as they are in the catalog.
WITHOUT_PAIRS = ("ActivationRegularization", "CRF", "EmbeddingDropout", "LockedDropout")


def assert_uncorrelated(weights):
    """The first numbers of any two random weights have a correlation of 0: Fisher's z is within 5 sigma."""
    drawn = [w[(w != 0) & (w != 1)] for w in weights]  # 0 and 1 are constants, as in the bias of the forget gate
    drawn = [w for w in drawn if len(w) >= 6 and np.std(w) > 0]
    assert len(drawn) > 1
    for one, other in itertools.combinations(drawn, 2):
        count = min(len(one), len(other))
        correlation = np.corrcoef(one[:count], other[:count])[0, 1]
        assert abs(np.arctanh(np.clip(correlation, -1 + 1e-12, 1 - 1e-12))) < 5 / (count - 3) ** 0.5


def initializer_arguments(row):
    return [key for key in row.arguments if key.endswith("_initializer")]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name, row in CATALOG.items()
        for kind in ["default", *(list(SHARED)[:3] if initializer_arguments(row) else [])]
        if name not in WITHOUT_PAIRS
    ],
)
def test_weights_of_a_layer_are_uncorrelated(name, kind):
    """They are with the initializers of the catalog, and if all arguments share one initializer."""
    shared = None if kind == "default" else SHARED[kind]()
    arguments = [] if kind == "default" else initializer_arguments(CATALOG[name])
    layer = make(name, **{argument: lambda: shared for argument in arguments})
    call(layer, name)
    assert_uncorrelated([w.numpy() for w in layer.trainable_weights])


MAKERS = {
    "stack": lambda options: layers.GRU(UNITS, num_layers=3, **options),
    "Bidirectional": lambda options: layers.Bidirectional(layers.LSTM(UNITS, num_layers=2, **options)),
    "Bidirectional of Keras": lambda options: layers.Bidirectional(
        keras.layers.RNN(keras.layers.SimpleRNNCell(UNITS, kernel_initializer=options["kernel_initializer"]))
    ),
    "CRF": lambda options: layers.CRF(
        UNITS,
        **{f"{part}_initializer": options["kernel_initializer"] for part in ("kernel", "transition", "boundary")},
    ),
    "forget bias": lambda options: layers.LSTM(UNITS, **options),
    "states of cells": lambda options: layers.RNN(
        [layers.LSTMCell(UNITS), layers.GRUCell(UNITS)], initial_state_initializer=options["kernel_initializer"]
    ),
}


@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize("name", MAKERS)
def test_weights_of_cells_and_directions_are_uncorrelated(name, kind):
    layer = MAKERS[name](dict.fromkeys(INITIALIZERS, SHARED[kind]()))
    layer.build(SEQUENCES.shape)
    assert_uncorrelated([w.numpy() for w in layer.trainable_weights])


SEEDED = ["stack", "Bidirectional", "forget bias", "BahdanauAttention", "LuongAttention", "LSTM"]


@pytest.mark.parametrize("name", SEEDED)
def test_seeded_initializers_repeat_the_weights_even_from_a_config(name):
    initializer = keras.initializers.RandomNormal(seed=3)
    if name in MAKERS:
        layer, again = (MAKERS[name](dict.fromkeys(INITIALIZERS, initializer)) for _ in range(2))
    else:
        arguments = {argument: lambda: initializer for argument in initializer_arguments(CATALOG[name])}
        layer, again = (make(name, **arguments) for _ in range(2))
    from_config = type(layer).from_config(layer.get_config())
    inputs = SEQUENCES if name not in CATALOG else CATALOG[name].inputs[0]
    for built in (layer, again, from_config):
        built(inputs)
    assert layer.trainable_weights
    for weights in zip(*(built.trainable_weights for built in (layer, again, from_config)), strict=True):
        np.testing.assert_array_equal(weights[0], weights[1])
        np.testing.assert_array_equal(weights[0], weights[2])


@every_kind
def test_seeded_initializers_give_the_weights_of_keras(kind):
    """Two initializers of different classes have the same seed here."""
    seeded = {
        "kernel_initializer": keras.initializers.GlorotUniform(seed=1),
        "recurrent_initializer": keras.initializers.Orthogonal(seed=1),
        "bias_initializer": keras.initializers.RandomNormal(seed=2),
    }
    ours, theirs = (getattr(module, kind)(UNITS, **seeded) for module in (layers, keras.layers))
    for layer in (ours, theirs):
        layer.build(SEQUENCES.shape)
    for weight, expected in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


@pytest.mark.parametrize(
    ("initializer", "value"),
    [("zeros", 0.0), (keras.initializers.Constant(0.5), 0.5), (lambda shape, dtype: np.ones(shape), 1.0)],
)
def test_constant_initializers_give_all_weights_their_value(initializer, value):
    layer = layers.GRU(UNITS, num_layers=2, **dict.fromkeys(INITIALIZERS, initializer))
    layer.build(SEQUENCES.shape)
    weights = layer.get_weights()
    assert len(weights) == 8  # kernel, recurrent kernel, bias and initial state of each cell
    for weight in weights:
        np.testing.assert_array_equal(np.unique(weight), [value])


@pytest.mark.parametrize("cell", [layers.SimpleRNNCell, layers.GRUCell, layers.LSTMCell])
def test_cells_of_a_stack_that_share_an_initializer_differ(cell):
    shared = keras.initializers.GlorotUniform(seed=1)
    rnn = layers.RNN([cell(4, kernel_initializer=shared, recurrent_initializer=shared) for _ in range(3)])
    rnn(np.zeros((2, 3, 4)))
    weights = [w.numpy() for w in rnn.trainable_weights if "bias" not in w.path]
    assert len(weights) == 6
    for i, weight in enumerate(weights):
        assert not any(np.array_equal(weight, earlier) for earlier in weights[:i])
    again = layers.RNN.from_config(rnn.get_config())
    again(np.zeros((2, 3, 4)))
    for weight, repeated in zip(rnn.trainable_weights, again.trainable_weights, strict=True):
        np.testing.assert_array_equal(weight, repeated)
