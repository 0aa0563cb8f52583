# SPDX-License-Identifier: Apache-2.0
"""Sequences without steps, and batches without sequences.

A sequence without steps acts like one whose steps are all masked: as in Keras, its output is zero, and its final state
is the initial one.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import assert_close, every_implementation, run_with_gradients

from keras_seq import layers

BATCH, FEATURES, UNITS, SOURCE = 2, 3, 4, 5
STATE = np.random.default_rng(0).normal(size=(BATCH, UNITS)).astype("float32")
MEMORY = np.random.default_rng(1).normal(size=(BATCH, SOURCE, UNITS)).astype("float32")
MODES = ["eager", "graph", "jit", "dynamic graph", "dynamic jit"]
some_modes = pytest.mark.parametrize(
    "mode", ["eager", "dynamic graph", pytest.param("dynamic jit", marks=pytest.mark.slow)]
)


def run(call, sequences, *others, variables=(), mode="eager"):
    """Outputs and gradients. In a dynamic mode the shapes are unknown when the graph is traced."""
    if "dynamic" not in mode:
        return run_with_gradients(call, [sequences, *others], variables, mode)

    def differentiate(sequences, *others):
        return run_with_gradients(call, [sequences, *others], variables)

    signature = [tf.TensorSpec((None, None, FEATURES)), *(tf.TensorSpec((None, *x.shape[1:])) for x in others)]
    function = tf.function(differentiate, signature, autograph=False, jit_compile="jit" in mode)
    return function(*(tf.convert_to_tensor(x) for x in (sequences, *others)))


def zeros(*shape):
    return np.zeros(shape, "float32")


@every_implementation
@pytest.mark.parametrize(("kind", "mode"), [*(("LSTM", mode) for mode in MODES), ("Bidirectional", "dynamic graph")])
def test_a_recurrent_layer_returns_zeros_and_its_initial_state(kind, implementation, mode):
    layer = layers.LSTM(UNITS, return_state=True, implementation=implementation)
    theirs = keras.layers.LSTM(UNITS, return_state=True)
    states = [STATE, 2 * STATE]
    if kind == "Bidirectional":
        layer, theirs, states = layers.Bidirectional(layer), keras.layers.Bidirectional(theirs), 2 * states
    layer(zeros(BATCH, 1, FEATURES))

    def call(sequences, *states):
        return layer(sequences, initial_state=list(states))

    outputs, gradients = run(call, zeros(BATCH, 0, FEATURES), *states, variables=layer.trainable_variables, mode=mode)
    masked = theirs(zeros(BATCH, 1, FEATURES), initial_state=states, mask=np.zeros((BATCH, 1), bool))
    assert_close(outputs, masked, 0)
    d_sequences, *d_states = gradients[: 1 + len(states)]
    assert d_sequences.shape == (BATCH, 0, FEATURES)
    assert all(np.any(gradient) for gradient in d_states)  # the final state is the initial one
    assert not any(np.any(gradient) for gradient in gradients[1 + len(states) :])


LAYERS_WITH_ATTENTION = {
    "decoder": lambda: layers.AttentionDecoder(UNITS, return_state=True),
    "decoder, xla": lambda: layers.AttentionDecoder(UNITS, return_state=True, implementation="xla"),
    "no input feeding": lambda: layers.AttentionDecoder(
        UNITS, "gru", layers.BahdanauAttention(3, coverage=True), False
    ),
    "cell of Keras": lambda: layers.AttentionDecoder(UNITS, keras.layers.GRUCell(UNITS)),
    "RNN": lambda: layers.RNN(
        layers.AttentionCell(layers.GRUCell(UNITS), layers.MonotonicAttention(3, noise_std=0)), return_state=True
    ),
}


@some_modes
@pytest.mark.parametrize("kind", LAYERS_WITH_ATTENTION)
def test_a_layer_with_attention_acts_as_if_its_steps_were_masked(kind, mode):
    layer = LAYERS_WITH_ATTENTION[kind]()
    expected = layer(zeros(BATCH, 1, FEATURES), memory=MEMORY, mask=np.zeros((BATCH, 1), bool))
    expected = [np.array(x)[:, :0] if np.ndim(x) == 3 else x for x in keras.tree.flatten(expected)]  # one for each step

    def call(sequences, memory):
        return layer(sequences, memory=memory)

    variables = layer.trainable_variables
    outputs, gradients = run(call, zeros(BATCH, 0, FEATURES), MEMORY, variables=variables, mode=mode)
    assert_close(outputs, expected, 0)
    assert not any(np.any(gradient) for gradient in gradients)


@every_implementation
def test_return_sequences_returns_no_steps(implementation):
    for layer in (
        layers.GRU(UNITS, return_sequences=True, num_layers=2, implementation=implementation),
        layers.GRU(UNITS, return_sequences=True, unroll=True, go_backwards=True, implementation=implementation),
        layers.RNN(keras.layers.GRUCell(UNITS), return_sequences=True),
    ):
        assert layer(zeros(BATCH, 0, FEATURES)).shape == (BATCH, 0, UNITS)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_foreign_cell_keeps_its_state(mode):
    layer = layers.RNN(keras.layers.LSTMCell(UNITS), return_state=True)

    def call(sequences):
        return layer(sequences, initial_state=[STATE, 2 * STATE])

    outputs, _ = run(call, zeros(BATCH, 0, FEATURES), mode=mode)
    assert_close(outputs, [zeros(BATCH, UNITS), STATE, 2 * STATE], 0)


@some_modes
@every_implementation
@pytest.mark.parametrize("time", [0, 3])
def test_an_empty_batch_has_empty_outputs_and_zero_gradients(time, implementation, mode):
    layer = layers.Bidirectional(layers.GRU(UNITS, implementation=implementation))
    layer(zeros(BATCH, 1, FEATURES))
    variables = layer.trainable_variables
    outputs, gradients = run(layer, zeros(0, time, FEATURES), variables=variables, mode=mode)
    assert outputs[0].shape == (0, 2 * UNITS)
    assert not any(np.any(gradient) for gradient in gradients)


@pytest.mark.parametrize("kind", [layers.GRU, layers.LSTM])
def test_layer_norm_of_an_empty_batch_without_steps_has_zero_gradients(kind):
    """TensorFlow must not divide by the sizes of its axes."""
    layer = kind(4, layer_norm=True)
    layer.build((None, None, 3))

    @tf.function
    def gradients(sequences):
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(layer(sequences))
        return tape.gradient(total, layer.trainable_variables)

    assert not any(np.any(gradient) for gradient in gradients(tf.zeros((0, 0, 3))))
