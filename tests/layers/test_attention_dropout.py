# SPDX-License-Identifier: Apache-2.0
"""Dropout in cells that attend: what it drops, and when masks are drawn."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from attentions import (
    ATTENTION,
    ATTENTIONS,
    BATCH,
    FEATURES,
    INPUTS,
    MEMORY,
    SOURCE,
    SOURCES,
    TIME,
    UNITS,
    make_decoder,
)
from conftest import assert_close

from keras_seq import layers


@pytest.mark.parametrize("kind", ["ours", "keras", "stack"])
def test_each_training_call_draws_masks_and_inference_draws_none(kind):
    rates = {"dropout": 0.5, "recurrent_dropout": 0.5}
    makers = {
        "ours": lambda: layers.GRUCell(8, **rates),
        "keras": lambda: keras.layers.GRUCell(8, **rates),
        "stack": lambda: keras.layers.StackedRNNCells([layers.GRUCell(8, **rates), keras.layers.LSTMCell(8, **rates)]),
    }
    layer = layers.RNN(layers.AttentionCell(makers[kind](), layers.BahdanauAttention(4)), return_sequences=True)
    layer(INPUTS, memory=SOURCES)
    run = tf.function(lambda training: layer(tf.constant(INPUTS, tf.float32), memory=SOURCES, training=training))
    assert_close(run(False), run(False), 0)
    assert not np.allclose(run(True), run(True))
    assert_close(layer(INPUTS, memory=SOURCES), run(False), 1e-5)  # the graph left no mask behind


def identity_cell(kind, **options):
    """A cell whose output is its input `[x, context]`: what is zero there has been dropped."""
    cell = layers.SimpleRNNCell(FEATURES + MEMORY, "linear", use_bias=False, kernel_initializer="identity",
                                recurrent_initializer="zeros", seed=1, **options)  # fmt: skip
    return keras.layers.StackedRNNCells([cell]) if kind == "stack" else cell


@pytest.mark.parametrize("mode", ["variational", "naive"])
@pytest.mark.parametrize("attention", ["bahdanau", "coverage"])  # with and without a native kernel
@pytest.mark.parametrize("kind", ["cell", "stack"])
def test_dropout_drops_inputs_but_not_the_context(kind, attention, mode):
    inputs, sources = np.ones((400, 2, FEATURES)), np.ones((400, SOURCE, MEMORY))  # every context is of ones
    cell = layers.AttentionCell(identity_cell(kind, dropout=0.5, dropout_mode=mode), ATTENTIONS[attention][0]())
    layer = layers.RNN(cell, return_sequences=True)
    outputs = [np.array(layer(inputs, memory=sources, training=True))]
    state = cell.get_initial_state(memory=sources)
    outputs.append(np.array(cell(inputs[:, 0], state, sources, training=True)[0])[:, None])
    for output in outputs:
        x, context = np.split(output, [FEATURES], axis=-1)
        np.testing.assert_array_equal(np.unique(x), [0, 2])
        assert abs(np.mean(x == 0) - 0.5) < 5 * 0.5 / x[:, 0].size ** 0.5
        assert_close(context, np.ones_like(context), 1e-6)
    x = outputs[0][..., :FEATURES]
    assert np.array_equal(x[:, 0], x[:, 1]) == (mode == "variational")


DROPPED = {"dropout": 0.5, "recurrent_dropout": 0.5, "recurrent_weight_dropout": 0.5, "dtype": "float64"}


@pytest.mark.parametrize("attention", ["bahdanau", "coverage", "general"])
@pytest.mark.parametrize("kind", ["plain", "normalized", "stack"])
def test_whole_sequences_and_single_steps_apply_the_same_masks(kind, attention):

    def make_cell(seed, **options):
        cell = layers.GRUCell(UNITS, layer_norm=kind == "normalized", seed=seed, **options)
        if kind != "stack":
            return cell
        return keras.layers.StackedRNNCells([cell, layers.LSTMCell(UNITS, dtype="float64")])

    decoder, stepping = (make_decoder(make_cell(1, **DROPPED), attention) for _ in range(2))
    cell = make_cell(1, **DROPPED)
    first = cell.cells[0] if kind == "stack" else cell
    masks = first.draw_dropout_masks(INPUTS, training=True)

    # A decoder without dropout, to run on inputs and a kernel that are multiplied by the masks here.
    plain = make_decoder(make_cell(1, dtype="float64"), attention)
    outputs, *_ = decoder(INPUTS, SOURCES, training=True)
    inner = stepping.cell.cells[0] if kind == "stack" else stepping.cell
    inner.get_dropout_mask(INPUTS[:, 0])
    inner.get_recurrent_dropout_mask(np.ones((BATCH, UNITS)))
    state = stepping.get_initial_state(SOURCES)
    for t in range(TIME):
        output, state, _ = stepping.step(INPUTS[:, t], state, SOURCES, training=True)
        assert_close(outputs[:, t], output, 1e-12)

    kernel = (plain.cell.cells[0] if kind == "stack" else plain.cell).recurrent_kernel
    kernel.assign(kernel * masks.recurrent_kernel_mask)
    state = plain.get_initial_state(SOURCES)
    output, _, _ = plain.step(INPUTS[:, 0] * masks.input_mask[:, 0], state, SOURCES)
    assert_close(outputs[:, 0], output, 1e-12)  # in the first step the previous h is zero, so its mask does not matter


def test_a_cell_of_keras_drops_the_context_too():
    """Its `call` drops all of its inputs, and the context is one of them."""
    cell = keras.layers.SimpleRNNCell(FEATURES + MEMORY, "linear", use_bias=False, kernel_initializer="identity",
                                      recurrent_initializer="zeros", seed=1, dropout=0.5)  # fmt: skip
    cell = layers.AttentionCell(cell, layers.BahdanauAttention(ATTENTION))
    inputs, sources = np.ones((400, 2, FEATURES)), np.ones((400, SOURCE, MEMORY))
    outputs = np.array(layers.RNN(cell, return_sequences=True)(inputs, memory=sources, training=True))
    assert abs(np.mean(outputs[..., FEATURES:] == 0) - 0.5) < 5 * 0.5 / (400 * MEMORY) ** 0.5


class FailingCell(keras.layers.GRUCell):
    """A cell of Keras that raises an error while `fails` is true."""

    fails = True

    def call(self, inputs, states, training=False):
        result = super().call(inputs, states, training)
        if self.fails:
            raise RuntimeError("the cell failed")
        return result


@pytest.mark.parametrize("kind", ["decoder", "RNN", "no input feeding", "RNN without attention"])
def test_a_failed_trace_leaves_no_masks_behind(kind):
    cell = FailingCell(UNITS, dropout=0.5, recurrent_dropout=0.5)
    attention = layers.BahdanauAttention(ATTENTION)
    if kind == "RNN":
        layer = layers.RNN(layers.AttentionCell(cell, attention))
    elif kind == "RNN without attention":
        layer = layers.RNN(cell)
    else:
        layer = layers.AttentionDecoder(UNITS, cell, attention, input_feeding=kind == "decoder")

    def run():
        memory = {} if kind == "RNN without attention" else {"memory": SOURCES}
        return layer(INPUTS, **memory, training=True)

    cell.fails = False
    run()
    cell.fails = True
    with pytest.raises(RuntimeError, match="the cell failed"):
        tf.function(run, autograph=False)()
    cell.fails = False
    assert np.isfinite(run()).all()
