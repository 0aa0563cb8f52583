# SPDX-License-Identifier: Apache-2.0
"""Cells agree with those of Keras, by themselves and inside Keras's layers."""

import keras
import numpy as np
import pytest
from conftest import assert_close, run_with_gradients

from keras_seq import layers

TOLERANCE = 3e-6
FEATURES, UNITS, BATCH, TIME = 3, 4, 2, 5
CELLS = [
    ("SimpleRNNCell", {}),
    ("SimpleRNNCell", {"use_bias": False, "activation": "relu"}),
    ("GRUCell", {}),
    ("GRUCell", {"reset_after": False}),
    ("GRUCell", {"use_bias": False, "recurrent_activation": "hard_sigmoid"}),
    ("LSTMCell", {}),
    ("LSTMCell", {"use_bias": False, "activation": "softsign"}),
]


def make_pair(kind, options, units=UNITS):
    return getattr(layers, kind)(units, **options), getattr(keras.layers, kind)(units, **options)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def copy_weights(source, target):
    rng = np.random.default_rng(1)
    source.set_weights([rng.normal(0, 0.5, weight.shape) for weight in source.weights])
    target.set_weights(source.get_weights())


@pytest.mark.parametrize(("kind", "options"), CELLS, ids=str)
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_one_step_agrees_with_keras(kind, options, mode):
    ours, theirs = make_pair(kind, options)
    for cell in (ours, theirs):
        cell.build((None, FEATURES))
    copy_weights(ours, theirs)
    states = [draw(BATCH, UNITS, seed=i) for i in range(2 if kind == "LSTMCell" else 1)]

    def run(cell):
        def step(inputs, *states):
            return cell(inputs, list(states))

        return run_with_gradients(step, [draw(BATCH, FEATURES), *states], cell.trainable_variables, mode)

    assert_close(run(ours), run(theirs), TOLERANCE)


@pytest.mark.parametrize("kind", ["SimpleRNNCell", "GRUCell"])
def test_the_new_state_has_the_form_of_the_given_one(kind):
    cell = getattr(layers, kind)(UNITS)
    inputs, state = draw(BATCH, FEATURES), draw(BATCH, UNITS)
    (output, new_state), with_list = cell(inputs, state), cell(inputs, [state])
    assert not isinstance(new_state, list)
    assert isinstance(with_list[1], list)
    assert_close([output, new_state], with_list, 0)
    assert_close(output, new_state, 0)


@pytest.mark.parametrize(("kind", "options"), CELLS, ids=str)
def test_a_cell_in_a_layer_of_keras_agrees_with_keras(kind, options):
    ours, theirs = (keras.layers.RNN(cell, return_sequences=True) for cell in make_pair(kind, options))
    sequences, mask = draw(BATCH, TIME, FEATURES), np.arange(TIME) < np.array([[TIME], [2]])
    for layer in (ours, theirs):
        layer.build(sequences.shape)
    copy_weights(theirs, ours)

    def run(layer):
        return run_with_gradients(lambda x: layer(x, mask=mask), [sequences], layer.trainable_variables)

    assert_close(run(ours), run(theirs), TOLERANCE)


def test_cells_in_a_stack_of_keras_agree_with_keras():
    pairs = [make_pair(kind, {}, units) for kind, units in [("LSTMCell", 4), ("GRUCell", 3), ("SimpleRNNCell", 5)]]
    ours, theirs = (keras.layers.RNN(keras.layers.StackedRNNCells(cells)) for cells in zip(*pairs, strict=True))
    sequences = draw(BATCH, TIME, FEATURES)
    for layer in (ours, theirs):
        layer.build(sequences.shape)
    copy_weights(ours, theirs)

    def run(layer):
        return run_with_gradients(layer, [sequences], layer.trainable_variables)

    assert_close(run(ours), run(theirs), TOLERANCE)


@pytest.mark.parametrize(("kind", "layer"), [("SimpleRNNCell", "SimpleRNN"), ("GRUCell", "GRU"), ("LSTMCell", "LSTM")])
def test_a_cell_called_step_by_step_agrees_with_its_layer(kind, layer):
    sequences = draw(BATCH, TIME, FEATURES)
    layer = getattr(layers, layer)(UNITS, return_sequences=True)
    outputs = layer(sequences)
    cell, state = layer.cell, layer.cell.get_initial_state(BATCH)
    step_outputs = []
    for t in range(TIME):
        output, state = cell(sequences[:, t], state)
        step_outputs.append(output)
    assert_close(keras.ops.stack(step_outputs, axis=1), outputs, TOLERANCE)
    assert type(cell) is getattr(layers, kind)


@pytest.mark.parametrize(("kind", "options"), CELLS, ids=str)
def test_sizes_and_initial_state_are_those_of_keras(kind, options):
    ours, theirs = make_pair(kind, options)
    assert ours.state_size == theirs.state_size
    assert ours.output_size == theirs.output_size
    states = ours.get_initial_state(BATCH)
    assert [tuple(s.shape) for s in states] == [tuple(s.shape) for s in theirs.get_initial_state(BATCH)]
    assert not any(np.any(state) for state in states)


@pytest.mark.parametrize("kind", ["SimpleRNNCell", "GRUCell", "LSTMCell"])
def test_dropout_draws_one_mask_for_each_sequence_in_a_layer_of_keras(kind):
    cell = getattr(layers, kind)(1, activation="linear", dropout=0.5, kernel_initializer="ones", seed=1)
    layer = keras.layers.RNN(cell, return_sequences=True)
    sequences = np.ones((40, TIME, 1), "float32")
    outputs = np.array(layer(sequences, training=True))
    if_kept = np.array(layer(2 * sequences))  # a kept feature is scaled by 1 / (1 - rate)
    if_dropped = np.array(layer(0 * sequences))
    kept = np.all(np.isclose(outputs, if_kept, rtol=1e-5), axis=(1, 2))
    assert 0 < kept.sum() < 40
    np.testing.assert_allclose(outputs[~kept], if_dropped[~kept])
    assert not np.array_equal(outputs, np.array(layer(sequences, training=True)))
