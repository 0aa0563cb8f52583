# SPDX-License-Identifier: Apache-2.0
"""`resolve_layer`: a recurrent layer from a name, a cell or a layer, which are copied."""

import re

import keras
import numpy as np
import pytest
from conftest import assert_close

from keras_seq import layers
from keras_seq.layers.recurrent_cell import has_cell_equations
from keras_seq.layers.recurrent_layer import make_layer, resolve_layer

UNITS = 4
SEQUENCES = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")


class LeakyCell(keras.layers.Layer):
    """A cell of a user, which inherits nothing from a recurrent cell and whose `call` takes no `training`."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units

    def build(self, shape):
        self.kernel = self.add_weight((shape[-1], self.units), "glorot_uniform", name="kernel")

    def call(self, inputs, states):
        h = 0.5 * states[0] + keras.ops.matmul(inputs, self.kernel)
        return h, [h]


@keras.saving.register_keras_serializable("test_resolve_layer")
class DoubledLSTM(layers.LSTM):
    """A layer of a user that derives from one of keras_seq."""

    def call(self, sequences, initial_state=None, mask=None, training=False, memory=None, memory_mask=None):
        outputs, *states = super().call(sequences, initial_state, mask, training)
        return 2 * outputs, *states


OBJECTS = {
    "cell": lambda: layers.LSTMCell(UNITS, layer_norm=True),
    "cell with a projection": lambda: layers.LSTMCell(7, projection_units=UNITS),
    "cell of Keras": lambda: keras.layers.GRUCell(UNITS, reset_after=False),
    "own cell": lambda: LeakyCell(UNITS),
    "stack": lambda: keras.layers.StackedRNNCells([keras.layers.LSTMCell(6), layers.GRUCell(UNITS)]),
    "layer": lambda: layers.GRU(UNITS, num_layers=2, residual=True),
    "layer around cells": lambda: layers.RNN([layers.MGUCell(UNITS), layers.LSTMCell(UNITS)], residual=True),
    "layer with an own cell": lambda: layers.RNN(LeakyCell(UNITS)),
    "layer of Keras": lambda: keras.layers.LSTM(UNITS, recurrent_activation="hard_sigmoid"),
    "own layer": lambda: DoubledLSTM(UNITS, return_sequences=True, return_state=True),
}
every_object = pytest.mark.parametrize("name", OBJECTS)


def as_layer(given):
    """What a user would run: the object over sequences in a layer of Keras or keras_seq."""
    if isinstance(given, keras.layers.RNN):
        given.return_sequences = True
        return given
    return keras.layers.RNN(given, return_sequences=True)


@every_object
def test_an_object_gives_a_copy_that_computes_the_same(name):
    given = OBJECTS[name]()
    expected = as_layer(given)(SEQUENCES)
    layer = resolve_layer(given, UNITS)
    outputs, *states = layer(SEQUENCES)
    assert isinstance(layer, layers.RNN)
    assert not {id(w) for w in layer.weights} & {id(w) for w in given.weights}
    assert np.abs(outputs - (expected[0] if isinstance(expected, tuple) else expected)).max() > 1e-3  # other weights
    layer.set_weights(given.get_weights())
    outputs, *states = layer(SEQUENCES)
    assert_close(outputs, expected[0] if isinstance(expected, tuple) else expected, 1e-6)
    assert [tuple(s.shape) for s in keras.tree.flatten(states)] == [
        (2, n) for n in keras.tree.flatten(layer.cell.state_size)
    ]


@every_object
def test_copies_of_one_object_have_their_own_weights(name):
    given = OBJECTS[name]()
    copies = [resolve_layer(given, path=("part", i)) for i in range(2)]
    for layer in copies:
        layer.build((None, None, 3))
    kernels = [np.array(next(w for w in layer.weights if w.name == "kernel")) for layer in copies]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-3


@pytest.mark.parametrize("kind", ["cell", "layer"])
def test_copies_of_a_seeded_object_draw_other_numbers_and_the_same_ones_each_time(kind):
    def draw(path, num_layers=1):
        given = layers.LSTMCell(UNITS, kernel_initializer=keras.initializers.GlorotUniform(seed=1), dropout=0.5, seed=3)
        given = layers.LSTM.from_config({**given.get_config(), "name": None}) if kind == "layer" else given
        layer = resolve_layer(given, path=path, num_layers=num_layers)
        layer.build((None, None, UNITS))
        ones = np.ones((1, 1, 200), "float32")
        return [
            (np.array(cell.kernel), np.array(cell.draw_dropout_masks(ones, True).input_mask))
            for cell in layer.recurrent_cells()
        ]

    drawn = [*draw(("a",)), *draw(("b",)), *(draw(("c",), 2) if kind == "cell" else [])]
    for i in range(len(drawn)):
        for j in range(i):
            assert all(np.any(x != y) for x, y in zip(drawn[i], drawn[j], strict=True))
    for again, first in zip(draw(("a",))[0], drawn[0], strict=True):
        np.testing.assert_array_equal(again, first)


def test_a_seed_goes_to_objects_without_one():
    assert resolve_layer(layers.GRU(UNITS), seed=7).seed == 7
    first, second = resolve_layer(layers.GRUCell(UNITS), seed=7, num_layers=2).recurrent_cells()
    assert first.seed != second.seed
    assert None not in (first.seed, second.seed)
    assert resolve_layer(layers.GRU(UNITS, seed=3), seed=7).seed not in (3, 7)


def test_a_name_gives_the_layer_of_that_name():
    layer = resolve_layer("gru", UNITS, num_layers=3, residual=True, dropout=0.2, seed=1, implementation="xla")
    assert type(layer) is layers.GRU
    assert (layer.num_layers, layer.residual, layer.dropout, layer.implementation) == (3, True, 0.2, "xla")
    assert layer.seed == 1
    assert layer.return_sequences
    assert layer.return_state


def test_rnn_is_another_name_of_simple_rnn():
    assert type(make_layer("rnn", 2)) is type(make_layer("simple_rnn", 2)) is layers.SimpleRNN


@pytest.mark.parametrize("given", [layers.LSTMCell, layers.LSTM, keras.layers.LSTMCell, keras.layers.LSTM])
def test_the_dtype_reaches_the_cells(given):
    layer = resolve_layer(given(UNITS), dtype="mixed_bfloat16")
    assert layer.compute_dtype == layer.cell.compute_dtype == "bfloat16"
    assert layer(SEQUENCES)[0].dtype == "bfloat16"
    layer = resolve_layer(given(UNITS, dtype="float64"))
    assert layer.compute_dtype == layer.cell.compute_dtype == "float64"


def test_the_implementation_of_a_layer_stays_unless_another_is_asked_for():
    layer = layers.GRU(UNITS, implementation="xla")
    assert resolve_layer(layer).implementation == "xla"
    assert resolve_layer(layers.GRU(UNITS), implementation="xla").implementation == "xla"
    assert resolve_layer(keras.layers.GRU(UNITS)).implementation == "auto"
    assert has_cell_equations(resolve_layer(layer).cell)


class NoConfig(layers.LSTMCell):
    def __init__(self, units, table):
        super().__init__(units)

    def get_config(self):
        return super().get_config()


@pytest.mark.parametrize(
    ("cell", "arguments", "message"),
    [
        ("elman", {}, r"`cell` must be one of ['gru', 'lstm', 'mgu', 'simple_rnn']. Received: 'elman'"),
        ("lstm", {"units": None}, "`units` must be a positive integer where `cell` is a name. Received: None"),
        (layers.LSTMCell, {}, "`cell` must be one of"),
        (keras.layers.Dense(4), {}, "a recurrent cell (a Keras layer with a `state_size`)"),
        (None, {}, "Received: None"),
        (layers.Bidirectional(layers.LSTM(4)), {}, "`cell` must be one of"),
        (keras.layers.ConvLSTM1D(4, 3), {}, "`cell` must be one of"),
        (layers.AttentionCell(layers.LSTMCell(4), layers.BahdanauAttention(4)), {}, "`cell` must be one of"),
        (layers.LSTMCell(5), {}, "`units` must be None or 5, the size of the output of `cell`. Received: 4"),
        (layers.LSTMCell(5, projection_units=3), {}, "`units` must be None or 3"),
        (layers.LSTM(5), {}, "`units` must be None or 5"),
        (layers.LSTMCell(4), {"dropout": 0.2}, "`dropout` needs a `cell` given by name; an object has its own."),
        (layers.LSTM(4), {"zoneout": 0.2}, "`zoneout` needs a `cell` given by name"),
        (layers.LSTM(4), {"num_layers": 2}, "`num_layers` must be 1 and `residual` False where `cell` is a layer"),
        (layers.LSTM(4), {"residual": True}, "`num_layers` must be 1 and `residual` False where `cell` is a layer"),
        (layers.LSTM(4, go_backwards=True), {}, "`cell` must be a layer with `go_backwards=False`"),
        (layers.LSTM(4, stateful=True), {}, "`cell` must be a layer with `go_backwards=False` and `stateful=False`"),
        (layers.LSTMCell(4), {"num_layers": 0}, "`num_layers` must be at least 1. Received: 0"),
        ("lstm", {"num_layers": 0}, "`num_layers` must be at least 1. Received: 0"),
        (NoConfig(4, 1), {}, "`cell` must be an object that can be copied: `NoConfig.from_config` failed"),
    ],
)
def test_bad_arguments_raise(cell, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        resolve_layer(cell, **{"units": 4, **arguments})
