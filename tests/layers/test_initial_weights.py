# SPDX-License-Identifier: Apache-2.0
"""Initial weights: no two weights of a layer are made of the same random numbers, and Keras's are those of Keras."""

import itertools

import keras
import numpy as np
import pytest
from catalog import CATALOG, SEQUENCES, UNITS, call, make

from keras_seq import layers

KERNELS = [f"{name}_initializer" for name in ("kernel", "recurrent", "bias", "initial_state")]


def initializers(kind):
    """What every `*_initializer` of a layer is set to."""
    return {
        "name": "random_normal",
        "instance": keras.initializers.RandomNormal(),
        "seeded instance": keras.initializers.RandomNormal(seed=3),
        "seeded generator": keras.initializers.RandomNormal(seed=keras.random.SeedGenerator(3)),
    }[kind]


KINDS = ["name", "instance", "seeded instance", "seeded generator"]
every_kind = pytest.mark.parametrize("kind", KINDS)


def assert_uncorrelated(weights):
    """The first numbers of any two random weights correlate no more than chance has it: Fisher's z within 5 sigma."""
    drawn = [w[(w != 0) & (w != 1)] for w in weights]  # what is 0 or 1 is a constant, as the bias of a forget gate
    drawn = [w for w in drawn if len(w) >= 6 and np.std(w) > 0]
    for one, other in itertools.combinations(drawn, 2):
        count = min(len(one), len(other))
        correlation = np.corrcoef(one[:count], other[:count])[0, 1]
        assert abs(np.arctanh(np.clip(correlation, -1 + 1e-12, 1 - 1e-12))) < 5 / (count - 3) ** 0.5


def with_initializers(row):
    return [key for key in row.arguments if key.endswith("_initializer")]


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, "default") for name in CATALOG]
    + [(name, kind) for name, row in CATALOG.items() for kind in KINDS[:3] if with_initializers(row)],
)
def test_no_two_weights_of_a_layer_are_alike(name, kind):
    """As they are by default, and where every initializer is one object."""
    given = None if kind == "default" else initializers(kind)
    changed = [] if kind == "default" else with_initializers(CATALOG[name])
    layer = make(name, **{key: lambda: given for key in changed})
    call(layer, name)
    assert_uncorrelated([w.numpy() for w in layer.trainable_weights])


BUILT = {
    "stack": lambda options: layers.GRU(UNITS, num_layers=3, **options),
    "Bidirectional": lambda options: layers.Bidirectional(layers.LSTM(UNITS, num_layers=2, **options)),
    "Bidirectional of Keras": lambda options: layers.Bidirectional(
        keras.layers.RNN(keras.layers.SimpleRNNCell(UNITS, kernel_initializer=options["kernel_initializer"]))
    ),
    "forget bias": lambda options: layers.LSTM(UNITS, **options),
    "states of cells": lambda options: layers.RNN(
        [layers.LSTMCell(UNITS), layers.GRUCell(UNITS)], initial_state_initializer=options["kernel_initializer"]
    ),
}


@every_kind
@pytest.mark.parametrize("name", BUILT)
def test_no_two_cells_or_directions_are_alike(name, kind):
    layer = BUILT[name](dict.fromkeys(KERNELS, initializers(kind)))
    layer.build(SEQUENCES.shape)
    assert_uncorrelated([w.numpy() for w in layer.trainable_weights])


SEEDED = ["stack", "Bidirectional", "forget bias", "BahdanauAttention", "LuongAttention", "LSTM"]


@pytest.mark.parametrize("name", SEEDED)
def test_seeded_initializers_repeat_the_weights_also_from_a_configuration(name):
    given = dict.fromkeys(KERNELS, keras.initializers.RandomNormal(seed=3))
    if name in BUILT:
        layer, again = (BUILT[name](given) for _ in range(2))
    else:
        arguments = {
            key: lambda: given["kernel_initializer"] for key in CATALOG[name].arguments if "_initializer" in key
        }
        layer, again = (make(name, **arguments) for _ in range(2))
    built = [layer, again, type(layer).from_config(layer.get_config())]
    inputs = SEQUENCES if name not in CATALOG else CATALOG[name].inputs[0]
    for one in built:
        one(inputs)
    for weights in zip(*(one.trainable_weights for one in built), strict=True):
        np.testing.assert_array_equal(weights[0], weights[1])
        np.testing.assert_array_equal(weights[0], weights[2])


@pytest.mark.parametrize("kind", ["SimpleRNN", "GRU", "LSTM"])
def test_weights_are_those_of_keras(kind):
    """Also where initializers of different kinds have one seed."""
    seeded = {
        "kernel_initializer": keras.initializers.GlorotUniform(seed=1),
        "recurrent_initializer": keras.initializers.Orthogonal(seed=1),
        "bias_initializer": keras.initializers.RandomNormal(seed=2),
    }
    ours, theirs = (getattr(module, kind)(UNITS, **seeded) for module in (layers, keras.layers))
    for layer in (ours, theirs):
        layer.build(SEQUENCES.shape)
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "initializer", ["zeros", keras.initializers.Constant(0.5), lambda shape, dtype: np.ones(shape)]
)
def test_initializers_that_draw_nothing_stay_what_they_are(initializer):
    layer = layers.GRU(UNITS, num_layers=2, **dict.fromkeys(KERNELS, initializer))
    layer.build(SEQUENCES.shape)
    value = {"zeros": 0.0}.get(initializer if isinstance(initializer, str) else None)
    for weight in layer.get_weights():
        assert len(np.unique(weight)) == 1
        assert value is None or weight.flat[0] == value


@pytest.mark.parametrize("cell", [layers.SimpleRNNCell, layers.GRUCell, layers.LSTMCell])
def test_cells_of_a_stack_that_share_an_initializer_differ(cell):
    shared = keras.initializers.GlorotUniform(seed=1)
    rnn = layers.RNN([cell(4, kernel_initializer=shared, recurrent_initializer=shared) for _ in range(3)])
    rnn(np.zeros((2, 3, 4)))
    weights = [w.numpy() for w in rnn.trainable_weights if "bias" not in w.path]
    assert len(weights) == 6
    for i, weight in enumerate(weights):
        assert not any(np.array_equal(weight, other) for other in weights[:i])
    again = layers.RNN.from_config(rnn.get_config())
    again(np.zeros((2, 3, 4)))
    for one, other in zip(rnn.trainable_weights, again.trainable_weights, strict=True):
        np.testing.assert_array_equal(one, other)
